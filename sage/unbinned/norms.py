r"""Factors of the processes: expected events over the integral of what the surrogates make of the nominal density.

    c_rp(nu) = Y_rp(nu) / Z_rp(nu),    Z_rp(nu) = sum over simulated nominal events of w g_p exp(A_p . v(nu))

A relative error e of Z changes the negative log-likelihood of N events by N e, so it has to be far below 1 / N wherever
a fit may go. ln Z is analytic, and polynomials of degree 7 describe it; with 13 monomials as for counts, e would be up
to 1e-3. Nothing is linear in m = ln(1 + soft_met), see ``sage.binned.response``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from sage.binned.response import POWERS, Response
from sage.rates import N_TERMS, PAIRS
from sage.unbinned.response import JES, LOG_SOFT_MET, TES, Basis
from sage.unbinned.statistic import LARGEST_EXPONENT

DEGREE = 7
SCALE = 4.0
"""Units of t and j, so that they end at 1."""
NODES = 7
"""Of a grid of Chebyshev points, along each axis."""
EVENTS, POINTS = 2048, 128
"""Events and points of a sum per pass; exponentials that stay in the cache are made twice as fast."""

NORM_BASIS = Basis(
    "norms",
    (replace(TES, unit=SCALE * TES.unit), replace(JES, unit=SCALE * JES.unit), LOG_SOFT_MET),
    tuple(powers for powers in product(range(DEGREE + 1), repeat=3) if sum(powers) <= DEGREE and powers[2] != 1),
)
_PLACES = [NORM_BASIS.powers.index((t, j, m)) for t, j, m in POWERS.tolist()]
_UNITS = SCALE ** (POWERS[:, 0] + POWERS[:, 1])


def norm_points() -> np.ndarray:
    """Return the points at which Z is to be known, tes, jes and soft_met: the nominal one first; shape (n, 3)."""
    nodes = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
    axes = []
    for coordinate in NORM_BASIS.coordinates:
        low, high = coordinate.of(np.array(coordinate.ends))
        x = 0.5 * (low + high) + 0.5 * (high - low) * nodes
        axes.append(np.expm1(x) if coordinate.logarithmic else coordinate.origin + coordinate.unit * x)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    nominal = [coordinate.origin for coordinate in NORM_BASIS.coordinates]
    return np.concatenate([[nominal], grid])


def norm_sums(
    weighted: Callable[[slice], np.ndarray],
    response: np.ndarray,
    terms: np.ndarray,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return the sums over n events of w g_p exp(A_p . v) at N points, for K weightings that share the exponentials.

    Exponents are clamped as those of the likelihood are (``sage.unbinned.statistic``): the sums are those of its
    densities, and finite wherever responses are.

    Args:
        weighted: Gives w g_p of a range of the events, shape (K, n, P).
        response: A, shape (n, P, C).
        terms: v, shape (N, C). Exponentials are float32 where response and terms are; sums are float64.
        check: Called between passes; may raise if there is no more time.

    Returns:
        Shape (K, N, P).
    """
    n_events, n_processes, _ = response.shape
    out = np.zeros((n_processes, len(weighted(slice(0))), len(terms)))
    for start in range(0, n_events, EVENTS):
        check()
        rows = slice(start, start + EVENTS)
        shares = np.ascontiguousarray(np.moveaxis(weighted(rows), 2, 0))
        for p in range(n_processes):
            for first in range(0, len(terms), POINTS):
                places = slice(first, first + POINTS)
                grown = response[rows, p] @ terms[places].T
                np.clip(grown, -LARGEST_EXPONENT, LARGEST_EXPONENT, out=grown)
                out[p, :, places] += shares[p] @ np.exp(grown, out=grown)
    return np.moveaxis(out, 0, 2)


def fit_norms(points: np.ndarray, norms: np.ndarray, precision: np.ndarray | None = None) -> np.ndarray:
    """Fit ln Z, relative to the nominal point, by least squares.

    Args:
        points: The nominal point first, shape (n, 3).
        norms: Z, shape (n, P, R); one that is 0 at the nominal point stays 0.
        precision: Weight of each point's deviation, shape (n,); all the same if absent.

    Returns:
        Coefficients of ``NORM_BASIS``, shape (P, R, M).
    """
    flat = norms.reshape(len(points), -1)
    filled = flat[0] > 0
    logs = np.log(flat[:, filled] / flat[0, filled])
    weights = np.ones(len(points)) if precision is None else precision
    terms = NORM_BASIS.terms(points)
    out = np.zeros((flat.shape[1], len(NORM_BASIS.powers)))
    out[filled] = np.linalg.lstsq(terms * weights[:, None], logs * weights[:, None], rcond=None)[0].T
    return out.reshape(*norms.shape[1:], -1)


@dataclass(frozen=True)
class Factors:
    """c as templates of P processes in R P bins, those of one region next to each other.

    Args:
        yields: Expected events with mu = 1, shape (P, R).
        norms: Z at the nominal point, shape (P, R).
        norm_coefficients: Of ln Z, see ``fit_norms``, shape (P, R, M).
    """

    yields: Response
    norms: np.ndarray
    norm_coefficients: np.ndarray

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ends of tes, jes and soft_met, where the slope jumps to 0."""
        return self.yields.axes

    def terms(self, point: tuple[float, ...]) -> np.ndarray:
        """Return c with its first and second derivatives at (tes, jes, soft_met), shape (10, P, R P)."""
        return spread(self.by_region(point))

    def by_region(self, point: Sequence[float]) -> np.ndarray:
        """Return the same with regions in place of bins, shape (10, P, R)."""
        value, first, second = NORM_BASIS.expand(point)
        stacked = np.concatenate([[value], first, [second[pair] for pair in PAIRS]])
        exponents = np.moveaxis(self._coefficients @ stacked.T, -1, 0)
        out = np.empty((N_TERMS, *self.norms.shape))
        out[0] = self._nominal * np.exp(exponents[0])
        out[1:4] = out[0] * exponents[1:4]
        for row, (a, b) in enumerate(PAIRS, start=4):
            out[row] = out[0] * (exponents[row] + exponents[1 + a] * exponents[1 + b])
        return out

    @cached_property
    def _nominal(self) -> np.ndarray:
        filled = self.norms > 0
        ratio: np.ndarray = np.divide(self.yields.nominal, self.norms, out=np.zeros(self.norms.shape), where=filled)
        return ratio

    @cached_property
    def _coefficients(self) -> np.ndarray:
        out: np.ndarray = in_norm_basis(self.yields.coefficients) - self.norm_coefficients
        return out


def in_norm_basis(coefficients: np.ndarray) -> np.ndarray:
    """Return coefficients of ``sage.binned.response.POWERS``, shape (..., 13), as those of ``NORM_BASIS``."""
    out = np.zeros((*coefficients.shape[:-1], len(NORM_BASIS.powers)))
    out[..., _PLACES] = coefficients * _UNITS
    return out


def spread(values: np.ndarray) -> np.ndarray:
    """Put values of processes by region, shape (n, P, R), into bins of one process each, shape (n, P, R P)."""
    n_terms, n_processes, n_regions = values.shape
    out = np.zeros((n_terms, n_processes, n_regions, n_processes))
    each = np.arange(n_processes)
    out[:, each, :, each] = np.moveaxis(values, 1, 0)
    flat: np.ndarray = out.reshape(n_terms, n_processes, n_regions * n_processes)
    return flat
