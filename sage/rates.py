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
from itertools import combinations
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
_UNSCALED = np.array([1.0, 0.0, 0.0])[:, None, None]
"""Factor of a nuisance on a process it does not scale, with its derivatives."""

Composition = Callable[[float], np.ndarray]
"""mu -> factor of each process with its first and second derivative in mu, shape (3, P)."""
Alphas = list[tuple[float, float, float]]
"""Each nuisance's alpha with its first and second derivative in nu."""


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
class Expansion:
    """Rates at one point to second order.

    Args:
        rate: Shape (B,).
        first: First derivatives in (mu, nu...), shape (K, B).
        terms: Templates with their derivatives, shape (10, P, B).
        contract: Makes of terms that are summed over bins, shape (10, P), the second derivatives, shape (K, K).
    """

    rate: np.ndarray
    first: np.ndarray
    terms: np.ndarray
    contract: Callable[[np.ndarray], np.ndarray]

    def second(self, weights: np.ndarray) -> np.ndarray:
        """Return sum_b weights_b d2 lambda_b, shape (K, K).

        Second derivatives are linear in the terms, so the terms are summed over the bins first.
        """
        return self.contract((self.terms.reshape(-1, len(weights)) @ weights).reshape(len(self.terms), -1))


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
        alphas = self._alphas(parameters)
        composed = self._products(alphas)[0] * self.composition(parameters[MU])[0]
        rate: np.ndarray = composed @ self._terms(alphas)[0]
        return rate

    def by_process(self, parameters: np.ndarray) -> np.ndarray:
        """Return each process's part of the rates at (mu, nu...), shape (P, B)."""
        return self.yields(parameters[MU], [alpha for alpha, *_ in self._alphas(parameters)])

    def yields(self, mu: float, alphas: Sequence[float]) -> np.ndarray:
        """Return each process's part of the rates at physical values of all nuisances, shape (P, B)."""
        values = [(alpha, 0.0, 0.0) for alpha in alphas]
        composed = self._products(values)[0] * self.composition(mu)[0]
        parts: np.ndarray = composed[:, None] * self._terms(values)[0]
        return parts

    def expand(self, parameters: np.ndarray) -> Expansion:
        """Return the rates at (mu, nu...) to second order."""
        alphas = self._alphas(parameters)
        terms = self._terms(alphas)
        n_norms, n_shapes = len(self._norms), len(self._shapes)
        products = self._products(alphas)
        composed, along_mu, along_mu_twice = self.composition(parameters[MU])
        factor, slope = products[0] * composed, products[0] * along_mu
        norms = products[1 : 1 + n_norms]
        factor_1 = norms * composed

        first = np.empty((1 + len(self.nuisances), terms.shape[2]))
        first[MU] = slope @ terms[0]
        for i, along in zip(self._shapes, factor @ terms[1 : 1 + n_shapes], strict=True):
            first[1 + i] = alphas[i][1] * along
        for i, along in zip(self._norms, factor_1 @ terms[0], strict=True):
            first[1 + i] = along

        def contract(summed: np.ndarray) -> np.ndarray:
            factor_2 = products[1 + n_norms :].reshape(n_norms, n_norms, -1) * composed
            slopes = summed[1 : 1 + n_shapes]
            along, crossed = summed @ factor, slopes @ factor_1.T
            by_norms = factor_2 @ summed[0]
            mu_shapes, mu_norms = slopes @ slope, (norms * along_mu) @ summed[0]
            second = np.zeros((1 + len(self.nuisances),) * 2)
            second[MU, MU] = (products[0] * along_mu_twice) @ summed[0]
            for axis, i in enumerate(self._shapes):
                _, d_alpha, d2_alpha = alphas[i]
                second[1 + i, 1 + i] = d2_alpha * along[1 + axis]
                second[MU, 1 + i] = second[1 + i, MU] = d_alpha * mu_shapes[axis]
                for k, j in enumerate(self._norms):
                    second[1 + i, 1 + j] = second[1 + j, 1 + i] = d_alpha * crossed[axis, k]
            for pair, (axis_a, axis_b) in enumerate(pairs_of(n_shapes), start=1 + n_shapes):
                i, j = self._shapes[axis_a], self._shapes[axis_b]
                second[1 + i, 1 + j] += alphas[i][1] * alphas[j][1] * along[pair]
                second[1 + j, 1 + i] = second[1 + i, 1 + j]
            for k, i in enumerate(self._norms):
                second[MU, 1 + i] = second[1 + i, MU] = mu_norms[k]
                for m, j in enumerate(self._norms):
                    second[1 + i, 1 + j] = by_norms[k, m]
            return second

        return Expansion(factor @ terms[0], first, terms, contract)

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
    def _scaled(self) -> np.ndarray:
        """Whether each rate nuisance scales each process, shape (N, P)."""
        return np.array([[process in self.nuisances[i].scales for process in self.processes] for i in self._norms])

    @cached_property
    def _replacements(self) -> np.ndarray:
        """Order of derivative of each rate nuisance in: the factor, its first and second derivatives, (M, N)."""
        each = np.eye(len(self._norms), dtype=int)
        pairs = (each[:, None] + each).reshape(-1, len(each))
        return np.concatenate([np.zeros_like(each[:1]), each, pairs])

    def _alphas(self, parameters: np.ndarray) -> Alphas:
        nus = parameters[1:].tolist()
        return [nuisance.alpha(nu) for nuisance, nu in zip(self.nuisances, nus, strict=True)]

    def _terms(self, alphas: Alphas) -> np.ndarray:
        terms = self.templates.terms(tuple(alphas[i][0] for i in self._shapes))
        if self.has_signal is not None:
            terms[:, SIGNAL_ROW] *= self.has_signal
        return terms

    def _products(self, alphas: Alphas) -> np.ndarray:
        """Return each process's product of rate factors, its first and second derivatives, shape (1 + N + N N, P)."""
        n_norms = len(self._norms)
        orders = np.array([alphas[i] for i in self._norms]).reshape(n_norms, 3)
        # Each nuisance's factor on each process with its derivatives, shape (3, N, P): 1 where it does not scale it.
        single = np.where(self._scaled, orders.T[:, :, None], _UNSCALED)
        # A derivative replaces the factors of its nuisances. Dividing them out would not do: a factor may be 0.
        products: np.ndarray = single[self._replacements, np.arange(n_norms)].prod(axis=1)
        return products
