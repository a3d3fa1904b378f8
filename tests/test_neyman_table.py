"""Intervals from toys: the published table as oracle, and an estimator whose toys are known."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from sage.errors import FitError, SettingsError
from sage.fit.neyman import GRID, POINTS, PRIOR, NeymanTable, make_toys

PUBLISHED_SD = np.array([0.157, 0.204, 0.267, 0.248, 0.244, 0.290, 0.315, 0.294, 0.332, 0.314])
"""sd(mu) of the program published with arXiv:2505.08709, whose official result was 0.497 and 0.670."""
PUBLISHED = NeymanTable(np.array(GRID), 0.987 * np.array(GRID) + 0.053, 0.987 * PUBLISHED_SD)


def direct(table, mu, estimates):
    """Widths and coverage by the running sum of the posterior on the grid, for all estimates at once."""
    grid = np.linspace(0.0, 3.0, 1000)
    slope, offset = table.line
    centres = (estimates - offset) / slope
    posterior = np.exp(-0.5 * ((centres[:, None] - grid) / table.width(grid)) ** 2)
    share = np.cumsum(posterior, axis=1)
    share /= share[:, -1:]
    low, high = (grid[np.argmax(share >= quantile, axis=1)] for quantile in (0.16, 0.84))
    return high - low, (low <= mu) & (mu <= high)


def estimates_of(table, mu, rng):
    """What the estimator of a table gives at signal strengths (n,)."""
    slope, offset = table.line
    return slope * rng.normal(mu, table.width(mu)) + offset


def test_the_published_table_gives_its_widths_and_coverage():
    """At mu = 0.1, 0.2, ... 3, each as often; the ends, where coverage is .72 and 0, count as others do."""
    rng = np.random.default_rng(1)
    mu = np.tile(np.linspace(0.1, 3.0, 30), 2000)
    widths, covered = direct(PUBLISHED, mu, estimates_of(PUBLISHED, mu, rng))
    assert widths.mean() == pytest.approx(0.486, abs=0.002)
    assert covered.mean() == pytest.approx(0.678, abs=0.005)
    assert not covered[mu == 3.0].any()


def test_the_published_table_gives_about_the_official_result():
    """Official were 0.4974 and 0.6698, of few true mu and with the systematics that the toys lack."""
    rng = np.random.default_rng(1)
    mu = rng.uniform(0.1, 3.0, 20_000)
    estimates = estimates_of(PUBLISHED, mu, rng)
    widths, covered = direct(PUBLISHED, mu, estimates)
    assert widths.mean() == pytest.approx(0.497, abs=0.01)
    assert covered.mean() == pytest.approx(0.670, abs=0.025)
    # What the program of the authors gives for its own table, by mu.
    for centre, width in zip(
        (0.1, 0.5, 0.9, 1.3, 1.7, 2.1, 2.5, 2.9), (0.32, 0.42, 0.47, 0.53, 0.55, 0.57, 0.54, 0.40), strict=True
    ):
        near = np.abs(mu - centre) < 0.05
        assert widths[near].mean() == pytest.approx(width, abs=0.015)
    few = slice(0, 2000)
    found = np.array([PUBLISHED.interval(estimate)[1:] for estimate in estimates[few]])
    np.testing.assert_allclose(found[:, 1] - found[:, 0], widths[few], atol=2 * 3.0 / POINTS)
    assert ((found[:, 0] <= mu[few]) & (mu[few] <= found[:, 1]) == covered[few]).mean() > 0.99


def test_line_and_width():
    slope, offset = PUBLISHED.line
    assert (slope, offset) == pytest.approx((0.987, 0.053))
    assert PUBLISHED.corrected(1.04) == pytest.approx(1.0)
    np.testing.assert_allclose(PUBLISHED.width(np.array(GRID)), PUBLISHED_SD)
    np.testing.assert_allclose(PUBLISHED.width(np.array([-1.0, 9.0])), PUBLISHED_SD[[0, -1]])


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("estimate", [-1.0, 0.2, 1.5, 2.9, 5.0])
def test_limits_are_quantiles_of_the_posterior(estimate, normalised):
    """Of one width they are those of a truncated normal; where the centre is outside the median stands for it."""
    table = NeymanTable(np.array([0.0, 3.0]), np.array([0.1, 2.8]), np.array([0.18, 0.18]))
    centre, sd = (estimate - 0.1) / 0.9, 0.2
    between = norm.cdf(np.array(PRIOR), centre, sd)
    share = between[0] + np.array([0.16, 0.84]) * np.diff(between)
    mu, low, high = table.interval(estimate, normalised=normalised)
    if np.diff(between)[0] > 1e-3:
        np.testing.assert_allclose([low, high], norm.ppf(share, centre, sd), atol=2 * 3.0 / POINTS)
    assert PRIOR[0] <= low < mu < high <= PRIOR[1]
    if low < centre < high:
        assert mu == pytest.approx(centre)


def test_dividing_by_the_width_moves_the_interval_down_where_the_width_grows():
    table = NeymanTable(np.array([0.0, 3.0]), np.array([0.0, 3.0]), np.array([0.1, 0.6]))
    plain, normalised = (table.interval(1.5, normalised=choice)[1:] for choice in (False, True))
    assert normalised[0] < plain[0]
    assert normalised[1] < plain[1]


def test_toys_make_the_table():
    """An estimator with a known line and width; a tenth of its toys fail."""

    def estimate(rng, mu):
        value = 0.05 + 0.9 * mu + (0.2 + 0.05 * mu) * rng.normal()
        return math.nan if rng.random() < 0.1 else value

    done = []
    table = NeymanTable.of(GRID, make_toys(estimate, GRID, 3000, seed=1, each=done.append))
    assert done == list(GRID)
    grid = np.array(GRID)
    error = (0.2 + 0.05 * grid) / math.sqrt(2700)
    assert (np.abs(table.mean - 0.05 - 0.9 * grid) < 4 * error).all()
    assert (np.abs(table.sd - 0.2 - 0.05 * grid) < 4 * error / math.sqrt(2)).all()
    again, other = (NeymanTable.of(GRID, make_toys(estimate, GRID, 3000, seed)) for seed in (1, 2))
    np.testing.assert_array_equal(again.mean, table.mean)
    assert (other.mean != table.mean).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: NeymanTable(np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([0.1, 0.0])),
        lambda: NeymanTable(np.array([0.0, 1.0]), np.array([0.0, math.nan]), np.array([0.1, 0.1])),
        lambda: NeymanTable(np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.array([0.1, 0.1])),
        lambda: NeymanTable(np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([0.1, 0.1])),
        lambda: NeymanTable(np.array([0.0]), np.array([1.0]), np.array([0.1])),
        lambda: NeymanTable(np.array([0.0, 1.0]), np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.1])),
        lambda: make_toys(lambda rng, mu: math.nan, GRID, 30, 1),
        lambda: make_toys(lambda rng, mu: rng.normal(), GRID, 3, 1),
    ],
)
def test_unusable_tables_are_refused(make):
    with pytest.raises(SettingsError, match=r"mu"):
        make()


def test_an_estimate_that_is_no_number_is_refused():
    with pytest.raises(FitError, match="nan"):
        PUBLISHED.interval(math.nan)
