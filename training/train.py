"""Train the network at random nuisance points (arXiv:2509.00672).

Every batch is seen at several points (tes, jes, soft_met) drawn afresh, by default from the distribution of the
pseudo-experiments: tes and jes normal around 1 with width 0.01, soft_met log-normal (0, 1) cut at 5 GeV. The loss is
the cross entropy of the four classes, averaged over the points, each class with the total weight that the settings give
it, by default the same for all. An event that fails the shifted
selection has weight 0. The best epoch by the loss on held-out events at fixed points is kept.

Equal seed and threads give bitwise equal results on a CPU, also across an interruption: every random draw is keyed by
seed, network, epoch and step, so the position in a checkpoint is the state of all generators. A resumed run reads the
events up to that position again. Processes started by ``torchrun`` share the events of each batch and differ from one
process by rounding only. bfloat16 and GPUs are behind the settings but have not been run.

Writes ``network.npz`` (parameters, float32), ``training.json`` (settings, losses, feature constants, versions) and, as
it goes, ``losses.json`` and a checkpoint.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from sage import __version__
from sage.challenge.nuisances import PROCESSES
from sage.errors import SettingsError
from sage.network.graph import INPUT_SETS
from sage.network.parameters import SCORES, split, stack
from training.checkpoint import CHECKPOINT_FILE, Progress, read_checkpoint, write_checkpoint
from training.config import Config
from training.events import Events, EventsFile
from training.losses import Loss, TrainingLoss
from training.networks import NETWORK_FILE, REPORT_FILE, description_of, read_network
from training.parallel import Processes, joined
from training.preparation import Preparation, prepare
from training.sampling import BOOTSTRAP, HeldOut, Thinning, poisson
from training.scores import ScoreLoss, as_scores, settings_of
from workshop.claims import claimed
from workshop.files import sha256, write_arrays, write_json

ORDER, POINTS, VALIDATION = range(3)
"""What random numbers are for; part of their key, after the seed."""

log = logging.getLogger("sage.training.train")


class Trainer:
    """Network, optimiser and progress, with everything needed to stop and go on.

    Args:
        config: The settings.
        file: Events; the rows after the table part are used.
        preparation: Feature constants and class weights of those events.
        processes: This process among those that train together.
        member: Number of the network, if several are trained.
        make_loss: Makes the loss of settings, preparation and processes.
    """

    def __init__(
        self,
        config: Config,
        file: EventsFile,
        preparation: Preparation,
        processes: Processes,
        member: int = 0,
        make_loss: Callable[[Config, Preparation, Processes], Loss] = TrainingLoss,
    ) -> None:
        self.config, self.file, self.member, self.processes = config, file, member, processes
        settings = config.training
        self.rows = file.rows("training")
        self.held_out = HeldOut(config.seed, settings.validation_fraction)
        self.objective = make_loss(config, preparation, processes)
        wanted = np.full(len(PROCESSES), settings.max_rows or math.inf)
        self.fractions = np.minimum(1.0, wanted / preparation.rows)
        self.steps_per_epoch = math.ceil(float(self.fractions @ preparation.rows) / settings.batch_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + member)
            self.network = self.objective.network().to(processes.device)
        self.parallel = DistributedDataParallel(self.network) if processes.total > 1 else None
        self.optimiser = torch.optim.AdamW(self.network.parameters(), weight_decay=settings.weight_decay)
        self.best = self.parameters()
        self.progress = Progress()

    def parameters(self) -> dict[str, np.ndarray]:
        """Return a copy of the network's parameters by name."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.network.state_dict().items()}

    def run(self, folder: Path) -> None:
        """Train the epochs that are left, writing a checkpoint after each and every few minutes."""
        settings, progress = self.config.training, self.progress
        saved = time.monotonic()
        while not self.finished():
            epoch = len(progress.epochs)
            self.network.train()
            for events in tqdm(
                islice(self.batches(epoch), progress.step, None),
                f"epoch {epoch}",
                self.steps_per_epoch,
                initial=progress.step,
                disable=None if self.processes.rank == 0 else True,
                leave=False,
            ):
                loss, weight = self.step(epoch, progress.step, events)
                progress.add(loss, weight)
                if not math.isfinite(loss):
                    msg = (
                        f"loss is {loss} after step {progress.step - 1} of epoch {epoch}; "
                        "lower learning_rate or raise batch_size"
                    )
                    raise SettingsError(msg)
                if time.monotonic() - saved > 60.0 * settings.checkpoint_minutes:
                    self.save(folder)
                    saved = time.monotonic()
            entry = {"epoch": epoch, "train": progress.sums[0] / progress.sums[1], "validation": self.validate()}
            if all(entry["validation"] < earlier["validation"] for earlier in progress.epochs):
                self.best = self.parameters()
            progress.epochs.append(entry)
            progress.step, progress.sums = 0, [0.0, 0.0]
            self.save(folder)
            if self.processes.rank == 0:
                log.info("epoch %d: loss %.5f, held out %.5f", epoch, entry["train"], entry["validation"])

    def finished(self) -> bool:
        """Tell whether all epochs are done or the held-out loss has stopped falling."""
        losses = [entry["validation"] for entry in self.progress.epochs]
        if len(losses) >= self.config.training.epochs:
            return True
        return bool(losses) and len(losses) - 1 - int(np.argmin(losses)) >= self.config.training.patience

    def batches(self, epoch: int) -> Iterator[Events]:
        """Yield the events of an epoch, in an order and of a choice that belong to it, with their weights."""
        settings, key = self.config.training, (self.config.seed, self.member, epoch)
        keep = Thinning(self.held_out, self.fractions, key)
        order = np.random.default_rng([ORDER, *key])
        for events in self.file.batches(self.rows, settings.batch_size, settings.pool_rows, order, keep):
            weights = events.weights / self.fractions[events.classes]
            if settings.networks > 1:
                weights = weights * poisson(events.keys, BOOTSTRAP, self.config.seed, self.member)
            yield Events(events.columns, weights, events.classes, events.keys)

    def step(self, epoch: int, step: int, events: Events) -> tuple[float, float]:
        """Take one optimiser step.

        Returns:
            The weighted sum of the loss over all processes, and the weight.
        """
        settings, total = self.config.training, self.processes.total
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(epoch * self.steps_per_epoch + step)
        self.optimiser.zero_grad()
        rng = np.random.default_rng([POINTS, self.config.seed, self.member, epoch, step])
        sums = torch.zeros(2, dtype=torch.float64, device=self.processes.device)
        network = self.network if self.parallel is None else self.parallel
        passes = self.objective.passes(network, events, rng, settings.points_per_batch)
        for loss, weight, more in passes:
            # Only the last pass sends gradients to the other processes.
            with self.parallel.no_sync() if self.parallel is not None and more else nullcontext():
                loss.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([loss.detach(), weight]).double()
        loss_sum, weight_sum = self.processes.add_up(sums).tolist()
        # Weights average to 1. Their sum in a small last batch may be 0, and such a batch deserves a small step.
        least = 0.5 * settings.batch_size * self.objective.copies
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                # Gradients arrive as the mean over the processes.
                parameter.grad *= total / max(weight_sum, least)
        self.optimiser.step()
        return loss_sum, weight_sum

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean loss on the held-out events at the fixed points."""
        self.network.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.processes.device)
        for i, events in enumerate(self.file.stream(self.rows, keep=self.held_out)):
            rng = np.random.default_rng([VALIDATION, self.config.seed, i])
            for loss, weight, _ in self.objective.passes(
                self.network, events, rng, self.config.training.validation_points
            ):
                sums += torch.stack([loss, weight]).double()
        loss_sum, weight_sum = self.processes.add_up(sums).tolist()
        if not weight_sum > 0.0:
            msg = f"no event in rows {self.rows.start} to {self.rows.stop} is held out; raise validation_fraction"
            raise SettingsError(msg)
        return float(loss_sum / weight_sum)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step: linear rise, then a cosine down to 0."""
        settings = self.config.training
        total = settings.epochs * self.steps_per_epoch
        rise = max(1.0, settings.warmup * total)
        if step < rise:
            return settings.learning_rate * (step + 1) / rise
        return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - rise) / (total - rise))))

    def save(self, folder: Path) -> None:
        """Write a checkpoint and the losses so far."""
        if self.processes.rank == 0:
            write_checkpoint(folder, self.network.state_dict(), self.best, self.optimiser, self.progress)

    def load(self, folder: Path) -> None:
        """Go on from the checkpoint in a folder."""
        network, self.best, self.progress = read_checkpoint(folder, self.optimiser)
        self.network.load_state_dict({name: torch.from_numpy(array) for name, array in network.items()})


