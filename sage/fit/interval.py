"""Step 9: the 68 % interval of the signal strength from the profile objective.

The limits are where the profiled negative log-likelihood has risen by 0.5 above its minimum (arXiv:1007.1727), found
by Newton's method, or by bracketing and false position where that does not converge. Nothing clips them to positive
values: a limit may be negative, down to where some bin would expect less than nothing. A bound on mu exists only as a
named setting.
"""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass

import numpy as np

from sage.fit.newton import FitResult, fit, fit_global, free_parameters, parameter_ranges, profiled
from sage.fit.objective import MU, Objective

RISE = 0.5
AT_BOUND = "limit_at_bound"
"""Flag of a limit that is no crossing: a bound on mu, or the edge of where events are expected in every bin."""
TOLERANCE = 1e-5
"""Accuracy of a limit, relative to the parabolic standard deviation."""
SETTLED, SHORT = 1e-4, 0.03
"""Distance in nll, and length of a step in standard deviations, whose cubes are below the tolerance: the last ones."""
MAX_STEPS = 60
NEWTON_STEPS = 12
NEW_MINIMUM = 1e-6
"""By how much a profile fit must undercut the minimum to be taken as the new one."""


@dataclass(frozen=True)
class Interval:
    """The measured signal strength.

    Args:
        fit: The minimum.
        low: Lower 68 % limit.
        high: Upper 68 % limit.
        flags: What did not go the normal way; empty if everything did.
        counts: Observed events per bin, where the interval is one of counts; empty otherwise.
    """

    fit: FitResult
    low: float
    high: float
    flags: tuple[str, ...] = ()
    counts: tuple[float, ...] = ()


class _LowerMinimumError(Exception):
    """A profile fit found a better minimum than the global fit did."""

    def __init__(self, parameters: np.ndarray) -> None:
        super().__init__()
        self.parameters = parameters


def measure_interval(
    objective: Objective,
    mu_range: tuple[float, float] | None = None,
    thresholds: tuple[np.ndarray, np.ndarray] | None = None,
) -> Interval:
    """Fit the signal strength and find its 68 % limits.

    Args:
        objective: What to minimise.
        mu_range: Bounds on the signal strength; None (the default) for none.
        thresholds: Increasing mu, and the rise of the profiled nll at a limit there, one each: interpolated, constant
            beyond the ends (Feldman and Cousins, arXiv:physics/9711021). None (the default) for 0.5 everywhere.

    Returns:
        The interval; its flags tell if a limit sits at a bound or had to be taken from the curvature.
    """
    return interval_of(objective, fit_global(objective, mu_range), mu_range, thresholds)


def interval_of(
    objective: Objective,
    best: FitResult,
    mu_range: tuple[float, float] | None = None,
    thresholds: tuple[np.ndarray, np.ndarray] | None = None,
) -> Interval:
    """Find the 68 % limits around a minimum; arguments and result as for ``measure_interval``."""
    for _ in range(3):
        if not best.converged:
            # A search for limits around what is no minimum takes seconds and finds nothing.
            return _from_curvature(best, "fit_not_converged")
        try:
            low, low_flag = _limit(objective, best, -1, mu_range, thresholds)
            high, high_flag = _limit(objective, best, +1, mu_range, thresholds)
        except _LowerMinimumError as found:
            best = fit(objective, found.parameters, mu_range=mu_range)
            continue
        return Interval(best, low, high, tuple(flag for flag in (low_flag, high_flag) if flag))
    return _from_curvature(best)


def _from_curvature(best: FitResult, *flags: str) -> Interval:
    sigma = best.sigma_mu
    return Interval(best, best.mu - sigma, best.mu + sigma, (*flags, "interval_from_curvature"))


def rise_at(mu: float, thresholds: tuple[np.ndarray, np.ndarray] | None) -> float:
    """Return by how much the profiled nll has risen at a limit at ``mu``."""
    return RISE if thresholds is None else float(np.interp(mu, *thresholds))


