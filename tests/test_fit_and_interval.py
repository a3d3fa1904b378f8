"""The fit and its interval: Asimov closure, iminuit as oracle, toys, kinks, and hostile counts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from iminuit import Minuit

from sage.binned.statistic import BinnedLikelihood, with_counts
from sage.binned.tables import GRID, YieldTables, default_axes
from sage.challenge.nuisances import CHALLENGE, VARIANTS, variant
from sage.files.bundle import read_bundle
from sage.fit.interval import measure_interval
from sage.fit.newton import fit, fit_global
from sage.measurement import likelihood_of as measured_likelihood
from tests.drawing import few_and_many
from tests.events import FIVE_WEIGHTS
from tests.likelihoods import likelihood_from, with_variances

N_BINS = 40
ALL_SIGNAL = np.ones(N_BINS, bool)


def likelihood_of(tables, counts, centres=None, nuisances=CHALLENGE) -> BinnedLikelihood:
    return likelihood_from(tables, nuisances, counts, ALL_SIGNAL, np.zeros(6) if centres is None else centres)


def expected(tables, parameters, nuisances=CHALLENGE) -> np.ndarray:
    return likelihood_of(tables, np.zeros(N_BINS), nuisances=nuisances).expected(parameters)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0, 3.0])
def test_asimov_closure_with_moved_constraint_centres(analytic_tables, mu, name):
    rng = np.random.default_rng(int(10 * mu) + len(name))
    nuisances = variant(name)
    for _ in range(15):
        nu = np.array([np.clip(rng.normal(), *nuisance.nu_range) for nuisance in nuisances])
        truth = np.concatenate([[mu], nu])
        counts = expected(analytic_tables, truth, nuisances)
        result = fit_global(likelihood_of(analytic_tables, counts, nu, nuisances))
        assert result.converged
        assert result.mu == pytest.approx(mu, abs=1e-4)
        np.testing.assert_allclose(result.parameters[1:], nu, atol=1e-3)


def minuit_of(likelihood: BinnedLikelihood, start: np.ndarray) -> Minuit:
    minuit = Minuit(likelihood.value, start, grad=lambda p: likelihood.evaluate(p).gradient)
    minuit.errordef = Minuit.LIKELIHOOD
    minuit.limits = [(None, None), *(nuisance.nu_range for nuisance in likelihood.nuisances)]
    minuit.strategy = 1
    return minuit


def test_never_above_iminuit_and_same_limits_as_minos(analytic_tables, draw_nuisances):
    rng = np.random.default_rng(11)
    for _ in range(12):
        truth = np.concatenate([[rng.uniform(0.1, 3.0)], draw_nuisances(rng)])
        likelihood = likelihood_of(analytic_tables, rng.poisson(expected(analytic_tables, truth)).astype(float))
        interval = measure_interval(likelihood)
        values = []
        for shift in (0.0, 0.5, -0.5):
            minuit = minuit_of(likelihood, np.array([1.0, shift, -shift, shift, 0.0, 0.0, 0.0]))
            minuit.migrad(ncall=5000)
            values.append(float(minuit.fval))
        assert interval.fit.value <= min(values) + 1e-3
        minuit = minuit_of(likelihood, interval.fit.parameters)
        minuit.migrad(ncall=5000)
        minuit.minos("x0", cl=0.6827)
        sigma = interval.fit.sigma_mu
        assert interval.fit.mu == pytest.approx(minuit.values["x0"], abs=0.01 * sigma)
        if minuit.merrors["x0"].is_valid:
            merror = minuit.merrors["x0"]
            assert interval.low == pytest.approx(minuit.values["x0"] + merror.lower, abs=0.02 * sigma)
            assert interval.high == pytest.approx(minuit.values["x0"] + merror.upper, abs=0.02 * sigma)


@pytest.mark.parametrize("toys", [8, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["challenge", "published"])
def test_the_bundle_s_smooth_templates_leave_no_lower_minimum(name, toys):
    """iminuit from five starts, among them both valleys of soft_met and its ends; its lowest minimum has our mu."""
    settings = {"templates": "smooth", "nuisances": name, "simulation_uncertainty": True}
    bundle = read_bundle(FIVE_WEIGHTS)
    bundle = dataclasses.replace(bundle, settings=bundle.settings | settings)
    bare = measured_likelihood(np.zeros(bundle.regions.n_bins), bundle)
    rng = np.random.default_rng(18)
    ranges = [nuisance.nu_range for nuisance in bare.nuisances]
    for _ in range(toys):
        truth = [rng.uniform(0.1, 3.0), *(np.clip(rng.normal(), low, high) for low, high in ranges)]
        likelihood = with_counts(bare, rng.poisson(bare.expected(np.array(truth))).astype(float))
        result = fit_global(likelihood)
        assert result.converged
        found = []
        for tes, soft_met in ((0.0, 0.0), (1.5, -2.5), (-1.5, 1.0), (0.5, ranges[2][0]), (-0.5, ranges[2][1])):
            start = np.array([1.0, tes, -tes, np.clip(soft_met, *ranges[2]), 0.0, 0.0, 0.0])
            minuit = minuit_of(likelihood, start)
            # Estimated distances below 1e-6, of which 0.01 sigma are 5e-5.
            minuit.tol = 1e-3
            minuit.migrad(ncall=5000)
            assert result.value <= float(minuit.fval) + 1e-3
            found.append((float(minuit.fval), float(minuit.values["x0"])))
        value, mu = min(found)
        assert value == pytest.approx(result.value, abs=1e-4)
        assert mu == pytest.approx(result.mu, abs=0.01 * result.sigma_mu)


def test_limits_are_where_the_profile_has_risen_by_a_half(analytic_tables):
    """Slow twin of the root finder: refit on a fine grid of mu and interpolate the crossing."""
    rng = np.random.default_rng(12)
    truth = np.array([1.3, 0.5, -0.8, 0.4, 0.3, -0.5, 0.2])
    likelihood = likelihood_of(analytic_tables, rng.poisson(expected(analytic_tables, truth)).astype(float))
    interval = measure_interval(likelihood)
    assert interval.flags == ()
    assert interval.low < interval.fit.mu < interval.high
    grid = np.linspace(interval.fit.mu - 1.5, interval.fit.mu + 1.5, 61)
    profile = np.array([fit(likelihood, interval.fit.parameters, fixed_mu=mu).value for mu in grid])
    above = profile - interval.fit.value > 0.5
    first, last = np.flatnonzero(~above)[[0, -1]]
    assert grid[first - 1] <= interval.low <= grid[first]
    assert grid[last] <= interval.high <= grid[last + 1]
    for limit in (interval.low, interval.high):
        rise = fit(likelihood, interval.fit.parameters, fixed_mu=limit).value - interval.fit.value
        assert rise == pytest.approx(0.5, abs=1e-4)


def test_sigma_from_curvature_interval_and_scan_agree_on_asimov(analytic_tables):
    truth = np.concatenate([[1.0], np.zeros(6)])
    interval = measure_interval(likelihood_of(analytic_tables, expected(analytic_tables, truth)))
    assert (interval.high - interval.low) / 2 == pytest.approx(interval.fit.sigma_mu, rel=0.03)


@pytest.mark.stat
def test_two_hundred_toys_have_unit_pulls(analytic_tables, draw_nuisances):
    """At 4 standard errors of 200 toys: mean within 0.283; the floors 0.25 and 0.18 are tighter."""
    rng = np.random.default_rng(13)
    pulls, covered = [], 0
    for _ in range(200):
        mu = rng.uniform(0.1, 3.0)
        truth = np.concatenate([[mu], draw_nuisances(rng)])
        interval = measure_interval(
            likelihood_of(analytic_tables, rng.poisson(expected(analytic_tables, truth)).astype(float))
        )
        assert interval.fit.converged
        pulls.append((interval.fit.mu - mu) / interval.fit.sigma_mu)
        covered += interval.low <= mu <= interval.high
    assert abs(np.mean(pulls)) < 0.25
    assert abs(np.std(pulls) - 1.0) < 0.18
    assert 109 <= covered <= 163


@pytest.mark.stat
def test_templates_from_few_events_are_covered(analytic_tables):
    """Templates scatter with five expected events per simulated one; only the fit that knows it has unit pulls."""
    rng = np.random.default_rng(15)
    size, pulls = 5.0, {True: [], False: []}
    truth = np.array([1.0, *np.zeros(6)])
    nominal = analytic_tables.terms((1.0, 1.0, 0.0))[0]
    for _ in range(150):
        drawn = rng.poisson(nominal / size) * size
        simulated = dataclasses.replace(analytic_tables, yields=analytic_tables.yields * (drawn / nominal))
        counts = rng.poisson(expected(analytic_tables, truth)).astype(float)
        for known in (True, False):
            variances = size * drawn if known else None
            likelihood = with_variances(likelihood_of(simulated, counts), variances)
            result = fit_global(likelihood)
            pulls[known].append((result.mu - 1.0) / result.sigma_mu)
    # Four standard errors of the width of 150 pulls.
    assert abs(np.std(pulls[True]) - 1.0) < 0.23
    assert np.std(pulls[False]) > 1.5


def test_kinks_of_rough_tables_do_not_stop_the_fit():
    """A table with independent noise at each node has a kink at every face; the minimum may lie on one."""
    rng = np.random.default_rng(14)
    smooth = np.array([900.0, 9e5, 4e4, 3e3])[:, None] / N_BINS * np.exp(np.linspace(-1, 1, N_BINS))
    smooth[0] = smooth[0, ::-1]
    noise = rng.normal(1.0, 0.003, (*GRID, 4, N_BINS))
    tables = YieldTables(default_axes(), smooth * noise)
    for _ in range(10):
        truth = np.concatenate([[1.0], rng.uniform(-1, 1, 6)])
        likelihood = likelihood_of(tables, rng.poisson(expected(tables, truth)).astype(float))
        result = fit_global(likelihood)
        assert result.converged
        for _ in range(200):
            nearby = result.parameters + rng.normal(0.0, 1e-3, 7)
            nearby[3] = min(nearby[3], math.log(5.0))
            assert likelihood.value(nearby) >= result.value - 1e-9


def test_signal_may_be_negative_but_no_expectation(analytic_tables):
    counts = expected(analytic_tables, np.array([-0.4, 0, 0, 0, 0, 0, 0]))
    interval = measure_interval(likelihood_of(analytic_tables, counts))
    assert interval.fit.mu < 0
    assert interval.low < interval.fit.mu
    assert (likelihood_of(analytic_tables, counts).expected(interval.fit.parameters) > 0).all()


@pytest.mark.parametrize("with_bracket", [False, True])
def test_a_limit_is_where_the_profile_crosses_its_threshold(analytic_tables, monkeypatch, with_bracket):
    if with_bracket:
        monkeypatch.setattr("sage.fit.interval._newton_limit", lambda *_: None)
    rng = np.random.default_rng(16)
    truth = np.array([1.0, 0.5, -0.8, 0.4, 0.3, -0.5, 0.2])
    likelihood = likelihood_of(analytic_tables, rng.poisson(expected(analytic_tables, truth)).astype(float))
    thresholds = np.array([0.0, 1.0, 2.0]), np.array([0.3, 0.5, 1.2])
    plain, interval = measure_interval(likelihood), measure_interval(likelihood, thresholds=thresholds)
    for limit in (interval.low, interval.high):
        rise = fit(likelihood, interval.fit.parameters, fixed_mu=limit).value - interval.fit.value
        assert rise == pytest.approx(np.interp(limit, *thresholds), abs=1e-4)
    assert plain.low < interval.low < interval.fit.mu < plain.high < interval.high
    half = np.array([0.0]), np.array([0.5])
    assert measure_interval(likelihood, thresholds=half).low == pytest.approx(plain.low, abs=1e-6)


def test_newton_and_the_bracket_find_the_same_limits(analytic_tables, monkeypatch, draw_nuisances):
    rng = np.random.default_rng(17)
    for _ in range(10):
        truth = np.concatenate([[rng.uniform(0.1, 3.0)], draw_nuisances(rng)])
        likelihood = likelihood_of(analytic_tables, rng.poisson(expected(analytic_tables, truth)).astype(float))
        by_newton = measure_interval(likelihood)
        with monkeypatch.context() as patch:
            patch.setattr("sage.fit.interval._newton_limit", lambda *_: None)
            bracketed = measure_interval(likelihood)
        for one, other in ((by_newton.low, bracketed.low), (by_newton.high, bracketed.high)):
            assert one == pytest.approx(other, abs=1e-3 * by_newton.fit.sigma_mu)


def test_bound_on_mu_is_kept_and_flagged(analytic_tables):
    counts = expected(analytic_tables, np.array([0.0, 0, 0, 0, 0, 0, 0]))
    interval = measure_interval(likelihood_of(analytic_tables, counts), mu_range=(0.1, 3.0))
    assert interval.fit.mu == 0.1
    assert interval.low == 0.1
    assert "limit_at_bound" in interval.flags


def test_empty_bins_reach_the_edge_of_the_domain(analytic_tables):
    """Without background under the signal the lower limit is where a bin would expect less than nothing."""
    yields = np.zeros_like(analytic_tables.yields)
    yields[..., 0, 0] = 5.0
    yields[..., 1, 1:] = 100.0
    tables = dataclasses.replace(analytic_tables, yields=yields)
    counts = np.full(N_BINS, 100.0)
    counts[0] = 0.0
    interval = measure_interval(likelihood_of(tables, counts))
    assert np.isfinite([interval.low, interval.high, interval.fit.mu]).all()
    assert interval.low <= interval.fit.mu <= interval.high


def check_counts_and_tables(counts, level, seed):
    rng = np.random.default_rng(seed)
    yields = np.exp(rng.normal(level, 1.5, (3, 3, 3, 4, N_BINS)))
    axes = (np.linspace(0.96, 1.04, 3), np.linspace(0.96, 1.04, 3), np.linspace(0.0, 5.0, 3))
    interval = measure_interval(likelihood_of(YieldTables(axes, yields), counts))
    assert np.isfinite([interval.low, interval.high, interval.fit.mu]).all()
    assert interval.low <= interval.fit.mu <= interval.high


test_any_counts_and_any_valid_table_give_a_finite_ordered_interval, test_more_counts_and_tables = few_and_many(
    check_counts_and_tables,
    (15, 150),
    counts=arrays(np.float64, N_BINS, elements=st.floats(0, 1e7, allow_subnormal=False)),
    level=st.floats(-6, 6),
    seed=st.integers(0, 1000),
)
