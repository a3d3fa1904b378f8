"""The choice of the back end, its flags, threads, and what must not happen: torch imported, state changed, a hang."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from model import Model
from sage.challenge.frame import read_test_set
from sage.challenge.shifts import PRIMARIES
from sage.errors import EngineError
from sage.files.bundle import read_bundle
from sage.measurement import count_events
from sage.network import engine as engine_module
from sage.network.classifier import NetworkClassifier
from sage.network.engine import KINDS, Engine, default_threads
from sage.network.graph import INPUTS
from sage.network.native import LIBRARY
from tests.conftest import ROOT
from tests.events import FIVE_WEIGHTS, drawn_frame, full_weights
from tests.test_native import DAMAGE, random_events


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """One thread unless a test asks for more: torch's wait for each other on a machine that does other work too."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(FIVE_WEIGHTS)


@pytest.fixture(scope="module")
def test_set() -> dict[str, object]:
    """100 000 events drawn from the embedded file, with odd ones among them."""
    frame = drawn_frame(100_000, 5)
    frame.loc[:9, "PRI_jet_leading_pt"] = -25.0
    frame.loc[10:19, "PRI_met"] = 1e30
    frame.loc[20:29, "PRI_lep_eta"] = 1e30
    return {"data": frame, "weights": full_weights(len(frame))}


def counts(bundle, test_set, kind: str, threads: int = 1) -> np.ndarray:
    columns, weights, _ = read_test_set(test_set)
    return count_events(
        columns, bundle.regions, NetworkClassifier(bundle.network, bundle.normalisation, kind, threads), weights
    )


def test_counts_per_bin_agree_with_torch(bundle, test_set):
    native, dense = counts(bundle, test_set, "native"), counts(bundle, test_set, "torch")
    assert native.sum() == dense.sum() > 99_000
    assert np.abs(native - dense).max() <= 2


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_do_not_change_a_bit(bundle, test_set, threads):
    weighted = test_set | {"weights": np.random.default_rng(0).random(100_000)}
    expected = counts(bundle, weighted, "native")
    assert np.array_equal(counts(bundle, weighted, "native", threads), expected)


@pytest.mark.parametrize("block", [1000, 4096, 1 << 20])
def test_blocks_and_order_do_not_change_the_counts(bundle, test_set, monkeypatch, block):
    expected = counts(bundle, test_set, "native")
    monkeypatch.setattr("sage.measurement.BLOCK", block)
    shuffled = {"data": test_set["data"].sample(frac=1, random_state=2), "weights": test_set["weights"]}
    assert np.array_equal(counts(bundle, shuffled, "native", 2), expected)


def test_the_automatic_choice_is_the_kernel_and_logged_at_debug_level(test_set, caplog):
    model = Model()
    with caplog.at_level(logging.DEBUG, "sage.network.engine"):
        model.predict({"data": test_set["data"].iloc[:20_000], "weights": full_weights(20_000)})
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]
    assert caplog.records[0].getMessage().startswith("engine: native (")
    assert not [flag for flag in model.last_result.flags if flag.startswith("engine")]


def test_forced_engines_agree(test_set):
    answers = {}
    for kind in ("native", "torch"):
        model = Model(engine=kind)
        answers[kind] = model.predict(test_set)
        assert model.last_result.status != "fallback"
    sigma = answers["torch"]["delta_mu_hat"]
    assert answers["native"]["mu_hat"] == pytest.approx(answers["torch"]["mu_hat"], abs=0.01 * sigma)


@pytest.mark.parametrize("kind", ["missing", *DAMAGE])
def test_unusable_library_falls_through_to_torch_and_is_flagged(test_set, tmp_path, monkeypatch, kind):
    few = {"data": test_set["data"].iloc[:50_000], "weights": full_weights(50_000)}
    expected = Model(engine="torch").predict(few)
    path = tmp_path / LIBRARY.name
    if kind != "missing":
        path.write_bytes(DAMAGE[kind](LIBRARY.read_bytes()))
    monkeypatch.setattr("sage.network.native.LIBRARY", path)
    model = Model()
    assert model.predict(few) == expected
    assert model.last_result.status == "flagged"
    assert any(flag.startswith("engine: torch (native library") for flag in model.last_result.flags)
    assert model.predict(few) == expected
    forced = Model(engine="native")
    forced.predict(few)
    assert forced.last_result.status == "fallback"
    assert "the network cannot run here: native library" in forced.last_result.flags[0]


