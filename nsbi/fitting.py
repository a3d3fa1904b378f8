"""Minimum, interval and test statistic of a mixture: ``sage.fit`` from every valley, within the range of s.

With interference the likelihood may have two valleys and end at s = 0, so a coarse scan gives the starting points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nsbi.likelihood import Deviation, MixtureLikelihood
from nsbi.mixture import Mixture
from sage.errors import FitError, SettingsError
from sage.fit.interval import Interval, interval_of
from sage.fit.newton import FitResult, fit
from sage.fit.objective import MU, Constrained, Evaluation, Objective, Wrapped

TRAINING = Deviation("training")
SCAN_POINTS = 33
LARGEST_MU = 25.0
"""End of the search for a minimum."""


def bounds(mixture: Mixture, largest: float = LARGEST_MU) -> tuple[float, float]:
    """Return the range of s that a fit explores."""
    high = mixture.strength(largest)
    return max(mixture.low, -high), high


def best_fit(likelihood: MixtureLikelihood, objective: Objective | None = None) -> FitResult:
    """Return the lowest minimum.

    Args:
        likelihood: Whose scan gives the starting points.
        objective: What is minimised, if it is not the likelihood alone (``Spurious``).

    Raises:
        FitError: If the likelihood is finite nowhere, or no descent converges.
    """
    target = likelihood if objective is None else objective
    low, high = bounds(likelihood.mixture)
    scan = np.linspace(low, high, SCAN_POINTS)
    values = likelihood.scan(scan)
    if not np.isfinite(values).any():
        msg = "the density of some event is not positive at any signal strength; use a network that keeps it positive"
        raise FitError(msg)
    padded = np.concatenate([[np.inf], values, [np.inf]])
    valleys = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]) & np.isfinite(values))
    # Flat valleys that lie far above the lowest point lead nowhere.
    starts = [np.concatenate([[scan[i]], target.centres]) for i in valleys if values[i] < values.min() + 10]
    found = [fit(target, start, mu_range=(low, high)) for start in starts]
    best = min(found, key=lambda result: (not result.converged, result.value))
    if not best.converged:
        msg = f"no descent of the likelihood converged from {len(starts)} starts; look at the ratios' diagnostics"
        raise FitError(msg)
    return best


def interval(
    likelihood: MixtureLikelihood,
    objective: Objective | None = None,
    thresholds: tuple[np.ndarray, np.ndarray] | None = None,
) -> Interval:
    """Return the 68 % interval of mu around the lowest minimum; valleys apart from it are ``studies.neyman``'s.

    Args:
        likelihood: The likelihood.
        objective: As for ``best_fit``.
        thresholds: Increasing mu, and the rise of the profiled -ln L at a limit there; 0.5 if absent.

    Returns:
        Limits in mu; the fit inside keeps s.
    """
    target = likelihood if objective is None else objective
    mixture = likelihood.mixture
    at = None
    if thresholds is not None:
        at = np.array([mixture.strength(float(mu)) for mu in thresholds[0]]), thresholds[1]
    found = interval_of(target, best_fit(likelihood, objective), bounds(mixture), at)
    low, high = (mixture.mu(max(limit, mixture.low)) for limit in (found.low, found.high))
    return replace(found, low=low, high=high)


def t_at(likelihood: MixtureLikelihood, best: FitResult, mu: float, objective: Objective | None = None) -> float:
    """Return t(mu), twice the rise of the profiled -ln L above the minimum.

    Raises:
        FitError: If the profile fit fails.
    """
    target = likelihood if objective is None else objective
    s = likelihood.mixture.strength(mu)
    if not target.nuisances:
        return max(0.0, 2 * (target.value(np.array([s])) - best.value))
    start = best.parameters.copy()
    start[MU] = s
    profiled = fit(target, start, fixed_mu=s)
    if not profiled.converged:
        msg = f"the fit at mu = {mu:g} did not converge; look at the ratios' diagnostics"
        raise FitError(msg)
    return max(0.0, 2 * (profiled.value - best.value))


@dataclass(frozen=True)
class Impact:
    """What a nuisance parameter does to mu, from the second derivatives at the minimum; no refit.

    Args:
        name: The nuisance.
        pull: (estimate - centre) / width.
        sigma: Its error after the fit, in widths.
        impact: Shift of mu when it is held one such error higher: -(d2/dmu2)^-1 (d2/dmu da) sqrt(C_aa).
    """

    name: str
    pull: float
    sigma: float
    impact: float


def impacts(mixture: Mixture, objective: Objective, best: FitResult) -> list[Impact]:
    """Return the impact of each nuisance parameter on mu at a minimum."""
    hessian = objective.evaluate(best.parameters).hessian
    slope = 2 * best.mu if mixture.rooted else 1.0
    found = []
    for k, (nuisance, centre) in enumerate(zip(objective.nuisances, objective.centres, strict=True), start=1):
        sigma = float(np.sqrt(best.covariance[k, k]))
        shift = -slope * hessian[MU, k] / hessian[MU, MU] * sigma
        pull = (best.parameters[k] - centre) / nuisance.width
        found.append(Impact(nuisance.name, float(pull), sigma / nuisance.width, float(shift)))
    return found


@dataclass(frozen=True)
class Spurious(Wrapped):
    """Finite training as a nuisance parameter: the networks' s is off by a times their spread there.

    ATLAS shifts mu by its ensemble's error; here it is s, the same to first order and smooth at mu = 0.

    Args:
        objective: The likelihood.
        spread: Coefficients of 1, s, s^2 of the spread of s among networks.
        centre: Of the constraint.
    """

    spread: np.ndarray
    centre: float = 0.0

    def __post_init__(self) -> None:
        if np.shape(self.spread) != (3,) or not np.isfinite(self.spread).all():
            msg = f"spread is {self.spread}, not three finite coefficients; give those of 1, s, s^2"
            raise SettingsError(msg)

    @property
    def nuisances(self) -> Sequence[Constrained]:
        """Those of the likelihood, then ``training``."""
        return [*self.objective.nuisances, TRAINING]

    @property
    def centres(self) -> np.ndarray:
        """Those of the likelihood, then that of ``training``."""
        return np.append(self.objective.centres, self.centre)

    @property
    def kinks(self) -> Sequence[np.ndarray]:
        """Those of the likelihood."""
        return [*self.objective.kinks, np.array([])]

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (s, a..., training)."""
        return self.objective.value(self._inner(parameters)[0]) + 0.5 * (float(parameters[-1]) - self.centre) ** 2

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value and derivatives at (s, a..., training)."""
        inner, jacobian, bend = self._inner(parameters)
        point, a, n = self.objective.evaluate(inner), float(parameters[-1]), len(parameters)
        hessian = jacobian.T @ point.hessian @ jacobian
        hessian[np.ix_((0, n - 1), (0, n - 1))] += point.gradient[0] * bend
        own = np.zeros((n, n))
        own[-1, -1] = 1.0
        gradient = jacobian.T @ point.gradient
        gradient[-1] += a - self.centre
        fisher = jacobian.T @ point.fisher @ jacobian + own
        return Evaluation(point.value + 0.5 * (a - self.centre) ** 2, gradient, hessian + own, fisher)

    def centred(self, centres: np.ndarray) -> Spurious:
        """Return the objective with other centres of the constraints."""
        return replace(self, objective=self.objective.centred(centres[:-1]), centre=float(centres[-1]))

    def _inner(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the likelihood's parameters, their derivatives, and the second ones of s in (s, training)."""
        s, a, n = float(parameters[0]), float(parameters[-1]), len(parameters)
        c0, c1, c2 = self.spread
        width, slope = c0 + s * (c1 + s * c2), c1 + 2 * s * c2
        inner = parameters[:-1].copy()
        inner[0] = s + a * width
        jacobian = np.eye(n - 1, n)
        jacobian[0, 0] += a * slope
        jacobian[0, -1] = width
        return inner, jacobian, np.array([[2 * a * c2, slope], [slope, 0.0]])
