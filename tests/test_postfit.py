"""Expectations before and after the fit: against tables and likelihood, error propagation, one whole run."""

import dataclasses
import json

import numpy as np
import pytest

from sage.challenge.nuisances import NAMES, PROCESSES
from sage.files.bundle import read_bundle
from sage.measurement import likelihood_of
from scripts import postfit as program
from studies.likelihoods import process_yields
from studies.postfit import PROBABILITY_EDGES, expectation, probability_histograms
from tests.conftest import EVENTS
from tests.ending import exit_code
from tests.events import FIVE_WEIGHTS

TTBAR = PROCESSES.index("ttbar")


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(FIVE_WEIGHTS)


def with_settings(bundle, **settings):
    return dataclasses.replace(bundle, settings=bundle.settings | settings)


def random_parameters(draw_nuisances, seed):
    rng = np.random.default_rng(seed)
    return np.concatenate([[rng.uniform(0.1, 3.0)], draw_nuisances(rng)])


@pytest.mark.parametrize("nuisances", ["challenge", "published"])
@pytest.mark.parametrize("templates", ["smooth", "grid"])
def test_processes_add_up_to_what_the_likelihood_expects(bundle, draw_nuisances, nuisances, templates):
    changed = read_bundle(FIVE_WEIGHTS, {"nuisances": nuisances, "templates": templates})
    likelihood = likelihood_of(np.zeros(bundle.regions.n_bins), changed)
    for seed in range(5):
        parameters = random_parameters(draw_nuisances, seed)
        processes = process_yields(changed, parameters)
        np.testing.assert_allclose(processes.sum(axis=0), likelihood.expected(parameters), rtol=1e-12)


def test_expectation_at_a_node_integrates_to_the_table(bundle):
    """All nuisance parameters 0: tes = jes = 1 and soft_met = 1 GeV, which is a node."""
    changed = read_bundle(FIVE_WEIGHTS, {"templates": "grid"})
    axes = changed.tables.axes
    node = tuple(int(np.argmin(np.abs(axis - 1.0))) for axis in axes)
    table = changed.tables.yields[node]
    found = process_yields(changed, np.concatenate([[1.0], np.zeros(6)]))
    for place in bundle.regions.slices.values():
        np.testing.assert_allclose(found[:, place].sum(axis=1), table[:, place].sum(axis=1), rtol=1e-5)


def test_regions_without_signal_expect_none(bundle):
    regions = bundle.regions.regions
    silent = dataclasses.replace(regions[0], signal=False)
    changed = dataclasses.replace(bundle, regions=dataclasses.replace(bundle.regions, regions=(silent, *regions[1:])))
    found = process_yields(changed, np.concatenate([[2.0], np.zeros(6)]))[0]
    assert (found[: silent.n_bins] == 0).all()
    assert (found[silent.n_bins :] > 0).all()


def test_uncertainty_of_one_rate_is_its_width_times_its_yield(bundle):
    parameters = np.concatenate([[1.3], np.zeros(6)])
    likelihood = likelihood_of(np.zeros(bundle.regions.n_bins), bundle)
    covariance = np.zeros((7, 7))
    place = 1 + NAMES.index("ttbar_scale")
    covariance[place, place] = 0.5**2
    found = expectation(likelihood, parameters, covariance)
    np.testing.assert_allclose(found.sigma, 0.5 * 0.02 * found.processes[TTBAR], rtol=1e-6)
    total, sigma = found.integral(slice(0, 5))
    assert total == pytest.approx(found.processes[:, :5].sum())
    assert sigma == pytest.approx(found.sigma[:5].sum())


def test_uncertainty_against_propagation_with_the_jacobian(bundle, draw_nuisances):
    """A small covariance with correlations, where the expectation is as good as linear."""
    parameters = random_parameters(draw_nuisances, 7)
    likelihood = likelihood_of(np.zeros(bundle.regions.n_bins), bundle)
    root = 1e-3 * np.random.default_rng(7).normal(size=(7, 7))
    covariance = root @ root.T
    step = 1e-5 * np.eye(7)
    jacobian = [(likelihood.expected(parameters + h) - likelihood.expected(parameters - h)) / 2e-5 for h in step]
    expected = np.sqrt(np.einsum("ib,ij,jb->b", jacobian, covariance, jacobian))
    found = expectation(likelihood, parameters, covariance)
    np.testing.assert_allclose(found.sigma, expected, rtol=1e-3)


def test_run_and_continue(bundle, tmp_path, capsys):
    given = ["--data", EVENTS, "--test-size", 0.5, "--mu", 1.5, "--seed", 4, "--nodes", 2, "--output", tmp_path]
    given += ["--weights", FIVE_WEIGHTS]
    given = [str(value) for value in given]
    assert program.main(given) == 0
    printed = capsys.readouterr().out
    assert "true mu 1.500, measured" in printed
    content = json.loads((tmp_path / "postfit.json").read_text())
    assert content["p16"] < content["mu_hat"] < content["p84"]
    for name in ("regions", "pulls", "probabilities"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert (tmp_path / f"{name}.svg").exists()

    after = [region["after"] for region in content["regions"].values()]
    before = [region["before"] for region in content["regions"].values()]
    observed = [sum(region["observed"]) for region in content["regions"].values()]
    # The background rates are free: the fit must bring the expectation to the data and shrink its uncertainty.
    assert sum(entry["integral"] for entry in after) == pytest.approx(sum(observed), rel=5e-3)
    assert all(a["integral_sigma"] < b["integral_sigma"] for a, b in zip(after, before, strict=True))
    assert sum(entry["chi2"] for entry in after) < sum(entry["chi2"] for entry in before)
    signal = sum(sum(entry["processes"]["htautau"]) for entry in after)
    soft_met, tes, jes = (content["nuisances"][name]["alpha"] for name in ("soft_met", "tes", "jes"))
    per_mu = bundle.templates.terms((tes, jes, soft_met))[0][0].sum()
    assert signal == pytest.approx(content["mu_hat"] * per_mu, rel=1e-9)

    # Each output holds every selected event once, so all four have the same integral.
    means = content["probabilities"]["mean"]
    assert len(PROBABILITY_EDGES) == len(content["probabilities"]["edges"])
    for process in PROCESSES:
        integrals = [sum(means[output][process]) for output in PROCESSES]
        np.testing.assert_allclose(integrals, integrals[0], rtol=1e-9)
        assert integrals[0] > 0

    nodes = {path: path.stat().st_mtime_ns for path in (tmp_path / "nodes").iterdir()}
    removed = min(nodes)
    removed.unlink()
    again = probability_histograms(bundle, EVENTS, 0.5, 2, 4, tmp_path / "nodes", 1)
    assert json.loads(json.dumps(again)) == content["probabilities"]
    assert removed.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in nodes.items() if path != removed)


@pytest.mark.parametrize("wrong", [("--mu", "-1"), ("--mu", "nan"), ("--nodes", "-1"), ("--weights", "nowhere")])
def test_wrong_input_ends_with_one_line(wrong, tmp_path, capsys):
    assert exit_code(program.main, ["--data", str(EVENTS), "--output", str(tmp_path), *wrong]) == 2
    assert capsys.readouterr().err.startswith("error: ")
