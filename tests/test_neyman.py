"""Belts: on a problem whose quantiles are known, and on the Gaussian amplitudes down to mu = 0."""

import math
import time

import numpy as np
import pytest
from scipy.stats import chi2

from examples.interference.gaussian import GaussianAmplitudes
from nsbi import mixture as mixtures
from nsbi.fitting import best_fit, t_at
from nsbi.likelihood import MixtureLikelihood, unbinned
from sage.errors import InputError, SettingsError
from studies.neyman import Belt, Resampler, coverage, make_belt, quantile, toys_at


def parabola(rng, mu):
    """t of one measurement of mu with an error of 0.3, unbounded."""
    return float(rng.normal() ** 2 + 0 * mu)


def bounded(rng, mu):
    """t of one measurement of mu with an error of 1 where mu >= 0: no longer of one degree of freedom near 0."""
    x = mu + rng.normal()
    best = max(0.0, x)
    return (x - mu) ** 2 - (x - best) ** 2


def test_quantiles_of_a_parabola_are_those_of_chi_squared():
    belt = make_belt(parabola, [0.5, 1.0, 2.0], 4000)
    for level, row, error in zip(belt.levels, belt.quantiles, belt.errors, strict=True):
        assert (abs(row - chi2(1).ppf(level)) < 4 * error).all()
    assert not belt.failed.any()


def test_a_belt_covers_at_the_end_of_the_range_where_one_does_not():
    grid = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]
    belt = make_belt(bounded, grid, 4000)
    assert belt.quantiles[0][0] < 0.5  # half of the toys have t = 0 at mu = 0
    for mu in (0.0, 0.1, 0.5, 1.0, 2.0):
        assert coverage(belt, bounded, mu, 4000, seed=9) == pytest.approx(0.6827, abs=0.03)
    ones = Belt(np.array(grid), (0.6827,), np.ones((1, len(grid))), np.zeros((1, len(grid))), 1, np.zeros(len(grid)))
    assert coverage(ones, bounded, 0.0, 4000, seed=9) > 0.8


def test_an_interval_may_have_two_pieces():
    mu = np.linspace(0, 4, 4001)
    t = 4 * ((mu - 1) * (mu - 2.5)) ** 2
    belt = make_belt(lambda rng, mu: abs(rng.normal()), [0.0, 4.0], 2000)
    pieces = belt.intervals(mu, t)
    assert len(pieces) == 2
    for low, high in pieces:
        np.testing.assert_allclose(np.interp([low, high], mu, t), belt.at(np.array([low, high])), atol=0.01)
    assert belt.intervals(mu, np.zeros(len(mu))) == [(0.0, 4.0)]
    assert belt.intervals(mu, np.full(len(mu), 99.0)) == []


def test_a_failed_toy_counts_as_outside():
    belt = make_belt(lambda rng, mu: math.nan if rng.random() < 0.5 else 0.1, [1.0], 100)
    assert belt.failed[0] == pytest.approx(50, abs=20)
    assert belt.quantiles[0][0] == math.inf


def test_bootstrapped_experiments_have_the_moments_of_poisson():
    rng = np.random.default_rng(2)
    weights = rng.uniform(0, 0.2, 200)
    weights[7] = 0.0
    resampler = Resampler.of(weights)
    copies = np.array([np.bincount(resampler.draw(rng), minlength=200) for _ in range(4000)])
    assert not copies[:, 7].any()
    np.testing.assert_allclose(copies.mean(axis=0), weights, atol=4 * math.sqrt(0.2 / 4000))
    np.testing.assert_allclose(copies.var(axis=0), weights, atol=0.03)
    assert copies.sum(axis=1).var() == pytest.approx(weights.sum(), rel=0.12)


@pytest.mark.parametrize("weights", [[1.0, -0.1], [1.0, math.nan], [0.0, 0.0], [], [math.inf]])
def test_weights_that_are_no_copies_are_refused(weights):
    with pytest.raises(InputError, match="positive sample"):
        Resampler.of(np.array(weights, dtype=float))


@pytest.mark.parametrize(("grid", "toys"), [([1.0, 0.5], 10), ([], 10), ([1.0], 0), ([0.0, math.nan], 5), ([1, 1], 5)])
def test_grids_that_are_none_are_refused(grid, toys):
    with pytest.raises(SettingsError, match="increase"):
        make_belt(parabola, grid, toys)


def test_a_belt_goes_on_and_depends_on_no_other_point(tmp_path):
    first = make_belt(parabola, [1.0, 2.0], 50, folder=tmp_path)

    def never(rng, mu):
        raise AssertionError

    again = make_belt(never, [1.0, 2.0], 50, folder=tmp_path)
    np.testing.assert_array_equal(first.quantiles, again.quantiles)
    more = make_belt(parabola, [0.5, 1.0, 2.0], 50, folder=tmp_path)
    np.testing.assert_array_equal(more.quantiles[:, 1:], first.quantiles)
    assert len(make_belt(parabola, [1.0], 60, folder=tmp_path).mu) == 1
    ours = make_belt(parabola, [1.0], 50, folder=tmp_path, identity={"network": 1})
    theirs = make_belt(lambda rng, mu: 7.0, [1.0], 50, folder=tmp_path, identity={"network": 2})
    assert ours.quantiles[0, 0] != theirs.quantiles[0, 0] == 7.0
    np.testing.assert_array_equal(toys_at(parabola, 1.0, 60, 1), np.sort(toys_at(parabola, 1.0, 60, 1)))


def test_a_belt_is_the_same_for_any_number_of_workers(tmp_path):
    mus = [0.0, 0.5, 1.0, 2.0]
    one, other = (make_belt(bounded, mus, 40, folder=tmp_path / str(n), workers=n) for n in (1, 3))
    np.testing.assert_array_equal(one.quantiles, other.quantiles)
    assert len(list((tmp_path / "3").glob("belt_*.json"))) == len(mus)


def test_quantile():
    assert quantile(np.arange(1, 101), 0.68) == 68
    assert quantile(np.arange(1, 101), 0.68, 1) == 73


def gaussian_statistic(mus):
    """Return t of toys bootstrapped from a sample at mu = 1, reweighted to each mu with the exact ratio."""
    problem = GaussianAmplitudes()
    pool = problem.sample(np.random.default_rng(3), 200_000, 1.0)
    densities = problem.components(pool)
    mixture = mixtures.interference()
    resamplers = {}
    for mu in mus:
        weights = densities @ mixture.at_mu(mu)[0] / densities.sum(axis=1)
        resamplers[mu] = Resampler.of(weights * problem.yields.sum() / len(pool))

    def statistic(rng, mu):
        channel = unbinned(densities[resamplers[mu].draw(rng)], problem.yields)
        likelihood = MixtureLikelihood(mixture, (channel,))
        return t_at(likelihood, best_fit(likelihood), mu)

    return statistic


@pytest.mark.slow
@pytest.mark.stat
def test_coverage_of_the_gaussian_amplitudes():
    mus = [0.0, 0.1, 0.5, 1.0, 2.0, 4.0]
    statistic = gaussian_statistic(mus)
    start = time.process_time()
    belt = make_belt(statistic, mus, 4000)
    assert (time.process_time() - start) / (4000 * len(mus)) * 40_000 < 1200  # 20 mu x 2000 toys in 20 minutes
    for mu in mus:
        # The belt's own toys and the new ones both have errors: 0.0104 together.
        assert coverage(belt, statistic, mu, 4000, seed=77) == pytest.approx(0.6827, abs=0.03)
