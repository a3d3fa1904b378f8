"""The analysis of toys as text and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from harness.scores import ONE_SIGMA
from studies.analysis import UNPULLED, Analysis, flat_band, mu_pulls, nuisance_pulls
from studies.plots import BLACK, BLUE, GREY, MU, MU_HAT, NUISANCE_LABELS, RED, label
from studies.plots import ONE_SIGMA as GREEN
from studies.toys import FAILED
from workshop.numbers import with_error
from workshop.plots import drawn, new_figure

RANGE = 4.0
"""Pulls are shown from minus to plus this."""
SHOWN = 150
"""Toys whose intervals are drawn one by one."""
SPREAD = 0.3
"""Width in mu over which toys of the same mu are spread."""


def as_text(found: Analysis) -> str:
    """Return an analysis as text for people."""
    lines = [
        f"{found.toys} toys: {found.failed} failed, {found.flagged} flagged"
        + "".join(f"; {flag}: {count}" for flag, count in found.flags.items()),
        f"fits not by the first step: {found.later_steps}",
        f"coverage {found.coverage.value:.4f} [{found.coverage.low:.4f}, {found.coverage.high:.4f}]"
        f"  (flat band {found.band[0]:.4f} to {found.band[1]:.4f})",
        f"mean interval {found.interval:.4f}, quantiles score {found.score:.4f}, RMS of mu_hat - mu {found.rms:.4f}, "
        f"slope of mu_hat against mu {found.slope:.4f}",
        "",
        f"{'mu':>6} {'toys':>6} {'coverage':>17} {'interval':>8} {'mu_hat - mu':>17} {'rms':>7}"
        f" {'pull mean':>9} {'width':>7}",
    ]
    for group in found.groups:
        error = (group.coverage.high - group.coverage.low) / 2
        coverage, bias = with_error(group.coverage.value, error), with_error(group.bias, group.bias_error, sign=True)
        lines.append(
            f"{group.mu:6.3f} {group.coverage.n:6d} {coverage:>17} {group.interval:8.4f} {bias:>17} {group.rms:7.4f}"
            f" {group.pull.mean:+9.3f} {group.pull.width:7.3f}"
        )
    lines += ["", f"{'pulls':<14} {'mean':>17} {'width':>17} {'no sigma':>9}"]
    for name, pull in found.pulls.items():
        bound = f"{found.at_bound[name]:9.4f}" if name in found.at_bound else ""
        mean, width = with_error(pull.mean, pull.mean_error, sign=True), with_error(pull.width, pull.width_error)
        lines.append(f"{name:<14} {mean:>17} {width:>17} {bound}")
    lines += [
        f"{UNPULLED}: nu_hat +- sigma holds the truth in {found.soft_met.value:.4f}"
        f" [{found.soft_met.low:.4f}, {found.soft_met.high:.4f}]; at a bound in {found.at_bound[UNPULLED]:.4f}",
        "",
        "uniformity of p-values (Kolmogorov-Smirnov)",
        f"  -2 ln lambda(true mu), chi2(1): distance {found.test_statistic.distance:.4f}, "
        f"p = {found.test_statistic.p_value:.3g}",
        f"  goodness of fit, saturated:     distance {found.goodness_of_fit.distance:.4f}, "
        f"p = {found.goodness_of_fit.p_value:.3g}",
        "",
    ]
    alarms = [
        f"  {check.name}: {check.value:.4g}, but should lie from {check.low:.4g} to {check.high:.4g}"
        for check in found.alarms
    ]
    lines += [f"checks: {len(found.checks) - len(alarms)} of {len(found.checks)} hold", *alarms]
    return "\n".join(lines)


@drawn
def draw_toy_pulls(frame: pd.DataFrame, found: Analysis, title: str) -> Any:
    """Draw the pulls of mu and the nuisances beside the unit Gaussian."""
    good = frame[frame["status"] != FAILED]
    values = {"mu": mu_pulls(good)} | {name: nuisance_pulls(good, name) for name in found.pulls if name != "mu"}
    figure, panels = new_figure(9.0, 5.6, rows=2, columns=3, sharex=True)
    edges = np.linspace(-RANGE, RANGE, 41)
    x = np.linspace(-RANGE, RANGE, 201)
    for axes, (name, pulls) in zip(panels.ravel(), values.items(), strict=True):
        expected = len(pulls) * (edges[1] - edges[0])
        axes.hist(pulls, edges, histtype="stepfilled", color=BLUE, alpha=0.4)
        axes.plot(x, expected * stats.norm.pdf(x), color=RED, lw=1.3)
        pull = found.pulls[name]
        text = f"mean {pull.mean:+.3f} ± {pull.mean_error:.3f}\nwidth {pull.width:.3f} ± {pull.width_error:.3f}"
        axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=8)
        axes.set_title(r"$\mu$" if name == "mu" else NUISANCE_LABELS[name], fontsize=10)
        axes.set_ylim(0, 1.4 * max(expected * 0.4, 1.0))
        axes.set_xlim(-RANGE, RANGE)
    figure.supxlabel(r"(estimate $-$ truth) / uncertainty", fontsize=10)
    figure.supylabel("toys", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


@drawn
def draw_estimates(frame: pd.DataFrame, found: Analysis, title: str) -> Any:
    """Draw mu_hat against mu: all toys as a density, mean and RMS by group."""
    good = frame[frame["status"] != FAILED]
    figure, axes = new_figure(5.6, 5.0)
    few = len(found.groups) < 2 or good["mu"].nunique() == len(found.groups)
    if few:
        axes.scatter(good["mu"], good["mu_hat"], s=3, color=GREY, alpha=0.25, lw=0, rasterized=True)
    else:
        image = axes.hist2d(good["mu"], good["mu_hat"], bins=50, cmap="Blues", cmin=1, rasterized=True)[-1]
        figure.colorbar(image, label="toys", shrink=0.85)
    mus = np.array([group.mu for group in found.groups])
    ends = np.array([good["mu"].min(), good["mu"].max()])
    axes.plot(ends, ends, color=BLACK, lw=1, label="truth")
    means = mus + [group.bias for group in found.groups]
    spread = [group.rms for group in found.groups]
    axes.errorbar(mus, means, yerr=spread, fmt="o", ms=4, color=RED, capsize=2, lw=1, label="mean and RMS")
    axes.set_xlabel(f"true {MU}")
    axes.set_ylabel(MU_HAT)
    axes.legend(frameon=False, fontsize=9)
    label(axes, title)
    return figure


@drawn
def draw_measurement(frame: pd.DataFrame, found: Analysis, title: str) -> Any:
    """Draw a part of the intervals against true mu, and the coverage of all toys by mu.

    Args:
        frame: The toys.
        found: Their analysis.
        title: Text above the panels.
    """
    good = frame[frame["status"] != FAILED].head(SHOWN).sort_values("mu")
    # Toys of the same mu are shown side by side.
    mu, repeats = good["mu"].to_numpy(), good.groupby("mu")["mu"].transform("size").to_numpy()
    place = mu + np.where(repeats > 1, SPREAD * ((good.groupby("mu").cumcount().to_numpy() + 0.5) / repeats - 0.5), 0.0)
    figure, panels = new_figure(10.0, 4.4, columns=2, gridspec_kw={"width_ratios": (1.5, 1.0)})
    left, right = panels[0]
    covers = ((good["p16"] <= good["mu"]) & (good["mu"] <= good["p84"])).to_numpy()
    for inside, colour, text in ((True, BLUE, r"68 % interval holds true $\mu$"), (False, RED, "does not")):
        here = good[covers == inside]
        left.vlines(place[covers == inside], here["p16"], here["p84"], color=colour, lw=1.1, alpha=0.8, label=text)
    left.plot(place, good["mu_hat"], "o", ms=2.2, color=BLACK, label=f"estimate {MU_HAT}")
    ends = np.array([mu.min(), mu.max()])
    left.plot(ends, ends, color=BLACK, lw=1.0, ls="--", label="truth")
    left.set_xlabel(f"true {MU}")
    left.set_ylabel(f"measured {MU}")
    left.legend(frameon=False, fontsize=9)
    label(left, title)
    mus = [group.mu for group in found.groups]
    values = np.array([group.coverage.value for group in found.groups])
    ends_of = np.array([(group.coverage.low, group.coverage.high) for group in found.groups]).T
    right.axhspan(*found.band, color=GREEN, label=f"not penalised at {found.toys} toys")
    right.axhline(ONE_SIGMA, color=BLACK, lw=0.8, label="68.27 %")
    errors = np.abs(ends_of - values)
    right.errorbar(mus, values, yerr=errors, fmt="o", ms=4, color=BLUE, capsize=2, label=f"{found.toys} toys")
    right.set_xlabel(f"true {MU}")
    right.set_ylabel(r"fraction of intervals that hold true $\mu$")
    right.set_ylim(*_coverage_range(values, errors[0], errors[1]))
    right.legend(frameon=False, fontsize=9)
    return figure


@drawn
def draw_coverage(found: Analysis, title: str, corrected: Mapping[float, tuple[float, float]] | None = None) -> Any:
    """Draw coverage with binomial errors and the challenge's flat band, above the mean interval, against mu.

    Args:
        found: The analysis.
        title: Text above the panels.
        corrected: Coverage and interval with corrected thresholds by mu, if any.
    """
    figure, panels = new_figure(6.0, 6.0, rows=2, sharex=True)
    upper, lower = panels[:, 0]
    mus = [group.mu for group in found.groups]
    values = np.array([group.coverage.value for group in found.groups])
    below = values - [group.coverage.low for group in found.groups]
    above = np.array([group.coverage.high for group in found.groups]) - values
    n = found.groups[0].coverage.n
    upper.axhspan(*flat_band(n), color="#eeeeee", label=f"flat band at {n} toys")
    upper.axhspan(*found.band, color=GREEN, label=f"flat band at all {found.toys} toys")
    upper.axhline(ONE_SIGMA, color=BLACK, lw=0.8)
    upper.errorbar(
        mus, values, yerr=[below, above], fmt="o", ms=4, color=BLUE, capsize=2, label=r"rise of $-\ln L$ by 1/2"
    )
    widths = [group.interval for group in found.groups]
    errors = [group.interval_error for group in found.groups]
    lower.errorbar(mus, widths, yerr=errors, fmt="o", ms=4, color=BLUE, capsize=2)
    if corrected:
        upper.plot(list(corrected), [pair[0] for pair in corrected.values()], "s", ms=4, color=RED, label="corrected")
        lower.plot(list(corrected), [pair[1] for pair in corrected.values()], "s", ms=4, color=RED)
    upper.set_ylabel("coverage")
    upper.set_ylim(*_coverage_range(values, below, above))
    upper.legend(frameon=False, fontsize=8)
    lower.set_ylabel("mean interval")
    lower.set_ylim(0.0, 1.25 * max(widths))
    lower.set_xlabel(f"true {MU}")
    label(upper, title)
    return figure


@drawn
def draw_p_values(frame: pd.DataFrame, found: Analysis, title: str) -> Any:
    """Draw the p-values of the test statistic at the true mu and of the goodness of fit."""
    good = frame[frame["status"] != FAILED]
    figure, panels = new_figure(8.0, 3.6, columns=2)
    for axes, p_values, uniform, text in (
        (
            panels[0, 0],
            stats.chi2.sf(2 * good["rise"].clip(lower=0), 1),
            found.test_statistic,
            r"$-2\ln\lambda(\mu_\mathrm{true})$",
        ),
        (
            panels[0, 1],
            stats.chi2.sf(2 * good["nll"].clip(lower=0), good["degrees"]),
            found.goodness_of_fit,
            "goodness of fit",
        ),
    ):
        counts = axes.hist(p_values, 20, range=(0, 1), histtype="stepfilled", color=BLUE, alpha=0.4)[0]
        expected = len(p_values) / 20
        axes.axhspan(expected - np.sqrt(expected), expected + np.sqrt(expected), color=GREEN, alpha=0.6)
        axes.axhline(expected, color=BLACK, lw=0.8)
        axes.set_ylim(0, 1.35 * max(counts.max(), expected))
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"p-value of {text}")
        note = f"Kolmogorov-Smirnov: D = {uniform.distance:.3f}, p = {uniform.p_value:.2g}"
        axes.text(0.03, 0.95, note, transform=axes.transAxes, va="top", fontsize=8)
    panels[0, 0].set_ylabel("toys")
    figure.suptitle(title, fontsize=11)
    return figure


def _coverage_range(values: np.ndarray, below: np.ndarray, above: np.ndarray) -> tuple[float, float]:
    low, high = min(float((values - below).min()), 0.64), max(float((values + above).max()), 0.72)
    return max(low - 0.01, 0.0), min(high + 0.04, 1.0)
