"""What the challenge's workers rely on: order, split and threads change no bit; nothing outside is touched; no leak."""

from __future__ import annotations

import ast
import copy
import json
import os
import pickle
import random
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from harness.packing import bundle_files
from harness.pseudo_experiments import draw_nuisances, make_pseudo_data
from harness.test_set import EventFile
from model import Model
from sage.challenge.nuisances import NAMES
from tests import predicting
from tests.conftest import ROOT
from tests.events import DATA_FILE, FIVE_WEIGHTS, METADATA_FILE, drawn_frame, embedded_frame

EXPERIMENTS, ORDERS, CHUNK = 20, 2, 2
ALLOWED = {"sage", "model", "numpy", "torch"} | set(sys.stdlib_module_names)
OPTIONAL = {"scipy", "iminuit", "pandas"}
"""May be used where they are installed, inside a ``try`` and never when a module is imported."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Twenty pseudo-experiments with all six uncertainties: a tenth of the events, each standing for ten."""
    folder = tmp_path_factory.mktemp("events")
    embedded_frame(100_000).to_parquet(folder / DATA_FILE, index=False)
    (folder / METADATA_FILE).write_text(json.dumps({"total_rows": 100_000, "sum_weights": 100_000.0}))
    pool = EventFile(folder, 0.9).load_test_set()
    made = []
    for number in range(EXPERIMENTS):
        data = make_pseudo_data(pool, 0.2 * number, draw_nuisances(number, NAMES), number)["data"]
        made.append({"data": data, "weights": np.full(len(data), 10.0)})
    return made


@pytest.fixture(scope="module")
def model():
    built = Model(weights=FIVE_WEIGHTS)
    built.fit()
    return built


@pytest.fixture(scope="module")
def expected(model, sets):
    return [model.predict(each) for each in sets]


def test_answers_differ_from_one_another(expected):
    assert len({answer["mu_hat"] for answer in expected}) == EXPERIMENTS


@pytest.mark.parametrize("seed", range(ORDERS))
def test_order_does_not_change_a_bit(model, sets, expected, seed):
    for number in np.random.default_rng(seed).permutation(EXPERIMENTS):
        answer = model.predict(sets[number])
        assert answer == expected[number]
        answer["mu_hat"] = answer["test_set_index"] = None  # the harness writes into what it gets


@pytest.mark.parametrize("workers", [1, 4])
def test_split_over_spawned_workers_does_not_change_a_bit(model, sets, expected, workers):
    order = np.random.default_rng(workers).permutation(EXPERIMENTS).tolist()
    arguments = (pickle.dumps(model), sets)
    with ProcessPoolExecutor(workers, get_context("spawn"), predicting.start, arguments) as executor:
        found = dict(executor.map(predicting.predict, order, chunksize=CHUNK))
    assert [found[number] for number in range(EXPERIMENTS)] == expected


def test_two_threads_on_one_model_do_not_change_a_bit(model, sets, expected):
    with ThreadPoolExecutor(2) as executor:
        assert list(executor.map(model.predict, sets)) == expected


def test_global_states_are_untouched(model, sets):
    environment, folder, path = dict(os.environ), Path.cwd(), list(sys.path)
    states = random.getstate(), copy.deepcopy(np.random.get_state()), torch.get_rng_state(), np.geterr()
    fresh = Model(lambda **given: np.random.random(3), rebuilding="rebuild")
    fresh.fit()
    assert "call_seconds" in fresh.fit_report
    fresh.predict(sets[0])
    model.predict({"data": None})
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])
    assert np.geterr() == states[3]
    assert (dict(os.environ), Path.cwd(), sys.path) == (environment, folder, path)


ALONE = """
import sys
at_start = set(sys.modules)
sys.path.append({root!r})
class Nothing:
    names = {refused!r}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
from tests.predicting import alone
alone({given!r}, at_start)
"""


