"""Expected rates as a function of the parameters, with exact first and second derivatives.

    lambda_b(mu, nu) = sum_p c_p(mu) prod_k alpha_k(nu_k)^[k scales p] T_pb(tes, jes, soft_met)

``T`` are the templates: expected yields of process p in bin b, or per-event densities with events in place of bins.
``c`` is the composition: how much of each template a signal strength takes. Signal times mu is one instance of it
(arXiv:2509.00672, likelihood); with interference others follow, such as (mu - sqrt(mu), sqrt(mu), 1 - sqrt(mu)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, combinations_with_replacement
from typing import Protocol

import numpy as np

from sage.challenge.nuisances import PROCESSES, SIGNAL, Nuisance
from sage.fit.objective import MU


def pairs_of(n_axes: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs of axes of the second derivatives, in the order of the terms."""
    return (*((axis, axis) for axis in range(n_axes)), *combinations(range(n_axes), 2))


PAIRS = pairs_of(3)
N_TERMS = 1 + 3 + len(PAIRS)
"""The value, its first and its second derivatives along the axes."""

SIGNAL_ROW = PROCESSES.index(SIGNAL)

Composition = Callable[[float], np.ndarray]
"""mu -> factor of each process with its first and second derivative in mu, shape (3, P)."""


class Templates(Protocol):
    """Templates as a function of the shape nuisances: ``YieldTables`` or ``Response``."""

    @property
    def axes(self) -> tuple[np.ndarray, ...]:
        """Return, for each shape nuisance, the values at which the slope may jump; flat beyond the ends."""

    def terms(self, point: tuple[float, ...]) -> np.ndarray:
        """Return templates, first and second derivatives at (tes, jes, soft_met): a new array, shape (10, P, B).

        With more shape nuisances than these three there are as many more terms, see ``pairs_of``.
        """


def signal_times_mu(mu: float, n_processes: int = len(PROCESSES)) -> np.ndarray:
    """Return the composition of the challenge: mu times the signal, once the backgrounds."""
    out = np.zeros((3, n_processes))
    out[0] = 1.0
    out[0, SIGNAL_ROW] = mu
    out[1, SIGNAL_ROW] = 1.0
    return out


@dataclass(frozen=True)
class Places:
    """Which products of factors and terms the derivatives are: a row of the factors, then a term.

    Args:
        first: Of the first derivatives, shape (K,).
        second: Of the second derivatives, shape (K, K).
    """

    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class Expansion:
    """Rates at one point to second order.

    Args:
        rate: Shape (B,).
        first: First derivatives in (mu, nu...), shape (K, B).
        terms: Templates with their derivatives, shape (10, P, B).
        factors: What multiplies the templates with its derivatives, shape (F, P).
        slopes: First derivatives of mu and of the alphas in (mu, nu...), shape (K,).
        bends: Second derivatives of the same.
        places: Of the derivatives among the products of factors and terms.
    """

    rate: np.ndarray
    first: np.ndarray
    terms: np.ndarray
    factors: np.ndarray
    slopes: np.ndarray
    bends: np.ndarray
    places: Places

    def second(self, weights: np.ndarray) -> np.ndarray:
        """Return sum_b weights_b d2 lambda_b, shape (K, K).

        Second derivatives are linear in the terms, so the terms are summed over the bins first.
        """
        summed = (self.terms.reshape(-1, len(weights)) @ weights).reshape(len(self.terms), -1)
        products = (self.factors @ summed.T).ravel()
        second: np.ndarray = products[self.places.second] * (self.slopes[:, None] * self.slopes)
        second.ravel()[:: 1 + len(second)] += products[self.places.first] * self.bends
        return second


