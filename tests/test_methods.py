"""The methods and SAGE: one contract for all submissions, from the zip on; and what is particular to each."""

import dataclasses
import json
import math
import pickle
import subprocess
import sys
import zipfile
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

import methods
from harness.pseudo_experiments import draw_nuisances, make_pseudo_data
from harness.results import EXPERIMENTS_FILE, read_records
from harness.runner import RunOptions, run
from harness.settings import make_settings
from harness.test_set import EventFile
from methods import summaries
from methods.boosted_trees.build import tree_arrays
from methods.boosted_trees.model import Trees
from methods.building import Build, build, unscaled
from methods.contrastive_flows import build as flows_build
from methods.contrastive_flows.model import find_interval
from methods.mass_histogram.build import MASS
from methods.mass_histogram.model import Model as MassModel
from methods.mass_histogram.model import NoClassifier
from model import Model
from sage.challenge.frame import read_test_set
from sage.challenge.nuisances import NAMES
from sage.challenge.shifts import PRIMARIES
from sage.errors import WeightsError
from sage.files.bundle import read_bundle
from sage.files.settings import TOY_INTERVALS
from sage.fit.deadline import NEVER
from sage.measurement import count_events
from scripts import event_coverage, make_method, make_submission
from studies.event_coverage import COVERAGE_FILE
from tests.conftest import ROOT
from tests.events import FIVE_WEIGHTS, METADATA_FILE, embedded_frame, small_data
from training.config import DEFAULT_CONFIG, read_config
from training.flow_features import FlowFeatureSettings
from training.flow_losses import FitSettings
from training.flows import FlowSettings
from training.make_weights import make_weights

ROWS = 3000
SUM_WEIGHTS = 20_000.0
DRAWN = 16_000
"""About as many selected events as expected, so that the fit is quick even where weights are ignored."""
DEFAULT = read_config(DEFAULT_CONFIG)
QUICK = dataclasses.replace(DEFAULT.tables, nodes=20, held_out=0, noise_draws=1, min_effective=20.0)
CONFIG = dataclasses.replace(DEFAULT, tables=QUICK)
METHODS = list(summaries())
QUICK_FLOWS = FlowFeatureSettings(flow=FlowSettings(layers=2, hidden=(8,)), fit=FitSettings(epochs=2))
KEYS = {"mu_hat", "delta_mu_hat", "p16", "p84"}

HOSTILE = {
    "missing column": lambda d: d.drop(columns="PRI_met"),
    "doubled column": lambda d: pd.concat([d, d[["PRI_met"]]], axis=1),
    "no columns": lambda d: d[[]],
    "empty": lambda d: d.iloc[:0],
    "strings": lambda d: d.assign(PRI_lep_pt="x"),
    "objects": lambda d: d.assign(PRI_lep_pt=[None] * len(d)),
    "all NaN": lambda d: d * np.nan,
    "not a frame": lambda d: 7,
}
"""Frames that cannot be measured."""
ODD = {
    "some NaN": lambda d: d.assign(PRI_met=d.PRI_met.where(d.index % 50 > 0, np.nan)),
    "an infinity": lambda d: d.assign(PRI_had_pt=d.PRI_had_pt.where(d.index != 5, np.inf)),
    "a huge value": lambda d: d.assign(PRI_met=d.PRI_met.where(d.index != 5, np.float32(1e30))),
    "float64": lambda d: d.astype(np.float64),
    "any index": lambda d: d.set_axis(np.zeros(len(d), dtype=int)),
}
"""Frames that can."""
WEIGHTS = {
    "huge weights": np.full(DRAWN, 1e30),
    "negative weights": -np.ones(DRAWN),
    "weights of NaN": np.full(DRAWN, np.nan),
    "no weights": None,
    "too few weights": np.ones(3),
}


