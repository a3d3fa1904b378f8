"""The test set in memory-mapped files, so that any number of worker processes hold it once.

The full test part is 66 million events, 8 GB: a copy per worker does not fit, and shared memory is often limited to
64 MB in containers. Pages of a mapped file are shared by all processes and given back when memory is short. The files
lie in the run's output folder, where a run that was killed leaves them and the next one finds and removes them.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workshop.errors import UsageError

POOL_FOLDER = ".sage-test-set"
"""Name of the folder in the output folder of a run."""


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
        """Return an empty array of shape (rows,) in a new file; matches ``harness.test_set.Allocate``.

        Raises:
            UsageError: If there is no room for it.
        """
        path = self.folder / f"{len(self.columns)}.npy" if rows else None  # an empty file cannot be mapped
        self.columns.append(MappedColumn(process, column, dtype.str, path))
        if path is None:
            return np.empty(0, dtype)
        try:
            values = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows,))
            _reserve(path)
        except OSError as error:
            need = f"{rows * dtype.itemsize} bytes of {process}'s {column!r}"
            msg = f"{self.folder}: no room for {need} ({error}); "
            msg += "make room, choose an --output on a larger disk, or use --workers 1, which needs memory instead"
            raise UsageError(msg) from error
        return np.asarray(values)


def _reserve(path: Path) -> None:
    """Take the disk space of a file that has its size but no content yet.

    Otherwise a disk that is full ends the process (SIGBUS) when the mapped file is written to.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot reserve
                raise


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
