"""Step 8: the fit. Minimises an objective over the nuisance parameters, with the signal strength free or fixed.

A damped Newton iteration with the analytic Hessian (the Fisher information where that is not positive definite),
projected onto the parameter ranges. It needs no randomness and no clock, so a fit is a function of its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sage.fit.objective import MU, Evaluation, Objective

MAX_ITERATIONS = 100
EDM_GOAL = 1e-12
"""Estimated distance to the minimum (in units of nll) at which the iteration stops."""
EDM_ACCEPT = 1e-4
"""Largest estimated distance at which a stalled iteration (at a kink of the table) still counts as converged."""
DAMPING_MIN, DAMPING_MAX = 1e-2, 1e6
FACE = 1e-9
"""Distance from the face of a table cell, in nu, at which a point counts as on it."""
MAX_CELLS = 100
SAME_START = 0.5
"""Distance in nu, from a minimum or from a step of an earlier descent, within which no further descent is started."""
SAME_MINIMUM = 1e-3
"""Squared distance to a known minimum, in standard deviations, at which a descent is ended as leading there."""
STEEPEST = 6.0
"""Largest slope of a profile, relative to the secant to its minimum, that is steep on the way up and no other valley's.

The root of the rise above a minimum is nearly linear in the distance. A cubic is monotonic only with slopes up to three
times its secant (Fritsch and Carlson, SIAM J. Numer. Anal. 17 (1980) 238), and the rise has twice the root's.
"""


@dataclass(frozen=True)
class FitResult:
    """A minimum.

    Args:
        parameters: (mu, nu...) at the minimum.
        value: Negative log-likelihood there.
        covariance: Inverse Hessian over the free parameters; 0 for those that are fixed or at a bound.
        edm: Estimated vertical distance to the true minimum.
        iterations: Newton steps taken.
        converged: Whether ``edm`` is small enough.
        path: Where the descent went, if that is known.
    """

    parameters: np.ndarray
    value: float
    covariance: np.ndarray
    edm: float
    iterations: int
    converged: bool
    path: tuple[np.ndarray, ...] = ()

    @property
    def mu(self) -> float:
        """Signal strength at the minimum."""
        return float(self.parameters[MU])

    @property
    def sigma_mu(self) -> float:
        """Parabolic standard deviation of the signal strength; not finite if the curvature is not positive."""
        variance = float(self.covariance[MU, MU])
        return math.sqrt(variance) if variance > 0 else math.inf


def fit(
    objective: Objective,
    start: np.ndarray,
    fixed_mu: float | None = None,
    mu_range: tuple[float, float] | None = None,
    damping: float = 0.0,
) -> FitResult:
    """Minimise from one starting point.

    Args:
        objective: What to minimise.
        start: (mu, nu...); moved into the ranges if outside.
        fixed_mu: Signal strength to hold, if any.
        mu_range: Bounds on a free signal strength, if any.
        damping: Damping of the first step.
    """
    low, high = parameter_ranges(objective, fixed_mu, mu_range)
    descent = _newton(objective, np.clip(start, low, high), low, high, damping)
    return _finish(objective, descent, low, high)


def fit_global(objective: Objective, mu_range: tuple[float, float] | None = None) -> FitResult:
    """Minimise with the signal strength free, from several starting points, and return the lowest minimum."""
    best = fit(objective, np.concatenate([[1.0], objective.centres]), mu_range=mu_range)
    return lowest_valley(objective, best, mu_range=mu_range)


def lowest_valley(
    objective: Objective,
    best: FitResult,
    fixed_mu: float | None = None,
    mu_range: tuple[float, float] | None = None,
) -> FitResult:
    """Descend into the other valleys of nuisances that can have several; return the lowest, ``best`` among them."""
    low, high = parameter_ranges(objective, fixed_mu, mu_range)
    minima = [best]
    for i, nuisance in enumerate(objective.nuisances, start=1):
        visited = [best.parameters, *best.path]
        for offset in nuisance.starts:
            start = best.parameters.copy()
            start[i] = min(max(objective.centres[i - 1] + offset, low[i]), high[i])
            if any(abs(at[i] - start[i]) < SAME_START for at in visited):
                continue
            point = objective.evaluate(start)
            free = free_parameters(start, point.gradient, low, high)
            if best.converged and _falls_to(best, i, start, profiled(point, i, free)):
                continue
            descent = _newton(objective, start, low, high, known=minima, point=point)
            visited.extend(descent.path)
            if not _leads_to(descent.at, descent.point, minima):
                minima.append(_finish(objective, descent, low, high))
    return min(minima, key=lambda result: (not result.converged, result.value))


def _falls_to(minimum: FitResult, i: int, at: np.ndarray, profile: Profiled | None) -> bool:
    """Return whether the profile along a parameter falls from a point to a known minimum, with no valley between.

    Nothing is known where the minimum is at a bound, or the objective has no minimum over the others.
    """
    at_bound = not minimum.covariance[i, i] > 0
    if at_bound or profile is None or not minimum.value < profile.value < math.inf:
        return False
    secant = (profile.value - minimum.value) / (at[i] - minimum.parameters[i])
    return bool(0.0 <= profile.slope / secant <= STEEPEST)


def _finish(objective: Objective, descent: _Descent, low: np.ndarray, high: np.ndarray) -> FitResult:
    """Go on cell by cell if the descent stalled, and add the covariance."""
    if descent.edm > EDM_GOAL:
        descent = _cell_by_cell(objective, descent, low, high)
    free = free_parameters(descent.at, descent.point.gradient, low, high) | descent.on_kink
    covariance = np.zeros((len(low), len(low)))
    covariance[np.ix_(free, free)] = np.linalg.inv(_curvature(descent.point, free))
    converged = math.isfinite(descent.point.value) and descent.edm < EDM_ACCEPT
    return FitResult(
        descent.at, descent.point.value, covariance, descent.edm, descent.iterations, converged, tuple(descent.path)
    )


def parameter_ranges(
    objective: Objective, fixed_mu: float | None, mu_range: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds of (mu, nu...)."""
    mu_low, mu_high = mu_range or (-math.inf, math.inf)
    if fixed_mu is not None:
        mu_low = mu_high = fixed_mu
    low = np.array([mu_low, *(nuisance.nu_range[0] for nuisance in objective.nuisances)])
    high = np.array([mu_high, *(nuisance.nu_range[1] for nuisance in objective.nuisances)])
    return low, high


