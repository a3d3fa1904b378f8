"""What submissions may do in the official run, and that none of it reaches this program."""

import faulthandler
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from harness import surroundings as module
from harness.capture import captured_output
from harness.experiment import run_experiment
from harness.fast_pseudo_data import PseudoData
from harness.results import read_records
from harness.runner import RunOptions, run
from harness.settings import Job, make_settings
from harness.submission import pickle_model, start, unpickle_model
from harness.surroundings import OFFICIAL, PROJECT, inside, surroundings
from harness.test_set import EventFile
from tests import official
from tests.conftest import ROOT
from tests.submissions.making import write
from workshop.errors import SubmissionError

SETTINGS = make_settings(1, 2, seed=21)
JOB = Job(0, 0, 21, 0.5)
ANSWER = "return dict(mu_hat=float({}), delta_mu_hat=0.1, p16=0.9, p84=1.1)"
KEEPING = """
class Model:
    def __init__(self, get_train_set, systematics):
        self.get_train_set, self.systematics = get_train_set, systematics
    def fit(self):
        self.rows = len(self.get_train_set(train_size=0.5))
    def predict(self, test_set):
        {} return dict(mu_hat=float(self.rows), delta_mu_hat=0.1, p16=0.9, p84=1.1)
"""


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    return official.events_folder(tmp_path_factory.mktemp("events"), sum_weights=300.0)


@pytest.fixture(scope="module")
def test_part(events):
    return PseudoData(EventFile(events).load_test_set())


@pytest.fixture
def said():
    """Return what goes to the log of captured output, whatever a submission does to the root logger."""
    messages, log = [], logging.getLogger("sage.harness.model")
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield messages
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def model(text="", init="pass", fit="pass", predict="", answer="1"):
    """Return a model.py with these lines in its places."""
    predict = f"{predict}; {ANSWER.format(answer)}" if predict else ANSWER.format(answer)
    return (
        f"{text}\nclass Model:\n    def __init__(self, get_train_set, systematics): {init}\n"
        f"    def fit(self): {fit}\n    def predict(self, test_set): {predict}\n"
    )


def answers(events, folder, output, workers=1):
    run(RunOptions(events, folder, output, SETTINGS, workers=workers))
    records, _ = read_records(output / "experiments.jsonl")
    return [record.answer["mu_hat"] for record in records]


class TestOfficialModules:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_get_train_set_may_be_kept(self, events, tmp_path, workers):
        folder = write(tmp_path / "s", KEEPING.format(""))
        assert answers(events, folder, tmp_path / "results", workers) == [175.0, 175.0]

    def test_get_train_set_has_lost_its_events_in_a_worker_as_in_the_official_run(self, events, tmp_path):
        folder = write(tmp_path / "s", KEEPING.format("self.get_train_set();"))
        assert answers(events, folder, tmp_path / "one") == [175.0, 175.0]
        with pytest.raises(SubmissionError, match=r"predict failed .*'Ingestion' object has no attribute 'data'"):
            answers(events, folder, tmp_path / "two", 2)

    @pytest.mark.parametrize(
        "kept", ["partial(get_train_set, train_size=3)", "[get_train_set]", "get_train_set.__self__"]
    )
    def test_get_train_set_may_be_kept_in_other_things(self, events, tmp_path, kept):
        folder = write(tmp_path / "s", model("from functools import partial", f"self.kept = {kept}"))
        assert answers(events, folder, tmp_path / "results", 2) == [1.0, 1.0]

    def test_arguments_are_named_as_in_the_official_run(self, events, tmp_path):
        folder = write(tmp_path / "s", model(init="get_train_set(3)"))
        with surroundings(folder), pytest.raises(SubmissionError, match="positional argument"):
            start(folder, EventFile(events))

    @pytest.mark.parametrize(
        "text",
        [
            "from systematics import get_bootstrapped_dataset, get_systematics_dataset, V4, DER_data, postprocess",
            "from derived_quantities import DER_data, calcul_int, f_DER_mass_vis",
            "import datasets; datasets.Data.get_syst_train_set, datasets.Neurips2024_public_dataset",
            "from ingestion import Ingestion",
            "from ingestion_parallel import Ingestion",
            "from visualization import visualize_scatter, visualize_coverage",
        ],
    )
    def test_official_modules_can_be_imported_while_a_submission_runs(self, events, tmp_path, text):
        folder = write(tmp_path / "s", model(text))
        before = set(sys.modules)
        with surroundings(folder):
            start(folder, EventFile(events))
        assert not {name.partition(".")[0] for name in set(sys.modules) - before} & {*OFFICIAL, "model"}
        with pytest.raises(ModuleNotFoundError):
            __import__("derived_quantities")

    @pytest.mark.parametrize("workers", [1, 2])
    def test_official_modules_come_before_those_of_a_submission(self, events, tmp_path, workers):
        text = "from systematics import systematics\nfrom derived_quantities import DER_data\nimport helper\n"
        folder = write(
            tmp_path / "s", model(text, "self.same = systematics is globals()['systematics']", answer="self.same")
        )
        for name in ("systematics", "derived_quantities"):
            (folder / f"{name}.py").write_text("systematics = DER_data = None")
        (folder / "helper.py").touch()
        assert answers(events, folder, tmp_path / "results", workers) == [1.0, 1.0]

    def test_the_official_loader_gives_the_same_events(self, events, tmp_path):
        text = model("from datasets import Data", f"self.data = Data({str(events)!r})")
        folder = write(tmp_path / "s", text)
        with surroundings(folder):
            data = start(folder, None).data
            with inside(logging.DEBUG):
                data.load_test_set()
                theirs, shifted = data.get_test_set(), len(data.get_syst_train_set(tes=0.9, dopostprocess=True))
        for process, frame in EventFile(events).load_test_set().items():
            assert theirs[process].reset_index(drop=True).equals(frame)
        assert 0 < shifted < 350

    def test_processes_that_a_submission_starts(self, events, tmp_path):
        """They import the submission afresh, official modules included, and nothing of this program."""
        text = "import multiprocessing\nfrom systematics import V4\ndef half(x): return x / 2\n"
        call = "with multiprocessing.get_context('spawn').Pool(1) as pool: self.found = pool.map(half, [2, 4])"
        folder = write(
            tmp_path / "s",
            model(text, fit="self.work()", answer="sum(self.found)") + f"    def work(self):\n        {call}",
        )
        program = f"import sys; sys.path[:0] = [{str(ROOT)!r}]\nif __name__ == '__main__':\n"
        program += "    from tests.test_surroundings import *\n"
        program += f"    print(answers(Path({str(events)!r}), Path({str(folder)!r}), Path({str(tmp_path / 'r')!r})))"
        (tmp_path / "program.py").write_text(program)
        found = subprocess.run([sys.executable, tmp_path / "program.py"], check=True, capture_output=True, text=True)
        assert found.stdout.strip() == "[3.0, 3.0]"


