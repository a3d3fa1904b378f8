"""Inputs, flows and classifier of contrastive flows: from events to scores."""

import dataclasses

import numpy as np
import pytest
import torch

from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES, UNDEFINED
from sage.errors import InputError, SettingsError, WeightsError
from sage.flows.classifier import LOG_RANGE, FlowClassifier, flow_arrays, read_flows
from sage.flows.density import log_density
from sage.flows.inputs import CATEGORIES, columns_of, members, standardised
from tests.conftest import EVENTS
from tests.events import columns_of as primary_columns
from tests.events import odd_frame, real_frame
from training.events import EventsFile
from training.flow_classifier import (
    TowerSettings,
    balanced,
    classifier_arrays,
    fit_towers,
    shifted,
    tower_sample,
)
from training.flow_features import (
    PUBLISHED_FLOWS,
    TWO_FLOWS,
    FlowFeatureSettings,
    by_category,
    draw,
    scaling_of,
    train_flows,
)
from training.flow_losses import FitSettings
from training.flows import FlowSettings

QUICK = FlowFeatureSettings(flow=FlowSettings("affine", 2, (8,)), fit=FitSettings(epochs=2, batch=100), rows=300)


@pytest.fixture(scope="module")
def events():
    file = EventsFile(EVENTS, 0.0)
    return file.read(range(12_000))


@pytest.fixture(scope="module")
def trained(events, tmp_path_factory):
    """Flows by category and the parameters of a classifier with them."""
    flows, _ = train_flows(QUICK, by_category(events), tmp_path_factory.mktemp("flows"))
    samples = {
        name: tower_sample(flows[name], one, sorted(flows[name].flows)) for name, one in shifted(events, 1).items()
    }
    network, losses = fit_towers(samples, TowerSettings(width=16, epochs=4, batch=200))
    assert losses[-1] < 0.69
    return flows, network, classifier_arrays(network, flows)


def test_categories_are_as_published():
    one, two = CATEGORIES
    assert (len(one.columns), len(two.columns)) == (20, 27)
    assert set(two.columns) - set(one.columns) == {
        *(f"PRI_jet_subleading_{part}" for part in ("pt", "eta", "phi")),
        *("DER_deltaeta_jet_jet", "DER_mass_jet_jet", "DER_prodeta_jet_jet", "DER_lep_eta_centrality"),
    }
    assert "PRI_n_jets" not in two.columns
    assert {one.columns[i] for i in np.flatnonzero(one.logged)} == set(one.logs)
    assert {"DER_mass_vis"} <= one.logs
    assert "DER_mass_vis" not in two.logs


def test_jets_decide_the_category_whatever_other_columns_hold():
    columns = primary_columns(odd_frame())
    found = members(columns)
    leading, subleading = (columns[f"PRI_jet_{jet}_pt"] > 0 for jet in ("leading", "subleading"))
    np.testing.assert_array_equal(np.sort(found["one_jet"]), np.flatnonzero(leading & ~subleading))
    np.testing.assert_array_equal(np.sort(found["two_jets"]), np.flatnonzero(leading & subleading))
    taken = columns_of(CATEGORIES[0], columns, found["one_jet"])
    assert not (taken == UNDEFINED).any()


def test_inputs_do_not_depend_on_the_order_of_columns():
    frame = real_frame()
    columns = primary_columns(frame)
    rows = members(columns)["two_jets"]
    expected = columns_of(CATEGORIES[1], columns, rows)
    np.testing.assert_array_equal(columns_of(CATEGORIES[1], dict(reversed(columns.items())), rows), expected)
    for i, name in enumerate(CATEGORIES[1].columns):
        column = frame[name].to_numpy()[rows] if name in frame else None
        if name in PRIMARIES:
            np.testing.assert_array_equal(expected[:, i], column)


