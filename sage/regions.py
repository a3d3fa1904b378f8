"""Step 5: which region and which bin an event falls into, and the counts per bin.

A region is a list of cuts and a binned observable. Two named sets exist (arXiv:2509.00672, table of regions):

``disjoint``
    CR1, CR2, CR3 and the rest of the selected events. An event enters the first region that takes it, so none is
    counted twice and the product of Poisson terms is a likelihood. The signal is kept everywhere.
``seed``
    The literal choice of the talks: the full region FR together with the control regions, whose events are counted
    twice, and no signal in the control regions. For comparison.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sage.nuisances import PROCESSES

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}

QUANTITIES = ("pt_jet_leading", "pt_jet_subleading", "vbf_jet", "mt", "pt_h", *(f"p_{name}" for name in PROCESSES))
"""What cuts and observables may name."""


@dataclass(frozen=True)
class Region:
    """One region of events.

    Arguments:
        name: Its name.
        cuts: (quantity, operator, value), all of which must hold.
        observable: The quantity that is binned.
        signal: Whether the likelihood expects signal here.
        edges: Increasing bin edges, n_bins + 1 of them; values outside fall into the first or last bin.
    """

    name: str
    cuts: tuple[tuple[str, str, float], ...]
    observable: str = "p_htautau"
    signal: bool = True
    edges: tuple[float, ...] = (0.0, 1.0)

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return len(self.edges) - 1


@dataclass(frozen=True)
class RegionSet:
    """Regions in their order of precedence; if ``exclusive``, an event enters only the first that takes it."""

    name: str
    regions: tuple[Region, ...]
    exclusive: bool

    @property
    def n_bins(self) -> int:
        """Number of bins of all regions together; counts and tables are concatenated in region order."""
        return sum(region.n_bins for region in self.regions)

    @property
    def slices(self) -> dict[str, slice]:
        """Region name -> its place on the concatenated bin axis."""
        out, start = {}, 0
        for region in self.regions:
            out[region.name] = slice(start, start + region.n_bins)
            start += region.n_bins
        return out

    @property
    def has_signal(self) -> np.ndarray:
        """Whether the likelihood expects signal in each bin, shape (n_bins,)."""
        return np.repeat([region.signal for region in self.regions], [region.n_bins for region in self.regions])

    def with_edges(self, edges: Mapping[str, tuple[float, ...]]) -> RegionSet:
        """Return the same set with other bin edges."""
        return replace(self, regions=tuple(replace(region, edges=edges[region.name]) for region in self.regions))


_HIGH_MT = ("mt", ">", 70.0)
_CR1 = Region("CR1", (("vbf_jet", "==", 1.0), _HIGH_MT))
_CR2 = Region("CR2", (("vbf_jet", "==", 0.0), _HIGH_MT, ("p_ttbar", ">", 0.4)))
_CR3 = Region("CR3", (("vbf_jet", "==", 0.0), _HIGH_MT, ("p_diboson", ">", 0.2)))

REGION_SETS: dict[str, RegionSet] = {
    "disjoint": RegionSet("disjoint", (_CR1, _CR2, _CR3, Region("rest", ())), exclusive=True),
    "seed": RegionSet(
        "seed", (Region("FR", ()), *(replace(cr, signal=False) for cr in (_CR1, _CR2, _CR3))), exclusive=False
    ),
}


def quantities(events: Mapping[str, Any], derived: Mapping[str, Any], probabilities: np.ndarray) -> dict[str, Any]:
    """Collect what cuts and observables may name.

    Arguments:
        events: Primary columns, shape (n,).
        derived: Derived columns, shape (n,).
        probabilities: Class probabilities, shape (n, 4).

    Returns:
        Transverse mass and momenta in GeV, ``vbf_jet`` (1 where the two jets have pt > 50 and 30 GeV) and the class
        probabilities ``p_NAME``, each of shape (n,).
    """
    pt1, pt2 = events["PRI_jet_leading_pt"], events["PRI_jet_subleading_pt"]
    out = {
        "pt_jet_leading": pt1,
        "pt_jet_subleading": pt2,
        "vbf_jet": (pt1 > 50.0) & (pt2 > 30.0),
        "mt": derived["DER_mass_transverse_met_lep"],
        "pt_h": derived["DER_pt_h"],
    }
    return out | {f"p_{name}": probabilities[:, i] for i, name in enumerate(PROCESSES)}


def bin_numbers(region_set: RegionSet, values: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Find, for each region, the rows that enter it and their bin on the concatenated axis.

    Rows whose observable is not finite enter no region.
    """
    out = []
    free: np.ndarray | None = None
    for region, start in zip(region_set.regions, region_set.slices.values(), strict=True):
        observable = values[region.observable]
        taken = np.isfinite(observable)
        for name, symbol, threshold in region.cuts:
            taken &= OPERATORS[symbol](values[name], threshold)
        if region_set.exclusive:
            taken = taken if free is None else taken & free
            free = ~taken if free is None else free & ~taken
        rows = np.flatnonzero(taken)
        inner = np.asarray(region.edges[1:-1])
        out.append((rows, start.start + np.searchsorted(inner, observable[rows], side="right")))
    return out


def counts(region_set: RegionSet, values: Mapping[str, Any], weights: np.ndarray | None = None) -> np.ndarray:
    """Count events per bin, all regions concatenated.

    Arguments:
        region_set: The regions.
        values: What ``quantities`` returns.
        weights: Event weights, shape (n,); 1 each if absent.

    Returns:
        Sum of weights per bin, shape (n_bins,), float64.
    """
    total = np.zeros(region_set.n_bins)
    for rows, bins in bin_numbers(region_set, values):
        total += np.bincount(bins, None if weights is None else weights[rows], minlength=region_set.n_bins)
    return total
