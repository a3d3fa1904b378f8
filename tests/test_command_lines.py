"""Command lines drawn at random: every program ends with 0 or 2 and never with a traceback."""

import contextlib
import importlib
import io
import shlex
import signal
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.__main__ import verbs
from tests import official

ROOT = official.TESTS.parent
SECONDS = 60
"""After which a program hangs; the slowest takes one or two."""
BAD = (
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-5",
    "0.5.5",
    "",
    "é\U0001f600",
    "4000000000000",
    "tpyo",
    "tes=nan",
    "a\0b",
    "x" * 300,
)


class Late(BaseException):
    """A program took too long; no program catches this."""


def flags(name):
    """Return the options of a program, from its help."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        importlib.import_module(f"scripts.{name}").main(["--help"])
    words = out.getvalue().replace("[", " ").replace("]", " ").replace(",", " ").split()
    return sorted({word for word in words if word.startswith("--") and word != "--help"})


def ended(name, argv):
    """Run a program with a time limit; its exit code."""

    def late(*_):
        msg = f"{name} {shlex.join(argv)} takes more than {SECONDS} s"
        raise Late(msg)

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return importlib.import_module(f"scripts.{name}").main(argv), err.getvalue()
    except SystemExit as end:
        return end.code, err.getvalue()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def command_lines(draw, folder):
    """Draw a program and its options: those of its example, some of them replaced, left out or added."""
    name = draw(st.sampled_from(sorted(set(verbs()) - {"get_data"})))
    program = importlib.import_module(f"scripts.{name}")
    argv = shlex.split(program.EXAMPLE)
    for option in ("--output", "--cache", "--build"):
        if option in argv:
            argv[argv.index(option) + 1] = str(folder / "new" / "out")
    places = [
        str(folder / "file"),
        str(folder / "nowhere"),
        str(folder / "empty"),
        str(folder / "é"),
        "",
        "/dev/null/x",
    ]
    paths = {"--data", "--weights", "--results", "--training", "--network", "--config", "--reference", "--parts"}
    for place, word in enumerate(argv):
        # What is read is never there, so that nothing expensive can begin.
        if word in paths:
            argv[place + 1] = draw(st.sampled_from(places))
    # Nor where nothing is read.
    nowhere = ["--weights", draw(st.sampled_from(places))]
    argv += {
        "toys": nowhere,
        "asimov": nowhere,
        "simulate": ["--process", "wjets"],
        "interference": ["--problem", "none"],
    }.get(name, [])
    for _ in range(draw(st.integers(1, 3))):
        option = draw(st.sampled_from(flags(name)))
        value = draw(st.sampled_from((*BAD, *places)) | st.floats().map(str) | st.integers().map(str))
        argv += [f"{option}={value}"] if draw(st.booleans()) else [option, value]
    return name, argv


def check(folder, examples):
    (folder / "file").write_text("no data")
    (folder / "empty").mkdir()
    slowest = [0.0, None]

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(command_lines(folder))
    def run(line):
        began = time.monotonic()
        code, errors = ended(*line)
        assert code in (0, 2), (line, errors)
        assert "Traceback" not in errors, (line, errors)
        slowest[:] = max(slowest, [time.monotonic() - began, line], key=lambda entry: entry[0])

    run()
    return slowest


def test_drawn_command_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(tmp_path, 60)


@pytest.mark.slow
def test_more_drawn_command_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    print(check(tmp_path, 300))