UNREMARKABLE = {"events", "other events", "any index", "a huge value", "no weights"}
"""What a model measures without a flag."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three thousand events that stand for 20 000, so that pseudo-experiments are small."""
    folder = small_data(tmp_path_factory.mktemp("events"), ROWS)
    (folder / METADATA_FILE).write_text(json.dumps({"total_rows": ROWS, "sum_weights": SUM_WEIGHTS}))
    return folder


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    """All methods, as folders by name, and SAGE's weights of the same events."""
    folder = tmp_path_factory.mktemp("methods")
    sage = folder / "sage"
    make_weights(CONFIG, data, sage / "build", sage / "weights", network=FIVE_WEIGHTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows_build, "FLOWS", QUICK_FLOWS)
        patch.setattr(flows_build, "TOYS", 40)
        for name in METHODS:
            build(name, Build(CONFIG, data, FIVE_WEIGHTS, folder / name, folder / "build" / name))
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Test sets by name and training events, in a file."""
    train = embedded_frame(ROWS)
    train["weights"] *= SUM_WEIGHTS / train["weights"].sum()
    selected = train[(train.PRI_had_pt >= 26) & (train.PRI_lep_pt >= 20)]
    frame = selected.sample(DRAWN, replace=True, weights="weights", random_state=3)[list(PRIMARIES)]
    frame = frame.reset_index(drop=True)
    sets = {"events": {"data": frame, "weights": np.ones(DRAWN)}}
    sets["other events"] = {"data": frame.iloc[::2], "weights": np.full(DRAWN // 2, 2.0)}
    for name, change in (HOSTILE | ODD).items():
        changed = change(frame.copy())
        rows = len(changed) if isinstance(changed, pd.DataFrame) else DRAWN
        sets[name] = {"data": changed, "weights": np.ones(rows)}
    sets |= {name: {"data": frame, "weights": weights} for name, weights in WEIGHTS.items()}
    path = tmp_path_factory.mktemp("questions") / "sets.pkl"
    path.write_bytes(pickle.dumps((sets, train)))
    return path


@pytest.fixture(scope="module", params=["sage", *METHODS])
def said(request, built, questions, tmp_path_factory):
    """What the zip of a submission said, unpacked, to a process that knows nothing of the checkout."""
    folder = tmp_path_factory.mktemp(request.param)
    root = ROOT if request.param == "sage" else built / request.param
    content, _ = make_submission.build(root, built / request.param / "weights")
    zipfile.ZipFile(BytesIO(content)).extractall(folder)
    program = [sys.executable, "-I", ROOT / "tests" / "asking.py", folder, questions]
    ran = subprocess.run(program, cwd="/", capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return json.loads(ran.stdout) | {"folder": str(folder), "method": request.param}


def check(said):
    answer = said["answer"]
    assert said["plain"]
    assert set(answer) == KEYS
    assert all(math.isfinite(value) for value in answer.values())
    assert answer["p16"] <= answer["mu_hat"] <= answer["p84"]
    assert answer["delta_mu_hat"] == (answer["p84"] - answer["p16"]) / 2


def test_a_submission_runs_from_its_zip_alone(said):
    assert said["sage"].startswith(said["folder"])
    assert not {"sklearn", "zuko", "methods", "training", "harness", "workshop"} & set(said["modules"])


def test_the_interface_is_that_of_the_challenge(said):
    assert said["parameters"][:2] == ["get_train_set", "systematics"]
    assert said["returned"] == [None, None, None]


def test_events_are_measured_and_the_rest_is_answered(said):
    for name, each in said["first"].items():
        check(each)
        assert (each["status"] == "fallback") == (name in HOSTILE or name == "weights of NaN"), (name, each)
        assert each["flags"] or name in UNREMARKABLE, name
    assert said["first"]["events"]["answer"] != said["first"]["other events"]["answer"]


def test_what_was_asked_before_changes_no_bit(said):
    assert said["again"] == said["first"]


def test_a_model_travels_in_a_pickle_fitted_or_not(said):
    assert said["restored"] == said["spawned"] == said["not fitted"] == said["first"]["events"]


def test_fit_uses_training_events_where_it_pays_and_tells_why_not(said):
    assert said["fitted"]["asked"] == 1
    assert not said["fitted"]["report"]["adopted"]
    assert not said["without a loader"]["report"]["adopted"]
    assert "no get_train_set" in said["without a loader"]["report"]["reason"]
    assert said["without a loader"]["answer"] == said["first"]["events"]["answer"]
    check(said["rebuilt"])
    assert said["rebuilt"]["report"]["adopted"], said["rebuilt"]["report"]
    assert said["rebuilt"]["answer"] != said["first"]["events"]["answer"]


def test_a_method_is_a_folder(tmp_path, monkeypatch):
    assert {"published", "mass_histogram", "boosted_trees", "contrastive_flows"} <= set(METHODS)
    for name, summary in summaries().items():
        model = methods.FOLDER / name / "model.py"
        assert summary.endswith(".")
        assert not model.exists() or len(model.read_text(encoding="utf-8").splitlines()) <= 100
    monkeypatch.setattr(methods, "FOLDER", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "build.py").write_text('"""My own.\n\nMore.\n"""\n')
    (tmp_path / "notes").mkdir()
    assert summaries() == {"mine": "My own."}


def test_weights_of_another_method_are_refused_and_both_are_named(built):
    for make, folder, names in (
        (Model, built / "mass_histogram" / "weights", ("'mass_histogram'", "'sage' or 'published'")),
        (MassModel, built / "boosted_trees" / "weights", ("'boosted_trees'", "'mass_histogram'")),
        (MassModel, FIVE_WEIGHTS, ("'sage'", "'mass_histogram'")),
    ):
        with pytest.raises(WeightsError) as caught:
            make(weights=folder)
        message = str(caught.value)
        assert str(folder) in message
        assert all(name in message for name in names)
        assert "take model.py and weights from the same submission" in message
    for name in METHODS:
        assert read_bundle(built / name / "weights").method == name


def test_trees_against_scikit_learn():
    """Values on a coarse grid, so that many events lie exactly where a tree splits."""
    rng = np.random.default_rng(1)
    train, unseen = (np.round(rng.normal(size=(n, 35)), 1).astype(np.float32) for n in (4000, 1000))
    classes = (train[:, 0] + train[:, 1] ** 2 > 1).astype(int) + 2 * (train[:, 2] > 0.3)
    forest = HistGradientBoostingClassifier(max_iter=10, max_depth=4, early_stopping=False, random_state=1)
    forest.fit(train, classes)
    found = Trees(tree_arrays(forest), unscaled(read_config(DEFAULT_CONFIG))).of_inputs(unseen)
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
    default = read_bundle(FIVE_WEIGHTS)
    for name, parameter in default.network.items():
        np.testing.assert_array_equal(bundle.network[name], parameter)


def test_contrastive_flows_have_the_published_interval_as_a_setting(built):
    """The weights hold what either interval needs; where the signal is missing only the published fit ends at 0."""
    weights = built / "contrastive_flows" / "weights"
    bundles = {choice: read_bundle(weights, {"toy_interval": choice}) for choice in TOY_INTERVALS}
    assert read_bundle(weights).settings["toy_interval"] == "belt"
    nominal = bundles["belt"].templates.terms((1.0, 1.0, 0.0))[0]
    for mu in (-0.5, 1.0):
        counts = np.array([mu, 1.0, 1.0, 1.0]) @ nominal
        belt, published = (find_interval(counts, bundles[choice], NEVER) for choice in TOY_INTERVALS)
        assert belt.low < belt.fit.mu < belt.high
        assert 0.0 < published.low < published.fit.mu < published.high < 3.0
        assert belt.low < published.low


def test_coverage_of_either_interval_of_contrastive_flows(data, built, tmp_path):
    """The same toys: the published interval is never wider than its prior, the belt is free."""
    weights = str(built / "contrastive_flows" / "weights")
    given = ["--weights", weights, "--data", str(data), "--smooth", "--points", "4", "--toys", "5", "--mu", "0.1"]
    assert event_coverage.main([*given, "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / COVERAGE_FILE).read_text(encoding="utf-8"))
    assert list(found) == list(TOY_INTERVALS)
    belt, published = (one["mus"][0] for one in found.values())
    assert belt["failed"] == published["failed"] == 0
    assert belt["width"]["value"] > published["width"]["value"]
    assert published["width"]["value"] < 3.0


@pytest.mark.parametrize("name", METHODS)
def test_methods_measure(name, data, built, tmp_path):
    """Each runs as a submission and finds a signal strength from events, not a fall-back, in any number of workers."""
    settings = make_settings(1, 2, 5, NAMES, [1.0])
    found = []
    for workers in (1, 2) if name == "boosted_trees" else (1,):
        output = tmp_path / str(workers)
        run(RunOptions(data, built / name, output, settings, workers, test_size=0.5))
        records = sorted(read_records(output / EXPERIMENTS_FILE)[0], key=lambda record: record.index)
        assert len(records) == 2
        for record in records:
            assert record.result["status"] in ("ok", "flagged")
            assert record.result["n_events"] == record.events
            assert record.answer["p16"] < record.answer["mu_hat"] < record.answer["p84"]
        found.append([record.answer for record in records])
    assert found[0] == found[-1]


def test_a_build_goes_on_where_it_stopped(data, built):
    intermediate, folder = built / "build" / "mass_histogram", built / "mass_histogram"
    nodes = {path: path.stat().st_mtime_ns for path in intermediate.rglob("nodes/*.npz")}
    assert nodes
    tables = (folder / "weights" / "tables.npz").read_bytes()
    removed = min(nodes)
    removed.unlink()
    build("mass_histogram", Build(CONFIG, data, FIVE_WEIGHTS, folder, intermediate))
    assert (folder / "weights" / "tables.npz").read_bytes() == tables
    assert all(path.stat().st_mtime_ns == time for path, time in nodes.items() if path != removed)


def test_wrong_input_ends_with_one_line(tmp_path, capsys):
    given = ["--method", "mass_histogram", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert make_method.main(given) == 2
    assert capsys.readouterr().err.startswith("error: ")
