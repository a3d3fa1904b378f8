"""Streaming reader of events files in the challenge's format.

A file of two hundred million rows does not fit into memory, so it is read one row group at a time and never as a
whole. The first ``table_fraction`` of the rows fill the tables, and the network trains on the others. The rescaling is
the challenge's: weights of a part are scaled so that they sum to the full file's ``sum_weights`` (arXiv:2410.02867,
section 5).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES, Columns
from sage.errors import InputError

DATA_FILE = "FAIR_Universe_HiggsML_data.parquet"
METADATA_FILE = "FAIR_Universe_HiggsML_data_metadata.json"
PARENTS_FILE = "parents.parquet"
"""Beside the events of our own simulation: the showered event that each row comes from."""
LABEL_COLUMNS = ("weights", "detailed_labels", "labels")
MOST_EVENTS = 1e12
"""Rows or expected events; more is damage."""
LUMINOSITY = 10
"""Integrated luminosity in inverse femtobarn that the weights stand for."""

Part = Literal["tables", "training", "all"]


@dataclass(frozen=True)
class Events:
    """Some events.

    Args:
        columns: The 16 primary columns, each of shape (n,), float32.
        weights: Expected number of events at 10 fb^-1 each stands for, shape (n,), float64.
        classes: Index of the process in ``PROCESSES``, shape (n,), int64.
        keys: Number of the showered event each row comes from, or of the row where that is not known, shape (n,),
            int64. Rows with equal keys are not independent.
    """

    columns: Columns
    weights: np.ndarray
    classes: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.weights)

    def take(self, rows: np.ndarray) -> Events:
        """Return the events at the given places."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Events(columns, self.weights[rows], self.classes[rows], self.keys[rows])


Keep = Callable[[Events], np.ndarray]
"""Chooses events: returns a boolean for each, shape (n,)."""


def join(pieces: Sequence[Events]) -> Events:
    """Put events one after the other."""
    return Events(
        {name: np.concatenate([piece.columns[name] for piece in pieces]) for name in PRIMARIES},
        np.concatenate([piece.weights for piece in pieces]),
        np.concatenate([piece.classes for piece in pieces]),
        np.concatenate([piece.keys for piece in pieces]),
    )


