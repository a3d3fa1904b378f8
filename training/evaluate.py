"""Judge the network on events that neither trained it nor stopped its training.

Compares the network trained at random nuisance points (read from TRAINING, or trained there) with the same network
trained at the nominal point, gradient boosting and a multilayer perceptron, on the rows that also fill the tables.
All weights are those of the training: each class has the same total. Reports, for each classifier,

* the AUC of the signal against the rest, inclusive and in two regions, with training weights and with expected events,
* the information on mu, all events in one and in the five regions, with its ratio to that of the first classifier
  (``training.information``): what a gain in cross entropy is worth depends on where it is,
* the cross entropy, and reliability curves of the four probabilities with their slopes,
* how the signal probability moves under one standard deviation of tes, jes and soft_met (2.72 and 0.37 GeV of the
  latter, against none): mean and root mean square per event, Kolmogorov-Smirnov distance, and the relative change of
  the yields above the value that a fifth of the signal exceeds.

Writes a JSON for each classifier as it is finished, ``evaluation.json`` with all of them, and pictures.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sage.binned.regions import bin_numbers, quantities, region_set
from sage.challenge.features import Derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select, shift
from sage.network.engine import Engine
from sage.network.inputs import network_inputs
from training.config import Config
from training.evaluation_plots import draw_reliability, draw_shifts
from training.events import EventsFile, Keep
from training.information import Information, Sample, information
from training.metrics import auc, ks_distance, log_loss, reliability
from training.networks import NETWORK_FILE, read_network, read_shares
from training.reference_classifiers import Classify, TrainingSample, fit_boosting, fit_perceptron
from training.sampling import HeldOut, Thinning
from training.train import train
from workshop.files import sha256, write_json

EVALUATION_FILE = "evaluation.json"
CLASSIFIERS = ("averaged", "nominal", "boosting", "perceptron")
SHIFTED = ("averaged", "nominal", "perceptron")
"""Classifiers that are also looked at under shifts."""

POINTS = {
    "nominal": (1.0, 1.0, 0.0),
    "tes up": (1.01, 1.0, 0.0),
    "tes down": (0.99, 1.0, 0.0),
    "jes up": (1.0, 1.01, 0.0),
    "jes down": (1.0, 0.99, 0.0),
    "soft_met up": (1.0, 1.0, math.e),
    "soft_met down": (1.0, 1.0, 1.0 / math.e),
}
SIGNAL_LIKE = 0.2
"""Fraction of the nominal signal in the signal-like bin."""

INCLUSIVE = "inclusive"
SIGNAL = PROCESSES.index("htautau")
AUC_FLOOR, LOSS_FLOOR, SLOPE_FLOOR = 0.003, 0.01, 0.05
"""How far the nominal network may be behind the references: AUC, relative cross entropy, slope from 1."""

log = logging.getLogger("sage.training.evaluate")


@dataclass(frozen=True)
class Scored:
    """The held-out events as one classifier sees them.

    Args:
        probabilities: At the nominal point, shape (n, 4); NaN where an event is not selected.
        signal: Signal probability by name of the point, shape (n,); NaN likewise.
        classes: Shape (n,).
        weights: Expected events, shape (n,).
        showers: Number of the showered event, shape (n,).
        regions: Events of each region at the nominal point, shape (n,), boolean.
    """

    probabilities: np.ndarray
    signal: dict[str, np.ndarray]
    classes: np.ndarray
    weights: np.ndarray
    showers: np.ndarray
    regions: dict[str, np.ndarray]


def network_classifier(folder: Path, threads: int) -> Classify:
    """Return the network, or the mean of the networks, that ``training.train`` wrote, for equal class proportions."""
    parameters, constants = read_network(folder)
    shares = np.array(read_shares(folder), dtype=np.float32)
    engine = Engine(parameters, threads=threads)

    def classify(columns: Mapping[str, Any]) -> np.ndarray:
        ratios = engine.probabilities(*network_inputs(columns, Derived(columns), constants)) / shares
        return np.asarray(ratios / ratios.sum(axis=1, keepdims=True))

    return classify


def balanced(classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scale weights so that all classes have the same total and the average is 1."""
    totals = np.bincount(classes, weights, minlength=len(PROCESSES))
    return np.asarray(weights * (len(classes) / len(PROCESSES) / totals)[classes])


def sample(file: EventsFile, keep: Keep, fractions: np.ndarray) -> TrainingSample:
    """Read selected nominal training events with the weights of the training."""
    events = file.read(file.rows("training"), keep)
    columns, kept = select(shift(events.columns))
    classes = events.classes[kept]
    columns = {name: column.astype(np.float32) for name, column in columns.items()}
    return TrainingSample(columns, classes, balanced(classes, (events.weights / fractions[events.classes])[kept]))


