"""Soft-MET noise by event, nuisance points, and counts of events in memory."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sage.binned.counting import (
    NOMINAL,
    Noise,
    Sample,
    choose_points,
    count_points,
    draw_points,
    event_noise,
    find_bins,
    parent_variances,
)
from sage.binned.regions import REGION_SETS
from sage.binned.tables import SCALE_RANGE, SOFT_MET_RANGE
from sage.challenge.nuisances import PROCESSES
from sage.files.bundle import read_bundle
from sage.network.classifier import NetworkClassifier
from tests.events import FIVE_WEIGHTS, columns_of, embedded_frame

POINTS = [NOMINAL, (1.01, 0.985, 0.0), (0.99, 1.02, 2.5), (1.0, 1.0, 4.0)]


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(FIVE_WEIGHTS)


@pytest.fixture(scope="module")
def sample():
    frame = embedded_frame(3000)
    classes = np.array([PROCESSES.index(name) for name in frame["detailed_labels"]])
    return Sample(columns_of(frame), frame["weights"].to_numpy(np.float64), classes, np.arange(3000) + 77)


def count(bundle, sample, points=POINTS, noise=Noise(3, 2), threads=1, regions=None, **more):  # noqa: B008
    classifier = NetworkClassifier(bundle.network, bundle.normalisation, threads=threads)
    return count_points(sample, points, regions or bundle.regions, classifier, noise, **more)


def test_noise_is_standard_normal_and_independent():
    ids = np.arange(200_000)
    columns = [*event_noise(ids, (1, 0)), *event_noise(ids, (1, 1)), *event_noise(ids, (2, 0))]
    for column in columns:
        assert stats.kstest(column, "norm").pvalue > 1e-3
        # Neighbours in the file are independent.
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.01
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 0.01
    assert np.abs(np.corrcoef(np.square(columns)) - np.eye(len(columns))).max() < 0.01


def test_noise_belongs_to_the_event_and_not_to_its_place():
    ids = np.array([4, 9, 1_000_000_007])
    x, y = event_noise(ids, (1, 0))
    for place in range(3):
        assert event_noise(ids[[place]], (1, 0)) == (x[place], y[place])


def test_noise_at_other_points_is_the_same_or_not_and_draws_come_in_opposite_pairs():
    ids = np.arange(50)
    near, far = (1.0, 1.0, 2.0), (1.0, 1.0, 2.000001)
    common, fresh = Noise(5, 4, common=True), Noise(5, 4, common=False)
    np.testing.assert_array_equal(common(ids, 0, near), common(ids, 0, far))
    assert not np.allclose(fresh(ids, 0, near), fresh(ids, 0, far))
    np.testing.assert_array_equal(np.array(common(ids, 1, near)), -np.array(common(ids, 0, near)))
    assert not np.allclose(common(ids, 2, near), common(ids, 0, near))
    assert not np.allclose(Noise(6, 4)(ids, 0, near), common(ids, 0, near))
    assert common.evaluations([NOMINAL, near, far]) == 1 + 4 + 4


def test_counts_against_a_loop_over_events(bundle, sample):
    """Slow twin: a dictionary of bins, one event at a time."""
    noise, classifier = Noise(3, 2), NetworkClassifier(bundle.network, bundle.normalisation, threads=1)
    found = count(bundle, sample, noise=noise)

    def bins(point, draw):
        drawn = noise(sample.ids, draw, point)
        return find_bins(sample.columns, point, drawn, bundle.regions, classifier)[0]

    nominal = bins(NOMINAL, 0)
    for k, point in enumerate(POINTS):
        draws = 2 if point[2] else 1
        expected = {name: np.zeros((4, bundle.regions.n_bins)) for name in found}
        for draw in range(draws):
            for before, after, weight, p in zip(
                nominal, bins(point, draw), sample.weights, sample.classes, strict=True
            ):
                if after >= 0:
                    expected["counts"][p, after] += weight / draws
                    expected["squares"][p, after] += weight**2 / draws
                if before != after:
                    for place in (before, after):
                        expected["moved"][p, place] += weight**2 / draws if place >= 0 else 0.0
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][k], value, rtol=1e-9, atol=1e-9)


def test_blocks_threads_and_order_of_events_do_not_matter(bundle, sample, monkeypatch):
    found = count(bundle, sample)
    monkeypatch.setattr("sage.binned.counting.BLOCK", 700)
    blocks = count(bundle, sample)
    threads = count(bundle, sample, threads=2)
    shuffled = count(bundle, sample.take(np.random.default_rng(1).permutation(len(sample))))
    for name, value in found.items():
        np.testing.assert_array_equal(blocks[name], threads[name])
        np.testing.assert_allclose(blocks[name], value, rtol=1e-9)
        np.testing.assert_allclose(shuffled[name], value, rtol=1e-9, atol=1e-9)


def test_overlapping_regions_count_events_in_each(bundle, sample):
    bare = REGION_SETS["published"]
    regions = bare.with_edges({region.name: (0.0, 0.5, 1.0) for region in bare.regions})
    found = count(bundle, sample, regions=regions)
    nominal = found["counts"][0]
    assert nominal[:, :2].sum() == pytest.approx(count(bundle, sample)["counts"][0].sum())
    assert nominal[:, 2:].sum() > 0
    assert nominal.sum() > nominal[:, :2].sum()


def test_counting_stops_at_the_deadline(bundle, sample):
    with pytest.raises(TimeoutError, match="counting at 4 nuisance points took longer than allowed"):
        count(bundle, sample, deadline=time.monotonic())


def test_antithetic_noise_scatters_less_than_independent_noise(bundle, sample):
    """The opposite draw cancels what is odd in the noise, which is most of it for small noise."""
    point = (1.0, 1.0, 1.0)

    def spread(draws):
        totals = [
            count(bundle, sample, [point], replace(draws, seed=seed))["counts"][0].sum(axis=0) for seed in range(12)
        ]
        return np.var(totals, axis=0).sum()

    assert spread(Noise(0, 2)) < 0.5 * spread(Noise(0, 1))


def test_variances_of_correlated_rows_against_a_loop():
    rng = np.random.default_rng(2)
    parents, cells, weights = rng.integers(0, 40, 300) * (1 << 40), rng.integers(0, 6, 300), rng.uniform(0, 3, 300)
    expected = np.zeros(8)
    for parent, cell in itertools.product(set(parents.tolist()), range(6)):
        expected[cell] += weights[(parents == parent) & (cells == cell)].sum() ** 2
    np.testing.assert_allclose(parent_variances(parents, cells, weights, 8), expected)


def test_nodes():
    points = choose_points(60, 1)
    assert len(set(points)) == 60
    assert points[0] == NOMINAL
    assert choose_points(60, 1) == points
    assert choose_points(60, 2) != points
    everything = np.array(choose_points(400, 1))
    assert everything.min(axis=0) == pytest.approx([SCALE_RANGE[0], SCALE_RANGE[0], 0.0])
    assert everything.max(axis=0) == pytest.approx([SCALE_RANGE[1], SCALE_RANGE[1], SOFT_MET_RANGE[1]])
    # In their own variables the scattered points fill the cube more evenly than chance does.
    scattered = everything[18:]
    low, high = stats.norm.cdf((np.array(SCALE_RANGE) - 1.0) / 0.02)
    scales = (stats.norm.cdf((scattered[:, :2] - 1.0) / 0.02) - low) / (high - low)
    cube = np.column_stack([scales, np.log1p(scattered[:, 2]) / np.log1p(SOFT_MET_RANGE[1])])
    discrepancy = stats.qmc.discrepancy(np.clip(cube, 0, 1))
    assert discrepancy < 0.3 * stats.qmc.discrepancy(np.random.default_rng(1).random(cube.shape))
    with pytest.raises(ValueError, match="nodes is 18; the axes alone take 18, ask for more"):
        choose_points(18, 1)


def test_points_drawn_from_the_priors():
    points = np.array(draw_points(20_000, 1))
    for axis in (0, 1):
        inside = points[np.abs(points[:, axis] - 1.0) < 0.0399, axis]
        assert stats.kstest((inside - 1.0) / 0.01, "norm").pvalue > 1e-3
    soft_met = points[:, 2]
    assert soft_met.max() == SOFT_MET_RANGE[1]
    assert (soft_met == SOFT_MET_RANGE[1]).mean() == pytest.approx(stats.norm.sf(np.log(5.0)), abs=0.01)
    assert np.median(soft_met) == pytest.approx(1.0, abs=0.05)
    assert draw_points(5, 1) == draw_points(5, 1)
    assert draw_points(5, 1) != draw_points(5, 2)
