"""Counts at nuisance points, the smooth response, the tables and the written weights folder."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sage.binned.counting import NOMINAL, Noise, choose_points, draw_points
from sage.binned.regions import counts, quantities
from sage.binned.response import POWERS, Response, fill_grid, fit_response, monomials
from sage.binned.tables import GRID, YieldTables, default_axes
from sage.challenge.features import derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select, shift
from sage.errors import WeightsError
from sage.files.bundle import read_bundle
from sage.network.dense import class_probabilities, from_arrays
from sage.network.graph import jets_present, normalise, raw_inputs
from tests.conftest import analytic_yields
from tests.events import small_data
from training.build_tables import build_tables
from training.config import Config, TablesConfig, TrainingConfig
from training.counting import Counter, CountingJob, count_nodes
from training.events import EventsFile
from training.make_weights import make_weights, write_weights
from training.networks import read_network
from training.validation import validate
from workshop.files import read_arrays

CONFIG = Config(
    seed=3,
    training=TrainingConfig(epochs=1, batch_size=128, points_per_batch=2, validation_points=1, learning_rate=1e-2),
    tables=TablesConfig(min_effective=20.0, nodes=30, held_out=3, noise_draws=2),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three thousand events."""
    return small_data(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    """The whole way once: the build folder and the bundle."""
    build = tmp_path_factory.mktemp("build")
    make_weights(CONFIG, data, build, build / "weights")
    return build, read_bundle(build / "weights", {"templates": "grid"})


def counter_of(built, data, **changes):
    parameters, normalisation = read_network(built[0] / "training")
    counter = Counter(data, 0.5, "tables", parameters, normalisation, Noise(CONFIG.seed, CONFIG.tables.noise_draws))
    return dataclasses.replace(counter, **changes)


def count_one(counter, point, regions):
    """Counts at one point."""
    return {name: value[0] for name, value in counter.count([point], regions).items()}


def test_written_folder_is_read_back(built):
    build, bundle = built
    assert (build / "weights" / "manifest.json").exists()
    assert bundle.settings.items() >= {"nuisances": "challenge", "mu_range": None, "templates": "grid"}.items()
    assert bundle.regions.name == "disjoint"
    assert bundle.tables.yields.shape == (*GRID, len(PROCESSES), bundle.regions.n_bins)
    assert bundle.origin["config"]["tables"]["nodes"] == CONFIG.tables.nodes
    assert set(bundle.origin) == {"data", "rows", "seed", "config", "versions", "created_with", "tables"}
    usual = read_bundle(build / "weights")
    assert usual.settings["templates"] == "smooth"
    assert usual.tables is None


def test_nominal_node_follows_the_direct_counts(built, data):
    """Straight through the measurement's own functions, on all test events at once."""
    bundle = built[1]
    file = EventsFile(data, CONFIG.table_fraction)
    events = file.read(file.rows("tables"))
    selected, kept = select(shift(events.columns))
    values, defined = raw_inputs(selected, derived(selected))
    network = from_arrays(bundle.network)
    inputs = normalise(values, defined, bundle.normalisation)
    probabilities = class_probabilities(network, inputs, jets_present(selected))
    observed = quantities(selected, derived(selected), probabilities)
    nominal = bundle.tables.terms(NOMINAL)[0]
    for p in range(len(PROCESSES)):
        weights = np.where(events.classes[kept] == p, events.weights[kept], 0.0)
        direct = counts(bundle.regions, observed, weights)
        # The fit smooths over single events, so bins differ within a few of them and totals hardly at all.
        heaviest = weights.max()
        assert (np.abs(nominal[p] - direct) < 5 * heaviest * np.sqrt(1 + direct / heaviest)).all()
        assert nominal[p].sum() == pytest.approx(direct.sum(), rel=0.03)


def test_counts_of_pieces_and_draws_add_up(built, data):
    counter = counter_of(built, data)
    regions = built[1].regions
    nominal = count_one(counter, NOMINAL, regions)
    assert (nominal["moved"] == 0).all()
    file = EventsFile(data, 0.5)
    events = file.read(file.rows("tables"))
    kept = select(shift(events.columns))[1]
    for p in range(len(PROCESSES)):
        mine = kept[events.classes[kept] == p]
        assert nominal["counts"][p].sum() == pytest.approx(events.weights[mine].sum())
        assert nominal["squares"][p].sum() == pytest.approx((events.weights[mine] ** 2).sum())
    shifted = count_one(counter, (1.0, 1.0, 2.0), regions)
    np.testing.assert_allclose(shifted["counts"].sum(axis=1), nominal["counts"].sum(axis=1))
    # Every event that moves leaves one bin and enters another.
    change = np.abs(shifted["counts"] - nominal["counts"])
    assert (shifted["moved"].sum(axis=1) > 0).all()
    assert (change[shifted["moved"] == 0] < 1e-6).all()


def test_tables_at_held_out_points_are_near_the_direct_counts(built, data):
    bundle, counter = built[1], counter_of(built, data, noise=Noise(17, 4))
    for point in ((1.008, 0.994, 0.6), (0.987, 1.012, 1.5), (1.01, 1.015, 0.2)):
        direct = count_one(counter, point, bundle.regions)
        table = bundle.tables.terms(point)[0]
        # One event more or less is always possible.
        error = np.sqrt(direct["moved"] + direct["squares"].max(axis=1, keepdims=True) * 0.05)
        assert (np.abs(table - direct["counts"]) < 5 * error).all()
        assert np.sqrt(np.mean(((table - direct["counts"]) / error) ** 2)) < 1.5


def test_interrupted_counting_goes_on(built, data, tmp_path, monkeypatch):
    monkeypatch.setattr("training.counting.POINTS_PER_JOB", 2)
    monkeypatch.setattr("training.counting.ROWS_PER_JOB", 800)
    counter, regions = counter_of(built, data), built[1].regions
    points = choose_points(22, 3)[:4]
    whole = count_nodes(counter, points, regions, tmp_path / "whole")
    calls = []
    original = CountingJob.__call__

    def interrupted(job):
        calls.append((job.rows, job.points))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(job)

    monkeypatch.setattr(CountingJob, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        count_nodes(counter, points, regions, tmp_path / "part")
    resumed = count_nodes(counter, points, regions, tmp_path / "part")
    # Two shards of the 1500 rows and two pairs of points: the job that was interrupted ran again, no other.
    assert len(calls) == 5
    assert len(set(calls)) == 4
    for name in ("counts", "squares", "moved"):
        np.testing.assert_array_equal(resumed[name], whole[name])
    count_nodes(counter_of(built, data, noise=Noise(8)), points[:1], regions, tmp_path / "part")
    assert len(calls) == 7


def test_worker_processes_give_the_same_counts(built, data, tmp_path):
    counter, regions = counter_of(built, data), built[1].regions
    points = [NOMINAL, (0.99, 1.0, 1.0)]
    one, two = (count_nodes(counter, points, regions, tmp_path / str(n), n) for n in (1, 2))
    for name in ("counts", "squares", "moved"):
        np.testing.assert_array_equal(one[name], two[name])


def test_second_build_gives_the_same_bytes(built, data, tmp_path):
    build, _ = built
    build_tables(CONFIG, data, build / "training", tmp_path / "tables")
    write_weights(CONFIG, build / "training", tmp_path / "tables", tmp_path / "weights")
    for path in (build / "weights").iterdir():
        assert (tmp_path / "weights" / path.name).read_bytes() == path.read_bytes(), path.name


def test_variances_add_up_rows_of_one_showered_parent(built, data, tmp_path):
    regions = built[1].regions
    alone = counter_of(built, data).variances(regions)
    np.testing.assert_allclose(alone, count_one(counter_of(built, data), NOMINAL, regions)["squares"])
    for path in data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    # Neighbours in the file, also across row groups, are copies of one parent.
    pq.write_table(pa.table({"parent": np.arange(3000) // 3}), tmp_path / "parents.parquet")
    together = counter_of(built, tmp_path).variances(regions)
    assert (together >= alone * (1 - 1e-12)).all()
    events = EventsFile(data, CONFIG.table_fraction).read(range(1500))
    selected, kept = select(shift(events.columns))
    values, defined = raw_inputs(selected, derived(selected))
    inputs = normalise(values, defined, built[1].normalisation)
    probabilities = class_probabilities(from_arrays(built[1].network), inputs, jets_present(selected))
    observed = quantities(selected, derived(selected), probabilities)
    expected = np.zeros_like(together)
    for parent in range(500):
        for p in range(len(PROCESSES)):
            mine = (kept // 3 == parent) & (events.classes[kept] == p)
            if mine.any():
                expected[p] += counts(regions, observed, np.where(mine, events.weights[kept], 0.0)) ** 2
    np.testing.assert_allclose(together, expected, rtol=1e-6, atol=1e-9)


def test_tables_of_another_sample_for_an_existing_network(built, data, tmp_path):
    first = built[1]
    second = make_weights(CONFIG, data, tmp_path, tmp_path / "weights", network=built[0] / "weights")
    for name, array in first.network.items():
        np.testing.assert_array_equal(second.network[name], array)
    assert (tmp_path / "weights" / "tables.npz").read_bytes() == (built[0] / "weights" / "tables.npz").read_bytes()
    assert second.origin == first.origin


def test_counting_at_all_nodes_fills_the_table_directly(built, data, tmp_path, monkeypatch):
    grid = [(tes, 1.0, soft_met) for tes in (0.99, 1.01) for soft_met in (0.0, 2.0)]
    monkeypatch.setattr("training.build_tables.GRID", (2, 1, 2))
    monkeypatch.setattr("training.build_tables.grid_points", lambda: grid)
    config = dataclasses.replace(CONFIG, tables=dataclasses.replace(CONFIG.tables, nodes=0, held_out=0))
    build_tables(config, data, built[0] / "training", tmp_path)
    found = read_arrays(tmp_path / "tables.npz")
    regions = built[1].regions
    direct = counter_of(built, data).count(grid, regions)["counts"].reshape(2, 1, 2, 4, -1)
    for name, place in regions.slices.items():
        np.testing.assert_allclose(
            found[f"yields_{name}"], np.moveaxis(direct[..., place], (-2, -1), (0, 1)), rtol=7e-5
        )


def test_report_of_held_out_points(built, data, tmp_path):
    report = json.loads((built[0] / "tables" / "report.json").read_text())["held_out"]
    assert set(report) == {"smooth", "grid"}
    for part in report.values():
        assert part["points"] == CONFIG.tables.held_out
        assert 0 <= part["within"] <= part["within_three_times"] <= 1


def test_validation_fails_where_templates_are_wrong():
    rng = np.random.default_rng(8)
    nominal = rng.uniform(1e3, 1e4, (4, 10))
    response = Response(nominal, np.zeros((4, 10, len(POWERS))))
    points = draw_points(50, 1)
    same = np.repeat(nominal[None], 50, axis=0)
    none = np.zeros_like(same)
    assert validate(response, points, same, none)["passed"]
    statistical = np.sqrt(nominal.sum(axis=0))
    one_bin = same.copy()
    one_bin[:, 0, 3] += 0.2 * statistical[3]
    off = validate(response, points, one_bin, none)
    assert off["within"] == pytest.approx(0.9)
    assert off["within_three_times"] == 1.0
    assert not off["passed"]
    assert off["largest_bin"] == 3
    # The same deviation is no more than the simulation can tell.
    assert validate(response, points, one_bin, none + (0.2 * statistical) ** 2 / 4)["passed"]
    once = same.copy()
    once[7, 0, 3] += 0.4 * statistical[3]
    far = validate(response, points, once, none)
    assert far["within"] > 0.99
    assert not far["passed"]
    assert tuple(far["largest_point"]) == points[7]


def test_seed_region_set(built, data, tmp_path):
    config = dataclasses.replace(
        CONFIG, tables=dataclasses.replace(CONFIG.tables, region_set="published", nodes=19, held_out=0)
    )
    report = build_tables(config, data, built[0] / "training", tmp_path / "tables")
    assert list(report["bins"]) == ["FR", "CR1", "CR2", "CR3"]
    bundle = write_weights(config, built[0] / "training", tmp_path / "tables", tmp_path / "weights")
    assert not bundle.regions.exclusive
    with pytest.raises(ValueError, match="no region set 'six'; choose one of disjoint, five"):
        dataclasses.replace(config.tables, region_set="six")


def test_damaged_folder_is_refused(built, tmp_path):
    for path in (built[0] / "weights").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "tables.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "tables.npz").write_bytes(bytes(content))
    with pytest.raises(WeightsError, match="sha256"):
        read_bundle(tmp_path, {"templates": "grid"})


def test_monomials_against_the_loop():
    points = np.array([[1.02, 0.99, 2.0], [0.97, 1.0, 0.0], [1.0, 1.0, 0.0]])
    found = monomials(points)
    for k, (tes, jes, soft_met) in enumerate(points):
        t, j, m = (tes - 1) / 0.01, (jes - 1) / 0.01, np.log(1 + soft_met)
        for i, (a, b, c) in enumerate(POWERS):
            assert found[k, i] == pytest.approx(t**a * j**b * m**c)
    assert (found[:, 0] == 1).all()
    assert (found[2, 1:] == 0).all()


def test_response_recovers_analytic_yields():
    n_bins = 12
    points = np.array(choose_points(60, 1))
    yields = np.array([analytic_yields(*point, n_bins).ravel() for point in points])
    response = fit_response(points[1:], yields[1:], yields[1:] * 1e-6, yields[0])
    truth = np.random.default_rng(4)
    unseen = np.column_stack([truth.uniform(0.97, 1.03, (40, 2)), truth.uniform(0, 5, 40)])
    expected = np.array([analytic_yields(*point, n_bins).ravel() for point in unseen])
    np.testing.assert_allclose(response(unseen), expected, rtol=2e-3)


def test_response_is_bounded_where_nothing_is_known():
    points = np.array(choose_points(40, 1))
    nominal = np.array([0.0, 50.0, 3.0])
    counts_ = np.tile(nominal, (len(points) - 1, 1))
    counts_[::3, 0], counts_[:, 2] = 4.0, 0.0
    response = fit_response(points[1:], counts_, np.zeros_like(counts_), nominal)
    far = response(points)
    assert np.isfinite(far).all()
    assert (far >= 0).all()
    assert (far[:, 0] == 0).all()
    np.testing.assert_allclose(far[:, 1], 50.0, rtol=1e-6)


def test_few_events_hold_the_response_near_flat():
    """A bin whose counts are all noise follows it less the larger its error is."""
    rng = np.random.default_rng(2)
    points = np.array(choose_points(40, 1))
    noisy = 100.0 * (1 + 0.2 * rng.standard_normal((len(points) - 1, 1)))
    spread = []
    for variance in (1.0, 400.0, 1e6):
        response = fit_response(points[1:], noisy, np.full_like(noisy, variance), np.array([100.0]))
        spread.append(response(points).std())
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 1.0


def test_grid_follows_the_response():
    rng = np.random.default_rng(6)
    response = Response(rng.uniform(1, 9, (4, 3)), 1e-3 * rng.standard_normal((4, 3, len(POWERS))))
    tables = YieldTables(default_axes(), fill_grid(response))
    axes = default_axes()
    np.testing.assert_allclose(tables.yields[8, 8, 0], response(np.array([NOMINAL]))[0], rtol=1e-6)
    for i, j, k in ((0, 16, 40), (3, 9, 7)):
        point = np.array([[axes[0][i], axes[1][j], axes[2][k]]])
        np.testing.assert_allclose(tables.yields[i, j, k], response(point)[0], rtol=1e-6)
    between = (1.003, 0.9912, 1.71)
    np.testing.assert_allclose(tables.terms(between)[0], response(np.array([between]))[0], rtol=3e-3)
