"""Programs that are killed at random moments, or whose disk is full: the same command completes with the same result.

Each case is a command line; those that continue an interrupted run of their own accord are run again as they are.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from harness.mapped import POOL_FOLDER
from harness.results import read_records
from tests import official
from tests.conftest import ROOT
from tests.events import small_data

pytestmark = pytest.mark.slow

KILLS = 20
SEED = 20
FULL = 600
"""Bytes a file may have where the disk is to be full."""

SETTINGS = """
seed: 5
training: {epochs: 3, batch_size: 512, points_per_batch: 1, validation_points: 1, checkpoint_minutes: 0.01}
tables: {min_effective: 20.0, nodes: 19, held_out: 1, noise_draws: 1}
"""


@dataclass(frozen=True)
class Case:
    """A program that can be interrupted.

    Attributes:
        arguments: Module and options; {output} stands for the folder, {data} and {config} for small ones, {build} for
            a finished small training.
        results: What must not depend on interruptions: files compared byte by byte, or functions of the folder.
    """

    arguments: str
    results: tuple = field(default=())


def records(folder):
    """Every pseudo-experiment once, and its answer; they finish in any order."""
    found, size = read_records(folder / "experiments.jsonl")
    assert size == (folder / "experiments.jsonl").stat().st_size
    return sorted((r.set, r.index, r.seed, r.mu, r.events, tuple(r.answer.items())) for r in found)


def losses(folder):
    return json.loads((folder / "training.json").read_text())["losses"]


def arrays(name):
    def read(folder):
        with np.load(folder / name) as archive:
            return {key: (archive[key].shape, archive[key].tobytes()) for key in archive.files}

    return read


def table(name):
    return lambda folder: pq.read_table(folder / name).to_pylist()


OFFICIAL = ("test_settings.json", "result_0.json", "result_1.json")
INGESTION = "scripts.run_ingestion --data {real} --submission {counting} --sets 2 --experiments 12 --seed 3 "
CASES = {
    "ingestion": Case(INGESTION + "--workers 1 --output {output}", (*OFFICIAL, records)),
    "ingestion in two workers": Case(INGESTION + "--workers 2 --output {output}", (*OFFICIAL, records)),
    "training": Case(
        "scripts.train --config {config} --data {data} --threads 1 --output {output}",
        (arrays("network.npz"), losses),
    ),
    "tables": Case(
        "scripts.build_tables --config {config} --data {data} --training {build} --workers 1 --output {output}",
        (arrays("tables.npz"), arrays("response.npz"), "regions.json"),
    ),
    "simulation": Case(
        "scripts.simulate --cache {cache} --shard-events 40 --seed 3 --events 40 --output {output}",
        ("FAIR_Universe_HiggsML_data.parquet", "FAIR_Universe_HiggsML_data_metadata.json", "parents.parquet"),
    ),
    "toys": Case("scripts.toys --toys 120 --mu 0.5 2 --seed 4 --output {output}", (table("toys.parquet"),)),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Small inputs of all programs, by the names in the command lines."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "data").mkdir()
    (folder / "config.yaml").write_text(SETTINGS)
    return {
        "real": official.events_folder(folder / "real"),
        "counting": official.TESTS / "submissions" / "counting",
        "data": small_data(folder / "data"),
        "config": folder / "config.yaml",
        "build": folder / "training",
    }


def prepared(name, places, request):
    """Make what a program needs from another one."""
    if name == "tables" and not places["build"].exists():
        complete(command("training", places, places["build"]))
    if name == "simulation":
        places["cache"] = request.getfixturevalue("libraries")


def command(name, places, output):
    return [sys.executable, "-m", *CASES[name].arguments.format(**places, output=output).split()]


def started(given, **more):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    out = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, given)), cwd=ROOT, env=env, start_new_session=True, **out, **more)


def complete(given):
    run = started(given)
    error = run.communicate(timeout=600)[1]
    assert run.returncode == 0, error


def killed(given, seconds):
    """Run and kill after some time, all processes at once; return whether it came to its end before."""
    run = started(given)
    try:
        error = run.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        return False
    assert run.returncode == 0, error
    return True


def results(name, folder):
    return [(folder / part).read_bytes() if isinstance(part, str) else part(folder) for part in CASES[name].results]


@pytest.fixture(scope="module")
def undisturbed(places, tmp_path_factory, request):
    """Run each program twice without disturbance; return its results and how long it took the second time.

    The first time it may compile what it keeps, so that hardly a later run would last until it is killed.
    """
    done = {}

    def run(name):
        if name not in done:
            prepared(name, places, request)
            outputs = [tmp_path_factory.mktemp("undisturbed") / "output" for _ in range(2)]
            for output in outputs:
                began = time.monotonic()
                complete(command(name, places, output))
            done[name] = results(name, outputs[0]), time.monotonic() - began
            assert results(name, outputs[1]) == done[name][0]
        return done[name]

    return run


@pytest.mark.parametrize("name", CASES)
def test_killed_at_random_moments(name, places, undisturbed, tmp_path):
    expected, seconds = undisturbed(name)
    random = np.random.default_rng(SEED)
    kills = 0
    while kills < KILLS:
        output = tmp_path / "output"
        given = command(name, places, output)
        while not killed(given, random.uniform(0.2, 1.2) * seconds):
            kills += 1
        assert results(name, output) == expected
        assert not (output / POOL_FOLDER).exists()
        shutil.rmtree(output)


def contents(folder):
    found = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if POOL_FOLDER not in path.parts}


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, FULL))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("part", [0.6, 0.9])
def test_full_disk_leaves_what_was_there(name, places, undisturbed, tmp_path, part):
    expected, seconds = undisturbed(name)
    output = tmp_path / "output"
    given = command(name, places, output)
    if killed(given, part * seconds):
        shutil.rmtree(output)
    before = contents(output) if output.exists() else {}
    # Byte code is not written either; a kept file of it would be cut short.
    run = started(["env", "PYTHONDONTWRITEBYTECODE=1", *given], preexec_fn=limit_files)
    error = run.communicate(timeout=600)[1]
    assert run.returncode != 0
    assert "large" in error or "space" in error
    after = contents(output) if output.exists() else {}
    for path, content in before.items():
        if path.suffix == ".jsonl":  # grows; a line torn by the kill is dropped
            assert after[path].startswith(content[: content.rfind(b"\n") + 1])
        elif path.name != "environment.json" and not path.name.startswith("."):  # tells of the last start
            assert after[path] == content
    complete(given)
    assert results(name, output) == expected


def test_workers_do_not_outlive_a_killed_parent(places, tmp_path):
    output, temporary = tmp_path / "output", tmp_path / "temporary"
    temporary.mkdir()
    given = ["env", f"TMPDIR={temporary}", *command("ingestion in two workers", places, output)]
    given += ["--experiments", "100"]  # more than are made before the kill, however slow this process is
    run = started(given)
    parent = psutil.Process(run.pid)
    deadline = time.monotonic() + 300
    while not (output / "experiments.jsonl").exists() or len(parent.children(recursive=True)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    children = parent.children(recursive=True)
    assert run.poll() is None
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    try:
        assert not psutil.wait_procs(children, timeout=120)[1]
    finally:
        for child in children:
            if child.is_running():
                child.kill()
        run.stderr.close()
    # The test set, 8 GB of the full data, is where the next start finds and removes it.
    assert (output / POOL_FOLDER).is_dir()
    complete(given)
    assert not (output / POOL_FOLDER).exists()
    assert not any(temporary.iterdir())


def test_temporary_names_are_not_results(places, tmp_path, request):
    """What a kill leaves of a file that was being written is neither read nor in the way."""
    prepared("training", places, request)
    output = Path(tmp_path / "output")
    output.mkdir()
    (output / ".training.json.x.partial").write_text("{")
    complete(command("training", places, output))
    assert losses(output)
