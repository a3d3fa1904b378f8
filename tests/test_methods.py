"""The methods: trees against scikit-learn, the mass histogram against the column of the data, all end to end."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from harness.pseudo_experiments import draw_nuisances, make_pseudo_data
from harness.results import EXPERIMENTS_FILE, read_records
from harness.runner import RunOptions, run
from harness.settings import make_settings
from harness.test_set import EventFile
from methods.boosted_trees.model import Trees
from methods.build import MASS, METHODS, build, tree_arrays
from methods.mass_histogram.model import NoClassifier
from sage.challenge.frame import read_test_set
from sage.challenge.nuisances import NAMES
from sage.files.bundle import read_bundle
from sage.measurement import count_events
from scripts import make_method
from tests.conftest import ROOT
from tests.events import METADATA_FILE, small_data
from training.config import DEFAULT_CONFIG, read_config

SUM_WEIGHTS = 20_000.0
DEFAULT = read_config(DEFAULT_CONFIG)
QUICK = dataclasses.replace(DEFAULT.tables, nodes=20, held_out=0, noise_draws=1, min_effective=20.0)
CONFIG = dataclasses.replace(DEFAULT, tables=QUICK)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three thousand events that stand for 20 000, so that pseudo-experiments are small."""
    folder = small_data(tmp_path_factory.mktemp("events"))
    (folder / METADATA_FILE).write_text(json.dumps({"total_rows": 3000, "sum_weights": SUM_WEIGHTS}))
    return folder


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    """All methods, as folders by name."""
    folder = tmp_path_factory.mktemp("methods")
    for name in METHODS:
        build(name, CONFIG, data, ROOT / "weights", folder / name, folder / "build" / name)
    return folder


def test_trees_against_scikit_learn():
    """Values on a coarse grid, so that many events lie exactly where a tree splits."""
    rng = np.random.default_rng(1)
    train, unseen = (np.round(rng.normal(size=(n, 35)), 1).astype(np.float32) for n in (4000, 1000))
    classes = (train[:, 0] + train[:, 1] ** 2 > 1).astype(int) + 2 * (train[:, 2] > 0.3)
    forest = HistGradientBoostingClassifier(max_iter=10, max_depth=4, early_stopping=False, random_state=1)
    forest.fit(train, classes)
    found = Trees(tree_arrays(forest)).of_inputs(unseen)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, forest.predict_proba(unseen), atol=1e-6)


def test_the_mass_histogram_counts_the_column_of_the_data(data, built):
    bundle = read_bundle(built / "mass_histogram" / "weights")
    edges = np.array(bundle.regions.regions[0].edges)
    assert (edges[0], edges[-1]) == MASS.regions[0].edges
    assert len(edges) > 3
    test_set = make_pseudo_data(EventFile(data, 0.5).load_test_set(), 1.0, draw_nuisances(3, NAMES), 3)
    columns, weights, _ = read_test_set(test_set)
    found = count_events(columns, bundle.regions, NoClassifier(), weights)
    mass = np.clip(test_set["data"]["DER_mass_vis"], edges[0], edges[-1])
    np.testing.assert_array_equal(found, np.histogram(mass, edges)[0])


def test_published_are_the_published_choices(built):
    bundle = read_bundle(built / "published" / "weights")
    assert [(region.name, region.signal) for region in bundle.regions.regions] == [
        ("FR", True),
        ("CR1", False),
        ("CR2", False),
        ("CR3", False),
    ]
    assert not bundle.regions.exclusive
    assert (bundle.settings["nuisances"], bundle.settings["templates"]) == ("published", "grid")
    default = read_bundle(ROOT / "weights")
    for name, parameter in default.network.items():
        np.testing.assert_array_equal(bundle.network[name], parameter)


@pytest.mark.parametrize("name", METHODS)
def test_baselines_measure(name, data, built, tmp_path):
    """Each runs as a submission and finds a signal strength from events, not a fall-back."""
    settings = make_settings(1, 2, 5, NAMES, [1.0])
    run(RunOptions(data=data, submission=built / name, output=tmp_path, settings=settings, test_size=0.5))
    records, _ = read_records(tmp_path / EXPERIMENTS_FILE)
    assert len(records) == 2
    for record in records:
        assert record.result["status"] in ("ok", "flagged")
        assert record.result["n_events"] == record.events
        assert record.answer["p16"] < record.answer["mu_hat"] < record.answer["p84"]


def test_trees_travel_to_workers(data, built, tmp_path):
    settings = make_settings(1, 2, 5, NAMES, [1.0])
    for workers in (1, 2):
        options = RunOptions(data, built / "boosted_trees", tmp_path / str(workers), settings, workers, test_size=0.5)
        run(options)
    one, two = (
        sorted((record.index, record.answer["mu_hat"]) for record in read_records(tmp_path / n / EXPERIMENTS_FILE)[0])
        for n in ("1", "2")
    )
    assert one == two


def test_a_build_goes_on_where_it_stopped(data, built):
    nodes = {path: path.stat().st_mtime_ns for path in (built / "build" / "mass_histogram").rglob("nodes/*.npz")}
    assert nodes
    tables = (built / "mass_histogram" / "weights" / "tables.npz").read_bytes()
    removed = min(nodes)
    removed.unlink()
    folder = built / "mass_histogram"
    build("mass_histogram", CONFIG, data, ROOT / "weights", folder, built / "build" / "mass_histogram")
    assert (folder / "weights" / "tables.npz").read_bytes() == tables
    assert all(path.stat().st_mtime_ns == time for path, time in nodes.items() if path != removed)


def test_wrong_input_ends_with_one_line(tmp_path, capsys):
    given = ["--method", "mass_histogram", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert make_method.main(given) == 2
    assert capsys.readouterr().err.startswith("error: ")
