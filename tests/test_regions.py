"""Regions: cuts, precedence and counts against a loop over events with the table of regions written out."""

from dataclasses import replace

import numpy as np
import pytest

from sage.features import derived
from sage.regions import OPERATORS, REGION_SETS, bin_numbers, counts, quantities
from sage.shifts import select, shift
from tests.events import columns_of, embedded_frame, odd_frame

EDGES = {
    "FR": (0.0, 0.2, 0.5, 1.0),
    "rest": (0.0, 0.3, 1.0),
    "CR1": (0.0, 0.5, 1.0),
    "CR2": (0.0, 1.0),
    "CR3": (0.0, 0.1, 1.0),
}


def sharpen(p):
    """Make random class probabilities that often exceed the cuts."""
    return (p**3 / (p**3).sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def sample():
    frame = embedded_frame(3000)
    frame = frame[frame["PRI_n_jets"] != 0].head(900)
    columns = {
        name: np.concatenate([a, b])
        for (name, a), b in zip(columns_of(frame).items(), columns_of(odd_frame()).values(), strict=True)
    }
    events, _ = select(shift(columns))
    rng = np.random.default_rng(5)
    probabilities = sharpen(rng.uniform(size=(len(events["PRI_met"]), 4)))
    weights = rng.uniform(0.1, 3.0, len(probabilities))
    return quantities(events, derived(events), probabilities), events, probabilities, weights


def with_edges(name):
    bare = REGION_SETS[name]
    return bare.with_edges({region.name: EDGES[region.name] for region in bare.regions})


def regions_of_event(name, pt1, pt2, mt, p):
    """Return the regions an event belongs to."""
    p_tt, p_vv = p[2], p[3]
    vbf = pt1 > 50.0 and pt2 > 30.0
    inside = []
    if vbf and mt > 70.0:
        inside.append("CR1")
    if not vbf and mt > 70.0 and p_tt > 0.4:
        inside.append("CR2")
    if not vbf and mt > 70.0 and p_vv > 0.2:
        inside.append("CR3")
    if name == "seed":
        return ["FR", *inside]
    return inside[:1] or ["rest"]


@pytest.mark.parametrize("name", sorted(REGION_SETS))
def test_counts_against_the_loop_over_events(sample, name):
    values, events, probabilities, weights = sample
    region_set = with_edges(name)
    expected = {region.name: np.zeros(region.n_bins) for region in region_set.regions}
    derived_columns = derived(events)
    for i in range(len(weights)):
        mt = derived_columns["DER_mass_transverse_met_lep"][i]
        pts = events["PRI_jet_leading_pt"][i], events["PRI_jet_subleading_pt"][i]
        for region in regions_of_event(name, *pts, mt, probabilities[i]):
            edges = EDGES[region]
            place = sum(1 for edge in edges[1:-1] if probabilities[i, 0] >= edge)
            expected[region][place] += weights[i]
    assert all(total.sum() > 0 for total in expected.values())
    found = counts(region_set, values, weights)
    for region, place in region_set.slices.items():
        np.testing.assert_allclose(found[place], expected[region], rtol=1e-12)


def test_disjoint_takes_every_event_once(sample):
    values, _, _, weights = sample
    rows = np.concatenate([rows for rows, _ in bin_numbers(with_edges("disjoint"), values)])
    assert sorted(rows) == list(range(len(weights)))
    assert counts(with_edges("disjoint"), values).sum() == len(weights)


def test_seed_counts_control_regions_twice(sample):
    values, _, _, weights = sample
    region_set = with_edges("seed")
    found = counts(region_set, values)
    assert found[region_set.slices["FR"]].sum() == len(weights)
    assert found.sum() > len(weights)
    assert region_set.has_signal.tolist() == [True] * 3 + [False] * 5


def test_events_without_an_observable_enter_no_region(sample):
    values = dict(sample[0])
    values["p_htautau"] = values["p_htautau"].copy()
    values["p_htautau"][:7] = np.nan
    assert counts(with_edges("disjoint"), values).sum() == len(sample[3]) - 7


def test_values_beyond_the_edges_fall_into_the_outer_bins(sample):
    values = dict(sample[0])
    values["p_htautau"] = np.where(np.arange(len(sample[3])) % 2, -3.0, 7.0)
    region_set = with_edges("disjoint")
    found = counts(region_set, values)
    assert found.sum() == len(sample[3])


@pytest.mark.parametrize(
    ("symbol", "value", "expected"),
    [
        (">", 2.0, [0, 0, 1]),
        (">=", 2.0, [0, 1, 1]),
        ("<", 2.0, [1, 0, 0]),
        ("<=", 2.0, [1, 1, 0]),
        ("==", 2.0, [0, 1, 0]),
    ],
)
def test_operators(symbol, value, expected):
    assert OPERATORS[symbol](np.array([1.0, 2.0, 3.0]), value).tolist() == [bool(item) for item in expected]


def test_slices_follow_each_other():
    region_set = with_edges("disjoint")
    assert [(s.start, s.stop) for s in region_set.slices.values()] == [(0, 2), (2, 3), (3, 5), (5, 7)]
    assert region_set.n_bins == 7
    one = replace(region_set.regions[0], edges=(0.0, 1.0))
    assert one.n_bins == 1
