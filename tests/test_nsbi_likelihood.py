"""Mixture, interpolation and unbinned likelihood, against derivatives taken numerically and problems solved exactly."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from examples.interference.gaussian import GaussianAmplitudes
from nsbi import mixture as mixtures
from nsbi.fitting import Spurious, best_fit, impacts, interval, t_at
from nsbi.interpolation import interpolation
from nsbi.likelihood import Deviation, MixtureLikelihood, Rows, binned, unbinned
from sage.errors import FitError, InputError, SettingsError

GAUSSIAN = GaussianAmplitudes()
MIXTURES = [mixtures.interference(("other",)), mixtures.samples(), mixtures.effective(), mixtures.plain()]


def differences(function, x, step=1e-4):
    """Return central differences of a function of a vector, first axis its components."""
    return np.array([(function(x + d) - function(x - d)) / (2 * step) for d in step * np.eye(len(x))])


@pytest.mark.parametrize("mixture", MIXTURES)
def test_coefficients_and_their_derivatives(mixture):
    for mu in (0.3, 1.0, 2.7):
        for derivatives, at in ((mixture.coefficients, mixture.strength(mu)), (mixture.at_mu, mu)):
            value, first, second = derivatives(at)
            up, down = derivatives(at + 1e-4)[0], derivatives(at - 1e-4)[0]
            np.testing.assert_allclose(first, (up - down) / 2e-4, atol=1e-7)
            np.testing.assert_allclose(second, (up - 2 * value + down) / 1e-8, atol=1e-5)
    assert mixture.mu(mixture.strength(2.0)) == pytest.approx(2.0)


def test_both_bases_are_the_same_mixture():
    s, i, b = 30.0, -68.9, 196.4
    for mu in (0, 0.3, 1, 4):
        ours = mixtures.interference().at_mu(mu)[0] @ [s, i, b]
        assert mixtures.samples().at_mu(mu)[0] @ [s, s + i + b, b] == pytest.approx(ours)
    assert np.isinf(mixtures.samples().at_mu(0.0)[1]).all()
    assert mixtures.interference(("other",)).at_mu(0.0)[1][[0, 2, 3]] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("mu", [-0.1, -1e-12, math.nan, math.inf])
def test_signal_strengths_without_a_root_are_refused(mu):
    for mixture in (mixtures.interference(), mixtures.samples()):
        with pytest.raises(SettingsError, match="root"):
            mixture.strength(mu)
    if mu > -math.inf and math.isfinite(mu):
        assert mixtures.effective().strength(mu) == mu


def test_yields_that_do_not_add_up_are_refused():
    mixtures.interference().check(GAUSSIAN.yields, GAUSSIAN.yields.sum())
    with pytest.raises(SettingsError, match="add up"):
        mixtures.interference().check(GAUSSIAN.yields, 400.0)


@pytest.mark.parametrize(("up", "down"), [(1.3, 0.9), (0.7, 0.8), (1.0, 1.0), (1.05, 1.08), (3.0, 0.2)])
def test_interpolation(up, down):
    factor = interpolation(np.array([up]), np.array([down]))

    def at(a):
        return np.array([part[0] for part in factor(np.array([a]))])

    assert at(0.0)[0] == 1
    assert (at(1.0)[0], at(-1.0)[0]) == pytest.approx((up, down))
    assert (at(2.5)[0], at(-2.5)[0]) == pytest.approx((up**2.5, down**2.5))
    for end in (-1, 1):
        np.testing.assert_allclose(at(end - 1e-9), at(end + 1e-9), atol=1e-6)
    for a in (-2.0, -0.6, 0.1, 0.9, 1.7):
        np.testing.assert_allclose(at(a)[1:], (at(a + 1e-5) - at(a - 1e-5))[:2] / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bad", [0.0, -0.5, math.nan, math.inf])
def test_variations_that_are_not_positive_are_refused(bad):
    with pytest.raises(InputError, match="not above 0"):
        interpolation(np.array([1.0, bad]), np.ones(2))
    with pytest.raises(InputError, match="not above 0"):
        interpolation(np.ones(2), np.array([1.0, bad]))


def with_nuisances(rng, n=40):
    """Return a likelihood of two regions, one unbinned and one a histogram, with two nuisance parameters."""

    def vary(*shape):
        return interpolation(np.exp(rng.normal(0, 0.2, shape)), np.exp(rng.normal(0, 0.2, shape)))

    mixture = mixtures.interference(("other",))
    ratios = np.exp(rng.normal(0, 0.3, (n, 4)))
    events = unbinned(ratios, np.array([5.0, -3.0, 20.0, 15.0]), None, vary(n, 4, 2), vary(1, 4, 2))
    yields = rng.uniform(1, 9, (6, 4))
    histogram = binned(yields, rng.poisson(yields.sum(axis=1)).astype(float), vary(6, 4, 2))
    nuisances = Deviation("first"), Deviation("second")
    return MixtureLikelihood(mixture, (events, histogram), nuisances, np.array([0.2, -0.4]))


@pytest.mark.parametrize("spurious", [False, True])
def test_derivatives_of_the_likelihood(spurious):
    rng = np.random.default_rng(2)
    objective = with_nuisances(rng)
    points = rng.normal(0, 1.0, (6, 2 + spurious))
    if spurious:
        objective = Spurious(objective, np.array([0.1, -0.05, 0.02]))
    for alphas in points:
        x = np.concatenate([[rng.uniform(0, 2)], alphas])
        point = objective.evaluate(x)
        assert point.value == pytest.approx(objective.value(x), rel=1e-12)
        np.testing.assert_allclose(point.gradient, differences(objective.value, x), rtol=1e-5, atol=1e-5)
        slopes = differences(lambda x: objective.evaluate(x).gradient, x)
        np.testing.assert_allclose(point.hessian, slopes, rtol=1e-5, atol=1e-4)
        assert (np.linalg.eigvalsh(point.fisher) > -1e-9).all()
    moved = objective.centred(objective.centres + 1)
    assert moved.value(x) != objective.value(x)
    np.testing.assert_allclose(moved.centres, objective.centres + 1)


def test_without_nuisances_it_is_the_same():
    rng = np.random.default_rng(3)
    full = with_nuisances(rng)
    bare = tuple(
        replace(c, observed=replace(c.observed, factors=()), expected=replace(c.expected, factors=()))
        for c in full.channels
    )
    plain = MixtureLikelihood(full.mixture, bare)
    full = replace(full, centres=np.zeros(2))
    for s in (0.0, 0.7, 1.9):
        ours, theirs = plain.evaluate(np.array([s])), full.evaluate(np.array([s, 0.0, 0.0]))
        assert ours.value == pytest.approx(theirs.value)
        assert ours.gradient[0] == pytest.approx(theirs.gradient[0])
        assert ours.hessian[0, 0] == pytest.approx(theirs.hessian[0, 0])


def exact(problem, x, alpha_nuisance=False):
    """Return the likelihood of events with the exact ratio to S + B, as a user would write it."""
    densities = problem.components(x)
    ratios = densities / densities[:, [0, 2]].sum(axis=1, keepdims=True)
    if not alpha_nuisance:
        return MixtureLikelihood(mixtures.interference(), (unbinned(ratios, problem.yields),))
    up, down = (problem.components(x, sign) / densities for sign in (1.0, -1.0))
    channel = unbinned(ratios, problem.yields, None, interpolation(up[..., None], down[..., None]))
    return MixtureLikelihood(mixtures.interference(), (channel,), (Deviation("position"),))


def expected_data(alpha_nuisance=False):
    """Return the likelihood of the expected data of the Gaussian problem at mu = 1."""
    u = np.linspace(-10, 12, 4001)[:, None]
    likelihood = exact(GAUSSIAN, u, alpha_nuisance)
    weights = GAUSSIAN.components(u).sum(axis=1) * (u[1, 0] - u[0, 0])
    return replace(likelihood, channels=(replace(likelihood.channels[0], weights=weights),))


def test_expected_data_of_the_gaussian_problem():
    likelihood = expected_data()
    best = best_fit(likelihood)
    assert best.mu == pytest.approx(1.0, abs=1e-6)
    # sigma(mu) = 2 s sigma(s); 0.2149 is the spec's.
    assert 2 * best.sigma_mu == pytest.approx(0.2149, abs=1e-4)
    for mu, t in ((0, 61.153), (0.25, 21.810), (2, 14.443), (4, 81.600)):
        assert t_at(likelihood, best, mu) == pytest.approx(t, abs=1e-3)


def test_expected_data_with_a_nuisance():
    """The exact effect is exp(linear - quadratic), the interpolation's goes through its values at +-1."""
    likelihood = expected_data(alpha_nuisance=True)
    # Without the integral of what is interpolated the nuisance looks better known than it is.
    assert math.sqrt(best_fit(likelihood).covariance[1, 1]) < 0.38
    channel = likelihood.channels[0]
    u = np.linspace(-10, 12, 4001)[:, None]
    simulation = Rows(GAUSSIAN.components(u) * (u[1, 0] - u[0, 0]), channel.observed.factors)
    likelihood = replace(
        likelihood,
        channels=(
            unbinned(
                channel.observed.values, GAUSSIAN.yields, channel.weights, *simulation.factors, simulation=simulation
            ),
        ),
    )
    best = best_fit(likelihood)
    np.testing.assert_allclose(best.parameters, [1.0, 0.0], atol=1e-3)
    assert 2 * best.sigma_mu == pytest.approx(0.2188, abs=3e-4)
    assert math.sqrt(best.covariance[1, 1]) == pytest.approx(0.439, abs=2e-3)
    for mu, t in ((0.25, 20.783), (0.5, 7.202), (0.75, 1.505), (1.5, 4.192), (2, 14.154)):
        assert t_at(likelihood, best, mu) == pytest.approx(t, rel=0.01)
    (impact,) = impacts(likelihood.mixture, likelihood, best)
    assert impact.sigma == pytest.approx(0.439, abs=2e-3)
    assert impact.pull == pytest.approx(0, abs=1e-3)

    def lowest(alpha):
        return minimize_scalar(lambda s: likelihood.value(np.array([s, alpha])), bounds=(0.5, 1.5), method="bounded").x

    up, down = (lowest(alpha) for alpha in (0.1 * impact.sigma, -0.1 * impact.sigma))
    assert impact.impact == pytest.approx(10 * (up**2 - down**2) / 2, rel=0.05)


