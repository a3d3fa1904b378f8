r"""Smooth response of each bin's yield to the three shape nuisances.

Counts at different nuisance points come from the same simulated events and differ by those that changed bin. Put
into a table directly, that migration noise would put kinks into the likelihood, so every yield is described by

    N(tes, jes, soft_met) = N(1, 1, 0) exp(sum_i c_i f_i(t, j, m)),
    t = (tes - 1) / 0.01,  j = (jes - 1) / 0.01,  m = log(1 + soft_met / GeV),

with monomials f_i. The first is 1: at the nominal point no noise averages over the bins of an event, so the direct
counts are rougher there than anywhere else, and a response forced through them is biased everywhere else. Noise of
width soft_met changes a yield by even powers of soft_met only, so no monomial is linear in m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sage.binned.tables import DERIVATIVES, GRID, SCALE_RANGE, SOFT_MET_RANGE, grid_points
from sage.challenge.nuisances import CHALLENGE, Linear
from sage.rates import N_TERMS, PAIRS

POWERS = np.array(
    [
        (0, 0, 0),
        (1, 0, 0),
        (0, 1, 0),
        (2, 0, 0),
        (1, 1, 0),
        (0, 2, 0),
        (3, 0, 0),
        (0, 3, 0),
        (0, 0, 2),
        (0, 0, 3),
        (0, 0, 4),
        (1, 0, 2),
        (0, 1, 2),
    ]
)
"""Exponents of (t, j, m) of each monomial."""

Point = tuple[float, float, float]
"""tes, jes and soft_met in GeV."""

EXPECTED_SIZE = 0.1
"""Typical change of log N per unit of t or j and over the range of m; each further factor t, j is as much smaller."""

ITERATIONS = 8
LARGEST_LOG = 5.0
"""Bound on |log(N / N_nominal)| during and after the fit; reached only where there is next to nothing to fit."""


_ORDERS = 5
"""Powers of each variable, from 0."""
_ENTRIES = (3 * np.arange(3)[:, None, None] + DERIVATIVES[:, :, None]) * _ORDERS + POWERS.T[:, None, :]
"""Where the factor of each axis, term and monomial is among [axis, order of derivative, power], shape (3, 10, 13)."""

_FIRST, _SECOND = np.array(PAIRS).T
"""First and second axis of each pair."""

_WIDTHS = [nuisance.to_alpha.width for nuisance in CHALLENGE[:2] if isinstance(nuisance.to_alpha, Linear)]


@dataclass(frozen=True)
class Response:
    """Fitted coefficients; yields are held constant beyond the ranges of ``sage.binned.tables``.

    Args:
        nominal: Yields at the nominal point, any shape; (P, B) for ``terms``.
        coefficients: Shape (*nominal.shape, 13), in the order of ``POWERS``.
    """

    nominal: np.ndarray
    coefficients: np.ndarray

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ends of tes, jes and soft_met, where the slope jumps to 0."""
        return np.array(SCALE_RANGE), np.array(SCALE_RANGE), np.array(SOFT_MET_RANGE)

    def terms(self, point: tuple[float, ...]) -> np.ndarray:
        """Return the yields and their derivatives at one nuisance point.

        Args:
            point: (tes, jes, soft_met).

        Returns:
            Shape (10, P, B): the yields, their derivatives in tes, jes and soft_met, and the second derivatives of
            ``PAIRS``. Derivatives along an axis are 0 beyond its ends.
        """
        exponents = _basis_terms(point) @ self._by_monomial
        logs, slopes = exponents[0], exponents[1:4]
        # The bound is met by next to empty bins only; there the yield is constant.
        beyond = np.abs(logs) > LARGEST_LOG
        if beyond.any():
            exponents[1:, beyond] = 0.0
            logs = np.clip(logs, -LARGEST_LOG, LARGEST_LOG)
        exponents[4:] += slopes[_FIRST] * slopes[_SECOND]
        yields = self.nominal.ravel() * np.exp(logs)
        exponents[0] = 1.0
        terms: np.ndarray = yields * exponents
        return terms.reshape(N_TERMS, *self.nominal.shape)

    @cached_property
    def _by_monomial(self) -> np.ndarray:
        """Coefficients of the monomials in a row each, contiguous, shape (13, P B)."""
        return np.ascontiguousarray(self.coefficients.reshape(-1, len(POWERS)).T)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return yields at points (k, 3), shape (k, *nominal.shape)."""
        exponent = np.moveaxis(self.coefficients @ monomials(points).T, -1, 0)
        yields: np.ndarray = self.nominal * np.exp(np.clip(exponent, -LARGEST_LOG, LARGEST_LOG))
        return yields


def monomials(points: np.ndarray) -> np.ndarray:
    """Evaluate the monomials at points (tes, jes, soft_met), shape (k, 3); returns shape (k, 13)."""
    scaled = np.column_stack([(points[:, :2] - 1.0) / _WIDTHS, np.log1p(points[:, 2])])
    out: np.ndarray = np.prod(scaled[:, None, :] ** POWERS, axis=2)
    return out


def _basis_terms(point: tuple[float, ...]) -> np.ndarray:
    """Return the monomials at a point and their derivatives in tes, jes and soft_met, shape (10, 13)."""
    table = []
    for axis, (value, (low, high)) in enumerate(zip(point, (SCALE_RANGE, SCALE_RANGE, SOFT_MET_RANGE), strict=True)):
        clamped = min(max(value, low), high)
        # The scaled variable with its derivatives in the physical one.
        if axis < 2:
            x, dx, d2x = (clamped - 1.0) / _WIDTHS[axis], 1.0 / _WIDTHS[axis], 0.0
        else:
            x, dx, d2x = math.log1p(clamped), 1.0 / (1.0 + clamped), -1.0 / (1.0 + clamped) ** 2
        if clamped != value:
            dx = d2x = 0.0
        # The powers of x from 0 to 4, then their first and their second derivatives.
        xx, d = x * x, dx * dx
        table += [1.0, x, xx, xx * x, xx * xx]
        table += [0.0, dx, 2.0 * x * dx, 3.0 * xx * dx, 4.0 * xx * x * dx]
        table += [0.0, d2x, 2.0 * (d + x * d2x), 3.0 * x * (2.0 * d + x * d2x), 4.0 * xx * (3.0 * d + x * d2x)]
    tes, jes, met = np.array(table)[_ENTRIES]
    out: np.ndarray = tes * jes * met
    return out


def fit_response(points: np.ndarray, counts: np.ndarray, variances: np.ndarray, nominal: np.ndarray) -> Response:
    """Fit the response of many yields at once by weighted least squares (Gauss-Newton).

    Where few events decide, the coefficients are held near 0 by a Gaussian whose width follows ``EXPECTED_SIZE``.
    A yield that is 0 at the nominal point stays 0.

    Args:
        points: Nuisance points, shape (k, 3).
        counts: Yields there, shape (k, n).
        variances: Variance of ``counts - nominal``, shape (k, n); where 0, a point decides as much as the best other.
        nominal: Yields at the nominal point, shape (n,).

    Returns:
        The response of the n yields.
    """
    basis = monomials(points)
    widths = EXPECTED_SIZE ** (POWERS[:, 0] + POWERS[:, 1] + (POWERS[:, 2] > 0))
    filled = nominal > 0
    scale = np.where(filled, nominal, 1.0)
    relative, errors2 = counts / scale, variances / scale**2
    # A point at which nothing moved still cannot be known better than the smallest step a yield can make.
    smallest = np.where(errors2 > 0, errors2, np.inf).min(axis=0)
    smallest = np.where(np.isfinite(smallest), smallest, 1.0)
    precision = np.where(filled, 1.0 / np.maximum(errors2, smallest), 0.0).T

    coefficients = np.zeros((len(nominal), len(POWERS)))
    for _ in range(ITERATIONS):
        value = np.exp(np.clip(coefficients @ basis.T, -LARGEST_LOG, LARGEST_LOG))
        slope = value[:, :, None] * basis
        weighted = slope * precision[:, :, None]
        matrix = np.swapaxes(weighted, 1, 2) @ slope + np.diag(widths**-2.0)
        gradient = np.einsum("nki,nk->ni", weighted, relative.T - value) - coefficients / widths**2
        coefficients = coefficients + np.linalg.solve(matrix, gradient[:, :, None])[:, :, 0]
    return Response(nominal, coefficients)


def fit_counts(points: Sequence[Point], counts: np.ndarray, moved: np.ndarray) -> Response:
    """Fit the response to what ``count_points`` found at points of which the first is the nominal one.

    Args:
        points: The k points.
        counts: Shape (k, P, B).
        moved: Shape (k, P, B).

    Returns:
        The response of yields (P, B).
    """
    nominal = counts[0]
    values, errors2 = (array.reshape(len(points), -1) for array in (counts, moved))
    fitted = fit_response(np.array(points), values, errors2, nominal.ravel())
    return Response(nominal, fitted.coefficients.reshape(*nominal.shape, -1))


def fill_grid(response: Response) -> np.ndarray:
    """Evaluate a response of yields (P, B) at the nodes of the tables, shape (17, 17, 41, P, B), float32."""
    yields = response(np.array(grid_points())).astype(np.float32)
    return yields.reshape(*GRID, *response.nominal.shape)
