"""Pseudo-experiments must be the official program's, row for row."""

import json
import logging
import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from harness.pseudo_experiments import draw_nuisances, higgsml, make_pseudo_data, quiet_pandas
from harness.runner import RunOptions, run
from harness.settings import make_settings
from harness.test_set import EventFile
from sage.challenge.nuisances import CHALLENGE, NAMES, Linear
from tests import official
from tests.submissions.recording.summary import summary
from workshop.errors import UsageError

REFERENCE = json.loads(official.PSEUDO_REFERENCE.read_text())
CHECKOUT = os.environ.get("HEP_CHALLENGE_DIR")
needs_checkout = pytest.mark.skipif(CHECKOUT is None, reason="HEP_CHALLENGE_DIR points to no checkout of HEP-Challenge")


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    return EventFile(official.events_folder(tmp_path_factory.mktemp("events"))).load_test_set()


def split(switches):
    return tuple(name for name in switches.split(",") if name)


@pytest.mark.parametrize("stored", REFERENCE["runs"], ids=lambda run: run["switches"] or "none")
def test_equal_to_the_official_program(stored, test_set):
    """The reference values come from running the official program: see ``made`` in the file, and tests/official.py.

    The hash covers every bit, but sine and cosine may differ in their last bit between versions of numpy and between
    CPUs. So it is compared only where library versions and SIMD extensions are those of the reference. Elsewhere a
    value may be rounded to the neighbouring third decimal, which row counts and sums show to be all.
    """
    settings = make_settings(official.SETS, official.EXPERIMENTS, stored["seed"], split(stored["switches"]))
    assert settings.as_official() == stored["test_settings"]
    exact = official.environment() == REFERENCE["made"]["environment"]
    jobs = settings.jobs()
    assert len(jobs) == len(stored["in_order"])
    for job, expected in zip(jobs, stored["in_order"], strict=True):
        data = make_pseudo_data(test_set, job.mu, draw_nuisances(job.seed, settings.systematics), job.seed)
        found = summary(data)
        if exact:
            assert found == expected
        for key in ("rows", "columns", "types"):
            assert found[key] == expected[key]
        np.testing.assert_allclose(found["first_rows"], expected["first_rows"], atol=2e-3)
        np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-5, atol=0.5)


