"""The graph template, the 35 inputs and their normalisation."""

import numpy as np
import pytest
import torch

from sage.challenge.ditau import DITAU, ditau
from sage.challenge.features import angular_distances, derived
from sage.challenge.position import TURNED, standard_position
from sage.challenge.shifts import PRIMARIES, select, shift
from sage.network.graph import (
    INPUT_SETS,
    INPUTS,
    JETS,
    LOG,
    LOG_UNIT,
    LONG_TAILED,
    NODES,
    PUBLISHED,
    WITH_DITAU,
    Normalisation,
    find_inputs,
    jets_present,
    normalise,
    raw_inputs,
    required_jets,
)
from tests.events import columns_of, embedded_frame, mixed_frame, odd_frame
from training.inputs import Points, inputs_at_points

DROPPED = ("DER_deltaeta_jet_jet", "DER_prodeta_jet_jet")


@pytest.fixture(scope="module")
def events():
    return select(shift(columns_of(mixed_frame())))[0]


def test_template_counts():
    assert [
        sum(len(getattr(branch, kind)) for branch in PUBLISHED.branches) for kind in ("nodes", "edges", "globals")
    ] == [
        14,
        14,
        7,
    ]
    assert len(INPUTS) == len(set(INPUTS)) == 35


def test_inputs_are_the_16_primaries_and_19_derived_ones(events):
    columns = {**derived(events), **angular_distances(events)}
    assert set(INPUTS) == set(PRIMARIES) | set(columns) - set(DROPPED)


def test_ditau_inputs_sit_where_the_published_ones_do():
    """The same graph with the same columns, turned or their logarithms, and ten more globals at the end."""
    names = [name.removeprefix(LOG).removeprefix(TURNED) for name in WITH_DITAU.columns]
    assert names == [*INPUTS, *DITAU]
    assert {name for name in names if LOG + name in WITH_DITAU.columns} == set(LONG_TAILED)
    assert np.array_equal(required_jets(WITH_DITAU)[:35], required_jets())
    assert not required_jets(WITH_DITAU)[35:].any()
    for old, new in zip(PUBLISHED.branches, WITH_DITAU.branches, strict=True):
        assert [item[1:] for item in old.nodes + old.edges] == [item[1:] for item in new.nodes + new.edges]
    assert [len(branch.globals) for branch in WITH_DITAU.branches] == [1, 16]


def test_choices_are_found_by_their_columns():
    for choice in INPUT_SETS.values():
        assert find_inputs(list(choice.columns)) is choice
        assert find_inputs(choice.columns[:-1]) is None
        assert find_inputs(choice.columns[::-1]) is None


def test_ditau_inputs_are_columns_quantities_and_logarithms(events):
    values, defined = raw_inputs(events, derived(events), WITH_DITAU)
    published, published_defined = raw_inputs(events, derived(events))
    quantities = ditau(events)
    turned = standard_position(events)
    for i, name in enumerate(WITH_DITAU.columns):
        column = turned[name] if name in turned else published[:, i] if i < 35 else quantities[name.removeprefix(LOG)]
        expected = np.log(1 + np.maximum(column, 0.0) / LOG_UNIT) if name.startswith(LOG) else column
        known = published_defined[:, i] if i < 35 else np.ones(len(column), bool)
        assert np.array_equal(defined[:, i], known), name
        np.testing.assert_allclose(values[known, i], expected[known], rtol=1e-4, atol=1e-4, err_msg=name)


def test_edges_run_both_ways():
    for branch in PUBLISHED.branches:
        pairs = list(zip(branch.sources, branch.targets, strict=True))
        assert len(pairs) == 2 * len(branch.edges)
        assert sorted(pairs) == sorted((b, a) for a, b in pairs)
        for (_, first, second), pair in zip(branch.edges, pairs, strict=False):
            assert (NODES[pair[0]], NODES[pair[1]]) == (first, second)