class TestOwnPackages:
    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("regular", [True, False], ids=["package", "folder"])
    def test_names_of_this_project_are_free(self, events, tmp_path, workers, regular):
        names = ("scripts", "harness", "report", "training", "studies", "tests", "workshop", "methods", "sage")
        text = "".join(f"from {name} import mine as {name}\n" for name in names)
        text += "import harness.submission as part, workshop.errors as other\nfrom scripts.mine import Kept\n"
        parts = ", ".join(f"{name}.WHO" for name in names)
        fit = f"self.kept, self.who = Kept(), [{parts}]"
        folder = write(
            tmp_path / "s", model(text, fit=fit, answer="len(set(self.who)) == 9 and self.kept.__class__ is Kept")
        )
        for name in names:
            (folder / name).mkdir()
            (folder / name / "mine.py").write_text(f"WHO = {name!r}\nclass Kept: pass\n")
            if regular:
                (folder / name / "__init__.py").touch()
        for name in ("harness/submission.py", "workshop/errors.py"):
            (folder / name).touch()
        ours = {name: loaded for name, loaded in sys.modules.items() if name.partition(".")[0] in names}
        path = list(sys.path)
        assert answers(events, folder, tmp_path / "results", workers) == [1.0, 1.0]
        assert {name: sys.modules.get(name) for name in ours} == ours
        assert sys.path == path

    @pytest.mark.parametrize("name", ["harness", "workshop.errors", "scripts", "sage", "tests.official"])
    def test_what_a_submission_lacks_is_not_found_here(self, events, tmp_path, name):
        folder = write(tmp_path / "s", model(f"import {name}"))
        with surroundings(folder), pytest.raises(SubmissionError, match=f"No module named '{name.partition('.')[0]}'"):
            start(folder, EventFile(events))

    def test_late_imports_find_the_submission(self, events, test_part, tmp_path):
        folder = write(tmp_path / "s", model(predict="from tools.late import VALUE", answer="VALUE"))
        (folder / "tools").mkdir()
        (folder / "tools" / "late.py").write_text("VALUE = 4")
        with surroundings(folder):
            started = start(folder, EventFile(events))
            assert run_experiment(started, test_part, JOB, ()).answer["mu_hat"] == 4

    def test_two_submissions_one_after_the_other(self, events, tmp_path):
        for number in (1, 2):
            folder = write(tmp_path / str(number), model("import tool", answer="tool.NUMBER"))
            (folder / "tool.py").write_text(f"NUMBER = {number}")
            assert answers(events, folder, tmp_path / f"results-{number}") == [number, number]
        assert "tool" not in sys.modules

    def test_pickles_find_the_modules_of_the_submission(self, events, tmp_path):
        folder = write(tmp_path / "s", model("from report.part import Part", fit="self.part = Part()"))
        (folder / "report").mkdir()
        (folder / "report" / "part.py").write_text("class Part: pass")
        with surroundings(folder):
            pickled = pickle_model(start(folder, EventFile(events)))
        with surroundings(folder):
            assert type(unpickle_model(pickled, folder).part).__module__ == "report.part"
        assert sys.modules.get("report.part") is None