@needs_checkout
def test_equal_to_the_official_program_run_now(tmp_path, monkeypatch):
    data = official.events_folder(tmp_path / "input")
    submission = official.TESTS / "submissions" / "counting"
    for number, switches in enumerate(official.SWITCHES):
        theirs, ours, record = (tmp_path / f"{name}-{number}" for name in ("theirs", "ours", "record"))
        official.run_ingestion(CHECKOUT, data, submission, theirs, switches)
        settings = make_settings(official.SETS, official.EXPERIMENTS, official.SEED, split(switches))
        run(RunOptions(data, submission, ours, settings))
        for name in ("test_settings.json", "ingestion_duration.json", "result_0.json", "result_1.json"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()
        recorder = official.TESTS / "submissions" / "recording"
        official.run_ingestion(CHECKOUT, data, recorder, tmp_path / "recorded", switches, record)
        monkeypatch.setenv("RECORD_TO", str(tmp_path / "our-record"))
        run(RunOptions(data, recorder, tmp_path / f"our-recorded-{number}", settings))
        assert (tmp_path / "our-record").read_text() == record.read_text()
        (tmp_path / "our-record").unlink()


@needs_checkout
def test_train_set_equal_to_the_official_loader(tmp_path):
    data = official.events_folder(tmp_path)
    program = "import sys, numpy as np, pandas as pd\nsys.path.insert(0, sys.argv[1])\nfrom datasets import Data\n"
    program += "data = Data(sys.argv[2])\nnp.random.seed(3)\n"
    selections = ("train_size=40", "train_size=0.2", "selected_indices=[5, 2, 340, 2]", "")
    for number, selection in enumerate(selections):
        program += f"data.load_train_set({selection})\ndata.get_train_set().to_pickle(sys.argv[2] + '/{number}.pkl')\n"
    command = [sys.executable, "-W", "ignore", "-c", program, f"{CHECKOUT}/ingestion_program", str(data)]
    subprocess.run(command, check=True, capture_output=True)
    events = EventFile(data)
    np.random.seed(3)
    for number, selection in enumerate(selections):
        ours = eval(f"events.load_train_set({selection})", {"events": events})
        pd.testing.assert_frame_equal(ours, pd.read_pickle(data / f"{number}.pkl"), check_exact=True)


@pytest.mark.stat
def test_nuisances_have_the_official_widths():
    draws = [draw_nuisances(seed, NAMES) for seed in range(4000)]
    for nuisance in CHALLENGE:
        values = np.array([draw[nuisance.name] for draw in draws])
        low, high = nuisance.clip
        assert low <= values.min() <= values.max() <= high
        width = nuisance.to_alpha.width
        if isinstance(nuisance.to_alpha, Linear):
            centre, spread = np.mean(values), np.std(values)
        else:  # soft_met: a lognormal of which the 5.4 % above 5 GeV are clipped, so quantiles of the logarithm
            assert np.mean(values == high) == pytest.approx(0.0538, abs=0.015)
            q16, median, q84 = np.quantile(np.log(values), [0.158655, 0.5, 0.841345])
            centre, spread = 1.0 + median, (q84 - q16) / 2
        # Four standard errors, of which a quantile has half as much again as a mean.
        assert spread == pytest.approx(width, rel=4 * 1.5 / math.sqrt(2 * len(values)))
        assert centre == pytest.approx(1.0, abs=4 * 1.5 * width / math.sqrt(len(values)))


def test_drawn_values_are_numpy_floats_and_reach_the_clip():
    # np.float64 and float lead to different Poisson means, because the weights are float32.
    assert {type(value) for value in draw_nuisances(1, NAMES).values()} == {np.float64}
    soft_met = [draw_nuisances(seed, ("soft_met",))["soft_met"] for seed in range(200)]
    assert max(soft_met) == 5.0


def test_switched_off_values_and_the_order_of_draws():
    assert draw_nuisances(1, ()) == dict(zip(NAMES, (1.0, 1.0, 0.0, None, None, None), strict=True))
    # What is off draws nothing, so the next one gets its random number, as in the official program.
    both, alone = draw_nuisances(1, ("tes", "jes")), draw_nuisances(1, ("jes",))
    assert alone["jes"] == both["tes"] != both["jes"]


def test_pseudo_data_leaves_its_input_alone_and_repeats(test_set):
    before = {process: frame.copy(deep=True) for process, frame in test_set.items()}
    nuisances = draw_nuisances(5, NAMES)
    first, again = (summary(make_pseudo_data(test_set, 1.5, nuisances, 5)) for _ in range(2))
    assert first == again != summary(make_pseudo_data(test_set, 1.5, nuisances, 6))
    for process, frame in test_set.items():
        assert frame.equals(before[process])


def test_a_process_without_events(test_set):
    only_z = {process: frame if process == "ztautau" else frame.iloc[:0] for process, frame in test_set.items()}
    data = make_pseudo_data(only_z, 1.0, draw_nuisances(5, NAMES), 5)
    assert 15_000 < len(data["data"]) < len(make_pseudo_data(test_set, 1.0, draw_nuisances(5, NAMES), 5)["data"])
    assert list(only_z) == ["ztautau", "diboson", "ttbar", "htautau"]


def test_the_official_function_gives_no_warnings(test_set):
    frame = test_set["ztautau"].drop(columns="weights")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_pandas():
            shifted = higgsml().systematics(frame, tes=1.01, jes=0.99)
    assert not caught
    assert len(shifted) <= len(frame)
    kept = frame["PRI_had_pt"].to_numpy() * np.float32(1.01)
    np.testing.assert_allclose(np.sort(shifted["PRI_had_pt"]), np.sort(kept[kept.round(3) >= 26]), atol=2e-3)


def test_importinghiggsml_leaves_the_root_logger_alone():
    program = "import logging; from harness.pseudo_experiments import higgsml; higgsml()\n"
    program += "assert not logging.getLogger().handlers and logging.getLogger().level == logging.WARNING"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=official.TESTS.parent)
    assert logging.getLogger("HiggsML.derived_quantities").level == logging.NOTSET


def test_settings_follow_the_official_formulae():
    settings = make_settings(3, 4, seed=11)
    assert settings.mus == tuple(np.random.RandomState(11).uniform(0.1, 3, 3))
    jobs = settings.jobs()
    assert sorted((job.set, job.index) for job in jobs) == [(s, t) for s in range(3) for t in range(4)]
    assert all(job.seed == 4 * job.set + job.index + 11 and job.mu == settings.mus[job.set] for job in jobs)
    assert [job.seed for job in jobs] != sorted(job.seed for job in jobs)
    fixed = make_settings(2, 1, mus=[1, 2.5])
    assert fixed.mus == (1.0, 2.5)
    assert fixed.as_official()["random_mu"] is False


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sets": 0}, "sets"),
        ({"experiments": 0}, "experiments"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32 - 3}, "seed"),
        ({"systematics": ("tau",)}, "'tau'"),
        ({"mus": [1.0]}, "1 ground-truth mus for 2 sets"),
        ({"mus": [1.0, math.nan]}, "nan"),
        ({"mus": [1.0, -0.5]}, "-0.5"),
    ],
)
def test_impossible_settings(changes, named):
    with pytest.raises(UsageError, match=named):
        make_settings(**{"sets": 2, "experiments": 2, **changes})
