"""A classifier of events with one jet and with two or more: a tower for each category, and one trunk.

Each tower reads inputs of its own, columns of events and whatever stands beside them; ``sage.flows.classifier`` runs it
in a submission. Weights of signal and background are balanced over both categories together, so that a score means
the same in both.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from sage.challenge.nuisances import CHALLENGE, SHAPE_NAMES
from sage.errors import SettingsError
from sage.flows.classifier import Flows, flow_arrays
from sage.flows.inputs import standardised
from training.events import Events
from training.flow_features import CategoryEvents, by_category
from training.sampling import HELD_OUT, uniform

BLOCK = 10_000
"""Events that share a nuisance point, as published."""
CHUNK = 65_536
"""Events per pass of a network that predicts."""

log = logging.getLogger("sage.training.flow_classifier")


@dataclass(frozen=True)
class TowerSettings:
    """How a classifier is made and trained.

    Args:
        width: Nodes of every hidden layer; the published towers have 128, the trunk four layers.
        epochs: At most.
        patience: Epochs without a better held-out loss after which it ends.
        batch: Events in a step, of all categories together.
        rate: Largest learning rate of Adam; it falls along a cosine.
        held_out: Fraction of the showered events that judges epochs.
        seed: Of everything random.

    Raises:
        SettingsError: If a number is out of its range.
    """

    width: int = 64
    epochs: int = 5
    patience: int = 3
    batch: int = 2000
    rate: float = 3e-3
    held_out: float = 0.1
    seed: int = 1

    def __post_init__(self) -> None:
        whole = min(self.width, self.epochs, self.patience, self.batch)
        if whole < 1 or not self.rate > 0.0 or not 0.0 < self.held_out < 1.0:
            msg = (
                f"{self}: width, epochs, patience and batch must be at least 1, rate positive, held_out between 0 and 1"
            )
            raise SettingsError(msg)


@dataclass(frozen=True)
class TowerSample:
    """Inputs of a category's events, in the order of ``events``.

    Args:
        inputs: Shape (n, k), float32.
        events: The events.
    """

    inputs: np.ndarray
    events: CategoryEvents


class Towers(nn.Module):
    """The network.

    Args:
        sizes: Number of inputs by category.
        width: Nodes of every hidden layer.
    """

    def __init__(self, sizes: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
                for name, size in sizes.items()
            }
        )
        self.trunk = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, category: str, inputs: Tensor) -> Tensor:
        """Return the logit of signal, shape (n,), of inputs (n, k)."""
        out: Tensor = self.trunk(self.towers[category](inputs))[:, 0]
        return out

    def scores(self, category: str, inputs: np.ndarray) -> np.ndarray:
        """Return the signal probability, shape (n,), of inputs (n, k)."""
        with torch.inference_mode():
            parts = torch.split(torch.from_numpy(np.ascontiguousarray(inputs)), CHUNK)
            return torch.cat([torch.sigmoid(self(category, part)) for part in parts]).numpy()


def balanced(samples: Mapping[str, CategoryEvents]) -> dict[str, np.ndarray]:
    """Return weights of equal total for signal and background over all categories, 1 on average, by category.

    Raises:
        SettingsError: If a class has no weight.
    """
    totals = np.zeros(2)
    for events in samples.values():
        totals += np.bincount(events.signal, events.weights, minlength=2)
    if not (totals > 0).all():
        msg = f"background and signal have the weights {totals}; give events of both"
        raise SettingsError(msg)
    count = sum(len(events.rows) for events in samples.values())
    factors = 0.5 * count / totals
    return {name: events.weights * factors[events.signal.astype(int)] for name, events in samples.items()}


def fit_towers(samples: Mapping[str, TowerSample], settings: TowerSettings) -> tuple[Towers, list[float]]:
    """Train a classifier; the best epoch's parameters are kept.

    Args:
        samples: Events and inputs by category.
        settings: How.

    Returns:
        The network, and the held-out loss of each epoch.
    """
    weights = balanced({name: sample.events for name, sample in samples.items()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = Towers({name: sample.inputs.shape[1] for name, sample in samples.items()}, settings.width)
    data, held, count = {}, {}, 0
    for name, sample in samples.items():
        away = uniform(sample.events.showers, settings.seed, HELD_OUT) < settings.held_out
        signal = sample.events.signal
        arrays = (sample.inputs, signal.astype(np.float32), weights[name].astype(np.float32))
        data[name], held[name] = (
            tuple(torch.from_numpy(np.ascontiguousarray(array[mask])) for array in arrays) for mask in (~away, away)
        )
        count += int((~away).sum())
    steps = max(count // settings.batch, 1)
    optimiser = torch.optim.Adam(network.parameters(), settings.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * steps)
    generator = torch.Generator().manual_seed(settings.seed)
    losses: list[float] = []
    best = copy.deepcopy(network.state_dict())
    for _ in tqdm(range(settings.epochs), "classifier", disable=None):
        orders = {
            name: torch.randperm(len(x), generator=generator).tensor_split(steps) for name, (x, _, _) in data.items()
        }
        for step in range(steps):
            optimiser.zero_grad()
            total = torch.zeros(())
            for name, (x, y, w) in data.items():
                rows = orders[name][step]
                total = total + _loss(network(name, x[rows]), y[rows], w[rows])
            (total / settings.batch).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        with torch.inference_mode():
            found = sum(float(_loss(network(name, x), y, w)) for name, (x, y, w) in held.items())
        losses.append(found / sum(float(w.sum()) for _, _, w in held.values()))
        if losses[-1] == min(losses):
            best = copy.deepcopy(network.state_dict())
        elif len(losses) - 1 - losses.index(min(losses)) >= settings.patience:
            break
    network.load_state_dict(best)
    log.info("held-out losses %s", " ".join(f"{loss:.4f}" for loss in losses))
    return network, losses


def _loss(logits: Tensor, signal: Tensor, weights: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, signal, weights, reduction="sum")


def shifted(events: Events, seed: int) -> dict[str, CategoryEvents]:
    """Return events by category, in blocks that each have a nuisance point drawn from the priors.

    Unlike the published ones, events below the thresholds after their shift are dropped, as those of the data are.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(events))
    parts = []
    for start in range(0, len(order), BLOCK):
        tes, jes, met = (nuisance.alpha(rng.normal())[0] for nuisance in CHALLENGE if nuisance.name in SHAPE_NAMES)
        block = events.take(order[start : start + BLOCK])
        noise = rng.standard_normal((2, len(block)))
        parts.append(by_category(block, tes, jes, met, (noise[0], noise[1])))
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[CategoryEvents]) -> CategoryEvents:
    return CategoryEvents(
        *(np.concatenate(arrays) for arrays in zip(*(vars(part).values() for part in parts), strict=True))
    )


