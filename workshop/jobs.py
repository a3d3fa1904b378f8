"""Long jobs in numbered parts on disk: a killed run loses the parts being computed and nothing else.

A part is a frame, written whole or not at all, and depends on nothing but its rows' numbers and the run's identity.
So the result does not depend on the number of processes, and a longer run goes on from a shorter one.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from harness.results import write_atomically
from workshop.errors import UsageError
from workshop.leftovers import others
from workshop.parent import end_with_parent

IDENTITY_FILE = "identity.json"
PARTS = "parts"
PART_ROWS = 250

Job = Callable[[range], pd.DataFrame]
"""Computes the rows with the given numbers; travels to other processes, so it must be picklable."""


def claim(folder: Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Make ``folder`` the place of a run, or check that it is.

    Arguments:
        folder: The folder; made if it is not there.
        identity: What decides the rows, as JSON values by name.
        overwrite: Throw earlier parts away.

    Raises:
        UsageError: If the folder holds another run, or is not empty and holds none.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is not a folder; choose another --output"
        raise UsageError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / IDENTITY_FILE
    if overwrite:
        for part in (folder / PARTS).glob("*.parquet"):
            part.unlink()
    elif path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(identity))  # tuples become lists
        different = [name for name in {**wanted, **earlier} if earlier.get(name) != wanted.get(name)]
        if different:
            pairs = ", ".join(f"{name} (there {earlier.get(name)!r}, now {wanted.get(name)!r})" for name in different)
            msg = f"{folder} holds a run with other settings: {pairs}; choose another --output or pass --overwrite"
            raise UsageError(msg)
    elif any(others(folder, IDENTITY_FILE)):
        msg = f"{folder} is not empty and holds no run to continue; choose another --output folder"
        raise UsageError(msg)
    write_atomically(path, json.dumps(identity, indent=1) + "\n")


def run_parts(folder: Path, rows: int, job: Job, workers: int, unit: str) -> pd.DataFrame:
    """Compute the rows 0 to ``rows`` that are not there yet, and return all.

    Arguments:
        folder: Place of the run, see ``claim``.
        rows: Number of rows.
        job: Computes some of them.
        workers: Number of processes.
        unit: What a row is, for the progress bar.

    Raises:
        UsageError: If a number is out of range.
    """
    for name, value in (("workers", workers), (unit + "s", rows)):
        if value < 1:
            msg = f"{name} is {value}, but must be at least 1"
            raise UsageError(msg)
    (folder / PARTS).mkdir(exist_ok=True)
    parts = [range(first, min(first + PART_ROWS, rows)) for first in range(0, rows, PART_ROWS)]
    missing = [part for part in parts if not _path(folder, part).is_file()]
    there = rows - sum(map(len, missing))
    with tqdm(total=rows, initial=there, unit=unit, disable=None) as progress:
        for part, frame in _compute(missing, job, workers):
            write_frame(_path(folder, part), frame)
            progress.update(len(part))
    return pd.concat([pd.read_parquet(_path(folder, part)) for part in parts], ignore_index=True)


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as Parquet, whole or not at all."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())


def _path(folder: Path, part: range) -> Path:
    return folder / PARTS / f"{part.start:07d}-{part.stop:07d}.parquet"


def _compute(parts: Sequence[range], job: Job, workers: int) -> Iterator[tuple[range, pd.DataFrame]]:
    """Yield the parts as they finish."""
    if workers == 1 or len(parts) < 2:
        for part in parts:
            yield part, job(part)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(parts)), context, _start) as pool:
        futures = {pool.submit(job, part): part for part in parts}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start() -> None:
    """Prepare a worker process."""
    end_with_parent()
    # Ctrl-C reaches all processes of the terminal; only the main one acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
