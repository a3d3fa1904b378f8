"""Step 7: the binned Poisson likelihood with Gaussian constraints, with gradient and Hessian in closed form.

    lambda_b(mu, nu) = sum_p r_p(mu, nu) T_pb(tes, jes, soft_met)
    nll(mu, nu)      = sum_b f_b(lambda_b) + sum_k (nu_k - c_k)^2 / (2 w_k^2)
    f_b(lambda)      = min over x of x - n_b + n_b log(n_b / x) + (x - lambda)^2 / (2 s_b^2)

``r`` is mu for the signal and the product of the rate nuisances for a background, ``T`` the expected yields
(arXiv:2509.00672, likelihood). The saturated term is subtracted, so numbers stay small and the value is half of the
saturated goodness-of-fit statistic. One convention everywhere: this is -ln L, a 68 % interval is a rise of 0.5.

``T`` comes from finite simulation. What a bin truly expects is ``x = gamma lambda``, one nuisance per bin that the
simulation constrains to ``lambda`` within ``s`` (Barlow and Beeston's method with one parameter per bin, Conway,
arXiv:1103.0354). Its minimum is the root of a quadratic equation; with s = 0 it is ``lambda`` and ``f`` the Poisson
term. ``s`` stays what it is at the nominal point with mu = 1: it hardly depends on mu, because nearly all of it is
background, and held constant it keeps ``f`` convex in ``lambda``, which a constant relative uncertainty would not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from sage.binned.tables import N_TERMS, PAIRS
from sage.challenge.nuisances import PROCESSES, SIGNAL, Nuisance
from sage.fit.deadline import NEVER, Deadline

MU = 0
"""Position of the signal strength in a parameter vector; the nuisances follow in the order of their table."""

NO_EVENTS = 1e-100
"""Sums of weights up to this are no events: their logarithm would overflow, their term is 0 either way."""

_SIGNAL_ROW = PROCESSES.index(SIGNAL)
_UNSCALED = np.array([1.0, 0.0, 0.0])[:, None, None]
"""Factor of a nuisance on a process it does not scale, with its derivatives."""

Factors = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What multiplies each process's yields, shape (P,), and its first and second derivatives in the rate nuisances."""


@dataclass(frozen=True)
class Evaluation:
    """The likelihood at one point.

    Arguments:
        value: Negative log-likelihood, relative to the saturated model; infinite where a bin expects nothing but
            holds events, or expects less than nothing.
        gradient: First derivatives, shape (1 + n_nuisances,).
        hessian: Second derivatives, square.
        fisher: Expected second derivatives (to leading order; events at their expectation); positive semi-definite.
    """

    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    fisher: np.ndarray


