"""What the measurement expects: the Asimov data set's fit, profile, impacts and yields (arXiv:1007.1727, section 3.2).

Nothing is random here. All counts are the expected ones, so every estimate equals the truth, and the uncertainties
are those of the median experiment.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sage.binned.statistic import BinnedLikelihood, with_exact_templates
from sage.challenge.nuisances import PROCESSES, SIGNAL
from sage.files.bundle import Bundle
from sage.fit.interval import RISE, Interval
from sage.fit.newton import FitResult, fit
from sage.fit.objective import MU
from sage.measurement import fit_interval
from studies.impacts import (
    Impact,
    Part,
    breakdown_by_auxiliary_data,
    breakdown_by_freezing,
    correlations,
    frozen,
    impacts,
)
from studies.likelihoods import asimov_likelihood, nuisances_of, process_yields

SCAN_POINTS = 61
SCAN_REACH = 3.0
"""Half of the scanned range of mu, in standard deviations."""


@dataclass(frozen=True)
class Scan:
    """A profile scan.

    Args:
        mu: Signal strengths, shape (n,).
        profiled: Rise of the profiled negative log-likelihood above its minimum, shape (n,).
        statistical: The same with all nuisances held at their estimates.
        nuisances: Profiled nu, shape (n, 6).
    """

    mu: np.ndarray
    profiled: np.ndarray
    statistical: np.ndarray
    nuisances: np.ndarray


@dataclass(frozen=True)
class YieldChange:
    """Relative change of a process's yield in a region when one nuisance moves by one constraint width."""

    region: str
    process: str
    nuisance: str
    down: float
    up: float


@dataclass(frozen=True)
class AsimovStudy:
    """Everything about one Asimov data set.

    Args:
        truth: (mu, nu...) of the data set, shape (7,).
        interval: The measurement.
        scan: Profile scan of mu.
        impacts: The nuisances and their impacts.
        correlation: Correlation matrix of (mu, nu...).
        parts: Parts of the uncertainty of mu, by freezing.
        auxiliary_parts: Parts of its variance, by auxiliary data.
        changes: Changes of the yields.
        yields: Expected events by region and process.
    """

    truth: np.ndarray
    interval: Interval
    scan: Scan
    impacts: list[Impact]
    correlation: np.ndarray
    parts: dict[str, Part]
    auxiliary_parts: dict[str, float]
    changes: list[YieldChange]
    yields: dict[str, dict[str, float]]


def study_asimov(bundle: Bundle, truth: np.ndarray, points: int = SCAN_POINTS) -> AsimovStudy:
    """Study the Asimov data set at (mu, nu...).

    Args:
        bundle: Content of a weights folder.
        truth: (mu, nu...), shape (7,).
        points: Points of the scan.
    """
    likelihood = asimov_likelihood(bundle, truth)
    measure = functools.partial(fit_interval, settings=bundle.settings)
    interval = measure(likelihood)
    exact = with_exact_templates(likelihood) if likelihood.statistic.variance.any() else None
    best = interval.fit
    return AsimovStudy(
        truth=truth,
        interval=interval,
        scan=scan_mu(likelihood, best, points),
        impacts=impacts(likelihood, best),
        correlation=correlations(best.covariance),
        parts=breakdown_by_freezing(likelihood, interval, measure, exact),
        auxiliary_parts=breakdown_by_auxiliary_data(likelihood, best),
        changes=yield_changes(bundle, truth),
        yields=region_yields(bundle, truth),
    )


def scan_mu(likelihood: BinnedLikelihood, best: FitResult, points: int = SCAN_POINTS) -> Scan:
    """Scan the profile likelihood at ``points`` signal strengths around a minimum, each fit begun at its neighbour's.

    Where a bin would expect less than nothing the rise is infinite.
    """
    reach = SCAN_REACH * best.sigma_mu
    mu = np.linspace(best.mu - reach, best.mu + reach, points)
    held = frozen(likelihood, best.parameters, [nuisance.name for nuisance in likelihood.nuisances])
    profiled, statistical = np.empty(points), np.empty(points)
    nuisances = np.empty((points, len(likelihood.nuisances)))
    middle = int(np.abs(mu - best.mu).argmin())
    for order in (range(middle, points), range(middle - 1, -1, -1)):
        start = best.parameters
        for i in order:
            result = fit(likelihood, start, fixed_mu=float(mu[i]))
            start = result.parameters
            profiled[i] = result.value - best.value
            nuisances[i] = start[1:]
            statistical[i] = held.value(np.concatenate([[mu[i]], best.parameters[1:]])) - best.value
    return Scan(mu, profiled, statistical, nuisances)


def yield_changes(bundle: Bundle, truth: np.ndarray) -> list[YieldChange]:
    """Return the relative changes for all regions, processes and nuisances, from (mu, nu...) on.

    The signal is that of mu = 1, so that the table does not depend on mu. What is empty changes by 0.
    """
    at = truth.copy()
    at[MU] = 1.0
    nominal = process_yields(bundle, at)
    found = []
    for i, nuisance in enumerate(nuisances_of(bundle), start=1):
        moved = []
        for sign in (-1, 1):
            there = at.copy()
            there[i] += sign * nuisance.width
            moved.append(process_yields(bundle, there))
        for region, place in bundle.regions.slices.items():
            for row, process in enumerate(PROCESSES):
                before = float(nominal[row, place].sum())
                down, up = (float(yields[row, place].sum()) / before - 1.0 if before > 0 else 0.0 for yields in moved)
                found.append(YieldChange(region, process, nuisance.name, down, up))
    return found


