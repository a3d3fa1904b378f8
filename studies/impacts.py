"""What each uncertainty does to the measured signal strength.

Impacts come three ways, which agree to first order where they mean the same:

``fixed``
    mu_hat with one nuisance held at its estimate plus or minus one standard deviation, all others refitted; before
    the fit (the constraint's width) and after it. The customary impact of arXiv:1007.1727 fits.
``covariance``
    The same to first order, from the covariance matrix: cov(mu, nu) / sigma(nu).
``auxiliary``
    mu_hat with the constraint's centre, the auxiliary measurement, moved by one width (by refit, and to first order
    cov(mu, nu) / width). These are parts of the total uncertainty that add in quadrature (arXiv:2307.04007).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sage.fit.interval import Interval
from sage.fit.newton import FitResult, fit
from sage.fit.objective import MU, Constrained, Objective, Wrapped

Measure = Callable[[Objective], Interval]
"""How an interval is found; the same for all that are compared."""
Pair = tuple[float, float]
"""What the shift down and the shift up give."""

STATISTICAL, SIMULATION, SYSTEMATIC = "statistical", "simulation", "systematic"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "energy scales": ("tes", "jes"),
    "soft MET": ("soft_met",),
    "background rates": ("ttbar_scale", "diboson_scale", "bkg_scale"),
}


@dataclass(frozen=True)
class Impact:
    """One nuisance parameter before and after the fit, and the changes of mu_hat that go with it.

    Args:
        name: The nuisance.
        centre: Centre of its constraint.
        width: Width of its constraint.
        nu: Estimate.
        sigma: Parabolic standard deviation of the estimate.
        fixed_prefit: Refits with nu held at the estimate minus and plus ``width``.
        fixed_postfit: Refits with nu held at the estimate minus and plus ``sigma``.
        covariance_postfit: First order of ``fixed_postfit``.
        auxiliary_refit: Refits with the centre moved by minus and plus ``width``.
        auxiliary_covariance: First order of ``auxiliary_refit``.
    """

    name: str
    centre: float
    width: float
    nu: float
    sigma: float
    fixed_prefit: Pair
    fixed_postfit: Pair
    covariance_postfit: Pair
    auxiliary_refit: Pair
    auxiliary_covariance: Pair

    @property
    def pull(self) -> float:
        """(nu - centre) / width, the customary pull of a nuisance."""
        return (self.nu - self.centre) / self.width


def impacts(objective: Objective, best: FitResult) -> list[Impact]:
    """Return the impact of each nuisance at a minimum."""
    found = []
    for i, nuisance in enumerate(objective.nuisances):
        sigma = math.sqrt(max(float(best.covariance[1 + i, 1 + i]), 0.0))
        shared = float(best.covariance[MU, 1 + i])
        postfit = shared / sigma if sigma > 0 else 0.0
        auxiliary = shared / nuisance.width
        found.append(
            Impact(
                name=nuisance.name,
                centre=float(objective.centres[i]),
                width=nuisance.width,
                nu=float(best.parameters[1 + i]),
                sigma=sigma,
                fixed_prefit=_by_fixing(objective, best, i, nuisance.width),
                fixed_postfit=_by_fixing(objective, best, i, sigma),
                covariance_postfit=(-postfit, postfit),
                auxiliary_refit=_by_moving_centre(objective, best, i, nuisance.width),
                auxiliary_covariance=(-auxiliary, auxiliary),
            )
        )
    return found


@dataclass(frozen=True)
class HeldNuisance:
    """A nuisance parameter whose range is one value."""

    name: str
    nu_range: tuple[float, float]
    width: float
    starts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Frozen(Wrapped):
    """An objective with other nuisance parameters; nothing but their ranges differs."""

    held: tuple[Constrained, ...]

    @property
    def nuisances(self) -> Sequence[Constrained]:
        """The nuisance parameters."""
        return self.held


def frozen(objective: Objective, parameters: np.ndarray, names: Collection[str]) -> Frozen:
    """Return the objective with some nuisances held at their values in (mu, nu...)."""
    return Frozen(
        objective,
        tuple(
            HeldNuisance(nuisance.name, (float(nu), float(nu)), nuisance.width) if nuisance.name in names else nuisance
            for nuisance, nu in zip(objective.nuisances, parameters[1:], strict=True)
        ),
    )


@dataclass(frozen=True)
class Part:
    """A part of the total uncertainty of mu.

    Args:
        down: Part of the distance to the lower limit, in quadrature.
        up: Part of the distance to the upper limit.
        sigma: Part of the parabolic standard deviation.
    """

    down: float
    up: float
    sigma: float


def breakdown_by_freezing(
    objective: Objective, interval: Interval, measure: Measure, exact: Objective | None = None
) -> dict[str, Part]:
    """Split the uncertainty by what holding some parameters at their estimates takes away, in quadrature.

    The statistical part is what is left with everything held; the systematic part what the nuisances take away once
    the templates are held; the simulation part what holding the templates takes away. These three add in quadrature
    to the total. Groups of nuisances overlap through their correlations, so theirs need not.

    Args:
        objective: What was fitted.
        interval: Its interval.
        measure: What made the interval, and makes those with something held.
        exact: The objective with templates that are known exactly; None where they are anyway.

    Returns:
        Parts by name: ``total``, ``statistical``, ``systematic``, ``simulation``, the groups and single nuisances.
    """
    names = [nuisance.name for nuisance in objective.nuisances]
    at = interval.fit.parameters
    total = _part(interval)
    known = total if exact is None else _part(measure(exact))
    statistical = _part(measure(frozen(exact or objective, at, names)))
    parts = {
        "total": total,
        STATISTICAL: statistical,
        SYSTEMATIC: _minus(known, statistical),
        SIMULATION: _minus(total, known),
    }
    for name, members in {**GROUPS, **{name: (name,) for name in names}}.items():
        parts[name] = _minus(total, _part(measure(frozen(objective, at, members))))
    return parts


def breakdown_by_auxiliary_data(objective: Objective, best: FitResult) -> dict[str, float]:
    """Split the variance of mu_hat into what each measurement contributes (arXiv:2307.04007).

    With the inverse Hessian V = (F + C)^-1, F from the counts and C from the constraints, the fluctuations of the
    counts contribute (V F V) and those of the auxiliary measurement of nu (V_mu,nu / width)^2. They add up to V.

    Returns:
        Standard deviations by name: the nuisances, and ``statistical`` for the counts (with simulation uncertainty in
        the likelihood, its share is in there).
    """
    parts = {
        nuisance.name: abs(float(best.covariance[MU, 1 + i])) / nuisance.width
        for i, nuisance in enumerate(objective.nuisances)
    }
    constraint = np.diag([0.0, *(nuisance.width**-2 for nuisance in objective.nuisances)])
    counts = objective.evaluate(best.parameters).fisher - constraint
    variance = best.covariance[MU] @ counts @ best.covariance[MU]
    return {STATISTICAL: math.sqrt(max(float(variance), 0.0)), **parts}


def correlations(covariance: np.ndarray) -> np.ndarray:
    """Return the correlation matrix; 0 for parameters that are fixed or at a bound, 1 on the diagonal."""
    sigma = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    scale = np.divide(1.0, sigma, out=np.zeros_like(sigma), where=sigma > 0)
    out: np.ndarray = covariance * np.outer(scale, scale)
    np.fill_diagonal(out, 1.0)
    return out


def _by_fixing(objective: Objective, best: FitResult, i: int, step: float) -> Pair:
    """Return the changes of mu_hat when nuisance ``i`` is held ``step`` below and above its estimate."""
    shifts = []
    for sign in (-1, 1):
        at = best.parameters.copy()
        low, high = objective.nuisances[i].nu_range
        at[1 + i] = min(max(at[1 + i] + sign * step, low), high)
        held = frozen(objective, at, (objective.nuisances[i].name,))
        shifts.append(fit(held, at).mu - best.mu)
    return shifts[0], shifts[1]


def _by_moving_centre(objective: Objective, best: FitResult, i: int, step: float) -> Pair:
    """Return the changes of mu_hat when the constraint of nuisance ``i`` is centred ``step`` lower and higher."""
    shifts = []
    for sign in (-1, 1):
        centres = objective.centres.copy()
        centres[i] += sign * step
        shifts.append(fit(objective.centred(centres), best.parameters).mu - best.mu)
    return shifts[0], shifts[1]


def _part(interval: Interval) -> Part:
    return Part(interval.fit.mu - interval.low, interval.high - interval.fit.mu, interval.fit.sigma_mu)


def _minus(whole: Part, rest: Part) -> Part:
    """Return what ``rest`` lacks of ``whole``, in quadrature; 0 where rounding makes it more than the whole."""

    def left(a: float, b: float) -> float:
        return math.sqrt(max(a**2 - b**2, 0.0))

    return Part(left(whole.down, rest.down), left(whole.up, rest.up), left(whole.sigma, rest.sigma))
