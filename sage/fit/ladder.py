"""The order of attempts at an interval: each takes over where the one before it failed.

newton       the fit and interval of ``sage.fit.newton`` and ``sage.fit.interval``
damped       the same from three starts, with small first steps
minuit       simplex, Migrad and Minos of iminuit, where that is installed
grid         a scan of the signal strength, the nuisances by steps along one of them at a time; no derivatives
total        the total number of events against its expectation; always possible where signal is expected

The answer's flags tell which step it came from and why the earlier ones did not do. No step uses randomness. None
chooses by the time it takes, but if the deadline passes, ``total`` follows at once: it takes milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sage.errors import FitError, TimeLimitError
from sage.fit.deadline import NEVER, Deadline, Timed
from sage.fit.interval import AT_BOUND, Interval, interval_of, measure_interval, rise_at
from sage.fit.newton import FitResult, fit, lowest_valley, parameter_ranges
from sage.fit.objective import MU, Counted, Objective

Range = tuple[float, float] | None
Thresholds = tuple[np.ndarray, np.ndarray] | None
Attempt = Callable[[Objective, Range, Thresholds], Interval]

LAST = "total"
"""Step that is always allowed."""

LARGEST_HOPELESS = 2
"""Steps whose minimum lies too high to be believed before no other is tried."""

FAILED = {"fit_not_converged", "limit_not_found", "interval_from_curvature"}
"""Flags of an interval that is not taken if a later step does better."""

START_MUS = (1.0, 0.0, 3.0)
START_DAMPING = 10.0
LARGEST = 1e300
"""Stands for infinity, which Minuit cannot take."""

SCAN = np.linspace(-2.0, 6.0, 81)
SCAN_BEGIN = 1.0
BEYOND = 5.0
"""Standard deviations outside of the scan at which a total number of events tells nothing."""
ROUNDS = 20
LARGEST_STEP, SMALLEST_STEP = 0.5, 1e-3
"""First and last step along a nuisance of the scan, in nu."""


def climb(
    objective: Objective,
    mu_range: Range = None,
    thresholds: Thresholds = None,
    deadline: Deadline = NEVER,
    worst: float = math.inf,
) -> Interval:
    """Measure the signal strength by the first step that succeeds.

    Args:
        objective: What to minimise.
        mu_range: Bounds on the signal strength; None (the default) for none.
        thresholds: As for ``sage.fit.interval.measure_interval``.
        deadline: Checked at every evaluation of every step but the last.
        worst: Largest value of the objective at which a minimum is accepted. Where two steps find none below, the
            data are not what the objective describes, and no further step is taken.

    Returns:
        A finite, ordered interval. Unless it is from the first step, its flags begin with ``fit_by_STEP``; where time
        was short, one begins with ``time_guard``.

    Raises:
        FitError: If every step fails; the message gives each one's reason.
    """
    # Looked up here, so that a test can take a step away.
    steps: dict[str, Attempt] = {
        "newton": measure_interval,
        "damped": damped_interval,
        "minuit": minuit_interval,
        "grid": grid_interval,
        "total": total_interval,
    }
    reasons: list[str] = []
    late, hopeless = False, 0
    timed = objective if deadline is NEVER else Timed(objective, deadline)
    for name, attempt in steps.items():
        if late and name != LAST:
            continue
        try:
            interval = attempt(objective if name == LAST else timed, mu_range, thresholds)
        except TimeLimitError as error:
            reasons.append(f"time_guard: {name} stopped, {error}")
            late = True
            continue
        except (ImportError, ArithmeticError, ValueError, RuntimeError, FitError) as error:
            reasons.append(f"{name}: {type(error).__name__} {error}")
            continue
        low, mu, high = interval.low, interval.fit.mu, interval.high
        if name != LAST and not interval.fit.value <= worst:
            reasons.append(f"{name}: nll {interval.fit.value:.3g} at the minimum, more than {worst:.3g}")
            hopeless += 1
            if hopeless == LARGEST_HOPELESS:
                break
            continue
        if not all(math.isfinite(value) for value in (low, mu, high)) or not low <= mu <= high or low == high:
            reasons.append(f"{name}: no interval [{low}, {high}] around {mu}")
        elif FAILED.intersection(interval.flags):
            reasons.append(f"{name}: {', '.join(interval.flags)}")
        elif not reasons:
            return interval
        else:
            return Interval(interval.fit, low, high, (f"fit_by_{name}", *reasons, *interval.flags))
    msg = f"no step of the fit gave an interval ({'; '.join(reasons)})"
    raise FitError(msg)


def damped_interval(objective: Objective, mu_range: Range, thresholds: Thresholds) -> Interval:
    """Fit from three signal strengths with damped steps."""
    starts = [np.concatenate([[mu], objective.centres]) for mu in START_MUS]
    results = [fit(objective, start, mu_range=mu_range, damping=START_DAMPING) for start in starts]
    best = min(results, key=lambda result: (not result.converged, result.value))
    return interval_of(objective, lowest_valley(objective, best, mu_range=mu_range), mu_range, thresholds)


def minuit_interval(objective: Objective, mu_range: Range, thresholds: Thresholds) -> Interval:
    """Fit with iminuit, which needs no curvature; limits from Minos."""
    from iminuit import Minuit

    def value(at: np.ndarray) -> float:
        # Where nothing bounds the signal strength, the simplex may run to where the expectation overflows.
        with np.errstate(over="ignore", invalid="ignore"):
            found = objective.value(at)
        return found if found < LARGEST else LARGEST

    minuit = Minuit(value, np.concatenate([[1.0], objective.centres]))
    low, high = parameter_ranges(objective, None, mu_range)
    minuit.limits = list(zip(low.tolist(), high.tolist(), strict=True))
    minuit.errordef = Minuit.LIKELIHOOD
    minuit.simplex().migrad()
    if not minuit.valid or minuit.covariance is None:
        msg = f"Migrad found no valid minimum (edm {minuit.fmin.edm:.3g}, value {minuit.fmin.fval:.6g})"
        raise FitError(msg)
    at, covariance = np.array(minuit.values), np.array(minuit.covariance)
    best = FitResult(at, float(minuit.fval), covariance, float(minuit.fmin.edm), int(minuit.nfcn), True)
    minuit.errordef = rise_at(best.mu, thresholds)
    minuit.minos(MU, cl=1)
    error = minuit.merrors[MU]
    if not error.is_valid:
        msg = "Minos found no valid limits"
        raise FitError(msg)
    return Interval(best, best.mu + error.lower, best.mu + error.upper)


def grid_interval(objective: Objective, mu_range: Range, thresholds: Thresholds) -> Interval:
    """Scan the signal strength outward from 1; a limit is where the scan crosses its level, linearly between points."""
    low, high = (-math.inf, math.inf) if mu_range is None else mu_range
    scan = SCAN[(low <= SCAN) & (high >= SCAN)]
    values, found = np.full(len(scan), math.inf), [objective.centres] * len(scan)
    begin = int(np.abs(scan - SCAN_BEGIN).argmin())
    for upward in (True, False):
        nus = found[begin]
        for k in range(begin, len(scan)) if upward else range(begin, -1, -1):
            values[k], nus = _along_axes(objective, float(scan[k]), nus)
            found[k] = nus
    lowest = int(values.argmin())
    if not math.isfinite(values[lowest]):
        msg = "the likelihood is infinite all along the scan: a bin holds events that nothing expects"
        raise FitError(msg)
    rises = values - values[lowest] - [rise_at(mu, thresholds) for mu in scan.tolist()]
    limits, flags = [], []
    for direction in (-1, 1):
        inside = lowest
        while 0 <= inside + direction < len(scan) and rises[inside + direction] < 0:
            inside += direction
        outside = inside + direction
        if 0 <= outside < len(scan) and math.isfinite(rises[outside]):
            share = rises[inside] / (rises[inside] - rises[outside])
            limits.append(float(scan[inside] + share * (scan[outside] - scan[inside])))
        else:
            limits.append(float(scan[inside]))
            # The end of the scan is a bound only where the settings put one there.
            at_end = mu_range is None and not 0 <= outside < len(scan)
            flags.append("limit_not_found" if at_end else AT_BOUND)
    at = np.concatenate([[scan[lowest]], found[lowest]])
    return Interval(_point(objective, at, (limits[1] - limits[0]) / 2), limits[0], limits[1], tuple(flags))


def total_interval(objective: Objective, mu_range: Range, thresholds: Thresholds) -> Interval:
    """Compare the total number of events with its expectation at the centres of the constraints.

    The width is that of the counting experiment: Poisson fluctuation, simulation, and every nuisance to first order.
    """
    if not isinstance(objective, Counted):
        msg = "the data are no events that could be counted"
        raise FitError(msg)
    at = np.concatenate([[1.0], objective.centres])
    total = objective.totals(at)
    slope = float(total.slopes[MU])
    if not slope > 0:
        msg = "no signal is expected in any bin"
        raise FitError(msg)
    widths = np.array([nuisance.width for nuisance in objective.nuisances])
    variance = max(total.expected, total.observed) + float(total.variance + ((total.slopes[1:] * widths) ** 2).sum())
    mu = 1.0 + (total.observed - total.expected) / slope
    sigma = math.sqrt(2.0 * rise_at(mu, thresholds) * variance) / slope
    low, high = mu - sigma, mu + sigma
    if mu + BEYOND * sigma < SCAN[0] or mu - BEYOND * sigma > SCAN[-1]:
        msg = f"{total.observed:.6g} events where {total.expected:.6g} are expected are mu = {mu:.3g} +- {sigma:.3g}, "
        msg += f"which no signal strength from {SCAN[0]:g} to {SCAN[-1]:g} explains"
        raise FitError(msg)
    if mu_range is not None:
        mu, low, high = (min(max(value, mu_range[0]), mu_range[1]) for value in (mu, low, high))
    at[MU] = mu
    return Interval(_point(objective, at, sigma), low, high)


def _point(objective: Objective, at: np.ndarray, sigma: float) -> FitResult:
    """Return a point as the result of a fit that knows the width of mu alone: nuisances keep their constraints'."""
    covariance = np.diag([0.0, *(nuisance.width**2 for nuisance in objective.nuisances)])
    covariance[MU, MU] = sigma**2
    return FitResult(at, objective.value(at), covariance, math.inf, 0, converged=False)


