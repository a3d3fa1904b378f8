"""The fit against the published recipe: never a higher minimum, the same limits, and much faster."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sage.challenge.nuisances import CHALLENGE
from sage.files.bundle import read_bundle
from sage.fit.interval import measure_interval
from sage.fit.published import published_interval
from sage.measurement import fit_interval, likelihood_of
from tests.events import FIVE_WEIGHTS

BUNDLE = read_bundle(FIVE_WEIGHTS)


def toy(rng):
    nus = [np.clip(rng.normal(), *nuisance.nu_range) for nuisance in CHALLENGE]
    bare = likelihood_of(np.zeros(BUNDLE.regions.n_bins), BUNDLE)
    expected = bare.expected(np.array([rng.uniform(0.5, 2.0), *nus]))
    return likelihood_of(rng.poisson(expected).astype(float), BUNDLE)


def compare(likelihood, **options) -> float:
    """Check one toy; return how many times as long the recipe took."""
    clock = time.process_time()
    ours = measure_interval(likelihood)
    between = time.process_time()
    theirs = published_interval(likelihood, **options)
    after = time.process_time()
    assert ours.fit.value <= theirs.fit.value + 1e-3
    if not theirs.flags:
        sigma = ours.fit.sigma_mu
        assert ours.fit.mu == pytest.approx(theirs.fit.mu, abs=0.01 * sigma)
        assert ours.low == pytest.approx(theirs.low, abs=0.01 * sigma)
        assert ours.high == pytest.approx(theirs.high, abs=0.01 * sigma)
    return (after - between) / (between - clock)


def test_one_toy_against_the_recipe_with_short_annealing():
    assert compare(toy(np.random.default_rng(41)), annealing_iterations=20) > 20


@pytest.mark.slow
def test_twenty_toys_against_the_recipe():
    rng = np.random.default_rng(42)
    ratios = [compare(toy(rng)) for _ in range(20)]
    assert np.median(ratios) > 100


def test_the_setting_chooses_the_recipe_and_the_seeds_are_fixed(monkeypatch):
    likelihood = toy(np.random.default_rng(43))
    called = []
    monkeypatch.setattr("sage.measurement.published_interval", lambda given: called.append(given) or "interval")
    assert fit_interval(likelihood, BUNDLE.settings | {"profile": "published"}) == "interval"
    assert called == [likelihood]
    one, other = (published_interval(likelihood, points=21, annealing_iterations=3) for _ in range(2))
    assert (one.low, one.fit.mu, one.high) == (other.low, other.fit.mu, other.high)


def test_a_limit_beyond_the_scan_comes_from_the_parabola():
    bare = likelihood_of(np.zeros(BUNDLE.regions.n_bins), BUNDLE)
    counts = bare.expected(np.array([0.1, *np.zeros(6)]))
    interval = published_interval(likelihood_of(counts, BUNDLE), points=31, annealing_iterations=3)
    assert interval.flags == ("limit_from_parabola",)
    assert interval.low < 0 < interval.fit.mu < interval.high
