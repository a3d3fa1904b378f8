"""What identifies a submission: a run goes on though it has changed its own folder, but not with other code."""

import json

import pytest

from harness.fingerprint import SUBMISSION_FILE, fingerprint
from harness.results import read_records
from harness.runner import RunOptions, run
from harness.settings import make_settings
from tests import official
from tests.submissions.making import MINIMAL, write
from workshop.errors import SubmissionError, UsageError

SETTINGS = make_settings(1, 4, seed=21)
HERE = """
import pathlib
HERE = pathlib.Path(__file__).parent

def add(name):
    with (HERE / name).open("a") as stream:
        stream.write("x")
"""
CHANGES = {
    "fit writes a new file": ("fit(self): (HERE / 'cache.npz').write_text('made')", "pass"),
    "fit writes another file each time": ("fit(self): (HERE / f'{id(self)}.npz').write_text('made')", "pass"),
    "fit rewrites a file that came with it": ("fit(self): (HERE / 'shipped.txt').write_text(str(id(self)))", "pass"),
    "fit removes a file that came with it": ("fit(self): (HERE / 'shipped.txt').unlink(missing_ok=True)", "pass"),
    "predict appends to a file that came with it": ("fit(self): pass", "add('shipped.txt')"),
}


def failing_once(change):
    """A submission that changes its folder and fails at its third predict, but not when it is run again."""
    fit, more = CHANGES[change]
    more += "; add('calls.txt'); HERE.joinpath('calls.txt').stat().st_size == 3 and 1 / 0"
    text = MINIMAL.replace("fit(self): pass", fit)
    return HERE + text.replace("test_set): return", f"test_set):\n        {more}\n        return")


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    return official.events_folder(tmp_path_factory.mktemp("events"))


@pytest.fixture
def begun(events, tmp_path):
    """Run a submission with this model.py, and again."""

    def go(text, settings=SETTINGS, workers=1):
        folder = write(tmp_path / "submission", text)
        if not (folder / "shipped.txt").exists() and not (tmp_path / "run").exists():
            (folder / "shipped.txt").write_text("as it came")
        run(RunOptions(events, folder, tmp_path / "run", settings, workers))
        return len(read_records(tmp_path / "run" / "experiments.jsonl")[0])

    return go


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_run_changes_itself_is_not_in_the_way(change, begun, tmp_path):
    text = failing_once(change)
    with pytest.raises(SubmissionError, match="ZeroDivisionError"):
        begun(text)
    assert begun(text) == 4
    assert begun(text) == 4
    with pytest.raises(UsageError, match=r"other settings: submission \("):
        begun(text + "\n# another one")


@pytest.mark.parametrize("text", ["import no_such_module", MINIMAL.replace("fit(self): pass", "fit(self): 1 / 0")])
def test_a_submission_that_failed_before_anything_was_finished_may_be_corrected(text, begun, tmp_path):
    with pytest.raises(SubmissionError):
        begun(HERE + "(HERE / 'log.txt').write_text('x')\n" + text)
    assert begun(MINIMAL, make_settings(1, 2, seed=5)) == 2
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["seed"] == 5


def test_a_run_from_before_files_were_remembered_goes_on(begun, tmp_path):
    text = failing_once("fit writes a new file").replace("1 / 0", "0")
    assert begun(text) == 4
    (tmp_path / "run" / SUBMISSION_FILE).unlink()
    with pytest.raises(UsageError, match="submission"):
        begun(text)
    for name in ("calls.txt", "cache.npz"):
        (tmp_path / "submission" / name).unlink()
    assert begun(text) == 4


@pytest.mark.parametrize("content", ["{", "[]", '{"files": ["gone.txt"]}', '{"files": 3, "kept": 1}'])
def test_a_damaged_memory_is_no_excuse(content, begun, tmp_path):
    text = failing_once("fit writes a new file").replace("1 / 0", "0")
    assert begun(text) == 4
    (tmp_path / "run" / SUBMISSION_FILE).write_text(content)
    with pytest.raises(UsageError, match=r"other settings: submission \("):
        begun(text)


def test_hidden_files_and_byte_code_do_not_count(tmp_path):
    folder = write(tmp_path / "submission")
    before = fingerprint(folder)
    (folder / "__pycache__").mkdir()
    for name in (".notes", "__pycache__/model.pyc"):
        (folder / name).write_text("x")
    assert fingerprint(folder) == before
    (folder / "more.py").write_text("x")
    assert fingerprint(folder) != before
