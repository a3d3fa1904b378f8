"""A picture of the intervals of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from harness.results import RunResults, SetResult
from harness.scores import mean_coverage, mean_interval
from workshop.files import write_bytes
from workshop.plots import drawn, image, new_figure

MOST_SETS, MOST_EXPERIMENTS = 20, 200
"""Panels, and intervals in each, that are drawn; numbers in the titles are always of all."""
MOST_REACH = 1e6
"""From the true mu; longer intervals are cut."""
COVERS, MISSES, TRUTH = "#1f6fb2", "#d1495b", "#222222"


def remark(results: RunResults) -> str:
    """Return what to say where a picture shows a part of a run; empty where it shows everything."""
    most = max(len(result.p16) for result in results.sets)
    shown = [f"the first {MOST_SETS} of {len(results.sets)} sets"] if len(results.sets) > MOST_SETS else []
    if most > MOST_EXPERIMENTS:
        shown.append(f"of each set {MOST_EXPERIMENTS} of up to {most} intervals, evenly by rank")
    return f"\nshown: {'; '.join(shown)}" if shown else ""


@drawn
def draw_intervals(results: RunResults, path: Path | None = None, title: str = "", columns: int = 5) -> Any:
    """Draw one panel per set: the interval of each pseudo-experiment and the true signal strength.

    Args:
        results: Results of a run.
        path: PNG file to write; None writes nothing.
        title: Text above the panels.
        columns: Largest number of panels side by side.

    Returns:
        The matplotlib figure.
    """
    from matplotlib.lines import Line2D  # takes a second

    sets = results.sets[:MOST_SETS]
    columns = min(columns, len(sets))
    rows = math.ceil(len(sets) / columns)
    figure, panels = new_figure(max(5.5, 2.8 * columns), 1.1 + 3.0 * rows, rows, columns)
    panels = np.ravel(panels)
    # The same scale in all panels, so that widths can be compared by eye.
    ends = np.concatenate([np.abs(np.subtract((*one.p16, *one.p84), one.mu)) for one in sets])
    reach = min(float(ends.max()), MOST_REACH)
    for number, (axes, result) in enumerate(zip(panels, sets, strict=False)):
        _draw_set(axes, number, result, reach)
        axes.set_xlim(result.mu - 1.05 * reach - 1e-9, result.mu + 1.05 * reach + 1e-9)
        if number + columns >= len(sets):
            axes.set_xlabel(r"signal strength $\mu$", fontsize=9)
    for axes in panels[len(sets) :]:
        axes.remove()
    title += remark(results)
    figure.supylabel(r"pseudo-experiments, sorted by $\hat\mu$", fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    handles = [
        Line2D([], [], color=COVERS, lw=2, label=r"68 % interval holds true $\mu$"),
        Line2D([], [], color=MISSES, lw=2, label="does not"),
        Line2D([], [], color=TRUTH, marker="o", ms=3, lw=0, label=r"estimate $\hat\mu$"),
        Line2D([], [], color=TRUTH, lw=1, ls="--", label=r"true $\mu$"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    if path is not None:
        write_bytes(path, image(figure, "png"))
    return figure


def _draw_set(axes: Any, number: int, result: SetResult, reach: float) -> None:
    """Draw the intervals of one set, the smallest estimate at the bottom."""
    p16, p84, mu_hat = (np.asarray(values, float) for values in (result.p16, result.p84, result.mu_hats))
    coverage, mean_width = mean_coverage(result.mu, p16, p84), mean_interval(p16, p84)
    total = len(p16)
    rank = np.argsort(np.argsort(mu_hat, kind="stable"), kind="stable")
    if total > MOST_EXPERIMENTS:
        kept = np.argsort(rank)[np.linspace(0, total - 1, MOST_EXPERIMENTS).round().astype(int)]
        p16, p84, mu_hat, rank = p16[kept], p84[kept], mu_hat[kept], rank[kept]
    colours = np.where((p16 <= result.mu) & (result.mu <= p84), COVERS, MISSES)
    p16, p84, mu_hat = (np.clip(one, result.mu - reach, result.mu + reach) for one in (p16, p84, mu_hat))
    width = max(0.3, min(2.0, 160 / len(p16)))
    axes.hlines(rank, np.minimum(p16, p84), np.maximum(p16, p84), colors=colours, lw=width)
    axes.scatter(mu_hat, rank, s=max(1.0, 5 * width), c=TRUTH, linewidths=0, zorder=3)
    axes.axvline(result.mu, color=TRUTH, lw=1, ls="--", zorder=4)
    axes.set_ylim(-0.5, total - 0.5)
    axes.set_title(
        rf"set {number}: $\mu$ = {result.mu:.3f}"
        f"\ncoverage {coverage:.3f}, width {mean_width:.4g}",
        fontsize=9,
    )
    axes.tick_params(labelsize=8)
    axes.yaxis.get_major_locator().set_params(integer=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
