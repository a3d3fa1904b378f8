"""From shards to one events file in the challenge's format, without ever holding all rows.

Pass 1 sums the shards: tried events, unnormalised yields, numbers of rows. Pass 2 gives every row its final weight,
assigns showered events to the stretches 0-30 %, 30-50 % and 50-100 % of the file so that no two rows of one of them
are in different stretches (the first 30 % are the challenge's test set), and deals the rows to buckets on disk.
Pass 3 reads bucket by bucket, shuffles and writes row groups.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from sage.errors import InputError
from sage.shifts import PRIMARIES
from training.dataset import DATA_FILE, LABEL_COLUMNS, LUMINOSITY, METADATA_FILE, PARENTS_FILE
from training.files import write_json
from training.simulation.processes import TABLE, Process
from training.simulation.production import Production, Shard
from training.simulation.shards import iterate

BORDERS = (0.3, 0.5)
"""The challenge's test part ends at the first; the second halves the file."""
BUCKET_ROWS = 131_072
ATTEMPTS = 200
"""Orders of showered events that are tried to fill a stretch exactly; the first one nearly always does."""
SHUFFLE_KEY = 7
"""Tells the random numbers of the shuffle from those of the shards."""

RECORD = np.dtype([("values", np.float32, 16), ("weight", np.float32), ("process", np.uint8), ("parent", np.int64)])

DESCRIPTION = (
    "Simulated: Pythia 8 and an emulation of the challenge's detector card, normalised to the challenge's expected "
    "events at 10/fb before the selection. NOT the public data set. Weights are not uniform."
)


@dataclass(frozen=True)
class Summary:
    """Sums over the shards of one process.

    Arguments:
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


def assign(parents: np.ndarray, quotas: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Assign showered events at random to stretches, so that the first ones receive given numbers of rows.

    Args:
        parents: Showered event of each row, shape (n,).
        quotas: Rows wanted in each stretch but the last; a stretch may get less if no choice is found that fills it.
        rng: Source of random numbers.

    Returns:
        Stretch of each row, shape (n,).
    """
    _, which, sizes = np.unique(parents, return_inverse=True, return_counts=True)
    for _ in range(ATTEMPTS):
        stretch = np.full(len(sizes), len(quotas))
        left = rng.permutation(len(sizes))
        missing = 0
        for number, quota in enumerate(quotas):
            taken = np.cumsum(sizes[left]) <= quota
            open_places = quota - int(sizes[left[taken]].sum())
            # Events that follow fill what the first one too large has left open.
            for place in np.flatnonzero(~taken):
                if open_places == 0:
                    break
                if sizes[left[place]] <= open_places:
                    taken[place] = True
                    open_places -= int(sizes[left[place]])
            stretch[left[taken]] = number
            left = left[~taken]
            missing += open_places
        if missing == 0:
            break
    return stretch[which]


def merge(production: Production, shards: dict[str, int], output: Path) -> dict[str, Any]:
    """Write the events file, its metadata and the file of showered events from the first shards of each process.

    Returns:
        The metadata.
    """
    processes = [TABLE[name] for name in TABLE if name in shards]
    summaries = {process.name: summarise(process, output, shards[process.name]) for process in processes}
    # Without metadata the file counts as absent: from here to the end there is none.
    (output / METADATA_FILE).unlink(missing_ok=True)
    buckets = output / ".buckets"
    shutil.rmtree(buckets, ignore_errors=True)
    buckets.mkdir()
    rng = np.random.default_rng(np.random.SeedSequence(production.seed, spawn_key=(SHUFFLE_KEY, SHUFFLE_KEY)))
    try:
        paths = _deal(processes, summaries, output, buckets, rng)
        sum_weights, total_rows = _write(paths, output, rng)
    finally:
        shutil.rmtree(buckets, ignore_errors=True)
    metadata = {
        "description": DESCRIPTION,
        "total_rows": total_rows,
        "sum_weights": sum_weights,
        "luminosity": LUMINOSITY,
        "columns": [*PRIMARIES, *LABEL_COLUMNS],
        "detailed_labels": {name: summary.rows for name, summary in summaries.items()},
        "simulation": {
            **asdict(production),
            "processes": {name: asdict(summary) for name, summary in summaries.items()},
        },
    }
    write_json(output / METADATA_FILE, metadata)
    return metadata


def quotas(rows: dict[str, int]) -> dict[str, list[int]]:
    """Rows of each process up to each border, in proportion, so that their sums are the borders of the whole file."""
    total = sum(rows.values())
    out: dict[str, list[int]] = {name: [] for name in rows}
    for border in BORDERS:
        wanted = int(border * total)
        exact = {name: wanted * n / total for name, n in rows.items()}
        share = {name: int(value) for name, value in exact.items()}
        by_remainder = sorted(rows, key=lambda name: exact[name] - share[name], reverse=True)
        for name in by_remainder[: wanted - sum(share.values())]:
            share[name] += 1
        for name in rows:
            out[name].append(share[name])
    return out


