"""Pictures of one pseudo-experiment before and after the fit, from what ``studies.postfit`` returns as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import BACKGROUNDS, PROCESSES, SIGNAL
from studies.plots import BLACK, GREY, MU_HAT, NUISANCE_LABELS, PROCESS_COLOURS, RED, bands, label
from workshop.labels import PROCESS_LABELS
from workshop.plots import drawn, new_figure, save

STACK = (*BACKGROUNDS[::-1], SIGNAL)
"""Processes from the bottom of the stack to its top."""
OBSERVABLES = {
    "p_htautau": r"$p(H\to\tau\tau)$",
    "m_vis": r"$m_{\mathrm{vis}}$ / GeV",
    "efficient_score": r"efficient score of $\mu$",
}
MAX_TICKS = 5
TEXT, SMALL_TEXT = 14, 12
"""Points; a page shows these wide pictures at about two thirds of their size."""


@drawn
def draw_regions(content: dict[str, Any], stem: Path) -> list[Path]:
    """Draw data and expectation of every region: before the fit above, after it below, each with a ratio panel.

    Bins are drawn equally wide; the axis names their edges.
    """
    regions = content["regions"]
    widths = [max(10, len(region["observed"])) for region in regions.values()]
    figure, axes = new_figure(
        min(16.0, 3.0 + 0.16 * sum(widths)),
        10.0,
        rows=4,
        columns=len(regions),
        sharex="col",
        height_ratios=[3, 1.3, 3, 1.3],
        width_ratios=widths,
    )
    for column, (name, region) in enumerate(regions.items()):
        for row, state in ((0, "before"), (2, "after")):
            _draw_stack(axes[row, column], region, state)
            _draw_ratio(axes[row + 1, column], region, state)
            axes[row, column].set_title(f"{name}, {state} the fit", fontsize=TEXT)
        edges = region["edges"]
        ticks = np.unique(np.linspace(0, len(edges) - 1, min(MAX_TICKS, len(edges))).round().astype(int))
        axes[3, column].set_xticks(ticks, [f"{edges[tick]:.3g}" for tick in ticks], fontsize=SMALL_TEXT)
        axes[3, column].set_xlabel(OBSERVABLES.get(region["observable"], region["observable"]), fontsize=TEXT)
    for row in (0, 2):
        axes[row, 0].set_ylabel("events", fontsize=TEXT)
        axes[row + 1, 0].set_ylabel("data / exp.", fontsize=SMALL_TEXT)
    handles, names = axes[0, 0].get_legend_handles_labels()
    more_handles, more_names = axes[1, 0].get_legend_handles_labels()
    figure.legend(
        handles + more_handles, names + more_names, loc="outside lower center", ncols=4, frameon=False, fontsize=TEXT
    )
    return save(figure, stem)


@drawn
def draw_fitted_nuisances(content: dict[str, Any], stem: Path) -> list[Path]:
    """Draw the fitted nuisance parameters with their uncertainties, and the true ones."""
    nuisances = content["nuisances"]
    figure, axes = new_figure(6.4, 3.8)
    bands(axes)
    rows = np.arange(len(nuisances))[::-1]
    entries = list(nuisances.values())
    axes.errorbar(
        [entry["nu"] for entry in entries],
        rows,
        xerr=[entry["sigma"] for entry in entries],
        fmt="o",
        color=BLACK,
        ms=4,
        capsize=2,
        label="fitted",
        zorder=3,
    )
    known = [i for i, entry in enumerate(entries) if entry["true_nu"] is not None]
    axes.plot([entries[i]["true_nu"] for i in known], rows[known], "D", color=RED, ms=4, label="true", zorder=4)
    axes.set_yticks(rows, [NUISANCE_LABELS[name] for name in nuisances], fontsize=10)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(r"nuisance parameter $\nu$", fontsize=10)
    label(axes, f"SAGE, {MU_HAT} = {content['mu_hat']:.2f}, true {content['mu']:.2f}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return save(figure, stem)


@drawn
def draw_probabilities(histograms: dict[str, Any], stem: Path) -> list[Path]:
    """Draw each output of the network: mean over the nuisance nodes, and a band of one standard deviation."""
    figure, axes = new_figure(9.0, 6.4, rows=2, columns=2, sharex=True)
    edges = np.array(histograms["edges"])
    for panel, output in zip(axes.flat, PROCESSES, strict=True):
        for process in PROCESSES:
            mean, std = (np.array(histograms[key][output][process]) for key in ("mean", "std"))
            colour = PROCESS_COLOURS[process]
            panel.stairs(mean, edges, color=colour, lw=1.4, label=PROCESS_LABELS[process])
            panel.stairs(mean + std, edges, baseline=np.maximum(mean - std, 1e-3), color=colour, alpha=0.3, fill=True)
        panel.set_yscale("log")
        panel.set_ylim(bottom=0.1)
        panel.set_xlabel(f"p({PROCESS_LABELS[output]})", fontsize=TEXT)
        panel.set_ylabel("expected events", fontsize=TEXT)
        panel.tick_params(labelsize=SMALL_TEXT)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=TEXT)
    figure.suptitle(f"mean and standard deviation over {len(histograms['nodes'])} nuisance nodes", fontsize=TEXT)
    return save(figure, stem)


def _draw_stack(panel: Any, region: dict[str, Any], state: str) -> None:
    entry, observed = region[state], np.array(region["observed"])
    edges = np.arange(len(observed) + 1)
    below = np.zeros(len(observed))
    for process in STACK:
        above = below + np.maximum(entry["processes"][process], 0.0)
        panel.stairs(
            above, edges, baseline=below, fill=True, color=PROCESS_COLOURS[process], label=PROCESS_LABELS[process]
        )
        below = above
    panel.errorbar(edges[:-1] + 0.5, observed, yerr=np.sqrt(observed), fmt="o", color=BLACK, ms=2.5, lw=1, label="data")
    panel.set_yscale("log")
    highest = max(observed.max(), 1.0)
    # At least two decades, or the axis is labelled between powers of ten.
    panel.set_ylim(min(max(0.3, 0.3 * np.min(entry["processes"][STACK[0]])), 0.01 * highest), 3 * highest)
    panel.set_xlim(0, len(observed))
    panel.tick_params(labelsize=SMALL_TEXT)


def _draw_ratio(panel: Any, region: dict[str, Any], state: str) -> None:
    """Draw data and uncertainty relative to the expectation, and the expectation without signal."""
    entry, observed = region[state], np.array(region["observed"])
    edges = np.arange(len(observed) + 1)
    total = np.maximum(np.sum(list(entry["processes"].values()), axis=0), 1e-9)
    relative = np.array(entry["sigma"]) / total
    panel.stairs(1 + relative, edges, baseline=1 - relative, fill=True, color=GREY, alpha=0.4, label="uncertainty")
    panel.axhline(1.0, color=GREY, lw=0.8)
    panel.stairs(
        1 - np.array(entry["processes"][SIGNAL]) / total,
        edges,
        baseline=None,
        color=PROCESS_COLOURS[SIGNAL],
        lw=1.2,
        label="without signal",
    )
    panel.errorbar(
        edges[:-1] + 0.5, observed / total, yerr=np.sqrt(observed) / total, fmt="o", color=BLACK, ms=2.5, lw=1
    )
    panel.tick_params(labelsize=SMALL_TEXT)
