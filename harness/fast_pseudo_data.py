"""Pseudo-data in less time, bit for bit those of ``harness.pseudo_experiments.make_pseudo_data``.

The official functions copy the whole frame several times and move all columns through each step. Here the rows of a
pseudo-experiment are chosen first, as numbers; values are then gathered, shifted, selected and derived block by block,
in memory that the cache holds. The soft-MET noise, which has the same seed in all pseudo-experiments, is drawn once.
What is computed of an event, and in which order and precision, is ``sage.challenge``'s twin of the official functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sage.challenge.features import DERIVED, derived
from sage.challenge.shifts import HAD_PT_MIN, NOISE_SEED, PRIMARIES, select, shift

BLOCK = 1 << 15
"""Events that are worked on together."""
SEED_STEPS = (0, 1, 3, 6)
"""What is added to the seed for each process in turn: the official program adds up their numbers."""

Array = np.ndarray[Any, np.dtype[Any]]


class PseudoData:
    """Makes the pseudo-data of one pool of events.

    Args:
        test_set: Frames by process in the official order, as ``EventFile.load_test_set`` returns them; not changed.
    """

    def __init__(self, test_set: Mapping[str, pd.DataFrame]) -> None:
        self._processes = {
            name: {column: frame[column].to_numpy() for column in frame} for name, frame in test_set.items()
        }
        self._names = [name for name in next(iter(test_set.values())) if name != "weights"]
        self._noise = np.empty(0)

    def make(self, mu: float, nuisances: Mapping[str, float | None], seed: int) -> dict[str, Any]:
        """Make the data of a pseudo-experiment; arguments and result as for ``make_pseudo_data``."""
        data, _ = self._moved(*self._rows(mu, nuisances, seed), nuisances)
        return data

    def expected(self, mu: float, nuisances: Mapping[str, float | None]) -> dict[str, Any]:
        """Return every event of the pool once, moved and selected, with its expected number of copies as weight.

        Args:
            mu: True signal strength.
            nuisances: Physical values.
        """
        columns = {
            name: np.concatenate([process[name] for process in self._processes.values()]) for name in self._names
        }
        means = [_norm(name, mu, nuisances) * process["weights"] for name, process in self._processes.items()]
        data, kept = self._moved(columns, np.arange(sum(map(len, means))), nuisances)
        weights = np.concatenate(means).astype(np.float64)[kept]
        return {"weights": pd.Series(weights, data["data"].index, name="weights"), "data": data["data"]}

    def _moved(
        self, columns: Mapping[str, Array], rows: Array, nuisances: Mapping[str, float | None]
    ) -> tuple[dict[str, Any], Array]:
        """Shift, select and derive events, given by numbers of rows in columns; return data and which are kept."""
        soft_met = nuisances["soft_met"]
        noise = self._noise_of(len(rows)) if soft_met else None
        shifts = (nuisances["tes"], nuisances["jes"], soft_met)
        made: dict[str, Array] = {}
        numbers, kept, filled, counted = [], [], 0, 0
        for start in range(0, max(len(rows), 1), BLOCK):
            block = slice(start, start + BLOCK)
            here = rows[block]
            events = {name: columns[name][here] for name in PRIMARIES}
            moved = shift(events, *shifts, noise=noise and (noise[0][block], noise[1][block]))
            selected, places = select(moved)
            # The official index counts the events that pass the threshold on the hadronic tau, which is applied first.
            passed = ~(moved["PRI_had_pt"] < HAD_PT_MIN)
            numbers.append(counted + np.cumsum(passed)[places] - 1)
            counted += int(np.count_nonzero(passed))
            others = {name: columns[name][here[places]] for name in self._names if name not in PRIMARIES}
            found = {**others, **selected, **derived(selected)}
            for name, values in found.items():
                if name not in made:
                    made[name] = np.empty(len(rows), np.float32 if values.dtype == np.float64 else values.dtype)
                made[name][filled : filled + len(places)] = values
            kept.append(places + start)
            filled += len(places)
        names = [*self._names, *(name for name in DERIVED if name not in self._names)]
        index = pd.RangeIndex(filled) if filled == counted else pd.Index(np.concatenate(numbers))
        frame = pd.DataFrame({name: made[name][:filled] for name in names}, index, copy=False)
        data = {"weights": pd.Series(np.ones(filled), index, name="weights"), "data": frame}
        return data, np.concatenate(kept)

    def _rows(self, mu: float, nuisances: Mapping[str, float | None], seed: int) -> tuple[dict[str, Array], Array]:
        """Draw which events there are; return those that occur, column by column, and their numbers in order."""
        parts, copies = [], []
        for step, (process, columns) in zip(SEED_STEPS, self._processes.items(), strict=True):
            drawn = np.random.RandomState(seed + step).poisson(_norm(process, mu, nuisances) * columns["weights"])
            rows = np.flatnonzero(drawn > 0)
            parts.append((columns, rows))
            copies.append(drawn[rows])
        numbers = np.repeat(np.arange(sum(map(len, copies))), np.concatenate(copies))
        order = np.random.RandomState(seed).choice(len(numbers), size=len(numbers), replace=False)
        joined = {name: np.concatenate([columns[name][rows] for columns, rows in parts]) for name in self._names}
        return joined, numbers[order]

    def _noise_of(self, n: int) -> tuple[Array, Array]:
        """Return unit noise for both components of MET of n events, drawn one after the other from one seed."""
        if len(self._noise) < 2 * n:
            self._noise = np.random.RandomState(NOISE_SEED).normal(0.0, 1.0, 2 * n)
        return self._noise[:n], self._noise[n : 2 * n]


def _norm(process: str, mu: float, nuisances: Mapping[str, float | None]) -> Any:
    """Return the factor on a process's weights; its type decides the precision of the Poisson means."""
    bkg_scale = nuisances["bkg_scale"]
    if process == "htautau":
        return mu
    if process == "ztautau":
        return 1.0 if bkg_scale is None else bkg_scale
    own = nuisances[f"{process}_scale"]
    return 1.0 if own is None else own * (1.0 if bkg_scale is None else bkg_scale)
