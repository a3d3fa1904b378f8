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
CELLS = 60
"""Of that histogram, along each axis."""
LARGEST_T = 9.0
GREEN = "#2f8f6b"
STYLES = {
    "rate": ("rate only", GREY, "-"),
    "ln(S/SBI)": ("histogram of ln(S/SBI)", GREEN, "-"),
    "learned": ("learned ratio", BLUE, "-"),
    "without constants": ("learned, without constants", BLUE, ":"),
    "exact": ("exact ratio", BLACK, "--"),
}
LABELS = {
    "m4l": r"$m_{4\ell}$ [GeV]",
    "cos_theta_star": r"$\cos\theta^*$",
    "cos_theta_1": r"$\cos\theta_1$",
    "cos_theta_2": r"$\cos\theta_2$",
    "phi": r"$\Phi$ [rad]",
    "pt4l": r"$p_{\mathrm{T},4\ell}$ [GeV]",
    "y4l": r"$y_{4\ell}$",
    "x1": r"$x_1$",
    "x2": r"$x_2$",
    "x3": r"$x_3$",
}
"""Of the features, with units."""
COVERAGE_NAMES = ("68.27 %", "95.45 %")
UNDER = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0}
"""Behind text that a line may cross."""


def label(feature: str) -> str:
    """Return a feature's label."""
    return LABELS.get(feature, feature)


def rooted(axes: Any) -> None:
    """Give an axis of mu the scale of its root, in which everything is smooth at 0."""
    axes.set_xscale("function", functions=(lambda mu: np.sqrt(np.maximum(mu, 0.0)), np.square))
    axes.set_xticks([0, 0.1, 0.5, 1, 2, 3, 4, 5], ["0", "0.1", "0.5", "1", "2", "3", "4", "5"])
    axes.set_xlabel(MU)


