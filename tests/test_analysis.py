"""The analysis of toys against scipy, and thresholds against a statistic with known quantiles."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.scores import ONE_SIGMA, coverage_penalty, quantiles_score
from sage.challenge.nuisances import NAMES
from studies.analysis import analyse, binomial_error, flat_band, fraction, pull_of, uniformity
from studies.thresholds import Thresholds, compare, corrected_widths, thresholds_from
from studies.toy_report import as_text

SIGMA = 0.3


def gaussian_toys(n=4000, seed=1, shift=0.0, narrow=1.0, mus=(0.5, 2.0)):
    """Toys of a Gaussian measurement; ``shift`` biases estimates, ``narrow`` scales the uncertainties claimed."""
    rng = np.random.default_rng(seed)
    mu = np.resize(mus, n)
    error = rng.normal(size=n) + shift
    frame = pd.DataFrame({"number": np.arange(n), "mu": mu, "mu_hat": mu + SIGMA * error, "sigma_mu": SIGMA * narrow})
    frame["p16"], frame["p84"] = frame["mu_hat"] - SIGMA * narrow, frame["mu_hat"] + SIGMA * narrow
    for name in NAMES:
        frame[f"true_{name}"] = rng.normal(size=n)
        frame[f"fit_{name}"] = frame[f"true_{name}"] + 0.2 * rng.normal(size=n)
        frame[f"sigma_{name}"] = 0.2
    frame["nll"] = stats.chi2(48).rvs(n, random_state=rng) / 2
    frame["rise"] = 0.5 * (error / narrow) ** 2
    frame["degrees"] = 48
    frame["status"], frame["flags"] = "ok", ""
    return frame


@pytest.mark.stat
def test_right_toys_raise_no_alarm():
    found = analyse(gaussian_toys())
    assert found.alarms == []
    assert found.failed == found.flagged == 0
    assert len(found.groups) == 2
    assert found.rms == pytest.approx(SIGMA, rel=0.05)
    assert found.slope == pytest.approx(1.0, abs=0.03)


@pytest.mark.stat
@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"shift": 0.3}, {"pull mean of mu"}),
        ({"narrow": 0.8}, {"pull width of mu", "coverage", "p-values of -2 ln lambda(mu)"}),
    ],
)
def test_wrong_toys_raise_the_right_alarms(wrong, names):
    assert names <= {check.name for check in analyse(gaussian_toys(**wrong)).alarms}


def test_numbers_are_those_of_numpy_and_the_official_score():
    frame = gaussian_toys(500)
    found = analyse(frame)
    inside = (frame.p16 <= frame.mu) & (frame.mu <= frame.p84)
    assert found.coverage.value == inside.mean()
    assert found.score == pytest.approx(quantiles_score(2 * SIGMA, inside.mean(), 500))
    pulls = (frame.mu_hat - frame.mu) / SIGMA
    assert found.pulls["mu"].mean == pytest.approx(pulls.mean())
    assert found.pulls["mu"].width == pytest.approx(pulls.std(ddof=1))
    assert "soft_met" not in found.pulls
    half = frame[frame.mu == 0.5]
    assert found.groups[0].bias == pytest.approx((half.mu_hat - 0.5).mean())
    assert found.groups[0].rms == pytest.approx(np.sqrt(((half.mu_hat - 0.5) ** 2).mean()))


@pytest.mark.parametrize(("k", "n"), [(0, 20), (20, 20), (683, 1000), (1, 3)])
def test_fraction_against_scipy(k, n):
    found = fraction(k, n)
    exact = stats.binomtest(k, n).proportion_ci(ONE_SIGMA, method="exact")
    if 0 < k < n:
        assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert found.low <= found.value <= found.high


def test_uniformity_against_its_definition():
    values = np.sort(np.random.default_rng(2).uniform(size=50) ** 1.3)
    steps = np.arange(51) / 50
    distance = max(np.max(steps[1:] - values), np.max(values - steps[:-1]))
    found = uniformity(values)
    assert found.distance == pytest.approx(distance)
    assert found.p_value == pytest.approx(stats.kstwo.sf(distance, 50))
    assert math.isnan(uniformity(np.empty(0)).p_value)


def test_the_band_is_where_the_challenge_has_no_penalty():
    for n in (100, 10000):
        low, high = flat_band(n)
        assert coverage_penalty(low + 1e-9, n) == coverage_penalty(high - 1e-9, n) == 1.0
        assert coverage_penalty(low - 1e-3, n) > 1.0
        assert coverage_penalty(high + 1e-3, n) > 1.0
        assert binomial_error(n) == pytest.approx(stats.binom(n, ONE_SIGMA).std() / n)


def test_failed_toys_count_as_not_covering_and_in_nothing_else():
    frame = gaussian_toys(200)
    numbers = ["mu_hat", "p16", "p84", "rise", "nll"]
    frame.loc[:49, numbers] = np.nan
    frame.loc[:49, "status"], frame.loc[:49, "flags"] = "failed", "LinAlgError()"
    frame.loc[60, ["status", "flags"]] = "flagged", "limit_at_bound"
    found = analyse(frame)
    rest = analyse(frame[50:].reset_index(drop=True))
    assert (found.failed, found.flagged) == (50, 1)
    assert found.flags == {"LinAlgError()": 50, "limit_at_bound": 1}
    assert found.coverage.k == rest.coverage.k
    assert found.coverage.n == 200
    assert found.pulls == rest.pulls
    assert found.interval == rest.interval
    assert "50 failed" in as_text(found)


@pytest.mark.parametrize(("n", "allowed"), [(80, 1), (1000, 3), (10_000, 10), (24_000, 24)])
def test_one_of_a_thousand_fits_may_need_a_later_step_and_few_toys_one_more(n, allowed):
    frame = gaussian_toys(n)
    for later, alarm in ((allowed, False), (allowed + 1, True)):
        frame.loc[: later - 2, ["status", "flags"]] = "flagged", "fit_by_damped; newton: LinAlgError"
        frame.loc[later - 1, ["status", "flags"]] = "failed", "FitError()"
        found = analyse(frame)
        assert found.later_steps == later
        assert ("fits not by the first step" in {check.name for check in found.alarms}) == alarm
        assert f"fits not by the first step: {later}" in as_text(found)


def test_a_nuisance_at_its_bound_has_no_pull():
    frame = gaussian_toys(100)
    frame.loc[:9, "sigma_jes"] = 0.0
    found = analyse(frame)
    assert found.at_bound["jes"] == 0.1
    assert found.pulls["jes"].n == 90


def test_one_toy_gives_no_width_and_many_mus_are_grouped():
    assert math.isnan(pull_of(np.array([1.0])).width)
    frame = gaussian_toys(300, mus=np.linspace(0.1, 3.0, 300))
    assert len(analyse(frame).groups) == 10
    assert sum(group.coverage.n for group in analyse(frame).groups) == 300


@pytest.mark.stat
def test_rebuilding_repairs_intervals_that_are_too_narrow():
    """Claimed uncertainties of 0.8 need a rise of 0.5 / 0.8^2."""
    made = gaussian_toys(20000, seed=5, narrow=0.8)
    thresholds = thresholds_from(made)
    np.testing.assert_array_equal(thresholds.mu, [0.5, 2.0])
    wanted = stats.chi2(1).ppf(ONE_SIGMA) / 2 / 0.8**2
    assert (np.abs(thresholds.delta_nll - wanted) < 4 * thresholds.error).all()
    assert (thresholds.error > 0).all()
    *_, everything = compare(gaussian_toys(8000, seed=6, narrow=0.8), thresholds)
    assert everything.coverage.value < 0.6
    assert everything.corrected_coverage.value == pytest.approx(ONE_SIGMA, abs=4 * binomial_error(8000) + 0.01)
    assert everything.corrected_interval == pytest.approx(2 * SIGMA, rel=0.02)


def test_corrected_widths_follow_the_threshold():
    frame = pd.DataFrame({"mu_hat": [1.0, 2.0], "p16": [0.7, 1.9], "p84": [1.4, 2.1]})
    for level in (0.5, 0.3, 1.0):
        flat = Thresholds(np.array([0.0, 3.0]), np.full(2, level), np.zeros(2), np.ones(2, int))
        np.testing.assert_allclose(
            corrected_widths(frame, flat), (frame.p84 - frame.p16) * math.sqrt(2 * level), rtol=2e-3
        )
    rising = Thresholds(np.array([0.0, 2.0]), np.array([0.5, 1.5]), np.zeros(2), np.ones(2, int))
    upper = corrected_widths(frame[:1], rising)[0]
    assert 0.7 * math.sqrt(2 * 0.75) < upper < 0.7 * math.sqrt(2 * 1.5)
