"""Data that the templates do not describe: intervals that grow with the misfit, or a wide answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from model import Model
from sage.binned.statistic import with_counts
from sage.challenge.nuisances import CHALLENGE
from sage.errors import FitError
from sage.files.bundle import read_bundle
from sage.fit.interval import AT_BOUND, measure_interval
from sage.fit.misfit import CHANCE, HOPELESS, expected_sigma, widened, worst_value
from sage.likelihood import Likelihood
from sage.measurement import FALLBACK_HALF_WIDTH, fit_interval, likelihood_of
from sage.submission import WEIGHTS
from tests.events import DATA, DATA_FILE, FIVE_WEIGHTS

EXPECTED_EVENTS = 946_000


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(FIVE_WEIGHTS)


@pytest.fixture(scope="module")
def empty(bundle):
    return likelihood_of(np.zeros(bundle.regions.n_bins), bundle)


def drawn(empty, rng, distortion):
    """Return a true mu and the likelihood of counts whose expectation is off by a random factor in every bin."""
    mu = rng.uniform(0.1, 3.0)
    nus = [float(np.clip(rng.normal(), *nuisance.nu_range)) for nuisance in CHALLENGE]
    expected = empty.expected(np.array([mu, *nus]))
    factors = np.maximum(1.0 + distortion * rng.normal(size=len(expected)), 0.0)
    return mu, with_counts(empty, rng.poisson(expected * factors).astype(float))


@pytest.mark.stat
@pytest.mark.parametrize("distortion", [0.05, 0.1])
def test_intervals_hold_the_truth_although_the_templates_do_not_fit(empty, bundle, distortion):
    rng = np.random.default_rng(11)
    covered, covered_without = [], []
    for _ in range(80):
        mu, likelihood = drawn(empty, rng, distortion)
        plain, interval = measure_interval(likelihood), fit_interval(likelihood, bundle.settings)
        assert interval.fit.mu == plain.fit.mu
        assert any(flag.startswith("poor_fit") for flag in interval.flags) == (interval.high > plain.high)
        covered.append(interval.low <= mu <= interval.high)
        covered_without.append(plain.low <= mu <= plain.high)
    # 80 toys of coverage 0.68 have a standard deviation of 0.05.
    assert np.mean(covered) > 0.68 - 0.15
    assert np.mean(covered) > np.mean(covered_without) + 0.08


def distorted(distort):
    """Return the likelihood of the shipped templates' expected counts, changed, and their settings."""
    shipped = read_bundle(WEIGHTS)
    empty = likelihood_of(np.zeros(shipped.regions.n_bins), shipped)
    counts = np.round(empty.expected(np.array([1.0, *np.zeros(6)])))
    distort(counts)
    return with_counts(empty, counts), shipped.settings


def emptied(counts):
    counts[-10:] = 0


def full(counts):
    counts[:5] *= 1.2


def full_and_emptied(counts):
    counts[-5:] = 0
    counts[:5] *= 1.2


@pytest.mark.parametrize(("distort", "at_bound"), [(emptied, True), (full, False), (full_and_emptied, True)])
def test_what_no_signal_strength_describes_gets_a_wide_interval(distort, at_bound):
    """A bin that would expect less than nothing ends the fit; where it does must not pass for a limit."""
    likelihood, settings = distorted(distort)
    interval = fit_interval(likelihood, settings)
    assert any(flag.startswith("poor_fit") for flag in interval.flags)
    assert (AT_BOUND in interval.flags) == at_bound
    assert min(interval.high - interval.fit.mu, interval.fit.mu - interval.low) > 2 * expected_sigma(likelihood)


def test_what_is_even_further_off_gets_none():
    def fuller(counts):
        counts[:5] *= 1.3

    with pytest.raises(FitError, match="no step of the fit gave an interval"):
        fit_interval(*distorted(fuller))


@pytest.mark.stat
def test_good_fits_are_left_alone(empty, bundle):
    rng = np.random.default_rng(12)
    for _ in range(20):
        _, likelihood = drawn(empty, rng, 0.0)
        plain, interval = measure_interval(likelihood), fit_interval(likelihood, bundle.settings)
        assert (interval.low, interval.high, interval.flags) == (plain.low, plain.high, ())


