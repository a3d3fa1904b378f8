"""Train the network at random nuisance points (arXiv:2509.00672).

    python -m training.train --data data --output build/training
    python -m training.train --data data --output build/training --resume

Every batch is seen at several points (tes, jes, soft_met) drawn afresh from the distributions of the
pseudo-experiments; the loss is the cross entropy of the four classes, averaged over them, each class with the same
total weight so that rare ones are learnt as well; their true proportions enter the last bias afterwards. An event that
fails the shifted selection has weight 0. The best epoch by the loss on held-out events at fixed points is kept. Equal
seed and threads give bitwise equal results on a CPU, also across an interruption: all random draws are keyed by seed,
epoch and step.

Writes ``network.npz`` (parameters, float32) and ``training.json`` (settings, losses, feature constants, versions).
"""

from __future__ import annotations

import json
import logging
import math
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from sage import __version__
from sage.graph import INPUTS, Normalisation, raw_inputs
from sage.network import DualBranchNetwork
from sage.nuisances import PROCESSES
from sage.shifts import select, shift
from training.config import Config, chosen_config, command_line
from training.dataset import Events, EventsFile
from training.files import read_arrays, sha256, write_arrays, write_json
from training.inputs import draw_points, inputs_at_points

NETWORK_FILE = "network.npz"
REPORT_FILE = "training.json"
CHECKPOINT_FILE = "checkpoint.npz"
VALIDATION_STREAM = 2**32 - 1
"""Takes the place of the epoch in the key of the held-out points' random numbers."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparation:
    """What one pass over the nominal training events yields.

    Arguments:
        normalisation: Feature constants.
        class_scale: Factor per class that gives all classes the same total weight and an average of 1, shape (4,).
        n_selected: Selected nominal training events.
    """

    normalisation: Normalisation
    class_scale: np.ndarray
    n_selected: int


def prepare(file: EventsFile, rows: range) -> Preparation:
    """Measure feature constants from defined values of the selected nominal events, each event counted once.

    Raises:
        ValueError: If a process has no selected event or an input never varies.
    """
    entries, sums, squares = np.zeros((3, len(INPUTS)))
    n_selected, totals = 0, np.zeros(len(PROCESSES))
    for events in file.stream(rows):
        columns, kept = select(shift(events.columns))
        values, defined, _ = raw_inputs(columns)
        clean = np.where(defined, values, 0.0).astype(np.float64)
        entries += defined.sum(axis=0)
        sums += clean.sum(axis=0)
        squares += (clean**2).sum(axis=0)
        n_selected += len(kept)
        totals += np.bincount(events.classes[kept], events.weights[kept], minlength=len(PROCESSES))
    with np.errstate(all="ignore"):
        mean = sums / entries
        std = np.sqrt(squares / entries - mean**2)
    bad = [name for name, deviation in zip(INPUTS, std, strict=True) if not deviation > 0.0]
    bad += [name for name, total in zip(PROCESSES, totals, strict=True) if not total > 0.0]
    if bad:
        msg = f"{bad[0]!r} is empty or constant in rows {rows.start} to {rows.stop}; train on more events"
        raise ValueError(msg)
    normalisation = Normalisation(mean.astype(np.float32), std.astype(np.float32))
    return Preparation(normalisation, n_selected / len(PROCESSES) / totals, n_selected)


class Objective:
    """The loss of a network on some events at some nuisance points.

    Args:
        preparation: Feature constants and class weights.
        device: Where to compute.
    """

    def __init__(self, preparation: Preparation, device: torch.device) -> None:
        self.device = device
        self._mean = torch.from_numpy(preparation.normalisation.mean).to(device)
        self._std = torch.from_numpy(preparation.normalisation.std).to(device)
        self._class_scale = preparation.class_scale

    def __call__(
        self, network: DualBranchNetwork, events: Events, rng: np.random.Generator, n_points: int
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of cross entropies over events and points, and the sum of those weights."""
        columns = {name: torch.from_numpy(column).to(self.device) for name, column in events.columns.items()}
        points = draw_points(rng, n_points, len(events), self.device)
        values, jets, keep = inputs_at_points(columns, points, self._mean, self._std)
        balanced = (events.weights * self._class_scale[events.classes]).astype(np.float32)
        weights = (torch.from_numpy(balanced).to(self.device) * keep).flatten()
        labels = torch.from_numpy(events.classes).to(self.device).expand_as(keep)
        logits = network(values.flatten(0, 1), jets.flatten(0, 1))
        losses = cross_entropy(logits, labels.flatten(), reduction="none")
        return (losses * weights).sum(), weights.sum()


