"""What contrastive flows read: columns of events with one jet and with two or more, standardised.

The columns are those of arXiv:2505.08709, as in their program: of the challenge's 28 features all but the number of
jets, and with one jet without the second jet and what a pair of jets defines. Momenta and masses enter as logarithms.
Events without jets are in no category.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sage.challenge.features import DERIVED, derived
from sage.challenge.shifts import PRIMARIES, Columns
from sage.network.graph import jets_present

_PAIR = ("DER_deltaeta_jet_jet", "DER_mass_jet_jet", "DER_prodeta_jet_jet", "DER_lep_eta_centrality")
_TWO = tuple(name for name in (*PRIMARIES, *DERIVED) if name != "PRI_n_jets")
_ONE = tuple(name for name in _TWO if name not in _PAIR and "subleading" not in name)
_LOGS = {
    *("PRI_lep_pt", "PRI_had_pt", "PRI_jet_leading_pt", "PRI_jet_subleading_pt", "PRI_jet_all_pt", "PRI_met"),
    *("DER_pt_h", "DER_pt_tot", "DER_sum_pt"),
}


@dataclass(frozen=True)
class Category:
    """Events with so many jets.

    Args:
        name: Its name.
        columns: What is read of its events.
        logs: Columns of which the logarithm is taken.
    """

    name: str
    columns: tuple[str, ...]
    logs: frozenset[str]

    @property
    def logged(self) -> np.ndarray:
        """Whether each column enters as a logarithm, shape (d,)."""
        return np.array([name in self.logs for name in self.columns])


CATEGORIES = (
    Category("one_jet", _ONE, frozenset((_LOGS & set(_ONE)) | {"DER_mass_vis"})),
    Category("two_jets", _TWO, frozenset(_LOGS | {"DER_mass_jet_jet", "DER_pt_ratio_lep_had"})),
)


@dataclass(frozen=True)
class Scaling:
    """Constants of a category's inputs.

    Args:
        smallest: Stands for values of logged columns that are not positive, shape (d,).
        mean: Of the inputs, after the logarithm, shape (d,).
        std: Their standard deviations, shape (d,).
    """

    smallest: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def members(events: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the rows of each category's events, by name; their jets decide, whatever other columns hold."""
    leading, subleading = jets_present(events).T
    return {"one_jet": np.flatnonzero(leading & ~subleading), "two_jets": np.flatnonzero(leading & subleading)}


def columns_of(category: Category, events: Mapping[str, Any], rows: np.ndarray) -> np.ndarray:
    """Return the columns of some events as they are, shape (len(rows), d), float32.

    Args:
        category: Names the columns.
        events: The 16 primary columns, in any order.
        rows: Events of the category.
    """
    taken: Columns = {name: np.asarray(events[name])[rows] for name in PRIMARIES}
    taken |= derived(taken)
    out = np.empty((len(category.columns), len(rows)), dtype=np.float32)
    for row, name in zip(out, category.columns, strict=True):
        row[:] = taken[name]
    return out.T


def standardised(category: Category, values: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Return inputs of mean 0 and deviation 1, shape (n, d), float32, of columns as they are; NaN stays NaN."""
    out = np.array(values.T, dtype=np.float32, order="C")
    logged = category.logged
    out[logged] = np.log(np.maximum(out[logged], scaling.smallest[logged, None].astype(np.float32)))
    out -= scaling.mean[:, None].astype(np.float32)
    out /= scaling.std[:, None].astype(np.float32)
    return out.T
