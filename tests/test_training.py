"""Settings, the training loop and its determinism."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from sage.challenge.features import derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select, shift
from sage.errors import SettingsError, WeightsError
from sage.network.dense import class_probabilities, from_arrays
from sage.network.engine import Engine
from sage.network.graph import INPUTS, WITH_DITAU, raw_inputs
from sage.network.parameters import stack, unstack
from sage.network.perceptron import widths_of
from scripts import train as program
from tests.events import DATA_FILE, METADATA_FILE, ROOT, columns_of, embedded_frame, small_data
from training.checkpoint import CHECKPOINT_FILE, LOSSES_FILE
from training.config import DEFAULT_CONFIG, Config, TablesConfig, TrainingConfig, read_config
from training.events import EventsFile
from training.inputs import draw_points
from training.losses import TrainingLoss
from training.networks import NETWORK_FILE, REPORT_FILE
from training.parallel import Processes, joined
from training.preparation import prepare
from training.sampling import HeldOut
from training.train import Trainer, train
from workshop.errors import UsageError
from workshop.files import read_arrays, write_arrays

SETTINGS = TrainingConfig(epochs=3, batch_size=256, points_per_batch=2, validation_points=2, learning_rate=1e-2)
CONFIG = Config(seed=5, training=SETTINGS)
HELD = HeldOut(CONFIG.seed, SETTINGS.validation_fraction)
ALONE = Processes(0, 1, torch.device("cpu"))


def trainer_of(config, data):
    """A trainer as ``train`` makes it."""
    file = EventsFile(data, config.table_fraction)
    return Trainer(config, file, prepare(file, file.rows("training"), HELD), ALONE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three thousand events."""
    return small_data(tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished small training: its folder and report."""
    folder = tmp_path_factory.mktemp("training")
    return folder, train(CONFIG, data, folder)


def test_loss_decreases(trained):
    _, report = trained
    losses = [entry["train"] for entry in report["losses"]]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.1
    assert report["losses"][-1]["validation"] < np.log(4)


def test_same_seed_gives_the_same_bits(trained, data, tmp_path):
    folder, report = trained
    again = train(CONFIG, data, tmp_path)
    assert again["losses"] == report["losses"]
    for name in (NETWORK_FILE, REPORT_FILE, CHECKPOINT_FILE):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_other_seed_gives_other_losses(trained, data, tmp_path):
    config = dataclasses.replace(CONFIG, seed=6, training=dataclasses.replace(SETTINGS, epochs=1))
    assert train(config, data, tmp_path)["losses"][0] != trained[1]["losses"][0]


@pytest.mark.parametrize("stop", [(1, 3), (2, 0)], ids=["in an epoch", "between epochs"])
def test_resumed_run_equals_the_uninterrupted_one(trained, data, tmp_path, monkeypatch, stop):
    whole = Trainer.step

    def interrupted(trainer, epoch, step, events):
        if (epoch, step) == stop:
            raise KeyboardInterrupt
        return whole(trainer, epoch, step, events)

    often = dataclasses.replace(CONFIG, training=dataclasses.replace(SETTINGS, checkpoint_minutes=0.0))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(often, data, tmp_path)
    assert not (tmp_path / NETWORK_FILE).exists()
    progress = json.loads(str(read_arrays(tmp_path / CHECKPOINT_FILE)["log"]))["progress"]
    assert (len(progress["epochs"]), progress["step"]) == stop
    steps = []
    monkeypatch.setattr(Trainer, "step", lambda *given: steps.append(given[1:3]) or whole(*given))
    train(CONFIG, data, tmp_path)
    assert steps[0] == stop
    for name in (NETWORK_FILE, REPORT_FILE, CHECKPOINT_FILE, LOSSES_FILE):
        assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes(), name


def test_resuming_a_finished_run_changes_nothing(trained, data, tmp_path, monkeypatch):
    folder, report = trained
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained again"))
    assert train(CONFIG, data, tmp_path / "copy") == report


def test_a_folder_of_other_settings_or_events_is_refused(trained, data, tmp_path):
    folder, _ = trained
    with pytest.raises(UsageError, match=r"other settings: seed \(there 5, now 9\)"):
        train(dataclasses.replace(CONFIG, seed=9), data, folder)
    with pytest.raises(UsageError, match=r"other settings: data \("):
        train(CONFIG, small_data(tmp_path, 2500), folder)
    short = dataclasses.replace(CONFIG, seed=9, training=dataclasses.replace(SETTINGS, epochs=1))
    shutil.copytree(folder, tmp_path / "copy")
    assert len(train(short, data, tmp_path / "copy", overwrite=True)["losses"]) == 1


def test_best_epoch_is_kept(trained, data):
    folder, report = trained
    checkpoint = read_arrays(folder / CHECKPOINT_FILE)
    network = read_arrays(folder / NETWORK_FILE)
    best = min(report["losses"], key=lambda entry: entry["validation"])["epoch"]
    kept = {name.removeprefix("best/"): array for name, array in checkpoint.items() if name.startswith("best/")}
    assert network.keys() == kept.keys()
    for name, array in network.items():
        np.testing.assert_array_equal(array, kept[name])
        assert array.dtype == np.float32
    trainer = trainer_of(CONFIG, data)
    trainer.network = from_arrays(kept)
    assert trainer.validate() == report["losses"][best]["validation"]


def test_classes_have_their_shares_of_the_weight(data):
    """Without inputs that tell, the probabilities that cost least are the shares."""
    file, shares = EventsFile(data, 0.5), (0.1, 0.6, 0.25, 0.05)
    preparation = prepare(file, file.rows("training"), HELD, shares=shares)
    events = file.read(file.rows("training"), HELD.others)
    columns, kept = select(shift(events.columns))
    assert len(columns["PRI_met"]) == preparation.n_selected
    classes = events.classes[kept]
    totals = np.bincount(classes, (events.weights * preparation.class_scale[events.classes])[kept])
    np.testing.assert_allclose(totals / totals.sum(), shares, rtol=1e-9)
    assert totals.sum() == pytest.approx(preparation.n_selected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("share_ztautau", 0.5, "together they are 1"),
        ("share_diboson", 0.0, "each is positive"),
        ("width", 12, "width is 12; it is a multiple of 8"),
        ("hidden", 24, "hidden is 24 and rounds is 3; hidden is one of 16, 32, 48, 64, rounds is from 1 to 4"),
        ("rounds", 5, "hidden is 32 and rounds is 5"),
        ("width", 264, "at most 256"),
        ("depth", 4, "depth is 4; it must be from 1 to 3"),
        ("dropout", 1.0, "share below 1"),
    ],
)
def test_settings_of_the_network_are_checked(name, value, message):
    with pytest.raises(SettingsError, match=message):
        TrainingConfig(**{name: value})


def test_a_perceptron_beside_the_graph_is_trained(data, tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=1, width=16, depth=1, dropout=0.2, inputs="ditau")
    train(dataclasses.replace(CONFIG, training=settings), data, tmp_path)
    arrays = read_arrays(tmp_path / NETWORK_FILE)
    assert widths_of(arrays) == (16,)
    assert arrays["perceptron.0.weight"].shape == (16, len(WITH_DITAU.columns))


def test_training_rows_are_not_those_of_the_tables(trained, data):
    rows = trained[1]["rows"]
    total = EventsFile(data, 0.5).total_rows
    assert rows["train"] == [total // 2, total]
    assert rows["used"] + rows["held_out"] == total - total // 2
    assert rows["held_out"] == pytest.approx(0.1 * total / 2, rel=0.3)


def test_constants_come_from_defined_values_of_selected_nominal_events(data):
    file = EventsFile(data, 0.5)
    rows = file.rows("training")
    preparation = prepare(file, rows, HELD)
    used = HELD.others(file.read(rows))
    frame = pd.read_parquet(data / DATA_FILE).iloc[rows.start :][used]
    events, kept = select(shift(columns_of(frame)))
    values, defined = raw_inputs(events, derived(events))
    assert preparation.n_selected == len(kept) < len(frame)
    for i in range(len(INPUTS)):
        column = values[defined[:, i], i].astype(np.float64)
        assert preparation.normalisation.mean[i] == pytest.approx(column.mean(), rel=1e-5, abs=1e-6)
        assert preparation.normalisation.std[i] == pytest.approx(column.std(), rel=1e-4)
    labels = frame["detailed_labels"].to_numpy()[kept]
    weights = file.read(rows, HELD.others).weights[kept]
    totals = [weights[labels == p].sum() * preparation.class_scale[k] for k, p in enumerate(PROCESSES)]
    np.testing.assert_allclose(totals, len(kept) / 4, rtol=1e-9)


def summed(objective, network, events):
    """Loss and weight at two points, all passes together."""
    passes = objective.passes(network, events, np.random.default_rng(3), 2)
    return np.sum([[float(loss.detach()), float(weight)] for loss, weight, _ in passes], axis=0)


def test_loss_is_the_weighted_mean_over_selected_events(data):
    """Event by event, one point at a time, with the measurement's own functions."""
    file = EventsFile(data, 0.5)
    events = next(file.stream(file.rows("training")))
    preparation = prepare(file, file.rows("training"), HELD)
    trainer = trainer_of(CONFIG, data)
    with torch.no_grad():
        total, weight = summed(TrainingLoss(CONFIG, preparation, ALONE), trainer.network, events)
    points = draw_points(np.random.default_rng(3), 2, len(events), torch.device("cpu"))
    expected, expected_weight = 0.0, 0.0
    constants = preparation.normalisation
    for k in range(2):
        point = [float(scale[k, 0]) for scale in points.scales]
        moved, rows = select(shift(events.columns, *point, noise=tuple(part[k].numpy() for part in points.noise)))
        moved = {name: column.astype(np.float32) for name, column in moved.items()}
        values, defined = raw_inputs(moved, derived(moved))
        inputs = np.where(defined, (values - constants.mean) / constants.std, 0.0).astype(np.float32)
        jets = np.stack([moved[f"PRI_jet_{jet}_pt"] > 0 for jet in ("leading", "subleading")], axis=1)
        with torch.no_grad():
            logits = trainer.network(torch.from_numpy(inputs), torch.from_numpy(jets.astype(np.float32)))
        classes = events.classes[rows]
        w = events.weights[rows] * preparation.class_scale[classes]
        losses = -torch.log_softmax(logits, dim=1).numpy()[np.arange(len(rows)), classes]
        expected, expected_weight = expected + (w * losses).sum(), expected_weight + w.sum()
    assert float(weight) == pytest.approx(expected_weight, rel=2e-3)
    assert float(total) / float(weight) == pytest.approx(expected / expected_weight, rel=2e-3)


def test_fifty_steps_repeat_bit_by_bit(data):
    """Losses of single steps, not only of epochs."""
    losses = []
    for _ in range(2):
        trainer = trainer_of(dataclasses.replace(CONFIG, training=dataclasses.replace(SETTINGS, batch_size=24)), data)
        losses.append([trainer.step(0, i, events) for i, events in zip(range(50), trainer.batches(0))])  # noqa: B905
    assert losses[0] == losses[1]
    assert len(losses[0]) == 50
    assert len({loss for loss, _ in losses[0]}) == 50


def test_gradient_does_not_depend_on_the_passes(data):
    gradients = []
    for rows in (65536, 256):
        trainer = trainer_of(
            dataclasses.replace(CONFIG, training=dataclasses.replace(SETTINGS, rows_per_pass=rows)), data
        )
        trainer.step(0, 0, next(trainer.batches(0)))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in trainer.network.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_bfloat16_changes_the_loss_little(data):
    losses = []
    for bf16 in (False, True):
        trainer = trainer_of(dataclasses.replace(CONFIG, training=dataclasses.replace(SETTINGS, bf16=bf16)), data)
        loss, weight = trainer.step(0, 0, next(trainer.batches(0)))
        losses.append(loss / weight)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_early_stop(data, tmp_path, monkeypatch):
    found = iter([3.0, 2.0, 2.5, 2.1, 1.0])
    monkeypatch.setattr(Trainer, "validate", lambda trainer: next(found))
    settings = dataclasses.replace(SETTINGS, epochs=5, patience=2, max_rows=20, points_per_batch=1)
    losses = train(dataclasses.replace(CONFIG, training=settings), data, tmp_path)["losses"]
    assert [entry["validation"] for entry in losses] == [3.0, 2.0, 2.5, 2.1]


def run_processes(arguments, n):
    """Run the training program under torchrun; returns its output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), "-m", "scripts.train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_two_processes_equal_one(data, tmp_path):
    """Same global batches, over gloo: losses to rounding, and equal parameters in both processes."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "seed: 5\ntraining: {epochs: 2, batch_size: 301, points_per_batch: 2, validation_points: 1, "
        "learning_rate: 0.001, rows_per_pass: 200}\n"
    )
    common = ["--config", path, "--data", data, "--threads", 1]
    train(read_config(path), data, tmp_path / "one")
    run_processes([*common, "--output", tmp_path / "two"], 2)
    one, two = (json.loads((tmp_path / name / REPORT_FILE).read_text())["losses"] for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert second["train"] == pytest.approx(first["train"], rel=1e-5)
        assert second["validation"] == pytest.approx(first["validation"], rel=1e-5)
    networks = [read_arrays(tmp_path / name / NETWORK_FILE) for name in ("one", "two")]
    for name, values in networks[0].items():
        np.testing.assert_allclose(networks[1][name], values, atol=1e-3)


def gradients_of_processes(rank, total, port, config, data, folder):
    """One of several processes: write its gradient and parameters after a step."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(total), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    file = EventsFile(data, config.table_fraction)
    with joined("cpu") as processes:
        trainer = Trainer(config, file, prepare(file, file.rows("training"), HELD), processes)
        loss, _ = trainer.step(0, 0, next(trainer.batches(0)))
        gradient = torch.cat([parameter.grad.flatten() for parameter in trainer.network.parameters()])
        values = torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])
        np.savez(folder / f"{rank}.npz", loss=loss, gradient=gradient, values=values)


def test_gradient_of_two_processes_is_that_of_one(data, tmp_path):
    config = dataclasses.replace(CONFIG, training=dataclasses.replace(SETTINGS, rows_per_pass=150))
    trainer = trainer_of(config, data)
    loss, _ = trainer.step(0, 0, next(trainer.batches(0)))
    expected = torch.cat([parameter.grad.flatten() for parameter in trainer.network.parameters()]).numpy()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(gradients_of_processes, (2, port, config, data, tmp_path), nprocs=2)
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in range(2))
    np.testing.assert_array_equal(first["values"], second["values"])
    np.testing.assert_array_equal(first["gradient"], second["gradient"])
    assert float(first["loss"]) == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(first["gradient"], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_networks_that_vote(data, tmp_path):
    """Different bootstraps, one file; the engine averages their logits."""
    settings = dataclasses.replace(SETTINGS, networks=3, epochs=1)
    report = train(dataclasses.replace(CONFIG, training=settings), data, tmp_path)
    assert [entry["network"] for entry in report["losses"]] == [0, 1, 2]
    stacked = read_arrays(tmp_path / NETWORK_FILE)
    members = unstack(stacked)
    assert len(members) == 3
    assert all(array.shape[0] == 3 for array in stacked.values())
    again = stack(members)
    for name, array in stacked.items():
        np.testing.assert_array_equal(again[name], array)
        assert not np.array_equal(array[0], array[1]) or name.endswith("mixing")
    values = np.random.default_rng(1).standard_normal((200, len(INPUTS))).astype(np.float32)
    jets = np.ones((200, 2), dtype=bool)
    logits = np.mean([np.log(class_probabilities(from_arrays(part), values, jets)) for part in members], axis=0)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for kind in ("native", "torch"):
        found = Engine(stacked, kind, threads=1).probabilities(values, jets)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.dtype == np.float32
    broken = {name: array[:2] if name == "gate.bias" else array for name, array in stacked.items()}
    with pytest.raises(WeightsError, match="different numbers of networks"):
        unstack(broken)


@pytest.mark.parametrize("distribution", ["uniform", "nominal"])
def test_other_distributions_of_points(distribution):
    points = draw_points(np.random.default_rng(1), 4000, 1, torch.device("cpu"), distribution)
    tes, jes, soft_met = (scale.squeeze(1).numpy() for scale in points.scales)
    if distribution == "nominal":
        assert (tes == 1).all()
        assert (jes == 1).all()
        assert (soft_met == 0).all()
        return
    for values, low, high in ((tes, 0.96, 1.04), (jes, 0.96, 1.04), (soft_met, 0.0, 5.0)):
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_points_follow_the_priors():
    points = draw_points(np.random.default_rng(1), 4000, 3, torch.device("cpu"))
    tes, jes, soft_met = (scale.squeeze(1).numpy() for scale in points.scales)
    for scale in (tes, jes):
        assert scale.mean() == pytest.approx(1.0, abs=1e-3)
        assert scale.std() == pytest.approx(0.01, rel=0.05)
    assert np.median(soft_met) == pytest.approx(1.0, rel=0.1)
    assert soft_met.max() == 5.0
    assert 0.03 < (soft_met == 5.0).mean() < 0.08
    assert points.noise[0].shape == (4000, 3)
    assert points.noise[0].std() == pytest.approx(1.0, rel=0.05)


def test_too_few_events_are_refused(tmp_path):
    frame = embedded_frame(3000)
    frame[frame["detailed_labels"] != "diboson"].head(600).to_parquet(tmp_path / DATA_FILE, index=False)
    (tmp_path / METADATA_FILE).write_text(json.dumps({"total_rows": 600, "sum_weights": 1.0}))
    with pytest.raises(ValueError, match="'diboson' is empty or constant in rows 300 to 600; train on more events"):
        train(CONFIG, tmp_path, tmp_path / "out")


def test_diverging_loss_is_reported(data, tmp_path):
    config = dataclasses.replace(CONFIG, training=dataclasses.replace(SETTINGS, learning_rate=1e9))
    with pytest.raises(ValueError, match=r"loss is (nan|inf) after step \d+ of epoch 0; lower learning_rate"):
        train(config, data, tmp_path)


@pytest.mark.parametrize("batch_size", [1, 1399])
def test_small_last_batch_does_no_harm(data, tmp_path, batch_size):
    """Batches of one event, most of which no nuisance point selects or which weigh next to nothing."""
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=batch_size, learning_rate=1e-3, points_per_batch=1)
    report = train(
        dataclasses.replace(CONFIG, table_fraction=0.9 if batch_size == 1 else 0.5, training=settings), data, tmp_path
    )
    assert np.isfinite(report["losses"][0]["validation"])


def test_command_line(data, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("training:\n  epochs: 1\n  points_per_batch: 1\n  validation_points: 1\n")
    given = ["--config", path, "--data", data, "--output", tmp_path / "out", "--seed", "11", "--threads", "1"]
    assert program.main([str(value) for value in given]) == 0
    report = json.loads((tmp_path / "out" / REPORT_FILE).read_text())
    assert report["config"]["seed"] == 11
    assert len(report["losses"]) == 1


def test_default_settings_are_read():
    config = read_config(DEFAULT_CONFIG, seed=17, device="cpu", region_set="published", workers=None)
    assert (config.seed, config.table_fraction, config.tables.region_set, config.workers) == (17, 0.5, "published", 1)
    assert config.training.epochs == 12
    assert isinstance(config.tables, TablesConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", r"config.yaml: unknown setting 'sed'; known are seed, table_fraction"),
        (
            "training:\n  epoch: 3",
            r"config.yaml: training: unknown setting 'epoch'; known are inputs, hidden, rounds",
        ),
        ("seed: one", r"setting 'seed' is 'one'; it must be of type int"),
        ("seed: 1.5", r"setting 'seed' is 1.5; it must be of type int"),
        ("seed: true", r"setting 'seed' is True; it must be of type int"),
        ("training:\n  inputs: all", r"inputs is 'all'; choose one of published, ditau"),
        ("training: 3", r"training: got 3; a section is a mapping"),
        ("training:\n  learning_rate: 1e-3", r"'learning_rate' is '1e-3'; it must be of type float"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(path)


def test_whole_numbers_are_floats_too(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("tables:\n  min_count: 3\n")
    assert read_config(path).tables == TablesConfig(min_count=3.0)
    path.write_text("")
    assert read_config(path) == Config()


def test_equal_arrays_give_equal_bytes(tmp_path, monkeypatch):
    arrays = {"a": np.arange(5.0), "b": np.ones((2, 3), np.float32)}
    write_arrays(tmp_path / "one.npz", arrays)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_arrays(tmp_path / "two.npz", arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
