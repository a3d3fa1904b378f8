"""Do flows help? The same classifier with and without densities of flows among its inputs, several seeds of each.

Two classifiers, each with the features of every kind of flows and with none: one of the events' columns, as in
arXiv:2505.08709, and one of a trained network's class probabilities. All are trained on the same nominal events with
jets and judged on others, which trained nothing: cross entropy with balanced classes, information on mu
(``training.information``), and what follows for the statistical error of mu, 1 / sqrt(information). A difference is
that of the same seed, with the standard error of the mean over seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.shifts import select, shift
from sage.errors import SettingsError
from sage.flows.classifier import Flows
from sage.flows.inputs import CATEGORIES
from training.evaluate import network_classifier
from training.events import Events, EventsFile
from training.flow_classifier import TowerSample, TowerSettings, balanced, fit_towers, tower_sample
from training.flow_features import CategoryEvents, FlowFeatureSettings, by_category, train_flows
from training.information import Sample, information
from training.networks import NETWORK_FILE
from workshop.files import read_object, sha256, write_json
from workshop.numbers import with_error
from workshop.plots import drawn, new_figure

ABLATION_FILE = "ablation.json"
NO_FLOWS = "none"
ABLATED = ("contrastive", "two_flows")
"""Losses of the flows that are compared."""
SMALLEST = 1e-12
"""Of a probability, before the logarithm."""
BETTER_BY, WORTH = 2.0, 0.01
"""Flows pay if the cross entropy falls by more than so many of its errors, and the error of mu by more than this."""


@dataclass(frozen=True)
class AblationSettings:
    """What is compared.

    Args:
        flows: Settings of the flows by name of their loss.
        towers: Of the classifiers; the seeds count up from theirs.
        seeds: Classifiers of each kind.
        rows: First rows of the training events that are used; 0 for all.

    Raises:
        SettingsError: If there are fewer than two seeds, so no error.
    """

    flows: Mapping[str, FlowFeatureSettings] = field(
        default_factory=lambda: {loss: FlowFeatureSettings(loss=loss) for loss in ABLATED}
    )
    towers: TowerSettings = field(default_factory=TowerSettings)
    seeds: int = 5
    rows: int = 0

    def __post_init__(self) -> None:
        if self.seeds < 2:
            msg = f"{self.seeds} seeds; give at least 2, as the error comes from their spread"
            raise SettingsError(msg)


def ablate(
    settings: AblationSettings, data: Path, test: Path, network: Path, output: Path, threads: int = 1
) -> dict[str, Any]:
    """Train flows and classifiers, judge them and write ``ablation.json`` after each; goes on where it stopped.

    Args:
        settings: What is compared.
        data: Folder of the events that train.
        test: Folder of the events that judge.
        network: Folder of the network whose class probabilities are classified with.
        output: Folder for flows and results.
        threads: Of the network.

    Returns:
        The content of ``ablation.json``.
    """
    files = {"data": EventsFile(data, 0.0), "test": EventsFile(test, 0.0)}
    made_from: dict[str, Any] = {
        "settings": json.loads(json.dumps(asdict(settings))),  # as it is read back
        **{name: sha256(file.path) for name, file in files.items()},
        "network": sha256(network / NETWORK_FILE),
    }
    rows = files["data"].rows("all")
    parts = {"data": rows[: settings.rows] if settings.rows else rows, "test": files["test"].rows("all")}
    events = {name: file.read(parts[name]) for name, file in files.items()}
    categories = {name: by_category(each) for name, each in events.items()}
    inputs, flags = _inputs(settings, events, categories, network, output, threads)
    del events
    judged = judge_sample(categories["test"])
    results: dict[str, Any] = {}
    for base in ("columns", "network"):
        for flows in (NO_FLOWS, *settings.flows):
            name = f"{base}, {flows}"
            beside = (base,) if flows == NO_FLOWS else (base, flows)
            train, held = (_beside(inputs[part], beside) for part in ("data", "test"))
            results[name] = []
            for seed in range(settings.towers.seed, settings.towers.seed + settings.seeds):
                path = output / "classifiers" / f"{base}_{flows}_{seed}.json"
                results[name].append(_one(path, made_from, train, held, judged, replace(settings.towers, seed=seed)))
    content = {"made_from": made_from, "flags": flags, "classifiers": results, "compared": compared(results)}
    write_json(output / ABLATION_FILE, content)
    return content


Samples = dict[str, TowerSample]


def _inputs(
    settings: AblationSettings,
    events: Mapping[str, Events],
    categories: Mapping[str, Mapping[str, CategoryEvents]],
    network: Path,
    output: Path,
    threads: int,
) -> tuple[dict[str, dict[str, Samples]], list[str]]:
    """Return what classifiers read, by part of the events and name, and the flags of the flows."""
    flows, flags = {}, []
    for name, one in settings.flows.items():
        flows[name], told = train_flows(one, categories["data"], output / "flows" / name)
        flags += [f"{name}: {flag}" for flag in told]
    columns: dict[str, dict[str, Samples]] = {}
    for part in events:
        columns[part] = {
            "columns": _columns(next(iter(flows.values())), categories[part]),
            "network": _network_inputs(network, events[part], categories[part], threads),
        }
        for name, each in flows.items():
            columns[part][name] = _features(each, categories[part])
    return columns, flags


def _columns(flows: Mapping[str, Flows], events: Mapping[str, CategoryEvents]) -> Samples:
    return {name: tower_sample(flows[name], one, ()) for name, one in events.items()}


def _features(flows: Mapping[str, Flows], events: Mapping[str, CategoryEvents]) -> Samples:
    out = {}
    for name, one in events.items():
        names = sorted(flows[name].flows)
        whole = tower_sample(flows[name], one, names)
        out[name] = TowerSample(whole.inputs[:, -len(names) :], one)
    return out


def _network_inputs(network: Path, events: Events, categories: Mapping[str, CategoryEvents], threads: int) -> Samples:
    """Return logarithms of ratios of class probabilities, scaled to deviations of about 1."""
    columns, _ = select(shift(events.columns))
    classify = network_classifier(network, threads)
    out = {}
    for name, one in categories.items():
        p = classify({key: np.ascontiguousarray(column[one.rows], dtype=np.float32) for key, column in columns.items()})
        logs = np.log(np.maximum(p, SMALLEST))
        out[name] = TowerSample((0.3 * (logs[:, 1:] - logs[:, :1])).astype(np.float32), one)
    return out


def _beside(columns: Mapping[str, Samples], names: Sequence[str]) -> Samples:
    first = columns[names[0]]
    return {
        category: TowerSample(np.concatenate([columns[name][category].inputs for name in names], axis=1), one.events)
        for category, one in first.items()
    }


@dataclass(frozen=True)
class Judged:
    """Events that judge, of all categories one after the other.

    Args:
        sample: For the information.
        weights: Balanced ones, for the cross entropy, shape (n,).
    """

    sample: Sample
    weights: np.ndarray


def judge_sample(events: Mapping[str, CategoryEvents]) -> Judged:
    """Put the categories' events one after the other."""
    parts = [events[category.name] for category in CATEGORIES]
    weights, signal, showers = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("weights", "signal", "showers")
    )
    by_name = balanced(events)
    sample = Sample(weights, signal, showers, {"jets": np.ones(len(weights), dtype=np.bool_)})
    return Judged(sample, np.concatenate([by_name[category.name] for category in CATEGORIES]))


