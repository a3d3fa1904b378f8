"""The test set in memory-mapped files, so that any number of worker processes hold it once.

The full test part is 66 million events, 8 GB: a copy per worker does not fit, and shared memory is often limited to
64 MB in containers. Pages of a mapped file are shared by all processes and given back when memory is short.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]


@dataclass(frozen=True)
class MappedColumn:
    """One column of one process on disk; ``path`` is None if it has no rows."""

    process: str
    name: str
    dtype: str
    path: Path | None


@dataclass
class DiskPool:
    """Allocates columns of the test set in files of ``folder``; remembers them for ``attach``."""

    folder: Path
    columns: list[MappedColumn] = field(default_factory=list)

    def allocate(self, process: str, column: str, rows: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Return an empty array of shape (rows,) in a new file; matches ``harness.dataset.Allocate``."""
        path = self.folder / f"{len(self.columns)}.npy" if rows else None  # an empty file cannot be mapped
        self.columns.append(MappedColumn(process, column, dtype.str, path))
        if path is None:
            return np.empty(0, dtype)
        return np.asarray(np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows,)))


def attach(columns: list[MappedColumn]) -> dict[str, pd.DataFrame]:
    """Return the test set that was written to ``columns``: read-only frames, nothing copied."""
    data: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for column in columns:
        if column.path is None:
            values = np.empty(0, column.dtype)
        else:
            values = np.asarray(np.load(column.path, mmap_mode="r", allow_pickle=False))
        data.setdefault(column.process, {})[column.name] = values
    return {process: pd.DataFrame(values, copy=False) for process, values in data.items()}