@dataclass(frozen=True)
class _Descent:
    """Where an iteration ended: the point, the likelihood there, estimated distance and steps taken; and its path."""

    at: np.ndarray
    point: Evaluation
    edm: float
    iterations: int
    on_kink: np.ndarray
    path: list[np.ndarray]


def _newton(
    objective: Objective,
    at: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    damping: float = 0.0,
    known: Sequence[FitResult] = (),
    point: Evaluation | None = None,
) -> _Descent:
    """Descend by damped Newton steps projected onto the box; end early on the way to a known minimum."""
    point = objective.evaluate(at) if point is None else point
    edm, iterations, path = math.inf, 0, [at]
    while iterations < MAX_ITERATIONS and not _leads_to(at, point, known):
        free = free_parameters(at, point.gradient, low, high)
        curvature = _curvature(point, free)
        gradient = point.gradient[free]
        step = np.linalg.solve(curvature, gradient)
        edm = 0.5 * float(gradient @ step)
        if not math.isfinite(edm) or edm < EDM_GOAL or damping > DAMPING_MAX:
            break
        iterations += 1
        if damping > 0:
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient)
        trial = at.copy()
        trial[free] -= step
        trial = np.minimum(np.maximum(trial, low), high)
        moved = objective.evaluate(trial)
        if moved.value < point.value:
            path.append(trial)
            at, point, damping = trial, moved, 0.1 * damping if damping > DAMPING_MIN else 0.0
        else:
            damping = max(10.0 * damping, DAMPING_MIN)
    return _Descent(at, point, edm, iterations, np.zeros(len(at), dtype=bool), path)


def _leads_to(at: np.ndarray, point: Evaluation, known: Sequence[FitResult]) -> bool:
    """Return whether a point is so near a known minimum that Newton's method would end there."""
    for minimum in known:
        distance = at - minimum.parameters
        if distance @ point.fisher @ distance < SAME_MINIMUM:
            return True
    return False


