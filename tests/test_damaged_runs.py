"""Files of a run whose values are of another type than the harness writes: one line, never a traceback."""

import copy
import dataclasses
import importlib
import json
import shutil

import pytest

from harness.results import EXPERIMENTS_FILE, RUN_FILE, read_records
from sage.challenge.nuisances import NAMES
from sage.files.bundle import read_bundle
from scripts import run_ingestion
from studies.event_toys import frame_of_records
from tests import official
from tests.events import FIVE_WEIGHTS
from workshop.errors import UsageError

ROOT = official.TESTS.parent
COUNTING = official.TESTS / "submissions" / "counting"
WRONG = ("x", None, True, [], ["x"], {}, {"x": {}}, float("nan"), 1e308, 10**400)
FITTED = {"status": "ok", "flags": ["a"], "nll": 3.0, "nuisances": {name: {"nu": 0.5, "sigma": 1.0} for name in NAMES}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    events = official.events_folder(tmp_path_factory.mktemp("events"))
    given = ["--data", events, "--submission", COUNTING, "--output", folder, "--sets", 2, "--experiments", 2]
    assert run_ingestion.main([str(value) for value in given]) == 0
    lines = [json.loads(line) | {"result": FITTED} for line in (folder / EXPERIMENTS_FILE).read_text().splitlines()]
    write(folder, lines)
    return folder


def write(folder, lines):
    (folder / EXPERIMENTS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def places(value, path=()):
    """Return the way to every value inside a JSON value."""
    found = [path] if path else []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, item in inside for place in places(item, (*path, key))]


def changed(value, path, new):
    """Return a copy with another value at the end of the way; without that entry if it is ``...``."""
    value = holder = copy.deepcopy(value)
    for key in path[:-1]:
        holder = holder[key]
    if new is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return value


def read_or_refused(folder):
    """Return the records, or None and why not."""
    try:
        return read_records(folder / EXPERIMENTS_FILE)[0], ""
    except UsageError as error:
        return None, str(error)


def test_every_value_of_a_pseudo_experiment(finished, tmp_path):
    bundle = read_bundle(FIVE_WEIGHTS)
    records, _ = read_records(finished / EXPERIMENTS_FILE)
    first, *others = [dataclasses.asdict(record) for record in records]
    refused = 0
    for path in places(first):
        for new in (*WRONG, ...):
            write(tmp_path, [changed(first, path, new), *others])
            found, said = read_or_refused(tmp_path)
            if found is None:
                assert "line 1 is damaged" in said
                assert "\n" not in said
                refused += 1
                assert path[0] != "result"  # another method may keep there what it likes
                continue
            frame = frame_of_records(found, bundle, tmp_path)
            assert sorted(frame["mu_hat"]) == sorted(record.answer["mu_hat"] for record in found)
            assert list(frame["number"]) == [0, 1, 2, 3]
    assert refused > 100


@pytest.mark.parametrize(
    ("file", "path", "new", "named"),
    [
        (RUN_FILE, ("systematics",), [1], "'systematics' is [1], not an object"),
        (RUN_FILE, (), [], "holds a list, not an object"),
        ("environment.json", ("versions",), "x", "'versions' is 'x', not an object"),
        ("environment.json", ("data", "rows"), "many", None),
        ("environment.json", ("machine",), 3, "'machine' is 3, not an object"),
    ],
)
def test_report_of_a_damaged_run(finished, tmp_path, capsys, file, path, new, named):
    folder = shutil.copytree(finished, tmp_path / "run")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(changed(content, path, new) if path else new))
    report = importlib.import_module("scripts.report")
    code = report.main(["--results", str(folder), "--output", str(tmp_path / "page.html")])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == (2 if named else 0)
    assert len(errors) == (1 if named else 0)
    assert named is None or (named in errors[0] and str(folder / file) in errors[0])


@pytest.mark.parametrize("name", ["score", "report", "run_ingestion"])
@pytest.mark.parametrize(
    ("file", "path", "new"),
    [
        (EXPERIMENTS_FILE, ("answer",), [1.0]),
        (EXPERIMENTS_FILE, ("predict_seconds",), "quick"),
        ("ingestion_duration.json", ("ingestion_duration",), "short"),
        ("test_settings.json", ("ground_truth_mus",), [1.0, True]),
        ("result_0.json", ("p16",), {}),
    ],
)
def test_programs_that_read_a_damaged_run(finished, tmp_path, capsys, name, file, path, new):
    folder = shutil.copytree(finished, tmp_path / "run")
    lines = (folder / file).read_text().splitlines() if file == EXPERIMENTS_FILE else [(folder / file).read_text()]
    lines[0] = json.dumps(changed(json.loads(lines[0]), path, new))
    (folder / file).write_text("\n".join(lines) + "\n")
    program = importlib.import_module(f"scripts.{name}")
    given = ["--results", folder] + (["--output", tmp_path / "page.html"] if name == "report" else [])
    if name == "run_ingestion":  # goes on with the experiments, and writes the other files anew
        events = official.events_folder(tmp_path)
        given = ["--data", events, "--submission", COUNTING, "--output", folder, "--sets", 2, "--experiments", 2]
    code = program.main([str(value) for value in given])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    expected = 0 if name == "run_ingestion" and file != EXPERIMENTS_FILE else 2
    assert (code, len(errors)) == (expected, expected // 2)
    assert not errors or file in errors[0]
