"""From an events file to intervals: real events, and simulated ones whose mu must come back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.pseudo_experiments import draw_nuisances, make_pseudo_data
from harness.runner import RunOptions, run
from harness.settings import make_settings
from harness.test_set import EventFile
from model import WEIGHTS, Model
from sage.challenge.nuisances import CHALLENGE, NAMES, PROCESSES
from sage.files.bundle import read_bundle
from sage.fit.interval import measure_interval
from sage.measurement import likelihood_of
from scripts.score import main as score
from tests.conftest import EVENTS, REAL_EVENTS, ROOT, TABLES_CONFIG
from training.config import read_config


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def demo_model(demo_weights) -> Model:
    return Model(weights=demo_weights)


def test_real_events_run_through_everything_and_stay_finite(tmp_path):
    """The 500 real events leave 150 to draw from: mu means nothing, but every step must hold."""
    data = tmp_path / "real"
    data.mkdir()
    (data / "FAIR_Universe_HiggsML_data.parquet").write_bytes(REAL_EVENTS.read_bytes())
    (data / "FAIR_Universe_HiggsML_data_metadata.json").write_text(json.dumps({"sum_weights": 1_051_433.0}))
    settings = make_settings(2, 1, 3, NAMES, None)
    run(RunOptions(data=data, submission=ROOT, output=tmp_path / "out", settings=settings))
    records = [json.loads(line) for line in (tmp_path / "out" / "experiments.jsonl").read_text().splitlines()]
    assert len(records) == 2
    for record in records:
        assert record["events"] > 500_000
        assert all(np.isfinite(value) for value in record["answer"].values())
        assert record["answer"]["p16"] <= record["answer"]["mu_hat"] <= record["answer"]["p84"]
        assert record["result"]["n_events"] == record["events"]
    assert score(["--results", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_mu_comes_back_where_only_rates_vary(demo_model, mu):
    """Events drawn from the rows of the tables, energy scales and MET nominal: nothing but statistics is left.

    The constraint on soft_met is centred on the true 0 GeV, which the prior of the challenge never draws.
    """
    pool = EventFile(EVENTS, read_config(TABLES_CONFIG).table_fraction).load_test_set()
    nuisances = draw_nuisances(17, ("ttbar_scale", "diboson_scale", "bkg_scale"))
    test_set = make_pseudo_data(pool, mu, nuisances, seed=17)
    demo_model.predict(test_set)
    found = demo_model.last_result
    # The smooth response is not held to the few, heavy events at the nominal point.
    assert all(flag.startswith("poor_fit") for flag in found.flags)
    assert abs(found.mu_hat - mu) < 3 * found.delta_mu_hat


def test_asimov_data_of_the_shipped_tables_give_every_mu_back():
    """Counts set to the tables' expectation at the nominal point, with the constraint centres moved there."""
    bundle = read_bundle(WEIGHTS, {"templates": "grid"})
    yields = bundle.tables.terms((1.0, 1.0, 0.0))[0]
    soft_met = NAMES.index("soft_met")
    centres = np.zeros(6)
    centres[soft_met] = CHALLENGE[soft_met].nu_range[0]
    for mu in (0.0, 0.5, 1.0, 3.0):
        counts = yields.sum(axis=0) + (mu - 1) * yields[PROCESSES.index("htautau")]
        base = likelihood_of(counts, bundle)
        likelihood = replace(base, centres=centres)
        assert measure_interval(likelihood).fit.mu == pytest.approx(mu, abs=2e-3)
