"""Step 5: which region and which bin an event falls into, and the counts per bin.

A region is a list of cuts and a binned observable. Two sets follow arXiv:2509.00672 (table of regions):

``disjoint``
    CR1, CR2, CR3 and the rest of the selected events. An event enters the first region that takes it, so none is
    counted twice and the product of Poisson terms is a likelihood. The signal is kept everywhere.
``published``
    The literal choice of the talks: the full region FR together with the control regions, whose events are counted
    twice, and no signal in the control regions. For comparison.

The others are exclusive too:

``inclusive``
    All selected events in one region.
``five``
    The regions of the analysis that was published with the public data set (arXiv:2505.05544).
``slices``
    All selected events, cut by which background an event looks like.
``five_slices``
    The five regions, each cut by which background an event looks like.
``score``, ``score_regions``
    All selected events in one region, and the five, binned in the efficient score of mu (``sage.binned.score``).

A class probability means something only under stated proportions of the classes. Cuts and observables refer to those of
``PROPORTIONS``, whatever the network was trained with: Bayes' rule takes it from one to the other. The backgrounds
stand there as in nature, so ``p_htautau`` rises with the likelihood ratio of the signal to the sum of backgrounds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sage.binned.score import EFFICIENT_SCORE, SHAPE_SCORES, EfficientScore
from sage.challenge.nuisances import BACKGROUNDS, PROCESSES
from sage.errors import SettingsError

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}

PROPORTIONS = (0.236, 0.7279, 0.03335, 0.00277)
"""Class proportions that probabilities refer to: of the signal as in the rows of the public data set, of the
backgrounds as in their expected events after the selection, 901137.5, 41283.4 and 3433.6 at 10/fb."""

QUANTITIES = (
    *("pt_jet_leading", "pt_jet_subleading", "vbf_jet", "mt", "pt_h", "m_vis"),
    *(f"p_{name}" for name in PROCESSES),
    *(f"q_{name}" for name in BACKGROUNDS),
    *SHAPE_SCORES,
    EFFICIENT_SCORE,
)
"""What cuts and observables may name."""


@dataclass(frozen=True)
class Region:
    """One region of events.

    Args:
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
    """Regions in their order of precedence.

    Args:
        name: Its name.
        regions: The regions.
        exclusive: Whether an event enters only the first region that takes it.
        class_weights: Factors on the network's class probabilities, which are then normalised again; they bring them
            from the proportions of the training to those the cuts and observables refer to.
        score: What makes the efficient score, where a region names it.
    """

    name: str
    regions: tuple[Region, ...]
    exclusive: bool
    class_weights: tuple[float, ...] = (1.0,) * len(PROCESSES)
    score: EfficientScore | None = None

    @property
    def n_bins(self) -> int:
        """Number of bins of all regions together; counts and tables are concatenated in region order."""
        return sum(region.n_bins for region in self.regions)

    @property
    def names(self) -> set[str]:
        """What its cuts and observables name."""
        observables = {region.observable for region in self.regions}
        return observables | {name for region in self.regions for name, _, _ in region.cuts}

    @property
    def needs(self) -> set[str]:
        """Scores of shape nuisances without which it cannot be used."""
        through = self.score.needs if self.score is not None and EFFICIENT_SCORE in self.names else ()
        return (self.names & set(SHAPE_SCORES)) | set(through)

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

    def for_network(self, shares: Sequence[float]) -> RegionSet:
        """Return the same set for a network that was trained with the given class proportions, shape (4,)."""
        weights = tuple(proportion / share for proportion, share in zip(PROPORTIONS, shares, strict=True))
        return replace(self, class_weights=weights)


_HIGH_MT = ("mt", ">", 70.0)
_CR1 = Region("CR1", (("vbf_jet", "==", 1.0), _HIGH_MT))
_CR2 = Region("CR2", (("vbf_jet", "==", 0.0), _HIGH_MT, ("p_ttbar", ">", 0.4)))
_CR3 = Region("CR3", (("vbf_jet", "==", 0.0), _HIGH_MT, ("p_diboson", ">", 0.2)))

_LOW_MT = ("mt", "<", 70.0)
_VBF, _NO_VBF = ("vbf_jet", "==", 1.0), ("vbf_jet", "==", 0.0)
_FIVE = (
    Region("lowMT_VBF", (_VBF, _LOW_MT)),
    Region("highMT_VBF", (_VBF,)),
    Region("lowMT_noVBF_highPtH", (_LOW_MT, ("pt_h", ">=", 100.0))),
    Region("lowMT_noVBF_lowPtH", (_LOW_MT,)),
    Region("highMT_noVBF", ()),
)
_SLICES = (
    Region("VV", (("q_diboson", ">", 0.2),)),
    Region("tt", (("q_ttbar", ">", 0.5),)),
    Region("mixed", (("q_ttbar", ">", 0.1),)),
    Region("Z", ()),
)


def _crossed(first: Region, second: Region) -> Region:
    """Return the region of the events that are in both."""
    return Region(f"{first.name}_{second.name}", first.cuts + second.cuts)


