"""What simulated events are worth: by process, by shared showers, and independent of their number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sage.challenge.nuisances import PROCESSES
from studies.likelihoods import open_weights
from studies.worth import Sensitivity
from training.events import Events


@pytest.fixture(scope="module")
def sensitivity(demo_weights):
    return Sensitivity(open_weights(demo_weights))


def toy_events(bins, weights, keys, process="ztautau"):
    return Events({}, weights, np.full(len(bins), PROCESSES.index(process)), keys)


def test_worth_is_that_of_the_formula(sensitivity):
    gain = sensitivity.gain
    bins = np.array([0, len(gain) - 1, -1, 0])
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    found = sensitivity.measure(toy_events(bins, weights, np.array([7, 7, 8, 9])), bins)
    assert list(found) == ["ztautau"]
    g = np.array([gain[0], gain[-1], 0.0, gain[0]])
    moves = weights * (g - (weights * g).sum() / 10.0)
    by_shower = np.array([moves[0] + moves[1], moves[2], moves[3]])
    worth = found["ztautau"]
    assert worth.w == pytest.approx((by_shower**2).sum() / sensitivity.variance)
    assert worth.error == pytest.approx(np.sqrt((by_shower**4).sum()) / sensitivity.variance)
    assert worth.ideal == pytest.approx(np.abs(moves).sum() ** 2 / 4 / sensitivity.variance)


def test_w_times_rows_does_not_depend_on_how_many_and_its_error_is_their_scatter(sensitivity):
    rng = np.random.default_rng(4)
    found = []
    for _ in range(200):
        n = int(rng.poisson(2000))
        bins = rng.integers(-1, len(sensitivity.gain), n)
        worth = sensitivity.measure(toy_events(bins, np.full(n, 1e4 / n), np.arange(n) // 2), bins)["ztautau"]
        found.append((worth.w * worth.rows, worth.error * worth.rows))
    values, errors = np.array(found).T
    assert values.std() == pytest.approx(errors.mean(), rel=0.25)
    n = 20_000
    bins = rng.integers(-1, len(sensitivity.gain), n)
    large = sensitivity.measure(toy_events(bins, np.full(n, 1e4 / n), np.arange(n) // 2), bins)["ztautau"]
    assert large.w * n == pytest.approx(values.mean(), rel=0.1)


def test_largest_weight_is_that_in_signal_like_bins(sensitivity):
    best, worst = int(np.argmax(sensitivity.gain)), int(np.argmin(sensitivity.gain))
    bins = np.array([best, worst, -1])
    found = sensitivity.measure(toy_events(bins, np.array([0.5, 9.0, 8.0]), np.arange(3), "ttbar"), bins)
    assert found["ttbar"].largest == 0.5
    none = sensitivity.measure(toy_events(bins[1:], np.array([9.0, 8.0]), np.arange(2), "ttbar"), bins[1:])
    assert none["ttbar"].largest == 0.0


def test_uncertainty_of_the_tables_does_not_enter(sensitivity, demo_weights):
    bundle = open_weights(demo_weights)
    other = Sensitivity(replace(bundle, settings={**bundle.settings, "simulation_uncertainty": True}))
    assert other.variance == sensitivity.variance
