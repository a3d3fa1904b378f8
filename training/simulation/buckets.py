"""Rows of an events file on their way to random order, without ever holding all of them.

Showered events are assigned to the stretches 0-30 %, 30-50 % and 50-100 % of the file so that no two rows of one of
them are in different stretches (the first 30 % are the challenge's test set), and rows are dealt to buckets on disk.
``write`` reads bucket by bucket, shuffles and writes row groups. Needs no package of the simulation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from training.events import DATA_FILE, LABEL_COLUMNS, LUMINOSITY, METADATA_FILE, PARENTS_FILE
from training.simulation.processes import TABLE
from workshop.files import json_bytes, partial_file

BORDERS = (0.3, 0.5)
"""The challenge's test part ends at the first; the second halves the file."""
BUCKET_ROWS = 131_072
ATTEMPTS = 200
"""Orders of showered events that are tried to fill a stretch exactly; the first one nearly always does."""

RECORD = np.dtype([("values", np.float32, 16), ("weight", np.float32), ("process", np.uint8), ("parent", np.int64)])
"""One row; ``process`` is its place in ``TABLE``."""


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


class Buckets:
    """Deals rows to buckets on disk, each of which holds the processes in the proportion of the whole file.

    Args:
        folder: Folder for the buckets; it must exist.
        rows: Number of rows by process that will be dealt.
        rng: Source of random numbers.
    """

    def __init__(self, folder: Path, rows: Mapping[str, int], rng: np.random.Generator) -> None:
        self.rows = dict(rows)
        self._rng = rng
        total = sum(rows.values())
        stretches = np.diff([0, *(int(border * total) for border in BORDERS), total])
        self._counts = np.maximum(1, np.ceil(stretches / BUCKET_ROWS).astype(int))
        self._first = np.cumsum(self._counts) - self._counts
        self._dealt = np.zeros(len(stretches), dtype=np.int64)
        self._bounds = {name: np.diff([0, *limits]).tolist() for name, limits in quotas(self.rows).items()}
        self._given = {name: [0] * len(BORDERS) for name in rows}
        self._seen = dict.fromkeys(rows, 0)
        self.paths = [folder / f"{number:05d}" for number in range(int(self._counts.sum()))]
        for path in self.paths:
            path.touch()

    def deal(self, name: str, records: np.ndarray) -> None:
        """Deal rows of one process.

        Args:
            name: The process.
            records: The rows, shape (n,), ``RECORD``: all the rows of each of their showered events.

        Raises:
            InputError: If all rows of the process are dealt and did not fit between the borders.
        """
        self._seen[name] += len(records)
        bounds, given, seen = self._bounds[name], self._given[name], self._seen[name]
        wanted = tuple(bound * seen // self.rows[name] - have for bound, have in zip(bounds, given, strict=True))
        stretch = assign(records["parent"], wanted, self._rng)
        for block in range(len(self._counts)):
            here = self._rng.permutation(np.flatnonzero(stretch == block))
            if block < len(BORDERS):
                given[block] += len(here)
            # Dealt in turn, so that all buckets hold the processes in the same proportion.
            bucket = (self._dealt[block] + np.arange(len(here))) % self._counts[block]
            self._dealt[block] += len(here)
            for which in np.unique(bucket):
                with self.paths[self._first[block] + which].open("ab") as stream:
                    stream.write(records[here[bucket == which]].tobytes())
        if seen == self.rows[name] and given != bounds:
            msg = f"{name}: showered events cannot be split at {BORDERS} of its {seen} rows; use more events of it"
            raise InputError(msg)


def write(
    buckets: Buckets,
    output: Path,
    rng: np.random.Generator,
    description: str,
    details: Mapping[str, Any],
    *,
    compact: bool = False,
) -> dict[str, Any]:
    """Write the events file, the file of showered events and the metadata, which this returns.

    What an earlier run has left stays as it is until all three are on disk. Without metadata the events file counts as
    absent: there is none while the files get their names.

    Args:
        buckets: All rows.
        output: Folder for the files.
        rng: Source of random numbers.
        description: What the events are.
        details: Entries of the metadata beyond the challenge's.
        compact: Whether equal bytes of neighbouring values are stored together, for small files.
    """
    with ExitStack() as stack:
        names = (DATA_FILE, PARENTS_FILE, METADATA_FILE)
        partial = {name: stack.enter_context(partial_file(output / name)) for name in names}
        streams = {name: stream for name, (stream, _) in partial.items()}
        sum_weights, total_rows = _write(buckets.paths, streams, rng, compact)
        metadata = {
            "description": description,
            "total_rows": total_rows,
            "sum_weights": sum_weights,
            "luminosity": LUMINOSITY,
            "columns": [*PRIMARIES, *LABEL_COLUMNS],
            "detailed_labels": dict(buckets.rows),
            **details,
        }
        streams[METADATA_FILE].write(json_bytes(metadata))
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
        (output / METADATA_FILE).unlink(missing_ok=True)
        for name, (_, path) in partial.items():
            path.replace(output / name)
    return metadata


def _write(
    buckets: list[Path], streams: Mapping[str, BinaryIO], rng: np.random.Generator, compact: bool
) -> tuple[float, int]:
    """Write the rows to streams by name; returns the sum of weights and the number of rows."""
    names = np.array(list(TABLE))
    labels = np.array([process.label for process in TABLE.values()], dtype=np.float32)
    fields = [(name, pa.float32()) for name in (*PRIMARIES, "weights")]
    schema = pa.schema([*fields, ("detailed_labels", pa.string()), ("labels", pa.float32())])
    parents = pa.schema([("parent", pa.int64())])
    sum_weights, total_rows = 0.0, 0
    # Distilled weights are all different, so a dictionary of them would only cost.
    encoding: dict[str, Any] = {"use_dictionary": ["weights", "detailed_labels", "labels"]}
    if compact:
        encoding = {"use_dictionary": ["detailed_labels", "labels"], "compression_level": 19}
        encoding["use_byte_stream_split"] = [*PRIMARIES, "weights"]
    with (
        pq.ParquetWriter(streams[DATA_FILE], schema, compression="zstd", **encoding) as events_file,
        pq.ParquetWriter(streams[PARENTS_FILE], parents, compression="zstd", use_dictionary=False) as parents_file,
    ):
        for records in _shuffled(buckets, rng):
            columns = [pa.array(np.ascontiguousarray(column)) for column in records["values"].T]
            kinds = records["process"]
            columns += [pa.array(records["weight"]), pa.array(names[kinds], pa.string()), pa.array(labels[kinds])]
            events_file.write_table(pa.Table.from_arrays(columns, schema=schema))
            parents_file.write_table(pa.Table.from_arrays([pa.array(records["parent"])], schema=parents))
            sum_weights += float(records["weight"].sum(dtype=np.float64))
            total_rows += len(records)
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