class TestStreams:
    @pytest.mark.parametrize(
        "line",
        [
            "sys.stdout.reconfigure(encoding='utf-8', line_buffering=True)",
            "sys.stderr.reconfigure(errors='ignore', write_through=True)",
            "sys.stdout.buffer.write(b'said\\n')",
            "os.write(sys.stdout.fileno(), b'said\\n')",
            "print(sys.stdout.encoding.lower().replace('utf-8', 'said'), sys.stdout.isatty(), sys.stdout.name)",
            "subprocess.run(['echo', 'said'], stdout=sys.stdout, check=True)",
            "subprocess.run('echo said >&2', shell=True, stderr=sys.stderr, check=True)",
            "faulthandler.enable(); faulthandler.dump_traceback(); print('said')",
            "logging.basicConfig(stream=sys.stdout, force=True); logging.getLogger('x').warning('said')",
            "sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8'); print('said')",
            "sys.stdout.writelines(['sa', 'id', chr(10)]); sys.stdout.flush()",
            "print('said', file=sys.stderr, flush=True); assert isinstance(sys.stderr, io.TextIOWrapper)",
            "print(chr(0xd800), 'said')",
        ],
    )
    def test_they_are_real_text_streams(self, events, test_part, tmp_path, said, capfd, line):
        enabled = faulthandler.is_enabled()
        text = f"import faulthandler, io, logging, os, subprocess, sys\n{line}\nprint('after')"
        folder = write(tmp_path / "s", model(text, fit="print('fitted')", predict="print('asked', flush=True)"))
        with surroundings(folder):
            run_experiment(start(folder, EventFile(events)), test_part, JOB, ())
        assert any("said" in text for text in said) or "reconfigure" in line
        assert {"after", "fitted", "asked"} <= set(said)
        assert capfd.readouterr() == ("", "")
        assert faulthandler.is_enabled() == enabled

    def test_a_stream_that_is_kept_or_closed(self, events, test_part, tmp_path, said):
        kept = write(tmp_path / "kept", model("import sys\nout = sys.stdout", predict="out.write('kept' + chr(10))"))
        closed = write(tmp_path / "closed", model("import sys", fit="sys.stdout.close()"))
        for folder in (closed, kept):
            with surroundings(folder):
                run_experiment(start(folder, EventFile(events)), test_part, JOB, ())
        assert "kept" in said

    def test_much_output_of_another_process_does_not_block(self, said):
        line = "said " * 80
        with captured_output(logging.INFO):
            subprocess.run(f"yes '{line}' | head -n 2000", shell=True, stdout=sys.stdout, check=True)
        assert said == [line.rstrip()] * 2000

    def test_what_is_no_text_is_refused(self):
        with captured_output(logging.INFO), pytest.raises(TypeError, match="must be str, not bytes"):
            sys.stdout.write(b"x")


CHANGES = {
    "numpy's errors": ("import numpy as np", "np.seterr(all='raise')", np.geterr),
    "numpy's error handler": ("import numpy as np", "np.seterrcall(print); np.seterr(divide='call')", np.geterrcall),
    "warnings as errors": ("import warnings", "warnings.simplefilter('error')", lambda: list(warnings.filters)),
    "warnings in the log": ("import logging", "logging.captureWarnings(True)", lambda: warnings.showwarning),
    "numpy's random state": ("import numpy as np", "np.random.seed(3)", lambda: np.random.get_state()[1].tolist()),
    "Python's random state": ("import random", "random.seed(3)", random.getstate),
    "folder": ("import os", "os.chdir('/')", Path.cwd),
    "signal": (
        "import signal",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        lambda: signal.getsignal(signal.SIGTERM),
    ),
    "alarm": (
        "import signal",
        "signal.signal(14, print); signal.alarm(1000)",
        lambda: (signal.getsignal(14), signal.alarm(0)),
    ),
    "start of processes": (
        "import multiprocessing",
        "multiprocessing.set_start_method('fork')",
        lambda: multiprocessing.get_start_method(allow_none=True),
    ),
    "log off": ("import logging", "logging.disable(logging.CRITICAL)", lambda: logging.root.manager.disable),
    "root log": (
        "import logging",
        "logging.basicConfig(level=1, force=True)",
        lambda: (logging.root.level, list(logging.root.handlers)),
    ),
    "all logs": (
        "from logging.config import dictConfig",
        "dictConfig({'version': 1})",
        lambda: logging.getLogger("sage.harness.test_set").disabled,
    ),
    "path": ("import sys", "sys.path.clear()", lambda: list(sys.path)),
    "modules": ("import sys", "sys.modules['harness'] = sys", lambda: sys.modules["harness"]),
    "stdout": ("import sys", "sys.stdout = None", lambda: sys.stdout),
}


