"""Pools: results as they finish, failures, and what is said of a worker that ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from workshop import jobs
from workshop.errors import SubmissionError, UsageError
from workshop.jobs import Pool, process_pool, run_parts

ROOT = Path(__file__).resolve().parents[1]  # not from conftest, as each worker would import all of torch with it
state = []


def square(number):
    return number**2


def prepared(number):
    return state[0] + number


def prepare(value):
    if value < 0:
        msg = "cannot start"
        raise SubmissionError(msg, "its traceback")
    state.append(value)


def fail_at(number, bad):
    if number == bad:
        msg = f"number {number} is bad"
        raise UsageError(msg)
    time.sleep(0.1)
    return number


def end(how):
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), getattr(signal, how))


def is_deaf(_):
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def frame(rows):
    return pd.DataFrame({"row": np.arange(rows.start, rows.stop)})


def run(found, workers, calls, *start):
    """Make calls in a pool; ``found`` gets the keys of those that came back."""
    with process_pool(workers, *start) as pool:
        for key, call in enumerate(calls):
            pool.submit(key, *call)
        found.extend(key for key, _ in pool.finished())


@pytest.mark.parametrize("workers", [1, 2])
def test_calls_may_be_added_while_results_come(workers):
    with process_pool(workers) as pool:
        pool.submit("first", square, 3)
        found = {}
        for key, result in pool.finished():
            found[key] = result
            if len(found) < 4:
                pool.submit(len(found), square, len(found))
        assert len(pool) == 0
    assert found == {"first": 9, 1: 1, 2: 4, 3: 9}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_are_prepared(workers):
    with process_pool(workers, prepare, (10,)) as pool:
        pool.submit("a", prepared, 1)
        assert list(pool.finished()) == [("a", 11)]
    state.clear()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_cannot_start_says_why(workers, capfd):
    with pytest.raises(SubmissionError, match="cannot start") as caught:
        run([], workers, [(square, 1)], prepare, (-1,))
    assert caught.value.details == "its traceback"
    assert "Traceback" not in capfd.readouterr().err


def test_what_had_begun_is_kept_after_a_failure():
    found = []
    with pytest.raises(UsageError, match="number 2 is bad"):
        run(found, 2, [(fail_at, number, 2) for number in range(100)])
    assert {0, 1} <= set(found)
    assert len(found) < 20


def test_ctrl_c_is_for_the_main_process():
    with process_pool(2) as pool:
        pool.submit("a", is_deaf, 1)
        assert list(pool.finished()) == [("a", True)]


@pytest.mark.parametrize(
    ("how", "kills", "said"),
    [
        ("SIGKILL", 0, "was ended by SIGKILL; "),
        ("SIGKILL", 1, "was killed for lack of memory; use fewer --workers"),
        ("SIGSEGV", 1, "was ended by SIGSEGV; "),
        ("SIGTERM", 1, "was ended by SIGTERM; "),
        ("exit", 1, "was ended with exit code 3; "),
    ],
)
def test_memory_is_blamed_only_where_it_was_the_reason(how, kills, said, monkeypatch):
    counts = iter([5, 5 + kills])
    monkeypatch.setattr(jobs, "_oom_kills", lambda: next(counts))
    with pytest.raises(UsageError, match=said) as caught:
        run([], 2, [(end, how)])
    assert "the same command continues" in str(caught.value)
    assert ("memory" in str(caught.value)) == ("memory" in said)


def test_the_system_s_count_of_kills_is_read(tmp_path, monkeypatch):
    (tmp_path / "events").write_text("low 0\noom 3\noom_kill 2\n")
    (tmp_path / "vmstat").write_text("nr_free 7\noom_kill 40\n")
    monkeypatch.setattr(jobs, "OOM_COUNTS", (tmp_path / "events", tmp_path / "vmstat", tmp_path / "nowhere"))
    assert jobs._oom_kills() == 42


def test_no_workers_are_refused():
    with pytest.raises(UsageError, match="workers is 0"):
        run([], 0, [])
    with pytest.raises(UsageError, match="toys is 0"):
        run_parts(None, 0, frame, 1, "toy")


def test_a_pool_of_this_process_works_when_asked():
    done = []
    pool = Pool()
    pool.submit("a", done.append, 1)
    assert (done, len(pool)) == ([], 1)
    list(pool.finished())
    assert (done, len(pool)) == ([1], 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_are_made_once(workers, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PART_ROWS", 4)
    assert run_parts(tmp_path, 10, frame, workers, "row")["row"].tolist() == list(range(10))
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    assert len(run_parts(tmp_path, 16, frame, workers, "row")) == 16
    kept = ("0000000-0000004.parquet", "0000004-0000008.parquet")
    for name in kept:
        assert (tmp_path / "parts" / name).stat().st_mtime_ns == stamps[name]


def test_workers_end_with_a_killed_parent():
    code = "import time\nfrom tests.test_jobs import fail_at\nfrom workshop.jobs import process_pool\n"
    code += "if __name__ == '__main__':\n    with process_pool(2) as pool:\n        pool.submit(1, fail_at, 1, 0)\n"
    code += "        list(pool.finished())\n        print(flush=True)\n        time.sleep(600)\n"
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    run.stdout.readline()
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) >= 2
    run.kill()
    run.wait()
    run.stdout.close()
    assert not psutil.wait_procs(children, timeout=120)[1]
