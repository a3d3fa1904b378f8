"""README and docs are true: programs understand their commands, README's Python runs, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys

import pytest

from scripts.__main__ import verbs
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "training" / "simulation" / "README.md"]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands(text):
    """Return each command line of a page, continued lines joined, without comments."""
    prose = FENCED.sub("", text)
    blocks = re.findall(r"(?:^    .+\n)+", prose, re.MULTILINE)
    inline = re.findall(r"`([^`]+)`", re.sub(r"^    .+$", "", prose, flags=re.MULTILINE))
    found = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(line.partition(" #")[0].split()) for line in (*found, *inline)]


def heading_anchors(text):
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


ALL_COMMANDS = {line for text in TEXTS.values() for line in commands(text)}
PROGRAMS = sorted(line for line in ALL_COMMANDS if line.startswith(("python -m scripts.", "python -m benchmarks.")))
TARGETS = sorted({target for line in ALL_COMMANDS for target in re.findall(r"^make (\w+)$", line)})
LINKS = [(page, link) for page, text in TEXTS.items() for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]


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


@pytest.mark.parametrize(
    ("page", "link"), LINKS, ids=[f"{page.parent.name}/{page.stem}:{link}" for page, link in LINKS]
)
def test_links_lead_somewhere(page, link):
    place, _, anchor = link.partition("#")
    target = page.parent / place if place else page
    assert target.is_file()
    if anchor:
        assert anchor in heading_anchors(target.read_text(encoding="utf-8"))


def test_python_runs():
    (code,) = (code for language, code in FENCED.findall(TEXTS[PAGES[0]]) if language == "python")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    answer = ast.literal_eval(run.stdout.splitlines()[0])
    promised = re.search(r"# mu_hat ([\d.]+), from ([\d.]+) to ([\d.]+); true is 1", code)
    assert [round(answer[key], 2) for key in ("mu_hat", "p16", "p84")] == list(map(float, promised.groups()))
    assert "\nok ()" in run.stdout
