"""Compare simulated events with the public data set's published yields and with reference events.

The folder of reference events holds one parquet file per process (and ``real_500.parquet``, compared if it is there).
Writes ``comparison.json`` and a picture of all 28 features per process, and logs the tables.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import kstwobign

from sage.challenge.nuisances import PROCESSES, SIGNAL
from sage.challenge.shifts import PRIMARIES
from training.events import DATA_FILE, PARENTS_FILE
from training.simulation.comparison import (
    FEATURES,
    Sample,
    classifier_auc,
    effective,
    ks_table,
    region_table,
    response_table,
    score_inflation,
)
from training.simulation.comparison_plots import draw_features
from workshop.files import write_bytes, write_json
from workshop.plots import image

REAL_FILE = "real_500.parquet"
KS_FLOOR = 0.02
LEAST_DRAWN = 100
"""Fewer real events than this would only hide the rest."""

log = logging.getLogger("sage.training.simulation")


def read_events(folder: Path) -> dict[str, Sample]:
    """Read an events file with its showered events, by process."""
    table = pq.read_table(folder / DATA_FILE).to_pandas()
    parents = pq.read_table(folder / PARENTS_FILE)["parent"].to_numpy()
    return _by_process(table, parents)


def read_reference(path: Path) -> dict[str, Sample]:
    """Read events without showered events, by process; every row counts as independent."""
    table = pq.read_table(path).to_pandas()
    return _by_process(table, np.arange(len(table)))


def halves(sample: Sample) -> tuple[Sample, Sample]:
    """Split a reference: what was tuned was tuned on the first half, and is reported on the second."""
    rows = np.arange(len(sample.weights))
    return sample.take(rows[::2]), sample.take(rows[1::2])


def real_p_values(sample: Sample, real: Sample) -> dict[str, float]:
    """KS p-values of the features against real events."""
    table = ks_table(sample, real)
    n = 1.0 / (1.0 / effective(sample.weights) + 1.0 / effective(real.weights))
    return {name: float(kstwobign.sf(table[name] * np.sqrt(n))) for name in FEATURES}


def compare(events: Path, reference: Path, output: Path, others: Sequence[Path] = ()) -> dict[str, Any]:
    """Compare all processes that both have; see the module's docstring. ``others`` are drawn beside."""
    output.mkdir(parents=True, exist_ok=True)
    samples = read_events(events)
    drawn_beside = {folder.name: read_events(folder) for folder in others}
    real = read_reference(reference / REAL_FILE) if (reference / REAL_FILE).exists() else {}
    report: dict[str, Any] = {}
    for process in PROCESSES:
        path = reference / f"{process}.parquet"
        if process not in samples or not path.exists():
            continue
        sample = samples[process]
        other = halves(read_reference(path)[process])[1]
        report[process] = {
            "rows": len(sample.weights),
            "effective_rows": effective(sample.weights),
            "regions": region_table(sample, process),
            "responses": response_table(sample, process),
            "ks": ks_table(sample, other),
            "auc": classifier_auc(sample, other),
        }
        if process in real:
            report[process]["real_p_values"] = real_p_values(sample, real[process])
        shown = {label: beside[process] for label, beside in drawn_beside.items() if process in beside}
        if process in real and len(real[process].weights) >= LEAST_DRAWN:
            shown["real events"] = real[process]
        figure = draw_features({events.name: sample, **shown, "reference": other}, process)
        write_bytes(output / f"{process}.png", image(figure, "png"))
        _log(process, report[process])
    if len(samples) > 1 and SIGNAL in samples:
        report["score_inflation"] = score_inflation(samples, SIGNAL)
        for process, values in report["score_inflation"].items():
            log.info("%s inflation in score bins: %s", process, " ".join(f"{value:.2f}" for value in values))
    write_json(output / "comparison.json", report)
    return report


def _by_process(table: Any, parents: np.ndarray) -> dict[str, Sample]:
    out = {}
    for process in PROCESSES:
        rows = np.flatnonzero(table["detailed_labels"].to_numpy() == process)
        if len(rows):
            columns = {name: table[name].to_numpy()[rows] for name in PRIMARIES}
            out[process] = Sample(columns, table["weights"].to_numpy(dtype=np.float64)[rows], parents[rows])
    return out


def _log(process: str, made: dict[str, Any]) -> None:
    log.info("%s: %d rows, %.0f effective, AUC %.3f", process, made["rows"], made["effective_rows"], made["auc"])
    for name, row in made["regions"].items():
        log.info("  %-20s ratio %.3f +- %.3f  inflation %.2f", name, row["ratio"], row["error"], row["inflation"])
    for region, rows in made["responses"].items():
        shown = [f"{row['change']:.2f}({row['published']:.2f})" + ("" if row["within_errors"] else "!") for row in rows]
        log.info("  %-20s %s", region, " ".join(shown))
    chance = made["ks"]["chance_95"]
    worst = sorted(((made["ks"][name], name) for name in FEATURES), reverse=True)[:5]
    log.info("  KS (floor %.3f): %s", KS_FLOOR + chance, ", ".join(f"{name} {value:.3f}" for value, name in worst))
    if "real_p_values" in made:
        low = min(made["real_p_values"].items(), key=lambda item: item[1])
        log.info("  lowest p-value against real events: %s %.4f", *low)