class Trainer:
    """Network, optimiser and log, with everything needed to stop and go on.

    Args:
        config: The settings.
        file: Events; the rows after the test part are used.
    """

    def __init__(self, config: Config, file: EventsFile) -> None:
        self.config, self.file = config, file
        settings = config.training
        rows = file.rows("train")
        self.train_rows = range(rows.start, rows.stop - int(settings.validation_fraction * len(rows)))
        self.validation_rows = range(self.train_rows.stop, rows.stop)
        self.device = torch.device(settings.device)
        self.preparation = prepare(file, self.train_rows)
        self.objective = Objective(self.preparation, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = DualBranchNetwork().to(self.device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), weight_decay=settings.weight_decay)
        self.steps_per_epoch = math.ceil(len(self.train_rows) / settings.batch_size)
        self.best = self.parameters()
        self.history: list[dict[str, float]] = []

    def parameters(self) -> dict[str, np.ndarray]:
        """Return a copy of the network's parameters by name."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.network.state_dict().items()}

    def run(self, folder: Path) -> None:
        """Train the epochs that are left, writing a checkpoint after each."""
        for epoch in range(len(self.history), self.config.training.epochs):
            entry = {"epoch": epoch, "train": self.train_epoch(epoch), "validation": self.validate()}
            if all(entry["validation"] < earlier["validation"] for earlier in self.history):
                self.best = self.parameters()
            self.history.append(entry)
            self.save(folder / CHECKPOINT_FILE)
            log.info("epoch %d: loss %.5f, held out %.5f", epoch, entry["train"], entry["validation"])

    def train_epoch(self, epoch: int) -> float:
        """Pass once over the training events; returns the mean loss."""
        settings = self.config.training
        order = np.random.default_rng([self.config.seed, epoch])
        batches = self.file.batches(self.train_rows, settings.batch_size, settings.pool_rows, order)
        losses, weights = 0.0, 0.0
        self.network.train()
        for step, events in enumerate(tqdm(batches, total=self.steps_per_epoch, disable=None, leave=False)):
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate(epoch * self.steps_per_epoch + step)
            rng = np.random.default_rng([self.config.seed, epoch, step])
            loss, weight = self.objective(self.network, events, rng, settings.points_per_batch)
            self.optimiser.zero_grad()
            # Weights average to 1. Their sum in a small last batch may be 0, and such a batch deserves a small step.
            least = 0.5 * settings.batch_size * settings.points_per_batch
            (loss / weight.clamp_min(least)).backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            losses, weights = losses + float(loss.detach()), weights + float(weight)
            if not math.isfinite(losses):
                msg = f"loss is {losses} after step {step} of epoch {epoch}; lower learning_rate or raise batch_size"
                raise ValueError(msg)
        return losses / weights

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean loss on the held-out events at the fixed points."""
        self.network.eval()
        losses, weights = 0.0, 0.0
        for i, events in enumerate(self.file.stream(self.validation_rows)):
            rng = np.random.default_rng([self.config.seed, VALIDATION_STREAM, i])
            loss, weight = self.objective(self.network, events, rng, self.config.training.validation_points)
            losses, weights = losses + float(loss), weights + float(weight)
        return losses / weights

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step: linear rise, then a cosine down to 0."""
        settings = self.config.training
        total = settings.epochs * self.steps_per_epoch
        rise = max(1.0, settings.warmup * total)
        if step < rise:
            return settings.learning_rate * (step + 1) / rise
        return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - rise) / (total - rise))))

    def save(self, path: Path) -> None:
        """Write all that changes during training to one file of plain arrays."""
        arrays = {f"network/{name}": value for name, value in self.parameters().items()}
        arrays |= {f"best/{name}": value for name, value in self.best.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            arrays |= {f"optimiser/{i}/{name}": value.cpu().numpy() for name, value in state.items()}
        arrays["log"] = np.array(json.dumps({"config": asdict(self.config), "history": self.history}))
        write_arrays(path, arrays)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: If it was written with other settings.
        """
        arrays = read_arrays(path)
        content = json.loads(str(arrays.pop("log")))
        if content["config"] != json.loads(json.dumps(asdict(self.config))):
            msg = f"{path}: was written with other settings; resume with those or start in another folder"
            raise ValueError(msg)
        groups: dict[str, dict[str, Any]] = {"network": {}, "best": {}, "optimiser": {}}
        for name, array in arrays.items():
            kind, rest = name.split("/", 1)
            groups[kind][rest] = array
        self.network.load_state_dict({name: torch.from_numpy(array) for name, array in groups["network"].items()})
        self.best = groups["best"]
        state: dict[int, dict[str, Tensor]] = {}
        for name, array in groups["optimiser"].items():
            i, key = name.split("/")
            state.setdefault(int(i), {})[key] = torch.from_numpy(array)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.history = content["history"]

    def report(self) -> dict[str, Any]:
        """Return what ``training.json`` holds."""
        constants = self.preparation.normalisation
        return {
            "config": asdict(self.config),
            "data": {"file": self.file.path.name, "sha256": sha256(self.file.path)},
            "rows": {
                "train": [self.train_rows.start, self.train_rows.stop],
                "validation": [self.validation_rows.start, self.validation_rows.stop],
                "selected": self.preparation.n_selected,
            },
            "normalisation": {"mean": constants.mean.tolist(), "std": constants.std.tolist()},
            "losses": self.history,
            "versions": versions(),
        }


