"""Training of ratios: one visible loop of cross entropy against the reference, bootstrapped for ensembles.

The samples S, S + I + B at some mu and the rest are simulated; the reference is drawn from three of them. A member of
an ensemble sees each event Poisson(1) times, so the members' spread shows what the data allow.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from nsbi import KINDS
from nsbi.networks import CHUNK, PAIRWISE, Ensemble, JointNetwork, PairwiseNetworks, Perceptron, RatioNetwork, Yields
from sage.errors import InputError, SettingsError
from workshop.files import read_checked, read_object, write_arrays, write_json
from workshop.jobs import Clock, process_pool

REFERENCE = ("S", "SBI 0", "rest")
"""Samples the reference has equal parts of."""
FINISHING_STEPS = 20
"""Of the last layers' descent over all events."""
LEAST_VARIANCE = 1e-7
"""Of hidden quantities, of the largest, below which a direction says nothing in float32."""
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
Weights = Mapping[str, np.ndarray]
"""Of the events by sample, shape (n,) each, of either sign; samples that are not named have equal ones."""


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
    weights: Weights | None = None,
) -> float:
    """Train a network; returns the mean loss of the last tenth of the steps.

    Raises:
        InputError: If a sample is empty, or its values or weights are not finite, or the weights do not match it.
    """
    rng = np.random.default_rng((settings.seed, member))
    used: dict[str, torch.Tensor] = {}
    weighted: dict[str, torch.Tensor] = {}
    for name, x in samples.items():
        if not len(x) or not np.isfinite(x).all():
            msg = f"sample {name!r} of {len(x)} events is empty or not finite; simulate it again"
            raise InputError(msg)
        # Poisson(1) copies of each event: the bootstrap that tells how far the data determine the ratio.
        copies = rng.permutation(np.repeat(np.arange(len(x)), rng.poisson(1.0, len(x))))
        chosen = copies if len(copies) else np.arange(len(x))
        used[name] = torch.as_tensor(x[chosen], dtype=torch.float32)
        if weights:
            weighted[name] = torch.as_tensor(normalised(name, weights, len(x))[chosen], dtype=torch.float32)
    total = sum(len(x) for x in samples.values())
    sizes = {name: max(1, round(settings.batch * len(x) / total)) for name, x in samples.items()}
    rows = slices(sizes)
    at = dict.fromkeys(used, 0)

    def take(name: str) -> torch.Tensor:
        index = torch.arange(at[name], at[name] + sizes[name]) % len(used[name])
        at[name] = (at[name] + sizes[name]) % len(used[name])
        return index

    optimiser = torch.optim.Adam(network.parameters(), lr=settings.rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps + 1)
    losses = []
    network.train()
    # Bars of several processes would overwrite each other.
    hidden = True if multiprocessing.parent_process() else None
    for _ in tqdm(range(settings.steps), desc=f"network {member}", unit="step", leave=False, disable=hidden):
        taken = {name: take(name) for name in sizes}
        events = torch.cat([used[name][index] for name, index in taken.items()])
        counted = torch.cat([weighted[name][index] for name, index in taken.items()]) if weights else None
        loss = cross_entropy(network.logits(events), rows, counted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        cycle.step()
        losses.append(float(loss.detach()))
    finish(network, used, torch.cat(list(weighted.values())) if weights else None)
    return float(np.mean(losses[-max(1, settings.steps // 10) :]))


def normalised(name: str, weights: Weights, n: int) -> np.ndarray:
    """Return the weights of a sample of n events with a mean of 1.

    Raises:
        InputError: If they are not finite, do not match the events, or do not add up to more than 0.
    """
    found = np.asarray(weights[name], dtype=float) if name in weights else np.ones(n)
    if found.shape != (n,) or not np.isfinite(found).all() or not found.sum() > 0:
        msg = f"weights of sample {name!r}, shape {found.shape}, of {n} events: give a finite one each, sum above 0"
        raise InputError(msg)
    return np.asarray(found / found.mean())


def slices(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Return the rows of each sample where they stand one after the other."""
    ends = np.cumsum(list(sizes.values())).tolist()
    return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def cross_entropy(
    logits: Mapping[str, torch.Tensor], rows: Mapping[str, slice], weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the sum over samples of the cross entropy against the reference, both of weight 1.

    Args:
        logits: ln(p / p_ref) of each sample at all events, shape (N,) each.
        rows: Which events are of a sample.
        weights: Of all events, shape (N,), with a mean of about 1 in each sample; 1 each if absent.
    """
    parts = [rows[name] for name in REFERENCE if name in rows]

    def mean(values: torch.Tensor, part: slice) -> torch.Tensor:
        return values.mean() if weights is None else (values * weights[part]).mean()

    loss = torch.zeros(())
    for name, values in logits.items():
        loss = loss + mean(functional.softplus(-values[rows[name]]), rows[name])
        for part in parts:
            loss = loss + mean(functional.softplus(values[part]), part) / len(parts)
    return loss


def finish(network: RatioNetwork, used: Mapping[str, torch.Tensor], weights: torch.Tensor | None = None) -> None:
    """Bring the last layers to the minimum of the loss over all events, hidden layers as they are.

    t of thousands of events adds up errors of a thousandth in each. What gradient steps of few events leave is larger;
    at the minimum, learned and simulated means of every hidden quantity agree, whose combinations are close to what
    t depends on.

    Args:
        network: A trained network.
        used: Its events by sample.
        weights: Of all of them, shape (N,), with a mean of 1 in each sample.
    """
    rows, x = slices({name: len(values) for name, values in used.items()}), torch.cat(list(used.values()))
    whitened = [Whitened.of(body, x) for body in bodies(network)]
    optimiser = torch.optim.LBFGS(
        [parameter for each in whitened for parameter in each.parameters],
        max_iter=FINISHING_STEPS,
        history_size=FINISHING_STEPS,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(network.logits_of(torch.cat([each.outputs() for each in whitened], dim=1)), rows, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    for each, body in zip(whitened, bodies(network), strict=True):
        each.write(body)


@dataclass(frozen=True)
class Whitened:
    """A last layer on hidden quantities without correlations, where a descent takes few steps.

    Args:
        hidden: Uncorrelated quantities of unit variance at all events, shape (N, K).
        mean: Of the quantities as they were, shape (H,).
        rotation: What makes those uncorrelated, shape (H, K).
        parameters: Weights (O, K) and biases (O,) on the uncorrelated ones.
    """

    hidden: torch.Tensor
    mean: torch.Tensor
    rotation: torch.Tensor
    parameters: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, body: Perceptron, x: torch.Tensor) -> Whitened:
        """Return the last layer of a perceptron at features, shape (N, F)."""
        hidden = torch.cat([body.hidden(x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)])
        mean = hidden.mean(dim=0)
        hidden -= mean
        size, axes = torch.linalg.eigh((hidden.T @ hidden / len(hidden)).double())
        kept = size > LEAST_VARIANCE * size[-1]
        root = size[kept].sqrt()
        rotation = (axes[:, kept] / root).float()
        weights = body.last.weight @ (axes[:, kept] * root).float()
        biases = body.last.bias + body.last.weight @ mean
        return cls(hidden @ rotation, mean, rotation, (weights.requires_grad_(), biases.requires_grad_()))

    def outputs(self) -> torch.Tensor:
        """Return the outputs at all events, shape (N, O)."""
        weights, biases = self.parameters
        return self.hidden @ weights.T + biases

    @torch.no_grad()
    def write(self, body: Perceptron) -> None:
        """Give the perceptron this last layer."""
        weights, biases = self.parameters
        body.last.weight.copy_(weights @ self.rotation.T)
        body.last.bias.copy_(biases - body.last.weight @ self.mean)


def bodies(network: RatioNetwork) -> list[Perceptron]:
    """Return the perceptrons of a network."""
    return [cast("Perceptron", body) for body in network.bodies]


def train_ensemble(
    folder: Path,
    samples: Samples,
    yields: Yields,
    settings: TrainingSettings,
    members: int,
    workers: int = 1,
    clock: Clock = nullcontext,
    weights: Weights | None = None,
) -> Ensemble:
    """Train the members that a folder lacks, one file each, and return all.

    Args:
        folder: Keeps the networks; an interrupted training goes on with the first that is not there.
        samples: Features by sample.
        yields: Expected events.
        settings: How they are trained.
        members: Their number.
        workers: Processes, one network in each at a time; results do not depend on it.
        clock: Of each network that is trained; picklable if there are several workers.
        weights: Of the events.

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
    paths = [folder / f"network_{member}.npz" for member in range(members)]
    missing = [member for member, path in enumerate(paths) if not path.exists()]
    with (
        tqdm(total=members, initial=members - len(missing), desc="networks", unit="network", disable=None) as progress,
        process_pool(min(workers, max(1, len(missing)))) as pool,
    ):
        for member in missing:
            arguments = (samples, yields, settings, member, paths[member], torch.get_num_threads(), clock)
            pool.submit(member, train_member, *arguments, weights)
        for member, loss in pool.finished():
            logger.info("network %d: loss %.4f", member, loss)
            progress.update()
    networks = [make_network(settings, yields, samples) for _ in paths]
    for network, path in zip(networks, paths, strict=True):
        load(network, path)
    return Ensemble(networks)


def train_member(
    samples: Samples,
    yields: Yields,
    settings: TrainingSettings,
    member: int,
    path: Path,
    threads: int,
    clock: Clock,
    weights: Weights | None,
) -> float:
    """Train one member of an ensemble and write its numbers; returns its loss.

    Args:
        samples: As for ``train_ensemble``, like all that is not here.
        yields: Expected events.
        settings: How it is trained.
        member: Its number, which decides its start and its bootstrap.
        path: Of its file.
        threads: Of torch: sums depend on them in the last digits.
        clock: Of its training.
        weights: Of the events.
    """
    torch.set_num_threads(threads)
    network = make_network(settings, yields, samples)
    torch.manual_seed(settings.seed + member)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            module.reset_parameters()
    with clock(f"training network {member}"):
        loss = train(network, samples, settings, member, weights)
        write_arrays(path, {name: value.numpy() for name, value in network.state_dict().items()})
    return loss


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
