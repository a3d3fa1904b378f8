"""Bin edges of the observable, per region.

The rule of the talks (arXiv:2509.00672): start from 100 uniform bins and merge neighbours greedily until every bin
holds at least ``min_count`` expected events of tt, VV and Z each, at the nominal point. A simulation with few, heavy
rows can meet that with a single row, so a bin may also be asked for ``min_effective`` effective entries of the
backgrounds together, ``(sum w)^2 / sum w^2``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sage.nuisances import BACKGROUNDS, PROCESSES

BACKGROUND_ROWS = [PROCESSES.index(name) for name in BACKGROUNDS]


@dataclass(frozen=True)
class BinningRule:
    """What every bin must have.

    Arguments:
        min_count: Least expected events of each background.
        min_effective: Least effective simulated entries of all backgrounds together.
    """

    min_count: float = 10.0
    min_effective: float = 0.0

    def accepts(self, counts: np.ndarray, squares: np.ndarray) -> bool:
        """Tell whether a bin is full enough.

        Args:
            counts: Sum of weights per process, shape (4,).
            squares: Sum of squared weights per process, shape (4,).
        """
        background, square = counts[BACKGROUND_ROWS], squares[BACKGROUND_ROWS].sum()
        effective = background.sum() ** 2 / square if square > 0 else 0.0
        return bool((background >= self.min_count).all() and effective >= self.min_effective)


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