def with_shares(parameters: dict[str, np.ndarray], shares: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Make the probabilities of a network trained with equal class weights refer to other class proportions.

    By Bayes' theorem every probability is multiplied by its class's share, which adds its logarithm to the logit.

    Raises:
        ValueError: If a share is not positive.
    """
    if min(shares) <= 0.0:
        msg = f"class shares are {shares}; each must be positive"
        raise ValueError(msg)
    offset = np.log(np.array(shares) * len(shares))
    return parameters | {"classes.bias": (parameters["classes.bias"] + offset).astype(np.float32)}


def versions() -> dict[str, str]:
    """Return the versions that decide the result."""
    return {
        "sage": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
    }


def train(config: Config, data: Path, output: Path, resume: bool = False) -> dict[str, Any]:
    """Train a network and write it.

    Args:
        config: The settings.
        data: Folder of the events file.
        output: Folder that receives ``network.npz``, ``training.json`` and the checkpoint.
        resume: Go on from the checkpoint in ``output`` if there is one.

    Returns:
        The content of ``training.json``.
    """
    torch.set_num_threads(config.threads)
    trainer = Trainer(config, EventsFile(data, config.test_size))
    if resume and (output / CHECKPOINT_FILE).exists():
        trainer.load(output / CHECKPOINT_FILE)
    trainer.run(output)
    write_arrays(output / NETWORK_FILE, with_shares(trainer.best, config.training.shares()))
    report = trainer.report()
    write_json(output / REPORT_FILE, report)
    return report


def main() -> None:
    """Run from the command line."""
    parser = command_line(__doc__, Path("build/training"), "device", "threads")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(chosen_config(arguments), arguments.data, arguments.output, arguments.resume)


if __name__ == "__main__":
    main()
