"""The loss of the perceptron of scores: it tells events moved up by a shape nuisance from the same events moved down.

With natural weights, of which selected events keep all, the logit that minimises the binary cross entropy between two
copies of the events is the logarithm of the ratio of their intensities; divided by their distance it is the score
(``sage.binned.score.copies``). Both copies of an event have the same noise, and what no nuisance moves cancels. One
perceptron learns all three logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sage.binned.score import copies
from sage.challenge.nuisances import CHALLENGE
from sage.network.dense import ScoreNetwork
from sage.network.perceptron import NAME
from training.config import Config
from training.events import Events
from training.inputs import Points, inputs_at_points
from training.parallel import Processes
from training.preparation import Preparation

SHAPES = [nuisance for nuisance in CHALLENGE if nuisance.kind == "shape"]
SIDES = 2


def settings_of(config: Config) -> Config:
    """Return settings whose section ``training`` is that of the perceptron of scores."""
    scores = config.scores
    training = replace(
        config.training,
        networks=scores.networks,
        width=scores.width,
        depth=scores.depth,
        dropout=0.0,
        epochs=scores.epochs,
        patience=scores.patience,
        batch_size=scores.batch_size,
        learning_rate=scores.learning_rate,
        max_rows=scores.max_rows,
    )
    return replace(config, training=training)


class ScoreLoss:
    """The loss of a perceptron of scores on some events.

    Args:
        config: The settings.
        preparation: Feature constants and class weights.
        processes: This process among those that share each batch.
    """

    copies = SIDES * len(SHAPES)

    def __init__(self, config: Config, preparation: Preparation, processes: Processes) -> None:
        self._settings = config.training
        self._processes = processes
        self._mean = torch.from_numpy(preparation.normalisation.mean).to(processes.device)
        self._std = torch.from_numpy(preparation.normalisation.std).to(processes.device)
        self._inputs = preparation.normalisation.inputs
        # An average weight of 1.
        self._scale = preparation.n_selected / float(preparation.totals.sum())
        points = np.repeat([[nuisance.nominal] for nuisance in SHAPES], self.copies, axis=1)
        for k, nuisance in enumerate(SHAPES):
            points[k, SIDES * k : SIDES * (k + 1)] = copies(nuisance, config.scores.distance)[:SIDES]
        self._points = torch.tensor(points, dtype=torch.float32, device=processes.device).unsqueeze(2)

    def network(self) -> nn.Module:
        """Return a new perceptron."""
        return ScoreNetwork(self._inputs, self._settings.widths() or ())

    def passes(
        self, network: nn.Module, events: Events, rng: np.random.Generator, n_points: int
    ) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Compute this process's part of the loss, some nuisances at a time; see ``TrainingLoss.passes``.

        ``n_points`` does not matter: each event is seen at its copies.
        """
        del n_points
        device, share = self._processes.device, self._processes.share()
        columns = {name: torch.from_numpy(column[share]).to(device) for name, column in events.columns.items()}
        weights = torch.from_numpy((events.weights * self._scale).astype(np.float32)[share]).to(device)
        noise = torch.from_numpy(rng.standard_normal((2, len(events)), dtype=np.float32)[:, share]).to(device)
        tes, jes, soft_met = self._points
        at_once = max(1, self._settings.rows_per_pass // max(1, SIDES * len(weights)))
        for start in range(0, len(SHAPES), at_once):
            here = slice(SIDES * start, SIDES * min(start + at_once, len(SHAPES)))
            noise_x, noise_y = noise.unsqueeze(1).expand(-1, here.stop - here.start, -1)
            points = Points((tes[here], jes[here], soft_met[here]), (noise_x, noise_y))
            values, jets, keep = inputs_at_points(columns, points, self._mean, self._std, self._inputs)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._settings.bf16):
                outputs = network(values.flatten(0, 1), jets.flatten(0, 1))
            logits = outputs.float().unflatten(0, keep.shape)
            # Each pair of copies has its own logit; the lower copy is to make it small.
            own = torch.stack([logits[i, :, start + i // SIDES] for i in range(len(keep))])
            signs = torch.tensor([1.0, -1.0], device=device).repeat(len(keep) // SIDES)
            weight = weights * keep
            yield (softplus(own * signs[:, None]) * weight).sum(), weight.sum(), start + at_once < len(SHAPES)


def as_scores(parameters: dict[str, np.ndarray], distance: float) -> dict[str, np.ndarray]:
    """Return the parameters with a last layer that gives scores in units of the prior's width instead of logits.

    Args:
        parameters: What was trained with ``ScoreLoss``.
        distance: Distance of the copies.
    """
    factors = np.array([copies(nuisance, distance)[2] for nuisance in SHAPES])
    last = len(parameters) // 2 - 1
    out = dict(parameters)
    for name in (f"{NAME}.{last}.weight", f"{NAME}.{last}.bias"):
        out[name] = (parameters[name].T * factors).T.astype(np.float32)
    return out
