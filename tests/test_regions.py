"""Regions: cuts, precedence and counts against a loop over events with the table of regions written out."""

from dataclasses import replace

import numpy as np
import pytest

from sage.binned.regions import (
    OPERATORS,
    PROPORTIONS,
    REGION_SETS,
    bin_numbers,
    counts,
    quantities,
    region_set,
    reweighted,
)
from sage.binned.score import EFFICIENT_SCORE
from sage.challenge.features import derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select, shift
from tests.events import columns_of, embedded_frame, odd_frame

EDGES = {
    "FR": (0.0, 0.2, 0.5, 1.0),
    "rest": (0.0, 0.3, 1.0),
    "CR1": (0.0, 0.5, 1.0),
    "CR2": (0.0, 1.0),
    "CR3": (0.0, 0.1, 1.0),
}
SHARES = (0.4, 0.1, 0.2, 0.3)
OF_PROBABILITIES = sorted(name for name, regions in REGION_SETS.items() if EFFICIENT_SCORE not in regions.names)
"""Region sets that need nothing but class probabilities; for the others see ``test_efficient_score``."""


def edges_of(region):
    return EDGES.get(region, (0.0, 0.25, 0.6, 1.0))


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
    return bare.with_edges({region.name: edges_of(region.name) for region in bare.regions})


def regions_of_event(name, pt1, pt2, mt, pt_h, p):
    """Return the regions an event belongs to."""
    p_tt, p_vv = p[2], p[3]
    vbf = pt1 > 50.0 and pt2 > 30.0
    if name in ("disjoint", "published"):
        inside = []
        if vbf and mt > 70.0:
            inside.append("CR1")
        if not vbf and mt > 70.0 and p_tt > 0.4:
            inside.append("CR2")
        if not vbf and mt > 70.0 and p_vv > 0.2:
            inside.append("CR3")
        return ["FR", *inside] if name == "published" else inside[:1] or ["rest"]
    if vbf:
        kinematic = "lowMT_VBF" if mt < 70.0 else "highMT_VBF"
    elif mt >= 70.0:
        kinematic = "highMT_noVBF"
    else:
        kinematic = "lowMT_noVBF_highPtH" if pt_h >= 100.0 else "lowMT_noVBF_lowPtH"
    q_tt, q_vv = p_tt / (p[1] + p_tt + p_vv), p_vv / (p[1] + p_tt + p_vv)
    part = "VV" if q_vv > 0.2 else "tt" if q_tt > 0.5 else "mixed" if q_tt > 0.1 else "Z"
    return [{"inclusive": "all", "five": kinematic, "slices": part, "five_slices": f"{kinematic}_{part}"}[name]]


@pytest.mark.parametrize("shares", [None, SHARES])
@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_counts_against_the_loop_over_events(sample, name, shares):
    values, events, probabilities, weights = sample
    regions = with_edges(name) if shares is None else with_edges(name).for_network(shares)
    expected = {region.name: np.zeros(region.n_bins) for region in regions.regions}
    derived_columns = derived(events)
    for i in range(len(weights)):
        mt, pt_h = (derived_columns[f"DER_{part}"][i] for part in ("mass_transverse_met_lep", "pt_h"))
        pts = events["PRI_jet_leading_pt"][i], events["PRI_jet_subleading_pt"][i]
        p = probabilities[i]
        if shares is not None:
            p = [float(p[k]) * PROPORTIONS[k] / shares[k] for k in range(4)]
            p = [value / sum(p) for value in p]
        for region in regions_of_event(name, *pts, mt, pt_h, p):
            place = sum(1 for edge in edges_of(region)[1:-1] if p[0] >= edge)
            expected[region][place] += weights[i]
    if shares is None and not name.startswith("five"):
        assert all(total.sum() > 0 for total in expected.values())
    found = counts(regions, values, weights)
    assert found.sum() > 0
    for region, place in regions.slices.items():
        np.testing.assert_allclose(found[place], expected[region], rtol=1e-12)


