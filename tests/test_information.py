"""The estimate of the information on mu against closed forms."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from training.information import Sample, information

SIGNAL, BACKGROUND, DISTANCE = 400.0, 20_000.0, 2.0


def gaussian_sample(rows, seed, rows_of_shower=1):
    """Signal and background, normal in one variable with means DISTANCE apart; weights vary."""
    rng = np.random.default_rng(seed)
    showers = np.repeat(np.arange(rows), rows_of_shower)
    signal = (np.arange(rows) % 2 == 0)[showers]
    weights = rng.exponential(size=rows)[showers]
    for kind, total in ((signal, SIGNAL), (~signal, BACKGROUND)):
        weights[kind] *= total / weights[kind].sum()
    x = rng.normal(size=rows)[showers] + np.where(signal, DISTANCE, 0.0)
    everything = {"all": np.ones(len(x), dtype=bool)}
    return Sample(weights, signal, showers, everything), x


def exact():
    """Integral of S^2 / (S + B) over the variable."""

    def density(x):
        s, b = SIGNAL * norm.pdf(x, DISTANCE), BACKGROUND * norm.pdf(x)
        return s * s / (s + b)

    return quad(density, -8.0, 12.0)[0]


def test_information_of_normal_variables_is_the_integral():
    found = information(*gaussian_sample(200_000, 1), seed=1)["all"]
    assert 0.93 * exact() < found.value < exact() + 2 * found.error
    assert 0.005 < found.error / found.value < 0.05


def test_the_error_is_that_of_repeated_samples():
    found = [information(*gaussian_sample(10_000, seed), seed=1)["all"] for seed in range(2, 22)]
    spread = np.std([one.value for one in found])
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.4)


def test_rows_of_one_shower_make_the_error_larger():
    alone = information(*gaussian_sample(40_000, 3), seed=1)["all"]
    sample, x = gaussian_sample(4_000, 3, rows_of_shower=10)
    together = information(sample, x, seed=1)["all"]
    assert together.error > 2 * alone.error


def test_noise_tells_no_more_than_the_total():
    sample, x = gaussian_sample(4_000, 4)
    noise = np.random.default_rng(5).normal(size=len(x))
    found = information(sample, noise, seed=1)["all"]
    of_totals = SIGNAL**2 / (SIGNAL + BACKGROUND)
    assert found.value < of_totals + 3 * found.error
    # What the naive estimate makes of the same noise in its own bins.
    edges = np.quantile(noise, np.linspace(0, 1, 1001)[1:-1])
    s, b = (
        np.histogram(noise, np.r_[-9, edges, 9], weights=sample.weights * kind)[0]
        for kind in (sample.signal, ~sample.signal)
    )
    assert (s * s / (s + b)).sum() > 2 * of_totals


def test_regions_add_up_and_ratios_are_paired():
    sample, x = gaussian_sample(100_000, 6)
    third = np.arange(len(x)) % 3
    parts = {f"part {i}": third == i for i in range(3)}
    split = information(Sample(sample.weights, sample.signal, sample.showers, parts), x, seed=1)
    total = split["part 0"] + split["part 1"] + split["part 2"]
    assert total.value == pytest.approx(information(sample, x, seed=1)["all"].value, rel=0.04)
    blurred = x + 0.3 * np.random.default_rng(7).normal(size=len(x))
    better, worse = information(sample, x, seed=1)["all"], information(sample, blurred, seed=1)["all"]
    ratio, error = worse.over(better)
    assert ratio < 1.0 - 2 * error
    assert error < np.hypot(better.error / better.value, worse.error / worse.value) / 2


def test_a_region_without_signal_tells_nothing():
    sample, x = gaussian_sample(1_000, 8)
    none = Sample(sample.weights, sample.signal, sample.showers, {"none": ~sample.signal})
    assert information(none, x, seed=1)["none"].value == 0.0