def versions() -> dict[str, str]:
    """Return the versions that decide the result."""
    return {
        "sage": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
    }


def train(
    config: Config, data: Path, output: Path, overwrite: bool = False, network: Path | None = None
) -> dict[str, Any]:
    """Train the network, or several, and write them; goes on from the checkpoint in ``output`` if there is one.

    Args:
        config: The settings.
        data: Folder of the events file.
        output: Folder that receives ``network.npz``, ``training.json`` and, in a folder of its own for each network
            if there are several, checkpoint and losses.
        overwrite: Throw away what ``output`` holds of an earlier training.
        network: Folder of a training, or of weights, whose network of classes is taken with its feature constants;
            only networks of scores are trained. None to train both.

    Returns:
        The content of ``training.json``.

    Raises:
        UsageError: If the folder holds another training, something else, or is in use.
        SettingsError: If there is nothing to train.
    """
    if network is not None and config.scores.networks == 0:
        msg = "a network of classes is given and no network of scores asked for; set networks of section scores"
        raise SettingsError(msg)
    torch.set_num_threads(config.threads)
    file = EventsFile(data, config.table_fraction)
    source = {"file": file.path.name, "sha256": sha256(file.path)}
    with joined(config.training.device) as processes:
        checkpoints = [f"{part}{CHECKPOINT_FILE}" for part in ("", "network_*/", SCORES, f"{SCORES}network_*/")]
        results = (*checkpoints, NETWORK_FILE, REPORT_FILE)
        claim = claimed(output, _identity(config, source, network), results=results, overwrite=overwrite)
        with claim if processes.rank == 0 else nullcontext():
            processes.wait()
            return _train(config, file, output, source, processes, network)


