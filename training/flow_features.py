"""Flows of signal and background with one jet and with two or more, trained on events: features of classifiers.

``PUBLISHED_FLOWS`` are four flows of each category with the contrastive loss, of signal and of all backgrounds in
natural proportion, each against the other (arXiv:2505.08709, as in their program). ``TWO_FLOWS`` are one of either,
trained together so that their ratio is that of the densities. Those of maximum likelihood, one of either as well, are
there to be compared with as densities.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sage.challenge.nuisances import PROCESSES, SIGNAL
from sage.challenge.shifts import select, shift
from sage.errors import InputError, SettingsError
from sage.flows.classifier import Flows, flow_arrays, read_flows
from sage.flows.density import Layer
from sage.flows.inputs import CATEGORIES, Category, Scaling, columns_of, members, standardised
from training.events import Events
from training.flow_losses import FLOOR, FitSettings, Loss, contrastive_loss, fit_flows, likelihood_loss, two_flow_loss
from training.flows import LIGHT, CouplingFlow, FlowSettings
from workshop.files import read_checked, read_object, write_arrays, write_json

SIGNAL_ROW = PROCESSES.index(SIGNAL)
BACKGROUND = "background"
PUBLISHED_FLOWS = {
    "one_jet": {"signal_0.5": 0.5, "signal_1": 1.0, "background_5": 5.0, "background_10": 10.0},
    "two_jets": {"signal_1": 1.0, "signal_5": 5.0, "background_5": 5.0, "background_10": 10.0},
}
"""The published c by category and name of the flow."""
TWO_FLOWS = ("ratio_background", "ratio_signal")
LOSSES = ("contrastive", "two_flows", "likelihood")
MOST_FLOORED = 1e-3
"""Share of a logged column's values that may be not positive before that is flagged."""

log = logging.getLogger("sage.training.flow_features")


@dataclass(frozen=True)
class FlowFeatureSettings:
    """Which flows are trained, and on what.

    Args:
        loss: ``contrastive`` for the published four, ``two_flows``, or ``likelihood`` for one of either class.
        flow: What each is made of.
        fit: How it is trained.
        rows: Events of each class in a category at most.
        floor: Of the contrastive loss.
        published_feature: Whether a classifier reads sigmoid(ln q) instead of ln q.

    Raises:
        SettingsError: If there is no such loss, or too few rows.
    """

    loss: str = "contrastive"
    flow: FlowSettings = LIGHT
    fit: FitSettings = field(default_factory=FitSettings)
    rows: int = 20_000
    floor: float = FLOOR
    published_feature: bool = False

    def __post_init__(self) -> None:
        if self.loss not in LOSSES or self.rows < 10:
            msg = f"loss {self.loss!r} on {self.rows} rows; choose one of {', '.join(LOSSES)}, on at least 10 rows"
            raise SettingsError(msg)


@dataclass(frozen=True)
class CategoryEvents:
    """Selected events of one category.

    Args:
        values: Its columns as they are, shape (n, d), float32.
        weights: Expected events, shape (n,).
        classes: Process of each event, shape (n,).
        showers: Its showered event, shape (n,).
        rows: Its place among the selected events, shape (n,).
    """

    values: np.ndarray
    weights: np.ndarray
    classes: np.ndarray
    showers: np.ndarray
    rows: np.ndarray

    @property
    def signal(self) -> np.ndarray:
        """Whether each event is signal, shape (n,)."""
        return np.asarray(self.classes == SIGNAL_ROW)

    def take(self, rows: np.ndarray) -> CategoryEvents:
        """Return the events at the given places."""
        return CategoryEvents(*(array[rows] for array in vars(self).values()))


def by_category(
    events: Events,
    tes: float = 1.0,
    jes: float = 1.0,
    soft_met: float = 0.0,
    noise: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, CategoryEvents]:
    """Shift events, select them and put them into their categories; those with values that are not finite are dropped.

    Args:
        events: The events.
        tes: Tau energy scale.
        jes: Jet energy scale.
        soft_met: Width of the noise in GeV.
        noise: Unit normal noise of the two components of MET, shape (n,) each.
    """
    columns, kept = select(shift(events.columns, tes, jes, soft_met, noise))
    found = members(columns)
    out = {}
    for category in CATEGORIES:
        rows = found[category.name]
        values = columns_of(category, columns, rows)
        finite = np.isfinite(values).all(axis=1)
        rows = rows[finite]
        at = kept[rows]
        out[category.name] = CategoryEvents(
            values[finite], events.weights[at], events.classes[at], events.keys[at], rows
        )
    return out


