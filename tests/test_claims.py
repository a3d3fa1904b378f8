"""Output folders: what may go on where, and one owner at a time, for every program that works in one."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts import build_tables, get_data, join_events, make_weights, run_ingestion, simulate, toys, train
from tests import official
from tests.conftest import ROOT
from tests.events import small_data
from tests.submissions.making import write
from workshop import files
from workshop.claims import IDENTITY_FILE, LOCK_FILE, claimed, locked
from workshop.errors import UsageError

SETTINGS = """
seed: 5
training: {epochs: 1, batch_size: 512, points_per_batch: 1, validation_points: 1}
tables: {min_effective: 20.0, nodes: 19, held_out: 0, noise_draws: 1}
"""


def claim(folder, identity, finished=None, **options):
    with claimed(folder, identity, results=("done/*.txt",), **options):
        if finished:
            (folder / "done").mkdir(exist_ok=True)
            (folder / "done" / "one.txt").write_text(finished)


def test_one_rule(tmp_path):
    folder = tmp_path / "new" / "run"
    claim(folder, {"seed": 1, "mus": (1, 2)}, "first")
    claim(folder, {"seed": 1, "mus": [1, 2]})
    assert (folder / "done" / "one.txt").read_text() == "first"
    with pytest.raises(UsageError, match=r"settings: seed \(there 1, now 2\), more \(there None, now 'x'\); choose"):
        claim(folder, {"seed": 2, "mus": [1, 2], "more": "x"})
    with pytest.raises(UsageError, match=r"mus \(there \[1, 2\], now None\)"):
        claim(folder, {"seed": 1})
    assert json.loads((folder / IDENTITY_FILE).read_text()) == {"seed": 1, "mus": [1, 2]}
    claim(folder, {"seed": 2}, overwrite=True)
    assert sorted(path.name for path in folder.rglob("*")) == ["done", IDENTITY_FILE]


def test_long_values_are_cut(tmp_path):
    claim(tmp_path, {"parts": ["x" * 1000]}, "first")
    with pytest.raises(UsageError) as caught:
        claim(tmp_path, {"parts": ["y" * 1000]})
    assert len(str(caught.value)) < 500


def test_as_long_as_nothing_is_finished_the_identity_may_change(tmp_path):
    claim(tmp_path, {"seed": 1})
    claim(tmp_path, {"seed": 2})
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "empty.txt").touch()
    claim(tmp_path, {"seed": 3}, "first")
    with pytest.raises(UsageError, match=r"seed \(there 3, now 4\)"):
        claim(tmp_path, {"seed": 4})


@pytest.mark.parametrize("name", ["thesis.tex", ".hidden", f".{IDENTITY_FILE}.bak", "folder/"])
def test_a_folder_of_something_else_is_refused(name, tmp_path):
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="is not empty and holds no run to continue; choose another --output"):
        claim(tmp_path, {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == [name.rstrip("/")]


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_a_damaged_identity_is_named(content, tmp_path):
    claim(tmp_path, {"seed": 1}, "first")
    (tmp_path / IDENTITY_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=f"{IDENTITY_FILE}: .*choose another --output"):
        claim(tmp_path, {"seed": 1})


class Killed(BaseException):
    """Stands for the kill: nothing that follows is done."""


def test_a_kill_in_the_first_write_is_not_in_the_way(tmp_path, monkeypatch):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", kill)
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            claim(tmp_path, {"seed": 1})
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(files, "_swept", set())
    claim(tmp_path, {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY_FILE]


@contextmanager
def owned(folder):
    """Let another process own a folder; it is killed in the end."""
    code = f"import pathlib, time\nfrom workshop.claims import locked\nwith locked(pathlib.Path({str(folder)!r})):\n"
    command = [sys.executable, "-c", code + "    print(flush=True)\n    time.sleep(600)"]
    owner = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        owner.stdout.readline()
        yield owner
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        owner.stdout.close()


def own(folder):
    with locked(folder):
        assert (folder / LOCK_FILE).exists()


def test_a_lock_names_its_owner_and_dies_with_it(tmp_path):
    with owned(tmp_path) as owner:
        named = rf"(?s)process {owner.pid} on {os.uname().nodename} \(.*workshop.claims.*, since 20\d\d-.*\) works in"
        for _ in range(2):
            with pytest.raises(UsageError, match=f"{named} this folder; wait for it, or choose another --output"):
                own(tmp_path)
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path), pytest.raises(UsageError, match=f"process {os.getpid()} on "):
        own(tmp_path)
    own(tmp_path)
    assert not (tmp_path / LOCK_FILE).exists()


def test_where_there_are_no_locks_it_is_said(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    own(tmp_path)
    assert "the file system has no locks" in caplog.text


def test_places_that_cannot_be_owned_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: a file is in the place of a folder"):
        own(tmp_path / "file")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "file")
    with pytest.raises(UsageError, match=f"{tmp_path}: "):
        own(tmp_path)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "data").mkdir()
    (folder / "config.yaml").write_text(SETTINGS)
    small_data(folder / "data")
    official.events_folder(folder / "real")
    write(folder / "submission")
    return folder


PROGRAMS = {
    "ingestion": (run_ingestion, "--data {0}/real --submission {0}/submission --sets 1 --experiments 2"),
    "toys": (toys, "--toys 5 --mu 1"),
    "event toys": (toys, "--level events --data {0}/data --toys 1"),
    "training": (train, "--data {0}/data --config {0}/config.yaml --threads 1"),
    "tables": (build_tables, "--data {0}/data --config {0}/config.yaml --training weights"),
    "weights": (make_weights, "--data {0}/data --config {0}/config.yaml --network weights"),
    "simulation": (simulate, "--events 5 --seed 1"),
    "joining": (join_events, "--parts {0}/data:all"),
    "download": (get_data, "--address http://127.0.0.1:9/x --checksum md5:00"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_second_run_is_refused_and_the_owner_s_death_is_no_obstacle(name, places, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    if name == "simulation":
        pytest.importorskip("pythia8mc", reason="the simulation needs requirements-simulation.txt")
    program, given = PROGRAMS[name]
    output = tmp_path / "output"
    arguments = [*given.format(places).split(), "--output", str(output)]
    with owned(output) as owner:
        assert program.main(arguments) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert f"process {owner.pid} on " in lines[0]
        assert [path.name for path in output.iterdir()] == [LOCK_FILE]
    if name in ("download", "simulation", "event toys"):
        return  # cannot come to an end here, or not soon
    for _ in range(2):
        assert program.main(arguments) == 0, capsys.readouterr().err
    assert not (output / LOCK_FILE).exists()


def test_two_ingestions_at_once(places, tmp_path):
    """The slower one is refused; the other one is not disturbed."""
    given = PROGRAMS["ingestion"][1].format(places).replace("--experiments 2", "--experiments 20").split()
    command = [sys.executable, "-m", "scripts.run_ingestion", *given, "--output", str(tmp_path / "run")]
    runs = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    codes = [run.returncode for run in runs]
    if sorted(codes) == [0, 2]:
        assert "works in this folder" in errors[codes.index(2)]
    else:
        assert codes == [0, 0]  # one after the other, as the machine had no time for both
    assert len((tmp_path / "run" / "experiments.jsonl").read_text().splitlines()) == 20
