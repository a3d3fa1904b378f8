"""Gaussian amplitudes: interference in any number of dimensions, in closed form.

The square root of a normal density is one again but for a factor, so two of them interfere in closed form. With unit
width, the background at a distance D along the first axis and a phase psi between the amplitudes,

    S = a^2 N(x; 0, 1),   B = b^2 N(x; D, 1),   I = 2 a b cos(psi) exp(-D^2 / 8) N(x; D / 2, 1)

and mu S + sqrt(mu) I + B is nowhere negative. Only the first coordinate tells them apart, so a one-dimensional
quadrature is the exact answer in any dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sage.errors import SettingsError

PROCESSES = ("S", "I", "B")
REACH = 12.0
"""Widths beyond the means at which the quadrature ends."""


@dataclass(frozen=True)
class GaussianAmplitudes:
    """The problem.

    Args:
        dimension: Number of coordinates.
        signal: Events of the signal alone at mu = 1.
        background: Events of the background alone.
        distance: Between the two means.
        phase: Between the amplitudes, radian.
        slope: How far the nuisance parameter moves all events along the first axis, per standard deviation.
    """

    dimension: int = 1
    signal: float = 50.0
    background: float = 500.0
    distance: float = 2.0
    phase: float = 2.5
    slope: float = 0.1

    def __post_init__(self) -> None:
        if self.dimension < 1:
            msg = f"dimension is {self.dimension}; a sample has at least one coordinate, give 1 or more"
            raise SettingsError(msg)

    @property
    def yields(self) -> np.ndarray:
        """Integrals of S, I and B, shape (3,); that of I may be negative."""
        overlap = math.cos(self.phase) * math.exp(-(self.distance**2) / 8)
        return np.array([self.signal, 2 * math.sqrt(self.signal * self.background) * overlap, self.background])

    @property
    def means(self) -> np.ndarray:
        """Means of S, I and B along the first axis, shape (3,)."""
        return np.array([0.0, 0.5, 1.0]) * self.distance

    def components(self, x: np.ndarray, alpha: float = 0.0) -> np.ndarray:
        """Return S, I and B at events, shape (N, 3).

        Args:
            x: Events, shape (N, dimension).
            alpha: Nuisance parameter, in standard deviations.
        """
        across = np.exp(-0.5 * (x[:, 1:] ** 2).sum(axis=1)) / (2 * math.pi) ** (0.5 * self.dimension)
        along = np.exp(-0.5 * (x[:, :1] - self.means - alpha * self.slope) ** 2)
        return np.asarray(self.yields * along * across[:, None])

    def sample(self, rng: np.random.Generator, n: int, mu: float, alpha: float = 0.0) -> np.ndarray:
        """Draw events from the density at ``mu``, shape (n, dimension).

        |u + v|^2 <= 2 (|u|^2 + |v|^2): drawn from mu S + B, accepted against twice that.

        Raises:
            SettingsError: If mu is negative: its root is not real.
        """
        if not mu >= 0:
            msg = f"mu is {mu}; amplitudes take its root, give 0 or more"
            raise SettingsError(msg)
        parts, have = [np.empty((0, self.dimension))], 0
        coefficients = np.array([mu, math.sqrt(mu), 1.0])
        while have < n:
            size = 3 * (n - have) + 100
            x = rng.normal(size=(size, self.dimension))
            x[:, 0] += self.distance * (rng.random(size) * (mu * self.signal + self.background) > mu * self.signal)
            each = self.components(x) * coefficients
            kept = x[rng.random(size) * 2 * (each[:, 0] + each[:, 2]) < each.sum(axis=1)]
            parts.append(kept[: n - have])
            have += len(parts[-1])
        found = np.concatenate(parts)
        found[:, 0] += alpha * self.slope
        return found

    def integral(self, function: Callable[[np.ndarray], np.ndarray], points: int = 4001) -> np.ndarray:
        """Return the integral over the first coordinate of a function of events of one dimension."""
        u = np.linspace(-REACH, self.distance + REACH, points)[:, None]
        return np.asarray(np.trapezoid(function(u), u[:, 0], axis=0))

    def expected_t(self, mu: float, alpha: float = 0.0, true_mu: float = 1.0) -> float:
        """Return t, twice the rise of the negative log-likelihood, of the expected data at ``true_mu``."""
        line = GaussianAmplitudes(1, self.signal, self.background, self.distance, self.phase, self.slope)
        tested, true = (np.array([value, math.sqrt(value), 1.0]) for value in (mu, true_mu))

        def rise(u: np.ndarray) -> np.ndarray:
            ours, theirs = line.components(u, alpha) @ tested, line.components(u) @ true
            return np.asarray(ours - theirs - theirs * np.log(ours / theirs))

        return float(2 * line.integral(rise) + alpha**2)
