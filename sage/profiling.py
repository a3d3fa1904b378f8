"""Step 8: the fit. Minimises the likelihood over the nuisance parameters, with the signal strength free or fixed.

A damped Newton iteration with the analytic Hessian (the Fisher information where that is not positive definite),
projected onto the parameter ranges. It needs no randomness and no clock, so a fit is a function of its input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sage.likelihood import MU, Evaluation, Likelihood

MAX_ITERATIONS = 100
EDM_GOAL = 1e-10
"""Estimated distance to the minimum (in units of nll) at which the iteration stops."""
EDM_ACCEPT = 1e-4
"""Largest estimated distance at which a stalled iteration (at a kink of the table) still counts as converged."""
DAMPING_MIN, DAMPING_MAX = 1e-2, 1e6
FACE = 1e-9
"""Distance from the face of a table cell, in nu, at which a point counts as on it."""
MAX_CELLS = 100
SOFT_MET_STARTS = (0.0, -2.0, 1.2)
"""Starting points in nu of soft_met: its effect is quadratic near 0, so the likelihood can have two valleys."""


@dataclass(frozen=True)
class FitResult:
    """A minimum.

    Arguments:
        parameters: (mu, nu...) at the minimum.
        value: Negative log-likelihood there.
        covariance: Inverse Hessian over the free parameters; 0 for those that are fixed or at a bound.
        edm: Estimated vertical distance to the true minimum.
        iterations: Newton steps taken.
        converged: Whether ``edm`` is small enough.
    """

    parameters: np.ndarray
    value: float
    covariance: np.ndarray
    edm: float
    iterations: int
    converged: bool

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
    likelihood: Likelihood,
    start: np.ndarray,
    fixed_mu: float | None = None,
    mu_range: tuple[float, float] | None = None,
) -> FitResult:
    """Minimise from one starting point.

    Arguments:
        likelihood: The likelihood.
        start: (mu, nu...); moved into the ranges if outside.
        fixed_mu: Signal strength to hold, if any.
        mu_range: Bounds on a free signal strength, if any.
    """
    low, high = parameter_ranges(likelihood, fixed_mu, mu_range)
    descent = _newton(likelihood, np.clip(start, low, high), low, high)
    if descent.edm > EDM_GOAL:
        descent = _cell_by_cell(likelihood, descent, low, high)
    free = _free(descent.at, descent.point.gradient, low, high) | descent.on_kink
    covariance = np.zeros((len(start), len(start)))
    covariance[np.ix_(free, free)] = np.linalg.inv(_curvature(descent.point, free))
    converged = math.isfinite(descent.point.value) and descent.edm < EDM_ACCEPT
    return FitResult(descent.at, descent.point.value, covariance, descent.edm, descent.iterations, converged)


def fit_global(likelihood: Likelihood, mu_range: tuple[float, float] | None = None) -> FitResult:
    """Minimise with the signal strength free, from several starting points, and return the lowest minimum."""
    results = []
    soft_met = 1 + [nuisance.name for nuisance in likelihood.nuisances].index("soft_met")
    for offset in SOFT_MET_STARTS:
        start = np.concatenate([[1.0], likelihood.centres])
        start[soft_met] += offset
        results.append(fit(likelihood, start, mu_range=mu_range))
    return min(results, key=lambda result: (not result.converged, result.value))


def parameter_ranges(
    likelihood: Likelihood, fixed_mu: float | None, mu_range: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds of (mu, nu...)."""
    mu_low, mu_high = mu_range or (-math.inf, math.inf)
    if fixed_mu is not None:
        mu_low = mu_high = fixed_mu
    low = np.array([mu_low, *(nuisance.nu_range[0] for nuisance in likelihood.nuisances)])
    high = np.array([mu_high, *(nuisance.nu_range[1] for nuisance in likelihood.nuisances)])
    return low, high


@dataclass(frozen=True)
class _Descent:
    """Where an iteration ended: the point, the likelihood there, estimated distance and steps taken."""

    at: np.ndarray
    point: Evaluation
    edm: float
    iterations: int
    on_kink: np.ndarray