def _deal(
    processes: list[Process], summaries: dict[str, Summary], output: Path, folder: Path, rng: np.random.Generator
) -> list[Path]:
    """Pass 2; returns the buckets in the order of the file."""
    rows = {name: summary.rows for name, summary in summaries.items()}
    total = sum(rows.values())
    limits = quotas(rows)
    stretches = np.diff([0, *(int(border * total) for border in BORDERS), total])
    n_buckets = np.maximum(1, np.ceil(stretches / BUCKET_ROWS).astype(int))
    first = np.cumsum(n_buckets) - n_buckets
    paths = [folder / f"{number:05d}" for number in range(int(n_buckets.sum()))]
    for path in paths:
        path.touch()
    dealt = np.zeros(len(stretches), dtype=np.int64)
    for process in processes:
        summary, number = summaries[process.name], list(TABLE).index(process.name)
        given, seen = [0] * len(BORDERS), 0
        bounds = np.diff([0, *limits[process.name]])
        for index, shard in enumerate(
            tqdm(iterate(output, process.name, summary.shards), f"deal {process.name}", summary.shards, disable=None)
        ):
            seen += len(shard)
            wanted = tuple(int(bound * seen / summary.rows) - have for bound, have in zip(bounds, given, strict=True))
            if index == summary.shards - 1:
                wanted = tuple(int(bound) - have for bound, have in zip(bounds, given, strict=True))
            stretch = assign(shard.parents, wanted, rng)
            records = np.empty(len(shard), RECORD)
            records["values"] = shard.values
            records["weight"] = event_weights(process, shard, summary.tried) * summary.factor
            records["process"] = number
            records["parent"] = (np.int64(number) << 56) | (np.int64(index) << 24) | shard.parents
            for block in range(len(stretches)):
                here = rng.permutation(np.flatnonzero(stretch == block))
                if block < len(BORDERS):
                    given[block] += len(here)
                # Dealt in turn, so that all buckets hold the processes in the same proportion.
                bucket = (dealt[block] + np.arange(len(here))) % n_buckets[block]
                dealt[block] += len(here)
                for which in np.unique(bucket):
                    with paths[first[block] + which].open("ab") as stream:
                        stream.write(records[here[bucket == which]].tobytes())
        if given != [int(bound) for bound in bounds]:
            msg = f"{process.name}: showered events cannot be split at {BORDERS} of its rows; ask for more --events"
            raise InputError(msg)
    return paths


def _write(buckets: list[Path], output: Path, rng: np.random.Generator) -> tuple[float, int]:
    """Pass 3; returns the sum of weights and the number of rows."""
    names = np.array(list(TABLE))
    labels = np.array([process.label for process in TABLE.values()], dtype=np.float32)
    fields = [(name, pa.float32()) for name in (*PRIMARIES, "weights")]
    schema = pa.schema([*fields, ("detailed_labels", pa.string()), ("labels", pa.float32())])
    parents = pa.schema([("parent", pa.int64())])
    partial = {name: output / f".{name}" for name in (DATA_FILE, PARENTS_FILE)}
    sum_weights, total_rows = 0.0, 0
    with (
        pq.ParquetWriter(
            partial[DATA_FILE], schema, compression="zstd", use_dictionary=["weights", "detailed_labels", "labels"]
        ) as events_file,
        pq.ParquetWriter(partial[PARENTS_FILE], parents, compression="zstd", use_dictionary=False) as parents_file,
    ):
        for records in _shuffled(buckets, rng):
            columns = [pa.array(np.ascontiguousarray(column)) for column in records["values"].T]
            kinds = records["process"]
            columns += [pa.array(records["weight"]), pa.array(names[kinds], pa.string()), pa.array(labels[kinds])]
            events_file.write_table(pa.Table.from_arrays(columns, schema=schema))
            parents_file.write_table(pa.Table.from_arrays([pa.array(records["parent"])], schema=parents))
            sum_weights += float(records["weight"].sum(dtype=np.float64))
            total_rows += len(records)
    for name, path in partial.items():
        path.replace(output / name)
    return sum_weights, total_rows


def _shuffled(buckets: list[Path], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows of each bucket in random order, in which every stretch holds the processes in proportion."""
    for path in tqdm(buckets, "write", disable=None):
        records = np.fromfile(path, RECORD)
        place = np.empty(len(records))
        for kind in np.unique(records["process"]):
            here = np.flatnonzero(records["process"] == kind)
            place[here] = (rng.permutation(len(here)) + rng.random(len(here))) / len(here)
        yield records[np.argsort(place, kind="stable")]
