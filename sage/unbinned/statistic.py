r"""The statistic of single events: sums over them of the log density and of what its derivatives are made of.

An event i has a share g_p of every process p at the nominal point and coefficients A_pc of its response. With factors
c_p of the processes and terms v_c, which are functions of the shape parameters,

    R_i = sum_p c_p g_ip exp(A_ip . v),    sum over events of w_i ln R_i

(arXiv:2505.05544, likelihood). ``event_sums`` is the numpy twin of the native kernel (``native/unbinned.h``) and the
definition. Where R is not positive the sum is minus infinity. Exponents are clamped to 20 either way, beyond which an
event does not change with the shapes any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from sage.errors import EngineError
from sage.network.library import LIBRARY, choose_instruction_set, load
from sage.network.library_hash import SHA256

BLOCK = 64
"""Events that lie next to each other; the kernel's."""
LARGEST_EXPONENT = 20.0
SMALLEST_RATE = 1e-300
"""Density of which there is a logarithm."""
VALUE_SUMS = 2
"""Of the kernel's results without derivatives."""
CHUNK = 4096
"""Events per pass in numpy; bounds the memory."""


@dataclass(frozen=True)
class Events:
    """Coefficients of the events of one region, as the kernel reads them.

    Args:
        blocks: Shape (blocks, 1 + P + P C, 64), float32: weights, shares, coefficients of the response. Those that fill
            up the last block have the weight 0.
        n_processes: P.
        n_terms: C.
        observed: Sum of the weights.
    """

    blocks: np.ndarray
    n_processes: int
    n_terms: int
    observed: float


