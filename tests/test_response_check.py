"""The response against counts at points it was not fitted to: pulls, faults, the program."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from sage.binned.counting import draw_points
from sage.challenge.nuisances import PROCESSES
from sage.files.bundle import read_bundle
from sage.measurement import likelihood_of
from scripts import check_response as program
from studies.response_check import CHECK_FILE, compare
from tests.ending import exit_code
from tests.events import DATA, DATA_FILE, FIVE_WEIGHTS, production_folder

POINTS = draw_points(12, seed=1)
Z = PROCESSES.index("ztautau")


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(FIVE_WEIGHTS)


def compared(bundle, counts, moved):
    likelihood = likelihood_of(np.zeros(bundle.regions.n_bins), bundle)
    return compare(bundle.response, likelihood, POINTS, counts, moved)


def test_counts_as_predicted_have_no_pulls_and_no_effect_on_mu(bundle):
    expected = bundle.response(np.array(POINTS))
    found = compared(bundle, expected, 1e-3 * expected)
    assert found["pulls"]["all"]["rms"] < 1e-9
    assert abs(found["mu"]["largest"]) < 1e-6
    assert found["bins"]["passed"]


def test_chance_in_what_moves_gives_unit_pulls(bundle):
    expected = bundle.response(np.array(POINTS))
    moved = 0.01 * expected
    counts = expected + np.sqrt(moved) * np.random.default_rng(2).standard_normal(expected.shape)
    found = compared(bundle, counts, moved)
    for pulls in found["pulls"].values():
        assert pulls["rms"] == pytest.approx(1.0, abs=5 / np.sqrt(2 * pulls["number"]))
        assert abs(pulls["mean"]) < 5 / np.sqrt(pulls["number"])
        assert abs(pulls["largest"]) < 6
    assert 0.4 < found["mu"]["pulls_rms"] < 1.7
    assert 0 < abs(found["mu"]["largest"]) < 4 * found["mu"]["largest_error"]


def test_what_the_response_does_not_know_is_seen(bundle):
    expected = bundle.response(np.array(POINTS))
    moved = 1e-4 * expected
    counts = expected.copy()
    last = bundle.regions.n_bins - 1
    counts[4, Z, last] += 10 * np.sqrt(moved[4, Z, last])
    found = compared(bundle, counts, moved)
    pulls = found["pulls"]["ztautau"]
    assert pulls["largest"] == pytest.approx(10.0)
    assert (pulls["largest_bin"], tuple(pulls["largest_point"])) == (last, POINTS[4])
    assert tuple(found["mu"]["largest_point"]) == POINTS[4]
    assert abs(found["mu"]["largest"]) > 5 * found["mu"]["rms"] / len(POINTS)


def test_program(tmp_path, capsys):
    frame = pq.ParquetFile(DATA / DATA_FILE).read().to_pandas()[:1500]
    data = production_folder(tmp_path / "events", frame, 1)
    given = ["--data", str(data), "--weights", str(FIVE_WEIGHTS), "--output", str(tmp_path / "check")]
    assert exit_code(program.main, [*given, "--held-out", "3"]) == 0
    assert "3 points that were not fitted, 64 that were" in capsys.readouterr().out
    first = json.loads((tmp_path / "check" / CHECK_FILE).read_text())
    assert set(first["fitted"]) == set(first["weights"]) == {"bins", "pulls", "mu"}
    assert first["fitted"]["pulls"]["all"]["number"] > 0
    assert exit_code(program.main, [*given, "--held-out", "3"]) == 0
    assert json.loads((tmp_path / "check" / CHECK_FILE).read_text()) == first
    assert exit_code(program.main, [*given, "--held-out", "4"]) == 2
