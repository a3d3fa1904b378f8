"""The Asimov study: impacts two ways, breakdowns that add up, yields against the likelihood, and the program."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sage.binned.statistic import with_exact_templates
from sage.challenge.nuisances import NAMES, PROCESSES
from sage.fit.interval import measure_interval
from sage.fit.objective import MU
from scripts import asimov
from studies.asimov import as_text, scan_mu, study_asimov, yield_changes
from studies.impacts import breakdown_by_auxiliary_data, breakdown_by_freezing, correlations, frozen, impacts
from studies.likelihoods import asimov_likelihood, nuisances_of, open_weights, parameters_at, process_yields
from tests.ending import exit_code
from tests.events import FIVE_WEIGHTS


@pytest.fixture(scope="module")
def bundle():
    return open_weights(FIVE_WEIGHTS)


@pytest.fixture(scope="module")
def study(bundle):
    return study_asimov(bundle, parameters_at(bundle, 1.0), points=21)


@pytest.mark.parametrize("alphas", [{}, {"tes": 1.01, "soft_met": 2.0, "diboson_scale": 0.8}])
def test_estimates_equal_the_truth(bundle, alphas):
    truth = parameters_at(bundle, 2.0, alphas)
    interval = measure_interval(asimov_likelihood(bundle, truth))
    np.testing.assert_allclose(interval.fit.parameters, truth, atol=1e-4)
    for name, alpha in alphas.items():
        place = 1 + NAMES.index(name)
        assert nuisances_of(bundle)[place - 1].alpha(interval.fit.parameters[place])[0] == pytest.approx(
            alpha, abs=1e-4
        )


def test_impacts_by_refit_and_covariance_agree_to_first_order(bundle):
    """Half the difference of the shifts up and down has no second order; the third is largest for soft_met, 6 %."""
    truth = parameters_at(bundle, 1.0)
    likelihood = asimov_likelihood(bundle, truth)
    best = measure_interval(likelihood).fit
    for impact in impacts(likelihood, best):
        for refit, first_order in (
            (impact.fixed_postfit, impact.covariance_postfit),
            (impact.auxiliary_refit, impact.auxiliary_covariance),
        ):
            slope = (refit[1] - refit[0]) / 2
            assert slope == pytest.approx(first_order[1], rel=0.08, abs=2e-4)


def test_small_shift_of_auxiliary_data_gives_the_covariance_exactly(bundle):
    likelihood = asimov_likelihood(bundle, parameters_at(bundle, 1.0))
    best = measure_interval(likelihood).fit
    for i in range(6):
        moved = [
            measure_interval(replace(likelihood, centres=likelihood.centres + sign * 0.02 * np.eye(6)[i])).fit.mu
            for sign in (-1, 1)
        ]
        assert (moved[1] - moved[0]) / 0.04 == pytest.approx(best.covariance[MU, 1 + i], rel=0.02, abs=1e-5)


def test_parts_add_in_quadrature(bundle):
    likelihood = asimov_likelihood(bundle, parameters_at(bundle, 1.0, {"tes": 1.005}))
    interval = measure_interval(likelihood)
    by_data = breakdown_by_auxiliary_data(likelihood, interval.fit)
    assert math.hypot(*by_data.values()) == pytest.approx(interval.fit.sigma_mu, rel=1e-6)
    parts = breakdown_by_freezing(likelihood, interval, measure_interval, with_exact_templates(likelihood))
    three = [parts[name] for name in ("statistical", "systematic", "simulation")]
    assert math.hypot(*(part.up for part in three)) == pytest.approx(interval.high - interval.fit.mu, rel=1e-9)
    assert math.hypot(*(part.down for part in three)) == pytest.approx(interval.fit.mu - interval.low, rel=1e-9)
    assert parts["statistical"].sigma < by_data["statistical"]


def test_statistical_part_is_the_information_of_mu_alone(bundle):
    truth = parameters_at(bundle, 1.0)
    yields = process_yields(bundle, truth)
    signal = yields[PROCESSES.index("htautau")]
    expected = 1 / math.sqrt((signal**2 / yields.sum(axis=0)).sum())
    likelihood = asimov_likelihood(bundle, truth)
    parts = breakdown_by_freezing(
        likelihood, measure_interval(likelihood), measure_interval, with_exact_templates(likelihood)
    )
    assert parts["statistical"].sigma == pytest.approx(expected, rel=1e-6)


def test_frozen_nuisances_do_not_move(bundle):
    truth = parameters_at(bundle, 1.0, {"jes": 1.01})
    likelihood = asimov_likelihood(bundle, parameters_at(bundle, 1.0))
    fit = measure_interval(frozen(likelihood, truth, ["jes"])).fit
    assert fit.parameters[2] == pytest.approx(truth[2])
    assert fit.covariance[2, 2] == 0
    assert fit.parameters[1] != 0


def test_yields_by_process_add_up_to_the_expectation(bundle):
    truth = parameters_at(bundle, 1.7, {"tes": 0.99, "soft_met": 3.0, "ttbar_scale": 1.03, "bkg_scale": 0.999})
    np.testing.assert_allclose(
        process_yields(bundle, truth).sum(axis=0), asimov_likelihood(bundle, truth).statistic.counts
    )


def test_rates_change_what_they_scale_and_nothing_else(bundle):
    for change in yield_changes(bundle, parameters_at(bundle, 1.0)):
        scaled = {"ttbar_scale": ["ttbar"], "diboson_scale": ["diboson"], "bkg_scale": list(PROCESSES[1:])}
        widths = {"ttbar_scale": 0.02, "diboson_scale": 0.25, "bkg_scale": 0.001}
        if change.nuisance in scaled:
            size = widths[change.nuisance] if change.process in scaled[change.nuisance] else 0.0
            assert (change.down, change.up) == (pytest.approx(-size), pytest.approx(size))


def test_scan_is_the_profile(bundle, study):
    limits = (study.interval.low, study.interval.high)
    found = np.interp(limits, study.scan.mu, study.scan.profiled)
    np.testing.assert_allclose(found, 0.5, atol=0.02)
    assert (study.scan.statistical >= study.scan.profiled - 1e-9).all()
    assert study.scan.profiled.min() == pytest.approx(0.0, abs=1e-9)
    finer = scan_mu(asimov_likelihood(bundle, study.truth), study.interval.fit, points=41)
    np.testing.assert_allclose(finer.profiled[::2], study.scan.profiled, atol=1e-6)


def test_correlations_against_numpy():
    rng = np.random.default_rng(3)
    sample = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4))
    np.testing.assert_allclose(correlations(np.cov(sample.T)), np.corrcoef(sample.T), atol=1e-12)
    fixed = np.cov(sample.T)
    fixed[1] = fixed[:, 1] = 0
    assert (correlations(fixed)[1] == [0, 1, 0, 0]).all()


def test_text_has_all_tables(study):
    text = as_text(study)
    for name in (*NAMES, *PROCESSES, "energy scales", "statistical", "Correlations", "By auxiliary data"):
        assert name in text


def test_program(tmp_path, capsys):
    output = tmp_path / "out"
    assert asimov.main(["--output", str(output), "--points", "9", "--mu", "0.5", "--nuisance", "tes=1.01"]) == 0
    printed = capsys.readouterr().out
    assert "mu = 0.5000" in printed
    content = json.loads((output / "asimov.json").read_text())
    assert content["truth"]["tes"] == pytest.approx(1.0)
    assert content["mu_hat"] == pytest.approx(0.5, abs=1e-4)
    assert len(content["scan"]["mu"]) == 9
    assert len(content["yield_changes"]) == len(content["yields"]) * 4 * 6
    stems = ("correlations", "impacts", "pulls", "scan")
    pictures = [f"{name}.{kind}" for name in stems for kind in ("png", "svg")]
    assert sorted(path.name for path in output.iterdir()) == ["asimov.json", *pictures]
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert asimov.main(["--output", str(output), "--points", "9", "--mu", "0.5", "--nuisance", "tes=1.01"]) == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--nuisance", "tau=1"], "no nuisance is called 'tau'"),
        (["--nuisance", "tes=2"], "tes is 2.0, but lies from 0.9 to 1.1"),
        (["--weights", "nowhere"], "nowhere"),
        (["--points", "2"], "--points: '2'"),
    ],
)
def test_unusable_input(tmp_path, capsys, given, said):
    assert exit_code(asimov.main, ["--output", str(tmp_path), *given]) == 2
    assert said in capsys.readouterr().err