def pack(shares: np.ndarray, response: np.ndarray, weights: np.ndarray | None = None) -> Events:
    """Arrange the coefficients of n events.

    Args:
        shares: g, shape (n, P), positive.
        response: A, shape (n, P, C).
        weights: Shape (n,); 1 each if absent.
    """
    n, n_processes, n_terms = response.shape
    weights = np.ones(n) if weights is None else weights
    n_blocks, n_rows = -(-n // BLOCK), 1 + n_processes * (1 + n_terms)
    # Event by event first: what is given lies like that, and a block is turned round within the cache.
    events = np.zeros((n_blocks * BLOCK, n_rows), dtype=np.float32)
    events[:n, 0] = weights
    events[:n, 1 : 1 + n_processes] = shares
    events[n:, 1 : 1 + n_processes] = 1.0
    events[:n, 1 + n_processes :] = response.reshape(n, n_processes * n_terms)
    blocks = np.ascontiguousarray(events.reshape(n_blocks, BLOCK, n_rows).swapaxes(1, 2))
    return Events(blocks, n_processes, n_terms, float(np.sum(weights)))


def densities(events: Events, factors: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Return R of the events, shape (n,), those that fill up the last block included; see ``event_sums``."""
    p, c = events.n_processes, events.n_terms
    found = []
    for start in range(0, len(events.blocks), CHUNK // BLOCK):
        rows = events.blocks[start : start + CHUNK // BLOCK].astype(np.float64)
        exponents = np.einsum("bpci,c->bpi", rows[:, 1 + p :].reshape(len(rows), p, c, BLOCK), terms)
        grown = np.exp(np.clip(exponents, -LARGEST_EXPONENT, LARGEST_EXPONENT))
        found.append(np.einsum("p,bpi,bpi->bi", factors, rows[:, 1 : 1 + p], grown).ravel())
    return np.concatenate([np.zeros(0), *found])


def weighted(events: Events, weights: np.ndarray) -> Events:
    """Return the events with other weights, shape (n,), those that fill up the last block included."""
    blocks = events.blocks.copy()
    blocks[:, 0] = weights.reshape(len(blocks), BLOCK)
    return replace(events, blocks=blocks, observed=float(weights.sum()))


@dataclass(frozen=True)
class EventSums:
    """Sums over events; h_p = g_p exp(A_p . v) / R and L_pk the derivative of A_p . v by shape parameter k.

    Args:
        value: Of w ln R.
        outside: Of the weights of events with an exponent beyond the range.
        shares: Of w h_p, shape (P,): the derivatives of ``value`` by c_p.
        terms: Of w h_p A_p, shape (P, C).
        products: Of w h_p h_q, shape (P, P).
        crossed: Of w h_p D_k with D_k = d ln R / d nu_k, shape (P, K).
        changes: Of w D_k D_l, shape (K, K).
        squares: Of w sum_p c_p h_p L_pk L_pl, shape (K, K).
    """

    value: float
    outside: float
    shares: np.ndarray
    terms: np.ndarray
    products: np.ndarray
    crossed: np.ndarray
    changes: np.ndarray
    squares: np.ndarray


def event_sums(events: Events, factors: np.ndarray, terms: np.ndarray, slopes: np.ndarray) -> EventSums:
    """Add up in numpy.

    Args:
        events: The events.
        factors: c, shape (P,).
        terms: v, shape (C,).
        slopes: Derivatives of v by the shape parameters, shape (K, C).
    """
    n_processes, n_terms, n_shapes = events.n_processes, events.n_terms, len(slopes)
    out = [np.zeros(shape) for shape in ((), (), n_processes, (n_processes, n_terms))]
    out += [np.zeros((n_processes, n)) for n in (n_processes, n_shapes)] + [np.zeros((n_shapes, n_shapes))] * 2
    step = CHUNK // BLOCK
    for start in range(0, len(events.blocks), step):
        rows = events.blocks[start : start + step].swapaxes(0, 1).astype(np.float64)
        weights, shares, flat = np.split(rows.reshape(len(rows), -1), [1, 1 + n_processes])
        weights, response = weights[0], flat.reshape(n_processes, n_terms, shares.shape[1])
        exponents = np.einsum("pci,c->pi", response, terms)
        inside = np.abs(exponents) <= LARGEST_EXPONENT
        parts = shares * np.exp(np.clip(exponents, -LARGEST_EXPONENT, LARGEST_EXPONENT))
        rate = factors @ parts
        parts /= rate
        slope = np.einsum("pci,kc->pki", response, slopes) * inside[:, None]
        composed = factors[:, None] * parts
        change = np.einsum("pi,pki->ki", composed, slope)
        logs = np.log(rate, out=np.full_like(rate, -np.inf), where=rate > SMALLEST_RATE)
        found = (
            weights[weights > 0] @ logs[weights > 0],
            weights @ (~inside).any(axis=0),
            parts @ weights,
            np.einsum("pi,pci->pc", weights * parts * inside, response),
            (weights * parts) @ parts.T,
            (weights * parts) @ change.T,
            (weights * change) @ change.T,
            np.einsum("pi,pki,pli->kl", weights * composed, slope, slope),
        )
        out = [total + part for total, part in zip(out, found, strict=True)]
    return EventSums(float(out[0]), float(out[1]), *out[2:])


class EventKernel:
    """``event_sums`` in the native kernel.

    Args:
        instruction_set: One of ``sage.network.library.INSTRUCTION_SETS``.

    Raises:
        EngineError: If the library cannot be used.
    """

    def __init__(self, instruction_set: str = "automatic") -> None:
        self._library = load(LIBRARY, SHA256)
        self._number = choose_instruction_set(self._library, instruction_set)

    def sums(self, events: Events, factors: np.ndarray, terms: np.ndarray, slopes: np.ndarray) -> EventSums:
        """Return the sums; see ``event_sums``.

        Raises:
            EngineError: If there are more processes, terms or shape parameters than the kernel takes.
        """
        p, c, k = events.n_processes, events.n_terms, len(slopes)
        stops = np.cumsum([VALUE_SUMS, p, p * c, p * (p + 1) // 2, p * k, k * (k + 1) // 2, k * (k + 1) // 2]).tolist()
        out = self._call(events, factors, terms, slopes, stops[-1], derivatives=True)
        value, *rest = (out[start:stop] for start, stop in zip([0, *stops], stops, strict=False))
        shares, weighted, products, crossed, changes, squares = rest
        return EventSums(
            float(value[0]),
            float(value[1]),
            shares,
            weighted.reshape(p, c),
            products[_triangle(p)],
            crossed.reshape(p, k),
            changes[_triangle(k)],
            squares[_triangle(k)],
        )

    def value(self, events: Events, factors: np.ndarray, terms: np.ndarray) -> float:
        """Return the sum of w ln R alone; otherwise as ``sums``."""
        none = np.zeros((0, len(terms)))
        return float(self._call(events, factors, terms, none, VALUE_SUMS, derivatives=False)[0])

    def _call(
        self,
        events: Events,
        factors: np.ndarray,
        terms: np.ndarray,
        slopes: np.ndarray,
        n_out: int,
        *,
        derivatives: bool,
    ) -> np.ndarray:
        factors, terms, slopes = (np.ascontiguousarray(part, dtype=np.float64) for part in (factors, terms, slopes))
        p, c, k = events.n_processes, events.n_terms, len(slopes)
        if factors.shape != (p,) or terms.shape != (c,) or slopes.shape != (k, c):
            msg = f"factors {factors.shape}, terms {terms.shape} and slopes {slopes.shape} do not belong to events of "
            msg += f"{p} processes and {c} terms"
            raise ValueError(msg)
        out = np.empty(n_out)
        status = self._library.sage_unbinned(
            *(events.blocks.ctypes.data, len(events.blocks), p, k, c),
            *(factors.ctypes.data, terms.ctypes.data, slopes.ctypes.data, int(derivatives)),
            *(out.ctypes.data, n_out, self._number),
        )
        if status != 0:
            msg = f"native library refused its arguments (status {status})"
            raise EngineError(msg)
        return out


@cache
def _triangle(size: int) -> np.ndarray:
    """Return where each element of a symmetric matrix is in its upper triangle, row by row; shape (size, size)."""
    out = np.zeros((size, size), dtype=np.intp)
    out[np.triu_indices(size)] = np.arange(size * (size + 1) // 2)
    return out + np.triu(out, 1).T


@cache
def kernel() -> EventKernel | None:
    """Return the native kernel; None where it cannot be used, for which the engine of the network has a flag."""
    try:
        return EventKernel()
    except EngineError:
        return None
