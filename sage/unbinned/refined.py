r"""Templates with more nuisances and processes than those that were made first, which stay as they are.

    T_pb(nu, nu') = T_pb(nu) exp(c_pb . v(nu, nu')),    T_qb = N_qb exp(c_qb . v(nu, nu'))  for an added process q

A nuisance that is added multiplies the templates of all processes by a factor of its own, a process that is added is a
further row (arXiv:2505.05544). ``v`` are monomials of all shape nuisances, the added ones last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sage.rates import PAIRS, pairs_of
from sage.unbinned.norms import spread
from sage.unbinned.response import Basis


@dataclass(frozen=True)
class RefinedTemplates:
    """``Templates`` of P processes, of which P0 were there before, in B bins.

    Args:
        base: Gives the templates of these at (tes, jes, soft_met) with their derivatives, shape (10, P0, B).
        basis: The monomials v; the first three coordinates are tes, jes and soft_met.
        coefficients: c, shape (P, B, M).
        added: Nominal templates of the added processes, shape (P - P0, B).
    """

    base: Callable[[tuple[float, ...]], np.ndarray]
    basis: Basis
    coefficients: np.ndarray
    added: np.ndarray

    @property
    def axes(self) -> tuple[np.ndarray, ...]:
        """The ends of each shape nuisance, where the slope jumps to 0."""
        return tuple(np.array(coordinate.ends) for coordinate in self.basis.coordinates)

    def terms(self, point: tuple[float, ...]) -> np.ndarray:
        """Return templates, first and second derivatives by K shape nuisances, shape (1 + K + K (K + 1) / 2, P, B)."""
        base = self.base(point[:3])
        value, first, second = self.basis.expand(point)
        n_axes, n_before = len(first), base.shape[1]
        stacked = np.concatenate([[value], first, [second[pair] for pair in self._pairs]])
        exponents = np.moveaxis(self.coefficients @ stacked.T, -1, 0)
        out = np.zeros(exponents.shape)
        out[self._places, :n_before] = base
        out[0, n_before:] = self.added
        slopes, of = out[1 : 1 + n_axes].copy(), exponents[1 : 1 + n_axes]
        for row, (a, b) in enumerate(self._pairs, start=1 + n_axes):
            out[row] += slopes[a] * of[b] + slopes[b] * of[a] + out[0] * (exponents[row] + of[a] * of[b])
        out[1 : 1 + n_axes] += out[0] * of
        out *= np.exp(exponents[0])
        return out

    @cached_property
    def _pairs(self) -> tuple[tuple[int, int], ...]:
        return pairs_of(len(self.basis.coordinates))

    @cached_property
    def _places(self) -> list[int]:
        """Where the terms of the base are among those of all shape nuisances."""
        n_axes = len(self.basis.coordinates)
        return [0, 1, 2, 3, *(1 + n_axes + self._pairs.index(pair) for pair in PAIRS)]


@dataclass(frozen=True)
class RefinedFactors:
    """The factors c of an unbinned likelihood as templates, see ``sage.unbinned.norms.Factors``.

    Args:
        by_region: The same with regions in place of bins.
    """

    by_region: RefinedTemplates

    @property
    def axes(self) -> tuple[np.ndarray, ...]:
        """The ends of each shape nuisance, where the slope jumps to 0."""
        return self.by_region.axes

    def terms(self, point: tuple[float, ...]) -> np.ndarray:
        """Return c with its derivatives in bins of one process each, shape (n, P, R P)."""
        return spread(self.by_region.terms(point))


def extended(basis: Basis, added: Sequence[Basis]) -> Basis:
    """Return a basis with further monomials, each of which is of one nuisance that is added.

    Args:
        basis: The one to begin with.
        added: Monomials of one further coordinate each.
    """
    n, m = len(basis.coordinates), len(added)
    powers = [(*own, *(0,) * m) for own in basis.powers]
    for k, each in enumerate(added):
        powers += [(*(0,) * (n + k), power, *(0,) * (m - k - 1)) for (power,) in each.powers]
    coordinates = (*basis.coordinates, *(each.coordinates[0] for each in added))
    return Basis("+".join([basis.name, *(each.name for each in added)]), coordinates, tuple(powers))