def test_regions_add_their_information():
    """t of expected data in an unbinned region and in a histogram is the sum of both."""
    events = expected_data()
    u = np.linspace(-10, 12, 4001)[:, None]
    densities = GAUSSIAN.components(u) * (u[1, 0] - u[0, 0])
    yields = np.stack([np.bincount(np.digitize(u[:, 0], [-1, 1, 3]), column, 4) for column in densities.T], axis=1)
    histogram = replace(events, channels=(binned(yields, yields.sum(axis=1)),))
    both = replace(events, channels=(*events.channels, *histogram.channels))
    fits = [best_fit(each) for each in (events, histogram, both)]
    for mu in (0, 0.5, 2, 4):
        parts = [t_at(each, best, mu) for each, best in zip((events, histogram, both), fits, strict=True)]
        assert parts[2] == pytest.approx(parts[0] + parts[1], abs=1e-5)
        assert 0 < parts[1] < parts[0]
    information = [1 / best.sigma_mu**2 for best in fits]
    assert information[2] == pytest.approx(information[0] + information[1], rel=1e-6)


def test_pulls_against_another_minimiser():
    objective = with_nuisances(np.random.default_rng(12))
    best = best_fit(objective)
    found = minimize(
        objective.value, best.parameters + 0.05, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}
    )
    slopes = differences(lambda x: objective.evaluate(x).gradient, found.x)
    covariance = np.linalg.inv(slopes)
    for k, impact in enumerate(impacts(objective.mixture, objective, best), start=1):
        assert impact.pull == pytest.approx(found.x[k] - objective.centres[k - 1], abs=1e-4)
        assert impact.sigma == pytest.approx(math.sqrt(covariance[k, k]), rel=1e-3)
        shift = -slopes[0, k] / slopes[0, 0] * math.sqrt(covariance[k, k])
        assert impact.impact == pytest.approx(2 * found.x[0] * shift, rel=1e-2, abs=1e-4)