def test_scaling_is_that_of_the_signal_and_logs_have_a_floor(events):
    for category in CATEGORIES:
        one = by_category(events)[category.name]
        scaling, flags = scaling_of(category, one)
        assert not flags
        inputs = standardised(category, one.values[one.signal], scaling)
        np.testing.assert_allclose(inputs.mean(axis=0), 0.0, atol=1e-3)
        np.testing.assert_allclose(inputs.std(axis=0), 1.0, atol=1e-3)
        values = one.values[:1].copy()
        values[0, category.logged] = 0.0
        lowest = standardised(category, values, scaling)[0, category.logged]
        expected = (np.log(scaling.smallest) - scaling.mean) / scaling.std
        np.testing.assert_allclose(lowest, expected[category.logged], rtol=1e-3, atol=1e-4)


def test_unusable_columns_are_refused_or_flagged(events):
    category = CATEGORIES[0]
    one = by_category(events)["one_jet"]
    values = one.values.copy()
    values[:, 3] = 1.0
    with pytest.raises(InputError, match=category.columns[3]):
        scaling_of(category, dataclasses.replace(one, values=values))
    values = one.values.copy()
    place = int(np.flatnonzero(category.logged)[0])
    values[np.flatnonzero(one.signal)[:20], place] = 0.0
    _, flags = scaling_of(category, dataclasses.replace(one, values=values))
    assert len(flags) == 1
    assert category.columns[place] in flags[0]
    with pytest.raises(InputError, match="0 signal events"):
        scaling_of(category, one.take(np.flatnonzero(~one.signal)))


def test_the_published_flows_are_trained_and_a_second_run_takes_them(events, tmp_path):
    categories = by_category(events)
    for loss, names in (("contrastive", PUBLISHED_FLOWS), ("two_flows", dict.fromkeys(PUBLISHED_FLOWS, TWO_FLOWS))):
        settings = dataclasses.replace(QUICK, loss=loss)
        flows, _ = train_flows(settings, categories, tmp_path / loss)
        assert {name: set(found.flows) for name, found in flows.items()} == {k: set(v) for k, v in names.items()}
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / loss).iterdir()}
        again, _ = train_flows(settings, categories, tmp_path / loss)
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / loss).iterdir()} == times
        for category in CATEGORIES:
            one = categories[category.name]
            inputs = standardised(category, one.values[:500], flows[category.name].scaling)
            for name, feature in flows[category.name].of(inputs).items():
                np.testing.assert_array_equal(again[category.name].of(inputs)[name], feature)
                assert np.isfinite(feature).all()
    train_flows(dataclasses.replace(settings, rows=500), categories, tmp_path / loss)
    assert all(path.stat().st_mtime_ns != times[path] for path in (tmp_path / loss).iterdir())


def test_the_published_feature_is_next_to_zero_where_the_logarithm_still_tells(trained, events):
    flows = trained[0]["two_jets"]
    inputs = standardised(flows.category, by_category(events)["two_jets"].values, flows.scaling)
    (layers, *_) = flows.flows.values()
    logs = log_density(layers, inputs)
    published = dataclasses.replace(flows, published=True).raw(logs)
    assert np.quantile(published, 0.9) < 1e-4
    assert np.quantile(flows.raw(logs), 0.9) - np.quantile(flows.raw(logs), 0.1) > 1.0
    assert flows.raw(logs).min() >= LOG_RANGE[0]


def test_the_submission_s_classifier_is_the_trained_one(trained, events):
    flows, network, arrays = trained
    classifier = FlowClassifier(arrays)
    found = classifier.outputs(events.columns, {})
    assert found.dtype == np.float32
    rows = members(events.columns)
    inside = np.zeros(len(events), dtype=bool)
    for category in CATEGORIES:
        here = rows[category.name]
        inside[here] = True
        inputs = classifier.inputs(category, events.columns, here)
        features = flows[category.name].of(inputs)
        both = np.column_stack([inputs, *(features[name] for name in sorted(features))])
        np.testing.assert_allclose(found[here, 0], network.scores(category.name, both), atol=2e-5)
    np.testing.assert_allclose(found[inside].sum(axis=1), 1.0, atol=1e-6)
    assert np.isnan(found[~inside]).all()
    assert inside.any()
    assert not inside.all()
    signal = events.classes == PROCESSES.index("htautau")
    assert found[inside & signal, 0].mean() > found[inside & ~signal, 0].mean() + 0.1


