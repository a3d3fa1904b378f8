"""Runs: the answers that are accepted, the files, workers, interruptions and failures."""

import dataclasses
import errno
import json
import os

import numpy as np
import pytest

from harness import runner
from harness.experiment import check_answer, describe, name_of
from harness.mapped import POOL_FOLDER
from harness.results import read_records, read_results
from harness.runner import RunOptions, run
from harness.settings import Job, make_settings
from harness.test_set import EventFile
from tests import official
from tests.submissions.making import MINIMAL, pack, write
from workshop.errors import SubmissionError, UsageError

COUNTING = official.TESTS / "submissions" / "counting"
SETTINGS = make_settings(2, 3, seed=21)
JOB = Job(1, 2, 26, 0.5)


@pytest.fixture(scope="module")
def events_folder(tmp_path_factory):
    return official.events_folder(tmp_path_factory.mktemp("events"))


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (None, "returned NoneType"),
        ({"mu_hat": 1.0}, "no 'delta_mu_hat'"),
        ({"p16": np.float32(1)}, r"'p16' = np\.float32\(1\.0\)"),
        ({"p84": float("nan")}, "'p84' = nan"),
        ({"mu_hat": float("inf")}, "'mu_hat' = inf"),
        ({"mu_hat": "1"}, "'mu_hat' = '1' of type str"),
        ({"mu_hat": True}, "'mu_hat' = True of type bool"),
        ({"mu_hat": np.array(1.0)}, "'mu_hat'.*ndarray"),
    ],
)
def test_answers_that_break_the_contract(answer, named):
    good = {"mu_hat": 1.0, "delta_mu_hat": np.float64(0.5), "p16": 0, "p84": 1.5, "more": None}
    assert check_answer(good, name_of(JOB)) == {"mu_hat": 1.0, "delta_mu_hat": 0.5, "p16": 0, "p84": 1.5}
    if isinstance(answer, dict) and len(answer) == 1 and "delta_mu_hat" not in named:
        answer = {**good, **answer}
    with pytest.raises(UsageError, match=named) as caught:
        check_answer(answer, name_of(JOB))
    assert "set 1, pseudo-experiment 2 (seed 26)" in str(caught.value)


def test_last_result_becomes_plain_values():
    @dataclasses.dataclass
    class Inner:
        values: np.ndarray

    @dataclasses.dataclass
    class Result:
        status: str
        inner: Inner
        nan: float = float("nan")
        other: object = complex(1, 2)

    class WithMethod:
        def to_dict(self):
            return {"status": "ok"}

    plain = describe(Result("ok", Inner(np.array([1.5, np.inf]))))
    assert plain == {"status": "ok", "inner": {"values": [1.5, None]}, "nan": None, "other": "(1+2j)"}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert describe(WithMethod()) == {"status": "ok"}
    assert describe(None) is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory, events_folder):
    output = tmp_path_factory.mktemp("run") / "results"
    run(RunOptions(events_folder, COUNTING, output, SETTINGS))
    return output


def options(events_folder, output, **changes):
    return RunOptions(
        **{"data": events_folder, "submission": COUNTING, "output": output, "settings": SETTINGS, **changes}
    )


def outcome(folder):
    """What must not depend on how a run was made: official files and, by number, all but the times."""
    records, _ = read_records(folder / "experiments.jsonl")
    plain = [dataclasses.replace(record, generation_seconds=0, predict_seconds=0) for record in records]
    files = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    files.pop("environment.json")
    return files, sorted(plain, key=lambda record: record.seed)


def files(folder):
    return [path.name for path in folder.rglob("*") if path.is_file()]


