"""Belts of an estimator: against a scan of the signal strength, and coverage where a posterior has none."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from sage.errors import FitError, SettingsError
from sage.fit.belt import LEVELS, TAIL, CentralBelt
from sage.fit.neyman import NeymanTable, make_toys

GRID = (0.0, 0.5, 1.0, 2.0, 3.5)
MU = np.array(GRID)
EXACT = CentralBelt(MU, 0.1 + 0.9 * MU + (0.3 + 0.1 * MU) * norm.ppf(LEVELS)[:, None])
"""Of a Gaussian estimator with a line and a width that grows."""


def skew(rng, mu):
    """An estimator with a long tail to small values, a bias, and a width that grows."""
    return 0.9 * mu - 0.1 + (0.2 + 0.05 * mu) * (rng.normal() - rng.exponential())


def scanned(belt, estimate):
    """Ends of the accepted region and the mu of the median, by looking at every mu within the grid."""
    mu = np.linspace(0.0, 3.5, 35_001)
    low, median, high = (np.interp(mu, belt.mu, row) for row in belt.quantiles)
    accepted = mu[(low <= estimate) & (estimate <= high)]
    return mu[np.argmin(np.abs(median - estimate))], accepted[0], accepted[-1]


@pytest.mark.parametrize("estimate", [0.9, 1.3, 1.9])
def test_the_interval_is_the_accepted_region(estimate):
    np.testing.assert_allclose(EXACT.interval(estimate), scanned(EXACT, estimate), atol=2e-4)


@pytest.mark.parametrize("estimate", [-1.5, 6.0])
def test_beyond_the_grid_limits_go_on_along_the_line(estimate):
    median, low, high = EXACT.interval(estimate)
    assert median == pytest.approx((estimate - 0.1) / 0.9)
    end = 0 if estimate < 0 else -1
    for limit, row in ((low, EXACT.quantiles[2]), (high, EXACT.quantiles[0])):
        assert limit == pytest.approx(MU[end] + (estimate - row[end]) / 0.9)
    assert low < median < high


def test_a_skew_estimator_is_covered_at_every_mu_of_the_grid_and_a_posterior_does_not():
    found = make_toys(skew, GRID, 8000, seed=1)
    belt, table = CentralBelt.of(GRID, found), NeymanTable.of(GRID, found)
    rng = np.random.default_rng(7)
    error = math.hypot(1.0, 1.2) * math.sqrt(0.6827 * 0.3173 / 4000)
    for mu in (0.0, 0.1, 1.5, 3.0):
        intervals = [belt.interval(skew(rng, mu)) for _ in range(4000)]
        covered = np.mean([low <= mu <= high for _, low, high in intervals])
        assert covered == pytest.approx(1.0 - 2.0 * TAIL, abs=4 * error)
        assert np.mean([median < mu for median, _, _ in intervals]) == pytest.approx(0.5, abs=0.05)
    for mu in (0.0, 3.0):
        intervals = [table.interval(skew(rng, mu)) for _ in range(1000)]
        assert np.mean([low <= mu <= high for _, low, high in intervals]) < 0.4


def test_quantiles_of_few_toys_do_not_fall_and_those_that_rise_stay():
    few = [np.array([0.0, 1.0, 2.0]) + shift for shift in (0.0, 1.0, 0.6, 2.0)]
    belt = CentralBelt.of((0.0, 1.0, 2.0, 3.0), few)
    np.testing.assert_allclose(belt.quantiles[1], [1.0, 1.8, 1.8, 3.0])
    np.testing.assert_allclose(CentralBelt.of((0.0, 1.0), few[:2]).quantiles[:, 0], np.quantile(few[0], LEVELS))


@pytest.mark.parametrize(
    ("mu", "quantiles"),
    [
        (MU[::-1], EXACT.quantiles),
        (MU, EXACT.quantiles[:2]),
        (MU, EXACT.quantiles[::-1]),
        (MU, EXACT.quantiles[:, ::-1]),
        (MU, np.full((3, 5), math.nan)),
        (MU[:1], EXACT.quantiles[:, :1]),
    ],
)
def test_unusable_belts_are_refused(mu, quantiles):
    with pytest.raises(SettingsError, match="make more toys"):
        CentralBelt(mu, quantiles)


def test_an_estimate_that_is_no_number_is_refused():
    with pytest.raises(FitError, match="inf"):
        EXACT.interval(math.inf)
