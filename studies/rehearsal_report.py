"""A rehearsal of the final phase as text and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.leaderboard import PUBLISHED, PUBLISHED_DATA
from harness.scores import ONE_SIGMA
from studies.compare import plain_table
from studies.plots import BLACK, BLUE, GREY, MU, NUISANCE_LABELS
from studies.plots import ONE_SIGMA as GREEN
from studies.rehearsal import physical
from workshop.numbers import with_error
from workshop.plots import drawn, new_figure, save

COLUMNS = {"coverage": "coverage", "interval": "mean interval", "rms": "RMS of mu_hat", "quantiles_score": "score"}
"""Statistics of the table of methods."""


def as_text(content: Mapping[str, Any], seconds: Mapping[str, Any]) -> str:
    """Return a rehearsal as text for people."""
    submissions = content["submissions"]
    low, high = content["band"]
    parts = [methods_table(submissions, seconds), f"no penalty for a coverage from {low:.4f} to {high:.4f}"]
    others = list(submissions)[1:]
    if others:
        parts.append(differences_table(submissions, seconds))
    for name, entry in submissions.items():
        parts += [f"-- {name} --", sets_table(entry), causes(entry), bins_table(entry), verdict(entry)]
    return "\n\n".join(parts)


def methods_table(submissions: Mapping[str, Any], seconds: Mapping[str, Any]) -> str:
    """Return the table of methods, the official leaderboard beside it."""
    rows: dict[str, list[str]] = {}
    for name, entry in submissions.items():
        bootstrap = entry["official"]["bootstrap"]["quantiles_score"]
        rows[name] = [
            *(_pair(entry["statistics"][key]) for key in COLUMNS),
            with_error(bootstrap["mean"], bootstrap["std"] if len(entry["sets"]) > 1 else 0.0),
            _pair(seconds[name]["predict"]),
            "these",
        ]
    for team, coverage, interval, score in PUBLISHED:
        rows[team] = [f"{coverage:.4f}", f"{interval:.4f}", "", "", f"{score:.4f}", "", f"other: {PUBLISHED_DATA}"]
    return plain_table(["", *COLUMNS.values(), "score, sets drawn", "predict / s", "data"], rows)


def differences_table(submissions: Mapping[str, Any], seconds: Mapping[str, Any]) -> str:
    """Return the paired differences to the first submission."""
    first, *others = submissions
    rows = {
        f"{name} - {first}": [
            *(_pair(submissions[name]["differences"][key]) for key in COLUMNS),
            _pair(seconds[name]["difference"]),
        ]
        for name in others
    }
    return plain_table(["", *COLUMNS.values(), "predict / s"], rows)


def sets_table(entry: Mapping[str, Any]) -> str:
    """Return the truth about each set."""
    rows = {}
    for number, one in enumerate(entry["sets"]):
        rows[f"set {number}"] = [
            f"{one['mu']:.4f}",
            str(one["experiments"]),
            fraction_text(one["coverage"]),
            _pair(one["bias"], sign=True),
            f"{one['shift']:+.3f}" if entry["pool"] else "",
            _pair(one["rest"], sign=True) if entry["pool"] else "",
            fraction_text(one["coverage_moved_back"]) if entry["pool"] else "",
            _mean(one["pull"]),
            _pair(one["interval"]),
            f"{one['quantiles_score']:.2f}",
        ]
    header = ["", "true mu", "n", "coverage", "bias", "by pool", "rest", "moved back", "pull", "interval", "score"]
    return plain_table(header, rows)


def causes(entry: Mapping[str, Any]) -> str:
    """Say which part of the bias comes from where."""
    pool = entry["pool"]
    if pool is None:
        return "where the bias comes from is not known: this submission does not count weights"
    lines = [f"the whole pool moves mu_hat by {pool['shift']:+.3f} on average over the sets"]
    if pool["expected"]:
        expected = pool["expected"]
        lines[0] += f"; to first order expected {expected['shift']:+.3f}, from chance in the pool's events "
        lines[0] += f"+- {expected['sample_error']:.3f} and in those of the tables +- {expected['tables_error']:.3f}"
    weights = np.array([one["experiments"] for one in entry["sets"]], dtype=np.float64)
    rest = np.average([one["rest"]["value"] for one in entry["sets"]], weights=weights)
    error = math.sqrt(sum((one["rest"]["error"] * one["experiments"]) ** 2 for one in entry["sets"])) / weights.sum()
    lines.append(f"what is left for the method: {with_error(float(rest), error, sign=True)}")
    back = entry["moved_back"]
    width = _pair({"value": back["pull"]["width"], "error": back["pull"]["width_error"]})
    lines.append(
        f"moved back by the pool's shift: coverage {fraction_text(back['coverage'])}, "
        f"score {back['quantiles_score']:.2f}, pull width {width}"
    )
    lines += [
        f"at mu = {one['mu']:g}, tes {one['tes']:g}, jes {one['jes']:g}, soft_met {one['soft_met']:g} GeV the pool's "
        f"shift is {one['shift']:+.3f}"
        for one in pool["others"]
    ]
    return "\n".join(lines)


def bins_table(entry: Mapping[str, Any]) -> str:
    """Return coverage and pulls in bins of mu and the true nuisances."""
    rows = {}
    for key, found in entry["bins"].items():
        for number, one in enumerate(found["bins"]):
            rows[f"{key} {physical(key, one['low'], one['high'])}"] = [
                str(one["experiments"]),
                fraction_text(one["coverage"]),
                _mean(one["pull"]),
                fraction_text(one["coverage_moved_back"]),
                _mean(one["pull_moved_back"]),
                _pair(one["interval"]),
                f"{found['p_coverage']:.2g}" if number == 0 else "",
            ]
    header = ["", "n", "coverage", "pull", "moved back", "pull", "interval", "p even"]
    return plain_table(header, rows)


def verdict(entry: Mapping[str, Any]) -> str:
    """Return how many checks hold, and those that do not."""
    checks = entry["checks"]
    failed = [check for check in checks if not check["ok"]]
    lines = [f"checks: {len(checks) - len(failed)} of {len(checks)} hold"]
    lines += [
        f"  {check['name']}: {check['value']:.4g}, but should lie from {check['low']:.4g} to {check['high']:.4g}"
        for check in failed
    ]
    return "\n".join(lines)


def fraction_text(found: Mapping[str, Any]) -> str:
    """Return a fraction with half of its Clopper-Pearson interval as error."""
    return with_error(found["value"], 0.5 * (found["high"] - found["low"]))


@drawn
def draw(content: Mapping[str, Any], name: str, stem: Path) -> list[Path]:
    """Draw the coverage of a submission against mu, set by set, and in bins of each true nuisance.

    Args:
        content: What ``studies.rehearsal.rehearsal`` returns.
        name: The submission.
        stem: Path of the pictures without an ending.

    Returns:
        The files.
    """
    entry = content["submissions"][name]
    nuisances = [key for key in entry["bins"] if key != "mu"]
    columns = 4
    figure, panels = new_figure(11.0, 6.0, rows=2, columns=columns, sharey=True)
    by_set = [(one["mu"], one) for one in entry["sets"]]
    shown = [(MU, by_set)]
    for key in nuisances:
        unit = " / GeV" if key == "soft_met" else ""
        middles = [(0.5 * (one["low"] + one["high"]), one) for one in entry["bins"][key]["bins"]]
        shown.append((f"true {NUISANCE_LABELS[key]}{unit}", middles))
    for panel, (title, points) in zip(panels.flat, shown, strict=False):
        number = len(points)
        panel.axhspan(*_band(content["experiments"] / number), color=GREEN, alpha=0.4, lw=0)
        panel.axhline(ONE_SIGMA, color=BLACK, lw=0.8)
        kinds = [("coverage", GREY, "as answered")]
        if entry["pool"]:
            kinds.append(("coverage_moved_back", BLUE, "moved back by the pool's shift"))
        for kind, colour, text in kinds:
            x = [place for place, _ in points]
            y = np.array([one[kind]["value"] for _, one in points])
            below = y - [one[kind]["low"] for _, one in points]
            above = np.array([one[kind]["high"] for _, one in points]) - y
            panel.errorbar(x, y, yerr=[below, above], fmt="o", ms=5, color=colour, capsize=2, label=text)
        panel.set_xlabel(title, fontsize=11)
        panel.tick_params(labelsize=10)
    for row in panels:
        row[0].set_ylabel("coverage", fontsize=11)
    for panel in list(panels.flat)[len(shown) :]:
        panel.set_axis_off()
    handles, texts = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    figure.suptitle(f"{name}, {content['experiments']} pseudo-experiments; the band is one binomial error", fontsize=12)
    return save(figure, stem)


def _band(n: float) -> Sequence[float]:
    error = math.sqrt(ONE_SIGMA * (1 - ONE_SIGMA) / n)
    return ONE_SIGMA - error, ONE_SIGMA + error


def _mean(pull: Mapping[str, Any]) -> str:
    return _pair({"value": pull["mean"], "error": pull["mean_error"]}, sign=True)


def _pair(entry: Mapping[str, Any], *, sign: bool = False) -> str:
    value, error = entry["value"], entry["error"]
    return with_error(math.nan if value is None else value, math.nan if error is None else error, sign=sign)