def _identity(config: Config, source: dict[str, str], network: Path | None) -> dict[str, Any]:
    """Return what decides the result."""
    training = {name: value for name, value in asdict(config.training).items() if name != "checkpoint_minutes"}
    scores: dict[str, Any] = {"scores": asdict(config.scores)} if config.scores.networks else {}
    if network is not None:
        scores["network"] = sha256(network / NETWORK_FILE)
    return {
        "data": source["sha256"],
        "seed": config.seed,
        "table_fraction": config.table_fraction,
        **training,
        **scores,
    }


def _train(
    config: Config,
    file: EventsFile,
    output: Path,
    source: dict[str, str],
    processes: Processes,
    network: Path | None,
) -> dict[str, Any]:
    settings = config.training
    rows, held_out = file.rows("training"), HeldOut(config.seed, settings.validation_fraction)
    if network is None:
        preparation = prepare(file, rows, held_out, INPUT_SETS[settings.inputs], settings.shares())
        trained, losses = _members(config, file, output, preparation, processes)
        arrays = stack(trained)
    else:
        parameters, normalisation = read_network(network)
        arrays = split(parameters)[0]
        preparation = prepare(file, rows, held_out, normalisation.inputs)
        preparation = replace(preparation, normalisation=normalisation)
    constants = preparation.normalisation
    report: dict[str, Any] = {
        "config": asdict(config),
        "data": source,
        "rows": {
            "train": [rows.start, rows.stop],
            "used": int(preparation.rows.sum()),
            "held_out": len(rows) - int(preparation.rows.sum()),
            "selected": preparation.n_selected,
        },
        "inputs": list(constants.inputs.columns),
        "normalisation": {"mean": constants.mean.tolist(), "std": constants.std.tolist()},
        "versions": versions(),
    }
    if network is None:
        report["losses"] = losses
    else:
        # What the network of classes was trained with, and what that of scores was.
        origin = description_of(network)
        origin = origin.get("origin", origin)
        report["scores"] = {name: report[name] for name in ("data", "rows")}
        report |= {name: origin[name] for name in ("data", "rows")}
        report["config"]["training"] = origin["config"]["training"]
    if config.scores.networks:
        trained, report["score_losses"] = _members(
            settings_of(config), file, output / SCORES, preparation, processes, settings.networks, ScoreLoss
        )
        scores = stack([as_scores(network, config.scores.distance) for network in trained])
        arrays |= {SCORES + name: value for name, value in scores.items()}
    if processes.rank == 0:
        write_arrays(output / NETWORK_FILE, arrays)
        write_json(output / REPORT_FILE, report)
    processes.wait()
    return report


def _members(
    config: Config,
    file: EventsFile,
    output: Path,
    preparation: Preparation,
    processes: Processes,
    first: int = 0,
    make_loss: Callable[[Config, Preparation, Processes], Loss] = TrainingLoss,
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, Any]]]:
    """Train the networks that vote together, numbered from ``first`` on; return their best parameters and losses."""
    trained: list[dict[str, np.ndarray]] = []
    losses: list[dict[str, Any]] = []
    for member in range(config.training.networks):
        folder = output if config.training.networks == 1 else output / f"network_{member}"
        trainer = Trainer(config, file, preparation, processes, first + member, make_loss)
        if (folder / CHECKPOINT_FILE).exists():
            trainer.load(folder)
        # Nobody overwrites the checkpoint before all have read it.
        processes.wait()
        trainer.run(folder)
        trained.append(trainer.best)
        losses += [{"network": member, **entry} for entry in trainer.progress.epochs]
    return trained, losses
