"""The fit on many Asimov data sets: closure, starting points, and intervals where soft_met or mu is at an end."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sage.binned.statistic import BinnedLikelihood, asimov
from sage.challenge.nuisances import CHALLENGE
from sage.files.bundle import read_bundle
from sage.fit.interval import measure_interval
from sage.fit.newton import EDM_GOAL, FitResult, fit, fit_global, lowest_valley
from sage.measurement import likelihood_of
from studies.likelihoods import yields_at
from tests.events import FIVE_WEIGHTS
from tests.likelihoods import likelihood_from, with_variances

MUS = (0.0, 0.1, 1.0, 3.0, 5.0)
REACH = 1.1 * math.sqrt(2 * EDM_GOAL)
"""How far from the minimum a descent may end, in standard deviations; 1.1 for what is not parabolic.

A standard deviation of mu is below 0.6, so mu ends within 1e-6 of the minimum.
"""
SOFT_MET = 3
"""Position of soft_met among the parameters."""


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(FIVE_WEIGHTS)


@pytest.fixture(params=["smooth", "smooth with simulation", "grid"])
def empty(request, bundle, analytic_tables) -> BinnedLikelihood:
    """A likelihood without counts: of the shipped weights as they are, with exact templates, and of a grid."""
    if request.param == "grid":
        return likelihood_from(analytic_tables, CHALLENGE, np.zeros(40), np.ones(40, bool))
    shipped = likelihood_of(np.zeros(bundle.regions.n_bins), bundle)
    return shipped if request.param == "smooth with simulation" else with_variances(shipped, None)


def check_closure(result: FitResult, truth: np.ndarray) -> None:
    """The likelihood of Asimov data is 0 at the truth, and the fit ends where it has hardly risen."""
    assert result.converged
    assert result.iterations <= 30
    assert -1e-12 < result.value <= 1.1 * EDM_GOAL
    sigmas = np.sqrt(np.diag(result.covariance))
    assert (np.abs(result.parameters - truth) <= REACH * sigmas + 1e-9).all()


@pytest.mark.parametrize("points", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_truth_of_an_asimov_data_set_is_found(empty, points, draw_nuisances):
    rng = np.random.default_rng(41)
    for number in range(points):
        truth = np.concatenate([[MUS[number % len(MUS)]], draw_nuisances(rng)])
        likelihood = asimov(empty, truth)
        check_closure(fit_global(likelihood), truth)


@pytest.mark.parametrize("points", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_five_random_starts_end_in_one_minimum(empty, points, draw_nuisances):
    rng = np.random.default_rng(42)
    for number in range(points):
        truth = np.concatenate([[MUS[number % len(MUS)]], draw_nuisances(rng)])
        likelihood = asimov(empty, truth)
        for _ in range(5):
            start = np.concatenate([[rng.uniform(0.0, 5.0)], draw_nuisances(rng)])
            check_closure(lowest_valley(likelihood, fit(likelihood, start)), truth)


def profile(likelihood: BinnedLikelihood, mu: float) -> float:
    """The profiled likelihood from fits begun all along soft_met: nothing of the interval's way is used."""
    values = []
    for soft_met in (-5.0, -2.0, 0.0, 1.0, math.log(5.0)):
        start = np.concatenate([[mu], likelihood.centres])
        start[SOFT_MET] = soft_met
        values.append(fit(likelihood, start, fixed_mu=mu).value)
    return min(values)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("mu", [0.0, 1.0])
@pytest.mark.parametrize("soft_met", [0.0, 5.0])
def test_an_interval_with_soft_met_at_an_end_agrees_with_a_scan(bundle, soft_met, mu, moved):
    """Asimov counts of the true end, constraints where they always are or moved to the truth."""
    alphas = {nuisance.name: nuisance.nominal for nuisance in CHALLENGE} | {"soft_met": soft_met}
    counts = yields_at(bundle, mu, alphas).sum(axis=0)
    centres = np.zeros(6)
    if moved:
        centres[SOFT_MET - 1] = CHALLENGE[SOFT_MET - 1].nu(soft_met)
    likelihood = dataclasses.replace(likelihood_of(counts, bundle), centres=centres)
    interval = measure_interval(likelihood)
    assert interval.flags == ()
    assert -math.inf < interval.low < mu < interval.high < math.inf
    assert interval.low < interval.fit.mu < interval.high
    sigma = (interval.high - interval.low) / 2
    if moved:
        assert interval.fit.mu == pytest.approx(mu, abs=0.01 * sigma)
    for limit, outward in ((interval.low, -1), (interval.high, 1)):
        assert profile(likelihood, limit) - interval.fit.value == pytest.approx(0.5, abs=1e-4)
        inside = [profile(likelihood, limit - outward * step * sigma) for step in (0.05, 0.3, 0.6, 0.9)]
        outside = [profile(likelihood, limit + outward * step * sigma) for step in (0.05, 0.5, 1.0, 2.0)]
        assert interval.fit.value - 1e-9 <= min(inside)
        assert max(inside) - interval.fit.value < 0.5 < min(outside) - interval.fit.value


def test_an_estimate_of_no_signal_has_a_negative_lower_limit_unless_the_settings_bound_it(bundle):
    counts = yields_at(bundle, 0.0, {nuisance.name: nuisance.nominal for nuisance in CHALLENGE}).sum(axis=0)
    likelihood = likelihood_of(counts, bundle)
    free, bounded = measure_interval(likelihood), measure_interval(likelihood, mu_range=(0.0, 3.0))
    assert abs(free.fit.mu) < 0.2 * free.fit.sigma_mu
    assert free.low < -0.5 * free.fit.sigma_mu
    assert free.flags == ()
    assert bounded.low == 0.0
    assert bounded.flags == ("limit_at_bound",)
    assert bounded.fit.mu == pytest.approx(max(free.fit.mu, 0.0), abs=1e-5)
