"""From shards to one events file in the challenge's format, without ever holding all rows.

Pass 1 sums the shards: tried events, unnormalised yields, numbers of rows. Pass 2 gives every row its final weight and
deals it to the ``buckets`` on disk, from which pass 3 writes the file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sage.errors import InputError
from training.simulation.buckets import RECORD, Buckets, write
from training.simulation.processes import TABLE, Process
from training.simulation.production import Production, Shard
from training.simulation.shards import identity, iterate
from workshop.files import scratch_folder

SHUFFLE_KEY = 7
"""Tells the random numbers of the shuffle from those of the shards."""

DESCRIPTION = (
    "Simulated: Pythia 8 and an emulation of the challenge's detector card, normalised to the challenge's expected "
    "events at 10/fb before the selection. NOT the public data set. Weights are not uniform."
)


@dataclass(frozen=True)
class Summary:
    """Sums over the shards of one process.

    Args:
        rows: Number of rows.
        shards: Number of shards.
        tried: Events of the hard process by process code.
        prediction: Expected events at 10/fb by the cross-sections, before they are normalised.
        error: Its statistical error.
        factor: What the weights are multiplied by to give the challenge's expected events.
        effective_rows: Square of the sum of weights over the sum of their squares.
        inflation: Variance of the prediction, over what it would be if rows of one showered event were independent.
    """

    rows: int
    shards: int
    tried: dict[int, int]
    prediction: float
    error: float
    factor: float
    effective_rows: float
    inflation: float


def summarise(process: Process, output: Path, n_shards: int) -> Summary:
    """Pass 1.

    Raises:
        InputError: If no event was selected.
    """
    tried: Counter[int] = Counter()
    for shard in iterate(output, process.name, n_shards):
        tried.update(shard.tried)
    rows, total, squares, parent_squares = 0, 0.0, 0.0, 0.0
    for shard in iterate(output, process.name, n_shards):
        weights = event_weights(process, shard, tried)
        rows += len(weights)
        total += float(weights.sum())
        squares += float((weights**2).sum())
        parent_squares += float((np.bincount(shard.parents, weights=weights) ** 2).sum())
    if not total > 0.0:
        msg = f"no event of {process.name} is selected in {n_shards} shards; ask for more --events"
        raise InputError(msg)
    return Summary(
        rows=rows,
        shards=n_shards,
        tried=dict(sorted(tried.items())),
        prediction=total,
        error=parent_squares**0.5,
        factor=process.expected / total,
        effective_rows=total**2 / squares,
        inflation=parent_squares / squares,
    )


def event_weights(process: Process, shard: Shard, tried: dict[int, int]) -> np.ndarray:
    """Weights before normalisation, shape (n,), of a shard's rows when ``tried`` events were tried in all shards."""
    codes, which = np.unique(shard.codes, return_inverse=True)
    scales = np.array([process.event_weight(int(code), tried[int(code)]) for code in codes])
    return shard.weights * scales[which] if len(codes) else shard.weights


def merge(production: Production, shards: dict[str, int], output: Path) -> dict[str, Any]:
    """Write the events file, its metadata and the file of showered events from the first shards of each process.

    Returns:
        The metadata.
    """
    processes = [TABLE[name] for name in TABLE if name in shards]
    summaries = {process.name: summarise(process, output, shards[process.name]) for process in processes}
    rng = np.random.default_rng(np.random.SeedSequence(production.seed, spawn_key=(SHUFFLE_KEY, SHUFFLE_KEY)))
    details = {**identity(production), "processes": {name: asdict(summary) for name, summary in summaries.items()}}
    with scratch_folder(output / ".buckets") as folder:
        buckets = Buckets(folder, {name: summary.rows for name, summary in summaries.items()}, rng)
        for process in processes:
            _deal(process, summaries[process.name], output, buckets)
        return write(buckets, output, rng, DESCRIPTION, {"simulation": details})


def _deal(process: Process, summary: Summary, output: Path, buckets: Buckets) -> None:
    """Pass 2 for one process."""
    number = list(TABLE).index(process.name)
    shards = iterate(output, process.name, summary.shards)
    for index, shard in enumerate(tqdm(shards, f"deal {process.name}", summary.shards, disable=None)):
        records = np.empty(len(shard), RECORD)
        records["values"] = shard.values
        records["weight"] = event_weights(process, shard, summary.tried) * summary.factor
        records["process"] = number
        records["parent"] = (np.int64(number) << 56) | (np.int64(index) << 24) | shard.parents
        buckets.deal(process.name, records)
