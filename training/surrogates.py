r"""Trains the response networks: how the density of a process in a region changes with the shape nuisances.

Every event is seen twice: as it is, and moved to a nuisance point of its own, drawn afresh in every epoch. With terms v
of that point and natural weights w the loss

    sum over nominal events of w softplus(A(x) . v)  +  sum over moved events of w softplus(-A(x) . v)

is smallest where exp(A . v) is the ratio of the moved to the nominal intensity (arXiv:2505.05544, likelihood). Both
copies of an event count where they are: which region an event is in is decided after it was moved. Rates are thereby
learnt as well, and taken out again by the exact normalisation (``sage.unbinned.likelihood``).

With ``variant: published`` points, terms, schedule and weights are those of the published training
(``training.variations``), where networks learn shapes alone, in the terms and for the processes of the published
submission. One file for each process holds its networks, so that an
interrupted training goes on with the next process.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from tqdm import tqdm

from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import Columns
from sage.errors import InputError, SettingsError
from sage.network.dense import Perceptron
from sage.network.graph import Normalisation
from sage.unbinned.ratios import PUBLISHED_MARK, QUADRATIC_MARK, UNBINNED, network_name, rate_name
from sage.unbinned.response import BASES, PUBLISHED, QUADRATIC
from training.config import check_layers
from training.events import DATA_FILE, Events, EventsFile
from training.networks import read_network
from training.sampling import BOOTSTRAP, HeldOut, poisson
from training.variations import (
    PUBLISHED_COPIES,
    Copies,
    Variation,
    exact,
    published,
    rate_responses,
    with_published_copies,
)
from workshop.claims import claimed
from workshop.files import read_arrays, sha256, write_arrays, write_json

SURROGATES_FILE = "response_networks.npz"
REPORT_FILE = "surrogates.json"
LEAST_PT_H = 70.0
"""In GeV: six deviations of the largest noise below the cut of the regions."""
_IN_PT_H = (("PRI_lep_pt", "PRI_lep_phi"), ("PRI_had_pt", "PRI_had_phi"), ("PRI_met", "PRI_met_phi"))
VARIANTS = ("sage", PUBLISHED.name)
PUBLISHED_SETTINGS: Mapping[str, Any] = {
    **{"variant": PUBLISHED.name, "basis": PUBLISHED.name, "width": 128, "epochs": 200, "learning_rate": 1e-3},
    "weight_decay": 0.0,
}
"""Of ``SurrogateConfig``: what the published networks were trained with."""
PUBLISHED_STEPS = 10
"""Steps of the published training in an epoch."""
PUBLISHED_DECAY = 0.25
"""Share of its epochs, the last ones, in which the learning rate falls to 0, in a straight line."""
Networks = dict[str, dict[str, np.ndarray]]
"""Parameters by region and name."""
VALIDATION_DRAWS = 4
"""Points of each held-out event."""

log = logging.getLogger("sage.training.surrogates")


@dataclass(frozen=True)
class SurrogateConfig:
    """How the response networks are trained.

    Args:
        seed: Seed of every random draw.
        basis: Name of the terms, see ``sage.unbinned.response.BASES``.
        width: Width of the hidden layers, a multiple of 8.
        depth: Number of hidden layers.
        epochs: Passes over the events.
        batch_size: Events per step, each seen twice.
        learning_rate: Highest learning rate; it falls along a cosine to 0.
        weight_decay: AdamW's.
        validation_fraction: Share of the showered events held out to choose the best epoch.
        replica: 0, or the number of a bootstrap of the showered events.
        variant: ``sage``; or ``published`` for points and schedule of the published training.
    """

    seed: int = 1
    basis: str = "exact"
    width: int = 64
    depth: int = 2
    epochs: int = 30
    batch_size: int = 2048
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    validation_fraction: float = 0.1
    replica: int = 0
    variant: str = "sage"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SettingsError: If one is out of its range.
        """
        if self.basis not in BASES:
            msg = f"basis is {self.basis!r}; choose one of {', '.join(BASES)}"
            raise SettingsError(msg)
        if self.variant not in VARIANTS or self.published != (self.basis == PUBLISHED.name):
            msg = f"variant is {self.variant!r} with basis {self.basis!r}; choose one of {', '.join(VARIANTS)}, "
            msg += f"the second with basis {PUBLISHED.name!r} and the first with another"
            raise SettingsError(msg)
        check_layers("surrogates", self.width, self.depth)
        if self.width == 0 or min(self.epochs, self.batch_size) < 1 or not 0.0 < self.validation_fraction < 1.0:
            msg = f"{self}: width, epochs and batch_size are positive, validation_fraction lies between 0 and 1"
            raise SettingsError(msg)

    @property
    def published(self) -> bool:
        """Whether the training is the published one."""
        return self.variant == PUBLISHED.name