def test_without_any_back_end_the_answer_is_the_flagged_fallback(test_set, tmp_path, monkeypatch):
    monkeypatch.setattr("sage.network.native.LIBRARY", tmp_path / "none.so")
    monkeypatch.setitem(sys.modules, "sage.network.dense", None)
    model = Model()
    assert model.predict(test_set)["mu_hat"] == 1.55
    assert "native library" in model.last_result.flags[0]
    assert "torch: " in model.last_result.flags[0]


def test_the_kernel_comes_before_a_gpu_which_is_not_even_looked_for(bundle, monkeypatch):
    monkeypatch.setattr(engine_module, "_gpu_usable", lambda: pytest.fail("asked for a GPU"))
    engine = Engine(bundle.network)
    engine.probabilities(*random_events(3))
    assert engine._backend.name.startswith("native (")
    assert engine.flags == ()


def test_without_the_kernel_a_gpu_that_fails_is_left_for_torch_and_flagged(bundle, monkeypatch, tmp_path):
    """There is no GPU here: a back end that runs out of memory stands for it."""

    class Failing:
        name = "cuda"

        def probabilities(self, values, jets):
            msg = "CUDA out of memory. Tried\nto allocate"
            raise torch.OutOfMemoryError(msg)

        def map(self, function, items):
            yield from map(function, items)

    build = Engine._build
    monkeypatch.setattr("sage.network.native.LIBRARY", tmp_path / "none.so")
    monkeypatch.setattr(engine_module, "_gpu_usable", lambda: True)
    monkeypatch.setattr(Engine, "_build", lambda self, kind: Failing() if kind == "cuda" else build(self, kind))
    values, jets = random_events(100)
    engine = Engine(bundle.network)
    found = list(
        engine.map(lambda rows: engine.probabilities(values[rows], jets[rows]), [slice(0, 50), slice(50, 100)])
    )
    dense = Engine(bundle.network, "torch")
    expected = [dense.probabilities(values[rows], jets[rows]) for rows in (slice(0, 50), slice(50, 100))]
    assert np.array_equal(np.concatenate(found), np.concatenate(expected))
    assert engine.flags[0].startswith("engine: torch (native library none.so")
    assert engine.flags[0].endswith("; cuda: CUDA out of memory. Tried)")


