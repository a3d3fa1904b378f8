"""How programs start: quickly, without the large libraries, from any folder, and into any pipe."""

import ast
import os
import resource
import subprocess
import sys

import pytest

from scripts.__main__ import verbs
from tests import official

ROOT = official.TESTS.parent
HEAVY = ("torch", "pandas", "pyarrow", "scipy", "matplotlib", "sklearn", "jinja2", "awkward", "numba", "HiggsML")
HELP = """
import contextlib, importlib, io, sys
for name in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        importlib.import_module(f"scripts.{name}").main(["--help"])
print(*sorted({module.partition(".")[0] for module in sys.modules}))
"""


def run(*command, folder=ROOT):
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300)


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_no_help_needs_a_large_library():
    ended = run("-c", HELP, *verbs())
    assert ended.returncode == 0, ended.stderr
    loaded = set(ended.stdout.split())
    assert {"numpy", "scripts"} <= loaded
    assert not loaded.intersection(HEAVY)


@pytest.mark.parametrize("arguments", [("scripts",), ("scripts.toys", "--help"), ("scripts.make_weights", "--help")])
def test_help_takes_less_than_a_second(arguments):
    before = cpu_seconds()  # time of its own, whatever else the machine does
    ended = run("-m", *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert cpu_seconds() - before < 1.0


@pytest.mark.parametrize("name", verbs())
def test_the_first_import_from_the_project_finds_the_package(name):
    """Started as a file, a program finds ``scripts.scripts`` in the place of the package, which must come first."""
    tree = ast.parse((ROOT / "scripts" / f"{name}.py").read_text(encoding="utf-8"))
    modules = [node.module.partition(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)]
    ours = [module for module in modules if (ROOT / module).is_dir()]
    assert ours[0] == "scripts"


def test_programs_start_as_files_in_any_folder(tmp_path):
    for name in ("score", "report"):
        ended = run(ROOT / "scripts" / f"{name}.py", "--results", "nothing", "--output", "out", folder=tmp_path)
        assert ended.returncode == 2
        assert ended.stderr == "error: --results nothing: no such folder; give one that is there\n"
    ended = run("scripts/make_submission.py", "--output", tmp_path / "a" / "a.zip")
    assert ended.returncode == 0, ended.stderr
    ended = run(ROOT / "scripts" / "make_submission.py", "--output", "b.zip", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "a" / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize("arguments", [("scripts",), ("scripts.score", "--help")])
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as pipe:
        ended = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=300
        )
    assert (ended.returncode, ended.stderr) == (0, "")
