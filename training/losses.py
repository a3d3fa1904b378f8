"""The loss of the network of classes: cross entropy at random nuisance points. That of scores: ``training.scores``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sage.network.dense import DualBranchNetwork
from training.config import Config
from training.events import Events
from training.inputs import draw_points, inputs_at_points
from training.parallel import Processes
from training.preparation import Preparation


class Loss(Protocol):
    """What a network is trained to make small."""

    copies: int
    """Copies of an event that a step sees, each with the event's weight."""

    def network(self) -> nn.Module:
        """Return a new network."""

    def passes(
        self, network: nn.Module, events: Events, rng: np.random.Generator, n_points: int
    ) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Compute this process's part of the loss, some of it at a time; see ``TrainingLoss.passes``."""


class TrainingLoss:
    """The loss of a network on some events at some nuisance points.

    Args:
        config: The settings.
        preparation: Feature constants and class weights.
        processes: This process among those that share each batch.
    """

    def __init__(self, config: Config, preparation: Preparation, processes: Processes) -> None:
        self._settings = config.training
        self.copies = config.training.points_per_batch
        self._processes = processes
        self._mean = torch.from_numpy(preparation.normalisation.mean).to(processes.device)
        self._std = torch.from_numpy(preparation.normalisation.std).to(processes.device)
        self._inputs = preparation.normalisation.inputs
        self._class_scale = preparation.class_scale

    def network(self) -> nn.Module:
        """Return a new network."""
        return DualBranchNetwork(self._inputs, self._settings.widths(), self._settings.dropout, self._settings.size())

    def passes(
        self, network: nn.Module, events: Events, rng: np.random.Generator, n_points: int
    ) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Compute this process's part of the loss, some points at a time.

        Yields:
            The weighted sum of cross entropies over events and points, the sum of those weights, and whether more
            points follow.
        """
        device, share = self._processes.device, self._processes.share()
        points = draw_points(rng, n_points, len(events), device, self._settings.points)
        columns = {name: torch.from_numpy(column[share]).to(device) for name, column in events.columns.items()}
        balanced = (events.weights * self._class_scale[events.classes]).astype(np.float32)
        weights = torch.from_numpy(balanced[share]).to(device)
        classes = torch.from_numpy(events.classes[share]).to(device)
        at_once = max(1, self._settings.rows_per_pass // max(1, len(weights)))
        for start in range(0, n_points, at_once):
            here = points.take(slice(start, start + at_once), share)
            values, jets, keep = inputs_at_points(columns, here, self._mean, self._std, self._inputs)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._settings.bf16):
                logits = network(values.flatten(0, 1), jets.flatten(0, 1))
            losses = cross_entropy(logits.float(), classes.expand_as(keep).flatten(), reduction="none")
            weight = (weights * keep).flatten()
            yield (losses * weight).sum(), weight.sum(), start + at_once < n_points
