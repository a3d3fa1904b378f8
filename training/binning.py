"""Bin edges of the observable, per region.

The rule of the talks (arXiv:2509.00672): start from 100 uniform bins and merge neighbours greedily until every bin
holds at least ``min_count`` expected events of tt, VV and Z each, at the nominal point. Where regions are made for
one background, the others are rare by construction, and the rule may ask for the sum instead. A simulation with few,
heavy rows can meet it with a single row, so a bin may also be asked for ``min_effective`` effective entries of the
backgrounds together, ``(sum w)^2 / sum w^2``.

Merging the neighbours that lose least of the signal's information ``s^2 / b`` gives fewer bins but a wider interval:
it joins the background-like bins, which are what constrains the nuisance parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sage.binned.regions import RegionSet
from sage.challenge.nuisances import BACKGROUNDS, PROCESSES

BACKGROUND_ROWS = [PROCESSES.index(name) for name in BACKGROUNDS]


@dataclass(frozen=True)
class BinningRule:
    """What every bin must have.

    Args:
        min_count: Least expected events of the background.
        min_effective: Least effective simulated entries of all backgrounds together.
        each: Whether ``min_count`` is asked of each background, or of their sum.
    """

    min_count: float = 10.0
    min_effective: float = 0.0
    each: bool = True

    def accepts(self, counts: np.ndarray, squares: np.ndarray) -> bool:
        """Tell whether a bin is full enough.

        Args:
            counts: Sum of weights per process, shape (4,).
            squares: Sum of squared weights per process, shape (4,).
        """
        background, square = counts[BACKGROUND_ROWS], squares[BACKGROUND_ROWS].sum()
        effective = background.sum() ** 2 / square if square > 0 else 0.0
        least = background.min() if self.each else background.sum()
        return bool(least >= self.min_count and effective >= self.min_effective)


def choose_edges(
    bare: RegionSet,
    rule: BinningRule,
    uniform_bins: int,
    count: Callable[[RegionSet], Mapping[str, np.ndarray]],
    starts: Mapping[str, np.ndarray] | None = None,
) -> RegionSet:
    """Find the bin edges of every region.

    Args:
        bare: Regions with the range of their observables as only bin.
        rule: What every bin must have.
        uniform_bins: Bins of that range from which merging starts.
        count: Returns ``counts`` and ``squares``, sums of weights and of squared weights at the nominal point of shape
            (1, 4, n_bins), for regions with edges.
        starts: Edges from which merging starts instead, by region; see ``training.efficient.starting_edges``.

    Returns:
        The regions with their edges.
    """
    uniform = {region.name: np.linspace(region.edges[0], region.edges[-1], uniform_bins + 1) for region in bare.regions}
    uniform |= starts or {}
    fine = bare.with_edges({name: tuple(edges.tolist()) for name, edges in uniform.items()})
    nominal = count(fine)
    counts, squares = nominal["counts"][0], nominal["squares"][0]
    return bare.with_edges(
        {name: merge(uniform[name], counts[:, place], squares[:, place], rule) for name, place in fine.slices.items()}
    )


def merge(edges: np.ndarray, counts: np.ndarray, squares: np.ndarray, rule: BinningRule) -> tuple[float, ...]:
    """Merge neighbouring bins until each satisfies the rule.

    Bins are closed from the upper end down, because the most signal-like ones, at the upper end, should stay as fine
    as the rule allows; what is left at the lower end joins the last bin closed. A region that cannot satisfy the rule
    even as a whole becomes one bin: a likelihood can still use its total.

    Args:
        edges: Uniform edges, shape (n + 1,).
        counts: Sum of weights, shape (4, n).
        squares: Sum of squared weights, shape (4, n).
        rule: The rule.

    Returns:
        A subset of the edges that contains the first and the last.
    """
    chosen = [len(edges) - 1]
    for lower in range(len(edges) - 2, -1, -1):
        inside = slice(lower, chosen[-1])
        if rule.accepts(counts[:, inside].sum(axis=1), squares[:, inside].sum(axis=1)):
            chosen.append(lower)
    if chosen[-1] != 0:
        if len(chosen) > 1:
            chosen.pop()
        chosen.append(0)
    return tuple(float(edges[i]) for i in reversed(chosen))
