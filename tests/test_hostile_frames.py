"""Frames no one should send: the answer stays finite and ordered, says what was wrong, and the frame is unchanged."""

from __future__ import annotations

import decimal
import hashlib
import json
import math
import resource
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from model import Model
from sage.challenge.frame import read_test_set
from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from sage.measurement import count_events
from sage.network.classifier import NetworkClassifier
from tests.drawing import few_and_many
from tests.events import EXPECTED, drawn_frame, full_weights

ROWS, FEW = 20_000, 300


@pytest.fixture(scope="module")
def model():
    return Model(threads=1)


@pytest.fixture(scope="module")
def frame():
    return drawn_frame(ROWS, 8)


@pytest.fixture(scope="module")
def few(frame):
    """Enough to be read and counted."""
    return frame.iloc[:FEW]


@pytest.fixture(scope="module")
def engine(model):
    return NetworkClassifier(model.bundle.network, model.bundle.normalisation, threads=1)


def weights_of(frame):
    return full_weights(len(frame))


def digest(frame):
    """Everything about a frame that a submission could change."""
    if not isinstance(frame, pd.DataFrame):
        return repr(frame)
    content = hashlib.sha256(repr((list(frame.columns), frame.dtypes.tolist(), frame.index.tolist())).encode())
    for i in range(frame.shape[1]):
        column = frame.iloc[:, i]
        plain = isinstance(column.dtype, np.dtype) and column.dtype != object
        content.update(column.to_numpy().tobytes() if plain else repr(column.tolist()).encode())
    return content.hexdigest()


def measured(model, frame, weights):
    """Predict and check what must hold for any input."""
    before = digest(frame), repr(weights), np.geterr()
    answer = model.predict({"data": frame, "weights": weights})
    assert (digest(frame), repr(weights), np.geterr()) == before
    assert set(answer) == {"mu_hat", "delta_mu_hat", "p16", "p84"}
    assert all(type(value) is float and math.isfinite(value) for value in answer.values())
    assert answer["p16"] <= answer["mu_hat"] <= answer["p84"]
    result = model.last_result
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["status"] == result.status
    assert (result.status == "ok") == (not result.flags)
    return result


NO_JETS = {f"PRI_jet_{jet}_{part}": -25.0 for jet in ("leading", "subleading") for part in ("pt", "eta", "phi")}
NO_JETS |= {"PRI_n_jets": 0.0, "PRI_jet_all_pt": 0.0}

NO_INTERVAL = "no step of the fit gave an interval"
"""No signal strength describes such data."""