def test_the_reference_cancels():
    x = GAUSSIAN.sample(np.random.default_rng(5), 400, 1.0)
    ours = exact(GAUSSIAN, x)
    factor = np.exp(np.sin(x[:, :1]))
    channel = ours.channels[0]
    theirs = replace(
        ours, channels=(replace(channel, observed=replace(channel.observed, values=channel.observed.values * factor)),)
    )
    for mu in (0, 0.3, 2, 4):
        assert t_at(ours, best_fit(ours), mu) == pytest.approx(t_at(theirs, best_fit(theirs), mu), abs=1e-9)


def test_many_bins_of_the_ratio_tend_to_the_unbinned_answer():
    u = np.linspace(-10, 12, 40_001)[:, None]
    densities = GAUSSIAN.components(u) * (u[1, 0] - u[0, 0])
    for mu in (0.25, 2.0):
        score = np.log(densities @ [mu, math.sqrt(mu), 1] / densities.sum(axis=1))
        found = []
        for bins in (3, 30, 300):
            cumulated = np.cumsum(densities.sum(axis=1)[np.argsort(score)])
            index = np.empty(len(u), dtype=int)
            index[np.argsort(score)] = np.minimum(bins * cumulated / cumulated[-1], bins - 1).astype(int)
            yields = np.stack([np.bincount(index, column, bins) for column in densities.T], axis=1)
            histogram = MixtureLikelihood(mixtures.interference(), (binned(yields, yields.sum(axis=1)),))
            found.append(t_at(histogram, best_fit(histogram), mu))
        assert found[0] < found[1] < found[2] < GAUSSIAN.expected_t(mu)
        assert found[2] == pytest.approx(GAUSSIAN.expected_t(mu), rel=5e-3)