def _one(
    path: Path, made_from: dict[str, Any], train: Samples, test: Samples, judged: Judged, settings: TowerSettings
) -> dict[str, Any]:
    """Train and judge one classifier, or take what an earlier run found."""
    if path.exists() and (content := read_object(path, "remove it to train again"))["made_from"] == made_from:
        result: dict[str, Any] = content["result"]
        return result
    network, losses = fit_towers(train, settings)
    score = np.concatenate([network.scores(category.name, test[category.name].inputs) for category in CATEGORIES])
    p = np.clip(np.where(judged.sample.signal, score, 1.0 - score).astype(np.float64), SMALLEST, 1.0)
    told = information(judged.sample, score, seed=1)["jets"]
    result = {
        "seed": settings.seed,
        "held_out": losses,
        "cross_entropy": float((judged.weights * -np.log(p)).sum() / judged.weights.sum()),
        "information": told.value,
        "resampled": told.resampled.tolist(),
        "sigma_mu": 1.0 / math.sqrt(told.value) if told.value > 0 else None,
    }
    write_json(path, {"made_from": made_from, "result": result})
    return result


def compared(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return means over seeds, and what each kind of flows changes, with errors.

    The error of an information's ratio has two parts: the spread over seeds, and the finite test events, from Poisson
    weights of their showers that both classifiers share.
    """
    out = {}
    for name, runs in results.items():
        base = f"{name.partition(', ')[0]}, {NO_FLOWS}"
        entropy, told = (np.array([run[key] for run in runs]) for key in ("cross_entropy", "information"))
        resampled = np.array([run["resampled"] for run in runs]).mean(axis=0)
        entry: dict[str, Any] = {
            "cross_entropy": _mean(entropy),
            "information": {"value": float(told.mean()), "error": float(resampled.std())},
            "sigma_mu": {
                "value": float(told.mean() ** -0.5),
                "error": float(0.5 * told.mean() ** -1.5 * resampled.std()),
            },
        }
        if name != base:
            without = results[base]
            change = _mean(entropy - np.array([run["cross_entropy"] for run in without]))
            ratios = told / np.array([run["information"] for run in without])
            shared = (resampled / np.array([run["resampled"] for run in without]).mean(axis=0)).std()
            ratio, seeds = float(ratios.mean()), float(ratios.std(ddof=1) / math.sqrt(len(ratios)))
            error = math.hypot(seeds, float(shared))
            sigma = {"value": ratio**-0.5, "error": 0.5 * error * ratio**-1.5, "error_seeds": 0.5 * seeds * ratio**-1.5}
            entry |= {"change_of_cross_entropy": change, "ratio_of_sigma_mu": sigma}
            entry["pays"] = bool(change["value"] < -BETTER_BY * change["error"] and sigma["value"] < 1.0 - WORTH)
        out[name] = entry
    return out


def _mean(values: np.ndarray) -> dict[str, float]:
    return {"value": float(values.mean()), "error": float(values.std(ddof=1) / math.sqrt(len(values)))}


def table(content: Mapping[str, Any]) -> str:
    """Return the text table of a result of ``ablate``."""
    lines = [
        f"{'inputs, flows':<24}{'cross entropy':>20}{'change':>22}{'information':>16}"
        f"{'sigma(mu)':>18}{'ratio':>18}  pays"
    ]
    for name, one in content["compared"].items():
        cells = [_text(one["cross_entropy"]), _text(one.get("change_of_cross_entropy")), _text(one["information"])]
        cells += [_text(one["sigma_mu"]), _text(one.get("ratio_of_sigma_mu"))]
        widths = (20, 22, 16, 18, 18)
        pays = {True: "yes", False: "no", None: ""}[one.get("pays")]
        lines.append(
            f"{name:<24}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)) + f"  {pays}"
        )
    return "\n".join(lines)


def _text(entry: Mapping[str, float] | None) -> str:
    return "" if entry is None else with_error(entry["value"], entry["error"])


@drawn
def draw_ablation(content: Mapping[str, Any]) -> Any:
    """Draw cross entropy and statistical error of mu, one point for each classifier; return the figure."""
    figure, panels = new_figure(9.0, 3.6, columns=2)
    names = list(content["classifiers"])
    for panel, key, title in zip(
        panels.flat, ("cross_entropy", "sigma_mu"), ("cross entropy", "statistical error of mu"), strict=True
    ):
        for row, name in enumerate(names):
            values = [run[key] for run in content["classifiers"][name]]
            panel.plot(values, [row] * len(values), "o", color=f"C{row % 3}", ms=4, alpha=0.7)
            panel.plot([np.mean(values)] * 2, [row - 0.3, row + 0.3], color=f"C{row % 3}", lw=1.5)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_yticks(range(len(names)), names if panel is panels.flat[0] else [""] * len(names), fontsize=8)
        panel.set_xlabel(title, fontsize=9)
        panel.tick_params(labelsize=8)
    return figure
