"""Nothing of an event reaches where it must not: shuffled labels teach nothing, and no two pools share a row."""

from __future__ import annotations

import hashlib
import json
from itertools import combinations

import numpy as np
import pytest

from harness.test_set import EventFile
from sage.challenge.features import derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.network.engine import Engine
from sage.network.graph import jets_present, normalise, raw_inputs
from tests.events import DATA, DATA_FILE, METADATA_FILE, embedded_frame
from training.config import Config, TrainingConfig
from training.events import EventsFile
from training.metrics import auc
from training.networks import read_network
from training.sampling import HeldOut
from training.train import Trainer, train

ROWS, TRAINED = 48_000, 2_000
SETTINGS = TrainingConfig(
    epochs=30,
    batch_size=256,
    points="nominal",
    points_per_batch=1,
    validation_points=1,
    learning_rate=1e-2,
)


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    """Events whose labels say nothing about them, equally many of each process and all of one weight."""
    folder = tmp_path_factory.mktemp("shuffled")
    labels = np.resize(PROCESSES, ROWS)
    np.random.default_rng(3).shuffle(labels)
    frame = embedded_frame(ROWS).assign(detailed_labels=labels, labels=(labels == "htautau") * 1.0, weights=1.0)
    frame.to_parquet(folder / DATA_FILE, row_group_size=10_000, index=False)
    (folder / METADATA_FILE).write_text(json.dumps({"total_rows": ROWS, "sum_weights": float(ROWS)}))
    return folder


def test_shuffled_labels_teach_nothing_about_other_events(shuffled, tmp_path, monkeypatch):
    """The network learns the few events it is trained on by heart, and nothing of the 46 000 others."""
    # Every epoch counts as better than the one before, else the untrained network would be kept.
    monkeypatch.setattr(Trainer, "validate", lambda trainer: -float(len(trainer.progress.epochs)))
    config = Config(seed=1, table_fraction=1 - TRAINED / ROWS, training=SETTINGS)
    train(config, shuffled, tmp_path)
    file, held_out = EventsFile(shuffled, config.table_fraction), HeldOut(config.seed, SETTINGS.validation_fraction)
    parameters, constants = read_network(tmp_path)
    engine = Engine(parameters, threads=1)

    def signal_auc(events):
        values, defined = raw_inputs(events.columns, derived(events.columns))
        scores = engine.probabilities(normalise(values, defined, constants), jets_present(events.columns))[:, 0]
        return auc(scores, events.classes == 0, events.weights)

    assert signal_auc(file.read(file.rows("training"), held_out.others)) > 0.55
    assert signal_auc(file.read(file.rows("tables"))) == pytest.approx(0.5, abs=0.01)


def row_hashes(columns):
    values = np.stack([np.asarray(columns[name], dtype=np.float32) for name in PRIMARIES], axis=1)
    return {hashlib.sha256(row.tobytes()).digest() for row in values}


def test_no_row_is_in_two_pools():
    """Training, choice of the epoch, and tables; and what the harness draws from, against what it offers fit()."""
    file, held_out, events = EventsFile(DATA, 0.5), HeldOut(1, 0.1), EventFile(DATA, 0.5)
    pools = {
        "training": row_hashes(file.read(file.rows("training"), held_out.others).columns),
        "choice of the epoch": row_hashes(file.read(file.rows("training"), held_out).columns),
        "tables": row_hashes(file.read(file.rows("tables")).columns),
    }
    for (first, one), (second, other) in combinations(pools.items(), 2):
        assert len(one) > 5000
        assert not one & other, (first, second)
    drawn = set().union(*(row_hashes(frame) for frame in events.load_test_set().values()))
    offered = row_hashes(events.load_train_set())
    assert drawn == pools["tables"]
    assert offered == pools["training"] | pools["choice of the epoch"]
