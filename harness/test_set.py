"""The events file, read the way the challenge's own loader reads it (arXiv:2410.02867, section 2).

The first 30 % of the rows are the test part, from which pseudo-experiments are drawn; the rest is for training. The
weights of either part are rescaled to the sum of the full data set, which a metadata file beside the events states.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.columns import LABEL_COLUMNS, PROCESS_ORDER, check_schema, numeric_values, plain_text, process_codes
from harness.pool_worth import say_what_a_pool_is_worth
from workshop.errors import UsageError

logger = logging.getLogger("sage.harness.test_set")

FILE_NAME = "FAIR_Universe_HiggsML_data.parquet"
METADATA_NAME = "FAIR_Universe_HiggsML_data_metadata.json"
BATCH_ROWS = 1 << 20
HASH_ALL_BELOW = 64 << 20
CONSISTENT = 1.25
"""Factor by which the sum of the weights may differ from what the metadata says, scaled to the rows of a part."""
LARGEST = 1e9
"""Of the numbers in the metadata: rows, and events that are expected."""

SIGNAL = PROCESS_ORDER.index("htautau")

Allocate = Callable[[str, str, int, "np.dtype[Any]"], "np.ndarray[Any, Any]"]
"""(process, column, rows, dtype) -> empty array of shape (rows,) for one column of the test set."""


def in_memory(process: str, column: str, rows: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Allocate an ordinary array, whatever the process and column."""
    del process, column
    return np.empty(rows, dtype)


