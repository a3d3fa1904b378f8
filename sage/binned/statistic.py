"""The statistic of bins: Poisson counts, whose expectations come from finite simulation.

    f_b(lambda) = min over x of x - n_b + n_b log(n_b / x) + (x - lambda)^2 / (2 s_b^2)

The saturated term is subtracted, so numbers stay small and the value is half of the saturated goodness-of-fit
statistic. What a bin truly expects is ``x = gamma lambda``, one nuisance per bin that the simulation constrains to
``lambda`` within ``s`` (Barlow and Beeston's method with one parameter per bin, Conway, arXiv:1103.0354). Its minimum
is the root of a quadratic equation; with s = 0 it is ``lambda`` and ``f`` the Poisson term. ``s`` stays what it is at
the nominal point with mu = 1: it hardly depends on mu, because nearly all of it is background, and held constant it
keeps ``f`` convex in ``lambda``, which a constant relative uncertainty would not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sage.likelihood import Likelihood
from sage.rates import SIGNAL_ROW, Rates

NO_EVENTS = 1e-100
"""Sums of weights up to this are no events: their logarithm would overflow, their term is 0 either way."""
NOTHING = 1e-100
"""Least divisor: what it divides is 0 where the divisor is, or the value is infinite."""


@dataclass(frozen=True)
class Counts:
    """Observed events per bin, and how well their expectation is known.

    Args:
        counts: Observed events, shape (B,).
        variance: Variance of each bin's simulated expectation with mu = 1, shape (B,); 0 for exact templates.
    """

    counts: np.ndarray
    variance: np.ndarray

    @property
    def observed(self) -> float:
        """Total number of observed events."""
        return float(self.counts.sum())

    @property
    def rate_variance(self) -> float:
        """Variance of the total expectation."""
        return float(self.variance.sum())

    @property
    def terms(self) -> int:
        """Number of bins."""
        return len(self.counts)

    def value(self, rate: np.ndarray) -> float:
        """Return sum_b f_b; infinite where a bin expects nothing but holds events, or expects less than nothing."""
        return self._value(rate, *self._expand(rate)[:2])

    def expand(self, rate: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Return the value, and f', f'' and the expectation of f'' in every bin, shape (B,) each."""
        x, slope, curvature = self._expand(rate)
        total = rate + self.variance
        information = (total > 0) / np.maximum(total, NOTHING)
        return self._value(rate, x, slope), slope, curvature, information

    @cached_property
    def _filled(self) -> np.ndarray:
        """Whether each bin has events."""
        filled: np.ndarray = self.counts > NO_EVENTS
        return filled

    @cached_property
    def _n(self) -> np.ndarray:
        """The counts, 0 where a bin has no events."""
        return np.where(self._filled, self.counts, 0.0)

    @cached_property
    def _product(self) -> np.ndarray:
        """s^2 n of every bin."""
        product: np.ndarray = self.variance * self._n
        return product

    @cached_property
    def _uncertain(self) -> np.ndarray:
        """Bins without events whose expectation is uncertain."""
        return np.flatnonzero(~self._filled & (self.variance > 0))

    def _expand(self, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, f' and f'' of every bin, shape (B,) each; see the head of the module.

        By the envelope theorem f' = 1 - n / x, which is also (lambda - x) / s^2.
        """
        variance, product = self.variance, self._product
        shifted = rate - variance
        # The root of x^2 - shifted x - s^2 n = 0 that is not negative, without cancellation.
        larger = 0.5 * (np.abs(shifted) + np.sqrt(shifted * shifted + 4.0 * product))
        x = np.where(shifted >= 0, larger, product / np.maximum(larger, NOTHING))
        ratio = (x > 0) * self._n / np.maximum(x, NOTHING)
        slope = 1.0 - ratio
        curvature = ratio / np.maximum(x + variance * ratio, NOTHING)
        if len(self._uncertain):
            # Without events x is at 0 while the simulation allows it: f is then a parabola.
            at_zero = self._uncertain[shifted[self._uncertain] < 0]
            slope[at_zero] = rate[at_zero] / variance[at_zero]
            curvature[at_zero] = 1.0 / variance[at_zero]
        return x, slope, curvature

    def _value(self, rate: np.ndarray, x: np.ndarray, slope: np.ndarray) -> float:
        if not (rate >= 0).all() or not (x[self._filled] > 0).all():
            return math.inf
        n = self._n
        excess = x - n
        # Bin by bin and with log1p: the sums of rates and of counts are large and nearly equal.
        logs = n * np.log1p(excess / np.maximum(n, NOTHING))
        total: float = (excess - logs + 0.5 * self.variance * slope**2).sum()
        return total


BinnedLikelihood = Likelihood[Counts]


def binned_likelihood(
    rates: Rates, counts: np.ndarray, variances: np.ndarray | None = None, centres: np.ndarray | None = None
) -> BinnedLikelihood:
    """Return the likelihood of counts.

    Args:
        rates: Expected events.
        counts: Observed events per bin, shape (B,).
        variances: Variances of the simulated yields at the nominal point, shape (P, B); None for exact templates.
        centres: Centres of the constraints, shape (n_nuisances,); None for 0.
    """
    variance = np.zeros(len(counts))
    if variances is not None:
        variances = variances.astype(np.float64)
        if rates.has_signal is not None:
            variances[SIGNAL_ROW] *= rates.has_signal
        variance = variances.sum(axis=0)
    centres = np.zeros(len(rates.nuisances)) if centres is None else centres
    return Likelihood(rates, Counts(counts, variance), centres)


def with_counts(likelihood: BinnedLikelihood, counts: np.ndarray) -> BinnedLikelihood:
    """Return the likelihood of other counts, shape (B,)."""
    return replace(likelihood, statistic=replace(likelihood.statistic, counts=counts))


def asimov(likelihood: BinnedLikelihood, parameters: np.ndarray) -> BinnedLikelihood:
    """Return the likelihood of the Asimov data set at (mu, nu...), arXiv:1007.1727, section 3.2.

    The counts are the expected ones, and the constraints are centred on the same nu: all estimates equal the truth.
    """
    return with_counts(likelihood, likelihood.expected(parameters)).centred(parameters[1:].copy())


def with_exact_templates(likelihood: BinnedLikelihood) -> BinnedLikelihood:
    """Return the likelihood with templates that are known exactly."""
    statistic = likelihood.statistic
    return replace(likelihood, statistic=replace(statistic, variance=np.zeros_like(statistic.variance)))