class Templates(Protocol):
    """Expected yields as a function of the shape nuisances: ``YieldTables`` or ``Response``."""

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return, for each shape nuisance, the values at which the yields' slope may jump; flat beyond the ends."""

    def terms(self, point: tuple[float, float, float]) -> np.ndarray:
        """Return yields, first and second derivatives at (tes, jes, soft_met), shape (10, P, B)."""


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of one set of counts.

    Arguments:
        templates: Expected yields.
        nuisances: The nuisance table; shape nuisances in the order of the templates' axes.
        counts: Observed events per bin, shape (n_bins,).
        has_signal: Whether each bin expects signal, shape (n_bins,).
        centres: Centres of the constraints (what auxiliary measurements gave), shape (n_nuisances,); 0 by default.
        variances: Variances of the simulated yields at the nominal point, shape (P, n_bins); None for exact templates.
        deadline: Checked at every evaluation, so that every loop of every fit is bounded; by default there is none.
    """

    templates: Templates
    nuisances: tuple[Nuisance, ...]
    counts: np.ndarray
    has_signal: np.ndarray
    centres: np.ndarray = field(default_factory=lambda: np.zeros(6))
    variances: np.ndarray | None = None
    deadline: Deadline = NEVER

    def expected(self, parameters: np.ndarray) -> np.ndarray:
        """Return the expected events per bin at (mu, nu...), shape (n_bins,)."""
        alphas = self._alphas(parameters)
        rate: np.ndarray = self._rate_factors(parameters[MU], alphas)[0] @ self._terms(alphas)[0]
        return rate

    def slopes(self, parameters: np.ndarray) -> np.ndarray:
        """Return the derivatives of the expected events in (mu, nu...), shape (1 + n_nuisances, n_bins)."""
        alphas = self._alphas(parameters)
        return self._first(self._terms(alphas), alphas, self._rate_factors(parameters[MU], alphas))

    @cached_property
    def simulation_variance(self) -> np.ndarray:
        """Variance of each bin's simulated expectation with mu = 1, shape (B,)."""
        if self.variances is None:
            return np.zeros(len(self.counts))
        variances = self.variances.astype(np.float64)
        variances[_SIGNAL_ROW] *= self.has_signal
        total: np.ndarray = variances.sum(axis=0)
        return total

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (mu, nu...); infinite outside its domain.

        Raises:
            TimeLimitError: If the deadline has passed.
        """
        self.deadline.check()
        rate = self.expected(parameters)
        return self._value(rate, self._rate_terms(rate), parameters)

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value, gradient, Hessian and Fisher information at (mu, nu...).

        Raises:
            TimeLimitError: If the deadline has passed.
        """
        self.deadline.check()
        alphas = self._alphas(parameters)
        terms = self._terms(alphas)
        factors = self._rate_factors(parameters[MU], alphas)
        rate = factors[0] @ terms[0]
        first = self._first(terms, alphas, factors)
        rate_terms = self._rate_terms(rate)
        slope, curvature = rate_terms[1], rate_terms[2]
        # Second derivatives are linear in the terms, so the terms are summed over the bins first.
        second = self._second((terms.reshape(-1, len(rate)) @ slope).reshape(N_TERMS, -1), alphas, factors)
        gradient = first @ slope
        gradient[1:] += (parameters[1:] - self.centres) * self._precisions
        constraint = self._constraint
        observed = (first * curvature) @ first.T + second + constraint
        total = rate + self.simulation_variance
        information = np.divide(1.0, total, out=np.zeros_like(rate), where=total > 0)
        fisher = (first * information) @ first.T + constraint
        return Evaluation(self._value(rate, rate_terms, parameters), gradient, observed, fisher)

    @cached_property
    def _shapes(self) -> list[int]:
        """Positions of the shape nuisances, in the order of the templates' axes."""
        return [i for i, nuisance in enumerate(self.nuisances) if nuisance.kind == "shape"]

    @cached_property
    def _norms(self) -> list[int]:
        """Positions of the rate nuisances."""
        return [i for i, nuisance in enumerate(self.nuisances) if nuisance.kind == "norm"]

    @cached_property
    def _scaled(self) -> np.ndarray:
        """Whether each rate nuisance scales each process, shape (N, P)."""
        return np.array([[process in self.nuisances[i].scales for process in PROCESSES] for i in self._norms])

    @cached_property
    def _replacements(self) -> np.ndarray:
        """Order of derivative of each rate nuisance in: the factor, its first and second derivatives, (M, N)."""
        each = np.eye(len(self._norms), dtype=int)
        pairs = (each[:, None] + each).reshape(-1, len(each))
        return np.concatenate([np.zeros_like(each[:1]), each, pairs])

    @cached_property
    def _precisions(self) -> np.ndarray:
        return np.array([1.0 / nuisance.width**2 for nuisance in self.nuisances])

    @cached_property
    def _constraint(self) -> np.ndarray:
        return np.diag(np.concatenate([[0.0], self._precisions]))

    @cached_property
    def _filled(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether each bin has events, and the counts with 0 where it has none."""
        filled = self.counts > NO_EVENTS
        return filled, np.where(filled, self.counts, 0.0)

    def _rate_terms(self, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, f' and f'' of every bin, shape (B,) each; see the head of the module.

        By the envelope theorem f' = 1 - n / x, which is also (lambda - x) / s^2.
        """
        filled, n = self._filled
        variance = self.simulation_variance
        shifted = rate - variance
        root = np.hypot(shifted, 2.0 * np.sqrt(variance) * np.sqrt(n))
        # The root of x^2 - shifted x - s^2 n = 0 that is not negative, without cancellation.
        larger = 0.5 * (np.abs(shifted) + root)
        smaller = np.divide(variance * n, larger, out=np.zeros_like(rate), where=larger > 0)
        x = np.where(shifted >= 0, larger, smaller)
        ratio = np.divide(n, x, out=np.zeros_like(rate), where=x > 0)
        spread = x + variance * ratio
        curvature = np.divide(ratio, spread, out=np.zeros_like(rate), where=spread > 0)
        # Without events x is at 0 while the simulation allows it: f is then a parabola.
        at_zero = ~filled & (shifted < 0) & (variance > 0)
        slope = 1.0 - ratio
        slope[at_zero] = rate[at_zero] / variance[at_zero]
        curvature[at_zero] = 1.0 / variance[at_zero]
        return x, slope, curvature

    def _value(self, rate: np.ndarray, rate_terms: tuple[np.ndarray, ...], parameters: np.ndarray) -> float:
        x, slope, _ = rate_terms
        filled, n = self._filled
        if not rate.min(initial=0.0) >= 0 or not x.min(where=filled, initial=math.inf) > 0:
            return math.inf
        excess = x - n
        # Bin by bin and with log1p: the sums of rates and of counts are large and nearly equal.
        logs = n * np.log1p(np.divide(excess, n, out=np.zeros_like(n), where=filled))
        poisson = (excess - logs + 0.5 * self.simulation_variance * slope**2).sum()
        pulls = parameters[1:] - self.centres
        return float(poisson + 0.5 * (pulls * self._precisions) @ pulls)

    def _alphas(self, parameters: np.ndarray) -> list[tuple[float, float, float]]:
        """Return each nuisance's alpha with its first and second derivative in nu."""
        nus = parameters[1:].tolist()
        return [nuisance.alpha(nu) for nuisance, nu in zip(self.nuisances, nus, strict=True)]

    def _terms(self, alphas: list[tuple[float, float, float]]) -> np.ndarray:
        """Return the yields and their derivatives in the shape nuisances, shape (10, P, B); see ``Templates``."""
        tes, jes, soft_met = (alphas[i][0] for i in self._shapes)
        terms = self.templates.terms((tes, jes, soft_met))
        terms[:, _SIGNAL_ROW] *= self.has_signal
        return terms

    def _first(self, terms: np.ndarray, alphas: list[tuple[float, float, float]], factors: Factors) -> np.ndarray:
        """Return the rate's first derivatives, shape (K, B)."""
        first = np.empty((1 + len(self.nuisances), terms.shape[2]))
        first[MU] = terms[0, _SIGNAL_ROW]
        for i, along in zip(self._shapes, factors[0] @ terms[1:4], strict=True):
            first[1 + i] = alphas[i][1] * along
        for i, along in zip(self._norms, factors[1] @ terms[0], strict=True):
            first[1 + i] = along
        return first

    def _second(self, terms: np.ndarray, alphas: list[tuple[float, float, float]], factors: Factors) -> np.ndarray:
        """Return second derivatives (K, K) of the rate where terms are summed over bins, shape (10, P)."""
        shapes, norms = self._shapes, self._norms
        factor, factor_1, factor_2 = factors
        along, crossed = terms @ factor, terms[1:4] @ factor_1.T
        by_norms = factor_2 @ terms[0]
        second = np.zeros((1 + len(self.nuisances),) * 2)
        for axis, i in enumerate(shapes):
            _, d_alpha, d2_alpha = alphas[i]
            second[1 + i, 1 + i] = d2_alpha * along[1 + axis]
            second[MU, 1 + i] = second[1 + i, MU] = d_alpha * terms[1 + axis, _SIGNAL_ROW]
            for k, j in enumerate(norms):
                second[1 + i, 1 + j] = second[1 + j, 1 + i] = d_alpha * crossed[axis, k]
        for pair, (axis_a, axis_b) in enumerate(PAIRS):
            i, j = shapes[axis_a], shapes[axis_b]
            second[1 + i, 1 + j] += alphas[i][1] * alphas[j][1] * along[4 + pair]
            second[1 + j, 1 + i] = second[1 + i, 1 + j]
        for k, i in enumerate(norms):
            for m, j in enumerate(norms):
                second[1 + i, 1 + j] = by_norms[k, m]
        return second

    def _rate_factors(self, mu: float, alphas: list[tuple[float, float, float]]) -> Factors:
        """Return each process's factor (P,), its derivatives in the rate nuisances (N, P) and (N, N, P)."""
        n_norms = len(self._norms)
        orders = np.array([alphas[i] for i in self._norms]).reshape(n_norms, 3)
        # Each nuisance's factor on each process with its derivatives, shape (3, N, P): 1 where it does not scale it.
        single = np.where(self._scaled, orders.T[:, :, None], _UNSCALED)
        # A derivative replaces the factors of its nuisances. Dividing them out would not do: a factor may be 0.
        products = single[self._replacements, np.arange(n_norms)].prod(axis=1)
        products[:, _SIGNAL_ROW] *= mu
        first, second = products[1 : 1 + n_norms], products[1 + n_norms :]
        return products[0], first, second.reshape(n_norms, n_norms, -1)