def test_a_forced_gpu_that_is_not_there_is_an_error(bundle):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="cuda"):
        Engine(bundle.network, "cuda").probabilities(*random_events(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees(bundle, test_set):
    values, jets = random_events(20_000)
    found = Engine(bundle.network, "cuda").probabilities(values, jets)
    assert np.abs(found - Engine(bundle.network, "native").probabilities(values, jets)).max() < 1e-4
    model = Model(engine="cuda")
    found, expected = model.predict(test_set), Model(engine="native").predict(test_set)
    assert model.last_result.status != "fallback"
    assert found["mu_hat"] == pytest.approx(expected["mu_hat"], abs=0.02 * expected["delta_mu_hat"])


@pytest.mark.parametrize("arguments", [{"engine": "gpu"}, {"threads": 0}])
def test_impossible_choices_are_refused_at_once(arguments):
    with pytest.raises(ValueError, match=r"choose one of|at least 1"):
        Model(**arguments)


def test_no_torch_on_the_native_path(tmp_path):
    drawn_frame(20_000, 3).to_pickle(tmp_path / "frame.pkl")
    program = (
        "import sys, pickle, numpy as np, pandas as pd\n"
        "from model import Model\n"
        f"frame = pd.read_pickle({str(tmp_path / 'frame.pkl')!r})\n"
        "model = pickle.loads(pickle.dumps(Model()))\n"
        "model.predict({'data': frame, 'weights': np.full(len(frame), 47.5)})\n"
        "assert model.last_result.status != 'fallback', model.last_result\n"
        "assert 'torch' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_torch_threads_are_put_back(test_set):
    few = {"data": test_set["data"].iloc[:20_000], "weights": full_weights(20_000)}
    before = torch.get_num_threads()
    seen = []
    model = Model(engine="torch", threads=before + 1)
    model.predict(few)
    engine = model._classifier
    list(engine.map(lambda _: seen.append(torch.get_num_threads()), [0]))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    model.predict({"data": None})
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(model.predict, [few, few]))
    assert torch.get_num_threads() == before


def test_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for stated, expected in (("3", 3), ("100", 8), ("0", 8), ("", 8), ("2,1", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", stated)
        assert default_threads() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads() == 8
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    assert default_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3


def test_two_predictions_at_once_equal_those_in_turn(test_set):
    model = Model(threads=2)
    sets = [{"data": test_set["data"].iloc[i::4], "weights": full_weights(25_000)} for i in range(4)]
    expected = [model.predict(each) for each in sets]
    fresh = Model(threads=2)
    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(fresh.predict, sets)) == expected


def _predict(model, small, connection):
    connection.send(model.predict(small))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_after_use_does_not_hang(test_set):
    small = {"data": test_set["data"].iloc[:70_000], "weights": full_weights(70_000)}
    model = Model(threads=2)
    expected = model.predict(small)
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_predict, args=(model, small, sender))
    process.start()
    try:
        assert receiver.poll(60)
        assert receiver.recv() == expected
    finally:
        process.kill()
        process.join()


def test_pickled_the_choice_travels_and_the_engine_does_not(test_set):
    model = Model(engine="native", threads=2)
    model.predict({"data": test_set["data"].iloc[:1000], "weights": full_weights(1000)})
    restored = pickle.loads(pickle.dumps(model))
    assert restored._classifier is None
    assert (restored.engine, restored.threads) == ("native", 2)


def test_kinds_are_tried_in_this_order():
    assert KINDS == ("native", "cuda", "torch")
    assert len(INPUTS) == 35


def python_3_10() -> str | None:
    """Return an interpreter that runs; a version manager's stand-in may be on the path and refuse."""
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob("3.10.*/bin/python3.10")
    for candidate in (shutil.which("python3.10"), *map(str, managed)):
        if candidate and subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


@pytest.mark.slow
def test_python_3_10_with_numpy_and_pandas_only(test_set, tmp_path):
    """The oldest versions of the run-time image, and no torch at all; needs a package index."""
    interpreter = python_3_10()
    if interpreter is None:
        pytest.skip("no Python 3.10 on this machine")
    home = tmp_path / "old"
    subprocess.run([interpreter, "-m", "venv", str(home)], check=True)
    packages = ["numpy==1.26.4", "pandas==2.2.3"]
    pip = subprocess.run([home / "bin" / "pip", "install", "--quiet", *packages], capture_output=True, check=False)
    if pip.returncode != 0:
        pytest.skip("no package index to install numpy 1.26 and pandas 2.2 from")
    np.savez(tmp_path / "set.npz", **{name: test_set["data"][name].to_numpy() for name in PRIMARIES})
    program = (
        "import json, sys, numpy as np, pandas as pd\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from model import Model\n"
        f"frame = pd.DataFrame(dict(np.load({str(tmp_path / 'set.npz')!r})))\n"
        "model = Model()\n"
        "answer = model.predict({'data': frame, 'weights': np.full(len(frame), 9.5)})\n"
        "print(json.dumps([answer, model.last_result.flags, 'torch' in sys.modules, sys.version_info[:2]]))\n"
    )
    run = subprocess.run([home / "bin" / "python", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    answer, flags, torch_imported, python = json.loads(run.stdout)
    assert python == [3, 10]
    assert not torch_imported
    assert not [flag for flag in flags if flag.startswith("engine")]
    expected = Model().predict(test_set)
    assert answer["mu_hat"] == pytest.approx(expected["mu_hat"], abs=0.01 * expected["delta_mu_hat"])