def named(name: str, networks: Networks) -> dict[str, np.ndarray]:
    """Return parameters of networks by the names that they have among the arrays of a file."""
    return {network_name(region, name, key): value for region, own in networks.items() for key, value in own.items()}


def candidates(columns: Columns) -> np.ndarray:
    """Tell which events may come into an unbinned region at some point, generously; shape (n,), boolean."""
    jets = (columns["PRI_jet_leading_pt"] > 47.0) & (columns["PRI_jet_subleading_pt"] > 28.0)
    # No energy scale moves the sum of lepton, tau and MET by more than a few GeV.
    x, y = (sum(columns[name] * turn(columns[angle]) for name, angle in _IN_PT_H) for turn in (np.cos, np.sin))
    return np.asarray(jets | (np.hypot(x, y) > LEAST_PT_H))


class ResponseTraining:
    """Trains the networks of one process.

    Args:
        events: Events of the process that may come into an unbinned region.
        constants: Feature constants.
        config: The settings.
        process: Number of the process, for the random draws.
        variation: Moves the events.
    """

    def __init__(
        self, events: Events, constants: Normalisation, config: SurrogateConfig, process: int, variation: Variation
    ) -> None:
        self._config, self._constants, self._variation = config, constants, variation
        held_out = HeldOut(config.seed, config.validation_fraction)(events)
        self._rng = np.random.default_rng([config.seed, process, config.replica])
        # Terms of the typical size of 1, so that all outputs are learnt at the same pace.
        drawn = variation.terms(variation.draw(self._rng, 10_000))
        self._learnt = np.broadcast_to(variation.learnt, (len(UNBINNED), drawn.shape[1]))
        self._scale = np.ones(drawn.shape[1]) if config.published else np.sqrt((drawn**2).mean(axis=0))
        weights = events.weights / events.weights.mean()
        if config.replica:
            weights = weights * poisson(events.keys, config.seed, BOOTSTRAP, config.replica)
        self._weights = weights[~held_out].astype(np.float32)
        self._events = events.take(np.flatnonzero(~held_out))
        self._nominal = variation.move(self._events, None, self._rng, constants)
        self._held_out = self._validation(events.take(np.flatnonzero(held_out)))

    def networks(self, progress: Any = None) -> tuple[Networks, dict[str, list[float]]]:
        """Train; return parameters and held-out losses by region."""
        config = self._config
        sizes = (len(self._constants.mean), *(config.width,) * config.depth, len(self._scale))
        models = [Perceptron(sizes) for _ in UNBINNED]
        optimisers = []
        for model in models:
            for value in list(model.parameters())[-2:]:  # no response to begin with
                nn.init.zeros_(value)
            optimisers.append(torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay))
        best = [_arrays(model) for model in models]
        losses: list[list[float]] = [
            [self._loss(model, *held)] for model, held in zip(models, self._held_out, strict=True)
        ]
        for epoch in range(config.epochs):
            rate = config.learning_rate * self._slowed(epoch / config.epochs)
            terms, copies = self._draw()
            for r, (model, optimiser) in enumerate(zip(models, optimisers, strict=True)):
                optimiser.param_groups[0]["lr"] = rate
                for batch in self._batches(r, terms, copies):
                    optimiser.zero_grad(set_to_none=True)
                    loss = pair_loss(model, *batch) / config.batch_size
                    torch.autograd.backward(loss)
                    optimiser.step()
                found = self._loss(model, *self._held_out[r])
                if found < min(losses[r]):
                    best[r] = _arrays(model)
                losses[r].append(found)
            if progress is not None:
                progress.update()
        named = dict(zip(UNBINNED, (self._unscaled(arrays) for arrays in best), strict=True))
        return named, dict(zip(UNBINNED, losses, strict=True))

    def _draw(self) -> tuple[np.ndarray, Copies]:
        points = self._variation.draw(self._rng, len(self._events))
        terms = (self._variation.terms(points) / self._scale).astype(np.float32)
        return terms, self._variation.move(self._events, points, self._rng, self._constants)

    def _slowed(self, done: float) -> float:
        """Return the learning rate over the highest one; ``done`` is the share of the epochs that are over."""
        if self._config.published:
            return min(1.0, (1.0 - done) / PUBLISHED_DECAY)
        return 0.5 * (1.0 + math.cos(math.pi * done))

    def _batches(self, region: int, terms: np.ndarray, copies: Copies) -> Iterator[tuple[Tensor, ...]]:
        """Yield inputs, terms and signed weights of both copies of some events."""
        rows = np.flatnonzero((self._nominal.regions == region) | (copies.regions == region))
        self._rng.shuffle(rows)
        terms = terms * self._learnt[region]
        size = self._config.batch_size
        if not self._learnt[region].any():
            return
        if self._config.published:
            size = max(-(-len(rows) // PUBLISHED_STEPS), 1)
        for start in range(0, len(rows), size):
            yield _pairs(rows[start : start + size], region, self._nominal, copies, terms, self._weights)

    def _validation(self, events: Events) -> list[tuple[Tensor, ...]]:
        weights = (events.weights / max(float(events.weights.sum()), 1e-30)).astype(np.float32)
        nominal = self._variation.move(events, None, self._rng, self._constants)
        parts: list[list[tuple[Tensor, ...]]] = [[] for _ in UNBINNED]
        for _ in range(VALIDATION_DRAWS):
            points = self._variation.draw(self._rng, len(events))
            copies = self._variation.move(events, points, self._rng, self._constants)
            terms = (self._variation.terms(points) / self._scale).astype(np.float32)
            for region, found in enumerate(parts):
                rows = np.flatnonzero((nominal.regions == region) | (copies.regions == region))
                found.append(_pairs(rows, region, nominal, copies, terms * self._learnt[region], weights))
        return [tuple(torch.cat(pieces) for pieces in zip(*found, strict=True)) for found in parts]

    @staticmethod
    def _loss(model: nn.Module, *batch: Tensor) -> float:
        with torch.inference_mode():
            return float(pair_loss(model, *batch))

    def _unscaled(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the parameters with a last layer that gives the coefficients of the terms themselves."""
        out = dict(arrays)
        for kind in ("weight", "bias"):
            name = f"{self._config.depth}.{kind}"
            out[name] = (arrays[name].T / self._scale).T.astype(np.float32)
        return out


def _arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def _pairs(
    rows: np.ndarray, region: int, nominal: Copies, copies: Copies, terms: np.ndarray, weights: np.ndarray
) -> tuple[Tensor, ...]:
    here, there = rows[nominal.regions[rows] == region], rows[copies.regions[rows] == region]
    inputs = np.concatenate([nominal.inputs[here], copies.inputs[there]])
    signs = np.concatenate([np.ones(len(here), np.float32), -np.ones(len(there), np.float32)])
    both = np.concatenate([here, there])
    factors = np.concatenate([nominal.factors[here], copies.factors[there]])
    scaled = (weights[both] * factors).astype(np.float32)
    return tuple(torch.from_numpy(part) for part in (inputs, terms[both], signs, scaled))


def pair_loss(model: nn.Module, inputs: Tensor, terms: Tensor, signs: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of the weighted loss; signs are +1 of nominal and -1 of moved events."""
    exponents = (model(inputs) * terms).sum(dim=1)
    return (weights * softplus(signs * exponents)).sum()


def train_surrogates(
    config: SurrogateConfig,
    data: Path,
    weights: Path,
    output: Path,
    *,
    table_fraction: float = 0.0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train the response networks of all processes in all unbinned regions.

    Args:
        config: The settings.
        data: Folder of the events file.
        weights: Folder of the network whose inputs and feature constants are taken.
        output: Folder that receives one file for each process, ``response_networks.npz`` and ``surrogates.json``.
        table_fraction: Fraction of the rows, the first ones, that are left for tables and calibration.
        overwrite: Throw away what ``output`` holds of an earlier training.

    Returns:
        The content of ``surrogates.json``.

    Raises:
        InputError: If a process has no events in or near the regions.
        UsageError: If the folder holds another training, anything else, or is in use.
    """
    constants = read_network(weights)[1]
    identity = {
        "data": sha256(data / DATA_FILE),
        "mean": constants.mean.tolist(),
        "std": constants.std.tolist(),
        "table_fraction": table_fraction,
        **asdict(config),
    }
    copied = PUBLISHED_COPIES if config.published else ()
    learnt = [name for name in PROCESSES if any((region, name) not in copied for region in UNBINNED)]
    results = (*(f"{name}.npz" for name in learnt), SURROGATES_FILE, REPORT_FILE)
    with claimed(output, identity, results=results, overwrite=overwrite):
        file = EventsFile(data, table_fraction)
        missing = [name for name in learnt if not (output / f"{name}.npz").exists()]
        with tqdm(total=len(missing) * config.epochs, unit="epoch", desc="response networks") as progress:
            for name in missing:
                _train_process(config, file, constants, name, output, progress)
        arrays: dict[str, np.ndarray] = {"mean": constants.mean, "std": constants.std}
        if config.basis == QUADRATIC.name:
            arrays[QUADRATIC_MARK] = np.ones(1)
        if config.published:
            arrays[PUBLISHED_MARK] = np.ones(1)
        report: dict[str, Any] = {"config": asdict(config), "data": identity["data"], "processes": {}}
        for name in learnt:
            found = read_arrays(output / f"{name}.npz")
            losses = {key.split("/")[1]: found.pop(key).tolist() for key in list(found) if key.startswith("losses/")}
            rows, seconds = (float(found.pop(key)) for key in ("rows", "seconds"))
            arrays |= found
            report["processes"][name] = {"rows": int(rows), "seconds": round(seconds, 1), "losses": losses}
        write_arrays(output / SURROGATES_FILE, with_published_copies(arrays) if config.published else arrays)
        write_json(output / REPORT_FILE, report)
        return report


def _train_process(
    config: SurrogateConfig, file: EventsFile, constants: Normalisation, name: str, output: Path, progress: Any
) -> None:
    began = time.perf_counter()
    process = PROCESSES.index(name)

    def near(events: Events) -> np.ndarray:
        own: np.ndarray = (events.classes == process) & candidates(events.columns)
        return own

    events = file.read(file.rows("training"), keep=near)
    if not len(events):
        msg = f"{file.path}: no {name} comes into the regions {', '.join(UNBINNED)}; give more events"
        raise InputError(msg)
    log.info("%s: %d events in or near the regions", name, len(events))
    torch.manual_seed(int(np.random.SeedSequence([config.seed, process, config.replica]).generate_state(1)[0]))
    if config.published:
        rates = rate_responses(events, np.random.default_rng([config.seed, process]))
        variation = published(rates, name)
    else:
        rates, variation = np.empty((0, 0)), exact(BASES[config.basis])
    networks, losses = ResponseTraining(events, constants, config, process, variation).networks(progress)
    arrays = named(name, networks)
    arrays |= {f"losses/{region}": np.array(found) for region, found in losses.items()}
    arrays |= {rate_name(region, name): own for region, own in zip(UNBINNED, rates, strict=False)}
    arrays |= {"rows": np.array(float(len(events))), "seconds": np.array(time.perf_counter() - began)}
    write_arrays(output / f"{name}.npz", arrays)
