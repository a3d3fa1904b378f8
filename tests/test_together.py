"""Several submissions on pseudo-experiments that are made once: handed over whole, and as if each had run alone."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from harness import together
from harness.experiment import make_experiment
from harness.fast_pseudo_data import PseudoData
from harness.handover import hand_over, take_over
from harness.mapped import POOL_FOLDER
from harness.pool_point import PoolPoint, read_answers
from harness.results import read_records
from harness.runner import RunOptions, run
from harness.settings import Job, make_settings
from harness.test_set import EventFile
from harness.together import run_together
from sage.challenge.nuisances import NAMES
from tests import official
from tests.submissions.making import MINIMAL, write
from workshop.errors import SubmissionError, UsageError

COUNTING = official.TESTS / "submissions" / "counting"
SETTINGS = make_settings(2, 2, seed=21)
SPOILING = """
import numpy as np


class Model:
    def __init__(self, get_train_set=None, systematics=None):
        self.calls = 0

    def fit(self):
        self.folder = __file__

    def predict(self, test_set):
        met = float(np.mean(test_set["data"]["PRI_met"]))
        test_set["data"].iloc[:] = 0.0
        test_set["weights"] *= 0.0
        return {"mu_hat": met, "delta_mu_hat": 1.0, "p16": met - 1.0, "p84": met + 1.0}
