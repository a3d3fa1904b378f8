"""Shards on disk: made by worker processes, written as they are finished, found again by the next run.

A shard's content depends only on the production's settings, the process and the shard's number. So a run that was
interrupted goes on with the shards that are missing, and any number of workers gives the same files.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import zipfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sage.errors import InputError
from training.simulation.production import Production, Shard, Simulation
from workshop.files import read_arrays, write_arrays, write_json
from workshop.leftovers import others
from workshop.parent import end_with_parent

SETTINGS_FILE = "simulation.json"
SHARDS_FOLDER = "shards"


def claim(production: Production, output: Path) -> None:
    """Mark ``output`` as belonging to a production, or check that it does.

    Raises:
        InputError: If the folder holds something else.
    """
    path = output / SETTINGS_FILE
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"{path}: cannot be read as JSON ({error}); choose another --output"
            raise InputError(msg) from error
        if found != asdict(production):
            msg = f"{output} holds events of {found}, not of {asdict(production)}; choose another --output or delete it"
            raise InputError(msg)
        return
    if output.exists() and any(others(output, SETTINGS_FILE)):
        msg = f"{output} is not empty and has no {SETTINGS_FILE}; choose another --output or an empty folder"
        raise InputError(msg)
    write_json(path, asdict(production))


def shard_path(output: Path, process: str, index: int) -> Path:
    """Return where a shard is kept."""
    return output / SHARDS_FOLDER / process / f"{index:06d}.npz"


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard; the file is complete or absent."""
    tried = np.array(sorted(shard.tried.items()), dtype=np.int64).reshape(-1, 2)
    arrays = {name: getattr(shard, name) for name in ("values", "weights", "codes", "parents")}
    write_arrays(path, {**arrays, "tried": tried})


def read_shard(path: Path) -> Shard:
    """Read a shard.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        # numpy leaves a file open that it cannot read.
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no end of archive")  # noqa: EM101
        arrays = read_arrays(path)
        tried = {int(code): int(count) for code, count in arrays.pop("tried")}
        return Shard(**arrays, tried=tried)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{path}: damaged ({error}); delete it and run the same command again"
        raise InputError(msg) from error


def produce(n_rows: dict[str, int], production: Production, output: Path, cache: Path, workers: int) -> dict[str, int]:
    """Make the shards that are missing for ``n_rows`` rows of each process.

    Returns:
        Number of shards to use by process: the first ones that together hold at least ``n_rows`` rows.
    """
    # Libraries are made once, before workers that would all make them.
    simulation = Simulation(production, cache)
    if workers == 1:
        return {name: _in_turn(name, rows, simulation, output) for name, rows in n_rows.items()}
    context = multiprocessing.get_context("spawn")
    arguments = (production, cache)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=arguments) as pool:
        return {name: _in_parallel(name, rows, pool, output, workers) for name, rows in n_rows.items()}


def iterate(output: Path, process: str, n_shards: int) -> Iterator[Shard]:
    """Yield the first shards of a process."""
    for index in range(n_shards):
        yield read_shard(shard_path(output, process, index))


def _in_turn(process: str, n_rows: int, simulation: Simulation, output: Path) -> int:
    rows, index = 0, 0
    with tqdm(total=n_rows, desc=process, unit="rows", disable=None) as progress:
        while rows < n_rows:
            path = shard_path(output, process, index)
            if not path.exists():
                write_shard(path, simulation.shard(process, index))
            found = len(read_shard(path))
            progress.update(found)
            rows, index = rows + found, index + 1
    return index


def _in_parallel(process: str, n_rows: int, pool: ProcessPoolExecutor, output: Path, workers: int) -> int:
    """Keep all workers busy without starting shards that will hardly be needed."""
    sizes: dict[int, int] = {}
    running: dict[Future[int], int] = {}
    index = 0
    with tqdm(total=n_rows, desc=process, unit="rows", disable=None) as progress:
        while (needed := _needed(sizes, n_rows)) is None:
            typical = sum(sizes.values()) / len(sizes) if sizes else n_rows / workers
            if not running or (len(running) < workers and sum(sizes.values()) + len(running) * typical < n_rows):
                path = shard_path(output, process, index)
                if path.exists():
                    sizes[index] = len(read_shard(path))
                    progress.update(sizes[index])
                else:
                    running[pool.submit(_make, process, index, path)] = index
                index += 1
                continue
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                found = future.result()
                sizes[running.pop(future)] = found
                progress.update(found)
    wait(running)
    return needed


def _needed(sizes: dict[int, int], n_rows: int) -> int | None:
    """Number of leading shards that hold ``n_rows`` rows, None if those finished are not enough."""
    rows, index = 0, 0
    while rows < n_rows:
        if index not in sizes:
            return None
        rows, index = rows + sizes[index], index + 1
    return index


_worker: list[Simulation] = []
"""What a worker process keeps between shards."""


def _start(production: Production, cache: Path) -> None:
    end_with_parent()
    # Ctrl-C is the main process's business; a worker finishes its shard.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker.append(Simulation(production, cache))


def _make(process: str, index: int, path: Path) -> int:
    shard = _worker[0].shard(process, index)
    write_shard(path, shard)
    return len(shard)