class TestState:
    @pytest.mark.parametrize("name", CHANGES)
    @pytest.mark.parametrize("place", ["text", "fit", "predict"])
    def test_changes_stay_with_the_submission(self, events, test_part, tmp_path, monkeypatch, name, place):
        monkeypatch.chdir(tmp_path)
        imports, change, look = CHANGES[name]
        text = model(f"{imports}\n{change}") if place == "text" else model(imports, **{place: change})
        folder = write(tmp_path / "s", text)
        before = look()
        with surroundings(folder):
            started = start(folder, EventFile(events))
            record = run_experiment(started, test_part, JOB, ("tes", "jes"))
            assert look() == before
        assert look() == before
        plain = write(tmp_path / "plain")
        with surroundings(plain):
            assert run_experiment(start(plain, None), test_part, JOB, ("tes", "jes")).events == record.events

    def test_a_submission_finds_its_state_again(self, events, test_part, tmp_path):
        text = "import logging, multiprocessing, os, random, signal, sys, warnings\nimport numpy as np\n"
        text += "multiprocessing.set_start_method('fork')\nsys.path.append('mine')\n"
        fit = "np.seterr(over='raise'); os.chdir('/'); np.random.seed(5); random.seed(5); "
        fit += "warnings.simplefilter('error'); signal.signal(signal.SIGUSR1, print); signal.alarm(900)"
        checks = "np.geterr()['over'] == 'raise', os.getcwd() == '/', np.random.rand() == 0.22199317108973948, "
        checks += "random.random() == 0.6229016948897019, warnings.filters[0][0] == 'error', signal.alarm(0) > 800, "
        checks += "signal.getsignal(signal.SIGUSR1) is print, multiprocessing.get_start_method() == 'fork', "
        checks += "sys.path[-1] == 'mine'"
        folder = write(tmp_path / "s", model(text, fit=fit, answer=f"sum(({checks}))"))
        with surroundings(folder):
            started = start(folder, EventFile(events))
            np.random.seed(7)
            assert run_experiment(started, test_part, JOB, ()).answer["mu_hat"] == 9

    @pytest.mark.parametrize("text", [change for _, change, _ in CHANGES.values() if "sys" not in change])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_whole_runs(self, events, tmp_path, text, workers):
        if workers == 2 and "multiprocessing" not in text and "seterr(all" not in text:
            pytest.skip("starting processes takes seconds: two cases are enough")
        imports = "import logging, multiprocessing, os, random, signal, warnings\nimport numpy as np\n"
        imports += "from logging.config import dictConfig\n"
        folder = write(tmp_path / "s", model(imports + text))
        assert answers(events, folder, tmp_path / "results", workers) == [1.0, 1.0]
        assert os.getcwd() != "/"  # noqa: PTH109

    def test_the_loader_draws_from_the_state_of_the_submission(self, events, tmp_path):
        init = "np.random.seed(8); np.seterr(all='raise'); self.frame = get_train_set(train_size=20)"
        folder = write(tmp_path / "s", model("import numpy as np", init))
        with surroundings(folder):
            drawn = start(folder, EventFile(events)).frame
        np.random.seed(8)
        assert drawn.equals(EventFile(events).load_train_set(train_size=20))

    def test_the_checkout_itself_shares_its_modules(self):
        import sage.measurement as ours

        with surroundings(ROOT), inside(logging.DEBUG):
            import sage.measurement as theirs

            assert sys.path.count(str(PROJECT)) == 1
            assert Path(sys.path[0]).name == "ingestion_program"
        assert theirs is ours

    def test_nothing_is_left(self, events, tmp_path):
        folder = write(tmp_path / "s", model("import helper"))
        (folder / "helper.py").touch()
        before = {"modules": dict(sys.modules), "path": list(sys.path), "current": module._current}
        with surroundings(folder):
            start(folder, EventFile(events))
        left = {name for name in sys.modules if name not in before["modules"]}
        assert not {"model", "helper"} & left
        assert {**before["modules"], **sys.modules} == dict(sys.modules)
        assert (sys.path, module._current) == (before["path"], before["current"])
