"""Pictures of a fit: profile scan, pulls, impacts, correlations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sage.fit.interval import RISE, Interval
from studies.asimov import Scan
from studies.impacts import Impact
from studies.plots import BLACK, BLUE, GREY, MU, NUISANCE_LABELS, RED, bands, label
from workshop.plots import drawn, new_figure

TALLEST = 5.0
"""Largest rise of the negative log-likelihood that is shown: beyond 3 standard deviations."""


@drawn
def draw_scan(scan: Scan, interval: Interval, title: str = "SAGE") -> Any:
    """Draw the profiled and the statistical rise against mu, with the 68 % interval, above the profiled nuisances."""
    figure, panels = new_figure(6.0, 6.4, rows=2, sharex=True, height_ratios=(3, 2))
    axes, lower = panels[:, 0]
    best = interval.fit
    axes.axvspan(interval.low, interval.high, color=BLUE, alpha=0.12, lw=0)
    axes.axhline(RISE, color=GREY, lw=0.8, ls=":")
    axes.axhline(4 * RISE, color=GREY, lw=0.8, ls=":")
    axes.plot(scan.mu, scan.profiled, color=BLUE, lw=1.8, label="all uncertainties")
    axes.plot(scan.mu, scan.statistical, color=RED, lw=1.4, ls="--", label="statistical: nuisances held")
    axes.axvline(best.mu, color=BLACK, lw=0.8)
    up, down = interval.high - best.mu, best.mu - interval.low
    text = rf"$\hat\mu = {best.mu:.2f}^{{+{up:.2f}}}_{{-{down:.2f}}}$"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(0.5, 0.7, text, transform=axes.transAxes, ha="center", fontsize=13, bbox=box)
    axes.set_ylim(0.0, TALLEST)
    axes.set_ylabel(r"$\Delta(-\ln L)$")
    axes.legend(loc="upper center", framealpha=0.85, edgecolor="none", fontsize=9)
    label(axes, title)
    for i, nuisance in enumerate(scan.nuisances.T):
        name = list(NUISANCE_LABELS)[i]
        lower.plot(scan.mu, nuisance - best.parameters[1 + i], lw=1.3, label=NUISANCE_LABELS[name])
    lower.axhline(0.0, color=BLACK, lw=0.6)
    lower.set_ylabel(r"profiled $\nu - \hat\nu$")
    lower.set_xlabel(MU)
    lower.set_xlim(scan.mu[0], scan.mu[-1])
    texts = lower.get_legend_handles_labels()
    figure.legend(*texts, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


@drawn
def draw_pulls(impacts: Sequence[Impact], title: str = "SAGE") -> Any:
    """Draw each nuisance's pull with its postfit uncertainty over the bands of the constraint."""
    figure, axes = new_figure(6.0, 1.2 + 0.4 * len(impacts))
    bands(axes)
    y = np.arange(len(impacts))[::-1]
    pulls = [impact.pull for impact in impacts]
    errors = [impact.sigma / impact.width for impact in impacts]
    axes.errorbar(pulls, y, xerr=errors, fmt="o", color=BLACK, ms=5, capsize=3, lw=1.4)
    for height, impact in zip(y, impacts, strict=True):
        axes.text(
            2.95, height, f"{impact.pull:+.2f} ± {impact.sigma / impact.width:.2f}", ha="right", va="center", fontsize=8
        )
    axes.set_yticks(y, [NUISANCE_LABELS[impact.name] for impact in impacts])
    axes.set_xlim(-3, 3)
    axes.set_ylim(-0.7, len(impacts) - 0.3)
    axes.set_xlabel(r"$(\hat\nu - \nu_0)\,/\,\sigma_\mathrm{constraint}$")
    label(axes, title)
    return figure


@drawn
def draw_impacts(impacts: Sequence[Impact], title: str = "SAGE") -> Any:
    """Draw impacts (upper axis; hollow before the fit, filled after it) with the pulls (lower axis) over them."""
    ordered = sorted(impacts, key=lambda impact: max(map(abs, impact.fixed_postfit)))
    figure, axes = new_figure(6.4, 1.9 + 0.5 * len(ordered))
    above = axes.twiny()
    axes.set_zorder(above.get_zorder() + 1)
    axes.patch.set_visible(False)
    y = np.arange(len(ordered))
    handles = []
    for side, colour, text in ((1, BLUE, r"$+1\sigma$"), (0, RED, r"$-1\sigma$")):
        prefit = [impact.fixed_prefit[side] for impact in ordered]
        postfit = [impact.fixed_postfit[side] for impact in ordered]
        handles.append(above.barh(y, prefit, height=0.72, fill=False, edgecolor=colour, lw=1.2, label=f"prefit {text}"))
        handles.append(above.barh(y, postfit, height=0.72, color=colour, alpha=0.45, label=f"postfit {text}"))
        shifted = [impact.auxiliary_refit[side] for impact in ordered]
        marker = above.scatter(
            shifted, y + 0.18, marker="D", s=16, color=colour, zorder=3, label=f"constraint centre {text}"
        )
        handles.append(marker)
    reach = 1.15 * max(abs(value) for impact in ordered for value in (*impact.fixed_prefit, *impact.fixed_postfit))
    above.set_xlim(-max(reach, 1e-6), max(reach, 1e-6))
    above.set_xlabel(r"impact on $\hat\mu$: $\nu$ held at $\pm 1\sigma$ and all others refitted (bars)", fontsize=9)
    pulls = [impact.pull for impact in ordered]
    errors = [impact.sigma / impact.width for impact in ordered]
    axes.errorbar(pulls, y - 0.12, xerr=errors, fmt="o", color=BLACK, ms=4, capsize=2, lw=1.1)
    for position in (-1, 0, 1):
        axes.axvline(position, color=GREY, lw=0.7, ls=":" if position else "-", zorder=0)
    axes.set_xlim(-2, 2)
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_yticks(y, [NUISANCE_LABELS[impact.name] for impact in ordered])
    axes.set_xlabel(r"pull $(\hat\nu - \nu_0)\,/\,\sigma_\mathrm{constraint}$ (points)", fontsize=9)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(f"{title}, 10 fb$^{{-1}}$ (13 TeV)", fontsize=10)
    return figure


@drawn
def draw_correlations(correlation: np.ndarray, names: Sequence[str], title: str = "SAGE") -> Any:
    """Draw a correlation matrix with its numbers in %."""
    figure, axes = new_figure(6.2, 5.4)
    image = axes.imshow(100 * correlation, cmap="RdBu_r", vmin=-100, vmax=100)
    texts = [r"$\mu$" if name == "mu" else NUISANCE_LABELS[name] for name in names]
    axes.set_xticks(range(len(names)), texts, rotation=35, ha="right", fontsize=9)
    axes.set_yticks(range(len(names)), texts, fontsize=9)
    for row in range(len(names)):
        for column in range(len(names)):
            value = 100 * correlation[row, column]
            axes.text(
                column,
                row,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="w" if abs(value) > 60 else BLACK,
            )
    figure.colorbar(image, label="correlation in %", shrink=0.85)
    label(axes, title)
    return figure
