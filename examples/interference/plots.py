"""Pictures of the study: ratio against truth, reweighting, calibration, likelihood, belt, impacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from examples.interference.oracle import coefficients
from examples.interference.study import Learned
from nsbi.diagnostics import Calibration, Closure
from nsbi.fitting import Impact
from studies.neyman import Belt
from studies.plots import BLACK, BLUE, GREY, MU, RED
from workshop.plots import drawn, new_figure

SHOWN = 20_000
"""Events in a scatter plot become a histogram of this many."""
LARGEST_T = 9.0
COLOURS = {"rate": GREY, "ln(S/SBI)": "#6ba292", "exact": BLACK, "learned": BLUE}


@drawn
def draw_ratios(learned: Learned) -> Any:
    """Draw the learned ln p(x|mu) / p(x|1) against the exact one, for two mu."""
    figure, panels = new_figure(7.6, 3.6, columns=2)
    for axes, mu in zip(panels[0], (0.0, 4.0), strict=True):
        exact, ours = (
            np.log((r[:SHOWN] @ coefficients(mu)) / (r[:SHOWN] @ coefficients(1.0)))
            for r in (learned.oracle.densities, learned.ratios)
        )
        low, high = np.nanquantile(exact, (0.002, 0.998))
        axes.hist2d(exact, ours, bins=80, range=((low, high), (low, high)), cmap="Blues", norm="log")
        axes.plot([low, high], [low, high], color=RED, lw=1.0)
        axes.set_xlabel("exact")
        axes.set_ylabel("learned")
        axes.set_title(rf"$\ln\,p(x|\mu={mu:g})\,/\,p(x|1)$", fontsize=10)
    return figure


@drawn
def draw_closures(closures: Sequence[Closure], features: Sequence[str], target: str) -> Any:
    """Draw the target, the reference and the reweighted reference divided by the target, per feature."""
    columns = min(4, len(features))
    rows = -(-len(features) // columns)
    figure, panels = new_figure(2.3 * columns, 2.2 * rows, rows, columns, sharey=True)
    flat = np.atleast_1d(np.asarray(panels, dtype=object)).ravel()
    for axes in flat[len(features) :]:
        axes.set_visible(False)
    for axes, closure, name in zip(flat, closures, features, strict=False):
        x = np.arange(len(closure.target))
        axes.axhline(1.0, color=BLACK, lw=0.8)
        axes.step(x, closure.reference / closure.target, color=GREY, lw=1.0, where="mid", label="reference")
        axes.plot(x, closure.reweighted / closure.target, "o", color=BLUE, ms=2.5, label="reweighted")
        axes.set_ylim(0.5, 1.5)
        axes.set_title(name, fontsize=8)
        axes.set_xlabel(f"quantile of {target}", fontsize=7)
    flat[0].legend(frameon=False, fontsize=7)
    return figure


@drawn
def draw_calibration(curve: Calibration) -> Any:
    """Draw how often events are signal where the ratio predicts it."""
    figure, axes = new_figure(4.2, 3.8)
    axes.plot([0, 1], [0, 1], color=RED, lw=1.0)
    axes.errorbar(curve.predicted, curve.found, yerr=curve.error, fmt="o", color=BLACK, ms=4)
    axes.set_xlabel("predicted fraction of signal")
    axes.set_ylabel("found")
    return figure


@drawn
def draw_likelihood(mus: np.ndarray, curves: Mapping[str, Sequence[float]]) -> Any:
    """Draw t of the expected data by analysis."""
    figure, axes = new_figure(5.6, 4.0)
    for level in (1, 4):
        axes.axhline(level, color=GREY, lw=0.8, ls=":")
    for name, t in curves.items():
        style = "--" if name == "exact" else "-"
        axes.plot(mus, t, style, color=COLOURS.get(name, RED), lw=1.6, label=name)
    axes.set_ylim(0, LARGEST_T)
    axes.set_xlabel(MU)
    axes.set_ylabel(r"$t(\mu)$ of the expected data at $\mu = 1$")
    axes.legend(frameon=False, fontsize=8)
    return figure


@drawn
def draw_belt(belt: Belt) -> Any:
    """Draw the quantiles of t against mu, with what a parabola would give."""
    figure, axes = new_figure(5.6, 3.8)
    for i, (level, colour) in enumerate(zip(belt.levels, (BLUE, RED), strict=False)):
        axes.errorbar(belt.mu, belt.quantiles[i], yerr=belt.errors[i], fmt="o-", color=colour, ms=3, label=f"{level}")
    for value in (1.0, 4.0):
        axes.axhline(value, color=GREY, lw=0.8, ls=":")
    axes.set_xlabel(MU)
    axes.set_ylabel(r"quantile of $t(\mu)$")
    axes.set_ylim(0, None)
    axes.legend(frameon=False, title="coverage")
    return figure


@drawn
def draw_impacts(impacts: Sequence[Impact], sigma: float) -> Any:
    """Draw what each nuisance moves mu by when held one error up or down, from the Hessian, and its error."""
    figure, axes = new_figure(5.6, 1.4 + 0.4 * len(impacts))
    y = np.arange(len(impacts))[::-1]
    up = [impact.impact for impact in impacts]
    axes.barh(y, up, color=BLUE, alpha=0.8)
    axes.barh(y, [-value for value in up], color=RED, alpha=0.5)
    axes.set_yticks(y, [f"{impact.name}\n{impact.sigma:.2f}" for impact in impacts], fontsize=8)
    # mu = s^2: at s = 1 an error of s is one of 2 in mu.
    axes.set_xlabel(rf"$\Delta\mu$ (statistical: {2 * sigma:.2f})")
    return figure