def _along_axes(objective: Objective, mu: float, start: np.ndarray) -> tuple[float, np.ndarray]:
    """Minimise over the nuisances by steps along one at a time, to the vertex of a parabola if that is lower."""
    low, high = (bounds[1:] for bounds in parameter_ranges(objective, mu, None))

    def moved(i: int, step: float) -> tuple[float, np.ndarray]:
        trial = at.copy()
        trial[i] = min(max(trial[i] + step, low[i]), high[i])
        return objective.value(np.concatenate([[mu], trial])), trial

    at = np.clip(start, low, high)
    lowest = objective.value(np.concatenate([[mu], at]))
    steps = np.full(len(at), LARGEST_STEP)
    for _ in range(ROUNDS):
        if steps.max() < SMALLEST_STEP or not math.isfinite(lowest):
            break
        for i, step in enumerate(steps.tolist()):
            trials = [moved(i, -step), moved(i, step)]
            below, above = trials[0][0] - lowest, trials[1][0] - lowest
            if math.isfinite(below + above) and below + above > 0:
                trials.append(moved(i, 0.5 * step * (below - above) / (below + above)))
            value, trial = min(trials, key=lambda found: found[0])
            if value < lowest:
                steps[i] = min(max(abs(trial[i] - at[i]), 0.5 * step), LARGEST_STEP)
                lowest, at = value, trial
            else:
                steps[i] = 0.5 * step
    return lowest, at
