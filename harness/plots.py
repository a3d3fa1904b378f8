"""A picture of the intervals of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from harness.results import RunResults, SetResult
from harness.scores import mean_coverage, mean_interval
from workshop.files import write_bytes

COVERS, MISSES, TRUTH = "#1f6fb2", "#d1495b", "#222222"


def draw_intervals(results: RunResults, path: Path | None = None, title: str = "", columns: int = 5) -> Any:
    """Draw one panel per set: the interval of each pseudo-experiment and the true signal strength.

    Arguments:
        results: Results of a run.
        path: PNG file to write; None writes nothing.
        title: Text above the panels.
        columns: Largest number of panels side by side.

    Returns:
        The matplotlib figure.
    """
    # Imported here because it takes a second, and with the file backend because there may be no display.
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(columns, len(results.sets))
    rows = math.ceil(len(results.sets) / columns)
    figure = Figure(figsize=(max(5.5, 2.8 * columns), 1.1 + 3.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    # The same scale in all panels, so that widths can be compared by eye.
    reach = max(abs(end - result.mu) for result in results.sets for end in (*result.p16, *result.p84))
    for number, (axes, result) in enumerate(zip(panels, results.sets, strict=False)):
        _draw_set(axes, number, result)
        axes.set_xlim(result.mu - 1.05 * reach - 1e-9, result.mu + 1.05 * reach + 1e-9)
        if number + columns >= len(results.sets):
            axes.set_xlabel(r"signal strength $\mu$", fontsize=9)
    for axes in panels[len(results.sets) :]:
        axes.remove()
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
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        write_bytes(path, buffer.getvalue())
    return figure


def _draw_set(axes: Any, number: int, result: SetResult) -> None:
    """Draw the intervals of one set, the smallest estimate at the bottom."""
    p16, p84, mu_hat = (np.asarray(values, float) for values in (result.p16, result.p84, result.mu_hats))
    rank = np.argsort(np.argsort(mu_hat, kind="stable"), kind="stable")
    colours = np.where((p16 <= result.mu) & (result.mu <= p84), COVERS, MISSES)
    width = max(0.3, min(2.0, 160 / len(p16)))
    axes.hlines(rank, np.minimum(p16, p84), np.maximum(p16, p84), colors=colours, lw=width)
    axes.scatter(mu_hat, rank, s=max(1.0, 5 * width), c=TRUTH, linewidths=0, zorder=3)
    axes.axvline(result.mu, color=TRUTH, lw=1, ls="--", zorder=4)
    axes.set_ylim(-0.5, len(p16) - 0.5)
    axes.set_title(
        rf"set {number}: $\mu$ = {result.mu:.3f}"
        f"\ncoverage {mean_coverage(result.mu, p16, p84):.3f}, width {mean_interval(p16, p84):.3f}",
        fontsize=9,
    )
    axes.tick_params(labelsize=8)
    axes.yaxis.get_major_locator().set_params(integer=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
