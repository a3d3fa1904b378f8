"""What a run leaves behind can be given away: it names neither the user's folders nor what is in the environment."""

import hashlib
import json
import shutil

from harness.packing import bundle_files
from scripts import run_ingestion, score
from tests import official
from tests.conftest import ROOT

MARKER = "b1946ac92492d2347c6235b4d2611184"

SUBMISSION = """
from pathlib import Path

import numpy as np

from sage.files.bundle import read_bundle
from sage.network.engine import Engine


class Model:
    def __init__(self, get_train_set, systematics):
        self.network = read_bundle(Path(__file__).parent / "weights").network

    def fit(self):
        pass

    def predict(self, test_set):
        engine = Engine(self.network)
        engine.probabilities(np.zeros((1, 45), np.float32), np.zeros((1, 2), bool))
        self.last_result = {"status": "flagged", "flags": engine.flags}
        return {"mu_hat": 1.0, "delta_mu_hat": 0.5, "p16": 0.5, "p84": 1.5}
"""


def broken_submission(folder):
    """The project's own files with a native library that cannot be loaded, which every answer reports."""
    for name, path in bundle_files(ROOT).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
    (folder / "model.py").write_text(SUBMISSION)
    content = b"no library"
    (folder / "sage" / "network" / "libsage_network.so").write_bytes(content)
    (folder / "sage" / "network" / "library_hash.py").write_text(f"SHA256 = {hashlib.sha256(content).hexdigest()!r}\n")
    return folder


def test_output_files_hold_no_home_and_no_environment(tmp_path, monkeypatch):
    home = tmp_path / "home" / "jane"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ACCESS_TOKEN", MARKER)
    monkeypatch.chdir(home)
    data, submission = official.events_folder(home / "events"), broken_submission(home / "submission")
    output = home / "results"
    given = ["--data", data, "--submission", submission, "--output", output, "--sets", 1, "--experiments", 2]
    assert run_ingestion.main([str(value) for value in given]) == 0
    assert score.main(["--results", str(output)]) == 0

    records = [json.loads(line) for line in (output / "experiments.jsonl").read_text().splitlines()]
    assert all("libsage_network.so cannot be loaded" in record["result"]["flags"][0] for record in records)
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) == 9
    for path in files:
        content = path.read_bytes()
        for secret in (str(home), str(tmp_path), str(ROOT), MARKER):
            assert secret.encode() not in content, path.name
