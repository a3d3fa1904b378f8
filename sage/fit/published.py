"""The published recipe for profile and interval, for comparison (arXiv:2509.00672 and the talks on it).

The signal strength is scanned over 150 points of [0, 3]. Every 10th begins with a global search by dual annealing, the
others at their neighbour's nuisances; each ends in L-BFGS-B with the analytic gradient and up to five random restarts.
The limits are roots of the rise by 0.5, by Brent's method; a spline and a parabola through the scan stand in for it.
Random numbers come from fixed seeds. The setting ``profile: published`` chooses it. It needs scipy and takes minutes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sage.fit.interval import RISE, Interval
from sage.fit.newton import FitResult, parameter_ranges
from sage.fit.objective import MU, Objective

MU_SCAN = (0.0, 3.0)
POINTS = 150
ANNEAL_EVERY = 10
ANNEALING_ITERATIONS = 1000
"""scipy's default."""
LOCAL = {"maxiter": 150, "ftol": 1e-12}
RESTARTS = 5
LARGEST = 1e300
"""Stands for infinity, which the minimisers cannot take."""


def published_interval(
    objective: Objective, points: int = POINTS, annealing_iterations: int = ANNEALING_ITERATIONS
) -> Interval:
    """Measure the signal strength by the published recipe.

    Args:
        objective: What to minimise.
        points: Points of the scan.
        annealing_iterations: Iterations of each global search.

    Returns:
        The interval; flags tell which limit is not a root found by Brent's method.

    Raises:
        ImportError: If scipy is not there.
    """
    from scipy.optimize import brentq

    scan = np.linspace(*MU_SCAN, points)
    nus = objective.centres
    profiled = []
    for k, mu in enumerate(scan.tolist()):
        if k % ANNEAL_EVERY == 0:
            nus = _anneal(objective, mu, k, annealing_iterations)
        value, nus = _refine(objective, mu, nus, k)
        profiled.append((value, nus))
    values = np.array([value for value, _ in profiled])
    lowest = int(values.argmin())
    best = _minimum(objective, float(scan[lowest]), profiled[lowest][1])
    rises = values - best.value - RISE

    def rise(mu: float) -> float:
        near = int(np.abs(scan - mu).argmin())
        return _refine(objective, mu, profiled[near][1], near)[0] - best.value - RISE

    limits, flags = [], []
    for side in (-1, 1):
        beyond = [k for k in range(points) if side * (scan[k] - best.mu) > 0 and rises[k] >= 0]
        limit, flag = math.nan, ""
        if beyond:
            outside = float(scan[min(beyond, key=lambda k: abs(scan[k] - best.mu))])
            try:
                limit = float(brentq(rise, best.mu, outside))
            except (ValueError, RuntimeError):
                limit, flag = _spline_root(scan, rises, best.mu, outside), "limit_from_spline"
        if not math.isfinite(limit):
            limit, flag = best.mu + side * _parabola_width(scan, values, lowest), "limit_from_parabola"
        limits.append(limit)
        flags += [flag] if flag else []
    return Interval(best, limits[0], limits[1], tuple(flags))


def _bounds(objective: Objective) -> list[tuple[float, float]]:
    low, high = parameter_ranges(objective, None, MU_SCAN)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _anneal(objective: Objective, mu: float, seed: int, iterations: int) -> np.ndarray:
    """Return the nuisances that the global search finds at one signal strength."""
    from scipy.optimize import dual_annealing

    bounds = _bounds(objective)[1:]
    local = {"method": "L-BFGS-B", "jac": lambda nus: _gradient(objective, mu, nus), "bounds": bounds}
    found = dual_annealing(
        lambda nus: _value(objective, np.concatenate([[mu], nus])),
        bounds,
        maxiter=iterations,
        minimizer_kwargs=local,
        seed=seed,
    )
    return np.asarray(found.x)


def _refine(objective: Objective, mu: float, start: np.ndarray, seed: int) -> tuple[float, np.ndarray]:
    """Minimise over the nuisances with L-BFGS-B; begin again at random points while it does not succeed."""
    bounds = _bounds(objective)[1:]
    random = np.random.RandomState(seed)
    best: Any = None
    for _ in range(1 + RESTARTS):
        found = _minimise(
            lambda nus: _value(objective, np.concatenate([[mu], nus])),
            lambda nus: _gradient(objective, mu, nus),
            start,
            bounds,
        )
        if best is None or found.fun < best.fun:
            best = found
        if found.success:
            break
        start = np.array([random.uniform(low, high) for low, high in bounds])
    return float(best.fun), np.asarray(best.x)


def _minimum(objective: Objective, mu: float, nus: np.ndarray) -> FitResult:
    """Minimise with the signal strength free as well, from the lowest point of the scan."""
    found = _minimise(
        lambda at: _value(objective, at),
        lambda at: objective.evaluate(at).gradient,
        np.concatenate([[mu], nus]),
        _bounds(objective),
    )
    at = np.asarray(found.x)
    covariance = np.linalg.pinv(objective.evaluate(at).fisher)
    return FitResult(at, float(found.fun), covariance, math.nan, int(found.nit), bool(found.success))


def _minimise(value: Any, gradient: Any, start: np.ndarray, bounds: list[tuple[float, float]]) -> Any:
    from scipy.optimize import minimize

    return minimize(value, start, jac=gradient, method="L-BFGS-B", bounds=bounds, options=LOCAL)


def _value(objective: Objective, at: np.ndarray) -> float:
    return min(objective.value(at), LARGEST)


def _gradient(objective: Objective, mu: float, nus: np.ndarray) -> np.ndarray:
    return objective.evaluate(np.concatenate([[mu], nus])).gradient[1 + MU :]


def _spline_root(scan: np.ndarray, rises: np.ndarray, mu: float, outside: float) -> float:
    """Return the crossing of a cubic spline through the scan between two signal strengths; not a number if none."""
    from scipy.interpolate import CubicSpline

    low, high = sorted((mu, outside))
    roots = [root for root in CubicSpline(scan, rises).roots(extrapolate=False) if low <= root <= high]
    return float(min(roots, key=lambda root: abs(root - mu), default=math.nan))


def _parabola_width(scan: np.ndarray, values: np.ndarray, lowest: int) -> float:
    """Return the half-width of the parabola through the three scan points around the lowest."""
    middle = min(max(lowest, 1), len(scan) - 2)
    near = slice(middle - 1, middle + 2)
    curvature = 2.0 * float(np.polyfit(scan[near], values[near], 2)[0])
    return math.sqrt(2.0 * RISE / curvature) if curvature > 0 else math.inf