def test_the_width_sets_in_continuously(empty, bundle):
    """The same counts, ever further from the templates: no step of the width where the misfit begins to show."""
    rng = np.random.default_rng(13)
    expected = empty.expected(np.array([1.0, *np.zeros(6)]))
    pattern = rng.normal(size=len(expected))
    ratios = []
    for distortion in np.linspace(0.0, 0.06, 25):
        likelihood = with_counts(empty, expected * (1.0 + distortion * pattern))
        plain, interval = measure_interval(likelihood), fit_interval(likelihood, bundle.settings)
        ratios.append((interval.high - interval.low) / (plain.high - plain.low))
    assert ratios[0] == 1.0
    assert ratios[-1] > 1.5
    assert (np.diff(ratios) >= -1e-9).all()
    assert np.diff(ratios).max() < 0.3


def test_the_scale_is_the_stated_one(empty):
    likelihood = with_counts(empty, 1.05 * empty.expected(np.array([1.0, *np.zeros(6)])))
    plain = measure_interval(likelihood)
    free, twice = likelihood.degrees, 2 * plain.fit.value
    assert free == likelihood.statistic.terms - 1
    assert worst_value(likelihood) == 0.5 * HOPELESS * free
    scale = np.sqrt(1.0 + max(0.0, twice - free - CHANCE * np.sqrt(2 * free)) / free)
    found = widened(plain, likelihood)
    assert found.high - plain.fit.mu == pytest.approx(scale * (plain.high - plain.fit.mu), rel=1e-12)


def heavy_sample(events, rows):
    """The first rows of the embedded events, which stand for a whole pseudo-experiment."""
    frame = events.head(rows)
    weights = frame["weights"].to_numpy(np.float64)
    return {"data": frame, "weights": weights * (EXPECTED_EVENTS / weights.sum())}


CASES = {
    "a thousand heavy rows": lambda events: heavy_sample(events, 1000),
    "every row counts once": lambda events: {"data": events.head(60_000), "weights": np.ones(60_000)},
    "half of the expected events": lambda events: {
        "data": events,
        "weights": 0.5 * EXPECTED_EVENTS * events["weights"] / events["weights"].sum(),
    },
    "taus 20 % too hard": lambda events: {
        **heavy_sample(events.assign(PRI_had_pt=events["PRI_had_pt"] * np.float32(1.2)), len(events))
    },
    "one event": lambda events: {"data": events.head(1), "weights": np.ones(1)},
}


MOST_CALLS = 3000
"""Of the likelihood: these take 430 to 1560, and 5600 to 11600 where every step of the fit is tried."""


def counted(function, calls):
    """The function, which notes that it was called: work, unlike time, is the same on every machine."""
    return lambda *given: calls.append(1) or function(*given)


@pytest.mark.parametrize("name", list(CASES))
def test_what_nothing_describes_gets_a_wide_answer_soon(name, monkeypatch):
    model = Model(threads=1)
    test_set = CASES[name](pd.read_parquet(DATA / DATA_FILE))
    calls = []
    for name in ("value", "evaluate"):
        monkeypatch.setattr(Likelihood, name, counted(getattr(Likelihood, name), calls))
    answer = model.predict(test_set)
    assert len(calls) < MOST_CALLS, len(calls)
    result = model.last_result
    assert result.status == "fallback"
    assert "nll" in result.flags[0]
    assert answer["delta_mu_hat"] == pytest.approx(FALLBACK_HALF_WIDTH)


def test_a_moderate_misfit_is_measured_widely():
    model = Model(weights=FIVE_WEIGHTS, threads=1)
    model.predict(heavy_sample(pd.read_parquet(DATA / DATA_FILE), 60_000))
    result = model.last_result
    assert result.status == "flagged"
    assert result.flags[0].startswith("poor_fit: 2 nll = ")
    assert result.delta_mu_hat > FALLBACK_HALF_WIDTH
