"""Scores as people and programs read them: scores.json and the table beside the published results."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.results import RunResults
from harness.scores import Scores

PUBLISHED = (
    ("HEPHY", 0.6683, 0.4599, -0.5823),
    ("IBRAHIME", 0.6698, 0.4974, -0.5761),
    ("HZUME", 0.6659, 0.8134, -2.1650),
)
"""Team, mean coverage, mean interval and mean quantiles score of the challenge's final phase."""

PUBLISHED_EXPERIMENTS = 10_000
PUBLISHED_DATA = "official hold-out"
HEADER = ("team", "coverage", "interval", "quantiles score", "experiments", "data")
BOOTSTRAPPED = ("coverage", "interval", "quantiles_score")


def scores_as_dict(scores: Scores, results: RunResults) -> dict[str, Any]:
    """Return the content of scores.json.

    The first six keys are those of the official file. Behind them are the scores by set, mean and standard deviation
    over the bootstraps, the number of pseudo-experiments, and how many answers the model flagged with which status.
    """
    bootstrap = {name: getattr(scores.bootstrap, name) for name in BOOTSTRAPPED}
    return {
        "rmse": scores.rmse,
        "mae": scores.mae,
        "interval": scores.interval,
        "coverage": scores.coverage,
        "quantiles_score": scores.quantiles_score,
        "ingestion_duration": results.duration,
        "experiments": scores.experiments,
        "sets": [dataclasses.asdict(score) for score in scores.sets],
        "bootstrap": {
            name: {"mean": float(values.mean()), "std": float(values.std())} for name, values in bootstrap.items()
        },
        "statuses": results.statuses,
        "not_ok": None if results.statuses is None else sum(results.statuses.values()) - results.statuses.get("ok", 0),
    }


def leaderboard_rows(scores: Scores, team: str, data: str) -> list[tuple[str, float, float, float, int, str]]:
    """Return this run's row among the published ones, best quantiles score first; arguments as for ``leaderboard``."""
    coverage, interval, score = (float(getattr(scores.bootstrap, name).mean()) for name in BOOTSTRAPPED)
    rows = [(*numbers, PUBLISHED_EXPERIMENTS, PUBLISHED_DATA) for numbers in PUBLISHED]
    rows.append((team, coverage, interval, score, scores.experiments, data))
    return sorted(rows, key=lambda row: -row[3])


def leaderboard(scores: Scores, team: str, data: str) -> str:
    """Return a plain-text table: this run beside the published results, best quantiles score first.

    Args:
        scores: Scores of the run; the row shows the means over its bootstraps, as the published rows do.
        team: Name in the first column.
        data: What the run was made on, for the last column.
    """
    rows = leaderboard_rows(scores, team, data)
    cells = [HEADER, *((row[0], *(f"{number:.4f}" for number in row[1:4]), str(row[4]), row[5]) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        texts = [
            cell.ljust(width) if position in (0, len(HEADER) - 1) else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(texts).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def sets_table(scores: Scores) -> str:
    """Return a plain-text table of the scores by set."""
    lines = ["set  true mu  experiments  coverage  interval     rmse      mae"]
    lines += [
        f"{number:3d}  {score.mu:7.4f}  {score.experiments:11d}  {score.coverage:8.4f}  {score.interval:8.4f}"
        f"  {score.rmse:7.4f}  {score.mae:7.4f}"
        for number, score in enumerate(scores.sets)
    ]
    return "\n".join(lines)
