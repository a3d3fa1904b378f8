"""How well flows describe events that they have not seen: does a classifier tell their samples from such events?

Boosted trees are trained on half of the samples and half of the events, and judged on the other half by the area under
the ROC curve, and the other way round: 0.5 is what a flow has that cannot be told from its class, 1 one that never
looks like it. A better classifier would find more, so the area is a lower bound. The events that the flows were trained
on stand in the same place as a control, and flows of maximum likelihood with the same layers show what the layers can
do: contrastive flows are not meant to be the density of their class, but of where it outweighs the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sage.errors import SettingsError
from sage.flows.density import Layer
from sage.flows.inputs import CATEGORIES, Category, Scaling, standardised
from training.events import EventsFile
from training.flow_features import (
    BACKGROUND,
    CategoryEvents,
    FlowFeatureSettings,
    by_category,
    describes_signal,
    train_flows,
)
from training.flows import CouplingFlow
from training.metrics import auc
from training.sampling import poisson, uniform
from workshop.files import sha256, write_json
from workshop.numbers import with_error

CHECKS_FILE = "flow_checks.json"
CONTROL = "training events"
HALF, RESAMPLE = 10, 11
"""Purposes of random numbers, see ``training.sampling.uniform``."""
RESAMPLINGS = 40
TREES, BINS = 100, 64
"""Of the classifier, and of each column in it: weighted quantiles of more bins take longer than the trees."""
LOSSES = ("contrastive", "likelihood")
"""Of the flows that are checked: those of two flows are trained for their ratio and are no densities of events."""


@dataclass(frozen=True)
class Weighted:
    """Events or samples.

    Args:
        values: Standardised inputs, shape (n, d), float32.
        weights: Not negative, shape (n,).
        showers: Rows of equal number are not independent of each other, shape (n,), int64.
    """

    values: np.ndarray
    weights: np.ndarray
    showers: np.ndarray


def separation(one: Weighted, other: Weighted, seed: int) -> dict[str, float]:
    """Return ``value`` and ``error`` of the area under the ROC curve of a classifier of two kinds of events.

    The error is from Poisson weights of the showers and does not hold what another training would find.

    Raises:
        SettingsError: If there are fewer than 50 showers of either kind.
    """
    # Only here: scikit-learn takes seconds to import.
    from sklearn.ensemble import HistGradientBoostingClassifier

    fewest = min(len(np.unique(each.showers)) for each in (one, other))
    if fewest < 50:
        msg = f"{fewest} independent events of one kind; give 50 at least, of every category and class"
        raise SettingsError(msg)
    values = np.concatenate([one.values, other.values])
    is_one = np.repeat([True, False], [len(one.values), len(other.values)])
    weights = np.concatenate([each.weights * (len(values) / each.weights.sum()) for each in (one, other)])
    # Numbered, so that a sample and a shower of equal number have nothing in common.
    kinds = [one.showers, other.showers]
    halves = np.concatenate([uniform(showers, seed, HALF, kind) < 0.5 for kind, showers in enumerate(kinds)])
    scores = np.empty(len(values))
    for judged in (halves, ~halves):
        trees = HistGradientBoostingClassifier(max_iter=TREES, max_bins=BINS, early_stopping=False, random_state=seed)
        trees.fit(values[~judged], is_one[~judged], weights[~judged])
        scores[judged] = trees.decision_function(values[judged])
    again = []
    for k in range(RESAMPLINGS):
        counts = [poisson(showers, seed, RESAMPLE, kind, k) for kind, showers in enumerate(kinds)]
        again.append(_area(scores, is_one, weights * np.concatenate(counts), halves))
    return {"value": _area(scores, is_one, weights, halves), "error": float(np.std(again))}


def _area(scores: np.ndarray, is_one: np.ndarray, weights: np.ndarray, halves: np.ndarray) -> float:
    """Return the mean of both halves, which have classifiers of their own."""
    areas = [auc(scores[half], is_one[half], weights[half]) for half in (halves, ~halves)]
    return float(np.mean([area for area in areas if area is not None]))


def sampled(layers: Sequence[Layer], n: int, seed: int) -> Weighted:
    """Return samples of a flow.

    Raises:
        SettingsError: If a layer is not one to one.
    """
    flow = CouplingFlow.of_layers(layers)
    z = torch.randn((n, flow.features), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return Weighted(flow.inverse(z).numpy(), np.ones(n), np.arange(n))


def check_flows(
    settings: FlowFeatureSettings, data: Path, test: Path, output: Path, rows: int = 0, most: int = 10_000
) -> dict[str, Any]:
    """Train flows, compare them with events and write ``flow_checks.json``; flows of an earlier run are taken.

    Args:
        settings: Of the flows, with any loss.
        data: Folder of the events that train.
        test: Folder of the events that they are compared with.
        output: Folder for flows and results.
        rows: First rows of the training events that are used; 0 for all.
        most: Events of a category and class at most, and samples of each flow.

    Returns:
        The content of ``flow_checks.json``: ``separations``, each with category, class, flow, ``auc``, and the number
        of ``events``; and the ``flags`` of the flows.
    """
    files = {"data": EventsFile(data, 0.0), "test": EventsFile(test, 0.0)}
    parts = {name: file.rows("all") for name, file in files.items()}
    if rows:
        parts["data"] = parts["data"][:rows]
    events = {name: by_category(file.read(parts[name])) for name, file in files.items()}
    trained, flags = {}, []
    for loss in LOSSES:
        trained[loss], told = train_flows(replace(settings, loss=loss), events["data"], output / "flows" / loss)
        flags += [f"{loss}: {flag}" for flag in told]
    seed = settings.fit.seed
    found = []
    for category, signal in tqdm([(c, s) for c in CATEGORIES for s in (True, False)], "classes", disable=None):
        scaling = trained[LOSSES[0]][category.name].scaling
        seen, held = (_class(category, scaling, events[part][category.name], signal, most, seed) for part in files)
        entry = {"category": category.name, "class": "signal" if signal else BACKGROUND, "events": len(held.values)}
        found.append(entry | {"flow": CONTROL, "auc": separation(seen, held, seed)})
        for loss in LOSSES:
            for name, layers in trained[loss][category.name].flows.items():
                if describes_signal(name) == signal:
                    area = separation(sampled(layers, len(held.values), seed), held, seed)
                    found.append(entry | {"flow": f"{loss} {name}", "auc": area})
    content = {
        **{name: sha256(file.path) for name, file in files.items()},
        "settings": asdict(settings),
        "separations": found,
        "flags": flags,
    }
    write_json(output / CHECKS_FILE, content)
    return content


def _class(
    category: Category, scaling: Scaling, events: CategoryEvents, signal: bool, most: int, seed: int
) -> Weighted:
    """Return events of a class, drawn at random if there are more than ``most``."""
    rows = np.flatnonzero((events.signal == signal) & (events.weights > 0))
    rows = np.random.default_rng(seed).permutation(rows)[:most]
    values = standardised(category, events.values[rows], scaling)
    return Weighted(values, events.weights[rows], events.showers[rows])


def table(content: Mapping[str, Any]) -> str:
    """Return the text table of a result of ``check_flows``."""
    lines = [f"{'category':<12}{'class':<12}{'events':>8}  {'samples of':<28}{'AUC':>18}"]
    for one in content["separations"]:
        area = with_error(one["auc"]["value"], one["auc"]["error"])
        lines.append(f"{one['category']:<12}{one['class']:<12}{one['events']:>8}  {one['flow']:<28}{area:>18}")
    return "\n".join(lines)