@pytest.mark.stat
@pytest.mark.parametrize(
    "dimension", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.slow)]
)
def test_pulls_with_exact_ratios(dimension):
    problem, rng = GaussianAmplitudes(dimension), np.random.default_rng(70 + dimension)
    counts = rng.poisson(problem.yields.sum(), 2000)
    pool = problem.sample(rng, int(counts.sum()), 1.0)
    pulls = []
    for x in np.split(pool, np.cumsum(counts)[:-1]):
        best = best_fit(exact(problem, x))
        pulls.append((best.mu - 1) / best.sigma_mu)
    assert np.mean(pulls) == pytest.approx(0, abs=0.05)
    assert np.std(pulls) == pytest.approx(1, abs=0.05)


def test_a_factor_of_one_amplitude_needs_the_interference_as_a_process():
    """The continuum amplitude grows: I by the factor, B by its square. Samples cannot say that, I as a process can."""
    growth = 0.4
    u = np.linspace(-10, 12, 2001)[:, None]
    step = u[1, 0] - u[0, 0]
    s, i, b = (GAUSSIAN.components(u) * step).T
    data = s + math.exp(growth / 2) * i + math.exp(growth) * b
    one, two = np.ones_like(s), math.exp(0.1)
    results = {}
    for mixture, columns, ups in (
        (mixtures.interference(), (s, i, b), (one, one * math.exp(0.05), one * two)),
        (mixtures.samples(), (s, s + i + b, b), (one, (s + math.exp(0.05) * i + two * b) / (s + i + b), one * two)),
    ):
        up = np.stack(ups, axis=1)[..., None]
        down = 1 / up
        if mixture.processes[1] == "SBI":
            down[:, 1, 0] = (s + math.exp(-0.05) * i + b / two) / (s + i + b)
        yields = np.stack(columns, axis=1)
        channel = binned(yields, data, interpolation(up, down))
        # The constraint's centre is the truth, 4 deviations, so that its pull does not bias mu.
        likelihood = MixtureLikelihood(mixture, (channel,), (Deviation("K"),), np.array([4.0]))
        results[mixture.processes[1]] = best_fit(likelihood).parameters
    assert results["I"][0] ** 2 == pytest.approx(1.0, abs=1e-4)
    assert results["I"][1] == pytest.approx(4.0, abs=1e-3)
    assert abs(results["SBI"][0] ** 2 - 1.0) > 0.005


def test_interval_and_speed():
    x = GAUSSIAN.sample(np.random.default_rng(8), 400, 1.0)
    likelihood = exact(GAUSSIAN, x)
    found = interval(likelihood)
    best = found.fit
    for limit in (found.low, found.high):
        assert t_at(likelihood, best, limit) == pytest.approx(1.0, abs=1e-3)
    wider = interval(likelihood, thresholds=(np.array([0.0, 4.0]), np.array([1.0, 1.0])))
    assert wider.low < found.low < best.mu**2 < found.high < wider.high
    with_training = Spurious(likelihood, np.array([0.1, 0.0, 0.0]))
    sigma = best_fit(likelihood, with_training).sigma_mu
    assert sigma == pytest.approx(math.hypot(best.sigma_mu, 0.1), rel=0.01)
    start = time.process_time()
    for _ in range(20):
        best_fit(likelihood)
    assert (time.process_time() - start) / 20 < 0.02


def test_what_is_refused():
    x = GAUSSIAN.sample(np.random.default_rng(9), 50, 1.0)
    ratios = GAUSSIAN.components(x)
    with pytest.raises(InputError, match="reweight a positive sample"):
        unbinned(ratios, GAUSSIAN.yields, -np.ones(50))
    with pytest.raises(InputError, match="finite"):
        unbinned(np.where(ratios > 0, np.nan, ratios), GAUSSIAN.yields)
    with pytest.raises(SettingsError, match="processes"):
        MixtureLikelihood(mixtures.plain(), (unbinned(ratios, GAUSSIAN.yields),))
    with pytest.raises(FitError, match="not positive"):
        best_fit(MixtureLikelihood(mixtures.interference(), (unbinned(-np.abs(ratios), GAUSSIAN.yields),)))
    with pytest.raises(SettingsError, match="coefficients"):
        Spurious(MixtureLikelihood(mixtures.interference(), ()), np.zeros(2))
