"""The comparison of binnings: counts against loops, bounds and precision against the likelihood's own information."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sage.binned.counting import NOMINAL, Noise, choose_points
from sage.binned.regions import Region, RegionSet, counts, region_set
from sage.binned.response import Response, fit_response
from sage.challenge.nuisances import CHALLENGE, PROCESSES
from sage.network.classifier import NetworkClassifier
from scripts import compare_binnings as program
from tests.conftest import analytic_yields
from tests.events import FIVE_WEIGHTS, small_data
from tests.likelihoods import likelihood_from
from training.compare_binnings import bounds, expected_precision
from training.crossfit import (
    BLOCKS,
    CENTRE,
    FOLDS,
    PARTS,
    crossed,
    errors,
    fold_of,
    information,
    parts_of,
    profiled,
    truths,
)
from training.events import EventsFile
from training.filling import Evaluator, Filled, Filler
from training.networks import read_network, read_shares

N_BINS = 12
NOISE = 0.01
REGIONS = RegionSet("one", (Region("all", (), edges=tuple(np.linspace(0.0, 1.0, N_BINS + 1).tolist())),), True)
POINTS = choose_points(40, 5)


@pytest.fixture(scope="module")
def network():
    return *read_network(FIVE_WEIGHTS), read_shares(FIVE_WEIGHTS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def events(data):
    file = EventsFile(data, 0.5)
    events = file.read(range(1200))
    # Pairs of rows come from one showered event.
    return replace(events, keys=np.arange(len(events)) // 2)


@pytest.mark.parametrize("name", ["five_slices", "published"])
def test_filled_counts_against_loops(network, events, name):
    parameters, normalisation, shares = network
    evaluate = Evaluator(NetworkClassifier(parameters, normalisation, threads=1), Noise())
    bare = region_set(name).for_network(shares)
    regions = bare.with_edges({region.name: (0.0, 0.1, 0.4, 1.0) for region in bare.regions})
    halves = events.keys % 2
    filler = Filler(regions, events, halves, 2, 2)
    places = []
    for k, point in enumerate([NOMINAL, (1.03, 0.98, 0.0)]):
        values, kept = evaluate(events, point)
        filler.add(k, values, kept, 1.0)
        for half in (0, 1):
            for p in range(4):
                inside = (halves[kept] == half) & (events.classes[kept] == p)
                direct = counts(regions, values, np.where(inside, events.weights[kept], 0.0))
                np.testing.assert_allclose(filler.result().counts[k, half, p], direct, rtol=1e-12)
        here = {}
        for row, one in zip(kept.tolist(), range(len(kept)), strict=True):
            single = counts(regions, {name: value[one : one + 1] for name, value in values.items()})
            here[row] = set(np.flatnonzero(single).tolist())
        places.append(here)
    moved = np.zeros((2, 4, regions.n_bins))
    by_shower = {}
    for row in range(len(events)):
        before, after = places[0].get(row, set()), places[1].get(row, set())
        for cell in before ^ after:
            moved[halves[row], events.classes[row], cell] += events.weights[row] ** 2
        for cell in before:
            key = (halves[row], events.classes[row], cell, events.keys[row])
            by_shower[key] = by_shower.get(key, 0.0) + events.weights[row]
    variances = np.zeros_like(moved)
    for (half, p, cell, _), weight in by_shower.items():
        variances[half, p, cell] += weight**2
    result = filler.result()
    assert moved.sum() > 0
    np.testing.assert_allclose(result.moved[1], moved, rtol=1e-12)
    np.testing.assert_allclose(result.variances, variances, rtol=1e-12)


def exact_information(response):
    """Return the information matrix at the centre for known templates."""
    likelihood = likelihood_from(response, CHALLENGE, np.ones(N_BINS), np.ones(N_BINS, dtype=bool))
    return likelihood.evaluate(CENTRE).fisher


def test_bounds_are_the_information_of_the_finest_bins():
    """Where every event of a bin has the bin's true probabilities, no binning is finer."""
    nominal = analytic_yields(*NOMINAL, N_BINS)
    response = Response(nominal, np.zeros((*nominal.shape, 13)))
    fisher = exact_information(response)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    bins, classes = (axis.ravel() for axis in np.meshgrid(np.arange(N_BINS), np.arange(4)))
    weights = nominal[classes, bins]
    posterior = nominal / nominal.sum(axis=1, keepdims=True) * shares[:, None]
    posterior = (posterior / posterior.sum(axis=0)).T
    values = {f"p_{name}": posterior[bins, k] for k, name in enumerate(PROCESSES)}
    found = bounds(values, weights, tuple(shares), classes)
    rates = [0, 4, 5, 6]
    assert found["statistical"] == pytest.approx(fisher[0, 0] ** -0.5)
    assert found["rates"] == pytest.approx(np.linalg.inv(fisher[np.ix_(rates, rates)])[0, 0] ** 0.5)
    assert found["signal_found"] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def smooth():
    """Counts of all parts that follow one response exactly."""
    yields = np.stack([analytic_yields(*point, N_BINS) for point in POINTS])
    moved = np.full_like(yields, 1e-4)
    flat = (array.reshape(len(POINTS), -1) for array in (yields, moved))
    response = fit_response(np.array(POINTS), *flat, yields[0].ravel())
    response = Response(yields[0], response.coefficients.reshape(4, N_BINS, 13))
    parts = np.repeat(yields[:, None] / PARTS, PARTS, axis=1)
    return response, Filled(REGIONS, parts, np.full_like(parts, 1e-4 / PARTS), np.zeros_like(parts[0]))


