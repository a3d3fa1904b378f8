"""Constants of an ensemble's processes, from simulated events of which nothing but the ratios is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.interference.clock import Clock
from examples.interference.oracle import MIXTURE, coefficients
from examples.interference.problems import Problem
from nsbi.constants import Constants, Part, fit_constants
from nsbi.networks import Ensemble
from workshop.files import read_object, write_json
from workshop.jobs import process_pool

CONSTANT_MUS = (0.0, 0.1, 0.25, 0.5, 2.0, 4.0)
REST_SHARE = 0.75
"""Of the events; the rest is in the expected data of every mu."""
CHUNK = 500_000
"""Events that a process simulates at a time."""


def with_constants(
    problem: Problem,
    ensemble: Ensemble,
    events: int,
    seed: int,
    path: Path,
    identity: Mapping[str, Any],
    workers: int,
    clock: Clock,
) -> tuple[Ensemble, Constants]:
    """Return the ensemble with constants, and those of the mean; the members' own are from a part of the events each.

    Args:
        problem: Simulates the events.
        ensemble: Without constants.
        events: All samples together.
        seed: Of the simulation.
        path: File that keeps the constants.
        identity: What decides them besides these, as JSON values; kept ones of another are fitted again.
        workers: Processes; results do not depend on it.
        clock: Of the step.
    """
    wanted = {**identity, "events": events, "seed": seed}
    if path.exists() and (content := read_object(path, "remove it to fit them again"))["identity"] == wanted:
        found = [Constants(**{name: np.array(value) for name, value in each.items()}) for each in content["constants"]]
    else:
        found = _fitted(problem, ensemble, events, seed, workers, clock)
        write_json(path, {"identity": wanted, "constants": [each.to_dict() for each in found]})
    mean, *own = found
    return Ensemble(ensemble.members, mean.factors, np.stack([each.factors for each in own])), mean


def _fitted(
    problem: Problem, ensemble: Ensemble, events: int, seed: int, workers: int, clock: Clock
) -> list[Constants]:
    """Return the constants of the mean, and of each member."""
    members, yields = len(ensemble.members), problem.yields().array()
    bounded = ensemble.members[0].bounded
    names = [f"SBI {mu:g}" for mu in CONSTANT_MUS]
    sizes = dict.fromkeys(names, round(events * (1 - REST_SHARE) / len(names)))
    if yields[-1]:
        sizes["rest"] = round(events * REST_SHARE)
    means: dict[str, list[np.ndarray]] = {name: [] for name in sizes}
    parts: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in range(members)] for name in sizes}
    chunks = [
        (name, i, max(2, size // pieces))
        for name, size in sizes.items()
        for pieces in [members * -(-size // (members * CHUNK))]
        for i in range(pieces)
    ]
    with process_pool(workers) as pool:
        for chunk in chunks:
            pool.submit(chunk, ratios_of_new, problem, ensemble, *chunk, seed, torch.get_num_threads(), clock)
        done = dict(pool.finished())
    for name, i, n in chunks:
        mean, own = done.pop((name, i, n))
        means[name].append(mean)
        parts[name][i % members].append(own)

    def fitted(ratios: Mapping[str, list[np.ndarray]]) -> Constants:
        joined = {name: np.concatenate(each) for name, each in ratios.items()}
        rest: list[Part] = [(joined["rest"], yields[-1])] if "rest" in joined else []
        gluons = {mu: (joined[f"SBI {mu:g}"], float(yields[:3] @ coefficients(mu)[:3])) for mu in CONSTANT_MUS}
        return fit_constants(MIXTURE, yields, {mu: [*rest, part] for mu, part in gluons.items()}, bounded)

    with clock("constants fit"):
        return [fitted(means), *(fitted({name: each[m] for name, each in parts.items()}) for m in range(members))]


def ratios_of_new(
    problem: Problem, ensemble: Ensemble, name: str, chunk: int, n: int, seed: int, threads: int, clock: Clock
) -> tuple[np.ndarray, np.ndarray]:
    """Return ratios at new events of a sample by the mean and by one member in turn, float32, shape (n, 4) each."""
    torch.set_num_threads(threads)
    with clock(f"constants {name} {chunk}"):
        x = problem.inputs(problem.sample(np.random.default_rng((seed, 11, chunk, *name.encode())), n, name))
        each = ensemble.each(x)
        mean = ensemble.members[0].bounded(each.mean(axis=0))
    return mean.astype(np.float32), each[chunk % len(each)].astype(np.float32)