def scaling_of(category: Category, events: CategoryEvents) -> tuple[Scaling, tuple[str, ...]]:
    """Return the constants of a category's inputs, of its signal as published, and flags for what is unusual.

    Raises:
        InputError: If there is no signal, or a column has one value only.
    """
    values, logged = events.values[events.signal].T.astype(np.float64), category.logged
    if values.shape[1] < 2:
        msg = f"{values.shape[1]} signal events in category {category.name}; flows need events of every category"
        raise InputError(msg)
    smallest = np.full(len(values), 1e-3)
    flags = []
    for i in np.flatnonzero(logged):
        positive = values[i] > 0
        smallest[i] = values[i][positive].min(initial=np.inf) if positive.any() else 1e-3
        share = 1.0 - positive.mean()
        if share > MOST_FLOORED:
            flags.append(f"{category.name}: {share:.2%} of {category.columns[i]} are not positive")
        values[i] = np.log(np.maximum(values[i], smallest[i]))
    mean, std = values.mean(axis=1), values.std(axis=1)
    if not (std > 0).all():
        name = category.columns[int(np.argmin(std))]
        msg = (
            f"column {name} of category {category.name} has the one value {mean[int(np.argmin(std))]:.4g}; flows need "
        )
        msg += "columns that vary"
        raise InputError(msg)
    return Scaling(smallest, mean, std), tuple(flags)


def train_flows(
    settings: FlowFeatureSettings, events: Mapping[str, CategoryEvents], folder: Path
) -> tuple[dict[str, Flows], list[str]]:
    """Train the flows of all categories, or take those that an earlier run has left in the folder.

    Args:
        settings: Which flows.
        events: Nominal events by category.
        folder: Receives one file for each category.

    Returns:
        The flows by category, and flags.
    """
    out, flags = {}, []
    for category in CATEGORIES:
        path, told = folder / f"flows_{category.name}.npz", folder / f"flows_{category.name}.json"
        plain = json.loads(json.dumps(asdict(settings)))  # as it is read back
        identity = {"settings": plain, "events": len(events[category.name].rows)}
        if (
            told.exists()
            and (report := read_object(told, "remove it to train the flows again"))["made_from"] == identity
        ):
            out[category.name] = read_flows(category, read_checked(path, f"remove {told} to train the flows again"))
        else:
            flows, report = _train_category(settings, category, events[category.name])
            write_arrays(path, flow_arrays(flows))
            write_json(told, {"made_from": identity, **report})
            out[category.name] = flows
        flags += report["flags"]
    return out, flags


def _train_category(
    settings: FlowFeatureSettings, category: Category, events: CategoryEvents
) -> tuple[Flows, dict[str, Any]]:
    scaling, told = scaling_of(category, events)
    flags = list(told)
    rng = np.random.default_rng(settings.fit.seed)
    samples = {}
    for name, mask in ((SIGNAL, events.signal), (BACKGROUND, ~events.signal)):
        rows = draw(rng, events.weights, mask, settings.rows)
        if not len(rows):
            msg = f"no {name} in category {category.name}; flows need events of both classes in every category"
            raise InputError(msg)
        samples[name] = torch.from_numpy(np.ascontiguousarray(standardised(category, events.values[rows], scaling)))
    layers: dict[str, tuple[Layer, ...]] = {}
    losses: dict[str, list[float]] = {}
    for names, loss, own in _trainings(settings, category.name):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.fit.seed)
            flows = [CouplingFlow(len(category.columns), settings.flow) for _ in names]
        other = BACKGROUND if own == SIGNAL else SIGNAL
        title = f"{category.name} {' and '.join(names)}"
        report = fit_flows(flows, samples[own], samples[other], loss, settings.fit, title)
        losses["+".join(names)] = list(report.losses)
        flags += [f"{title}: {flag}" for flag in report.flags]
        layers |= {name: flow.layers() for name, flow in zip(names, flows, strict=True)}
    bare = Flows(category, scaling, layers, dict.fromkeys(layers, (0.0, 1.0)), settings.published_feature)
    features = bare.of(torch.cat([samples[SIGNAL], samples[BACKGROUND]]).numpy())
    constants = {name: (float(x.mean()), max(float(x.std()), 1e-6)) for name, x in features.items()}
    return Flows(category, scaling, layers, constants, settings.published_feature), {"losses": losses, "flags": flags}


def draw(rng: np.random.Generator, weights: np.ndarray, mask: np.ndarray, most: int) -> np.ndarray:
    """Return the places of at most so many events, drawn with the chance of their weight and without repetition."""
    rows = np.flatnonzero(mask & (weights > 0))
    # The smallest of exponential waiting times with the weights as rates.
    return rows[np.argsort(rng.exponential(1.0, len(rows)) / weights[rows], kind="stable")[:most]]


def _trainings(settings: FlowFeatureSettings, category: str) -> list[tuple[tuple[str, ...], Loss, str]]:
    """Return names, loss and own class of each training."""
    if settings.loss == "two_flows":
        background, signal = TWO_FLOWS
        return [((signal, background), two_flow_loss, SIGNAL)]
    if settings.loss == "likelihood":
        return [((name,), likelihood_loss, own) for name, own in (("signal", SIGNAL), (BACKGROUND, BACKGROUND))]
    return [
        ((name,), contrastive_loss(c, settings.floor), SIGNAL if describes_signal(name) else BACKGROUND)
        for name, c in PUBLISHED_FLOWS[category].items()
    ]


def describes_signal(flow: str) -> bool:
    """Return whether a flow of this name is one of the signal."""
    return flow.startswith("signal")