REGION_SETS: dict[str, RegionSet] = {
    "disjoint": RegionSet("disjoint", (_CR1, _CR2, _CR3, Region("rest", ())), exclusive=True),
    "published": RegionSet(
        "published", (Region("FR", ()), *(replace(cr, signal=False) for cr in (_CR1, _CR2, _CR3))), exclusive=False
    ),
    "score": RegionSet("score", (Region("all", (), EFFICIENT_SCORE),), exclusive=True),
    "score_regions": RegionSet(
        "score_regions", tuple(replace(region, observable=EFFICIENT_SCORE) for region in _FIVE), exclusive=True
    ),
    "inclusive": RegionSet("inclusive", (Region("all", ()),), exclusive=True),
    "five": RegionSet("five", _FIVE, exclusive=True),
    "slices": RegionSet("slices", _SLICES, exclusive=True),
    "five_slices": RegionSet(
        "five_slices", tuple(_crossed(region, part) for region in _FIVE for part in _SLICES), exclusive=True
    ),
}


def region_set(name: str) -> RegionSet:
    """Return the region set called ``name``, without bin edges.

    Raises:
        SettingsError: If there is none.
    """
    if name not in REGION_SETS:
        msg = f"no region set {name!r}; choose one of {', '.join(sorted(REGION_SETS))}"
        raise SettingsError(msg)
    return REGION_SETS[name]


def quantities(events: Mapping[str, Any], derived: Mapping[str, Any], probabilities: np.ndarray) -> dict[str, Any]:
    """Collect what cuts and observables may name.

    Args:
        events: Primary columns, shape (n,).
        derived: Derived columns, shape (n,).
        probabilities: Class probabilities, shape (n, 4); or (n, 7), with the scores of the shape nuisances behind.

    Returns:
        Masses and transverse momenta in GeV, ``vbf_jet`` (1 where the two jets have pt > 50 and 30 GeV), the class
        probabilities ``p_NAME`` and, where there are any, the scores ``s_NAME``, each of shape (n,).
    """
    pt1, pt2 = events["PRI_jet_leading_pt"], events["PRI_jet_subleading_pt"]
    out = {
        "pt_jet_leading": pt1,
        "pt_jet_subleading": pt2,
        "vbf_jet": (pt1 > 50.0) & (pt2 > 30.0),
        "mt": derived["DER_mass_transverse_met_lep"],
        "pt_h": derived["DER_pt_h"],
        "m_vis": derived["DER_mass_vis"],
    }
    names = (*(f"p_{name}" for name in PROCESSES), *SHAPE_SCORES)
    return out | dict(zip(names, probabilities.T, strict=False))


def reweighted(region_set: RegionSet, values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the class probabilities to the region set's proportions and add what follows from them.

    Args:
        region_set: The regions.
        values: What ``quantities`` returns.

    Returns:
        The values with the new ``p_NAME``; and, of a region set that uses them, ``q_NAME``: the share of a background
        in the sum of the backgrounds' probabilities, and the efficient score.

    Raises:
        SettingsError: If the efficient score is used and the region set does not say what makes it.
    """
    out = dict(values)
    weighted = {name: values[f"p_{name}"] for name in PROCESSES}
    if any(weight != 1.0 for weight in region_set.class_weights):
        for name, weight in zip(PROCESSES, region_set.class_weights, strict=True):
            weighted[name] = weighted[name] * weight
        total = sum(weighted.values())
        out |= {f"p_{name}": value / total for name, value in weighted.items()}
    shares = {f"q_{name}" for name in BACKGROUNDS} & region_set.names
    if shares:
        background = sum(weighted[name] for name in BACKGROUNDS)
        # Where no background is left the shares are NaN, and no cut on them holds.
        with np.errstate(invalid="ignore"):
            out |= {share: weighted[share.removeprefix("q_")] / background for share in shares}
    if EFFICIENT_SCORE in region_set.names:
        if region_set.score is None:
            msg = f"region set {region_set.name!r} bins the efficient score, but has none; choose it from events first"
            raise SettingsError(msg)
        out[EFFICIENT_SCORE] = region_set.score(ratios(region_set, values), values)
    return out


def ratios(region_set: RegionSet, values: Mapping[str, Any]) -> list[Any]:
    """Return the densities of the processes relative to a mixture of all, see ``EfficientScore.scores``.

    Args:
        region_set: Says to which proportions the class probabilities refer.
        values: What ``quantities`` returns.
    """
    factors = zip(PROCESSES, region_set.class_weights, PROPORTIONS, strict=True)
    return [values[f"p_{name}"] * (weight / proportion) for name, weight, proportion in factors]


def bin_numbers(region_set: RegionSet, values: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Find, for each region, the rows that enter it and their bin on the concatenated axis.

    Rows whose observable is not finite enter no region.

    Args:
        region_set: The regions.
        values: What ``quantities`` returns.
    """
    values = reweighted(region_set, values)
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

    Args:
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