@drawn
def draw_ratios(learned: Learned) -> Any:
    """Draw the learned ln p(x|mu) / p(x|1) against the exact one for two mu, and mean and spread of the difference."""
    figure, panels = new_figure(8.0, 5.0, 2, 2, height_ratios=(3, 1), sharex="col")
    rng = np.random.default_rng(1)
    share = learned.oracle.weights / learned.oracle.weights.sum()
    chosen = rng.choice(len(share), min(SHOWN, len(share)), replace=False)
    for i, mu in enumerate((0.0, 4.0)):
        exact, ours = (
            np.log((r[chosen] @ coefficients(mu)) / (r[chosen] @ coefficients(1.0)))
            for r in (learned.oracle.densities, learned.ratios)
        )
        low, high = np.nanquantile(exact, (0.002, 0.998))
        above, below = panels[0, i], panels[1, i]
        above.hist2d(
            exact, ours, bins=CELLS, range=((low, high), (low, high)), cmap="Blues", norm="log", rasterized=True
        )
        above.plot([low, high], [low, high], color=RED, lw=1.0, label="learned = exact")
        above.set_title(rf"$\ln\,[\,p(x|\mu={mu:g})\,/\,p(x|\mu=1)\,]$", fontsize=10)
        edges = np.linspace(low, high, 13)
        index = np.digitize(exact, edges) - 1
        cells = [(ours - exact)[index == k] for k in range(12)]
        found = np.array([[c.mean(), c.std()] if len(c) > 9 else [np.nan, np.nan] for c in cells])
        below.axhline(0.0, color=RED, lw=1.0)
        below.errorbar((edges[1:] + edges[:-1]) / 2, found[:, 0], yerr=found[:, 1], fmt="o", color=BLACK, ms=3)
        below.set_xlabel("exact")
    panels[0, 0].set_ylabel("learned")
    panels[1, 0].set_ylabel("learned $-$ exact\nmean, spread", fontsize=8)
    panels[0, 0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


@drawn
def draw_closures(closures: Sequence[Closure], features: Sequence[str], target: str) -> Any:
    """Draw the reference, as it is and reweighted, divided by the target, per feature in bins of equal content."""
    columns = min(4, len(features))
    rows = -(-len(features) // columns)
    figure, panels = new_figure(2.5 * columns, 2.4 * rows, rows, columns, sharey=True)
    flat = np.atleast_1d(np.asarray(panels, dtype=object)).ravel()
    for axes in flat[len(features) :]:
        axes.set_visible(False)
    for axes, closure, name in zip(flat, closures, features, strict=False):
        middle, half = (closure.edges[1:] + closure.edges[:-1]) / 2, np.diff(closure.edges) / 2
        axes.axhline(1.0, color=BLACK, lw=0.8)
        axes.stairs(closure.reference / closure.target, closure.edges, color=GREY, lw=1.0, label="reference")
        ratio, error = closure.reweighted / closure.target, closure.error / closure.target
        axes.errorbar(middle, ratio, error, half, fmt="o", color=BLUE, ms=2, lw=0.8, label="reweighted")
        axes.set_ylim(0.7, 1.3)
        # The outermost events are far away.
        axes.set_xlim(*(closure.edges[[1, -2]] + np.array([-1.0, 1.0]) * np.diff(closure.edges)[[1, -2]]))
        axes.set_xlabel(label(name), fontsize=9)
        axes.text(0.04, 0.05, rf"$\chi^2$/bin = {closure.chi2:.2f}", transform=axes.transAxes, fontsize=8, bbox=UNDER)
    for axes in flat[::columns]:
        axes.set_ylabel(f"ratio to {target}", fontsize=9)
    figure.legend(*flat[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside upper center", ncols=2)
    return figure


@drawn
def draw_calibration(curve: Calibration) -> Any:
    """Draw how often events are signal where the ratio predicts it, and the difference."""
    figure, panels = new_figure(4.4, 4.6, 2, 1, height_ratios=(3, 1), sharex=True)
    above, below = panels[:, 0]
    above.plot([0, 1], [0, 1], color=RED, lw=1.0, label="found = predicted")
    above.errorbar(curve.predicted, curve.found, yerr=curve.error, fmt="o", color=BLACK, ms=3, label="new events")
    above.set_ylabel("fraction of signal found")
    above.legend(frameon=False, fontsize=8)
    below.axhline(0.0, color=RED, lw=1.0)
    below.errorbar(curve.predicted, curve.found - curve.predicted, yerr=curve.error, fmt="o", color=BLACK, ms=3)
    below.set_ylabel("found $-$ predicted", fontsize=8)
    below.set_xlabel(r"fraction of signal predicted, $r_S\,/\,(1 + r_S)$")
    return figure


@drawn
def draw_likelihood(mus: np.ndarray, curves: Mapping[str, Sequence[float]]) -> Any:
    """Draw t of the expected data by analysis, and the learned one minus the exact one."""
    figure, panels = new_figure(6.0, 5.2, 2, 1, height_ratios=(3, 1), sharex=True)
    above, below = panels[:, 0]
    for level, name in ((1, "68 %"), (4, "95 %")):
        above.axhline(level, color=GREY, lw=0.8, ls=":")
        above.text(mus[-1], level + 0.08, name, color=GREY, fontsize=8, ha="right")
    for name, t in curves.items():
        text, colour, style = STYLES.get(name, (f"histogram of {label(name).partition(' [')[0]}", RED, "-"))
        above.plot(mus, t, style, color=colour, lw=1.6, label=text)
    above.set_ylim(min(0.0, 1.1 * min(map(min, curves.values()))), LARGEST_T)
    above.set_ylabel(r"$t(\mu)$ of the expected data at $\mu = 1$")
    above.legend(frameon=False, fontsize=8, loc="upper center")
    difference = np.array(curves["learned"]) - np.array(curves["exact"])
    below.axhline(0.0, color=BLACK, lw=0.8, ls="--")
    below.plot(mus, difference, color=BLUE, lw=1.6)
    below.fill_between(mus, -0.1 * np.array(curves["exact"]), 0.1 * np.array(curves["exact"]), color=GREY, alpha=0.25)
    reach = max(0.3, 1.2 * float(np.abs(difference[np.array(curves["exact"]) < LARGEST_T]).max()))
    below.set_ylim(-reach, reach)
    below.set_ylabel("learned $-$ exact\n(band: 10 %)", fontsize=8)
    rooted(below)
    return figure


@drawn
def draw_belt(belt: Belt) -> Any:
    """Draw the quantiles of t against mu, with what a parabola would give."""
    figure, axes = new_figure(6.0, 4.0)
    for i, (name, colour) in enumerate(zip(COVERAGE_NAMES, (BLUE, RED), strict=True)):
        options = {"color": colour, "ms": 3, "label": f"coverage {name}", "clip_on": False, "zorder": 3}
        axes.errorbar(belt.mu, belt.quantiles[i], yerr=belt.errors[i], fmt="o-", **options)
    for value in (1.0, 4.0):
        axes.axhline(value, color=GREY, lw=0.8, ls=":", label="parabola" if value == 1.0 else None)
    axes.set_ylabel(rf"quantile of $t(\mu)$ in {belt.toys} toys")
    highest = belt.quantiles + belt.errors
    # Room for the legend.
    axes.set_ylim(0, 1.15 * float(highest[np.isfinite(highest)].max(initial=4.0)))
    axes.set_xlim(0, float(belt.mu[-1]))
    rooted(axes)
    axes.legend(frameon=False, fontsize=8, loc="upper center", ncols=3)
    return figure


@drawn
def draw_impacts(impacts: Sequence[Impact], sigma: float) -> Any:
    """Draw what each nuisance moves mu by when held one error up or down, from the Hessian, beside its error."""
    ordered = sorted(impacts, key=lambda impact: abs(impact.impact))
    figure, panels = new_figure(7.0, 1.4 + 0.35 * len(ordered), 1, 2, sharey=True, width_ratios=(3, 2))
    bars, pulls = panels[0]
    y = np.arange(len(ordered))
    up = np.array([impact.impact for impact in ordered])
    bars.barh(y, up, color=BLUE, alpha=0.8, label="one error up")
    bars.barh(y, -up, color=RED, alpha=0.5, label="one error down")
    bars.axvline(0.0, color=BLACK, lw=0.8)
    bars.set_yticks(y, [impact.name.replace("_", " ") for impact in ordered], fontsize=9)
    reach = 1.15 * float(np.abs(up).max())
    bars.set_xlim(-reach, reach)
    # mu = s^2: at s = 1 an error of s is one of 2 in mu.
    bars.set_xlabel(rf"shift of $\mu$ (statistical error: {2 * sigma:.2f})")
    bars.legend(frameon=False, fontsize=8, loc="lower right")
    pulls.axvspan(-1, 1, color=GREY, alpha=0.2, lw=0)
    pulls.axvline(0.0, color=BLACK, lw=0.8)
    width, at = [impact.sigma for impact in ordered], [impact.pull for impact in ordered]
    pulls.errorbar(at, y, xerr=width, fmt="o", color=BLACK, ms=3)
    pulls.set_xlim(-1.6, 1.6)
    pulls.set_xlabel("pull and error after the fit\n(band: before)", fontsize=9)
    return figure
