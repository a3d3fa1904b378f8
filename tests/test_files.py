"""Files: whole or absent, nothing left behind, and errors of disk and path with a way out."""

import errno
import fcntl
import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.submission import opened
from scripts.common import parser, run_program
from tests.conftest import ROOT
from tests.submissions.making import pack
from workshop import files
from workshop.errors import UsageError, disk_error

WRITERS = {
    "bytes": lambda path: files.write_bytes(path, b"new"),
    "text": lambda path: files.write_text(path, "neu ü"),
    "JSON": lambda path: files.write_json(path, {"a": [1, 2]}),
    "arrays": lambda path: files.write_arrays(path, {"a": np.arange(3)}),
    "frame": lambda path: files.write_frame(path, pd.DataFrame({"a": [1, 2]})),
}


@pytest.fixture(autouse=True)
def unswept(monkeypatch):
    monkeypatch.setattr(files, "_swept", set())


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_is_whole_and_readable_by_all(kind, tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    WRITERS[kind](path)
    first = path.read_bytes()
    WRITERS[kind](path)
    assert path.read_bytes() == first
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failed_write_leaves_what_was_there(kind, number, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match=f"{path}: .*; (free some space|choose another place)"):
        WRITERS[kind](path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_in_truth(tmp_path):
    """A limit on file sizes is what a test can have of a full disk; the system's own error is EFBIG then."""
    code = "import pathlib, sys; from workshop.files import write_bytes\n"
    code += f"write_bytes(pathlib.Path({str(tmp_path)!r}, 'file'), bytes(10000))"
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, **limit)
    assert "too large" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_wrong_places_are_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, what in (
        (tmp_path / "folder", "folder: is a folder; give a file"),
        (tmp_path / "file" / "x", "file: a file is in the place of a folder"),
        (tmp_path / "file" / "x" / "y", "x: a file is in the place of a folder"),
        (tmp_path / ("n" * 300), "the name is too long"),
        (Path("/proc/nowhere/x"), "/proc/nowhere: "),
    ):
        with pytest.raises(UsageError, match=what):
            files.write_bytes(path, b"x")
    with pytest.raises(UsageError, match="file: a file is in the place of a folder"):
        files.make_folder(tmp_path / "file")


def test_permission_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    with pytest.raises(UsageError, match="x: no permission; change the rights"):
        files.write_bytes(tmp_path / "x", b"x")


def killed_while_writing(folder):
    """A process that is killed between its last byte and the rename, or with a temporary folder."""
    code = f"""
import os, pathlib, signal, tempfile
from workshop import files
tempfile.tempdir = {str(folder)!r}
with files.temporary_folder("submission-") as made:
    (made / "model.py").write_text("x")
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    files.write_bytes(pathlib.Path({str(folder)!r}, "file"), b"x")
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert run.returncode == -signal.SIGKILL


def test_the_next_run_removes_what_a_killed_one_left(tmp_path, monkeypatch):
    killed_while_writing(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    assert all(name.endswith(files.PARTIAL) for name in left)
    (tmp_path / ".mine").touch()
    (tmp_path / "submission-of-mine").mkdir()
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    files.write_bytes(tmp_path / "other", b"x")
    with files.temporary_folder("submission-") as folder:
        names = {".mine", "other", "submission-of-mine"}
        assert {path.name for path in tmp_path.iterdir()} == {*names, folder.name}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_what_others_are_writing_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    with files.partial_file(tmp_path / "a") as (_, partial), files.temporary_folder("submission-") as folder:
        files._swept.clear()
        files.write_bytes(tmp_path / "b", b"x")
        with files.temporary_folder("submission-"):
            assert partial.exists()
            assert folder.exists()


def test_without_locks_nothing_is_taken_for_a_left_over(tmp_path, monkeypatch):
    (tmp_path / f".file.1{files.PARTIAL}").touch()

    def none(*_):
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(fcntl, "flock", none)
    files.write_bytes(tmp_path / "file", b"x")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.tempfile, "mkdtemp", full)
    with pytest.raises(UsageError, match=r"TMPDIR\): no space left on the device; free some"):
        files.temporary_folder("x").__enter__()


def test_a_full_temporary_folder_is_not_blamed_on_the_zip_file(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    path = pack(tmp_path / "s.zip", ("model.py", "x = 1"))
    real = Path.open
    opens = {"xb": lambda *_, **__: Full()}
    monkeypatch.setattr(Path, "open", lambda path, mode="r", **more: opens.get(mode, real)(path, mode, **more))
    with pytest.raises(UsageError, match=r"submission-.*: no space left on the device; free some") as caught:
        opened(path).__enter__()
    assert "zip" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ENOENT, errno.EMFILE, errno.ETIMEDOUT])
def test_programs_explain_the_system_s_errors(number, tmp_path, capsys):
    def work(_):
        raise OSError(number, os.strerror(number))

    given = parser("x", None, "").parse_args([])
    given.output = tmp_path / "here"
    assert run_program(work, given) == 2
    error = capsys.readouterr().err
    assert error == f"error: {disk_error(OSError(number, os.strerror(number)), given.output)}\n"
    assert f"{given.output}: " in error
    assert "; " in error
    assert "Errno" not in error


PROGRAM = """
import sys
from scripts.common import parser, run_program
def work(_):
    for _ in range({lines}):
        print("x" * 100)
sys.exit(run_program(work, parser("x", None, "").parse_args([])))
"""


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
PLAIN = {"cwd": ROOT, "env": ENVIRONMENT, "stderr": subprocess.PIPE, "text": True, "check": False}


@pytest.mark.parametrize(("lines", "code"), [(10, 0), (10_000, 2)], ids=["in the end", "while it works"])
def test_a_reader_who_goes_away_ends_a_program_quietly(lines, code):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", PROGRAM.format(lines=lines)]
    run = subprocess.run(command, stdout=writing, **PLAIN)
    os.close(writing)
    assert (run.returncode, run.stderr) == (code, "")


def test_a_full_standard_output_is_one_line():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", PROGRAM.format(lines=10)]
        run = subprocess.run(command, stdout=full, **PLAIN)
    assert run.returncode == 2
    assert run.stderr.startswith("error: standard output: no space left on the device; free some")


def test_writers_at_once_give_one_whole_file(tmp_path):
    code = f"""
import pathlib, sys
from workshop.files import write_bytes
for _ in range(30):
    write_bytes(pathlib.Path({str(tmp_path)!r}, "file"), sys.argv[1].encode() * 100000)
"""
    runs = [subprocess.Popen([sys.executable, "-c", code, letter], cwd=ROOT) for letter in "ab"]
    seen = set()
    while any(run.poll() is None for run in runs):
        time.sleep(0.01)
        if (tmp_path / "file").exists():
            seen.add((tmp_path / "file").read_bytes())
    assert [run.returncode for run in runs] == [0, 0]
    assert seen <= {letter * 100000 for letter in (b"a", b"b")}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