def _cell_by_cell(objective: Objective, begin: _Descent, low: np.ndarray, high: np.ndarray) -> _Descent:
    """Descend where the gradient jumps: minimise within one cell between kinks at a time, where all is smooth.

    A parameter that ends on a face of the cell moves into the next one if the likelihood falls there too. If it does
    not, the face is a kink and the minimum lies on it.
    """
    now, iterations = begin, begin.iterations
    for _ in range(MAX_CELLS):
        cell_low, cell_high = low.copy(), high.copy()
        for i, positions in enumerate(objective.kinks, start=1):
            above = int(np.searchsorted(positions, now.at[i]))
            if above > 0:
                cell_low[i] = max(low[i], positions[above - 1] + FACE)
            if above < len(positions):
                cell_high[i] = min(high[i], positions[above] - FACE)
        now = _newton(objective, np.clip(now.at, cell_low, cell_high), cell_low, cell_high)
        iterations += now.iterations
        on_face = ((now.at <= cell_low) & (cell_low > low)) | ((now.at >= cell_high) & (cell_high < high))
        crossed = False
        for i in np.flatnonzero(on_face).tolist():
            beyond = now.at.copy()
            beyond[i] -= math.copysign(3 * FACE, now.point.gradient[i])
            there = objective.evaluate(beyond)
            if math.isfinite(there.value) and there.gradient[i] * now.point.gradient[i] > 0:
                now = replace(now, at=beyond, point=there)
                crossed = True
        if not crossed:
            return replace(now, iterations=iterations, on_kink=on_face)
    return replace(now, edm=math.inf, iterations=iterations)


def free_parameters(at: np.ndarray, gradient: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return which parameters may move: not fixed, and not at a bound with the descent pointing outward."""
    outward = ((at <= low) & (gradient > 0)) | ((at >= high) & (gradient < 0))
    return np.asarray((low < high) & ~outward)


@dataclass(frozen=True)
class Profiled:
    """The quadratic in one parameter that an objective, minimised over the others, is near a point.

    Args:
        value: At the point.
        slope: First derivative.
        curvature: Second derivative.
        distance: By how much the objective is higher at the point than ``value``.
        settling: Step from the point to the minimum over the others, shape (1 + n_nuisances,).
        ridge: Step of that minimum with the parameter, shape (1 + n_nuisances,); 1 for the parameter itself.
    """

    value: float
    slope: float
    curvature: float
    distance: float
    settling: np.ndarray
    ridge: np.ndarray


def profiled(point: Evaluation, i: int, free: np.ndarray) -> Profiled | None:
    """Minimise a quadratic objective over the free parameters but one.

    Args:
        point: The objective.
        i: The parameter that stays.
        free: Which parameters may move, shape (1 + n_nuisances,).

    Returns:
        The profile along the parameter; None where the objective has no minimum over the others.
    """
    others = free.copy()
    others[i] = False
    block, mixed, gradient = point.hessian[others][:, others], point.hessian[others, i], point.gradient[others]
    try:
        np.linalg.cholesky(block)
    except np.linalg.LinAlgError:
        return None
    steps = np.zeros((len(free), 2))
    steps[others] = -np.linalg.solve(block, np.array([gradient, mixed]).T)
    steps[i, 1] = 1.0
    settling, ridge = steps.T
    distance = -0.5 * float(point.gradient @ settling)
    slope, curvature = float(point.gradient @ ridge), float(point.hessian[i] @ ridge)
    return Profiled(point.value - distance, slope, curvature, distance, settling, ridge)


def _curvature(point: Evaluation, free: np.ndarray) -> np.ndarray:
    """Return a positive definite second-derivative matrix of the free parameters."""
    block = (slice(None), slice(None)) if free.all() else np.ix_(free, free)
    for matrix in (point.hessian[block], point.fisher[block]):
        try:
            np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            continue
        return np.asarray(matrix)
    fisher = point.fisher[block]
    return np.asarray(fisher + np.eye(len(fisher)) * max(1e-9, 1e-9 * float(np.abs(fisher).max(initial=0.0))))