def score(file: EventsFile, classify: Classify, names: list[str], seed: int, max_rows: int) -> Scored:
    """Run a classifier over the table part, up to ``max_rows`` events of it, at the named points."""
    parts: list[Scored] = []
    rows = file.rows("tables")
    for piece, events in enumerate(file.stream(rows[:max_rows] if max_rows else rows)):
        noise_rng = np.random.default_rng([seed, piece])
        noise = (noise_rng.standard_normal(len(events)), noise_rng.standard_normal(len(events)))
        signal, regions = {}, {}
        probabilities = np.full((len(events), len(PROCESSES)), np.nan, dtype=np.float32)
        for name in names:
            selected, kept = select(shift(events.columns, *POINTS[name], noise=noise))
            selected = {key: column.astype(np.float32) for key, column in selected.items()}
            found = classify(selected)
            signal[name] = np.full(len(events), np.nan, dtype=np.float32)
            signal[name][kept] = found[:, SIGNAL]
            if name == "nominal":
                probabilities[kept] = found
                for region, taken in masks(quantities(selected, Derived(selected), found)).items():
                    regions[region] = np.zeros(len(events), dtype=np.bool_)
                    regions[region][kept] = taken
        parts.append(Scored(probabilities, signal, events.classes, events.weights, events.keys, regions))
    return Scored(
        np.concatenate([part.probabilities for part in parts]),
        {name: np.concatenate([part.signal[name] for part in parts]) for name in names},
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.showers for part in parts]),
        {name: np.concatenate([part.regions[name] for part in parts]) for name in parts[0].regions},
    )