@dataclass(frozen=True)
class Rates:
    """Templates, what scales them, and how mu composes them.

    Args:
        templates: Expected yields.
        nuisances: The nuisance table; shape nuisances in the order of the templates' axes.
        has_signal: Whether each bin expects signal, shape (B,); None for all.
        composition: How mu composes the processes.
        processes: Their names.
    """

    templates: Templates
    nuisances: tuple[Nuisance, ...]
    has_signal: np.ndarray | None = None
    composition: Composition = signal_times_mu
    processes: tuple[str, ...] = PROCESSES

    def expected(self, parameters: np.ndarray) -> np.ndarray:
        """Return the rates at (mu, nu...), shape (B,)."""
        mu, alphas = self._physical(parameters)
        rate: np.ndarray = self._scaled(self._factors(mu, alphas), self._terms(alphas))[0]
        return rate

    def by_process(self, parameters: np.ndarray) -> np.ndarray:
        """Return each process's part of the rates at (mu, nu...), shape (P, B)."""
        return self.yields(*self._physical(parameters))

    def yields(self, mu: float, alphas: Sequence[float]) -> np.ndarray:
        """Return each process's part of the rates at physical values of all nuisances, shape (P, B)."""
        parts: np.ndarray = self._factors(mu, alphas)[0][:, None] * self._terms(alphas)[0]
        return parts

    def expand(self, parameters: np.ndarray) -> Expansion:
        """Return the rates at (mu, nu...) to second order."""
        mu, *nus = parameters.tolist()
        maps = [nuisance.alpha(nu) for nuisance, nu in zip(self.nuisances, nus, strict=True)]
        alphas = [alpha for alpha, _, _ in maps]
        terms, factors = self._terms(alphas), self._factors(mu, alphas)
        scaled, moved = self._scaled(factors, terms), factors[0] @ terms[1 : 1 + len(self._shapes)]
        slopes, bends = np.array([(1.0, 0.0), *((slope, bend) for _, slope, bend in maps)]).T
        first = np.concatenate([scaled[1:], moved])[self._order] * slopes[:, None]
        return Expansion(scaled[0], first, terms, factors, slopes, bends, self._places)

    @cached_property
    def kinks(self) -> tuple[np.ndarray, ...]:
        """For each nuisance the values of nu at which the slope of the templates may jump."""
        kinks = [np.array([])] * len(self.nuisances)
        for i, axis in zip(self._shapes, self.templates.axes, strict=True):
            kinks[i] = np.array([self.nuisances[i].to_alpha.inverse(alpha) for alpha in axis])
        return tuple(kinks)

    @cached_property
    def _shapes(self) -> list[int]:
        """Positions of the shape nuisances, in the order of the templates' axes."""
        return [i for i, nuisance in enumerate(self.nuisances) if nuisance.kind == "shape"]

    @cached_property
    def _norms(self) -> list[int]:
        """Positions of the rate nuisances."""
        return [i for i, nuisance in enumerate(self.nuisances) if nuisance.kind == "norm"]

    @cached_property
    def _order(self) -> np.ndarray:
        """Place of each of (mu, nu...) among mu, the rate nuisances and the shape nuisances, shape (K,)."""
        return np.argsort([MU, *(1 + i for i in (*self._norms, *self._shapes))])

    @cached_property
    def _derivatives(self) -> list[tuple[int, ...]]:
        """What each row of the factors is differentiated by: nothing, one or two of mu (0) and the rate nuisances."""
        scaling = range(1 + len(self._norms))
        return [(), *((i,) for i in scaling), *combinations_with_replacement(scaling, 2)]

    @cached_property
    def _entries(self) -> np.ndarray:
        """Which numbers of ``_factors`` are multiplied for each row and process, shape (1 + N, F, P).

        A derivative replaces the factors of its nuisances. Dividing them out would not do: a factor may be 0.
        """
        entries = np.zeros((1 + len(self._norms), len(self._derivatives), len(self.processes)), dtype=int)
        for row, by in enumerate(self._derivatives):
            for p, process in enumerate(self.processes):
                entries[0, row, p] = 2 + by.count(0) * len(self.processes) + p
                for k, i in enumerate(self._norms):
                    alpha = 2 + 3 * len(self.processes) + k
                    scaled = [alpha, 1, 0] if process in self.nuisances[i].scales else [1, 0, 0]
                    entries[1 + k, row, p] = scaled[by.count(1 + k)]
        return entries

    @cached_property
    def _places(self) -> Places:
        n_scaling, n_shapes = 1 + len(self._norms), len(self._shapes)
        along = [(), *((axis,) for axis in range(n_shapes)), *pairs_of(n_shapes)]
        terms = {by: term for term, by in enumerate(along)}
        rows = {by: len(terms) * row for row, by in enumerate(self._derivatives)}
        order = self._order.tolist()

        def place(*by: int) -> int:
            scaling = tuple(sorted(i for i in by if i < n_scaling))
            return rows[scaling] + terms[tuple(sorted(i - n_scaling for i in by if i >= n_scaling))]

        return Places(np.array([place(i) for i in order]), np.array([[place(i, j) for j in order] for i in order]))

    def _physical(self, parameters: np.ndarray) -> tuple[float, list[float]]:
        mu, *nus = parameters.tolist()
        return mu, [nuisance.alpha(nu)[0] for nuisance, nu in zip(self.nuisances, nus, strict=True)]

    def _factors(self, mu: float, alphas: Sequence[float]) -> np.ndarray:
        """Return what multiplies the templates, with its derivatives in mu and in alpha, shape (F, P)."""
        norms = [alphas[i] for i in self._norms]
        numbers = np.concatenate([(0.0, 1.0), self.composition(mu).ravel(), norms])
        factors: np.ndarray = np.multiply.reduce(numbers[self._entries])
        return factors

    def _scaled(self, factors: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Return the rates and their derivatives in mu and in each alpha that scales, shape (2 + N, B).

        One product for all, so that rates with and without derivatives are the same to the last bit.
        """
        scaled: np.ndarray = factors[: 2 + len(self._norms)] @ terms[0]
        return scaled

    def _terms(self, alphas: Sequence[float]) -> np.ndarray:
        terms = self.templates.terms(tuple(alphas[i] for i in self._shapes))
        if self._has_none:
            terms[:, SIGNAL_ROW] *= self.has_signal
        return terms

    @cached_property
    def _has_none(self) -> bool:
        """Whether some bin expects no signal."""
        return self.has_signal is not None and not self.has_signal.all()
