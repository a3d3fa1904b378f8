"""Training of ratios: one visible loop of cross entropy against the reference, bootstrapped for ensembles.

The samples S, S + I + B at some mu and the rest are simulated; the reference is drawn from three of them. A member of
an ensemble sees each event Poisson(1) times, so the members' spread shows what the data allow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from nsbi import KINDS
from nsbi.networks import PAIRWISE, Ensemble, JointNetwork, PairwiseNetworks, Perceptron, RatioNetwork, Yields
from sage.errors import InputError, SettingsError
from workshop.files import read_checked, read_object, write_arrays, write_json

REFERENCE = ("S", "SBI 0", "rest")
"""Samples the reference has equal parts of."""
logger = logging.getLogger("sage.nsbi.train")


@dataclass(frozen=True)
class TrainingSettings:
    """How networks are trained.

    Args:
        kind: ``joint`` or ``pairwise``.
        mus: Signal strengths of the samples of S + I + B; pairwise takes 0 and 1 of them.
        width: Nodes of a hidden layer.
        layers: Hidden layers.
        steps: Gradient steps of one network.
        batch: Events in a step, of all samples together; each sample has its share, so all are seen equally often.
        rate: Largest learning rate; it rises and falls in one cycle.
        seed: Of everything random; member i adds i.
    """

    kind: str = "joint"
    mus: tuple[float, ...] = (0.0, 0.25, 1.0, 2.0, 4.0)
    width: int = 128
    layers: int = 4
    steps: int = 4000
    batch: int = 4096
    rate: float = 2e-3
    seed: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            msg = f"kind is {self.kind!r}; choose one of {', '.join(KINDS)}"
            raise SettingsError(msg)
        if not {0.0, 1.0} <= set(self.mus) or min(self.mus) < 0:
            msg = f"mus are {self.mus}; give 0, 1 and others above 0, as amplitudes take their root"
            raise SettingsError(msg)
        if min(self.width, self.layers, self.steps, self.batch) < 1 or not self.rate > 0:
            msg = f"width, layers, steps, batch and rate must be above 0; got {self}"
            raise SettingsError(msg)


Samples = Mapping[str, np.ndarray]
"""Features by sample: ``S``, ``SBI mu`` for each mu, ``rest``; shape (n, F) each."""


def make_network(settings: TrainingSettings, yields: Yields, samples: Samples) -> RatioNetwork:
    """Return an untrained network whose input is standardised by the reference."""
    together = np.concatenate([samples[name][:100_000] for name in REFERENCE if name in samples])
    mean, scale = (torch.as_tensor(v, dtype=torch.float32) for v in (together.mean(axis=0), together.std(axis=0)))
    torch.manual_seed(settings.seed)

    def body(outputs: int) -> Perceptron:
        return Perceptron(mean, scale, outputs, settings.width, settings.layers)

    if settings.kind == "joint":
        return JointNetwork(yields, body(4), settings.mus)
    return PairwiseNetworks(yields, tuple(body(1) for name in PAIRWISE if name in samples))


def train(
    network: RatioNetwork,
    samples: Samples,
    settings: TrainingSettings,
    member: int,
) -> float:
    """Train a network; returns the mean loss of the last tenth of the steps.

    Raises:
        InputError: If a sample is empty or has a value that is not finite.
    """
    rng = np.random.default_rng((settings.seed, member))
    used: dict[str, torch.Tensor] = {}
    for name, x in samples.items():
        if not len(x) or not np.isfinite(x).all():
            msg = f"sample {name!r} of {len(x)} events is empty or not finite; simulate it again"
            raise InputError(msg)
        # Poisson(1) copies of each event: the bootstrap that tells how far the data determine the ratio.
        copies = rng.permutation(np.repeat(np.arange(len(x)), rng.poisson(1.0, len(x))))
        used[name] = torch.as_tensor(x[copies if len(copies) else np.arange(len(x))], dtype=torch.float32)
    total = sum(len(x) for x in samples.values())
    sizes = {name: max(1, round(settings.batch * len(x) / total)) for name, x in samples.items()}
    ends = np.cumsum(list(sizes.values())).tolist()
    rows = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}
    at = dict.fromkeys(used, 0)

    def take(name: str) -> torch.Tensor:
        index = torch.arange(at[name], at[name] + sizes[name]) % len(used[name])
        at[name] = (at[name] + sizes[name]) % len(used[name])
        return used[name][index]

    optimiser = torch.optim.Adam(network.parameters(), lr=settings.rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps + 1)
    parts = [rows[name] for name in REFERENCE if name in used]
    losses = []
    network.train()
    for _ in tqdm(range(settings.steps), desc=f"network {member}", unit="step", leave=False, disable=None):
        logits = network.logits(torch.cat([take(name) for name in sizes]))
        loss = torch.zeros(())
        for name, values in logits.items():
            loss = loss + functional.softplus(-values[rows[name]]).mean()
            for part in parts:
                loss = loss + functional.softplus(values[part]).mean() / len(parts)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        cycle.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-max(1, settings.steps // 10) :]))


def train_ensemble(
    folder: Path,
    samples: Samples,
    yields: Yields,
    settings: TrainingSettings,
    members: int,
    clock: Callable[[str], AbstractContextManager[None]] = nullcontext,
) -> Ensemble:
    """Train the members that a folder lacks, one file each, and return all.

    Args:
        folder: Keeps the networks; an interrupted training goes on with the first that is not there.
        samples: Features by sample.
        yields: Expected events.
        settings: How they are trained.
        members: Their number.
        clock: Entered with a name around each network that is trained.

    Raises:
        SettingsError: If the folder holds networks of other settings.
    """
    if settings.kind == "pairwise":
        samples = {name: samples[name] for name in PAIRWISE if name in samples}
    identity: dict[str, Any] = {"settings": {**asdict(settings), "mus": list(settings.mus)}, "yields": asdict(yields)}
    identity["events"] = {name: len(x) for name, x in samples.items()}
    described = folder / "training.json"
    if not described.exists():
        write_json(described, identity)
    elif read_object(described, "remove the folder") != identity:
        msg = f"{folder} holds networks of other settings; choose another folder or remove it"
        raise SettingsError(msg)
    found = []
    for member in range(members):
        network = make_network(settings, yields, samples)
        path = folder / f"network_{member}.npz"
        if path.exists():
            load(network, path)
        else:
            torch.manual_seed(settings.seed + member)
            for module in network.modules():
                if isinstance(module, torch.nn.Linear):
                    module.reset_parameters()
            with clock(f"training network {member}"):
                loss = train(network, samples, settings, member)
                write_arrays(path, {name: value.numpy() for name, value in network.state_dict().items()})
            logger.info("network %d: loss %.4f", member, loss)
        found.append(network)
    return Ensemble(found)


def load(network: RatioNetwork, path: Path) -> None:
    """Read a network's numbers.

    Raises:
        InputError: If the file is damaged or of another shape.
    """
    arrays = read_checked(path, "remove it to train it again")
    try:
        network.load_state_dict({name: torch.as_tensor(value) for name, value in arrays.items()})
    except (RuntimeError, TypeError) as error:
        msg = f"{path}: not of this network's shape; remove it to train it again"
        raise InputError(msg) from error