@pytest.mark.parametrize("fitted", [False, True])
def test_a_fresh_process_without_home_network_or_other_packages(sets, expected, tmp_path, fitted):
    """Its folder is / and its HOME nobody can write to; pandas, scipy and all the rest cannot be imported.

    Constructing, fitting and predicting open no file for writing, those of the bundle included, and start nothing but
    the process in which ``fit`` loads the training events.
    """
    sent = Model(get_train_set=lambda: None, systematics=lambda: None, weights=FIVE_WEIGHTS)
    if fitted:
        sent.fit()
        sent.predict(sets[1])
    (tmp_path / "model").write_bytes(pickle.dumps(sent))
    events = embedded_frame(3000)
    events["weights"] *= 1_051_383.0 / events["weights"].sum()
    train = {name: column.to_numpy() for name, column in events.items()}
    plain = [{**each, "data": {name: each["data"][name].to_numpy() for name in each["data"]}} for each in sets[:3]]
    (tmp_path / "sets").write_bytes(pickle.dumps((plain, train)))
    installed = {path.name.partition(".")[0].partition("-")[0] for path in (ROOT / ".venv" / "lib").glob("*/*/*")}
    refused = sorted((installed | OPTIONAL) - ALLOWED)
    given = {"model": str(tmp_path / "model"), "sets": str(tmp_path / "sets")}
    program = ALONE.format(root=str(ROOT), refused=refused, given=given)
    env = {**os.environ, "HOME": "/proc", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", "-c", program]
    run = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    found = json.loads(run.stdout)
    assert found["answers"] == expected[:3]
    assert found["happened"] == ["os.fork"]
    assert found["report"]["adopted"], found["report"]
    assert found["fitted"] != found["answers"]
    assert not set(found["modules"]) & set(refused)
    assert "torch" not in found["modules"]


def test_the_watch_sees_what_is_done(tmp_path):
    program = (
        f"import sys, socket, subprocess, pathlib; sys.path.append({str(ROOT)!r})\n"
        "from tests.predicting import watch\n"
        "seen = watch()\n"
        f"pathlib.Path({str(tmp_path / 'x')!r}).write_text('')\n"
        "socket.socket().close()\n"
        "subprocess.run(['true'])\n"
        "exec('1')\n"
        "print(' '.join(seen))\n"
    )
    seen = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for event in ("open ", "socket.", "subprocess.", "exec"):
        assert event in seen


def test_memory_does_not_grow(model, sets):
    """Fifty predictions of 91 000 events each, after a few that fill what is kept on purpose."""
    for each in sets[:5]:
        model.predict(each)
    process = psutil.Process()
    before = process.memory_info().rss
    for number in range(50):
        model.predict(sets[number % EXPERIMENTS])
    assert process.memory_info().rss - before < 50e6


FULL, PREDICTIONS, LONGEST = 1_050_000, 50, 12.0


@pytest.mark.slow
def test_time_and_memory_of_full_size(monkeypatch):
    """The clock of the time guard runs: in normal use it changes nothing."""
    monkeypatch.setattr("sage.fit.deadline.clock", time.monotonic)
    sets = [{"data": drawn_frame(FULL, 12 + number), "weights": np.ones(FULL)} for number in range(3)]
    fresh = Model(threads=1)
    before, seconds = 0, []
    for number in range(PREDICTIONS):
        began = time.perf_counter()
        fresh.predict(sets[number % len(sets)])
        seconds.append(time.perf_counter() - began)
        assert fresh.last_result.n_events == FULL
        assert not [flag for flag in fresh.last_result.flags if flag.startswith(("time_guard", "fit_by"))]
        if number == len(sets):  # what is kept on purpose is there by now
            before = psutil.Process().memory_info().rss
    assert psutil.Process().memory_info().rss - before < 50e6
    assert max(seconds) < LONGEST


BUNDLED = {name: path for name, path in bundle_files(ROOT).items() if name.endswith(".py")}


IMPORTS = (ast.Import, ast.ImportFrom)


def imported(node):
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    return {alias.name.partition(".")[0] for alias in node.names}


FORBIDDEN_MODULES = {"pickle", "joblib", "shelve", "marshal", "dill", "cloudpickle", "yaml", "subprocess", "socket"}
FORBIDDEN_MODULES |= {"urllib", "http", "requests", "ftplib", "tempfile", "shutil", "random"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "print", "input", "breakpoint"}
FORBIDDEN_ATTRIBUTES = {"torch.load", "torch.manual_seed", "os.system", "torch.save", "np.save", "np.load"}
FORBIDDEN_ATTRIBUTES |= {"np.fromfile", "np.memmap", "torch.hub", "torch.jit", "np.seterr", "os.environ.update"}
NAMED = {"write_text", "write_bytes", "unlink", "mkdir", "rmdir", "touch", "tofile", "putenv", "popen", "chdir"}


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundle_runs_no_foreign_code_and_writes_nothing(name):
    tree = ast.parse(BUNDLED[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, IMPORTS):
            assert not imported(node) & FORBIDDEN_MODULES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            assert text not in FORBIDDEN_ATTRIBUTES
            assert node.attr not in NAMED
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False"
