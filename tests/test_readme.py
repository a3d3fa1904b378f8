"""README is true: its commands are understood by the programs they name, its Python runs, its links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys

import pytest

from scripts.__main__ import verbs
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
LINES = re.findall(r"(?:^    .+\n)+", PROSE, re.MULTILINE)
INLINE = re.findall(r"`([^`]+)`", re.sub(r"^    .+$", "", PROSE, flags=re.MULTILINE))


def commands():
    """Return each command line, continued lines joined, without comments."""
    found = [line for block in LINES for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(line.partition(" #")[0].split()) for line in (*found, *INLINE)]


PROGRAMS = sorted({line for line in commands() if line.startswith(("python -m scripts.", "python -m benchmarks."))})
TARGETS = sorted({target for line in commands() for target in re.findall(r"^make (\w+)$", line)})


def test_there_is_something_to_check():
    assert len(PROGRAMS) > 15
    assert {"demo", "test"} <= set(TARGETS)


@pytest.mark.parametrize("line", PROGRAMS)
def test_commands_are_understood(line, monkeypatch):
    _, _, module, *given = shlex.split(line)
    name = module.rpartition(".")[2]
    if module.startswith("benchmarks."):
        assert importlib.util.find_spec(module) is not None
        return
    assert name in verbs()
    if not given:  # a mention, not a command line
        return
    program = importlib.import_module(module)
    ran = []
    monkeypatch.setattr(program, "run_program", lambda work, options: ran.append(options) or 0)
    assert program.main(given) == 0
    assert ran
    for value in given:
        if value.startswith(("training/", "tests/", "docs/")):
            assert (ROOT / value).exists()


@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_in_the_makefile(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)", TEXT))
def test_links_lead_to_files(link):
    assert (ROOT / link).is_file()


@pytest.mark.parametrize("anchor", re.findall(r"\]\(#([^)]+)\)", TEXT))
def test_anchors_are_headings(anchor):
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_python_runs():
    (code,) = (code for language, code in BLOCKS if language == "python")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "'mu_hat': " in run.stdout