def test_uncertainty_branch_holds_what_the_shifts_move():
    """Angles of jets and leptons do not move; every other input of the deterministic branch must not either."""
    columns = columns_of(embedded_frame(300))
    moved = [select(shift(columns, *point))[0] for point in ((1.0, 1.0, 0.0), (1.0, 1.0, 3.0))]
    both = [raw_inputs(events, derived(events)) for events in moved]
    n = len(PUBLISHED.deterministic.columns)
    np.testing.assert_array_equal(both[0][0][:, :n], both[1][0][:, :n])
    assert (both[0][0][:, n:] != both[1][0][:, n:]).any()


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("PRI_lep_pt", []),
        ("PRI_n_jets", []),
        ("PRI_jet_subleading_phi", ["jet_subleading"]),
        ("dr_had_jet_leading", ["jet_leading"]),
        ("dr_jet_leading_jet_subleading", list(JETS)),
        ("DER_mass_jet_jet", list(JETS)),
        ("DER_lep_eta_centrality", list(JETS)),
        ("dr_lep_met", []),
    ],
)
def test_required_jets(name, needs):
    assert [jet for jet, need in zip(JETS, required_jets()[INPUTS.index(name)], strict=True) if need] == needs


def test_what_a_missing_jet_defines_is_zero_after_normalisation(events):
    values, defined = raw_inputs(events, derived(events))
    constants = Normalisation(np.full(35, 3.0, np.float32), np.full(35, 2.0, np.float32))
    expected = np.where(defined, (values - 3.0) / 2.0, 0.0)
    found = normalise(values, defined, constants)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    present = jets_present(events)
    for i, name in enumerate(INPUTS):
        for k, jet in enumerate(JETS):
            if jet in name:
                assert (found[~present[:, k], i] == 0.0).all()
    assert (found[present[:, 0], INPUTS.index("PRI_jet_leading_pt")] != 0.0).all()


def test_jets_exist_where_their_pt_is_positive():
    columns = columns_of(odd_frame())
    present = jets_present(columns)
    for i, row in enumerate(odd_frame().to_dict("records")):
        assert present[i].tolist() == [row["PRI_jet_leading_pt"] > 0, row["PRI_jet_subleading_pt"] > 0]
    assert [False, True] in present.tolist()


@pytest.mark.parametrize("inputs", INPUT_SETS.values(), ids=INPUT_SETS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("name", ["PRI_met", "PRI_had_eta", "PRI_jet_leading_pt", "PRI_lep_phi", "PRI_jet_all_pt"])
def test_absurd_values_give_finite_inputs(events, name, bad, inputs):
    spoilt = {key: column[:50].astype(np.float32) for key, column in events.items()}
    spoilt[name] = spoilt[name].copy()
    spoilt[name][::2] = bad
    values, defined = raw_inputs(spoilt, derived(spoilt), inputs)
    n = len(inputs.columns)
    unit = Normalisation(np.zeros(n, np.float32), np.ones(n, np.float32), inputs)
    assert np.isfinite(normalise(values, defined, unit)).all()


@pytest.mark.parametrize("inputs", INPUT_SETS.values(), ids=INPUT_SETS)
def test_torch_twin_of_the_inputs(inputs):
    """The training's inputs at two points are those of the measurement at each point."""
    columns = columns_of(mixed_frame())
    n = len(columns["PRI_met"])
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((2, 2, n), dtype=np.float32)
    scales = ((0.98, 1.02), (1.01, 0.97), (0.0, 2.0))
    selected, _ = select(shift(columns))
    values, defined = raw_inputs(selected, derived(selected), inputs)
    spread = Normalisation(
        np.where(defined, values, 0).mean(axis=0).astype(np.float32), values.std(axis=0).astype(np.float32) + 1
    )
    points = Points(tuple(torch.tensor(part).unsqueeze(1) for part in scales), tuple(torch.from_numpy(noise)))
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    constants = torch.from_numpy(spread.mean), torch.from_numpy(spread.std)
    found, jets, keep = inputs_at_points(tensors, points, *constants, inputs)
    for k in range(2):
        point = [float(np.float32(part[k])) for part in scales]
        events, rows = select(shift(columns, *point, noise=(noise[0, k], noise[1, k])))
        common = np.intersect1d(rows, np.flatnonzero(keep[k].numpy()))
        assert len(common) > 0.99 * max(len(rows), int(keep[k].sum()))
        events = {name: column[np.isin(rows, common)].astype(np.float32) for name, column in events.items()}
        raw, defined = raw_inputs(events, derived(events), inputs)
        expected = normalise(raw, defined, spread)
        np.testing.assert_array_equal(jets[k][common].numpy() > 0, jets_present(events))
        difference = np.abs(found[k][common].numpy() - expected)
        # A rounding step of 0.001 GeV can turn the direction of a small MET; all but a few entries agree closely.
        assert np.mean(difference < 2e-3) > 0.999