def test_precision_of_exact_templates_is_that_of_their_information(smooth):
    response, filled = smooth
    fisher = exact_information(response)
    inverse = np.linalg.inv(fisher)
    found = crossed([filled] * FOLDS, POINTS)
    assert found.keys() == truths().keys()
    assert found["centre"].sigma == pytest.approx(inverse[0, 0] ** 0.5, rel=1e-3)
    assert found["centre"].statistical == pytest.approx(fisher[0, 0] ** -0.5, rel=1e-3)
    # More signal is more to count and more that fluctuates.
    assert found["mu 0.1"].statistical < found["centre"].statistical < found["mu 3"].statistical
    summed = filled.counts.sum(axis=1), filled.moved.sum(axis=1), filled.variances.sum(axis=0)
    found = expected_precision(*summed, REGIONS, POINTS)
    # The interval is not a parabola: the soft-MET response is not linear.
    assert found["sigma"] == pytest.approx(inverse[0, 0] ** 0.5, rel=0.05)
    assert found["statistical"] == pytest.approx(fisher[0, 0] ** -0.5, rel=1e-3)
    assert found["statistical"] < found["rates"] < found["sigma"]


def test_the_fold_that_chose_the_edges_does_not_judge(smooth):
    """Whatever is counted in it changes nothing but the total."""
    filled = smooth[1]
    expected = crossed([filled] * FOLDS, POINTS)["centre"]
    spoilt = []
    for chooser in range(FOLDS):
        counts = filled.counts.copy()
        own = fold_of(np.arange(PARTS)) == chooser
        counts[1:, own] *= np.random.default_rng(chooser).uniform(0.1, 3.0, counts[1:, own].shape)
        spoilt.append(replace(filled, counts=counts))
    assert crossed(spoilt, POINTS)["centre"].sigma == pytest.approx(expected.sigma, rel=1e-9)


def test_parts_keep_showers_together():
    showers = np.repeat(np.arange(3000), 3)[np.random.default_rng(1).permutation(9000)]
    parts = parts_of(showers, 1)
    assert set(parts.tolist()) == set(range(PARTS))
    assert all(len(set(parts[showers == one].tolist())) == 1 for one in range(50))
    assert (np.bincount(fold_of(np.arange(PARTS))) == BLOCKS).all()


def noisy(filled, rng):
    """Yields that follow no energy scale, with fluctuations of Z at all points but the nominal one."""
    still = np.repeat(filled.counts[:1], len(POINTS), axis=0)
    still[1:, :, 1] *= 1 + NOISE * np.sqrt(PARTS) * rng.standard_normal(still[1:, :, 1].shape)
    return replace(filled, counts=still)


@pytest.mark.stat
def test_noise_of_the_slopes_is_no_information(smooth):
    """Yields that follow no energy scale say nothing about it, unless fluctuations are taken for slopes."""
    filled, rng = smooth[1], np.random.default_rng(7)
    naive, found = [], []
    for _ in range(20):
        one = noisy(filled, rng)
        found.append(np.diag(information([one] * FOLDS, POINTS)["centre"]))
        mean = np.repeat(one.counts.mean(axis=1, keepdims=True), PARTS, axis=1)
        naive.append(np.diag(information([replace(one, counts=mean)] * FOLDS, POINTS)["centre"]))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    for k in (1, 2):
        assert np.mean(naive, axis=0)[k] > 5 * error[k]
        assert abs(np.mean(found, axis=0)[k]) < 3 * error[k]


@pytest.mark.slow
@pytest.mark.stat
def test_errors_are_those_of_repeated_samples(smooth):
    """Counts of parts that fluctuate as those of as many events would."""
    filled, rng = smooth[1], np.random.default_rng(8)
    samples = []
    for _ in range(12):
        factors = rng.poisson(400, size=(1, PARTS, 4, N_BINS)) / 400
        samples.append(replace(filled, counts=filled.counts * factors))
    spread = np.std([crossed([one] * FOLDS, POINTS)["centre"].statistical for one in samples])
    stated = np.mean([errors([one] * FOLDS, POINTS, 1)["centre"].statistical for one in samples[:4]])
    assert stated == pytest.approx(spread, rel=0.6)


def test_indefinite_information_gives_no_precision():
    assert profiled(np.diag([4.0, 1.0])) == pytest.approx(0.5)
    assert profiled(np.diag([4.0, -1.0])) is None


def test_program(data, tmp_path):
    options = ["--data", str(data), "--part", "all", "--points", "19", "--noise-draws", "1", "--min-effective", "5"]
    options += ["--region-sets", "disjoint", "five", "score", "--output", str(tmp_path)]
    assert program.main(options) == 0
    result = json.loads((tmp_path / "binnings.json").read_text())
    assert [entry["region_set"] for entry in result["candidates"]] == ["disjoint", "five", "score"]
    for entry in result["candidates"]:
        assert entry["bins"] == sum(entry["bins_of_regions"].values())
        assert 0 < entry["statistical"] <= entry["rates"] <= entry["sigma"] <= entry["sigma_simulation"]
        assert entry["crossed"].keys() == truths().keys()
        assert entry["crossed"]["centre"]["statistical"] > 0.8 * entry["statistical"]
    assert 0 < result["bounds"]["statistical"] <= result["bounds"]["rates"]
    assert "five, 100, 5" in (tmp_path / "binnings.txt").read_text()
