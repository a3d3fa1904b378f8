"""Whether two simulated samples have the same expectation, process by process: weighted closure.

Compared are the distributions of all 28 features, the shares of the measurement's bins, those of its regions, and how
the yields of regions respond to the shape nuisances. Errors are by showered events. With f and f' the shares of a
quantity's intervals in the two samples, chi2 = (f - f')^T (C + C')^-1 (f - f') over all intervals but the last. What
the difference means for mu is, to first order, N sum_b (d mu_hat / d n_b) (f_b - f'_b) for N expected events.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from sage.challenge.features import derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.files.bundle import Bundle
from sage.network.classifier import NetworkClassifier
from studies.pools import bins_at, nominal_bins
from studies.worth import Sensitivity
from training.counting import ByParents, sum_by_parents
from training.events import Events

INTERVALS = 12
"""Intervals of equal yield of a feature."""
BINS = "bins"
NOISE_SEED = 7
"""Of the missing momentum at points with soft_met."""
LEAST_SHOWERS = 40.0
"""Effective showered events of an interval in either sample; with fewer it is joined to its neighbour."""
POINTS = {
    "tes up": (1.01, 1.0, 0.0),
    "tes down": (0.99, 1.0, 0.0),
    "jes up": (1.0, 1.01, 0.0),
    "jes down": (1.0, 0.99, 0.0),
    "soft_met": (1.0, 1.0, 3.0),
}
"""(tes, jes, soft_met) of the responses."""


@dataclass(frozen=True)
class Sample:
    """Events of one process.

    Args:
        weights: Their weights, shape (n,).
        showers: Key of each one's showered event, shape (n,), integers.
    """

    weights: np.ndarray
    showers: np.ndarray

    def shares(self, intervals: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares of n intervals and their covariance, shape (n,) and (n, n).

        Args:
            intervals: Interval of each event, shape (n_events,); those of -1 count in the total only.
            n: Number of intervals.
        """
        sums = self._sums(intervals, n)
        total = float(sums.totals[0])
        shares = sums.yields[0] / total
        # Of what each shower has in an interval less its share of what the shower has in all.
        inside, crossed = sums.covariances[0, :-1, :-1], np.outer(sums.covariances[0, :-1, -1], shares)
        covariance = inside - crossed - crossed.T + sums.covariances[0, -1, -1] * np.outer(shares, shares)
        return shares, covariance / total**2

    def effective(self, intervals: np.ndarray, n: int) -> np.ndarray:
        """Return the effective number of showered events in each of n intervals, shape (n,)."""
        sums = self._sums(intervals, n)
        squares = sums.variances[0]
        effective: np.ndarray = np.divide(sums.yields[0] ** 2, squares, out=np.zeros(n), where=squares > 0)
        return effective

    def _sums(self, intervals: np.ndarray, n: int) -> ByParents:
        classes = np.zeros(len(self.weights), dtype=np.int64)
        return sum_by_parents(self.showers, classes, intervals[None], self.weights, 1, n)


def compare(one: Events, other: Events, bundle: Bundle) -> dict[str, Any]:
    """Compare two samples.

    Args:
        one: A sample.
        other: Another, of showered events of its own.
        bundle: Content of the weights folder whose bins and regions are compared.

    Returns:
        JSON values: for each process that both have ``quantities`` by name (``chi2``, ``degrees``, ``p_value``, and
        ``ratio`` of shares one over other with ``error`` by interval), the ``worst`` p-value, and how far ``one`` as
        data would move mu_hat where the tables are of ``other`` (``mu``, ``mu_error``).
    """
    gain = Sensitivity(bundle).gain
    classifier = NetworkClassifier(bundle.network, bundle.normalisation, threads=1)
    found = {}
    for number, name in enumerate(PROCESSES):
        pair = [events.take(np.flatnonzero(events.classes == number)) for events in (one, other)]
        if not all(len(events) for events in pair):
            continue
        samples = [Sample(events.weights, events.keys) for events in pair]
        quantities = {}
        moves = {}
        for label, first, second in _intervals(pair, bundle, classifier):
            n = int(max(first.max(), second.max())) + 1
            quantities[label] = compare_shares(samples, (first, second), n)
            if label == BINS:
                moves = shift_of_mu(samples, (first, second), gain, float(pair[1].weights.sum()))
        values = [entry["p_value"] for entry in quantities.values() if entry["degrees"]]
        found[name] = {"quantities": quantities, "worst": min(values, default=1.0), "compared": len(values), **moves}
    return found


