"""Merging of bins against a slow twin, and its properties."""

from itertools import pairwise

import numpy as np
import pytest

from sage.binned.regions import REGION_SETS
from sage.challenge.nuisances import PROCESSES
from training.binning import BinningRule, choose_edges, merge

N = 100
EDGES = np.linspace(0.0, 1.0, N + 1)


def spectrum(seed, rows=4000):
    """Histogram weighted random events: counts and squared weights, each of shape (4, 100)."""
    rng = np.random.default_rng(seed)
    counts, squares = np.zeros((2, len(PROCESSES), N))
    for p, (weight, power) in enumerate(((0.2, 0.7), (25.0, 3.0), (5.0, 2.0), (0.8, 1.5))):
        observable = rng.uniform(size=rows) ** power
        weights = weight * rng.uniform(0.5, 1.5, rows)
        counts[p] = np.histogram(observable, EDGES, weights=weights)[0]
        squares[p] = np.histogram(observable, EDGES, weights=weights**2)[0]
    return counts, squares


def full_enough(counts, squares, rule):
    """The rule with every process spelled out."""
    z, tt, vv = counts[1], counts[2], counts[3]
    if rule.each and (z < rule.min_count or tt < rule.min_count or vv < rule.min_count):
        return False
    total, square = z + tt + vv, squares[1] + squares[2] + squares[3]
    if total < rule.min_count:
        return False
    return rule.min_effective == 0 or (square > 0 and total**2 / square >= rule.min_effective)


def slow_merge(counts, squares, rule):
    """Walk down one fine bin at a time and close a bin as soon as it is full."""
    closed, open_counts, open_squares = [N], np.zeros(4), np.zeros(4)
    for i in reversed(range(N)):
        open_counts, open_squares = open_counts + counts[:, i], open_squares + squares[:, i]
        if full_enough(open_counts, open_squares, rule):
            closed.append(i)
            open_counts, open_squares = np.zeros(4), np.zeros(4)
    if closed[-1] > 0:
        closed = [*closed[:-1], 0] if len(closed) > 1 else [N, 0]
    return tuple(EDGES[sorted(closed)])


@pytest.mark.parametrize(
    "rule",
    [
        BinningRule(),
        BinningRule(10.0, 30.0),
        BinningRule(50.0, 200.0),
        BinningRule(0.0),
        BinningRule(200.0, each=False),
        BinningRule(10.0, 100.0, each=False),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_merge_agrees_with_the_slow_twin_and_every_bin_is_full(seed, rule):
    counts, squares = spectrum(seed)
    edges = merge(EDGES, counts, squares, rule)
    assert edges == slow_merge(counts, squares, rule)
    assert (edges[0], edges[-1]) == (0.0, 1.0)
    assert list(edges) == sorted(set(edges))
    assert set(edges) <= set(EDGES)
    places = np.searchsorted(EDGES, edges)
    for start, stop in pairwise(places):
        assert full_enough(counts[:, start:stop].sum(axis=1), squares[:, start:stop].sum(axis=1), rule)


def test_rule_on_the_sum_gives_at_least_as_many_bins():
    counts, squares = spectrum(4)
    each, summed = (len(merge(EDGES, counts, squares, BinningRule(30.0, each=each))) for each in (True, False))
    assert summed > each


def test_every_region_gets_its_own_edges():
    bare = REGION_SETS["disjoint"]
    spectra = [spectrum(seed) for seed in range(4)]
    joined = {
        name: np.concatenate([s[i] for s in spectra], axis=1)[None] for i, name in enumerate(("counts", "squares"))
    }
    asked = []
    regions = choose_edges(bare, BinningRule(10.0, 40.0), N, lambda fine: asked.append(fine) or joined)
    assert [region.n_bins for region in asked[0].regions] == [N] * 4
    for region, (counts, squares) in zip(regions.regions, spectra, strict=True):
        assert region.edges == merge(EDGES, counts, squares, BinningRule(10.0, 40.0))


def test_stricter_rules_give_fewer_bins():
    counts, squares = spectrum(1)
    sizes = [len(merge(EDGES, counts, squares, BinningRule(10.0, least))) for least in (0.0, 50.0, 500.0)]
    assert sizes[0] > sizes[1] > sizes[2] > 2


def test_full_bins_stay_as_they_are():
    counts = np.full((4, N), 11.0)
    assert merge(EDGES, counts, counts, BinningRule()) == tuple(EDGES)


@pytest.mark.parametrize("missing", ["ztautau", "ttbar", "diboson"])
def test_region_that_cannot_satisfy_the_rule_is_one_bin(missing):
    counts, squares = spectrum(2)
    counts[PROCESSES.index(missing)] *= 1e-9
    assert merge(EDGES, counts, squares, BinningRule()) == (0.0, 1.0)


def test_empty_region_is_one_bin():
    empty = np.zeros((4, N))
    assert merge(EDGES, empty, empty, BinningRule(10.0, 5.0)) == (0.0, 1.0)


def test_signal_does_not_matter():
    counts, squares = spectrum(3)
    expected = merge(EDGES, counts, squares, BinningRule())
    counts[0], squares[0] = 0.0, 0.0
    assert merge(EDGES, counts, squares, BinningRule()) == expected
