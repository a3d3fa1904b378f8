"""Step 7: the likelihood: rates plus a statistic plus Gaussian constraints, with gradient and Hessian in closed form.

    nll(mu, nu) = sum_b f_b(lambda_b(mu, nu)) + sum_k (nu_k - c_k)^2 / (2 w_k^2)

``lambda`` are the rates (``sage.rates``), ``f`` is the statistic: of bins ``sage.binned.statistic``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Protocol, TypeVar

import numpy as np

from sage.challenge.nuisances import Nuisance
from sage.fit.objective import Constraint, Evaluation, Totals
from sage.rates import Rates


class Statistic(Protocol):
    """Minus the logarithm of the probability of the data, as a function of the rates."""

    @property
    def observed(self) -> float:
        """Total number of observed events."""

    @property
    def rate_variance(self) -> float:
        """Variance of the total rate itself, from finite simulation."""

    @property
    def terms(self) -> int | None:
        """Number of terms of a saturated statistic; None if the value is none."""

    def value(self, rate: np.ndarray) -> float:
        """Return sum_b f_b at rates of shape (B,); infinite outside its domain."""

    def expand(self, rate: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Return the value, and f', f'' and the expectation of f'' in every bin, shape (B,) each."""


S = TypeVar("S", bound=Statistic)


@dataclass(frozen=True)
class Likelihood(Generic[S]):
    """An ``Objective`` of rates and a statistic.

    Args:
        rates: Expected rates.
        statistic: The data.
        centres: Centres of the constraints, shape (n_nuisances,).
    """

    rates: Rates
    statistic: S
    centres: np.ndarray

    @property
    def nuisances(self) -> tuple[Nuisance, ...]:
        """The nuisance table."""
        return self.rates.nuisances

    @property
    def kinks(self) -> tuple[np.ndarray, ...]:
        """For each nuisance the values of nu at which the slope may jump."""
        return self.rates.kinks

    @property
    def degrees(self) -> int | None:
        """Degrees of freedom of twice the minimum: terms less mu; each nuisance has a constraint of its own."""
        return None if self.statistic.terms is None else self.statistic.terms - 1

    def centred(self, centres: np.ndarray) -> Likelihood[S]:
        """Return the likelihood with other centres of the constraints."""
        return replace(self, centres=centres)

    def expected(self, parameters: np.ndarray) -> np.ndarray:
        """Return the expected events per bin at (mu, nu...), shape (B,)."""
        return self.rates.expected(parameters)

    def totals(self, parameters: np.ndarray) -> Totals:
        """Return the total number of events at (mu, nu...)."""
        at = self.rates.expand(parameters)
        slopes = at.first.sum(axis=1)
        return Totals(self.statistic.observed, float(at.rate.sum()), slopes, self.statistic.rate_variance)

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (mu, nu...); infinite outside its domain."""
        return self.statistic.value(self.rates.expected(parameters)) + self._constraint(parameters)[0]

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value, gradient, Hessian and Fisher information at (mu, nu...)."""
        at = self.rates.expand(parameters)
        value, slope, curvature, information = self.statistic.expand(at.rate)
        pull, pull_gradient = self._constraint(parameters)
        observed = (at.first * curvature) @ at.first.T + at.second(slope) + self._constraint.hessian
        fisher = (at.first * information) @ at.first.T + self._constraint.hessian
        return Evaluation(value + pull, at.first @ slope + pull_gradient, observed, fisher)

    @cached_property
    def _constraint(self) -> Constraint:
        return Constraint(self.nuisances, self.centres)