def _limit(
    objective: Objective,
    best: FitResult,
    side: int,
    mu_range: tuple[float, float] | None,
    thresholds: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[float, str | None]:
    """Find the limit on one side; return it with a flag if it is not a crossing."""
    bound = math.inf if mu_range is None else (mu_range[1] if side > 0 else mu_range[0]) * side
    limit = _newton_limit(objective, best, side, thresholds)
    if limit is None:
        return _bracketed_limit(objective, best, side, bound, thresholds)
    return (limit, None) if side * limit <= bound else (side * bound, AT_BOUND)


def _newton_limit(
    objective: Objective, best: FitResult, side: int, thresholds: tuple[np.ndarray, np.ndarray] | None
) -> float | None:
    """Solve for the limit and the nuisances there together, by Newton steps (Venzon and Moolgavkar, 1988).

    Returns:
        The limit, or None where this does not converge (a kink, an edge of the domain) and a bracket is needed.
    """
    low, high = parameter_ranges(objective, None, None)
    sigma = best.sigma_mu
    if not (best.converged and math.isfinite(sigma)):
        return None
    step = side * math.sqrt(2.0 * rise_at(best.mu + side * sigma, thresholds)) * sigma
    at = best.parameters + step * best.covariance[:, MU] / best.covariance[MU, MU]
    for _ in range(NEWTON_STEPS):
        at = np.minimum(np.maximum(at, low), high)
        point = objective.evaluate(at)
        if not math.isfinite(point.value):
            return None
        if point.value < best.value - NEW_MINIMUM:
            raise _LowerMinimumError(at)
        profile = profiled(point, MU, free_parameters(at, point.gradient, low, high))
        if profile is None:
            return None
        rise = profile.value - best.value - rise_at(float(at[MU]), thresholds)
        slope = side * profile.slope
        square = slope**2 - 2.0 * profile.curvature * rise
        if slope <= 0 or square < 0:
            return None
        step = side * max(-2.0 * rise / (slope + math.sqrt(square)), side * (best.mu - at[MU]) / 2)
        to = at + profile.settling + step * profile.ridge
        if profile.distance < SETTLED and abs(step) < SHORT * sigma and ((low <= to) & (to <= high)).all():
            bend = rise_at(float(to[MU]), thresholds) - rise_at(float(at[MU]), thresholds)
            if abs(bend) < TOLERANCE and not _kink_between(objective, at, to):
                return float(to[MU])
        at = to
    return None


def _kink_between(objective: Objective, at: np.ndarray, to: np.ndarray) -> bool:
    """Return whether the slope may jump between two points."""
    pairs = zip(at[1:].tolist(), to[1:].tolist(), strict=True)
    return any(bisect(x, a) != bisect(x, b) for x, (a, b) in zip(objective.kinks, pairs, strict=True))


def _bracketed_limit(
    objective: Objective,
    best: FitResult,
    side: int,
    bound: float,
    thresholds: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[float, str | None]:
    """Find the limit by profile fits that bracket it; needs no derivative of the profile."""
    sigma = best.sigma_mu
    if not math.isfinite(sigma):
        sigma = 1.0
    # The nuisances move along the ridge of the likelihood; its direction is a column of the covariance.
    ridge = (
        best.covariance[:, MU] / best.covariance[MU, MU]
        if best.covariance[MU, MU] > 0
        else np.zeros_like(best.parameters)
    )
    ridge[MU] = 1.0
    nearest = (best.mu, best.parameters)

    def rise(mu: float) -> float:
        """Return the profiled nll at ``mu`` above the level of the limit."""
        nonlocal nearest
        start = nearest[1] + (mu - nearest[0]) * ridge
        if not math.isfinite(objective.value(np.clip(start, -50.0, 50.0))):
            start = np.concatenate([[mu], nearest[1][1:]])
        result = fit(objective, start, fixed_mu=mu)
        if not math.isfinite(result.value):
            return math.inf
        if result.value < best.value - NEW_MINIMUM:
            raise _LowerMinimumError(result.parameters)
        nearest = (mu, result.parameters)
        return result.value - best.value - rise_at(mu, thresholds)

    inside, f_inside, step = best.mu, -rise_at(best.mu, thresholds), sigma
    for _ in range(MAX_STEPS):
        outside = side * min(side * (best.mu + side * step), bound)
        f_outside = rise(outside)
        if f_outside >= 0:
            break
        if side * outside >= bound:
            return outside, AT_BOUND
        inside, f_inside, step = outside, f_outside, 1.5 * step
    else:
        return outside, "limit_not_found"

    for _ in range(MAX_STEPS):
        if abs(outside - inside) < TOLERANCE * sigma or f_outside == 0:
            break
        middle = _between(inside, f_inside, outside, f_outside)
        f_middle = rise(middle)
        if f_middle >= 0:
            # Illinois rule: halve the value kept, so that both ends of the bracket keep moving.
            f_inside = f_inside / 2 if f_outside != math.inf else f_inside
            outside, f_outside = middle, f_middle
        else:
            f_outside = f_outside / 2
            inside, f_inside = middle, f_middle
        if abs(f_middle) < TOLERANCE:
            return middle, None
    return (outside, None) if f_outside < math.inf else (inside, AT_BOUND)


def _between(inside: float, f_inside: float, outside: float, f_outside: float) -> float:
    """Return the next trial point of a bracket: false position in sqrt(rise), or the midpoint next to infinity."""
    if not math.isfinite(f_outside):
        return 0.5 * (inside + outside)
    # The rise is nearly quadratic in the distance to the minimum, so its root is nearly linear.
    root_inside = math.sqrt(max(f_inside + RISE, 0.0)) - math.sqrt(RISE)
    root_outside = math.sqrt(max(f_outside + RISE, 0.0)) - math.sqrt(RISE)
    fraction = -root_inside / (root_outside - root_inside) if root_outside > root_inside else 0.5
    return inside + min(max(fraction, 0.02), 0.98) * (outside - inside)