# What is sent, and what the answer has to say about it.
FRAMES = {
    "complex numbers": (lambda d: d.assign(PRI_met=d.PRI_met.astype(complex)), "fallback", "input: column 'PRI_met'"),
    "dates": (lambda d: d.assign(PRI_met=pd.Timestamp(0)), "fallback", "input: column 'PRI_met'"),
    "durations": (lambda d: d.assign(PRI_met=pd.Timedelta(1)), "fallback", "input: column 'PRI_met'"),
    "integers beyond float": (lambda d: d.assign(PRI_met=[10**400] * len(d)), "fallback", "input: column 'PRI_met'"),
    "lists": (lambda d: d.assign(PRI_met=[[1, 2]] * len(d)), "fallback", "input: column 'PRI_met'"),
    "text": (lambda d: d.assign(PRI_met="thirty"), "fallback", "input: column 'PRI_met'"),
    "records": (lambda d: d.to_records(), "fallback", ""),
    "columns of other lengths": (lambda d: {n: d[n].to_numpy()[: 5 + i] for i, n in enumerate(d)}, "fallback", ""),
    "all columns twice": (lambda d: pd.concat([d, d], axis=1), "fallback", "is there 2 times"),
    "names that are no text": (lambda d: d.set_axis(range(d.shape[1]), axis=1), "fallback", "missing"),
    "names in other case": (lambda d: d.rename(columns=str.lower), "fallback", "missing"),
    "all infinite": (lambda d: d * np.inf, "fallback", "no_events"),
    "no rows": (lambda d: d.iloc[:0], "fallback", "no_events"),
    "one row": (lambda d: d.iloc[:1], "fallback", NO_INTERVAL),
    "all rows alike": (lambda d: d.iloc[[7] * len(d)], "fallback", NO_INTERVAL),
    "only events without jets": (lambda d: d.assign(**NO_JETS).astype(np.float32), "fallback", NO_INTERVAL),
    "zeros": (lambda d: d * np.float32(0), "fallback", NO_INTERVAL),
    "1e30 everywhere": (lambda d: d * np.float32(0) + np.float32(1e30), "fallback", NO_INTERVAL),
    "-1e30 everywhere": (lambda d: d * np.float32(0) - np.float32(1e30), "fallback", NO_INTERVAL),
    "largest float32": (lambda d: d * np.float32(0) + np.finfo(np.float32).max, "fallback", NO_INTERVAL),
    "denormal": (lambda d: d * np.float32(0) + np.float32(1e-40), "fallback", NO_INTERVAL),
    "beyond float32": (lambda d: d.astype(np.float64).replace(d.PRI_met[0], 1e300), "flagged", "unusable_rows"),
    "missing integer": (
        lambda d: d.assign(PRI_n_jets=pd.array([pd.NA, *d.PRI_n_jets[1:].astype(int)], dtype="Int64")),
        "flagged",
        "unusable_rows: 1",
    ),
    "missing object": (lambda d: d.assign(PRI_met=[None, *d.PRI_met[1:]]), "flagged", "unusable_rows: 1"),
    "decimals": (
        lambda d: d.assign(PRI_met=[decimal.Decimal(str(x)) for x in d.PRI_met]),
        "flagged",
        "converted: PRI_met",
    ),
    "truth values": (lambda d: d.assign(PRI_n_jets=True), "fallback", "converted: PRI_n_jets from bool"),
    "numbers as text": (lambda d: d.assign(PRI_n_jets=d.PRI_n_jets.astype(str)), "flagged", "converted: PRI_n_jets"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_that_hold_something_else(model, frame, kind):
    change, status, flag = FRAMES[kind]
    sent = change(frame.copy())
    result = measured(model, sent, weights_of(sent if isinstance(sent, pd.DataFrame) else frame))
    assert result.status == status
    assert any(flag in text for text in result.flags)


def not_contiguous(frame):
    wide = np.repeat(frame.to_numpy(), 2, axis=1)[:, ::2]
    wide.flags.writeable = False
    return pd.DataFrame(wide, columns=frame.columns, copy=False)


SAME = {
    "read-only, not contiguous": not_contiguous,
    "reversed views": lambda d: d.iloc[::-1].iloc[::-1],
    "columns sorted by name": lambda d: d[sorted(d.columns)],
    "more columns": lambda d: d.assign(PRI_lep_charge="x", weights=np.nan, labels=None),
    "index doubled": lambda d: d.set_axis([0] * len(d)),
    "index with gaps": lambda d: d.set_axis(np.arange(len(d)) ** 2),
    "index shuffled": lambda d: d.set_axis(np.random.default_rng(1).permutation(len(d))),
    "index of times": lambda d: d.set_axis(pd.date_range("2024", periods=len(d))),
    "index of pairs": lambda d: d.set_index([d.index // 2, d.index % 2]),
    "index of nothing": lambda d: d.set_axis([None] * len(d)),
    "categories": lambda d: d.assign(PRI_n_jets=d.PRI_n_jets.astype("category")),
    "sparse": lambda d: d.assign(PRI_met=pd.arrays.SparseArray(d.PRI_met)),
    "nullable": lambda d: d.astype("Float32"),
    "arrow": lambda d: d.astype("float[pyarrow]"),
    "other byte order": lambda d: d.astype(">f4"),
    "plain dict": lambda d: {name: d[name].to_numpy() for name in d},
}


@pytest.mark.parametrize("kind", SAME)
def test_frames_that_hold_the_same_give_the_same(model, frame, kind):
    expected = measured(model, frame, weights_of(frame))
    sent = SAME[kind](frame.copy())
    result = measured(model, sent, weights_of(frame))
    assert result.answer() == expected.answer()


WEIGHTS = {
    "zeros": (np.zeros, ""),
    "one infinite": (lambda n: np.r_[np.inf, np.ones(n - 1)], "unusable_rows: 1"),
    "one missing": (lambda n: np.r_[np.nan, np.ones(n - 1)], "unusable_rows: 1"),
    "all missing": (lambda n: [None] * n, "unusable_rows"),
    "1e308": (lambda n: np.full(n, 1e308), "weights_ignored"),
    "one 1e20": (lambda n: np.r_[1e20, np.ones(n - 1)], "weights_ignored"),
    "1e-300": (lambda n: np.full(n, 1e-300), ""),
    "complex": (lambda n: np.ones(n, complex), "weights_ignored"),
    "dates": (lambda n: np.zeros(n, "M8[s]"), "weights_ignored"),
    "records": (lambda n: np.zeros(n, [("a", "f4")]), "weights_ignored"),
    "a column": (lambda n: np.ones((n, 1)), "weights_ignored"),
    "too many": (lambda n: np.ones(n + 1), "weights_ignored"),
    "one number": (lambda n: 1.0, "weights_ignored"),
    "one negative": (lambda n: np.r_[-1.0, np.ones(n - 1)], "weights_ignored"),
    "integers beyond float": (lambda n: [10**400] * n, "weights_ignored"),
    "nested": (lambda n: [[1.0], 2.0], "weights_ignored"),
    "text": (lambda n: "weights", "weights_ignored"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_none(few, kind):
    make_weights, flag = WEIGHTS[kind]
    sent = make_weights(FEW)
    before = repr(sent)
    _, used, flags = read_test_set({"data": few, "weights": sent})
    assert repr(sent) == before
    assert np.isfinite(used).all()
    assert (used >= 0).all()
    assert any(flag in text for text in flags) or not flag
    if flag == "weights_ignored":
        assert (used == 1).all()


@pytest.mark.parametrize("kind", ["zeros", "all missing"])
def test_weights_that_leave_nothing(model, few, kind):
    assert measured(model, few, WEIGHTS[kind][0](FEW)).flags == ("no_events",)


def test_weights_as_list_series_and_array_are_the_same(model, frame):
    ones = [EXPECTED / ROWS] * ROWS
    series = pd.Series(ones, index=np.arange(ROWS)[::-1])
    answers = [measured(model, frame, sent).answer() for sent in (ones, tuple(ones), series, np.array(ones))]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("sent", [None, 3, [], [1], {}, {"weights": 1}, {"data": None}, {"data": []}, "data"], ids=repr)
def test_test_sets_that_are_none(model, sent):
    assert model.predict(sent)["mu_hat"] == 1.55
    assert model.last_result.status == "fallback"


SPECIAL = [
    math.nan,
    math.inf,
    -math.inf,
    1e30,
    -1e30,
    3.4e38,
    1e300,
    1e-40,
    -0.0,
    0.0,
    -25.0,
    25.999,
    26.0,
    2**31,
    3.15,
]
VALUES = st.one_of(st.sampled_from(SPECIAL), st.floats(), st.integers(-(10**6), 10**6))
TYPES = ["float16", "float32", "float64", "int64", "object", "str", "bool", "Float32", "float[pyarrow]", "category"]

NUMBERS = st.integers(0, 1000)
COLUMNS = st.sampled_from(PRIMARIES)


def set_value(frame, value, column, first, count):
    frame = frame.astype({column: "float64"})
    rows = slice(first % max(len(frame), 1), first % max(len(frame), 1) + count)
    frame.iloc[rows, frame.columns.get_loc(column)] = value
    return frame if abs(value) > 1e38 else frame.astype({column: "float32"})


def set_type(frame, kind, column, everywhere):
    try:
        return frame.astype(kind if everywhere else {column: kind})
    except (ValueError, TypeError, NotImplementedError):  # pandas refuses to make integers of missing values
        return frame


CHANGES = st.one_of(
    st.tuples(st.just("value"), VALUES, COLUMNS, NUMBERS, st.sampled_from([1, 2, 50, FEW])),
    st.tuples(st.just("type"), st.sampled_from(TYPES), COLUMNS, st.booleans()),
    st.tuples(st.just("rows"), st.integers(0, 12)),
    st.tuples(st.just("drop"), COLUMNS),
    st.tuples(st.just("double"), COLUMNS),
    st.tuples(st.just("extra"), VALUES),
    st.tuples(st.just("order"), NUMBERS),
    st.tuples(st.just("index"), st.sampled_from(sorted(name for name in SAME if name.startswith("index")))),
    st.tuples(st.just("layout"), st.sampled_from(["read-only, not contiguous", "reversed views"])),
)
SENT_WEIGHTS = st.one_of(
    st.just("ones"), st.just("expected"), st.none(), st.sampled_from(sorted(WEIGHTS)), st.lists(VALUES, max_size=3)
)


def changed(frame, change):
    kind, *more = change
    if kind == "value":
        return set_value(frame, *more)
    if kind == "type":
        return set_type(frame, *more)
    if kind == "rows":
        return frame.iloc[: more[0]]
    if kind == "drop":
        return frame.drop(columns=more[0])
    if kind == "double":
        return pd.concat([frame, frame[[more[0]]]], axis=1)
    if kind == "extra":
        return frame.assign(extra=more[0])
    if kind == "order":
        return frame[list(np.random.default_rng(more[0]).permutation(frame.columns))]
    return SAME[more[0]](frame)


def numeric(frame):
    """Whether every column is there once and could be read as numbers."""
    try:
        frame[list(PRIMARIES)].astype(str).astype(float)
    except (ValueError, KeyError):
        return False
    return not frame.columns.duplicated().any()


def make(frame, changes, sent_weights):
    """Return a frame and weights, and whether a column was dropped."""
    sent = frame.copy()
    dropped = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pandas says about making the frame
        for change in changes:
            try:
                sent = changed(sent, change)
            except (
                ValueError,
                TypeError,
                LookupError,
                OverflowError,
                NotImplementedError,
            ):  # changes that do not go together
                continue
            dropped = dropped or change[0] == "drop"
    if isinstance(sent_weights, str):
        named = {"ones": np.ones(len(sent)), "expected": weights_of(sent)}
        sent_weights = named[sent_weights] if sent_weights in named else WEIGHTS[sent_weights][0](max(len(sent), 2))
    return sent, sent_weights, dropped


ANY = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
ANY["phases"] = [Phase.generate]  # shrinking and explaining take minutes


def check_counted_frames(model, engine, few, changes, sent_weights):
    """What the fit gets: finite, non-negative counts. The only error is the one that names the column."""
    sent, weights, dropped = make(few, changes, sent_weights)
    before = digest(sent), repr(weights)
    try:
        columns, used, flags = read_test_set({"data": sent, "weights": weights})
    except InputError:
        assert sent.empty or dropped or not numeric(sent)
        return
    counts = count_events(columns, model.bundle.regions, engine, used)
    assert not dropped
    assert np.isfinite(counts).all()
    assert (counts >= 0).all()
    assert counts.sum() <= used.sum() * (1 + 1e-12)
    assert len(used) == len(sent) or any(flag.startswith("unusable_rows") for flag in flags)
    assert (digest(sent), repr(weights)) == before


test_any_frame_is_counted_or_refused, test_more_counted_frames = few_and_many(
    check_counted_frames,
    (200, 1000),
    phases=[Phase.generate],
    changes=st.lists(CHANGES, max_size=3),
    sent_weights=SENT_WEIGHTS,
)


@pytest.mark.slow
@settings(max_examples=60, **ANY)
@given(changes=st.lists(CHANGES, min_size=1, max_size=3), sent_weights=SENT_WEIGHTS)
def test_any_frame_gets_an_answer(model, few, changes, sent_weights):
    sent, weights, dropped = make(few, changes, sent_weights)
    result = measured(model, sent, weights)
    if dropped or not len(sent):
        assert result.status == "fallback"


@pytest.fixture(scope="module")
def quick_model(demo_weights):
    """Of few bins, in which the whole ladder takes two seconds."""
    return Model(weights=demo_weights, threads=1)


@pytest.mark.slow
@settings(max_examples=500, **ANY)
@given(changes=st.lists(CHANGES, max_size=3), sent_weights=SENT_WEIGHTS)
def test_any_frame_gets_an_answer_from_few_bins(quick_model, few, changes, sent_weights):
    sent, weights, dropped = make(few, changes, sent_weights)
    result = measured(quick_model, sent, weights)
    if dropped or not len(sent):
        assert result.status == "fallback"


@pytest.mark.slow
def test_five_million_rows_in_bounded_memory(model, frame):
    """A frame five times as long as a full pseudo-experiment: blocks bound what is needed beside it."""
    long = frame.iloc[np.resize(np.arange(ROWS), 5_000_000)].reset_index(drop=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = measured_once(model, long, full_weights(len(long)))
    assert result.n_events == 5_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20
    short = measured(model, frame, weights_of(frame))
    assert result.mu_hat == pytest.approx(short.mu_hat, abs=0.1)


def measured_once(model, frame, weights):
    answer = model.predict({"data": frame, "weights": weights})
    assert answer["p16"] <= answer["mu_hat"] <= answer["p84"]
    return model.last_result
