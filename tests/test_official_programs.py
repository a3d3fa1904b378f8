"""The zip file in the hands of the challenge's own ingestion and scoring programs, with the image's packages only.

Needs a checkout of FAIR-Universe/HEP-Challenge, to which HEP_CHALLENGE_DIR points, and a package index or the
environments of an earlier run.
"""

import json
import math
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from harness.results import read_results
from harness.runner import RunOptions, run
from harness.scores import score_results
from harness.settings import make_settings
from sage.challenge.nuisances import NAMES
from scripts import make_submission
from tests.conftest import ROOT
from tests.environments import IMAGE, OLDEST, PINS, environment, python_3_10
from tests.events import DATA_FILE, METADATA_FILE, copy_data, embedded_frame

CHECKOUT = Path(os.environ.get("HEP_CHALLENGE_DIR", "no checkout"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT.is_dir(), reason="HEP_CHALLENGE_DIR points to no checkout"),
]

SETS, EXPERIMENTS, SEED = 3, 3, 11
OTHERS = ("torch_geometric", "numba", "safetensors", "scipy", "iminuit", "HiggsML", "yaml", "tqdm", "pythia8mc")
RESULTS = ("test_settings.json", *(f"result_{number}.json" for number in range(SETS)))

# The program hands out GPUs and divides by their number: where there is none, torch is made to report one.
ONE_GPU = """
import runpy, sys
import torch
program = sys.argv[1]
if torch.cuda.device_count() == 0:
    torch.cuda.device_count = lambda: 1
sys.argv[:] = sys.argv[1:]
sys.path[0] = program.rpartition("/")[0]
runpy.run_path(program, run_name="__main__")
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The events of the tests, in several row groups."""
    folder = copy_data(tmp_path_factory.mktemp("input"))
    pd.read_parquet(folder / DATA_FILE).to_parquet(folder / DATA_FILE, row_group_size=16_000, index=False)
    return folder


@pytest.fixture(scope="module")
def submission(tmp_path_factory):
    """The built zip file and the folder it is unpacked into, as Codabench does it."""
    path = tmp_path_factory.mktemp("build") / "submission.zip"
    assert make_submission.main(["--output", str(path)]) == 0
    folder = tmp_path_factory.mktemp("ingested_program")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return path, folder


@pytest.fixture(scope="module")
def ours(data, submission, tmp_path_factory):
    """What the project's harness makes of the same zip file, events and seed."""
    output = tmp_path_factory.mktemp("ours") / "results"
    run(RunOptions(data, submission[0], output, make_settings(SETS, EXPERIMENTS, SEED), workers=2))
    return output


