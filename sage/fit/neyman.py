"""An interval from toys: what an estimator does at known signal strengths, turned into a posterior.

The recipe of contrastive flows (arXiv:2505.08709, as in their program). At each signal strength of a grid the mean and
the standard deviation of the estimator among toys are kept. A straight line, mean = a mu + b, corrects an estimate,
mu_c = (estimate - b) / a, and with sd(mu) = sd of the toys / a, interpolated,

    weight(mu) = exp(-((mu_c - mu) / sd(mu))^2 / 2),     0 <= mu <= 3,

is taken for the posterior with a flat prior; the interval ends at its quantiles. ``normalised`` divides the weight by
sd(mu), without which it is no likelihood. That the width is one of toys makes up for what the fit leaves out, on
average over the nuisances and over mu; ``sage.fit.belt`` makes intervals of the same toys that cover at every mu.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sage.errors import FitError, SettingsError

PRIOR = (0.0, 3.0)
"""Range of the flat prior."""
POINTS = 1000
"""Signal strengths at which the weight is taken."""
QUANTILES = (0.16, 0.5, 0.84)
"""Of the posterior: the limits, and what stands between them where mu_c does not."""
GRID = tuple(np.linspace(0.1, 3.2, 10).tolist())
"""Signal strengths of the published toys."""
LEAST_TOYS = 20
"""Usable toys at a signal strength, below which there is no table."""

Estimate = Callable[[np.random.Generator, float], float]
"""Makes a toy at a signal strength and returns the estimate; NaN where it failed."""


@dataclass(frozen=True)
class NeymanTable:
    """What an estimator does at known signal strengths.

    Args:
        mu: Signal strengths, increasing, shape (n,), at least two.
        mean: Means of the estimator there, shape (n,).
        sd: Its standard deviations, shape (n,).

    Raises:
        SettingsError: If the shapes differ, a number is not finite, mu or the line does not increase or a deviation is
            not positive.
    """

    mu: np.ndarray
    mean: np.ndarray
    sd: np.ndarray

    def __post_init__(self) -> None:
        shapes = {self.mu.shape, self.mean.shape, self.sd.shape}
        numbers = np.concatenate([self.mu.ravel(), self.mean.ravel(), self.sd.ravel()])
        usable = shapes == {(len(self.mu),)} and len(self.mu) > 1 and np.isfinite(numbers).all()
        if not usable or not ((np.diff(self.mu) > 0).all() and (self.sd > 0).all() and self.line[0] > 0):
            msg = f"mu {self.mu}, means {self.mean}, deviations {self.sd}: there must be as many of each, mu and the "
            msg += "means increasing and the deviations positive; make more toys"
            raise SettingsError(msg)

    @classmethod
    def of(cls, mus: Sequence[float], found: Sequence[np.ndarray]) -> NeymanTable:
        """Return the table of estimates in toys, shape (k,) at each of the signal strengths."""
        return cls(*np.array([(mu, one.mean(), one.std(ddof=1)) for mu, one in zip(mus, found, strict=True)]).T)

    @property
    def line(self) -> tuple[float, float]:
        """Slope a and offset b of the straight line through the means, by least squares."""
        slope, offset = np.polyfit(self.mu, self.mean, 1)
        return float(slope), float(offset)

    def corrected(self, estimate: float) -> float:
        """Return mu_c of an estimate."""
        slope, offset = self.line
        return (estimate - offset) / slope

    def width(self, mu: np.ndarray) -> np.ndarray:
        """Return sd(mu) at signal strengths (m,); constant beyond the ends of the table."""
        return np.asarray(np.interp(mu, self.mu, self.sd / self.line[0]))

    def interval(self, estimate: float, *, normalised: bool = False) -> tuple[float, float, float]:
        """Return mu_c, or the median where mu_c is not inside the interval, and the limits.

        Args:
            estimate: The estimator's value in the data.
            normalised: Divide the weight by sd(mu).

        Raises:
            FitError: If the estimate is not finite.
        """
        if not math.isfinite(estimate):
            msg = f"the estimate is {estimate}; it must be finite"
            raise FitError(msg)
        centre = self.corrected(estimate)
        mu = np.linspace(*PRIOR, POINTS)
        width = self.width(mu)
        logs = -0.5 * ((centre - mu) / width) ** 2 - (np.log(width) if normalised else 0.0)
        steps = np.exp(logs - logs.max())
        # The integral by trapezoids, so that a quantile can lie between two points.
        total = np.concatenate([[0.0], np.cumsum(0.5 * (steps[1:] + steps[:-1]))])
        low, median, high = (float(limit) for limit in np.interp(QUANTILES, total / total[-1], mu))
        return centre if low < centre < high else median, low, high


def make_toys(
    estimate: Estimate, mus: Sequence[float], toys: int, seed: int, each: Callable[[float], None] | None = None
) -> list[np.ndarray]:
    """Make toys and return the usable estimates at each signal strength, shape (k,) with k <= toys.

    Args:
        estimate: The estimator in a new toy at mu.
        mus: Signal strengths.
        toys: Toys at each; 50 in the published program, which knows the deviations to 10 % only.
        seed: Decides the toys together with the place of mu.
        each: Called with every mu that is done.

    Raises:
        SettingsError: If too few toys are usable.
    """
    out = []
    for place, mu in enumerate(mus):
        rng = np.random.default_rng((seed, place))
        found = np.array([estimate(rng, mu) for _ in range(toys)])
        found = found[np.isfinite(found)]
        if len(found) < LEAST_TOYS:
            msg = f"{len(found)} of {toys} toys at mu = {mu} are usable; there must be {LEAST_TOYS} at least"
            raise SettingsError(msg)
        out.append(found)
        if each is not None:
            each(mu)
    return out
