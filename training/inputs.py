"""The network inputs on torch tensors, at many nuisance points at once.

The shifts and features of ``sage`` work on tensors and broadcast over points; what remains is to put them into the
network's array. ``sage.network.graph.raw_inputs`` and ``normalise`` are the numpy twin and the definition. What the
kernel can compute it computes where the tensors are on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sage.binned.tables import SCALE_RANGE, SOFT_MET_RANGE
from sage.challenge.ditau import ditau
from sage.challenge.features import Derived, angular_distances, derived
from sage.challenge.nuisances import CHALLENGE, SHAPE_NAMES
from sage.challenge.position import standard_position
from sage.challenge.shifts import PRIMARIES, Columns, shift, thresholds
from sage.network.graph import JETS, PUBLISHED, WITH_DITAU, InputSet, Normalisation, input_column, required_jets
from sage.network.inputs import network_inputs


@dataclass(frozen=True)
class Points:
    """Some nuisance points with their noise, ready to broadcast over n events.

    Args:
        scales: tes, jes and soft_met (GeV), each of shape (k, 1).
        noise: Unit normal noise of the two MET components, each of shape (k, n).
    """

    scales: tuple[Tensor, Tensor, Tensor]
    noise: tuple[Tensor, Tensor]

    def take(self, points: slice, events: slice) -> Points:
        """Return some of the points for some of the events."""
        tes, jes, soft_met = (scale[points] for scale in self.scales)
        noise_x, noise_y = (noise[points, events] for noise in self.noise)
        return Points((tes, jes, soft_met), (noise_x, noise_y))


def draw_points(
    rng: np.random.Generator, n_points: int, n_events: int, device: torch.device, distribution: str = "prior"
) -> Points:
    """Draw nuisance points, and independent noise for each event at each point.

    Args:
        rng: Source of random numbers; on the host, so that all devices see the same points.
        n_points: Number of points k.
        n_events: Number of events n.
        device: Where the tensors go.
        distribution: One of ``training.config.DISTRIBUTIONS``. The prior is that of the
            pseudo-experiments: tes and jes normal around 1 with width 0.01, soft_met log-normal (0, 1), cut at 5 GeV
            (arXiv:2410.02867, section 3).
    """
    values = np.array([_DRAWS[distribution](rng, n_points, i) for i in range(len(SHAPE_NAMES))])
    noise = rng.standard_normal((2, n_points, n_events), dtype=np.float32)
    tes, jes, soft_met = torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(2)
    noise_x, noise_y = torch.from_numpy(noise).to(device)
    return Points((tes, jes, soft_met), (noise_x, noise_y))


def _prior(rng: np.random.Generator, n_points: int, i: int) -> list[float]:
    shapes = [nuisance for nuisance in CHALLENGE if nuisance.name in SHAPE_NAMES]
    return [shapes[i].alpha(nu)[0] for nu in rng.standard_normal(n_points).tolist()]


def _uniform(rng: np.random.Generator, n_points: int, i: int) -> np.ndarray:
    return rng.uniform(*(SCALE_RANGE, SCALE_RANGE, SOFT_MET_RANGE)[i], n_points)


def _nominal(rng: np.random.Generator, n_points: int, i: int) -> np.ndarray:
    return np.full(n_points, (1.0, 1.0, 0.0)[i])


_DRAWS = {"prior": _prior, "uniform": _uniform, "nominal": _nominal}


def inputs_at_points(
    columns: Columns, points: Points, mean: Tensor, std: Tensor, inputs: InputSet = PUBLISHED
) -> tuple[Tensor, Tensor, Tensor]:
    """Move events to nuisance points and compute the normalised inputs.

    Args:
        columns: The 16 primary columns, tensors of shape (n,), float32.
        points: k nuisance points.
        mean: Feature means, shape (number of inputs,).
        std: Feature deviations, likewise.
        inputs: What the inputs are.

    Returns:
        Inputs (k, n, number of inputs), which jets exist (k, n, 2) and which events are selected (k, n).
    """
    events, keep = thresholds(shift(columns, *points.scales, noise=points.noise))
    if inputs == WITH_DITAU and keep.device.type == "cpu":
        constants = Normalisation(mean.numpy(), std.numpy(), inputs)
        return *_on_host(events, keep, constants), keep
    everything = {**events, **derived(events), **angular_distances(events)}
    if inputs == WITH_DITAU:
        everything |= standard_position(events) | ditau(events)
    values = torch.stack([input_column(everything, name).expand_as(keep) for name in inputs.columns], dim=-1)
    jets = torch.stack([(events[f"PRI_{jet}_pt"] > 0).expand_as(keep) for jet in JETS], dim=-1)
    needs = torch.from_numpy(required_jets(inputs)).to(values.device)
    missing = (needs & ~jets.unsqueeze(-2)).any(dim=-1)
    normalised = (values - mean) / std
    # Selecting, not multiplying: an undefined value may be NaN.
    normalised = torch.where(missing | ~torch.isfinite(values), torch.zeros_like(normalised), normalised)
    return normalised, jets.to(values.dtype), keep


def _on_host(events: Columns, like: Tensor, constants: Normalisation) -> tuple[Tensor, Tensor]:
    """Return inputs and jets of tensors that broadcast to the shape of ``like``, (k, n)."""
    flat = {name: events[name].expand_as(like).flatten().numpy() for name in PRIMARIES}
    values, jets = (torch.from_numpy(part) for part in network_inputs(flat, Derived(flat), constants))
    return values.view(*like.shape, values.shape[1]), jets.view(*like.shape, jets.shape[1]).to(values.dtype)
