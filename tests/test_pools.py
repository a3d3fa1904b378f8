"""Independent pools: splitting, normalisation, effective weights, and shifts as large as predicted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sage.binned.counting import choose_points
from sage.binned.response import Response
from sage.binned.statistic import with_counts
from sage.challenge.nuisances import PROCESSES
from sage.fit.interval import measure_interval
from scripts import pools as program
from studies.likelihoods import open_weights
from studies.pools import (
    PARENTS_FILE,
    Pair,
    Pools,
    _nominal,
    as_text,
    assign_pools,
    bundle_of_pool,
    count_pools,
    effective_weight,
    normalise,
    read_events,
    sensitivities,
    study_pairs,
    summarise,
)
from tests.ending import exit_code
from tests.events import DATA_FILE, METADATA_FILE, small_data
from workshop.errors import UsageError

SIZE = 0.05
"""The synthetic experiment has so much of the challenge's events."""


@pytest.fixture(scope="module")
def bundle(demo_weights):
    return open_weights(demo_weights)


@pytest.fixture(scope="module")
def small(bundle):
    """The demonstration's tables at a twentieth of the luminosity, taken as exact."""
    response = Response(SIZE * bundle.response.nominal, bundle.response.coefficients)
    return replace(bundle, response=response, settings={**bundle.settings, "simulation_uncertainty": False})


def synthetic_pools(bundle, weight, rows_per_parent, n_pools, seed=1):
    """Events of one weight, some rows per parent in one bin, whose yields move exactly as the bundle's."""
    rng = np.random.default_rng(seed)
    nominal = bundle.templates.terms((1.0, 1.0, 0.0))[0]
    parents_of = rng.poisson(np.broadcast_to(nominal / weight / rows_per_parent, (n_pools, *nominal.shape)))
    cells = np.repeat(np.arange(parents_of.size), parents_of.ravel() * rows_per_parent)
    parents = np.repeat(np.arange(parents_of.sum()), rows_per_parent)
    pool, process, bins = np.unravel_index(cells, parents_of.shape)
    # All pools together are one experiment.
    weights = normalise(np.full(len(cells), weight / n_pools), process, pool, n_pools)
    counts = np.bincount(cells, weights, minlength=parents_of.size).reshape(parents_of.shape)
    points = choose_points(32, 1)
    moves = np.array([bundle.templates.terms(point)[0] for point in points]) / np.maximum(nominal, 1e-9)
    at_points = counts * moves[:, None]
    return Pools(at_points, 1e-6 * at_points**2, points, bins, pool, weights, process, parents)


def test_rows_of_a_parent_stay_together_and_pools_are_even():
    parents = np.random.default_rng(2).integers(0, 3000, 9000)
    pool = assign_pools(parents, 6, seed=1)
    assert (pd.Series(pool).groupby(parents).nunique() == 1).all()
    assert np.bincount(pool).min() > 1200
    assert (assign_pools(parents, 6, seed=1) == pool).all()
    assert (assign_pools(parents, 6, seed=2) != pool).any()


def test_every_pool_has_the_yields_of_all():
    rng = np.random.default_rng(3)
    weights, classes, pool = rng.uniform(size=400), rng.integers(0, 4, 400), rng.integers(0, 3, 400)
    scaled = normalise(weights, classes, pool, 3)
    for process in range(4):
        total = weights[classes == process].sum()
        for number in range(3):
            assert scaled[(classes == process) & (pool == number)].sum() == pytest.approx(total)
    with pytest.raises(UsageError, match="do not fill 4 pools"):
        normalise(weights, classes, pool, 4)


def test_sensitivity_is_what_one_more_event_does(small):
    gain, statistical = sensitivities(small)
    likelihood = _nominal(small)
    best = measure_interval(likelihood).fit
    for b in (0, 20, len(gain) - 1):
        counts = likelihood.statistic.counts
        step = 0.01 * np.sqrt(counts[b])
        moved = [
            measure_interval(with_counts(likelihood, counts + sign * step * np.eye(len(gain))[b])).fit.mu
            for sign in (-1, 1)
        ]
        assert (moved[1] - moved[0]) / (2 * step) == pytest.approx(gain[b], rel=0.03, abs=1e-5)
    assert statistical <= best.covariance[0, 0]


