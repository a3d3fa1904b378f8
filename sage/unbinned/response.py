r"""How the density of a process changes with the shape nuisances, event by event.

    S_p(x; nu) = exp(A_p(x) . v(nu)),    v monomials in functions of the nuisances without a constant, so S_p(x; 0) = 1

(arXiv:2505.05544). With ``EXACT`` the functions are t = (tes - 1) / 0.01, j = (jes - 1) / 0.01 and
m = ln(1 + soft_met / GeV), as in ``sage.binned.response``; noise acts by its even powers only, so nothing is linear in
m. ``QUADRATIC`` is the published choice: all monomials of first and second order, with soft_met itself. ``PUBLISHED``
is the same with the range of the published fit, far beyond that of the training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sage.binned.tables import AXES, SCALE_RANGE, SOFT_MET_RANGE


@dataclass(frozen=True)
class Coordinate:
    """A function of one nuisance: (alpha - origin) / unit, or the logarithm of 1 + that.

    Args:
        nuisance: Name of the nuisance.
        origin: Its nominal value.
        unit: What the coordinate counts.
        ends: Range of alpha; outside the coordinate keeps the value at the end.
        logarithmic: Whether it is the logarithm.
    """

    nuisance: str
    origin: float
    unit: float
    ends: tuple[float, float]
    logarithmic: bool = False

    def __call__(self, alpha: float) -> tuple[float, float, float]:
        """Return the coordinate with its first and second derivative in alpha."""
        clamped = min(max(alpha, self.ends[0]), self.ends[1])
        x, inside = (clamped - self.origin) / self.unit, float(clamped == alpha)
        if self.logarithmic:
            slope = inside / (self.unit * (1.0 + x))
            return math.log1p(x), slope, -inside / (self.unit * (1.0 + x)) ** 2
        return x, inside / self.unit, 0.0

    def of(self, alphas: np.ndarray) -> np.ndarray:
        """Return the coordinate of values of any shape."""
        x = (np.clip(alphas, *self.ends) - self.origin) / self.unit
        return np.log1p(x) if self.logarithmic else np.asarray(x)


@dataclass(frozen=True)
class Basis:
    """Monomials of coordinates.

    Args:
        name: Its name.
        coordinates: K functions of different nuisances.
        powers: Exponents of the coordinates in each monomial, C of them; one of each is positive.
    """

    name: str
    coordinates: tuple[Coordinate, ...]
    powers: tuple[tuple[int, ...], ...]

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Names of the nuisances, in the order of the coordinates."""
        return tuple(coordinate.nuisance for coordinate in self.coordinates)

    def terms(self, alphas: np.ndarray) -> np.ndarray:
        """Return the monomials at values of the nuisances, shape (n, K); shape (n, C)."""
        columns = [coordinate.of(alphas[:, k]) for k, coordinate in enumerate(self.coordinates)]
        out: np.ndarray = np.prod(np.stack(columns, axis=1)[:, None, :] ** self._exponents, axis=2)
        return out

    def expand(self, alphas: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the monomials at one point with their first and second derivatives in the nuisances.

        Args:
            alphas: Values of the nuisances, K of them.

        Returns:
            Shapes (C,), (K, C) and (K, K, C).
        """
        n = len(self.coordinates)
        columns = np.empty((3, n, len(self.powers)))
        for k, (coordinate, alpha) in enumerate(zip(self.coordinates, alphas, strict=True)):
            x, first, second = coordinate(alpha)
            powers = x ** np.arange(self._exponents.max() + 1)
            of = self._exponents[:, k]
            slope = of * powers[np.maximum(of - 1, 0)]
            columns[0, k] = powers[of]
            columns[1, k] = slope * first
            columns[2, k] = of * (of - 1) * powers[np.maximum(of - 2, 0)] * first**2 + slope * second
        each = np.arange(n)
        orders = np.eye(n, dtype=int)
        value: np.ndarray = columns[0].prod(axis=0)
        slopes: np.ndarray = columns[orders, each].prod(axis=1)
        curvatures: np.ndarray = columns[orders[:, None] + orders, each].prod(axis=2)
        return value, slopes, curvatures

    @cached_property
    def _exponents(self) -> np.ndarray:
        return np.array(self.powers)


TES = Coordinate(AXES[0], 1.0, 0.01, SCALE_RANGE)
JES = Coordinate(AXES[1], 1.0, 0.01, SCALE_RANGE)
LOG_SOFT_MET = Coordinate(AXES[2], 0.0, 1.0, SOFT_MET_RANGE, logarithmic=True)
SOFT_MET = Coordinate(AXES[2], 0.0, 1.0, SOFT_MET_RANGE)

EXACT = Basis(
    "exact",
    (TES, JES, LOG_SOFT_MET),
    ((1, 0, 0), (0, 1, 0), (2, 0, 0), (1, 1, 0), (0, 2, 0), (0, 0, 2), (0, 0, 3), (1, 0, 2), (0, 1, 2)),
)
QUADRATIC = Basis(
    "quadratic",
    (TES, JES, SOFT_MET),
    ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0), (1, 0, 1), (0, 1, 1)),
)
PUBLISHED = Basis(
    "published", (replace(TES, ends=(0.9, 1.1)), replace(JES, ends=(0.9, 1.1)), SOFT_MET), QUADRATIC.powers
)
BASES = {basis.name: basis for basis in (EXACT, QUADRATIC, PUBLISHED)}