"""
"""Changes what it is given, for good."""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    events = official.events_folder(folder / "events", sum_weights=3000.0)
    return events, {"spoiling": write(folder / "spoiling", SPOILING), "counting": COUNTING}


def options(setting, output, **changes):
    return RunOptions(**{"data": setting[0], "submission": output, "output": output, "settings": SETTINGS, **changes})


def outcome(folder):
    """All but the times."""
    records, _ = read_records(folder / "experiments.jsonl")
    plain = [dataclasses.replace(record, generation_seconds=0, predict_seconds=0) for record in records]
    files = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    files.pop("environment.json")
    return files, sorted(plain, key=lambda record: record.seed)


@pytest.fixture(scope="module")
def finished(setting, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "results"
    run_together(setting[1], options(setting, output))
    return output


def test_data_come_over_whole(setting, tmp_path):
    made = make_experiment(PseudoData(EventFile(setting[0]).load_test_set()), Job(0, 0, 5, 1.0), NAMES).data
    handed = hand_over(made, tmp_path / "data")
    first, second = take_over(handed), take_over(handed)
    handed.path.unlink()
    first["data"].iloc[:] = 0.0
    first["weights"] *= 2.0
    assert list(second) == list(made)
    pd.testing.assert_frame_equal(second["data"], made["data"], check_exact=True)
    pd.testing.assert_series_equal(second["weights"], made["weights"], check_exact=True)
    assert all(second["data"][name].to_numpy().ctypes.data % 64 == 0 for name in ("PRI_met", "DER_mass_vis"))


def test_empty_data_and_a_place_that_cannot_be_written(tmp_path):
    empty = {"data": pd.DataFrame({"PRI_met": np.empty(0, np.float32)}), "weights": np.empty(0)}
    again = take_over(hand_over(empty, tmp_path / "data"))
    pd.testing.assert_frame_equal(again["data"], empty["data"])
    with pytest.raises(UsageError, match="not-there"):
        hand_over(empty, tmp_path / "not-there" / "data")


def test_each_answers_as_if_it_had_run_alone(setting, finished, tmp_path):
    """Also beside a submission that changes the data; and whatever process makes and measures."""
    for name, submission in setting[1].items():
        alone = tmp_path / name
        run(options(setting, alone, submission=submission))
        assert outcome(finished / name) == outcome(alone)
    assert not (finished / POOL_FOLDER).exists()


def test_workers_and_order_do_not_matter(setting, finished, tmp_path):
    backwards = dict(reversed(setting[1].items()))
    run_together(backwards, options(setting, tmp_path / "two", workers=2))
    for name in setting[1]:
        assert outcome(tmp_path / "two" / name) == outcome(finished / name)


@pytest.mark.slow
def test_killed_twice(setting, finished, tmp_path, monkeypatch):
    """Left are a record of each submission and a torn line of one; three more are done before it is killed again."""
    output = tmp_path / "results"
    made = []
    real = together._Work.records

    def counted(work):
        made.append({job: list(names) for job, names in work.todo.items()})
        yield from real(work)

    monkeypatch.setattr(together._Work, "records", counted)
    lines = {
        name: (finished / name / "experiments.jsonl").read_bytes().splitlines(keepends=True) for name in setting[1]
    }
    for name, kept in (
        ("spoiling", lines["spoiling"][0] + lines["spoiling"][1][:50]),
        ("counting", lines["counting"][0]),
    ):
        (output / name).mkdir(parents=True)
        for file in ("run.json", "submission.json"):
            (output / name / file).write_bytes((finished / name / file).read_bytes())
        (output / name / "experiments.jsonl").write_bytes(kept)
    (output / POOL_FOLDER).mkdir()
    (output / POOL_FOLDER / "left.data").write_bytes(b"x")

    class KilledError(Exception):
        pass

    def killed(work):
        for number, found in enumerate(counted(work)):
            if number == 3:
                raise KilledError
            yield found

    monkeypatch.setattr(together._Work, "records", killed)
    with pytest.raises(KilledError):
        run_together(setting[1], options(setting, output))
    monkeypatch.setattr(together._Work, "records", counted)
    run_together(setting[1], options(setting, output))
    done = [sum(map(len, todo.values())) for todo in made]
    assert done == [6, 3]
    for name in setting[1]:
        assert outcome(output / name) == outcome(finished / name)
    run_together(setting[1], options(setting, output))  # nothing is left
    assert not made[2]


def test_a_failure_keeps_what_others_have_answered(setting, tmp_path):
    failing = write(
        tmp_path / "failing", MINIMAL.replace(": return", ":\n        raise KeyError('met')\n        return")
    )
    submissions = {"counting": COUNTING, "failing": failing}
    with pytest.raises(SubmissionError, match=r"predict failed in set \d.*KeyError: 'met'") as caught:
        run_together(submissions, options(setting, tmp_path / "results"))
    assert "raise KeyError('met')" in caught.value.details
    records, _ = read_records(tmp_path / "results" / "counting" / "experiments.jsonl")
    assert len(records) >= 1
    assert read_records(tmp_path / "results" / "failing" / "experiments.jsonl")[0] == []


@pytest.mark.slow
def test_a_process_that_dies_is_told(setting, tmp_path):
    text = MINIMAL.replace(": return", ":\n        __import__('os')._exit(3)\n        return")
    with pytest.raises(UsageError, match="exit code 3"):
        run_together({"dying": write(tmp_path / "dying", text)}, options(setting, tmp_path / "results"))


@pytest.mark.slow
def test_the_whole_pool_is_asked_about_where_weights_are_known(setting, tmp_path):
    """A submission with a manifest of ours is given each event once with its expected number as weight."""
    text = SPOILING.replace('float(np.mean(test_set["data"]["PRI_met"]))', 'float(test_set["weights"].sum())')
    folder = write(tmp_path / "knowing", text)
    (folder / "weights").mkdir()
    content = json.dumps({"files": {"x.npz": {"sha256": "0" * 64}}})
    (folder / "weights" / "manifest.json").write_text(content)
    points = [PoolPoint(1.0), PoolPoint(2.0), PoolPoint(1.0, tes=0.9)]
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.fingerprint.bundle_files", lambda folder: {"model.py": folder / "model.py"})
        run_together({"knowing": folder, "counting": COUNTING}, options(setting, tmp_path / "results"), points)
        found = read_answers(tmp_path / "results" / "knowing", points)
        before = (tmp_path / "results" / "knowing" / "pool.json").stat().st_mtime_ns
        run_together({"knowing": folder, "counting": COUNTING}, options(setting, tmp_path / "results"), points)
        assert (tmp_path / "results" / "knowing" / "pool.json").stat().st_mtime_ns == before
    assert read_answers(tmp_path / "results" / "counting", points) is None
    assert read_answers(tmp_path / "results" / "knowing", points[:2]) is None
    test_set = EventFile(setting[0]).load_test_set()
    sums = {process: float(frame["weights"].sum()) for process, frame in test_set.items()}
    selected = [entry["mu_hat"] for entry in found]
    assert selected[1] - selected[0] == pytest.approx(sums["htautau"], rel=0.3)
    assert 0.5 * sum(sums.values()) < selected[2] < selected[0] <= sum(sums.values())


@pytest.mark.slow
def test_the_program_ends_and_so_do_its_processes(setting, tmp_path):
    """As a program of its own, which hangs at its end if one of its processes does."""
    program = "import sys; from pathlib import Path; from harness.runner import RunOptions; "
    program += "from harness.settings import make_settings; from harness.together import run_together\n"
    program += "if __name__ == '__main__':\n    place = Path(sys.argv[1])\n"
    program += "    run_together({'counting': Path(sys.argv[3])}, "
    program += "RunOptions(Path(sys.argv[2]), place, place, make_settings(1, 1, seed=3)))\n"
    file = tmp_path / "program.py"
    file.write_text(program)
    command = [sys.executable, str(file), str(tmp_path / "results"), str(setting[0]), str(COUNTING)]
    environment = {**os.environ, "PYTHONPATH": str(official.TESTS.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "results" / "counting" / "result_0.json").is_file()
