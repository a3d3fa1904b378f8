"""The official programs as an oracle: runs them, and stores what they do.

    python -m tests.official CHECKOUT

with CHECKOUT a clone of FAIR-Universe/HEP-Challenge writes tests/data/official_*.json again.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent
DATA = TESTS / "data"
REAL_EVENTS = DATA / "real_500.parquet"
PSEUDO_REFERENCE = DATA / "official_pseudo_experiments.json"
SCORE_REFERENCE = DATA / "official_scores.json"

# The true sum is about a million; this one keeps pseudo-experiments small.
SUM_WEIGHTS = 20_000.0
SETS, EXPERIMENTS, SEED = 2, 2, 7
SWITCHES = ("tes,jes,soft_met,ttbar_scale,diboson_scale,bkg_scale", "", "tes,bkg_scale", "jes,soft_met,diboson_scale")

RUN_SCORER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from score import Scoring
scoring = Scoring()
scoring.load_ingestion_duration(sys.argv[2] + "/ingestion_duration.json")
scoring.load_ingestion_results(sys.argv[2], sys.argv[2])
settings = json.load(open(sys.argv[2] + "/test_settings.json"))
scoring.compute_scores(settings, no_html=True)
scoring.compute_bootstraped_scores(n_bootstraps=1000, sample_size=len(settings["ground_truth_mus"]))
found = {
    "overall": scoring.scores_dict,
    "sets": json.loads(scoring.set_score_df.to_json(orient="records", double_precision=15)),
    "bootstraps": scoring.bootstraped_scores,
}
json.dump(found, open(sys.argv[2] + "/official.json", "w"))
"""


def events_folder(folder, **metadata):
    """Put the 500 real events into a folder as the official program expects them."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(REAL_EVENTS, folder / "FAIR_Universe_HiggsML_data.parquet")
    content = {"total_rows": 500, "sum_weights": SUM_WEIGHTS, **metadata}
    (folder / "FAIR_Universe_HiggsML_data_metadata.json").write_text(json.dumps(content))
    return folder


def environment():
    """Return what the last bit of a float can depend on: libraries, and the SIMD code numpy chooses for this CPU."""
    import pandas as pd

    return {
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "simd": sorted(np.show_config(mode="dicts")["SIMD Extensions"]["found"]),
    }


def _run(command, **variables):
    # With INFO the official modules print a page per run; the warnings are pandas' about their style.
    env = {**os.environ, "LOG_LEVEL": "ERROR", "MPLBACKEND": "Agg", **variables}
    subprocess.run([sys.executable, "-W", "ignore", *map(str, command)], env=env, check=True, capture_output=True)


def run_ingestion(checkout, data, submission, output, switches="", record_to="", seed=SEED):
    """Run the official ingestion program."""
    output.mkdir(parents=True, exist_ok=True)
    options = [f"--systematics-{name.replace('_', '-')}" for name in switches.split(",") if name]
    options += ["--num-of-sets", SETS, "--num-pseudo-experiments", EXPERIMENTS, "--random-seed", seed]
    program = Path(checkout) / "ingestion_program" / "run_ingestion.py"
    command = [program, "--input", data, "--submission", submission, "--output", output, *options]
    _run(command, RECORD_TO=str(record_to))


def run_scorer(checkout, results):
    """Run the official scoring on a folder of results, the final phase's bootstraps included."""
    _run(["-c", RUN_SCORER, Path(checkout) / "scoring_program", results])
    return json.loads((results / "official.json").read_text())


def write_results(folder, mus, sets):
    """Write result files in the official format: ``sets`` holds (mu_hats, delta_mu_hats, p16, p84) of each set."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"ground_truth_mus": mus, "num_of_sets": len(mus), "random_mu": False}
    (folder / "test_settings.json").write_text(json.dumps(settings))
    (folder / "ingestion_duration.json").write_text(json.dumps({"ingestion_duration": 3}))
    for number, columns in enumerate(sets):
        result = dict(zip(("mu_hats", "delta_mu_hats", "p16", "p84"), columns, strict=True))
        (folder / f"result_{number}.json").write_text(json.dumps(result))


def score_cases():
    """Return results whose coverage lies below, inside and above the band, with swapped ends, in sets of any size."""
    random = np.random.RandomState(5)
    cases = {}
    for name, width in (("below", 0.12), ("inside", 0.5), ("above", 1.5), ("swapped", -0.5), ("unequal", 0.5)):
        mus, sets = [], []
        for number in range(3):
            size = 12 + (5 * number if name == "unequal" else 0)
            mu = round(float(random.uniform(0.1, 3)), 4)
            mu_hat = np.round(mu + 0.5 * random.normal(size=size), 4)
            spread = np.round(width * random.uniform(0.9, 1.1, size), 4)
            columns = (mu_hat, np.abs(spread), np.round(mu_hat - spread, 4), np.round(mu_hat + spread, 4))
            mus.append(mu)
            sets.append([column.tolist() for column in columns])
        cases[name] = {"mus": mus, "sets": sets}
    return cases


def _describe(checkout):
    git = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    return {
        "command": "python -m tests.official CHECKOUT",
        "repository": "FAIR-Universe/HEP-Challenge",
        "commit": commit,
        "environment": environment(),
    }


def main(checkout):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = events_folder(folder / "input")
        runs = []
        for number, switches in enumerate(SWITCHES):
            output, record = folder / f"output-{number}", folder / f"record-{number}.jsonl"
            run_ingestion(checkout, data, TESTS / "submissions" / "recording", output, switches, record)
            lines = [json.loads(line) for line in record.read_text().splitlines()]
            settings = json.loads((output / "test_settings.json").read_text())
            runs.append({"switches": switches, "seed": SEED, "test_settings": settings, "in_order": lines})
        content = {"made": _describe(checkout), "sum_weights": SUM_WEIGHTS, "runs": runs}
        PSEUDO_REFERENCE.write_text(json.dumps(content) + "\n")
        cases = score_cases()
        for case, values in cases.items():
            write_results(folder / case, values["mus"], values["sets"])
            official = run_scorer(checkout, folder / case)
            official["bootstraps"] = {key: values[:20] for key, values in official["bootstraps"].items()}
            values["official"] = official
        SCORE_REFERENCE.write_text(json.dumps({"made": _describe(checkout), "cases": cases}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
