"""Foreign code in a process of its own: what it returns comes back, and whatever it does to itself stays there."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model import Model
from sage import child
from sage.child import free_memory, run_in_child
from sage.errors import ChildError, InputError
from tests.events import embedded_frame

MEGABYTE = 1 << 20


def test_arrays_and_report_come_back():
    def work(report):
        report["said"] = "yes"
        return {"counts": np.arange(6.0).reshape(2, 3), "empty": np.zeros((0, 4))}

    report = {"before": 1}
    arrays = run_in_child(work, report, 10.0)
    np.testing.assert_array_equal(arrays["counts"], [[0, 1, 2], [3, 4, 5]])
    assert arrays["empty"].shape == (0, 4)
    assert report.pop("peak_memory") > 1
    assert report == {"before": 1, "said": "yes"}


def test_nothing_of_this_process_changes():
    state, place = np.random.get_state()[1].copy(), os.getcwd()  # noqa: PTH109
    kept = []

    def work(report):
        np.random.seed(1)
        os.chdir("/")
        kept.append(1)
        return {}

    run_in_child(work, {}, 10.0)
    assert (np.random.get_state()[1] == state).all()
    assert (os.getcwd(), kept) == (place, [])  # noqa: PTH109


def fail(error):
    def work(report):
        report["rows"] = 3
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("column 'x' missing"), "column 'x' missing"),
        (TimeoutError("too long"), "too long"),
        (ValueError("bad"), "ValueError: bad"),
        (MemoryError(), "MemoryError: "),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
    ],
)
def test_a_failure_comes_back_with_what_was_reported(error, message):
    report = {}
    with pytest.raises(ChildError) as caught:
        run_in_child(fail(error), report, 10.0)
    assert str(caught.value) == message
    assert report["rows"] == 3


ENDS = {
    "exit": (lambda: os._exit(7), "exit code 7"),
    "exit without an error": (lambda: os._exit(0), "exit code 0"),
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL, maybe for lack of memory"),
    "terminated": (lambda: os.kill(os.getpid(), signal.SIGTERM), "SIGTERM"),
    "segmentation fault": (lambda: ctypes.string_at(0), "SIGSEGV"),
}


@pytest.mark.parametrize("name", list(ENDS))
def test_its_death_is_not_ours(name):
    end, cause = ENDS[name]
    with pytest.raises(ChildError, match=f"ended without a result .*{cause}"):
        run_in_child(lambda report: end(), {}, 10.0)


def test_its_time_is_bounded(monkeypatch):
    monkeypatch.setattr(child, "GRACE", 0.1)
    began = time.monotonic()
    with pytest.raises(ChildError, match=r"stopped after 0 s.*time_budget"):
        run_in_child(lambda report: time.sleep(60), {}, 0.3)
    assert time.monotonic() - began < 30.0


def test_its_time_is_bounded_although_it_ignores_signals(monkeypatch):
    monkeypatch.setattr(child, "GRACE", 0.1)

    def work(report):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            pass

    with pytest.raises(ChildError, match="stopped after"):
        run_in_child(work, {}, 0.3)


def grow(report):
    held = []
    while True:
        held.append(np.ones(MEGABYTE))
        time.sleep(0.002)


def test_its_memory_is_bounded():
    with pytest.raises(
        ChildError, match=r"took \d+\.\d+ GB of memory and was stopped, 0\.21 GB were allowed.*train_size"
    ):
        run_in_child(grow, {}, 60.0, memory=200 * MEGABYTE)


def test_free_memory_is_a_sensible_number():
    assert 10 * MEGABYTE < free_memory() < 1 << 50


def test_no_process_is_left():
    # Earlier tests of this process may have children of their own, such as a tracker of shared memory.
    before = children()
    for work in (lambda report: {}, fail(ValueError()), lambda report: os._exit(1)):
        with suppress(ChildError):
            run_in_child(work, {}, 10.0)
    assert children() == before


def children():
    return {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}


LOADERS = {
    "sleeps": (lambda train_size: time.sleep(60), "stopped after"),
    "dies": (lambda train_size: os._exit(1), "exit code 1"),
    "is killed": (lambda train_size: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
    "leaves": (lambda train_size: sys.exit("enough"), "SystemExit: enough"),
    "raises": (lambda train_size: pd.DataFrame()["weights"], "KeyError"),
    "grows": (lambda train_size: grow(None), "GB of memory"),
}


@pytest.mark.parametrize("name", list(LOADERS))
def test_whatever_the_loader_does_the_bundled_tables_stay(name, monkeypatch):
    monkeypatch.setattr(child, "GRACE", 0.1)
    monkeypatch.setattr(child, "free_memory", lambda: 150 * MEGABYTE)
    loader, reason = LOADERS[name]
    model = Model(loader, rebuilding={"mode": "rebuild", "time_budget": 1.5 if name == "sleeps" else 30.0}, threads=1)
    before = model.bundle
    model.fit()
    assert model.bundle is before
    assert not model.fit_report["adopted"]
    assert reason in model.fit_report["reason"]
    assert model.predict({"data": embedded_frame(1), "weights": np.ones(1)})["p16"] > 0


def test_without_fork_the_loader_runs_here(monkeypatch):
    monkeypatch.setattr("sage.rebuilding.can_fork", lambda: False)
    asked = []
    model = Model(lambda train_size: asked.append(train_size) or {}, rebuilding="rebuild", threads=1)
    model.fit()
    assert asked == [model.rebuilding.train_size]
    assert "missing from the training events" in model.fit_report["reason"]
