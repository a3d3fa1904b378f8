"""Several submissions on the same pseudo-experiments: what each of them scores, and by how much they differ.

Every statistic below is a function of averages over pseudo-experiments. A bootstrap therefore needs no more than how
often each pseudo-experiment is drawn; it draws within each set, because the true signal strength of a set is fixed.
All submissions share the draws, so what their answers have in common drops out of the error of a difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.experiment import Record
from harness.leaderboard import scores_as_dict
from harness.pool_point import PoolPoint
from harness.results import EXPERIMENTS_FILE, read_records, read_results
from harness.runner import RunOptions
from harness.scores import BOOTSTRAP_SEED, BOOTSTRAPS, ONE_SIGMA, mae_score, quantiles_score, rmse_score, score_results
from harness.together import run_together
from studies.plots import GREY, MU, MU_HAT
from workshop.errors import UsageError
from workshop.numbers import with_error
from workshop.plots import drawn, new_figure, save

STATISTICS = {
    "coverage": "coverage",
    "interval": "mean interval",
    "quantiles_score": "quantiles score",
    "rmse": "RMSE",
    "mae": "MAE",
    "rms": "RMS of mu_hat",
    "bias": "bias",
    "pull_mean": "pull mean",
    "pull_width": "pull width",
    "predict_seconds": "predict / s",
}
"""Name and title of each statistic. ``rms`` and ``bias`` are those of ``mu_hat - mu``; RMSE and MAE are the official
scores, which also judge ``delta_mu_hat``."""

RATIOS = ("interval", "rms")
"""Statistics whose ratio to the first submission is given besides the difference."""

DRAWN = ("coverage", "interval", "rms", "quantiles_score", "pull_mean", "pull_width")
SAME = ("set", "index", "seed", "mu", "nuisances", "events")
"""Fields of a record that must not depend on the submission."""
EXPECTED = {"coverage": ONE_SIGMA, "pull_mean": 0.0, "pull_width": 1.0}


def run_all(
    submissions: Mapping[str, Path], options: RunOptions, points: Sequence[PoolPoint] = ()
) -> dict[str, list[Record]]:
    """Run submissions on the same pseudo-experiments, or continue such a run; see ``harness.together``.

    Args:
        submissions: Folder or zip file by name; each one's results go to the sub-folder of its name.
        options: Settings of every run; ``submission`` is not used.
        points: Where to ask what they make of the whole pool.

    Returns:
        Records of each submission, sorted by set and index.

    Raises:
        UsageError: If a submission fails, or two of them did not see the same pseudo-experiments.
    """
    run_together(submissions, options, points)
    records = {}
    for name in submissions:
        found, _ = read_records(options.output / name / EXPERIMENTS_FILE)
        records[name] = sorted(found, key=lambda record: (record.set, record.index))
    first, *others = records
    for other in others:
        for a, b in zip(records[first], records[other], strict=True):
            if any(getattr(a, key) != getattr(b, key) for key in SAME):
                msg = f"{first} and {other} saw different pseudo-experiments in set {a.set}, index {a.index}; "
                msg += "choose another --output folder or pass --overwrite"
                raise UsageError(msg)
    return records


def columns(records: list[Record]) -> np.ndarray:
    """Return what the statistics average, shape (n_experiments, 9).

    The columns: covered, width, RMSE and MAE terms, deviation and its square, pull and its square, seconds. A pull is
    NaN where ``delta_mu_hat`` is 0.
    """
    rows = []
    for record in records:
        mu_hat, delta, p16, p84 = (record.answer[key] for key in ("mu_hat", "delta_mu_hat", "p16", "p84"))
        deviation = mu_hat - record.mu
        pull = deviation / delta if delta else np.nan
        as_array = np.array([mu_hat]), np.array([delta])
        scores = rmse_score(record.mu, *as_array), mae_score(record.mu, *as_array)
        seconds = record.predict_seconds
        covered = p16 <= record.mu <= p84
        rows.append((covered, abs(p84 - p16), *scores, deviation, deviation**2, pull, pull**2, seconds))
    return np.array(rows, dtype=np.float64)


def statistics(means: np.ndarray, experiments: int) -> dict[str, np.ndarray]:
    """Return the statistics of averaged columns.

    Args:
        means: Averages of ``columns``, shape (..., 9).
        experiments: Number of pseudo-experiments they are over.

    Returns:
        Arrays of shape (...) by name, in the order of ``STATISTICS``.
    """
    coverage, interval, rmse, mae, bias, square, pull, pull_square, seconds = np.moveaxis(means, -1, 0)
    score = np.vectorize(lambda w, c: quantiles_score(w, c, experiments), otypes=[float])(interval, coverage)
    width = np.sqrt(np.maximum(pull_square - pull**2, 0.0))
    values = (coverage, interval, score, rmse, mae, np.sqrt(square), bias, pull, width, seconds)
    return dict(zip(STATISTICS, values, strict=True))


def resampled_means(
    values: np.ndarray, sets: np.ndarray, n_bootstraps: int = BOOTSTRAPS, seed: int = BOOTSTRAP_SEED
) -> np.ndarray:
    """Average over pseudo-experiments drawn with replacement, as many from each set as it has.

    Args:
        values: Columns of k submissions, shape (k, n, c).
        sets: Set of each pseudo-experiment, shape (n,).
        n_bootstraps: Number of draws.
        seed: Seed of the draws.

    Returns:
        Shape (k, n_bootstraps, c); all submissions share the draws.
    """
    rng = np.random.default_rng(seed)
    sums = np.zeros((len(values), n_bootstraps, values.shape[2]))
    for number in np.unique(sets):
        rows = np.flatnonzero(sets == number)
        times = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=n_bootstraps)
        sums += times.astype(np.float64) @ values[:, rows]
    return np.asarray(sums / values.shape[1])


def compare(records: Mapping[str, list[Record]], n_bootstraps: int = BOOTSTRAPS) -> dict[str, Any]:
    """Return value and bootstrap error of each submission's statistics, and of the differences to the first.

    Args:
        records: Records by submission, as ``run_all`` returns them.
        n_bootstraps: Number of bootstraps.

    Returns:
        By submission: ``statistics``, ``differences`` (to the first submission) and ``ratios`` (of ``RATIOS``), each
        with ``value`` and ``error`` by name; None where a number is not finite.
    """
    names = list(records)
    values = np.stack([columns(records[name]) for name in names])
    experiments = values.shape[1]
    means = statistics(values.mean(axis=1), experiments)
    draws = statistics(
        resampled_means(values, np.array([record.set for record in records[names[0]]]), n_bootstraps), experiments
    )
    out: dict[str, Any] = {}
    for i, name in enumerate(names):
        out[name] = {
            "statistics": {key: _with_error(means[key][i], draws[key][i]) for key in STATISTICS},
            "differences": {
                key: _with_error(means[key][i] - means[key][0], draws[key][i] - draws[key][0]) for key in STATISTICS
            },
            "ratios": {
                key: _with_error(means[key][i] / means[key][0], draws[key][i] / draws[key][0]) for key in RATIOS
            },
        }
    return out


def report(folder: Path, records: Mapping[str, list[Record]]) -> dict[str, Any]:
    """Return the content of comparison.json: ``compare``, the official scores and the statistics by set.

    Args:
        folder: Folder with a sub-folder of results for each submission.
        records: Records by submission.
    """
    out = compare(records)
    for name, found in records.items():
        results = read_results(folder / name)
        out[name]["official"] = scores_as_dict(score_results(results), results)
        values, sets = columns(found), np.array([record.set for record in found])
        out[name]["sets"] = []
        for number, result in enumerate(results.sets):
            here = statistics(values[sets == number].mean(axis=0), int((sets == number).sum()))
            out[name]["sets"].append({"mu": result.mu, **{key: _finite(value) for key, value in here.items()}})
    experiments = len(next(iter(records.values())))
    return {"experiments": experiments, "bootstraps": BOOTSTRAPS, "submissions": out}


def tables(content: Mapping[str, Any]) -> str:
    """Return what ``report`` holds as plain text: statistics, then differences and ratios to the first submission."""
    submissions = content["submissions"]
    first, *others = submissions
    rows = {
        STATISTICS[key]: [_number(entry["statistics"][key]) for entry in submissions.values()] for key in STATISTICS
    }
    rows["answers not ok"] = [str(entry["official"]["not_ok"]) for entry in submissions.values()]
    text = plain_table(["", *submissions], rows)
    if others:
        rows = {
            STATISTICS[key]: [_number(submissions[name]["differences"][key]) for name in others] for key in STATISTICS
        }
        for key in RATIOS:
            rows[f"{STATISTICS[key]}, ratio"] = [_number(submissions[name]["ratios"][key]) for name in others]
        text += "\n\n" + plain_table(["", *(f"{name} - {first}" for name in others)], rows)
    return text


@drawn
def draw(content: Mapping[str, Any], stem: Path) -> list[Path]:
    """Draw statistics with their errors, and below them coverage, interval and RMS against the true mu.

    Args:
        content: What ``report`` returns.
        stem: Path of the pictures without an ending.

    Returns:
        The files.
    """
    submissions = content["submissions"]
    names = list(submissions)
    figure, axes = new_figure(
        10.0, 4.5 + 0.6 * len(names), rows=3, columns=3, height_ratios=[0.3 * len(names), 0.3 * len(names), 2.2]
    )
    for number, (panel, key) in enumerate(zip(axes[:2].flat, DRAWN, strict=True)):
        for row, name in enumerate(names):
            entry = submissions[name]["statistics"][key]
            if entry["value"] is not None and entry["error"] is not None:
                panel.errorbar(entry["value"], row, xerr=entry["error"], fmt="o", color=f"C{row}", ms=4, capsize=2)
        if key in EXPECTED:
            panel.axvline(EXPECTED[key], color=GREY, lw=1, ls="--", zorder=0)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_yticks(range(len(names)), names if number % 3 == 0 else [""] * len(names), fontsize=9)
        panel.set_title(_title(key), fontsize=9)
        panel.tick_params(labelsize=8)
    for panel, key in zip(axes[2], DRAWN[:3], strict=True):
        for row, name in enumerate(names):
            points = sorted((entry["mu"], entry[key]) for entry in submissions[name]["sets"])
            panel.plot(*zip(*points, strict=True), "o-", color=f"C{row}", ms=3, lw=1, label=name)
        if key in EXPECTED:
            panel.axhline(EXPECTED[key], color=GREY, lw=1, ls="--", zorder=0)
        panel.set_xlabel(f"true {MU}", fontsize=9)
        panel.set_ylabel(_title(key), fontsize=9)
        panel.tick_params(labelsize=8)
    figure.suptitle(f"{content['experiments']} pseudo-experiments, the same for all", fontsize=10)
    return save(figure, stem)


def _title(key: str) -> str:
    return STATISTICS[key].replace("mu_hat", MU_HAT)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _with_error(value: Any, draws: np.ndarray) -> dict[str, float | None]:
    return {"value": _finite(value), "error": _finite(draws.std())}


def _number(entry: Mapping[str, float | None]) -> str:
    value, error = (math.nan if entry[key] is None else float(entry[key] or 0.0) for key in ("value", "error"))
    return with_error(value, error)


def plain_table(header: list[str], rows: Mapping[str, list[str]]) -> str:
    """Return a table as plain text: titles of the columns, and the cells of each row by its title."""
    lines = [header, *([title, *cells] for title, cells in rows.items())]
    first, *widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([title.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for title, *cells in lines
    )
