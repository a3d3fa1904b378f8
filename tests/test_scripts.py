"""The command-line programs: what they print, write and return."""

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from harness.results import read_records
from scripts import build_tables, evaluate, make_submission, make_weights, run_ingestion, score, train
from scripts.__main__ import grouped, verbs
from scripts.checks import READ
from tests import official
from tests.events import FIVE_WEIGHTS

ROOT = official.TESTS.parent
COUNTING = official.TESTS / "submissions" / "counting"
PROGRAMS = {"run_ingestion": run_ingestion, "score": score, "make_submission": make_submission}


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    return official.events_folder(tmp_path_factory.mktemp("events"))


def ingest(events, output, *more):
    given = ["--data", events, "--submission", COUNTING, "--output", output, "--experiments", 3, *more]
    return run_ingestion.main([str(value) for value in given])


def only_error(capsys):
    """Return the one line on stderr that tells the user what is wrong."""
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in "".join(lines)
    return errors[0]


def test_verbs_are_discovered():
    assert set(PROGRAMS) <= set(verbs())
    assert "common" not in verbs()
    assert list(grouped(verbs())) == ["make", "run", "study"]
    assert sorted(name for names in grouped(verbs()).values() for name in names) == sorted(verbs())
    listing = subprocess.run([sys.executable, "-m", "scripts"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in PROGRAMS:
        assert f"  {name} " in listing.stdout
        assert PROGRAMS[name].__doc__.partition("\n")[0] in listing.stdout


@pytest.mark.parametrize("name", verbs())
def test_help_has_an_example_that_is_understood(name, capsys, monkeypatch):
    program = importlib.import_module(f"scripts.{name}")
    with pytest.raises(SystemExit) as caught:
        program.main(["--help"])
    assert caught.value.code == 0
    assert f"example:\n  python -m scripts.{name} " in " ".join(capsys.readouterr().out.split(" "))
    ran = []
    monkeypatch.setattr(program, "run_program", lambda work, given: ran.append(given) or 0)
    assert program.main(shlex.split(program.EXAMPLE)) == 0
    assert ran


def test_run_and_score(events, tmp_path, capsys):
    output = tmp_path / "run"
    assert ingest(events, output, "--ground-truth-mus", 1.0, 2.5) == 0
    printed = capsys.readouterr()
    assert f"score them with: python -m scripts.score --results {output}" in printed.out
    assert "6/6" in printed.err
    assert "predicting" not in printed.err + printed.out
    settings = json.loads((output / "test_settings.json").read_text())
    assert settings["ground_truth_mus"] == [1.0, 2.5]
    assert settings["random_mu"] is False
    assert all(settings["systematics"].values())

    assert score.main(["--results", str(output), "--label", "500 events", "--name", "Counting"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^HEPHY +0\.6683 +0\.4599 +-0\.5823 +10000 +official hold-out$", printed, re.MULTILINE)
    assert "Counting" in printed
    assert "500 events" in printed
    assert "Answers by status: " in printed
    scores = json.loads((output / "scores.json").read_text())
    assert scores["experiments"] == 6
    assert len(scores["sets"]) == 2
    assert sum(scores["statuses"].values()) == 6
    assert (output / "intervals.png").read_bytes().startswith(b"\x89PNG")

    assert score.main(["--results", str(output), "--output", str(tmp_path / "elsewhere")]) == 0
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["intervals.png", "scores.json"]


def test_switches(events, tmp_path):
    for given, expected in (("none", []), ("jes,ttbar_scale", ["jes", "ttbar_scale"])):
        assert ingest(events, tmp_path / given, "--systematics", given, "--sets", 1, "--test-size", 100) == 0
        settings = json.loads((tmp_path / given / "test_settings.json").read_text())
        assert [name for name, on in settings["systematics"].items() if on] == expected
        records, _ = read_records(tmp_path / given / "experiments.jsonl")
        assert all((record.nuisances["tes"], record.nuisances["diboson_scale"]) == (1.0, None) for record in records)
        assert all((record.nuisances["jes"] != 1.0) == bool(expected) for record in records)


@pytest.mark.parametrize(
    "given",
    [
        ("--systematics", "tau"),
        ("--test-size", "a third"),
        ("--sets", "two"),
        ("--sets", "4000000000"),
        ("--sets", "0"),
        ("--test-size", "1.5"),
        ("--test-size", "nan"),
        ("--test-size", "0"),
        ("--ground-truth-mus", "1e300"),
        ("--ground-truth-mus", "nan"),
        ("--ground-truth-mus=-1",),
        ("--seed=-3",),
        ("--unknown",),
    ],
)
def test_unusable_arguments(events, tmp_path, given, capsys):
    with pytest.raises(SystemExit) as caught:
        ingest(events, tmp_path / "run", *given)
    assert caught.value.code == 2
    assert given[-1].rpartition("=")[2] in capsys.readouterr().err


def test_user_errors(events, tmp_path, capsys):
    frame = pd.read_parquet(official.REAL_EVENTS)
    frame.drop(columns="PRI_met_phi").to_parquet(tmp_path / "events.parquet")
    run, mus = tmp_path / "run", ("--sets", 2, "--ground-truth-mus", 1.0)
    for call, *named in (
        (lambda: ingest(tmp_path / "events.parquet", run), "events.parquet", "column 'PRI_met_phi' is missing"),
        (lambda: ingest(tmp_path / "nowhere", run), "nowhere", "no such events file"),
        (lambda: ingest(events, run, *mus), "1 ground-truth mus for 2 sets"),
        (lambda: ingest(events, tmp_path), "not empty"),
        (lambda: ingest(events, tmp_path / "events.parquet"), "in the place of a folder"),
        (lambda: ingest(events, tmp_path / "events.parquet" / "x"), "in the place of a folder"),
        (lambda: ingest(events, run, "--submission", events), "no model.py at its root"),
        (lambda: score.main(["--results", str(tmp_path)]), "no test_settings.json"),
    ):
        assert call() == 2
        error = only_error(capsys)
        for text in named:
            assert text in error


def test_user_errors_of_training(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("seed: [1\n")
    output = ["--output", str(tmp_path / "out")]
    for program, given, *named in (
        (train, ["--data", "nowhere"], "nowhere", "no such folder"),
        (train, ["--data", str(ROOT / "data"), "--config", str(tmp_path / "bad.yaml")], "bad.yaml", "not YAML"),
        (train, ["--data", str(ROOT / "data"), "--device", "gpu"], "device is 'gpu'", "choose cpu"),
        (train, ["--data", str(ROOT / "data"), "--device", "cuda:999"], "device is 'cuda:999'"),
        (evaluate, ["--data", str(ROOT / "data"), "--training", str(tmp_path / "tpyo")], "tpyo", "no such folder"),
        (make_weights, ["--data", str(ROOT / "data"), "--region-set", "nope"], "'nope'", "disjoint, five"),
        (
            build_tables,
            ["--data", str(ROOT / "data"), "--training", str(ROOT / "data")],
            "holds neither manifest.json nor training.json",
        ),
        (
            make_weights,
            ["--data", str(ROOT / "data"), "--network", str(FIVE_WEIGHTS), "--region-set", "six"],
            "'six'",
            "disjoint, five",
        ),
    ):
        assert program.main([*given, *output]) == 2
        error = only_error(capsys)
        for text in named:
            assert text in error
        assert not (tmp_path / "tpyo").exists()
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("toys", ("--mu", "nan"), "nan"),
        ("toys", ("--mu=-5",), "-5"),
        ("toys", ("--toys", "1e9"), "1e9"),
        ("asimov", ("--mu", "inf"), "inf"),
        ("asimov", ("--nuisance", "tes=nan"), "tes=nan"),
        ("make_weights", ("--data", "data", "--held-out=-1"), "-1"),
        ("make_weights", ("--data", "data", "--nodes", "0"), "0"),
        ("make_weights", ("--data", "data", "--scheduler", "nonsense"), "nonsense"),
        ("simulate", ("--events", "3", "--seed", "1", "--z-quiet", "nan"), "nan"),
    ],
)
def test_values_are_checked_before_anything_is_made(name, given, value, tmp_path, capsys):
    program = importlib.import_module(f"scripts.{name}")
    with pytest.raises(SystemExit) as caught:
        program.main([*given, "--output", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert value in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(set(verbs()) - {"report", "make_submission"}))
def test_a_file_where_a_folder_is_meant_is_refused_first(name, tmp_path, capsys):
    """Before a missing input is: nothing of the work has begun."""
    program = importlib.import_module(f"scripts.{name}")
    argv = shlex.split(program.EXAMPLE)
    there, file = tmp_path / "there", tmp_path / "file"
    there.mkdir()
    file.write_text("mine")
    for place, word in enumerate(argv):
        if word[2:] in READ and word != "--toys":  # a number here
            argv[place + 1] = str(there if READ[word[2:]] != "file" else file)
    argv = argv if "--output" in argv else [*argv, "--output", ""]
    argv[argv.index("--output") + 1] = str(file)
    assert program.main(argv) == 2
    assert only_error(capsys) == f"error: --output {file}: a file in the place of a folder; give a folder"
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "option"), [("make_weights", "build"), ("make_method", "build"), ("simulate", "cache")]
)
def test_other_folders_that_are_files_are_refused_as_well(name, option, tmp_path, capsys):
    program = importlib.import_module(f"scripts.{name}")
    (tmp_path / "file").write_text("mine")
    argv = shlex.split(program.EXAMPLE.replace("--data data", f"--data {ROOT / 'data'}"))
    argv[argv.index("--output") + 1] = str(tmp_path / "new")
    argv += [f"--{option}", str(tmp_path / "file")]
    assert program.main(argv) == 2
    assert only_error(capsys) == f"error: --{option} {tmp_path}/file: a file in the place of a folder; give a folder"
    assert not (tmp_path / "new").exists()


def test_every_submission_is_looked_at_before_the_first_runs(tmp_path, capsys):
    compare = importlib.import_module("scripts.compare")
    given = ["--submissions", f"a={COUNTING}", f"b={tmp_path}/tpyo", "--data", tmp_path, "--output", tmp_path / "out"]
    assert compare.main([str(value) for value in given]) == 2
    assert (
        only_error(capsys)
        == f"error: --submissions {tmp_path}/tpyo: no such folder or zip file; give one that is there"
    )
    assert not (tmp_path / "out").exists()


def test_page_does_not_overwrite_its_numbers(tmp_path, capsys):
    report = importlib.import_module("scripts.report")
    for output, rule in ((tmp_path / "x.json", "end it with .html"), (tmp_path, "a folder in the place of a file")):
        assert report.main(["--results", str(tmp_path), "--output", str(output)]) == 2
        assert rule in only_error(capsys)


def test_failing_submission(events, tmp_path, capsys):
    text = (COUNTING / "model.py").read_text().replace("count = len", "raise RuntimeError('boom')\n        count = len")
    (tmp_path / "failing").mkdir()
    (tmp_path / "failing" / "model.py").write_text(text)
    assert ingest(events, tmp_path / "run", "--submission", tmp_path / "failing", "--sets", 1) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("error: predict failed in set 0, pseudo-experiment ")
    assert "finished pseudo-experiments are kept" in error


def heed_interrupts():
    """Undo what a shell does to programs it starts in the background: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_run_can_be_continued(events, tmp_path):
    slow, quick = tmp_path / "slow", tmp_path / "quick"
    slow.mkdir()
    # Slow until this file is there: however late the signal comes, it comes before the end.
    wait = f"        time.sleep(0 if pathlib.Path({str(quick)!r}).exists() else 2)\n"
    text = (COUNTING / "model.py").read_text().replace("        count = len", wait + "        count = len")
    (slow / "model.py").write_text("import pathlib, time\n" + text)
    output = tmp_path / "run"
    command = [sys.executable, "-m", "scripts.run_ingestion", "--data", events, "--submission", slow]
    command += ["--output", output, "--sets", "1", "--experiments", "6", "--workers", "2"]
    command = [str(part) for part in command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=heed_interrupts, **pipes)
    lines = output / "experiments.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (lines.exists() and lines.read_bytes().count(b"\n")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command continues it" in error
    assert "Traceback" not in error
    done = lines.read_bytes().count(b"\n")
    assert 0 < done < 6
    quick.touch()
    finished = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert f"{done} pseudo-experiments are there already" in finished.stderr
    assert len(read_records(lines)[0]) == 6