def test_permuted_or_missing_flows_are_refused(trained):
    _, _, arrays = trained
    turned = dict(reversed(arrays.items()))
    FlowClassifier(turned)
    for change in (
        {"one_jet/feature/signal_7": np.zeros(2)},
        {"two_jets/entry/signal_7": np.zeros((1, 16))},
    ):
        with pytest.raises(WeightsError, match="'signal_7'"):
            FlowClassifier(arrays | change)
    for name in ("trunk/1", "one_jet/entry/signal_1", "two_jets/feature/signal_5", "one_jet/scaling/mean"):
        with pytest.raises(WeightsError, match=name):
            FlowClassifier({key: array for key, array in arrays.items() if key != name})


def test_events_that_are_not_finite_have_no_score(trained, events):
    columns = {name: column[:50].copy() for name, column in events.columns.items()}
    before = FlowClassifier(trained[2]).outputs(columns, {})
    row = int(members(columns)["one_jet"][0])
    columns["PRI_met"][row] = np.nan
    after = FlowClassifier(trained[2]).outputs(columns, {})
    assert np.isnan(after[row]).all()
    np.testing.assert_array_equal(np.delete(after, row, 0), np.delete(before, row, 0))


def test_flows_are_read_back(trained):
    flows = trained[0]["one_jet"]
    again = read_flows(flows.category, flow_arrays(flows))
    inputs = np.random.default_rng(1).normal(size=(20, 20)).astype(np.float32)
    for name, feature in flows.of(inputs).items():
        np.testing.assert_array_equal(again.of(inputs)[name], feature)


def test_shifted_events_pass_the_thresholds_and_keep_their_yields(events):
    nominal, moved = by_category(events), shifted(events, 3)
    for name, one in moved.items():
        index = {column: i for i, column in enumerate(next(c for c in CATEGORIES if c.name == name).columns)}
        assert one.values[:, index["PRI_had_pt"]].min() >= 26.0
        assert one.values[:, index["PRI_jet_leading_pt"]].min() > 26.0
        assert one.weights.sum() == pytest.approx(nominal[name].weights.sum(), rel=0.1)
        assert len(one.rows) != len(nominal[name].rows) or (one.values != nominal[name].values).any()


def test_rows_are_drawn_by_their_weights():
    weights = np.array([0.0, 1.0, 3.0, 1.0] * 500)
    rows = draw(np.random.default_rng(1), weights, np.arange(2000) != 2, 300)
    assert len(set(rows.tolist())) == 300
    assert 2 not in rows
    assert not (weights[rows] == 0).any()
    assert (weights[rows] == 3.0).mean() == pytest.approx(0.58, abs=0.08)


def test_weights_are_balanced_over_all_categories(events):
    categories = by_category(events)
    weights = balanced(categories)
    totals = [
        sum(weights[name][one.signal == kind].sum() for name, one in categories.items()) for kind in (True, False)
    ]
    assert totals[0] == pytest.approx(totals[1])
    assert sum(totals) == pytest.approx(sum(len(one.rows) for one in categories.values()))
    with pytest.raises(SettingsError, match="give events of both"):
        balanced({name: one.take(np.flatnonzero(one.signal)) for name, one in categories.items()})


@pytest.mark.parametrize(
    "make",
    [
        lambda: FlowFeatureSettings(loss="both"),
        lambda: FlowFeatureSettings(rows=5),
        lambda: TowerSettings(width=0),
        lambda: TowerSettings(rate=-1.0),
        lambda: TowerSettings(held_out=0.0),
    ],
)
def test_invalid_settings_are_refused(make):
    with pytest.raises(SettingsError):
        make()


def test_equal_settings_give_equal_flows(events, tmp_path):
    categories = by_category(events)
    torch.manual_seed(7)
    first, _ = train_flows(QUICK, categories, tmp_path / "first")
    second, _ = train_flows(QUICK, categories, tmp_path / "second")
    inputs = np.random.default_rng(1).normal(size=(20, 20)).astype(np.float32)
    for name, feature in first["one_jet"].of(inputs).items():
        np.testing.assert_array_equal(second["one_jet"].of(inputs)[name], feature)
