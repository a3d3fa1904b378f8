r"""Rates and factors of the published unbinned method (arXiv:2505.05544 and its submission), a variant for comparisons.

    c_rp(nu) = exp(I_rp . v(nu)),    lambda_rp(nu) = sum over simulated nominal events of w g_p exp(I_rp . v + A_p . v)

``I`` is the log-quadratic response of the rate, fitted to the yields at 34 points. ``lambda`` is known on a grid of
27 x 27 x 9 points, in units of 1 % and GeV, and interpolated by the tensor product of quintic splines without knots
next to the ends. The original takes scipy's ``RegularGridInterpolator`` with ``quintic``, the same function but for an
iteration that stops early.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sage.challenge.nuisances import PROCESSES
from sage.rates import N_TERMS, PAIRS
from sage.unbinned.ratios import UNBINNED, rate_name
from sage.unbinned.refined import RefinedFactors, RefinedTemplates
from sage.unbinned.response import PUBLISHED

DEGREE = 5
_SCALES = np.union1d(np.arange(-10.0, 11.0), np.arange(-3.0, 3.5, 0.5))
GRID = (_SCALES, _SCALES, np.union1d(np.arange(0.0, 6.0), np.arange(0.0, 3.5, 0.5)))
"""Points of tes and jes, in units of 1 % from the nominal ones, and of soft_met in GeV."""
SHAPE = tuple(len(axis) for axis in GRID)
ORIGINS, UNITS = (1.0, 1.0, 0.0), (0.01, 0.01, 1.0)


@dataclass(frozen=True)
class SplineTemplates:
    """``Templates`` of P processes in R regions: interpolated rates, constant beyond the grid.

    Args:
        coefficients: Of the B-splines of the three axes, shape (P, R, 27, 27, 9).
    """

    coefficients: np.ndarray

    @property
    def axes(self) -> tuple[np.ndarray, ...]:
        """The ends of each shape nuisance, where the slope jumps to 0."""
        parts = zip(GRID, ORIGINS, UNITS, strict=True)
        return tuple(origin + unit * axis[[0, -1]] for axis, origin, unit in parts)

    def terms(self, point: tuple[float, ...]) -> np.ndarray:
        """Return rates, first and second derivatives at (tes, jes, soft_met), shape (10, P, R)."""
        found = []
        for value, axis, knots, origin, unit in zip(point, GRID, self._knots, ORIGINS, UNITS, strict=True):
            x = (value - origin) / unit
            clamped = min(max(x, axis[0]), axis[-1])
            inside = 1.0 if clamped == x else 0.0
            factors = np.array([1.0, inside / unit, inside / unit**2])
            found.append(factors[:, None] * b_splines(knots, clamped))
        orders = np.zeros((N_TERMS, len(GRID)), dtype=int)
        orders[1:4] = np.eye(3, dtype=int)
        for row, (a, b) in enumerate(PAIRS, start=4):
            orders[row, a] += 1
            orders[row, b] += 1
        # One axis after the other, each with all orders.
        partial = np.einsum("prijk,ck->cprij", self.coefficients, found[2])
        partial = np.einsum("cprij,bj->bcpri", partial, found[1])
        partial = np.einsum("bcpri,ai->abcpr", partial, found[0])
        out: np.ndarray = partial[tuple(orders.T)]
        return out

    @cached_property
    def _knots(self) -> tuple[np.ndarray, ...]:
        return tuple(knots_of(axis) for axis in GRID)


def spline_coefficients(values: np.ndarray) -> np.ndarray:
    """Return the coefficients of the B-splines that interpolate values (..., 27, 27, 9) on the grid."""
    for axis, points in zip((-3, -2, -1), GRID, strict=True):
        matrix = np.array([b_splines(knots_of(points), x)[0] for x in points.tolist()])
        flat = np.moveaxis(values, axis, 0)
        solved = np.linalg.solve(matrix, flat.reshape(len(points), -1)).reshape(flat.shape)
        values = np.moveaxis(solved, 0, axis)
    return values


def knots_of(axis: np.ndarray) -> np.ndarray:
    """Return the knots of the interpolating quintic spline: none next to the ends, which count six times."""
    half = (DEGREE + 1) // 2
    return np.concatenate([np.full(DEGREE + 1, axis[0]), axis[half:-half], np.full(DEGREE + 1, axis[-1])])


def b_splines(knots: np.ndarray, x: float) -> np.ndarray:
    """Return all B-splines at x with their first and second derivatives, shape (3, n), by the recursion of de Boor."""
    last = int(np.searchsorted(knots, knots[-1])) - 1
    degrees = [np.zeros(len(knots) - 1)]
    degrees[0][min(int(np.searchsorted(knots, x, side="right")) - 1, last)] = 1.0
    for degree in range(1, DEGREE + 1):
        up, down = _inverse_spans(knots, degree)
        below = degrees[-1]
        left, right = (x - knots[: -degree - 1]) * up, (knots[degree + 1 :] - x) * down
        degrees.append(left * below[:-1] + right * below[1:])
    return np.stack([degrees[-1], _derived(knots, degrees[-2], DEGREE), _twice_derived(knots, degrees[-3])])


def _inverse_spans(knots: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 / (t_{i + degree} - t_i), 0 where there is no distance, for i and i + 1 of each spline."""
    spans = knots[degree:] - knots[:-degree]
    inverse = np.divide(1.0, spans, out=np.zeros(len(spans)), where=spans > 0)
    return inverse[:-1], inverse[1:]


def _derived(knots: np.ndarray, below: np.ndarray, degree: int) -> np.ndarray:
    """Return the derivatives of the splines of a degree from (derivatives of) those of the degree below."""
    up, down = _inverse_spans(knots, degree)
    out: np.ndarray = degree * (up * below[:-1] - down * below[1:])
    return out


def _twice_derived(knots: np.ndarray, below: np.ndarray) -> np.ndarray:
    return _derived(knots, _derived(knots, below, DEGREE - 1), DEGREE)


def published_factors(arrays: Mapping[str, np.ndarray]) -> RefinedFactors:
    """Return the factors c as templates.

    Args:
        arrays: Hold I under the names of ``sage.unbinned.ratios.rate_name``, shape (9,) each.
    """
    responses = np.array([[arrays[rate_name(region, process)] for region in UNBINNED] for process in PROCESSES])
    n_processes, n_regions, _ = responses.shape
    ones = np.zeros((N_TERMS, n_processes, n_regions))
    ones[0] = 1.0
    return RefinedFactors(RefinedTemplates(lambda _: ones, PUBLISHED, responses, np.zeros((0, n_regions))))
