"""Are the surrogates right? Calibration of the shares, and moved events told from reweighted ones.

A share is compared with the fraction of events that are of the process, in ten groups of equal weight. For responses,
boosted trees learn to tell nominal events with the weights w exp(A . v) from the same events moved to the nuisance
point; half of the showered events trains them and the other half gives the AUC, 0.5 where the two cannot be told apart,
and the other way round. The sums of weights of the two are made equal first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES
from sage.files.bundle import Bundle
from sage.network.classifier import Classifier
from sage.surrogates import Surrogates
from sage.unbinned.calibration import RegionEvents
from sage.unbinned.ratios import UNBINNED, Calibration
from training.events import Events, EventsFile
from training.sampling import uniform
from training.surrogate_calibration import read_regions
from training.surrogates import candidates
from training.variations import move_events

GROUPS = 10
POINTS: Mapping[str, tuple[float, float, float]] = {
    "+1": (1.01, 1.01, 2.718),
    "-1": (0.99, 0.99, 0.368),
    "+2": (1.02, 1.02, 5.0),
    "-2": (0.98, 0.98, 0.135),
}
"""All shape nuisances moved together by so many standard deviations."""
TREES = 60
HALF = 11
"""Purpose of the random number that halves the events; see ``training.sampling.uniform``."""


def calibration_table(events: RegionEvents, calibration: Calibration) -> dict[str, list[dict[str, float]]]:
    """Return the mean share, the true fraction and its error in ten groups of equal weight, by process."""
    shares = calibration(events.ratios)
    out: dict[str, list[dict[str, float]]] = {}
    for p, name in enumerate(PROCESSES):
        order = np.argsort(shares[:, p], kind="stable")
        position = np.cumsum(events.weights[order]) / events.weights.sum()
        number = np.minimum((GROUPS * position).astype(int), GROUPS - 1)
        out[name] = []
        for group in range(GROUPS):
            rows = order[number == group]
            weights, own = events.weights[rows], events.classes[rows] == p
            total = weights.sum()
            share, true = float(weights @ shares[rows, p] / total), float(weights @ own / total)
            error = float(np.sqrt((weights**2) @ (own - true) ** 2) / total)
            out[name].append({"share": share, "true": true, "error": error})
    return out


def check(
    bundle: Bundle, data: Path, table_fraction: float, classifier: Classifier, seed: int = 1
) -> dict[str, dict[str, Any]]:
    """Return calibration and AUC of all unbinned regions.

    Args:
        bundle: Weights of an unbinned method.
        data: Folder of events that trained no response network.
        table_fraction: Fraction of its rows, the first ones, that are taken.
        classifier: Gives the class probabilities.
        seed: Seed of the halves and of the noise.
    """
    surrogates = Surrogates(bundle)
    file = EventsFile(data, table_fraction)
    rows = file.rows("tables")
    regions = read_regions(file, rows, bundle, classifier, surrogates.networks)
    found: dict[str, dict[str, Any]] = {
        name: {"calibration": calibration_table(own, surrogates.calibrations[name]), "auc": {}}
        for name, own in zip(UNBINNED, regions, strict=True)
    }
    for p, process in enumerate(PROCESSES):
        own = file.read(rows, keep=lambda events, p=p: (events.classes == p) & candidates(events.columns))  # type: ignore[misc]
        for label, point in POINTS.items():
            for name, auc in told_apart(own, point, surrogates, seed).items():
                found[name]["auc"].setdefault(process, {})[label] = auc
    return found


def told_apart(
    events: Events, point: tuple[float, float, float], surrogates: Surrogates, seed: int
) -> dict[str, dict[str, float]]:
    """Return AUC and its error, with and without reweighting, by region with events; of events of one process."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(seed)
    constants, networks = surrogates.networks.constants, surrogates.networks
    terms = networks.basis.terms(np.array([point]))[0]
    nominal = move_events(events, None, rng, constants)
    there = move_events(events, np.tile(point, (len(events), 1)), rng, constants)
    train = uniform(events.keys, seed, HALF) < 0.5
    out: dict[str, dict[str, float]] = {}
    for number, region in enumerate(UNBINNED):
        here, shifted = (np.flatnonzero(copies.regions == number) for copies in (nominal, there))
        process = PROCESSES[int(events.classes[0])] if len(events) else PROCESSES[0]
        response = networks.of_inputs(nominal.inputs[here], region, process) @ terms
        x = np.concatenate([nominal.inputs[here], there.inputs[shifted]])
        y = np.repeat([0, 1], [len(here), len(shifted)])
        rows = np.concatenate([here, shifted])
        first = train[rows]
        if min(np.bincount(2 * first + y, minlength=4)) == 0:
            continue  # a half without events
        out[region] = {"showers": float(len(np.unique(events.keys[here])))}
        for kind, factor in (("reweighted", np.exp(response)), ("nominal", np.ones(len(here)))):
            weights = np.concatenate([events.weights[here] * factor, events.weights[shifted]])
            for part in (first, ~first):
                for label in (0, 1):
                    weights[part & (y == label)] *= 0.5 * part.sum() / weights[part & (y == label)].sum()
            halves = []
            for part in (first, ~first):
                trees = HistGradientBoostingClassifier(
                    max_iter=TREES, max_depth=3, learning_rate=0.1, random_state=seed
                )
                trees.fit(x[part], y[part], sample_weight=weights[part])
                judged = (each[~part] for each in (y == 1, weights, events.keys[rows]))
                halves.append(area(trees.decision_function(x[~part]), *judged))
            values, errors = np.array(halves).T
            out[region][kind], out[region][f"{kind}_error"] = float(values.mean()), float(np.hypot(*errors) / 2)
    return out


def area(score: np.ndarray, is_one: np.ndarray, weights: np.ndarray, keys: np.ndarray) -> tuple[float, float]:
    """Return the weighted area under the ROC curve, in which equal scores count half, and its error.

    The error is the root of the sum of squares of what each showered event adds to the deviation, to first order
    (Obuchowski, Biometrics 53 (1997) 567): a moved event goes with the nominal one that it was, and so do all rows of
    one shower. It does not hold what other trees would find.

    Args:
        score: Shape (n,).
        is_one: Shape (n,), boolean.
        weights: Shape (n,), those of each kind with a positive sum.
        keys: Numbers of the showered events, shape (n,).
    """
    _, place = np.unique(score, return_inverse=True)
    scaled = weights / np.where(is_one, weights[is_one].sum(), weights[~is_one].sum())
    ones, zeros = (np.bincount(place[kind], scaled[kind], minlength=place.max() + 1) for kind in (is_one, ~is_one))
    below, above = np.cumsum(zeros) - 0.5 * zeros, 1.0 - np.cumsum(ones) + 0.5 * ones
    value = float(below @ ones)
    _, shower = np.unique(keys, return_inverse=True)
    added = np.bincount(shower, scaled * (np.where(is_one, below[place], above[place]) - value))
    return value, float(np.linalg.norm(added))
