"""The network of scores: its loss against a loop, its training, and weights with it all the way to an answer."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from model import Model
from sage.binned.score import SHAPE_SCORES, copies
from sage.challenge.features import derived
from sage.challenge.nuisances import CHALLENGE, NAMES
from sage.challenge.shifts import select, shift
from sage.errors import SettingsError, WeightsError
from sage.files.bundle import read_bundle
from sage.network.classifier import NetworkClassifier
from sage.network.dense import ScoreNetwork
from sage.network.graph import PUBLISHED, jets_present, normalise, raw_inputs
from sage.network.parameters import SCORES, split
from sage.network.perceptron import Perceptron, widths_of
from tests.events import columns_of, drawn_frame, embedded_frame, full_weights, small_data
from tests.test_build_tables import CONFIG
from tests.test_manifest import edit_arrays, edit_manifest
from training.checkpoint import CHECKPOINT_FILE
from training.config import Config, ScoresConfig, TablesConfig, read_config
from training.events import EventsFile
from training.make_weights import make_weights
from training.networks import NETWORK_FILE, REPORT_FILE, read_shares
from training.parallel import Processes
from training.preparation import prepare
from training.sampling import HeldOut
from training.scores import ScoreLoss, as_scores, settings_of
from training.train import Trainer, train
from workshop.files import read_arrays

SHAPES = [nuisance for nuisance in CHALLENGE if nuisance.kind == "shape"]
SCORED = dataclasses.replace(
    CONFIG,
    scores=ScoresConfig(networks=1, epochs=2, batch_size=256, learning_rate=3e-3),
    tables=TablesConfig(
        region_set="score", uniform_bins=12, min_count=10.0, min_count_each=False, nodes=30, noise_draws=2
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three thousand events."""
    return small_data(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    """The whole way: training of classes and scores, tables in bins of the efficient score, weights."""
    folder = tmp_path_factory.mktemp("scores")
    make_weights(SCORED, data, folder, folder / "weights")
    return folder


def test_loss_against_a_loop_over_copies(data):
    """Straight through the functions of the measurement: numpy shifts, features and selection."""
    config = settings_of(SCORED)
    file = EventsFile(data, 0.0)
    preparation = prepare(file, file.rows("training"), HeldOut(1, 0.1))
    events = file.read(range(300))
    torch.manual_seed(3)
    network = ScoreNetwork(preparation.normalisation.inputs, (16,)).eval()
    loss = ScoreLoss(config, preparation, Processes(0, 1, torch.device("cpu")))
    noise = np.random.default_rng(8).standard_normal((2, len(events)), dtype=np.float32)
    expected, weight = 0.0, 0.0
    for k, nuisance in enumerate(SHAPES):
        for side, alpha in zip((1.0, -1.0), copies(nuisance, 3.0), strict=False):
            point = [other.nominal for other in SHAPES]
            point[k] = alpha
            moved, kept = select(shift(events.columns, *point, noise=(noise[0], noise[1])))
            moved = {name: column.astype(np.float32) for name, column in moved.items()}
            values, defined = raw_inputs(moved, derived(moved), preparation.normalisation.inputs)
            inputs = torch.from_numpy(normalise(values, defined, preparation.normalisation))
            with torch.no_grad():
                logits = network(inputs, torch.from_numpy(jets_present(moved).astype(np.float32))).numpy()
            t = logits[:, k].astype(np.float64)
            w = events.weights[kept]
            expected += (w * np.log1p(np.exp(side * t))).sum()
            weight += w.sum()
    for at_once in (1, 10**6):
        loss._settings = dataclasses.replace(config.training, rows_per_pass=at_once)
        found = list(loss.passes(network, events, np.random.default_rng(8), 1))
        assert [more for *_, more in found] == ([True, True, False] if at_once == 1 else [False])
        total, mass = (sum(part[i].item() for part in found) for i in (0, 1))
        assert total / mass == pytest.approx(expected / weight, rel=1e-5)


def test_last_layer_becomes_scores():
    """A logit becomes the score: log ratio of the copies, divided by their distance."""
    torch.manual_seed(1)
    parameters = {name: value.numpy() for name, value in ScoreNetwork(PUBLISHED, (8, 16)).state_dict().items()}
    values = np.random.default_rng(1).normal(size=(5, len(PUBLISHED.columns))).astype(np.float32)
    before, after = (Perceptron(arrays)(values) for arrays in (parameters, as_scores(parameters, 3.0)))
    np.testing.assert_allclose(after, before * [1 / 6, 1 / 6, 2 / 9], atol=1e-6)


def test_training_learns_and_resumes(built, data, tmp_path, monkeypatch):
    report = json.loads((built / "training" / REPORT_FILE).read_text())
    losses = report["score_losses"]
    assert len(losses) == 2
    assert losses[-1]["train"] < losses[0]["train"]
    assert (built / "training" / SCORES / CHECKPOINT_FILE).exists()
    whole = Trainer.step

    def interrupted(trainer, epoch, step, events):
        if isinstance(trainer.objective, ScoreLoss) and (epoch, step) == (1, 2):
            raise KeyboardInterrupt
        return whole(trainer, epoch, step, events)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(SCORED, data, tmp_path)
    assert not (tmp_path / NETWORK_FILE).exists()
    train(SCORED, data, tmp_path)
    for name in (NETWORK_FILE, REPORT_FILE):
        assert (tmp_path / name).read_bytes() == (built / "training" / name).read_bytes()


def test_classes_are_what_they_are_without_scores(built, data, tmp_path):
    train(dataclasses.replace(SCORED, scores=ScoresConfig()), data, tmp_path)
    classes, scores = split(read_arrays(built / "training" / NETWORK_FILE))
    alone = read_arrays(tmp_path / NETWORK_FILE)
    assert classes.keys() == alone.keys()
    assert widths_of(scores) == (64,)
    for name, array in alone.items():
        np.testing.assert_array_equal(classes[name], array)
    assert "score_losses" not in json.loads((tmp_path / REPORT_FILE).read_text())


def test_weights_measure(built):
    bundle = read_bundle(built / "weights")
    regions = bundle.regions
    assert regions.name == "score"
    assert set(regions.score.needs) == set(SHAPE_SCORES)
    assert 1 < regions.n_bins <= 12
    report = json.loads((built / "tables" / "report.json").read_text())
    assert report["efficient_score"]["sigma"] > 0.0
    assert np.isclose(sum(regions.score.yields), bundle.response.nominal.sum(), rtol=0.02)
    model = Model(weights=built / "weights")
    frame = drawn_frame(20_000, 1)
    answer = model.predict({"data": frame, "weights": full_weights(len(frame))})
    assert all(np.isfinite(value) for value in answer.values())
    assert model.last_result.status != "fallback"


def test_kernel_and_torch_agree(built):
    bundle = read_bundle(built / "weights")
    events = {
        name: column.astype(np.float32) for name, column in select(shift(columns_of(embedded_frame(2000))))[0].items()
    }
    native, dense = (
        NetworkClassifier(bundle.network, bundle.normalisation, kind, 1).outputs(events, derived(events))
        for kind in ("native", "torch")
    )
    assert native.shape[1] == 4 + len(SHAPES)
    assert np.abs(native - dense).max() < 1e-5


def test_weights_without_the_network_of_scores_are_refused(built, tmp_path):
    shutil.copytree(built / "weights", tmp_path / "weights")
    edit_arrays(
        tmp_path / "weights",
        NETWORK_FILE,
        lambda arrays: [arrays.pop(name) for name in list(arrays) if name.startswith(SCORES)],
    )
    with pytest.raises(WeightsError, match="has no network of scores"):
        Model(weights=tmp_path / "weights")
    edit_manifest(
        tmp_path / "weights",
        lambda m: m["region_set"]["efficient_score"].update(coefficients=dict.fromkeys(NAMES, 0.0)),
    )
    assert Model(weights=tmp_path / "weights").bundle.regions.needs == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{networks: -1}", "networks is -1"),
        ("{distance: 6}", "distance is 6.0"),
        ("{distance: 0}", "distance is 0.0"),
        ("{epochs: 0}", "epochs is 0"),
        ("{learning_rate: .nan}", "learning_rate is nan"),
        ("{width: 12}", "width is 12"),
        ("{width: 0}", "width is 0"),
        ("{height: 1}", "unknown setting 'height'"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(f"scores: {text}\n")
    with pytest.raises(SettingsError, match=message):
        read_config(path)


def test_off_by_default():
    assert Config().scores.networks == 0


def test_scores_for_a_network_that_is_there(built, data, tmp_path):
    """The classes keep their bits and constants; report and manifest say what trained which."""
    report = train(SCORED, data, tmp_path / "more", network=built / "weights")
    classes, scores = split(read_arrays(tmp_path / "more" / NETWORK_FILE))
    before, others = split(read_arrays(built / "training" / NETWORK_FILE))
    for name, array in before.items():
        np.testing.assert_array_equal(classes[name], array)
    # The same events, settings and seed: the same scores.
    assert all(np.array_equal(scores[name], array) for name, array in others.items())
    known = json.loads((built / "training" / REPORT_FILE).read_text())
    assert report["normalisation"] == known["normalisation"]
    assert report["score_losses"] == known["score_losses"]
    assert report["scores"]["data"] == known["data"]
    assert read_shares(tmp_path / "more") == read_shares(built / "training")
    with pytest.raises(SettingsError, match="no network of scores asked for"):
        train(dataclasses.replace(SCORED, scores=ScoresConfig()), data, tmp_path / "none", network=built / "weights")
