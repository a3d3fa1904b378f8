"""How the processes of a mixture depend on the parameter of interest.

The fit's parameter is not mu but what is smooth at its end: an amplitude's strength s = sqrt(mu) with interference, a
Wilson coefficient c of an effective theory, mu itself without either. The coefficients of the processes are
polynomials of second degree in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage.errors import SettingsError

DEGREES = 3


@dataclass(frozen=True)
class Mixture:
    """A mixture: density(x) = sum_j f_j density_j(x).

    Args:
        processes: Their names, J of them.
        polynomials: f_j = sum_d polynomials[j, d] s^d, shape (J, 3).
        rooted: Whether s is sqrt(mu); else it is mu.
        low: Least value of s.
    """

    processes: tuple[str, ...]
    polynomials: np.ndarray
    rooted: bool
    low: float = 0.0

    def strength(self, mu: float) -> float:
        """Return the fit's parameter s at mu.

        Raises:
            SettingsError: If mu is outside of its range.
        """
        s = math.sqrt(mu) if self.rooted and mu >= 0 else mu
        if not (math.isfinite(mu) and s >= self.low):
            why = "amplitudes take its root" if self.rooted else "of the range of this mixture"
            msg = f"mu is {mu}, below {self.low:g} or not finite; {why}, give another"
            raise SettingsError(msg)
        return s

    def mu(self, s: float) -> float:
        """Return mu at the fit's parameter."""
        return s * s if self.rooted else s

    def coefficients(self, s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return f_j with its first and second derivative in s, shape (J,) each."""
        constant, linear, square = self.polynomials.T
        return constant + s * (linear + s * square), linear + 2 * s * square, 2 * square

    def at_mu(self, mu: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return f_j with its first and second derivative in mu, shape (J,) each; infinite for roots at 0."""
        s = self.strength(mu)
        value, first, second = self.coefficients(s)
        if not self.rooted:
            return value, first, second
        with np.errstate(divide="ignore", invalid="ignore"):
            # Terms without a root have no derivative that could be infinite.
            slope = np.where(first == 2 * s * self.polynomials[:, 2], self.polynomials[:, 2], first / (2 * s))
            rooted = self.polynomials[:, 1]
            return value, slope, np.where(rooted == 0, 0.0, -rooted / (4 * s**3))

    def check(self, parts: np.ndarray, total: float, mu: float = 1.0, tolerance: float = 1e-3) -> None:
        """Refuse yields of processes that do not add up to the sample at mu.

        Args:
            parts: Yields of the processes, shape (J,).
            total: Yield of the sample at mu.
            mu: Its signal strength.
            tolerance: Relative.

        Raises:
            SettingsError: If they do not.
        """
        found = float(self.coefficients(self.strength(mu))[0] @ parts)
        if not abs(found - total) <= tolerance * abs(total):
            msg = f"the processes add up to {found:g} events at mu = {mu:g}, its sample has {total:g}; check the yields"
            raise SettingsError(msg)


def _mixture(names: Sequence[str], rows: Sequence[Sequence[float]], others: Sequence[str], **options: float) -> Mixture:
    polynomials = np.array([*rows, *([[1.0, 0.0, 0.0]] * len(others))])
    return Mixture((*names, *others), polynomials, bool(options.get("rooted")), options.get("low", 0.0))


def interference(others: Sequence[str] = ()) -> Mixture:
    """Return mu S + sqrt(mu) I + B + others: the basis in which a factor of one amplitude can be expressed."""
    return _mixture(("S", "I", "B"), [[0, 0, 1], [0, 1, 0], [1, 0, 0]], others, rooted=True)


def samples(others: Sequence[str] = ()) -> Mixture:
    """Return the same as positive samples: (mu - sqrt(mu)) S + sqrt(mu) SBI + (1 - sqrt(mu)) B + others."""
    return _mixture(("S", "SBI", "B"), [[0, -1, 1], [0, 1, 0], [1, -1, 0]], others, rooted=True)


def effective(others: Sequence[str] = ()) -> Mixture:
    """Return SM + c linear + c^2 quadratic + others, of an effective theory with one coefficient c of any sign."""
    names = ("SM", "linear", "quadratic")
    return _mixture(names, [[1, 0, 0], [0, 1, 0], [0, 0, 1]], others, low=-math.inf)


def plain(others: Sequence[str] = ("B",)) -> Mixture:
    """Return mu S + others: no interference."""
    return _mixture(("S",), [[0, 1, 0]], others)
