"""Closure of two samples: uniform p-values where they agree, tiny ones where they do not, errors by showers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from studies.closure import Sample, compare, compare_shares, shift_of_mu, summary
from studies.likelihoods import open_weights
from tests.conftest import ROOT
from tests.events import FIVE_WEIGHTS
from training.events import EventsFile


def toy(rng, tilt=0.0, showers=1500):
    """Rows of showers that share their interval more often than not, with unequal weights."""
    rows = rng.poisson(3.0, showers)
    owner = np.repeat(np.arange(showers), rows)
    own = rng.integers(6, size=showers)
    intervals = np.where(rng.random(len(owner)) < 0.6, own[owner], rng.integers(6, size=len(owner)))
    weights = rng.exponential(1.0, showers)[owner] * (1.0 + tilt * intervals)
    return Sample(weights, owner), intervals


def test_shares_and_their_covariance_are_those_of_a_slow_sum():
    sample, intervals = toy(np.random.default_rng(1))
    intervals[::7] = -1
    shares, covariance = sample.shares(intervals, 6)
    total = sample.weights.sum()
    slow = np.zeros((sample.showers.max() + 1, 7))
    np.add.at(slow, (sample.showers, intervals), sample.weights)
    np.testing.assert_allclose(shares, slow[:, :6].sum(axis=0) / total)
    moved = slow[:, :6] - slow.sum(axis=1, keepdims=True) * shares
    np.testing.assert_allclose(covariance, moved.T @ moved / total**2, atol=1e-12)
    expected = slow[:, :6].sum(axis=0) ** 2 / (slow[:, :6] ** 2).sum(axis=0)
    np.testing.assert_allclose(sample.effective(intervals, 6), expected)


def test_p_values_are_uniform_where_samples_agree_and_small_where_they_do_not():
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(300):
        (one, first), (other, second) = toy(rng), toy(rng)
        found = compare_shares([one, other], (first, second), 6)
        assert found["degrees"] == 5
        p_values.append(found["p_value"])
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    (one, first), (other, second) = toy(rng, showers=4000), toy(rng, 0.1, showers=4000)
    assert compare_shares([one, other], (first, second), 6)["p_value"] < 1e-6


def test_intervals_of_few_showers_are_joined():
    sample, intervals = toy(np.random.default_rng(3))
    rare = intervals.copy()
    rare[rare == 5] = 4
    rare[:2] = 5
    found = compare_shares([sample, sample], (rare, rare), 6)
    assert found["degrees"] == 4
    assert found["chi2"] == pytest.approx(0.0, abs=1e-12)
    assert found["ratio"] == pytest.approx([1.0] * 5)


def test_the_shift_of_mu_is_that_of_a_slow_sum_and_its_error_what_samples_scatter_by():
    rng, gain = np.random.default_rng(5), np.array([-0.2, 0.0, 0.1, 0.4, 0.9, 2.0])
    pulls = []
    for _ in range(200):
        (one, first), (other, second) = toy(rng, showers=400), toy(rng, showers=400)
        second[::5] = -1
        first[::5] = -1
        found = shift_of_mu([one, other], (first, second), gain, 50.0)
        slow = [
            sum(w * gain[b] for w, b in zip(s.weights, bins, strict=True) if b >= 0) / s.weights.sum()
            for s, bins in ((one, first), (other, second))
        ]
        assert found["mu"] == pytest.approx(50.0 * (slow[0] - slow[1]))
        pulls.append(found["mu"] / found["mu_error"])
    assert np.std(pulls) == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(pulls)))
    assert abs(np.mean(pulls)) < 4 / np.sqrt(len(pulls))


def test_halves_of_the_events_agree_and_shifted_ones_do_not():
    file = EventsFile(ROOT / "data", 0.5)
    one, other = (file.read(file.rows(part)) for part in ("tables", "training"))
    bundle = open_weights(FIVE_WEIGHTS)
    found = compare(one, other, bundle)
    assert set(found) == {"htautau", "ztautau", "ttbar", "diboson"}
    assert len(found["htautau"]["quantities"]) == 28 + 2 + 5
    for entry in found.values():
        assert entry["worst"] > 1e-5
        assert abs(entry["mu"]) < 4 * entry["mu_error"]
    signal = found["htautau"]["quantities"]
    assert signal["PRI_had_pt"]["degrees"] >= 10
    moved = other.take(np.flatnonzero(other.classes == 0))
    columns = moved.columns | {"PRI_had_pt": moved.columns["PRI_had_pt"] * 1.1}
    shifted = type(moved)(columns, moved.weights, moved.classes, moved.keys)
    again = compare(one, shifted, bundle)
    assert again["htautau"]["quantities"]["PRI_had_pt"]["p_value"] < 1e-6
    assert "PRI_had_pt" in summary(again)
    # More pt of the tau looks more like signal.
    assert again["htautau"]["mu"] < -4 * again["htautau"]["mu_error"]