def _newton(likelihood: Likelihood, at: np.ndarray, low: np.ndarray, high: np.ndarray) -> _Descent:
    """Descend by damped Newton steps projected onto the box."""
    point = likelihood.evaluate(at)
    damping, edm, iterations = 0.0, math.inf, 0
    while iterations < MAX_ITERATIONS:
        free = _free(at, point.gradient, low, high)
        curvature = _curvature(point, free)
        gradient = point.gradient[free]
        edm = 0.5 * float(gradient @ np.linalg.solve(curvature, gradient))
        if not math.isfinite(edm) or edm < EDM_GOAL or damping > DAMPING_MAX:
            break
        iterations += 1
        trial = at.copy()
        trial[free] -= np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient)
        trial = np.clip(trial, low, high)
        moved = likelihood.evaluate(trial)
        if moved.value < point.value:
            at, point, damping = trial, moved, 0.1 * damping if damping > DAMPING_MIN else 0.0
        else:
            damping = max(10.0 * damping, DAMPING_MIN)
    return _Descent(at, point, edm, iterations, np.zeros(len(at), dtype=bool))


def _cell_by_cell(likelihood: Likelihood, begin: _Descent, low: np.ndarray, high: np.ndarray) -> _Descent:
    """Descend where the gradient jumps: minimise within one cell of the table at a time, where all is smooth.

    A parameter that ends on a face of the cell moves into the next one if the likelihood falls there too. If it does
    not, the face is a kink and the minimum lies on it.
    """
    nodes = [np.array([])] * len(begin.at)
    shapes = [i for i, nuisance in enumerate(likelihood.nuisances) if nuisance.kind == "shape"]
    for i, axis in zip(shapes, likelihood.templates.axes, strict=True):
        nodes[1 + i] = np.array([likelihood.nuisances[i].to_alpha.inverse(alpha) for alpha in axis])
    now, iterations = begin, begin.iterations
    for _ in range(MAX_CELLS):
        cell_low, cell_high = low.copy(), high.copy()
        for i, positions in enumerate(nodes):
            above = int(np.searchsorted(positions, now.at[i]))
            if above > 0:
                cell_low[i] = max(low[i], positions[above - 1] + FACE)
            if above < len(positions):
                cell_high[i] = min(high[i], positions[above] - FACE)
        now = _newton(likelihood, np.clip(now.at, cell_low, cell_high), cell_low, cell_high)
        iterations += now.iterations
        on_face = ((now.at <= cell_low) & (cell_low > low)) | ((now.at >= cell_high) & (cell_high < high))
        crossed = False
        for i in np.flatnonzero(on_face).tolist():
            beyond = now.at.copy()
            beyond[i] -= math.copysign(3 * FACE, now.point.gradient[i])
            there = likelihood.evaluate(beyond)
            if math.isfinite(there.value) and there.gradient[i] * now.point.gradient[i] > 0:
                now = replace(now, at=beyond, point=there)
                crossed = True
        if not crossed:
            return replace(now, iterations=iterations, on_kink=on_face)
    return replace(now, edm=math.inf, iterations=iterations)


def _free(at: np.ndarray, gradient: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return which parameters may move: not fixed, and not at a bound with the descent pointing outward."""
    outward = ((at <= low) & (gradient > 0)) | ((at >= high) & (gradient < 0))
    return np.asarray((low < high) & ~outward)


def _curvature(point: Evaluation, free: np.ndarray) -> np.ndarray:
    """Return a positive definite second-derivative matrix of the free parameters."""
    block = np.ix_(free, free)
    for matrix in (point.hessian[block], point.fisher[block]):
        try:
            np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            continue
        return np.asarray(matrix)
    fisher = point.fisher[block]
    return np.asarray(fisher + np.eye(len(fisher)) * max(1e-9, 1e-9 * float(np.abs(fisher).max(initial=0.0))))
