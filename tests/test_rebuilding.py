"""Tables rebuilt in ``fit``: what they cure, when they are adopted, and what never stops a submission."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest

from model import Model
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES, select, shift
from sage.errors import InputError
from sage.files.settings import Rebuilding, read_rebuilding
from sage.rebuilding import read_sample, thin
from tests.events import columns_of, embedded_frame

ROWS = 40_000
ALL = {"mode": "rebuild", "train_size": 1.0}
TOTAL = 1_051_383.0


def loaded(n):
    """Events as the loader returns them, scaled to a full experiment."""
    frame = embedded_frame(n)
    return frame.assign(weights=frame["weights"] * (TOTAL / frame["weights"].sum()))


@pytest.fixture(scope="module")
def events():
    return loaded(ROWS)


@pytest.fixture(scope="module")
def miscalibrated(events):
    """The same events as a detector sees them whose lepton momentum is 3 % high."""
    return events.assign(PRI_lep_pt=(events["PRI_lep_pt"] * np.float32(1.03)).round(3))


def expectation(frame):
    """Pseudo-data without fluctuations: every selected event with its weight, mu = 1."""
    selected, rows = select(shift(columns_of(frame)))
    return {"data": pd.DataFrame(selected), "weights": frame["weights"].to_numpy(np.float64)[rows]}


def fitted(frame, **how):
    model = Model(get_train_set=lambda train_size: frame, rebuilding={**ALL, **how})
    model.fit()
    return model


@pytest.fixture
def few_nodes(monkeypatch):
    """For tests to which the quality of the tables does not matter."""
    monkeypatch.setattr("sage.rebuilding.NODES", 20)


@pytest.fixture(scope="module")
def nominal_model(events):
    return fitted(events)


@pytest.fixture(scope="module")
def rebuilt_model(miscalibrated):
    return fitted(miscalibrated)


def test_rebuilding_removes_the_bias_of_a_miscalibrated_lepton(nominal_model, rebuilt_model, miscalibrated):
    """The pseudo-data are the expectation, so mu = 1 up to the smoothing of tables made of few, heavy events."""
    data = expectation(miscalibrated)
    biased, unbiased = nominal_model.predict(data), rebuilt_model.predict(data)
    sigma = unbiased["delta_mu_hat"]
    assert abs(unbiased["mu_hat"] - 1.0) < 0.6 * sigma
    assert abs(biased["mu_hat"] - 1.0) > 2.0 * sigma
    # Half of the goodness of fit: no nuisance parameter describes such a lepton.
    assert nominal_model.last_result.nll > 3 * rebuilt_model.last_result.nll


def test_report(rebuilt_model):
    report = rebuilt_model.fit_report
    assert report["adopted"]
    assert report["mode"] == "rebuild"
    assert report["rows"] == report["rows_used"] == ROWS
    assert report["effective_weight"] > 10
    assert report["seconds"] >= report["call_seconds"] >= 0
    assert json.loads(json.dumps(report)) == report
    assert Model().fit_report is None


def test_rebuilt_tables_stand_where_the_bundled_ones_stood(nominal_model, events):
    bundled, bundle = Model().bundle, nominal_model.bundle
    selected = select(shift(columns_of(events)))[1]
    kept = events.iloc[selected]
    for p, process in enumerate(PROCESSES):
        weights = kept["weights"].to_numpy(np.float64)[(kept["detailed_labels"] == process).to_numpy()]
        assert bundle.response.nominal[p].sum() == pytest.approx(weights.sum(), rel=1e-6)
        assert bundle.variances[p].sum() == pytest.approx((weights**2).sum(), rel=1e-6)
    assert bundle.response.nominal.shape == bundled.response.nominal.shape
    assert bundle.tables is None
    assert bundle.network is not bundled.network
    assert bundle.regions == bundled.regions


def test_fitted_model_travels_without_the_events(rebuilt_model, miscalibrated):
    content = pickle.dumps(rebuilt_model)
    assert len(content) < 50e6
    data = expectation(miscalibrated.head(3000))
    restored = pickle.loads(content)
    assert restored.predict(data) == rebuilt_model.predict(data)
    assert restored.fit_report == rebuilt_model.fit_report


def test_one_call_with_a_fraction_from_a_seeded_state_that_is_put_back(events, tmp_path):
    def get_train_set(**arguments):
        with (tmp_path / "calls").open("a") as stream:  # it runs in a process of its own
            print(json.dumps([arguments, np.random.random()]), file=stream)
        return events

    state = np.random.get_state()
    for _ in range(2):
        Model(get_train_set=get_train_set).fit()
        np.random.random()
    np.random.set_state(state)
    expected = np.random.random()
    np.random.set_state(state)
    Model(get_train_set=get_train_set).fit()
    assert np.random.random() == expected
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == [calls[0]] * 3
    assert calls[0][0] == {"train_size": 0.05}


def unscaled(events):
    return events.assign(weights=events["weights"] / 30)


BAD = {
    "nothing": (lambda e: None, "NoneType"),
    "no label": (lambda e: e.drop(columns="detailed_labels"), "'detailed_labels' missing"),
    "no weights": (lambda e: e.drop(columns="weights"), "'weights' missing"),
    "no primary": (lambda e: e.drop(columns="PRI_met"), "'PRI_met' missing"),
    "doubled column": (
        lambda e: pd.concat([e, e[["PRI_met"]]], axis=1),
        "'PRI_met' of the training events is there 2 times",
    ),
    "other label": (lambda e: e.assign(detailed_labels="ww"), "holds 'ww'"),
    "no signal": (lambda e: e[e["detailed_labels"] != "htautau"], "each process"),
    "no rows": (lambda e: e.iloc[:0], "each process"),
    "text": (lambda e: e.assign(PRI_met="x"), "could not convert"),
    "negative weights": (lambda e: e.assign(weights=-e["weights"]), "must not be negative"),
    "no numbers": (lambda e: e.assign(PRI_met=np.float32(np.nan)), "each process"),
    "weights of a part": (unscaled, "not scaled to 10 fb"),
}


@pytest.mark.parametrize("kind", BAD)
def test_frames_that_cannot_be_used_leave_the_bundled_tables(kind, few_nodes):
    change, reason = BAD[kind]
    model = fitted(change(loaded(2000)))
    assert not model.fit_report["adopted"]
    assert reason in model.fit_report["reason"]
    assert model.bundle.response.nominal.tobytes() == Model().bundle.response.nominal.tobytes()


def test_whatever_the_loader_raises_leaves_the_bundled_tables():
    def get_train_set(train_size):
        raise MemoryError

    state = np.random.get_state()
    model = Model(get_train_set=get_train_set)
    model.fit()
    assert model.fit_report["reason"].startswith("MemoryError")
    assert np.array_equal(np.random.get_state()[1], state[1])


def test_odd_frames_are_used(few_nodes):
    few = loaded(2000)
    model = fitted(few)
    assert model.fit_report["adopted"]
    expected = model.bundle.response.nominal
    shuffled = few[few.columns[::-1]].set_axis(np.zeros(len(few), dtype=int))
    np.testing.assert_allclose(fitted(shuffled).bundle.response.nominal, expected)
    wide = few.astype(dict.fromkeys([*PRIMARIES, "weights"], np.float64)).assign(extra="text", DER_mass_vis=0.0)
    np.testing.assert_allclose(fitted(wide).bundle.response.nominal, expected)
    arrow = few.convert_dtypes(dtype_backend="pyarrow")
    np.testing.assert_allclose(fitted(arrow).bundle.response.nominal, expected)
    hole = few.assign(PRI_met=few["PRI_met"].where(np.arange(len(few)) != 5, np.inf))
    assert fitted(hole).fit_report["rows"] == len(few) - 1


def test_modes(few_nodes):
    few = loaded(3000)
    heavy = fitted(few, mode="auto")
    assert not heavy.fit_report["adopted"]
    assert "more than 0.5: too few training events (3000)" in heavy.fit_report["reason"]
    assert fitted(few, mode="auto", largest_weight=1e4).fit_report["adopted"]
    never = Model(get_train_set=lambda **_: pytest.fail("was called"), rebuilding="bundled")
    never.fit()
    assert never.fit_report["reason"] == "the settings choose the bundled tables"
    alone = Model(rebuilding="rebuild")
    alone.fit()
    assert "no get_train_set" in alone.fit_report["reason"]


def test_settings():
    assert read_rebuilding({}) == Rebuilding()
    assert read_rebuilding({"rebuilding": {"train_size": 0.3}}, "bundled") == Rebuilding("bundled", 0.3)
    assert read_rebuilding({"rebuilding": {"train_size": 0.3}}, {"train_size": 0.2}).train_size == 0.2
    with pytest.raises(ValueError, match="no rebuilding mode 'sometimes'; choose one of auto, bundled, rebuild"):
        Model(rebuilding="sometimes")
    for name, value in (("train_size", 0.0), ("train_size", 1.5), ("time_budget", -1.0), ("largest_weight", np.nan)):
        with pytest.raises(ValueError, match="must be in"):
            Rebuilding(**{name: value})


def test_no_time_leaves_the_bundled_tables_and_little_time_leaves_out_rows(events, few_nodes, monkeypatch):
    assert "took longer than allowed" in fitted(events, time_budget=1e-6).fit_report["reason"]
    # A pilot that seems to take its time, so that not all rows can be afforded.
    monkeypatch.setattr("sage.rebuilding.SHARE_OF_TIME", 0.8 * 1e-3)
    model = fitted(events, time_budget=600.0)
    report = model.fit_report
    assert report["adopted"], report
    assert 0 < report["rows_used"] < report["rows"]


def test_thinning_keeps_totals_and_rare_processes(events):
    sample = read_sample(events)
    thinned = thin(sample, 4000)
    assert 3990 <= len(thinned) <= 4000
    for p in range(len(PROCESSES)):
        before, after = sample.classes == p, thinned.classes == p
        assert thinned.weights[after].sum() == pytest.approx(sample.weights[before].sum())
    # The square roots of the yields differ less than the yields, so no rare process vanishes.
    share = np.bincount(thinned.classes) / len(thinned)
    totals = np.bincount(sample.classes, sample.weights)
    capped = np.bincount(thinned.classes) == np.bincount(sample.classes)
    free = ~capped
    ratio = share[free] / np.sqrt(totals[free])
    assert ratio.max() / ratio.min() == pytest.approx(1.0, rel=0.02)
    assert np.isin(thinned.ids, sample.ids).all()
    assert len(set(thinned.ids.tolist())) == len(thinned)
    assert len(thin(sample, 10 * ROWS)) == ROWS
    with pytest.raises(TimeoutError, match="time for 3 rows only"):
        thin(sample, 3)


def test_samples_need_every_process(events):
    with pytest.raises(InputError, match="each process"):
        read_sample(events[events["detailed_labels"] == "ztautau"])
