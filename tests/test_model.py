"""The contract of the submission: answers, purity, pickling, and frames no one should send."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st

from model import Model
from sage.challenge.features import DERIVED
from sage.challenge.nuisances import NAMES
from sage.challenge.shifts import PRIMARIES
from sage.files.manifest import MANIFEST, signed
from tests.drawing import few_and_many
from tests.events import FIVE_WEIGHTS, drawn_frame, full_weights

ROOT = Path(__file__).resolve().parents[1]
KEYS = {"mu_hat", "delta_mu_hat", "p16", "p84"}


@pytest.fixture(scope="module")
def model() -> Model:
    built = Model(get_train_set=lambda: None, systematics=lambda: None)
    built.fit()
    return built


@pytest.fixture(scope="module")
def few_bins(demo_weights) -> Model:
    """A model whose whole ladder of fits takes a fraction of a second."""
    return Model(weights=demo_weights)


@pytest.fixture(scope="module")
def test_set() -> dict[str, object]:
    """About 40 000 events drawn with replacement from the embedded file: quick, and of realistic composition."""
    frame = drawn_frame(40_000, 3)
    for name in DERIVED:
        frame[name] = np.float32(0.0)
    return {"data": frame, "weights": full_weights(len(frame))}


def check(answer, model) -> None:
    assert set(answer) == KEYS
    assert all(type(value) is float and math.isfinite(value) for value in answer.values())
    assert answer["p16"] <= answer["mu_hat"] <= answer["p84"]
    assert answer["delta_mu_hat"] == (answer["p84"] - answer["p16"]) / 2
    assert json.loads(json.dumps(model.last_result.to_dict()))["mu_hat"] == answer["mu_hat"]


def frame_bytes(test_set) -> bytes:
    return pickle.dumps((list(test_set["data"].columns), test_set["data"].to_numpy().tobytes()))


def test_answer_is_finite_ordered_and_explained(model, test_set):
    answer = model.predict(test_set)
    check(answer, model)
    result = model.last_result
    assert result.n_events == 40_000
    assert tuple(result.nuisances) == NAMES
    assert result.status in {"ok", "flagged"}


def test_same_input_same_answer_new_dict_input_unchanged(model, test_set):
    before = frame_bytes(test_set)
    answers = [model.predict(test_set) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert len({id(answer) for answer in answers}) == 3
    assert frame_bytes(test_set) == before


def test_an_answer_does_not_depend_on_those_before(model, test_set):
    first = model.predict(test_set)
    half = {"data": test_set["data"].iloc[::2], "weights": full_weights(20_000)}
    model.predict(half)
    model.predict({"data": None})
    assert model.predict(test_set) == first


def test_order_and_index_of_rows_and_columns_do_not_matter(model, test_set):
    answer = model.predict(test_set)
    sigma = answer["delta_mu_hat"]
    shuffled = test_set["data"].sample(frac=1, random_state=4)
    shuffled = shuffled[shuffled.columns[::-1]]
    other = model.predict({"data": shuffled, "weights": test_set["weights"]})
    assert other["mu_hat"] == pytest.approx(answer["mu_hat"], abs=1e-3 * sigma)
    without = model.predict({"data": test_set["data"][list(PRIMARIES)], "weights": test_set["weights"]})
    assert without == answer


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_before_and_after_fit_and_predict(test_set, protocol):
    fresh = Model(get_train_set=lambda: None, systematics=lambda: None)
    fresh.fit()
    answer = fresh.predict(test_set)
    content = pickle.dumps(fresh, protocol=protocol)
    # The tables stay behind, because the fit reads the smooth response.
    assert len(content) < 1e6
    restored = pickle.loads(content)
    assert restored.get_train_set is None
    assert restored.systematics is None
    assert restored.predict(test_set) == answer
    unfitted = pickle.loads(pickle.dumps(Model(get_train_set=lambda: None), protocol=protocol))
    assert unfitted.predict(test_set) == answer


def test_the_tables_travel_where_the_fit_reads_them(test_set, tmp_path):
    weights = tmp_path / "weights"
    shutil.copytree(FIVE_WEIGHTS, weights)
    manifest = json.loads((weights / MANIFEST).read_text())
    manifest["settings"]["templates"] = "grid"
    (weights / MANIFEST).write_text(json.dumps(signed(manifest)))
    model = Model(weights=weights)
    content = pickle.dumps(model)
    assert 40e6 < len(content) < 50e6
    few = {"data": test_set["data"], "weights": full_weights(40_000)}
    answer = model.predict(few)
    assert not [flag for flag in model.last_result.flags if flag.startswith("fit_by")]
    assert pickle.loads(content).predict(few) == answer


def test_restored_in_another_process_and_folder(model, test_set, tmp_path):
    small = {"data": test_set["data"].iloc[:20_000], "weights": full_weights(20_000)}
    answer = model.predict(small)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    (tmp_path / "set.pkl").write_bytes(pickle.dumps(small))
    program = (
        f"import sys, pickle, json; sys.path.append({str(ROOT)!r})\n"
        f"model = pickle.load(open({str(tmp_path / 'model.pkl')!r}, 'rb'))\n"
        f"data = pickle.load(open({str(tmp_path / 'set.pkl')!r}, 'rb'))\n"
        "print(json.dumps(model.predict(data)))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == pytest.approx(answer, rel=1e-6)


def test_random_states_and_output_untouched(model, test_set, capsys, caplog):
    states = random.getstate(), copy.deepcopy(np.random.get_state()), torch.get_rng_state()
    with caplog.at_level("INFO"):
        model.predict(test_set)
        model.predict({"data": pd.DataFrame(), "weights": []})
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


def test_bound_on_mu_is_a_setting_that_is_off(test_set):
    few = {"data": test_set["data"].iloc[:20_000], "weights": full_weights(20_000)}
    free = Model().predict(few)
    bound = Model(mu_range=(1.5, 3.0))
    answer = bound.predict(few)
    assert 1.5 <= answer["p16"] <= answer["p84"] <= 3.0
    assert free["p16"] < 1.5


def test_extra_arguments_of_other_harnesses_are_accepted():
    assert Model(get_train_set=None, systematics=None, model_type="BDT").last_result is None
    with pytest.raises(ValueError, match="choose one of"):
        Model(nuisances="mine")


BAD_FRAMES = {
    "missing column": lambda d: d.drop(columns="PRI_met"),
    "no columns": lambda d: d[[]],
    "empty": lambda d: d.iloc[:0],
    "strings": lambda d: d.assign(PRI_met="x"),
    "objects": lambda d: d.assign(PRI_met=[None] * len(d)),
    "doubled column": lambda d: pd.concat([d, d[["PRI_met"]]], axis=1),
    "not a frame": lambda d: 7,
    "all NaN": lambda d: d * np.nan,
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_frames_that_cannot_be_measured_get_the_flagged_fallback(model, test_set, kind):
    frame = BAD_FRAMES[kind](test_set["data"].iloc[:200].copy())
    answer = model.predict({"data": frame, "weights": np.ones(200)})
    check(answer, model)
    assert model.last_result.status == "fallback"
    assert model.last_result.flags
    assert answer == pytest.approx({"mu_hat": 1.55, "delta_mu_hat": 0.99, "p16": 0.56, "p84": 2.54})


def test_the_flag_names_the_column(model, test_set):
    model.predict({"data": test_set["data"].drop(columns="PRI_lep_eta"), "weights": test_set["weights"]})
    assert "PRI_lep_eta" in model.last_result.flags[0]


ODD_FRAMES = {
    "one NaN": lambda d: d.assign(PRI_met=d.PRI_met.where(d.index != 3, np.nan)),
    "one infinity": lambda d: d.assign(PRI_lep_pt=d.PRI_lep_pt.where(d.index != 3, np.inf)),
    "one huge value": lambda d: d.assign(PRI_met=d.PRI_met.where(d.index != 3, np.float32(1e30))),
    "float64": lambda d: d.astype(np.float64),
    "float16": lambda d: d.astype(np.float16),
    "integers": lambda d: d.astype(np.int64),
    "read-only": lambda d: d.copy(),
    "multi-index": lambda d: d.set_index([d.index // 2, d.index % 2]),
    "doubled index": lambda d: d.set_axis(np.zeros(len(d), dtype=int)),
    "extra column": lambda d: d.assign(extra="text"),
    "arrow": lambda d: d.convert_dtypes(dtype_backend="pyarrow"),
    "subleading jet gone": lambda d: d.assign(PRI_jet_subleading_pt=-25.0, PRI_n_jets=2.0),
    "leading jet gone": lambda d: d.assign(PRI_jet_leading_pt=-25.0),
}

DISTORTING = {"integers", "subleading jet gone", "leading jet gone"}
"""What makes other events of them, which no template describes."""


@pytest.mark.parametrize("kind", ODD_FRAMES)
def test_odd_frames_are_measured(model, test_set, kind):
    frame = ODD_FRAMES[kind](test_set["data"].iloc[:20_000].copy())
    answer = model.predict({"data": frame, "weights": full_weights(len(frame))})
    check(answer, model)
    if kind in DISTORTING:
        assert model.last_result.flags[0].startswith(("FitError", "poor_fit"))
    else:
        assert model.last_result.status != "fallback"
    if kind in {"float64", "float16", "integers"}:
        assert any(flag.startswith("converted: PRI_met from ") for flag in model.last_result.flags)
    if kind in {"one NaN", "one infinity"}:
        assert "unusable_rows: 1" in model.last_result.flags


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_a_handful_of_events(model, test_set, rows):
    check(model.predict({"data": test_set["data"].iloc[:rows], "weights": np.ones(rows)}), model)
    assert model.last_result.flags


@pytest.mark.parametrize("weights", [None, "x", [1.0], -np.ones(500), np.full(500, np.nan)], ids=repr)
def test_odd_weights_are_flagged_or_ignored(model, test_set, weights):
    given_set = {"data": test_set["data"].iloc[:500]}
    if weights is not None:
        given_set["weights"] = weights
    check(model.predict(given_set), model)
    flags = " ".join(model.last_result.flags)
    assert weights is None or "weights_ignored" in flags or "no_events" in flags


def check_frames(few_bins, rows, value, column, dtype):
    frame = pd.DataFrame({name: np.full(rows, 30.0, dtype=np.float32) for name in PRIMARIES})
    frame[column] = pd.Series([value] * rows, dtype=dtype)
    check(few_bins.predict({"data": frame, "weights": np.ones(rows)}), few_bins)


test_any_frame_gives_a_finite_ordered_answer, test_more_frames = few_and_many(
    check_frames,
    (8, 80),
    rows=st.integers(0, 40),
    value=st.one_of(st.floats(width=32), st.sampled_from([-25.0, 0.0, 26.0, 1e30, -1e30])),
    column=st.sampled_from(PRIMARIES),
    dtype=st.sampled_from(["float32", "float64", "object"]),
)
