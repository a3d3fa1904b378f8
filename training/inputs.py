"""The 35 network inputs on torch tensors, at many nuisance points at once.

The shifts and features of ``sage`` work on tensors and broadcast over points; what remains is to put them into the
network's array. ``sage.graph.raw_inputs`` and ``normalise`` are the numpy twin and the definition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sage.features import angular_distances, derived
from sage.graph import INPUTS, JETS, required_jets
from sage.nuisances import CHALLENGE, SHAPE_NAMES
from sage.shifts import Columns, shift, thresholds


@dataclass(frozen=True)
class Points:
    """Some nuisance points with their noise, ready to broadcast over n events.

    Arguments:
        scales: tes, jes and soft_met (GeV), each of shape (k, 1).
        noise: Unit normal noise of the two MET components, each of shape (k, n).
    """

    scales: tuple[Tensor, Tensor, Tensor]
    noise: tuple[Tensor, Tensor]


def draw_points(rng: np.random.Generator, n_points: int, n_events: int, device: torch.device) -> Points:
    """Draw nuisance points from the distributions of the pseudo-experiments, and independent noise for each event."""
    shapes = [nuisance for nuisance in CHALLENGE if nuisance.name in SHAPE_NAMES]
    values = [[nuisance.alpha(nu)[0] for nu in rng.standard_normal(n_points)] for nuisance in shapes]
    noise = rng.standard_normal((2, n_points, n_events), dtype=np.float32)
    tes, jes, soft_met = (torch.tensor(value, dtype=torch.float32, device=device).unsqueeze(1) for value in values)
    noise_x, noise_y = torch.from_numpy(noise).to(device)
    return Points((tes, jes, soft_met), (noise_x, noise_y))


def inputs_at_points(columns: Columns, points: Points, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move events to nuisance points and compute the normalised inputs.

    Args:
        columns: The 16 primary columns, tensors of shape (n,), float32.
        points: k nuisance points.
        mean: Feature means, shape (35,).
        std: Feature deviations, shape (35,).

    Returns:
        Inputs (k, n, 35), which jets exist (k, n, 2) and which events are selected (k, n).
    """
    events, keep = thresholds(shift(columns, *points.scales, noise=points.noise))
    everything = {**events, **derived(events), **angular_distances(events)}
    values = torch.stack([everything[name].expand_as(keep) for name in INPUTS], dim=-1)
    jets = torch.stack([(events[f"PRI_{jet}_pt"] > 0).expand_as(keep) for jet in JETS], dim=-1)
    needs = torch.from_numpy(required_jets()).to(values.device)
    missing = (needs & ~jets.unsqueeze(-2)).any(dim=-1)
    normalised = (values - mean) / std
    # Selecting, not multiplying: an undefined value may be NaN.
    normalised = torch.where(missing | ~torch.isfinite(values), torch.zeros_like(normalised), normalised)
    return normalised, jets.to(values.dtype), keep
