"""A belt of an estimator: its quantiles in toys at known signal strengths, and intervals that cover at each of them.

The interval of an estimate holds every mu at which the estimate lies between the two quantiles that leave the same
share of toys on either side (J. Neyman, Phil. Trans. R. Soc. A 236 (1937) 333). It covers at every mu of the grid by
construction, whatever the estimator's bias and however skew its distribution, up to the number of toys. The signal
strength at which the estimate is the median stands for the measured one. Quantiles are linear in mu between the grid's
points; beyond its ends they go on parallel to the straight line through the medians, which changes limits there, but
no coverage within the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage.errors import FitError, SettingsError

TAIL = 0.5 * math.erfc(math.sqrt(0.5))
"""Share of the toys beyond either quantile."""
LEVELS = (TAIL, 0.5, 1.0 - TAIL)


@dataclass(frozen=True)
class CentralBelt:
    """What an estimator does at known signal strengths.

    Args:
        mu: Signal strengths, increasing, shape (n,), at least two.
        quantiles: Of the estimator there at ``LEVELS``, shape (3, n): increasing with the level, and with mu on the
            whole, nowhere decreasing.

    Raises:
        SettingsError: If the shapes differ, a number is not finite or does not increase as it must.
    """

    mu: np.ndarray
    quantiles: np.ndarray

    def __post_init__(self) -> None:
        usable = self.mu.ndim == 1 and len(self.mu) > 1 and self.quantiles.shape == (len(LEVELS), len(self.mu))
        usable = usable and bool(np.isfinite(self.mu).all() and np.isfinite(self.quantiles).all())
        usable = usable and bool((np.diff(self.mu) > 0).all() and (np.diff(self.quantiles, axis=0) > 0).all())
        if not usable or (np.diff(self.quantiles, axis=1) < 0).any() or not self.slope > 0:
            msg = f"a belt at mu {self.mu} with quantiles {self.quantiles.tolist()}: there must be three at each, "
            msg += "which increase with their level and with mu; make more toys"
            raise SettingsError(msg)

    @classmethod
    def of(cls, mus: Sequence[float], found: Sequence[np.ndarray]) -> CentralBelt:
        """Return the belt of estimates in toys, shape (k,) at each of the signal strengths.

        Where a quantile falls with mu, as it may with few toys, what stands is halfway between the largest so far and
        the smallest to come.
        """
        quantiles = np.array([np.quantile(one, LEVELS) for one in found]).T
        so_far = np.maximum.accumulate(quantiles, axis=1)
        to_come = np.minimum.accumulate(quantiles[:, ::-1], axis=1)[:, ::-1]
        return cls(np.array(mus, dtype=np.float64), 0.5 * (so_far + to_come))

    @property
    def slope(self) -> float:
        """Slope of the straight line through the medians, by least squares."""
        return float(np.polyfit(self.mu, self.quantiles[1], 1)[0])

    def interval(self, estimate: float) -> tuple[float, float, float]:
        """Return the signal strength at which the estimate is the median, and the limits.

        Raises:
            FitError: If the estimate is not finite.
        """
        if not math.isfinite(estimate):
            msg = f"the estimate is {estimate}; it must be finite"
            raise FitError(msg)
        high, median, low = (self._where(row, estimate) for row in self.quantiles)
        return median, low, high

    def _where(self, row: np.ndarray, estimate: float) -> float:
        """Return the mu at which a quantile is the estimate."""
        beyond = min(estimate - row[0], 0.0) + max(estimate - row[-1], 0.0)
        return float(np.interp(estimate, row, self.mu) + beyond / self.slope)