def test_observables_do_not_depend_on_the_shares_of_the_training(sample):
    """Probabilities that refer to other class proportions describe the same network."""
    values, _, probabilities, weights = sample
    moved = probabilities.astype(np.float64) * SHARES / (0.25, 0.25, 0.25, 0.25)
    moved /= moved.sum(axis=1, keepdims=True)
    other = dict(values) | {f"p_{name}": moved[:, k] for k, name in enumerate(PROCESSES)}
    for name in OF_PROBABILITIES:
        first = counts(with_edges(name).for_network((0.25, 0.25, 0.25, 0.25)), values, weights)
        second = counts(with_edges(name).for_network(SHARES), other, weights)
        np.testing.assert_allclose(first, second, rtol=1e-12)


def test_values_are_left_as_they_are(sample):
    values = dict(sample[0])
    counts(with_edges("slices").for_network(SHARES), values)
    assert values.keys() == sample[0].keys()
    assert all(values[name] is sample[0][name] for name in values)


def test_signal_rises_with_the_likelihood_ratio_to_the_sum_of_backgrounds(sample):
    """The proportions of the backgrounds are those of their expected events."""
    values, _, probabilities, _ = sample
    regions = with_edges("inclusive").for_network((0.25, 0.25, 0.25, 0.25))
    p = probabilities.astype(np.float64)
    ratio = p[:, 0] / (p[:, 1:] @ [901137.5, 41283.4, 3433.6])
    order = np.argsort(ratio)
    observable = np.asarray(reweighted(regions, values)["p_htautau"], dtype=np.float64)[order]
    # The proportions are stated with three to four digits.
    assert (np.diff(observable) > -1e-3).all()
    assert observable[-1] - observable[0] > 0.5


@pytest.mark.parametrize("name", sorted(set(OF_PROBABILITIES) - {"published"}))
def test_exclusive_sets_take_every_event_once(sample, name):
    values, _, _, weights = sample
    rows = np.concatenate([rows for rows, _ in bin_numbers(with_edges(name), values)])
    assert sorted(rows) == list(range(len(weights)))


def test_event_without_background_has_no_share_of_it(sample):
    values = dict(sample[0])
    for k, name in enumerate(PROCESSES):
        values[f"p_{name}"] = np.full(len(sample[3]), float(k == 0), dtype=np.float32)
    regions = with_edges("slices")
    found = counts(regions, values)
    assert found[regions.slices["Z"]].sum() == len(sample[3])


def test_unknown_region_set():
    with pytest.raises(ValueError, match="no region set 'six'; choose one of disjoint, five"):
        region_set("six")


def test_published_counts_control_regions_twice(sample):
    values, _, _, weights = sample
    regions = with_edges("published")
    found = counts(regions, values)
    assert found[regions.slices["FR"]].sum() == len(weights)
    assert found.sum() > len(weights)
    assert regions.has_signal.tolist() == [True] * 3 + [False] * 5


def test_events_without_an_observable_enter_no_region(sample):
    values = dict(sample[0])
    values["p_htautau"] = values["p_htautau"].copy()
    values["p_htautau"][:7] = np.nan
    assert counts(with_edges("disjoint"), values).sum() == len(sample[3]) - 7


def test_values_beyond_the_edges_fall_into_the_outer_bins(sample):
    values = dict(sample[0])
    values["p_htautau"] = np.where(np.arange(len(sample[3])) % 2, -3.0, 7.0)
    regions = with_edges("disjoint")
    found = counts(regions, values)
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
    regions = with_edges("disjoint")
    assert [(s.start, s.stop) for s in regions.slices.values()] == [(0, 2), (2, 3), (3, 5), (5, 7)]
    assert regions.n_bins == 7
    one = replace(regions.regions[0], edges=(0.0, 1.0))
    assert one.n_bins == 1
