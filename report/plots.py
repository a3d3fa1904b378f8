"""Pictures of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.results import SetResult
from harness.scores import ONE_SIGMA, mean_interval
from studies.analysis import Fraction, flat_band, fraction
from studies.plots import BLACK, BLUE, MU, NUISANCE_LABELS, bands, label
from studies.plots import ONE_SIGMA as GREEN
from workshop.plots import drawn, new_figure

REACH = 4.0
"""Pulls are shown from minus to plus this."""
MOST_POINTS = 500
"""Pulls of each parameter that are drawn, evenly taken; mean and width are of all."""


def coverage_of(result: SetResult) -> Fraction:
    """Return the coverage of a set."""
    inside = sum(low <= result.mu <= high for low, high in zip(result.p16, result.p84, strict=True))
    return fraction(inside, len(result.p16))


@drawn
def draw_coverage(sets: Sequence[SetResult]) -> Any:
    """Draw the coverage of each set with the band that costs nothing, above the mean interval, against the true mu."""
    figure, panels = new_figure(5.4, 4.8, rows=2, sharex=True)
    upper, lower = panels[:, 0]
    mus = [result.mu for result in sets]
    found = [coverage_of(result) for result in sets]
    errors = [[one.value - one.low for one in found], [one.high - one.value for one in found]]
    total = sum(len(result.p16) for result in sets)
    upper.axhspan(*flat_band(total), color=GREEN, lw=0, label=f"no penalty, {total} pseudo-experiments")
    upper.axhline(ONE_SIGMA, color=BLACK, lw=0.8)
    upper.errorbar(mus, [one.value for one in found], yerr=errors, fmt="o", ms=4, color=BLUE, capsize=2, label="set")
    # Room above 1 for the legend, so that it hides no point.
    upper.set_ylim(-0.04, 1.25)
    upper.set_yticks(np.linspace(0.0, 1.0, 6))
    upper.set_ylabel("coverage")
    upper.legend(loc="upper left", ncols=2, frameon=False, fontsize=8)
    widths = [np.abs(np.subtract(result.p84, result.p16)) for result in sets]
    scatter = [width.std(ddof=1) / np.sqrt(len(width)) if len(width) > 1 else 0.0 for width in widths]
    means = [mean_interval(np.asarray(result.p16), np.asarray(result.p84)) for result in sets]
    lower.errorbar(mus, means, yerr=scatter, fmt="o", ms=4, color=BLUE, capsize=2)
    lower.set_ylim(0.0, 1.3 * max(means) if 0.0 < max(means) < 1e300 else 1.0)
    lower.set_ylabel("mean interval in mu")
    lower.set_xlabel(f"true {MU}")
    label(upper, "")
    return figure


@drawn
def draw_run_pulls(pulls: Mapping[str, np.ndarray]) -> Any:
    """Draw each parameter's pulls as points, and their mean and width as a bar, over the 1 and 2 sigma bands."""
    figure, axes = new_figure(5.4, 1.3 + 0.5 * len(pulls))
    bands(axes)
    y = np.arange(len(pulls))[::-1]
    for height, values in zip(y, pulls.values(), strict=True):
        if not len(values):
            axes.text(0.0, height, "no pull: no estimate has an uncertainty", ha="center", va="center", fontsize=8)
            continue
        step = math.ceil(len(values) / MOST_POINTS)
        shown = np.clip(values[::step], -REACH, REACH)
        # Spread by order, so that points do not hide each other and the picture is the same each time.
        place = height - 0.08 - 0.26 * ((np.arange(len(shown)) * 0.618) % 1.0)
        axes.scatter(shown, place, s=max(2.0, min(12.0, 1500 / len(shown))), color=BLUE, alpha=0.55, lw=0)
        if len(values) > 1:
            axes.errorbar(
                values.mean(), height + 0.12, xerr=values.std(ddof=1), fmt="o", color=BLACK, ms=4, capsize=3, lw=1.4
            )
    axes.set_yticks(y, [r"$\mu$" if name == "mu" else NUISANCE_LABELS.get(name, name) for name in pulls])
    axes.set_ylim(-0.6, len(pulls) - 0.4)
    axes.set_xlim(-REACH, REACH)
    axes.set_xlabel(r"pull: (estimate $-$ truth) / uncertainty")
    label(axes, "")
    return figure