def started(python, *arguments, **variables):
    """Run a program away from the project, and without what its caller's environment says about Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env = {**kept, "LOG_LEVEL": "ERROR", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", **variables}
    command = [python, "-W", "ignore", *arguments]
    return subprocess.run(
        list(map(str, command)), env=env, cwd="/", capture_output=True, text=True, check=False, timeout=600
    )


def ingest(python, data, submission, output, *options, program=()):
    output.mkdir()
    switches = [f"--systematics-{name.replace('_', '-')}" for name in NAMES]
    command = [*program, CHECKOUT / "ingestion_program" / "run_ingestion.py", "--input", data]
    command += ["--submission", submission[1], "--output", output, *switches, "--num-of-sets", SETS]
    command += ["--num-pseudo-experiments", EXPERIMENTS, "--random-seed", SEED, *options]
    finished = started(python, *command, MAX_WORKERS="2")
    assert finished.returncode == 0, finished.stderr
    return output


@pytest.fixture(scope="module")
def image():
    return environment(IMAGE)


@pytest.fixture(scope="module")
def sequential(image, data, submission, tmp_path_factory):
    return ingest(image, data, submission, tmp_path_factory.mktemp("sequential") / "out")


def test_the_image_has_none_of_our_packages(image):
    program = f"import importlib.util as u; print([n for n in {OTHERS!r} if u.find_spec(n)])"
    assert started(image, "-c", program).stdout.strip() == "[]"


def test_official_results_are_ours_bit_for_bit(sequential, ours):
    for name in RESULTS:
        assert json.loads((sequential / name).read_text()) == json.loads((ours / name).read_text())
    statuses = read_results(ours).statuses
    assert sum(statuses.values()) == SETS * EXPERIMENTS
    assert "fallback" not in statuses


def test_official_parallel_results_are_the_same(image, data, submission, sequential, tmp_path):
    wrapper = tmp_path / "one_gpu.py"
    wrapper.write_text(ONE_GPU)
    parallel = ingest(image, data, submission, tmp_path / "out", "--parallel", program=[wrapper])
    for name in RESULTS:
        assert (parallel / name).read_bytes() == (sequential / name).read_bytes()


@pytest.mark.parametrize("phase", [(), ("--phase-2",)], ids=["first phase", "second phase"])
def test_official_scores_are_ours(image, ours, tmp_path, phase):
    program = CHECKOUT / "scoring_program" / "run_scoring.py"
    finished = started(image, program, "--prediction", ours, "--output", tmp_path, *phase)
    assert finished.returncode == 0, finished.stderr
    official = json.loads((tmp_path / "scores.json").read_text())
    scores = score_results(read_results(ours))
    for name in ("rmse", "mae", "interval", "coverage", "quantiles_score"):
        assert math.isclose(getattr(scores, name), official[name], rel_tol=0, abs_tol=1e-12)


def test_python_3_10_with_the_oldest_libraries_and_no_torch(data, submission, ours, tmp_path):
    python = environment(OLDEST, python_3_10())
    assert (
        "(3, 10) False"
        in started(
            python,
            "-c",
            "import sys, importlib.util; print(sys.version_info[:2], importlib.util.find_spec('torch') is not None)",
        ).stdout
    )
    oldest = read_results(ingest(python, data, submission, tmp_path / "out"))
    for theirs, expected in zip(oldest.sets, read_results(ours).sets, strict=True):
        for i in range(EXPERIMENTS):
            # Another numpy may round a momentum otherwise, so that an event more or less passes a cut.
            tolerance = 0.02 * expected.delta_mu_hats[i]
            assert abs(theirs.mu_hats[i] - expected.mu_hats[i]) < tolerance
            assert abs(theirs.p16[i] - expected.p16[i]) < tolerance
            assert abs(theirs.p84[i] - expected.p84[i]) < tolerance


SAMPLES = ("simple_stat_only_model", "simple_one_syst_model")


@pytest.fixture(scope="module")
def with_trees():
    """What the official samples import, and what our own programs do."""
    own = tuple(f"{name}=={PINS[name]}" for name in ("HiggsML", "scipy", "tqdm", "iminuit"))
    return environment((*IMAGE, *own, "PyYAML", "scikit-learn", "xgboost-cpu"))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Embedded events, with a hundredth of the rate: the samples train on them in seconds."""
    folder = tmp_path_factory.mktemp("few")
    embedded_frame(12_000).to_parquet(folder / DATA_FILE, row_group_size=5000, index=False)
    (folder / METADATA_FILE).write_text(json.dumps({"total_rows": 12_000, "sum_weights": 10_514.3}))
    return folder


@pytest.mark.parametrize("sample", SAMPLES)
def test_official_samples_run_with_the_official_results(with_trees, few, tmp_path, sample):
    """They keep ``get_train_set``, write into their own folder, print, and one of them draws."""
    found = []
    wrapper = tmp_path / "one_gpu.py"
    wrapper.write_text(ONE_GPU)
    for number, (options, program) in enumerate((((), ()), (("--parallel",), (wrapper,)))):
        folder = shutil.copytree(CHECKOUT / sample, tmp_path / f"official-{number}")
        found.append(ingest(with_trees, few, (None, folder), tmp_path / f"out-{number}", *options, program=program))
    for workers in (1, 2):
        folder, output = shutil.copytree(CHECKOUT / sample, tmp_path / f"ours-{workers}"), tmp_path / f"run-{workers}"
        command = ["-m", "scripts.run_ingestion", "--data", few, "--submission", folder, "--output", output]
        command += ["--sets", SETS, "--experiments", EXPERIMENTS, "--seed", SEED, "--workers", workers]
        finished = started(with_trees, *command, PYTHONPATH=str(ROOT))
        assert finished.returncode == 0, finished.stderr
        found.append(output)
    for name in RESULTS:
        assert len({json.dumps(json.loads((folder / name).read_text())) for folder in found}) == 1