@pytest.mark.stat
def test_effective_weight_counts_parents_and_leaves_out_the_normalisation(small):
    gain, statistical = sensitivities(small)
    nominal = small.templates.terms((1.0, 1.0, 0.0))[0]
    means = (nominal * gain).sum(axis=1, keepdims=True) / nominal.sum(axis=1, keepdims=True)
    wanted = float((nominal * (gain - means) ** 2).sum() / statistical)
    for weight, rows in ((0.5, 1), (0.25, 3)):
        pools = synthetic_pools(small, weight, rows, 2)
        for number in range(2):
            found = effective_weight(pools, number, gain, statistical)
            assert found == pytest.approx(wanted * weight * rows, rel=0.1)


@pytest.mark.stat
def test_shifts_are_as_large_as_predicted_and_toys_agree(small, demo_weights):
    """Twelve shifts: their spread is known to 1 / sqrt(24), so a factor 1.5 is two standard errors."""
    pools = synthetic_pools(small, 0.5, 1, 24)
    recovered = bundle_of_pool(small, pools, 3).response
    np.testing.assert_allclose(recovered.nominal, pools.counts[0, 3])
    point = np.array([[1.01, 0.995, 1.5]])
    full = pools.counts[0, 3] > 20
    moved, nominal = (small.templates.terms(at)[0][full] for at in ((1.01, 0.995, 1.5), (1.0, 1.0, 0.0)))
    np.testing.assert_allclose(recovered(point)[0][full] / recovered.nominal[full], moved / nominal, rtol=2e-3)
    found = summarise(list(study_pairs(small, pools, 0, 1, demo_weights)))
    assert found.ok, as_text(found)
    assert 0.5 < found.predicted < 1.5
    few = replace(pools, counts=pools.counts[:, :4], moved=pools.moved[:, :4])
    with_toys = summarise(list(study_pairs(small, few, 30, 1, demo_weights)))
    for pair in with_toys.pairs:
        assert pair.pull_mean == pytest.approx(pair.shift / pair.sigma, abs=0.15 + 4 / np.sqrt(30))
        assert abs(pair.coverage - pair.predicted_coverage) < 4 * np.sqrt(0.25 / 30)


def test_a_summary_that_disagrees_says_so():
    pairs = [Pair(shift, 0.4, (0.1, 0.2), 0.1, True) for shift in (0.5, -0.6, 0.4)]
    found = summarise(pairs)
    assert not found.ok
    assert found.ratio == pytest.approx(np.sqrt((0.25 + 0.36 + 0.16) / 3) / 0.1)
    assert "disagree" in as_text(found)
    assert found.to_dict()["coverage"] is None


def write_events(folder, n=3000, copies=1):
    """Write embedded events, two of a parent; with copies, which make pools more alike, n times as many."""
    small_data(folder, n)
    frame = pd.concat([pd.read_parquet(folder / DATA_FILE)] * copies)
    frame.to_parquet(folder / DATA_FILE, row_group_size=10_000, index=False)
    (folder / METADATA_FILE).write_text(json.dumps({"total_rows": len(frame), "sum_weights": 1_051_383.0}))
    pd.DataFrame({"parent": np.arange(len(frame)) // 2}).to_parquet(folder / PARENTS_FILE)
    return folder


def test_pools_add_up_to_all_events(bundle, tmp_path):
    events, parents = read_events(write_events(tmp_path), 0.5)
    assert len(parents) == len(events) == 1500
    pools = count_pools(bundle, events, parents, 2, 20, seed=1)
    assert pools.counts.shape == (20, 2, len(PROCESSES), bundle.regions.n_bins)
    direct = np.zeros_like(pools.counts[0])
    inside = pools.bins >= 0
    np.add.at(direct, (pools.pool[inside], pools.classes[inside], pools.bins[inside]), pools.weights[inside])
    np.testing.assert_allclose(pools.counts[0], direct)
    assert (pools.moved[0] == 0).all()
    assert (pools.moved[1:] > 0).any()


def test_program(demo_weights, tmp_path, capsys):
    data, output = write_events(tmp_path, 48_000, copies=3), tmp_path / "out"
    given = ["--data", str(data), "--output", str(output), "--weights", str(demo_weights)]
    given += ["--table-fraction", "1.0", "--pairs", "2", "--toys", "2", "--nodes", "20"]
    assert program.main(given) == 0
    assert "spread of the shifts" in capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == ["pools.json", "pools.png", "pools.svg"]
    assert program.main([*given[:6], "--pairs", "40", "--nodes", "20"]) == 2
    assert "simulate more or ask for fewer pairs" in capsys.readouterr().err
    (data / PARENTS_FILE).unlink()
    assert program.main(given) == 2
    assert "parents.parquet is missing" in capsys.readouterr().err
    assert exit_code(program.main, [*given[:6], "--pairs", "1"]) == 2
    assert "--pairs: '1'" in capsys.readouterr().err
