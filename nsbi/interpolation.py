"""What a nuisance parameter multiplies a yield or a ratio by, between and beyond its variations by one deviation.

u^a above 1, d^-a below -1 and in between the polynomial of sixth degree through 1 at 0 whose value, first and second
derivative continue at both ends: the interpolation of binned fits, here per event as well (arXiv:2412.01600).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sage.errors import InputError


@dataclass(frozen=True)
class Interpolation:
    """A factor that depends on nuisance parameters, one each along the last axis.

    Args:
        log_up: ln u, of the variations by +1, shape (..., K).
        log_down: ln d, of those by -1, likewise.
        terms: Coefficients of a^1 to a^6, shape (6, ..., K).
    """

    log_up: np.ndarray
    log_down: np.ndarray
    terms: np.ndarray

    def __call__(self, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the factors at nuisance parameters, shape (K,), with first and second derivatives, (..., K) each."""
        a = np.asarray(alphas, dtype=float)
        if (np.abs(a) < 1).all():
            return self._inside(a)
        shape = self.log_up.shape
        beyond = np.where(a >= 1, self.log_up, -self.log_down)
        power = np.exp(a * beyond)
        out = power, beyond * power, beyond**2 * power
        near = np.broadcast_to(np.abs(a) < 1, shape)
        inside = self._inside(np.clip(a, -1, 1))
        value, first, second = (np.where(near, i, o) for i, o in zip(inside, out, strict=True))
        return value, first, second

    def _inside(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        c1, c2, c3, c4, c5, c6 = self.terms
        value = 1 + a * (c1 + a * (c2 + a * (c3 + a * (c4 + a * (c5 + a * c6)))))
        first = c1 + a * (2 * c2 + a * (3 * c3 + a * (4 * c4 + a * (5 * c5 + a * 6 * c6))))
        second = 2 * c2 + a * (6 * c3 + a * (12 * c4 + a * (20 * c5 + a * 30 * c6)))
        return value, first, second

    def rows(self, index: np.ndarray) -> Interpolation:
        """Return the factors of some events, by position along the first axis."""
        return Interpolation(self.log_up[index], self.log_down[index], self.terms[:, index])


def interpolation(up: np.ndarray, down: np.ndarray) -> Interpolation:
    """Return the factor through variations by plus and minus one standard deviation.

    Args:
        up: Varied divided by nominal at +1, shape (..., K).
        down: At -1, likewise.

    Raises:
        InputError: If one is not positive and finite: its logarithm is needed.
    """
    u, d = np.asarray(up, dtype=float), np.asarray(down, dtype=float)
    for name, values in (("up", u), ("down", d)):
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            msg = (
                f"variation {name} of {bad.sum()} values is not above 0 (the first: {values[bad][0]}); "
                "bound the ratios before they are interpolated"
            )
            raise InputError(msg)
    lu, ld = np.log(u), np.log(d)
    s0, a0 = (u + d) / 2 - 1, (u - d) / 2
    s1, a1 = (u * lu + d * ld) / 2, (u * lu - d * ld) / 2
    s2, a2 = (u * lu**2 + d * ld**2) / 2, (u * lu**2 - d * ld**2) / 2
    c6 = (s2 - 5 * s1 + 8 * s0) / 8
    c4 = s1 / 2 - s0 - 2 * c6
    c2 = s0 - c4 - c6
    c5 = (a2 - 3 * a1 + 3 * a0) / 8
    c3 = (a1 - a0) / 2 - 2 * c5
    c1 = a0 - c3 - c5
    return Interpolation(lu, ld, np.stack([c1, c2, c3, c4, c5, c6]))