def region_yields(bundle: Bundle, truth: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the expected events of each process by region."""
    yields = process_yields(bundle, truth)
    return {
        region: dict(zip(PROCESSES, yields[:, place].sum(axis=1).tolist(), strict=True))
        for region, place in bundle.regions.slices.items()
    }


def as_json(study: AsimovStudy) -> dict[str, Any]:
    """Return a study as plain values; infinite rises of the scan become None."""
    best = study.interval.fit
    names = [impact.name for impact in study.impacts]
    return {
        "truth": {"mu": float(study.truth[MU]), **dict(zip(names, study.truth[1:].tolist(), strict=True))},
        "mu_hat": best.mu,
        "sigma_mu": best.sigma_mu,
        "p16": study.interval.low,
        "p84": study.interval.high,
        "flags": list(study.interval.flags),
        "converged": best.converged,
        "rise_at_limits": RISE,
        "scan": {
            "mu": study.scan.mu.tolist(),
            "profiled": _finite(study.scan.profiled),
            "statistical": _finite(study.scan.statistical),
            "nuisances": {name: study.scan.nuisances[:, i].tolist() for i, name in enumerate(names)},
        },
        "nuisances": [{**dataclasses.asdict(impact), "pull": impact.pull} for impact in study.impacts],
        "correlation": {"parameters": ["mu", *names], "matrix": study.correlation.tolist()},
        "breakdown_by_freezing": {name: dataclasses.asdict(part) for name, part in study.parts.items()},
        "breakdown_by_auxiliary_data": study.auxiliary_parts,
        "yields": study.yields,
        "yield_changes": [dataclasses.asdict(change) for change in study.changes],
    }


def as_text(study: AsimovStudy) -> str:
    """Return a study as text for people."""
    best, interval = study.interval.fit, study.interval
    lines = [
        f"mu = {best.mu:.4f}  -{best.mu - interval.low:.4f} +{interval.high - best.mu:.4f}"
        f"  (sigma from curvature {best.sigma_mu:.4f})  flags: {', '.join(interval.flags) or 'none'}",
        "",
        "Nuisances and impacts on mu. Fixed: nu held at -1 and +1 sigma, all others refitted. Auxiliary: centre of the",
        "constraint moved by -1 and +1 width. Beside each refit, the same to first order from the covariance matrix.",
        f"{'nuisance':<14} {'nu':>7} {'prefit':>7} {'postfit':>7} {'fixed, prefit':>17} {'fixed, postfit':>17}"
        f" {'(covariance)':>12} {'auxiliary':>17} {'(covariance)':>12}",
    ]
    for impact in sorted(study.impacts, key=lambda impact: -max(map(abs, impact.fixed_postfit))):
        lines.append(
            f"{impact.name:<14} {impact.nu:7.3f} {impact.width:7.3f} {impact.sigma:7.3f} {_pair(impact.fixed_prefit)}"
            f" {_pair(impact.fixed_postfit)} {impact.covariance_postfit[1]:+12.4f} {_pair(impact.auxiliary_refit)}"
            f" {impact.auxiliary_covariance[1]:+12.4f}"
        )
    lines += [
        "",
        "Uncertainty of mu by what holding parameters takes away (in quadrature)",
        f"{'':<18} {'-':>7} {'+':>7}",
    ]
    lines += [f"{name:<18} {part.down:7.4f} {part.up:7.4f}" for name, part in study.parts.items()]
    total = math.hypot(*study.auxiliary_parts.values())
    parts = ", ".join(f"{name} {value:.4f}" for name, value in study.auxiliary_parts.items())
    lines += ["", f"By auxiliary data (adds in quadrature to {total:.4f}): {parts}", ""]
    names = ["mu", *(impact.name for impact in study.impacts)]
    lines += ["Correlations", " " * 14 + "".join(f"{name[:9]:>10}" for name in names)]
    for name, row in zip(names, study.correlation, strict=True):
        lines.append(f"{name:<14}" + "".join(f"{value:10.3f}" for value in row))
    lines += ["", "Expected events, and their changes in % for nu -1 / +1 width (signal at mu = 1)"]
    lines += _changes_table(study)
    return "\n".join(lines)


def _changes_table(study: AsimovStudy) -> list[str]:
    names = [impact.name for impact in study.impacts]
    lines = [f"{'region':<20}{'process':<9} {'events':>10}" + "".join(f"{name:>17}" for name in names)]
    table = {(change.region, change.process, change.nuisance): change for change in study.changes}
    for region, yields in study.yields.items():
        for process in (SIGNAL, *(name for name in PROCESSES if name != SIGNAL)):
            changes = [table[region, process, name] for name in names]
            cells = "".join(f"{100 * change.down:+8.2f} /{100 * change.up:+7.2f}" for change in changes)
            lines.append(f"{region:<20}{process:<9} {yields[process]:10.1f}{cells}")
    return lines


def _pair(values: tuple[float, float]) -> str:
    return f"{values[0]:+8.4f} {values[1]:+8.4f}"


def _finite(values: np.ndarray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