class EventsFile:
    """An events file with its metadata; opening it checks the layout, not the events.

    Args:
        folder: Folder that holds the parquet file and its metadata under the challenge's names.
        table_fraction: Fraction of the rows, from the first on, that fill the tables.

    Raises:
        InputError: If a file cannot be read, a column or metadata entry is missing or the fraction is not in [0, 1].
    """

    def __init__(self, folder: Path, table_fraction: float) -> None:
        if not 0.0 <= table_fraction <= 1.0:
            msg = f"table_fraction is {table_fraction}; it is a fraction of the rows, from 0 to 1"
            raise InputError(msg)
        if not folder.is_dir():
            msg = f"{folder}: no such folder; give the one that holds {DATA_FILE} and its metadata"
            raise InputError(msg)
        self.path = folder / DATA_FILE
        self.metadata = metadata = _read_metadata(folder / METADATA_FILE)
        try:
            self._parquet = pq.ParquetFile(self.path)
        except (OSError, pa.ArrowInvalid) as error:
            msg = f"{self.path}: cannot be read as parquet ({error}); download the data set again"
            raise InputError(msg) from error
        missing = [name for name in (*PRIMARIES, *LABEL_COLUMNS) if name not in self._parquet.schema_arrow.names]
        if missing:
            msg = f"{self.path}: column {missing[0]!r} is missing; use a file with the challenge's columns"
            raise InputError(msg)
        self.total_rows: int = self._parquet.metadata.num_rows
        self.sum_weights = float(metadata["sum_weights"])
        if int(metadata["total_rows"]) != self.total_rows:
            msg = (
                f"{self.path}: holds {self.total_rows} rows, {METADATA_FILE} says {metadata['total_rows']}; "
                "use a data file and metadata of one release"
            )
            raise InputError(msg)
        self.table_rows = int(table_fraction * self.total_rows)
        self._parents = self._open_parents(folder / PARENTS_FILE)
        self._scales: dict[range, float] = {}

    def rows(self, part: Part) -> range:
        """Return the row numbers of a part."""
        return {
            "tables": range(self.table_rows),
            "training": range(self.table_rows, self.total_rows),
            "all": range(self.total_rows),
        }[part]

    def stream(
        self, rows: range, shuffle: np.random.Generator | None = None, keep: Keep | None = None
    ) -> Iterator[Events]:
        """Yield events, one row group (or what of it lies in ``rows``) at a time.

        Args:
            rows: Row numbers; the weights of all of them together are scaled to ``sum_weights``.
            shuffle: Puts the row groups in random order; their order in the file if absent.
            keep: Chooses events of each row group; the others are dropped.

        Raises:
            InputError: If there are no events, or a column holds null, an infinite number or an unknown process.
        """
        scale = self._scale(rows)
        for numbers, batch in self._tables(rows, [*PRIMARIES, "weights", "detailed_labels"], shuffle):
            columns = {name: self._numbers(batch, name).astype(np.float32) for name in PRIMARIES}
            weights = self._numbers(batch, "weights") * scale
            events = Events(columns, weights, self._classes(batch), self._keys(numbers))
            yield events if keep is None else events.take(np.flatnonzero(keep(events)))

    def read(self, rows: range, keep: Keep | None = None) -> Events:
        """Read rows into memory; see ``stream``."""
        return join(list(self.stream(rows, keep=keep)))

    def batches(
        self, rows: range, size: int, pool_rows: int, rng: np.random.Generator, keep: Keep | None = None
    ) -> Iterator[Events]:
        """Yield events in random order, ``size`` at a time.

        Row groups come in random order and are shuffled together as far as ``pool_rows`` allow; the rows are all in
        memory, and the order is uniform, if that is at least ``len(rows)``. The last batch of a pool may be smaller.
        """
        pool: list[Events] = []
        for piece in self.stream(rows, rng, keep):
            if pool and sum(map(len, pool)) + len(piece) > pool_rows:
                yield from _cut(join(pool), size, rng)
                pool = []
            pool.append(piece)
        yield from _cut(join(pool), size, rng)

    def _scale(self, rows: range) -> float:
        # Remembered, because it takes a pass over the file.
        if rows not in self._scales:
            pieces = self._tables(rows, ["weights"])
            total = sum(float(self._numbers(batch, "weights").sum()) for _, batch in pieces)
            if not total > 0.0:
                msg = (
                    f"{self.path}: weights of rows {rows.start} to {rows.stop} sum to {total}; "
                    "choose a part with events"
                )
                raise InputError(msg)
            self._scales[rows] = self.sum_weights / total
        return self._scales[rows]

    def _tables(
        self, rows: range, columns: list[str], shuffle: np.random.Generator | None = None
    ) -> Iterator[tuple[range, pa.Table]]:
        """Yield row numbers and columns, one row group (or what of it lies in ``rows``) at a time."""
        layout = self._parquet.metadata
        stops = np.cumsum([layout.row_group(group).num_rows for group in range(layout.num_row_groups)])
        groups = np.arange(len(stops)) if shuffle is None else shuffle.permutation(len(stops))
        for group in groups.tolist():
            start = int(stops[group]) - layout.row_group(group).num_rows
            first, last = max(start, rows.start), min(int(stops[group]), rows.stop)
            if first < last:
                table = self._parquet.read_row_group(group, columns=columns)
                yield range(first, last), table.slice(first - start, last - first)

    def _open_parents(self, path: Path) -> np.ndarray | None:
        """Read the showered event of each row, if the file has them: 8 bytes per row, of simulated files only."""
        if not path.exists():
            return None
        parents: np.ndarray = pq.read_table(path, columns=["parent"])["parent"].to_numpy()
        if len(parents) != self.total_rows:
            msg = f"{path}: holds {len(parents)} rows, the events file {self.total_rows}; use files of one production"
            raise InputError(msg)
        return parents

    def _keys(self, numbers: range) -> np.ndarray:
        if self._parents is None:
            return np.arange(numbers.start, numbers.stop)
        return self._parents[numbers.start : numbers.stop]

    def _numbers(self, batch: pa.Table, name: str) -> np.ndarray:
        column = batch[name]
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            msg = f"{self.path}: column {name!r} is of type {column.type}; it must hold numbers"
            raise InputError(msg)
        values: np.ndarray = column.to_numpy().astype(np.float64)
        if not np.isfinite(values).all():
            msg = f"{self.path}: column {name!r} holds null or infinite values; jets that do not exist are -25"
            raise InputError(msg)
        return values

    def _classes(self, batch: pa.Table) -> np.ndarray:
        names = batch["detailed_labels"].combine_chunks().dictionary_encode()
        # One chunk gives an array, several a chunked array.
        encoded = names.chunk(0) if isinstance(names, pa.ChunkedArray) else names
        unknown = [name for name in encoded.dictionary.to_pylist() if name not in PROCESSES]
        if unknown or encoded.null_count:
            found = unknown[0] if unknown else None
            msg = f"{self.path}: column 'detailed_labels' holds {found!r}; it must be one of {', '.join(PROCESSES)}"
            raise InputError(msg)
        index = np.array([PROCESSES.index(name) for name in encoded.dictionary.to_pylist()], dtype=np.int64)
        classes: np.ndarray = index[encoded.indices.to_numpy()]
        return classes


def _cut(events: Events, size: int, rng: np.random.Generator) -> Iterator[Events]:
    order = rng.permutation(len(events))
    for start in range(0, len(order), size):
        yield events.take(order[start : start + size])


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be read as JSON ({error}); download the data set again"
        raise InputError(msg) from error
    for name in ("total_rows", "sum_weights"):
        value = metadata.get(name) if isinstance(metadata, dict) else None
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= MOST_EVENTS:
            msg = f"{path}: entry {name!r} is missing or no number above 0, at most {MOST_EVENTS:g}"
            msg += "; use the metadata that came with the data file"
            raise InputError(msg)
    return dict(metadata)
