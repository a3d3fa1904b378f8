"""The ditau inputs all the way: training, weights, the measurement on them, and who refuses what."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from model import Model
from sage.challenge.features import derived
from sage.challenge.shifts import select, shift
from sage.errors import InputError, WeightsError
from sage.files.bundle import read_bundle
from sage.network.classifier import NetworkClassifier
from sage.network.graph import PUBLISHED, WITH_DITAU, raw_inputs
from sage.network.inputs import network_inputs
from tests.events import FIVE_WEIGHTS, columns_of, drawn_frame, embedded_frame, full_weights, small_data
from tests.test_build_tables import CONFIG
from tests.test_manifest import edit_manifest
from training.make_weights import make_weights
from training.networks import read_network


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A build folder with a small training of the ditau inputs, and weights from it."""
    folder = tmp_path_factory.mktemp("ditau")
    config = replace(CONFIG, training=replace(CONFIG.training, inputs="ditau"))
    make_weights(config, small_data(tmp_path_factory.mktemp("events")), folder, folder / "weights")
    return folder


def test_manifest_and_report_say_which_inputs(built):
    manifest = json.loads((built / "weights" / "manifest.json").read_text())
    assert tuple(manifest["inputs"]) == WITH_DITAU.columns
    assert manifest["origin"]["config"]["training"]["inputs"] == "ditau"
    assert read_bundle(built / "weights").normalisation.inputs is WITH_DITAU
    for folder in (built / "weights", built / "training"):
        assert read_network(folder)[1].inputs is WITH_DITAU
    assert read_network(FIVE_WEIGHTS)[1].inputs is PUBLISHED


def test_training_report_without_inputs_has_the_published_ones(built, tmp_path):
    shutil.copytree(built / "training", tmp_path / "training")
    path = tmp_path / "training" / "training.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in report.items() if key != "inputs"}))
    assert read_network(tmp_path / "training")[1].inputs is PUBLISHED
    path.write_text(json.dumps(report | {"inputs": ["PRI_met"]}))
    with pytest.raises(InputError, match=r"are none of those of this code, \['published', 'ditau'\]"):
        read_network(tmp_path / "training")


def test_kernel_and_torch_agree_on_events(built):
    bundle = read_bundle(built / "weights")
    events = {
        name: column.astype(np.float32) for name, column in select(shift(columns_of(embedded_frame(3000))))[0].items()
    }
    found = {
        kind: NetworkClassifier(bundle.network, bundle.normalisation, kind, 1).outputs(events, derived(events))
        for kind in ("native", "torch")
    }
    assert found["native"].std(axis=0).min() > 0.005
    assert np.abs(found["native"] - found["torch"]).max() < 1e-5


def test_measures(built):
    model = Model(weights=built / "weights")
    frame = drawn_frame(20_000, 1)
    answer = model.predict({"data": frame, "weights": full_weights(len(frame))})
    assert all(np.isfinite(value) for value in answer.values())
    assert not any("engine" in flag for flag in model.last_result.flags)


def test_measures_the_same_after_pickling(built):
    """As the challenge's workers receive it."""
    model = Model(weights=built / "weights")
    frame = drawn_frame(20_000, 1)
    test_set = {"data": frame, "weights": full_weights(len(frame))}
    expected = model.predict(test_set), model.last_result.flags
    restored = pickle.loads(pickle.dumps(model))
    assert (restored.predict(test_set), restored.last_result.flags) == expected


@pytest.mark.parametrize("columns", [PUBLISHED.columns, WITH_DITAU.columns[::-1], [*WITH_DITAU.columns, "PRI_met"]])
def test_other_inputs_than_the_network_has_are_refused(built, tmp_path, columns):
    shutil.copytree(built / "weights", tmp_path / "weights")
    edit_manifest(tmp_path / "weights", lambda manifest: manifest.update(inputs=list(columns)))
    with pytest.raises(WeightsError, match=r"inputs|normalisation must be 35"):
        Model(weights=tmp_path / "weights")


def test_published_constants_do_not_make_a_published_network(built, tmp_path):
    shutil.copytree(built / "weights", tmp_path / "weights")

    def change(manifest):
        manifest["inputs"] = list(PUBLISHED.columns)
        manifest["normalisation"] = {key: values[:35] for key, values in manifest["normalisation"].items()}

    edit_manifest(tmp_path / "weights", change)
    with pytest.raises(WeightsError, match=r"'uncertainty\.global_expander\.weight' does not fit"):
        Model(weights=tmp_path / "weights")


def test_inputs_are_known_in_other_processes(built):
    """Workers get a copy of the choice of inputs."""
    normalisation = pickle.loads(pickle.dumps(read_network(built / "training")[1]))
    events, _ = select(shift(columns_of(embedded_frame(200))))
    values, _ = raw_inputs(events, derived(events), normalisation.inputs)
    assert np.isfinite(values[:, -1]).all()
    found, _ = network_inputs(events, {}, normalisation)
    assert np.isfinite(found).all()