def tower_sample(flows: Flows, events: CategoryEvents, names: Sequence[str]) -> TowerSample:
    """Return the inputs that ``sage.flows.classifier`` reads: columns, then the features of flows in this order."""
    inputs = standardised(flows.category, events.values, flows.scaling)
    features = flows.of(inputs) if names else {}
    columns = [inputs, *(features[name][:, None] for name in names)]
    return TowerSample(np.concatenate(columns, axis=1, dtype=np.float32), events)


def classifier_arrays(network: Towers, flows: Mapping[str, Flows]) -> dict[str, np.ndarray]:
    """Return the parameters of ``sage.flows.classifier.FlowClassifier``.

    Args:
        network: Trained with inputs of ``tower_sample``, flows in the order of their names.
        flows: By category.
    """
    out: dict[str, np.ndarray] = {}
    for name, tower in network.towers.items():
        out |= flow_arrays(flows[name])
        first, second = (_matrix(part) for part in tower.children() if isinstance(part, nn.Linear))
        d = len(flows[name].category.columns)
        out[f"{name}/entry/columns"] = np.concatenate([first[:d], first[-1:]])
        out[f"{name}/entry/second"] = second
        out |= {f"{name}/entry/{flow}": first[d + i][None] for i, flow in enumerate(sorted(flows[name].flows))}
    for number, part in enumerate(part for part in network.trunk if isinstance(part, nn.Linear)):
        out[f"trunk/{number}"] = _matrix(part)
    return out


def _matrix(linear: nn.Linear) -> np.ndarray:
    return torch.cat([linear.weight.T, linear.bias[None]]).detach().numpy()