class TestRun:
    def test_files(self, finished):
        files, records = outcome(finished)
        assert sorted(files) == [
            "ingestion_duration.json",
            "result_0.json",
            "result_1.json",
            "run.json",
            "submission.json",
            "test_settings.json",
        ]
        assert [(record.set, record.index, record.seed) for record in records] == [
            (s, t, 21 + 3 * s + t) for s in range(2) for t in range(3)
        ]
        assert all(record.result["spread"] is None and record.events > 18_000 for record in records)
        result = json.loads(files["result_1.json"])
        assert list(result) == ["mu_hats", "delta_mu_hats", "p16", "p84"]
        assert result["mu_hats"] == [record.answer["mu_hat"] for record in records if record.set == 1]
        results = read_results(finished)
        assert sum(results.statuses.values()) == 6
        assert results.duration == 0
        environment = json.loads((finished / "environment.json").read_text())
        assert environment["data"]["rows"] == 500
        assert environment["workers"] == 1
        assert environment["versions"]["numpy"] == np.__version__

    def test_workers_do_not_matter(self, finished, events_folder, tmp_path):
        run(options(events_folder, tmp_path / "two", workers=2))
        assert outcome(tmp_path / "two") == outcome(finished)

    def test_zip_does_not_matter(self, finished, events_folder, tmp_path):
        path = pack(tmp_path / "s.zip", ("model.py", (COUNTING / "model.py").read_text()))
        run(options(events_folder, tmp_path / "zipped", submission=path))
        assert outcome(tmp_path / "zipped") == outcome(finished)

    def test_a_killed_run_is_continued(self, finished, events_folder, tmp_path, monkeypatch):
        output = tmp_path / "results"
        output.mkdir()
        (output / "run.json").write_bytes((finished / "run.json").read_bytes())
        lines = (finished / "experiments.jsonl").read_bytes().splitlines(keepends=True)
        (output / "experiments.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:40])
        calls = []
        real = runner.run_experiment
        monkeypatch.setattr(runner, "run_experiment", lambda *given: calls.append(given[2]) or real(*given))
        with pytest.raises(UsageError, match="no test_settings"):
            read_results(output)
        run(options(events_folder, output))
        assert len(calls) == 4
        assert outcome(output) == outcome(finished)
        run(options(events_folder, output))
        assert len(calls) == 4

    @pytest.mark.parametrize("workers", [1, 2])
    def test_test_set_of_a_killed_run_is_removed(self, finished, events_folder, tmp_path, workers, monkeypatch):
        output, stale = tmp_path / "results", tmp_path / "results" / POOL_FOLDER
        stale.mkdir(parents=True)  # even without anything else, as after rm -r results/*
        (stale / "0.npy").write_bytes(b"x")
        (stale / "left.npy").write_bytes(b"x")
        seen = []
        real = EventFile.load_test_set
        monkeypatch.setattr(EventFile, "load_test_set", lambda *given: (real(*given), seen.extend(files(output)))[0])
        run(options(events_folder, output, workers=workers))
        assert outcome(output) == outcome(finished)
        assert not stale.exists()
        assert "left.npy" not in seen
        assert ("0.npy" in seen) == (workers == 2)

    def test_no_room_for_the_test_set(self, events_folder, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(UsageError, match=r"results.*no room for .*No space left.*--output"):
            run(options(events_folder, tmp_path / "results", workers=2))
        assert not (tmp_path / "results" / POOL_FOLDER).exists()

    def test_other_settings_are_refused(self, finished, events_folder, tmp_path):
        before = outcome(finished)
        other = write(tmp_path / "other")
        for changes, named in (
            ({"settings": make_settings(2, 3, seed=22)}, "seed"),
            ({"settings": make_settings(2, 4, seed=21)}, "num_pseudo_experiments"),
            ({"settings": make_settings(2, 3, seed=21, systematics=())}, "systematics"),
            ({"settings": make_settings(2, 3, seed=21, mus=[1, 2])}, "ground_truth_mus"),
            ({"test_size": 0.4}, "data"),
            ({"submission": other}, "submission"),
        ):
            with pytest.raises(UsageError, match=f"other settings.*{named}.*--overwrite"):
                run(options(events_folder, finished, **changes))
        assert outcome(finished) == before

    def test_overwrite_removes_only_our_files(self, events_folder, tmp_path):
        output = tmp_path / "results"
        run(options(events_folder, output))
        (output / "notes.txt").write_text("mine")
        run(options(events_folder, output, settings=make_settings(1, 1), overwrite=True))
        assert (output / "notes.txt").read_text() == "mine"
        assert not (output / "result_1.json").exists()
        assert len(read_results(output).sets[0].p16) == 1

    def test_a_folder_with_something_else_is_refused(self, events_folder, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(UsageError, match="not empty"):
            run(options(events_folder, tmp_path))
        with pytest.raises(UsageError, match="in the place of a folder"):
            run(options(events_folder, tmp_path / "thesis.tex"))

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_failing_predict_keeps_what_is_done(self, events_folder, tmp_path, workers):
        text = MINIMAL.replace(
            ": return", ":\n        if 19100 < len(test_set['data']) < 19115: raise KeyError('met')\n        return"
        )
        failing = write(tmp_path / "failing", text)
        with pytest.raises(UsageError, match=r"predict failed in set \d, .*\(seed \d+\): KeyError: 'met'") as caught:
            run(options(events_folder, tmp_path / "results", submission=failing, workers=workers))
        assert isinstance(caught.value, SubmissionError)
        assert "raise KeyError('met')" in caught.value.details
        records, _ = read_records(tmp_path / "results" / "experiments.jsonl")
        assert 0 < len(records) < 6

    def test_a_model_that_cannot_travel(self, events_folder, tmp_path):
        keeps = MINIMAL.replace("systematics): pass", "systematics): self.load = lambda: 1")
        folder = write(tmp_path / "keeps", keeps)
        with pytest.raises(UsageError, match="cannot be pickled"):
            run(options(events_folder, tmp_path / "results", submission=folder, workers=2))

    def test_damaged_record_in_the_middle(self, finished, tmp_path):
        lines = (finished / "experiments.jsonl").read_bytes().splitlines(keepends=True)
        lines[1] = b"{}\n"
        (tmp_path / "experiments.jsonl").write_bytes(b"".join(lines))
        with pytest.raises(UsageError, match="line 2 is damaged"):
            read_records(tmp_path / "experiments.jsonl")

    def test_no_workers(self, events_folder, tmp_path):
        with pytest.raises(UsageError, match="workers is 0"):
            run(options(events_folder, tmp_path / "results", workers=0))