def shift_of_mu(
    samples: list[Sample], bins: tuple[np.ndarray, np.ndarray], gain: np.ndarray, expected: float
) -> dict[str, float]:
    """How far the first sample in place of the second moves mu_hat, to first order.

    Args:
        samples: The two samples of one process.
        bins: Bin of each of their events, -1 for none.
        gain: d mu_hat / d n in each bin, shape (n_bins,).
        expected: Expected events of the process.

    Returns:
        ``mu`` and ``mu_error``, by showered events.
    """
    (one, one_cov), (other, other_cov) = (
        sample.shares(found, len(gain)) for sample, found in zip(samples, bins, strict=True)
    )
    variance = float(gain @ (one_cov + other_cov) @ gain)
    return {"mu": expected * float(gain @ (one - other)), "mu_error": expected * math.sqrt(max(variance, 0.0))}


def _intervals(
    pair: list[Events], bundle: Bundle, classifier: NetworkClassifier
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name of each quantity and its intervals in both samples."""
    columns = [_features(events) for events in pair]
    for name in columns[0]:
        edges = np.unique(np.quantile(columns[1][name], np.linspace(0.0, 1.0, INTERVALS + 1))[1:-1])
        one, other = (np.searchsorted(edges, column[name], side="right") for column in columns)
        yield name, one, other
    bins = [nominal_bins(bundle, classifier, events) for events in pair]
    yield BINS, bins[0], bins[1]
    sizes = [len(region.edges) - 1 for region in bundle.regions.regions]
    region_of = np.append(np.repeat(np.arange(len(sizes)), sizes), -1)
    yield "regions", region_of[bins[0]], region_of[bins[1]]
    draws = [np.random.default_rng(NOISE_SEED).standard_normal((2, len(events))) for events in pair]
    for label, point in POINTS.items():
        # Where events go: shares of what leaves each region for each other.
        one, other = (
            _codes(region_of[before], region_of[bins_at(point, noise, bundle, classifier, events)], len(sizes))
            for before, events, noise in zip(bins, pair, draws, strict=True)
        )
        yield label, one, other


def _codes(before: np.ndarray, after: np.ndarray, n_regions: int) -> np.ndarray:
    """Number of (region before, region after), 0 where it is the same, shape (n,); regions are -1 for none."""
    return np.where(before == after, 0, (before + 1) * (n_regions + 1) + after + 1)


def _features(events: Events) -> dict[str, np.ndarray]:
    columns = {name: np.asarray(events.columns[name], dtype=np.float64) for name in PRIMARIES}
    more: Mapping[str, Any] = derived(columns)
    return columns | {name: np.asarray(column) for name, column in more.items()}


def compare_shares(samples: list[Sample], intervals: tuple[np.ndarray, np.ndarray], n: int) -> dict[str, Any]:
    """Compare the shares of n intervals; see the head of this module.

    Args:
        samples: The two samples.
        intervals: Interval of each of their events, -1 for none.
        n: Number of intervals.
    """
    enough = np.min([s.effective(i, n) for s, i in zip(samples, intervals, strict=True)], axis=0)
    label, joined, held = np.empty(n, dtype=np.int64), 0, 0.0
    for place in range(n):
        label[place] = joined
        held += enough[place]
        if held >= LEAST_SHOWERS:
            joined, held = joined + 1, 0.0
    # What is left over at the end goes to the interval before.
    label = np.minimum(label, max(joined - 1, 0))
    size = int(label.max()) + 1
    places = np.append(label, -1)
    (one, one_cov), (other, other_cov) = (
        sample.shares(places[found], size) for sample, found in zip(samples, intervals, strict=True)
    )
    difference, covariance = one - other, one_cov + other_cov
    # Shares that add up to 1 hold one number less.
    free = size - 1 if abs(one.sum() - 1.0) < 1e-9 else size
    chi2 = float(difference[:free] @ np.linalg.lstsq(covariance[:free, :free], difference[:free], rcond=None)[0])
    return {
        "chi2": chi2,
        "degrees": free,
        "p_value": float(stats.chi2.sf(chi2, free)) if free else 1.0,
        "ratio": np.divide(one, other, out=np.ones(size), where=other > 0).tolist(),
        "error": np.divide(
            np.sqrt(np.maximum(np.diag(covariance), 0.0)), other, out=np.zeros(size), where=other > 0
        ).tolist(),
    }


def summary(found: Mapping[str, Any]) -> str:
    """Return a table: for each process how many quantities agree, what mu makes of it, and what agrees worst."""
    lines = ["process    compared  p < 0.01         moves mu by  smallest p"]
    for name, entry in found.items():
        values = {label: q["p_value"] for label, q in entry["quantities"].items() if q["degrees"]}
        few = ", ".join(f"{label} {values[label]:.2g}" for label in sorted(values, key=values.__getitem__)[:3])
        moved = f"{entry['mu']:+.3f} +- {entry['mu_error']:.3f}"
        lines.append(f"{name:<10} {len(values):8d} {sum(p < 0.01 for p in values.values()):9d}  {moved:>18}  {few}")
    shift = sum(entry["mu"] for entry in found.values())
    error = math.sqrt(sum(entry["mu_error"] ** 2 for entry in found.values()))
    return "\n".join([*lines, f"all together move mu by {shift:+.3f} +- {error:.3f}"])