def masks(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the events of all and of each of the five regions."""
    n = len(values["mt"])
    out = {INCLUSIVE: np.ones(n, dtype=np.bool_)}
    five = region_set("five")
    for region, (rows, _) in zip(five.regions, bin_numbers(five, values), strict=True):
        out[region.name] = np.zeros(n, dtype=np.bool_)
        out[region.name][rows] = True
    return out


def judge(scored: Scored, seed: int) -> dict[str, Any]:
    """Compute everything that is reported about one classifier."""
    kept = np.isfinite(scored.probabilities[:, 0])
    classes, expected, p = scored.classes[kept], scored.weights[kept], scored.probabilities[kept]
    weights = balanced(classes, expected)
    is_signal = classes == SIGNAL
    totals = np.bincount(classes, expected, minlength=len(PROCESSES))
    # The best score against the expected mixture of backgrounds, if the probabilities are true.
    mixed = p[:, SIGNAL] * totals[SIGNAL] / np.maximum(p @ totals, 1e-30)
    areas: dict[str, Any] = {}
    for name, mask in scored.regions.items():
        here = mask[kept]
        areas[name] = {
            "training": auc(p[here, SIGNAL], is_signal[here], weights[here]),
            "expected": auc(mixed[here], is_signal[here], expected[here]),
        }
    curves = {name: reliability(p[:, i], classes == i, weights) for i, name in enumerate(PROCESSES)}
    sample = Sample(
        expected, is_signal, scored.showers[kept], {name: mask[kept] for name, mask in scored.regions.items()}
    )
    told = information(sample, mixed, seed)
    return {
        "events": int(kept.sum()),
        "information": {
            name: {"value": one.value, "error": one.error, "resampled": one.resampled.tolist()}
            for name, one in told.items()
        },
        "auc": areas,
        "cross_entropy": log_loss(p, classes, weights),
        "reliability": {
            name: {key: np.asarray(value).tolist() for key, value in asdict(curve).items()}
            for name, curve in curves.items()
        },
        "shifts": {name: moved(scored, name) for name in scored.signal if name != "nominal"},
    }


def moved(scored: Scored, point: str) -> dict[str, dict[str, float]]:
    """Compare the signal probability at a point with that at the nominal point, for each process."""
    before, after = scored.signal["nominal"], scored.signal[point]
    signal = (scored.classes == SIGNAL) & np.isfinite(before)
    order = np.argsort(-before[signal])
    share = np.cumsum(scored.weights[signal][order])
    threshold = before[signal][order][np.searchsorted(share, SIGNAL_LIKE * share[-1])]
    out = {}
    for i, name in enumerate(PROCESSES):
        here = scored.classes == i
        x, y, w = before[here], after[here], scored.weights[here]
        has_x, has_y = np.isfinite(x), np.isfinite(y)
        both = has_x & has_y
        difference = (y[both] - x[both]).astype(np.float64)
        top = w[has_x & (x >= threshold)].sum()
        out[name] = {
            "mean_per_event": float((w[both] * difference).sum() / w[both].sum()),
            "rms_per_event": float(np.sqrt((w[both] * difference**2).sum() / w[both].sum())),
            "mean_change": float(np.average(y[has_y], weights=w[has_y]) - np.average(x[has_x], weights=w[has_x])),
            "ks": ks_distance(x[has_x], w[has_x], y[has_y], w[has_y]),
            "signal_like_yield": float(w[has_y & (y >= threshold)].sum() / top - 1.0) if top > 0 else 0.0,
        }
    return out


def floors(results: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the nominal network with the references, and its slopes with 1."""
    network, references = results["nominal"], [results["boosting"], results["perceptron"]]
    out: dict[str, Any] = {}
    for region, areas in network["auc"].items():
        best = max(reference["auc"][region]["training"] for reference in references)
        behind = best - areas["training"]
        out[f"AUC, {region}"] = {"behind": behind, "bound": AUC_FLOOR, "met": behind <= AUC_FLOOR}
    behind = network["cross_entropy"] / min(reference["cross_entropy"] for reference in references) - 1.0
    out["cross entropy"] = {"behind": behind, "bound": LOSS_FLOOR, "met": behind <= LOSS_FLOOR}
    for which in ("averaged", "nominal"):
        for name, curve in results[which]["reliability"].items():
            off = abs(curve["slope"] - 1.0)
            out[f"slope of {name}, {which}"] = {"off": off, "bound": SLOPE_FLOOR, "met": off < SLOPE_FLOOR}
    return out


def information_ratios(results: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the information of each classifier with that of the first, all events in one and by regions."""

    def total(result: Mapping[str, Any], names: list[str]) -> Information:
        found = [result["information"][name] for name in names]
        return Information(sum(one["value"] for one in found), np.sum([one["resampled"] for one in found], axis=0))

    first = results[CLASSIFIERS[0]]
    split = [name for name in first["information"] if name != INCLUSIVE]
    return {
        which: {
            name: dict(zip(("ratio", "error"), total(result, names).over(total(first, names)), strict=True))
            for name, result in results.items()
        }
        for which, names in {"all events in one": [INCLUSIVE], "five regions": split}.items()
    }


def evaluate(
    config: Config,
    data: Path,
    training: Path,
    output: Path,
    resume: bool = False,
    max_rows: int = 0,
    score_rows: int = 0,
) -> dict[str, Any]:
    """Train what is missing, score all classifiers and write the report.

    Args:
        config: Settings of the averaged network; the nominal one differs in its points alone.
        data: Folder of the events file.
        training: Folder of the averaged network.
        output: Folder for the results and for the nominal network.
        resume: Use what ``output`` holds.
        max_rows: Rows of each class, about, that boosting and perceptron train on; 0 for all.
        score_rows: Rows of the table part that are scored; 0 for all.

    Returns:
        The content of ``evaluation.json``.
    """
    torch.set_num_threads(config.threads)
    file = EventsFile(data, config.table_fraction)
    settings = replace(config.training, points="nominal", points_per_batch=1, validation_points=1)
    identity = {
        "data": sha256(file.path),
        "seed": config.seed,
        "table_fraction": config.table_fraction,
        "max_rows": max_rows,
        "score_rows": score_rows,
        "training": asdict(settings),
    }
    if not (training / NETWORK_FILE).exists():
        train(config, data, training)
    results: dict[str, Any] = {}
    for name in CLASSIFIERS:
        path = output / f"{name}.json"
        made_from = identity | ({"network": sha256(training / NETWORK_FILE)} if name == "averaged" else {})
        if resume and path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["made_from"] == made_from:
                results[name] = stored["result"]
                continue
        details: dict[str, Any] = {}
        if name == "averaged":
            classify = network_classifier(training, config.threads)
        elif name == "nominal":
            nominal = replace(config, training=settings)
            details["losses"] = train(nominal, data, output / "nominal", overwrite=not resume)["losses"]
            classify = network_classifier(output / "nominal", config.threads)
        else:
            parts = _samples(file, config, max_rows)
            if name == "boosting":
                classify, details = fit_boosting(*parts, config.seed, config.threads)
            else:
                classify, details = fit_perceptron(*parts, config.seed)
        names = list(POINTS) if name in SHIFTED else ["nominal"]
        results[name] = judge(score(file, classify, names, config.seed, score_rows), config.seed) | {"details": details}
        write_json(path, {"made_from": made_from, "result": results[name]})
        log.info("%s: cross entropy %.5f", name, results[name]["cross_entropy"])
    report = {
        "made_from": identity,
        "floors": floors(results),
        "information": information_ratios(results),
        "classifiers": results,
    }
    write_json(output / EVALUATION_FILE, report)
    draw_reliability(results, output / "reliability.png")
    draw_shifts({name: results[name] for name in SHIFTED}, output / "shifts.png")
    return report


def _samples(file: EventsFile, config: Config, max_rows: int) -> tuple[TrainingSample, TrainingSample]:
    """Read the events that train the references and those that stop them."""
    held_out = HeldOut(config.seed, config.training.validation_fraction)
    everything = np.ones(len(PROCESSES))
    fractions = everything
    if max_rows:
        counts = np.zeros(len(PROCESSES))
        for events in file.stream(file.rows("training"), keep=held_out.others):
            counts += np.bincount(events.classes, minlength=len(PROCESSES))
        fractions = np.minimum(1.0, max_rows / counts)
    train_part = sample(file, Thinning(held_out, fractions, (config.seed,)), fractions)
    return train_part, sample(file, held_out, everything)
