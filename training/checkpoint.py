"""How far a training has come, and the file from which it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from workshop.files import read_arrays, write_arrays, write_json

CHECKPOINT_FILE = "checkpoint.npz"
LOSSES_FILE = "losses.json"

BLOCK = 50
"""Steps whose mean loss is written down."""


@dataclass
class Progress:
    """How far a training has come.

    Args:
        epochs: Epochs that are finished: number, training loss, held-out loss.
        step: Steps taken in the epoch that has begun.
        sums: Weighted loss and weight of that epoch so far.
        block: The same since ``blocks`` grew.
        blocks: Mean loss of every ``BLOCK`` steps.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    block: list[float] = field(default_factory=lambda: [0.0, 0.0])
    blocks: list[float] = field(default_factory=list)

    def add(self, loss: float, weight: float) -> None:
        """Count a step."""
        self.step += 1
        for sums in (self.sums, self.block):
            sums[0] += loss
            sums[1] += weight
        if self.step % BLOCK == 0:
            self.blocks.append(self.block[0] / self.block[1])
            self.block = [0.0, 0.0]


def write_checkpoint(
    folder: Path,
    network: Mapping[str, Tensor],
    best: Mapping[str, np.ndarray],
    optimiser: Optimizer,
    progress: Progress,
) -> None:
    """Write all that changes during training to one file of plain arrays, and the losses so far as JSON.

    Args:
        folder: Where both files go.
        network: Parameters by name.
        best: Parameters of the best epoch.
        optimiser: The optimiser.
        progress: How far training has come.
    """
    arrays = {f"network/{name}": value.detach().cpu().numpy() for name, value in network.items()}
    arrays |= {f"best/{name}": value for name, value in best.items()}
    for i, state in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser/{i}/{name}": value.cpu().numpy() for name, value in state.items()}
    arrays["log"] = np.array(json.dumps({"progress": asdict(progress)}))
    write_arrays(folder / CHECKPOINT_FILE, arrays)
    losses = {"epochs": progress.epochs, "steps_per_block": BLOCK, "blocks": progress.blocks}
    write_json(folder / LOSSES_FILE, losses)


def read_checkpoint(
    folder: Path, optimiser: Optimizer
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Progress]:
    """Read what ``write_checkpoint`` wrote; the optimiser's state is put into ``optimiser``.

    Returns:
        Parameters, parameters of the best epoch, progress.
    """
    arrays = read_arrays(folder / CHECKPOINT_FILE)
    content = json.loads(str(arrays.pop("log")))
    groups: dict[str, dict[str, np.ndarray]] = {"network": {}, "best": {}, "optimiser": {}}
    for name, array in arrays.items():
        kind, rest = name.split("/", 1)
        groups[kind][rest] = array
    state: dict[int, dict[str, Tensor]] = {}
    for name, array in groups["optimiser"].items():
        i, key = name.split("/")
        state.setdefault(int(i), {})[key] = torch.from_numpy(array)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return groups["network"], groups["best"], Progress(**content["progress"])