class EventFile:
    """Test and training part of one events file.

    Like the official ``Data`` it keeps the file open, so neither it nor its bound method ``load_train_set`` can be
    pickled.

    Args:
        path: The Parquet file, or a folder that holds it as ``FAIR_Universe_HiggsML_data.parquet``. Metadata is read
            from ``<name>_metadata.json`` beside it (``total_rows``, ``sum_weights``; optional).
        test_size: Rows of the test part: an int, or a float as a fraction of all rows.

    Raises:
        UsageError: If the file is missing, is not Parquet or misses columns, the metadata is unusable, or the test
            part would be empty.

    Attributes:
        path: The Parquet file.
        total_rows: Rows of the data set, from the metadata if it says so.
        test_rows: Rows of the test part, which come first.
        sum_weights: What either part's weights are rescaled to; None if unknown.
    """

    def __init__(self, path: Path | str, test_size: float = 0.3) -> None:
        self.path = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
        if not self.path.is_file():
            msg = f"{self.path}: no such events file; give the Parquet file or a folder that holds {FILE_NAME}"
            raise UsageError(msg)
        try:
            self._file = pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            msg = f"{self.path}: not a readable Parquet file ({_first_line(error)}); download or unpack it again"
            raise UsageError(msg) from error
        self.columns = check_schema(self.path, self._file.schema_arrow)
        self._metadata = metadata = self._read_metadata()
        file_rows = int(self._file.metadata.num_rows)
        self.total_rows = int(metadata.get("total_rows", file_rows))
        if self.total_rows != file_rows:
            logger.warning("%s has %d rows, its metadata says %d", self.path, file_rows, self.total_rows)
        self.sum_weights: float | None = metadata.get("sum_weights")
        if self.sum_weights is None:
            logger.warning(
                "no 'sum_weights' in %s: weights are not rescaled, so pseudo-experiments hold only the events of the "
                "test part (30 %% of a full experiment by default)",
                self.metadata_path,
            )
        elif self.sum_weights <= 0:
            logger.warning("'sum_weights' in %s is not positive: weights are not rescaled", self.metadata_path)
        self.test_rows = _count_rows(test_size, self.total_rows, "test size")
        if self.test_rows >= file_rows < self.total_rows:
            logger.warning(
                "%s: the test part of %d rows takes all %d rows of the file and leaves none for training; correct "
                "'total_rows' in %s, which belongs to a larger file",
                *(self.path, self.test_rows, file_rows, self.metadata_path),
            )
        if min(self.test_rows, file_rows) == 0:
            msg = f"{self.path}: the test part is empty (test size {test_size} of {file_rows} rows)"
            msg += "; pseudo-experiments are drawn from it, so give a larger file or test size"
            raise UsageError(msg)

    @property
    def metadata_path(self) -> Path:
        """Where the metadata of this file belongs."""
        return self.path.with_name(f"{self.path.stem}_metadata.json")

    @property
    def train_rows(self) -> int:
        """Rows of the training part."""
        return self.total_rows - self.test_rows

    def fingerprint(self) -> str:
        """Return a hash that changes with the events and with how they are split and rescaled.

        Beyond 64 MiB only the size, the first MiB and the Parquet footer (position, size and extremes of every column
        chunk) are hashed, because reading the full data set takes minutes.
        """
        digest = hashlib.sha256(f"{self.total_rows} {self.test_rows} {self.sum_weights} ".encode())
        size = self.path.stat().st_size
        digest.update(str(size).encode())
        with self.path.open("rb") as stream:
            if size <= HASH_ALL_BELOW:
                digest.update(stream.read())
            else:
                digest.update(stream.read(1 << 20))
                stream.seek(-8 - int(self._file.metadata.serialized_size), 2)
                digest.update(stream.read())
        return digest.hexdigest()

    def check_processes(self) -> None:
        """Say which processes the test part lacks, before anything is trained for it.

        Raises:
            UsageError: If it has no signal, so that there is nothing to measure, or a label is unknown.
        """
        counts = np.zeros(len(PROCESS_ORDER), int)
        for first_row, table in self._read(["detailed_labels"], 0, self.test_rows):
            counts += _count_processes(process_codes(self.path, table.column("detailed_labels"), first_row))
        self._judge(counts, f"the test part (the first {counts.sum()} rows)")
        if counts[SIGNAL] == 0:
            msg = f"{self.path}: no htautau in the test part (its {counts.sum()} rows: {_listed(counts)}), so there is "
            msg += (
                "no signal to measure; shuffle the rows, which may be sorted by process, or choose a larger test size"
            )
            raise UsageError(msg)

    def _judge(self, counts: np.ndarray[Any, Any], part: str) -> None:
        """Warn of processes that a part of the events lacks."""
        missing = [process for process, count in zip(PROCESS_ORDER, counts, strict=True) if not count]
        if missing and counts.any():
            logger.warning(
                "%s: %s has no %s (%s); if the rows are sorted by process, shuffle them",
                *(self.path, part, " and no ".join(missing), _listed(counts)),
            )

    def load_test_set(self, allocate: Allocate = in_memory) -> dict[str, pd.DataFrame]:
        """Read the test part.

        Values, weights and column order are those of the official loader; the index is not (each frame counts from 0).

        Args:
            allocate: Provides the memory of each column; each event is held once.

        Returns:
            One frame per process, in the order ztautau, diboson, ttbar, htautau, without the label columns. A frame
            may be empty.

        Raises:
            UsageError: If a value is not finite, a weight negative or a label unknown.
        """
        codes, weights = self._read_labels_and_weights()
        counts = _count_processes(codes)
        if not weights[codes == SIGNAL].any():
            msg = f"{self.path}: the {counts[SIGNAL]} htautau rows of the test part (its {len(codes)} rows: "
            msg += f"{_listed(counts)}) weigh nothing, so there is no signal to measure; shuffle the rows or mend the "
            msg += "column 'weights'"
            raise UsageError(msg)
        background = weights[codes != SIGNAL].astype(np.float64)
        say_what_a_pool_is_worth(self.path, self._metadata, self.test_rows / self.total_rows, background)
        names = [name for name in self.columns if name not in LABEL_COLUMNS]
        types = {name: np.dtype(self._file.schema_arrow.field(name).type.to_pandas_dtype()) for name in names}
        types["weights"] = weights.dtype
        data = {
            process: {name: allocate(process, name, int(count), types[name]) for name in names}
            for process, count in zip(PROCESS_ORDER, counts, strict=True)
        }
        filled = np.zeros(len(PROCESS_ORDER), int)
        for first_row, table in self._read(names, 0, self.test_rows):
            here = codes[first_row : first_row + table.num_rows]
            rows = [np.flatnonzero(here == code) for code in range(len(PROCESS_ORDER))]
            for name in names:
                if name == "weights":
                    values = weights[first_row : first_row + table.num_rows]
                else:
                    values = numeric_values(self.path, name, table.column(name), first_row)
                for process, start, select in zip(PROCESS_ORDER, filled, rows, strict=True):
                    data[process][name][start : start + len(select)] = values[select]
            filled += [len(select) for select in rows]
        return {process: pd.DataFrame(columns, copy=False) for process, columns in data.items()}

    @np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")
    def load_train_set(self, train_size: float | None = None, selected_indices: Any = None) -> pd.DataFrame:
        """Read the training part, or some rows of it; this is what a submission gets as ``get_train_set``.

        Args:
            train_size: Number of rows (int) or fraction of the training part (float), drawn without replacement from
                numpy's global random state over all processes.
            selected_indices: Row numbers within the training part, list or array; they win over ``train_size``.

        Returns:
            Frame of the selected rows in the order of the file, with label columns and rescaled weights.

        Raises:
            UsageError: If the selection is of the wrong type or out of range, or a value is not finite. The official
                loader skips indices behind the end and takes negative ones from the test part; here both are refused.
        """
        available = self.train_rows
        count = available if train_size is None else _count_rows(train_size, available, "train size")
        if selected_indices is None:
            # The draw is made even if all rows are taken, so that numpy's state goes on as in the official program.
            selected = np.random.choice(available, size=count, replace=False)
        elif isinstance(selected_indices, (list, np.ndarray)):
            selected = np.asarray(selected_indices, dtype=None if len(selected_indices) else int)
        else:
            msg = f"selected indices must be a list or a numpy array, not {type(selected_indices).__name__}"
            raise UsageError(msg)
        if len(selected) and (selected.dtype.kind not in "iu" or selected.min() < 0 or selected.max() >= available):
            msg = f"selected indices must be integers from 0 to {available - 1}, the rows of the training part"
            raise UsageError(msg)
        rows = np.sort(selected) + self.test_rows
        tables = [plain_text(self._file.schema_arrow.empty_table().select(self.columns))]
        counts = np.zeros(len(PROCESS_ORDER), int)
        if len(rows):
            for first_row, table in self._read(list(self.columns), int(rows[0]), int(rows[-1]) + 1):
                low, high = np.searchsorted(rows, (first_row, first_row + table.num_rows))
                here = rows[low:high] - first_row
                part = table if np.array_equal(here, np.arange(table.num_rows)) else table.take(here)
                counts += _count_processes(process_codes(self.path, part.column("detailed_labels"), first_row))
                for name in self.columns:
                    if name != "detailed_labels":
                        numeric_values(self.path, name, part.column(name), first_row)
                tables.append(part)
        if len(rows) == available:
            self._judge(counts, "the training part")
        merged = pa.concat_tables(tables)
        tables.clear()
        # Column by column, each freed once it is converted: the events are in memory once, plus one column.
        frame = merged.to_pandas(ignore_metadata=True, split_blocks=True, self_destruct=True)
        del merged
        if len(frame):
            frame["weights"] = self._rescale(frame["weights"])
        return frame

    def _read(self, columns: list[str], start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Yield (first row, table) for rows ``start`` to ``stop``, decoding only the row groups they lie in."""
        metadata = self._file.metadata
        ends = np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
        begins = np.concatenate([[0], ends[:-1]])
        groups = [group for group in range(len(ends)) if begins[group] < stop and ends[group] > start]
        if not groups:
            return
        row = int(begins[groups[0]])
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
                first, last = max(start - row, 0), min(stop - row, batch.num_rows)
                if last > first:
                    table = pa.Table.from_batches([batch.slice(first, last - first)]).select(columns)
                    yield row + first, plain_text(table)
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            msg = f"{self.path}: damaged behind row {row} ({_first_line(error)}); download or unpack it again"
            raise UsageError(msg) from error

    def _read_labels_and_weights(self) -> tuple[np.ndarray[Any, np.dtype[np.int8]], np.ndarray[Any, Any]]:
        """Return process codes and rescaled weights of the test part in the order of the file, shape (n,) each."""
        codes, weights = [], []
        for first_row, table in self._read(["detailed_labels", "weights"], 0, self.test_rows):
            codes.append(process_codes(self.path, table.column("detailed_labels"), first_row))
            weights.append(numeric_values(self.path, "weights", table.column("weights"), first_row))
            if (weights[-1] < 0).any():
                row = int(np.argmax(weights[-1] < 0))
                msg = f"{self.path}: column 'weights' holds {weights[-1][row]} in row {first_row + row}, but the test "
                msg += "part's weights are Poisson means and cannot be negative; drop such events"
                raise UsageError(msg)
        together = np.concatenate(weights)
        self._compare_with_metadata(float(together.sum(dtype=np.float64)), len(together))
        return np.concatenate(codes), np.asarray(self._rescale(pd.Series(together)))

    def _compare_with_metadata(self, total: float, rows: int) -> None:
        """Say so if the weights of the test part are not those that the metadata speaks of."""
        if not self.sum_weights or total <= 0:
            return
        expected = self.sum_weights * rows / self.total_rows
        if not 1 / CONSISTENT < total / expected < CONSISTENT:
            logger.warning(
                "%s: the weights of the test part add up to %.6g, where 'sum_weights' in %s leads to expect about "
                "%.6g for %d of %d rows; they are rescaled by %.3g: right for a subset of a larger file, wrong if the "
                "metadata belongs to other events or the rows are sorted",
                *(self.path, total, self.metadata_path, expected, rows, self.total_rows, self.sum_weights / total),
            )

    def _rescale(self, weights: pd.Series) -> pd.Series:
        """Rescale weights to the sum over the full data set, shape (n,); bit-equal to the official loader."""
        if self.sum_weights is None or self.sum_weights <= 0:
            return weights
        # The built-in sum adds Python floats one by one; any other sum rounds differently and so moves the Poisson
        # draws of a few events.
        total = sum(weights)
        if total <= 0:
            msg = f"{self.path}: the weights of {len(weights)} events add up to {total}; they cannot be rescaled to "
            msg += f"'sum_weights' = {self.sum_weights} of {self.metadata_path.name}"
            raise UsageError(msg)
        return (self.sum_weights * weights) / total

    def _read_metadata(self) -> dict[str, Any]:
        """Return the metadata; empty if there is no such file."""
        if not self.metadata_path.is_file():
            return {}
        try:
            metadata = json.loads(self.metadata_path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            msg = f"{self.metadata_path}: not readable as JSON ({_first_line(error)}); repair or remove it"
            raise UsageError(msg) from error
        if not isinstance(metadata, dict):
            msg = f"{self.metadata_path}: holds a {type(metadata).__name__}, not an object; repair or remove it"
            raise UsageError(msg)
        for key, kinds in (("total_rows", (int,)), ("sum_weights", (int, float))):
            value = metadata.get(key)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= LARGEST
            ):
                msg = f"{self.metadata_path}: {key!r} is {value!r}, but must be a number from 0 to {LARGEST:g}, else "
                msg += "pseudo-data do not fit into memory; use the metadata that came with the events"
                raise UsageError(msg)
        return {key: value for key, value in metadata.items() if value is not None}


def _count_rows(size: Any, available: int, what: str) -> int:
    """Return a number of rows from an int (at most ``available``) or a fraction of ``available``."""
    if isinstance(size, int) and size >= 0:
        return min(size, available)
    if isinstance(size, float) and 0.0 <= size <= 1.0:
        return int(size * available)
    msg = f"{what} must be a number of rows (int) or a fraction from 0.0 to 1.0 (float), not {size!r}"
    raise UsageError(msg)


def _count_processes(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.bincount(codes, minlength=len(PROCESS_ORDER))


def _listed(counts: np.ndarray[Any, Any]) -> str:
    return ", ".join(f"{process} {count}" for process, count in zip(PROCESS_ORDER, counts, strict=True))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
