"""Shards on disk: made by worker processes, written as they are finished, found again by the next run.

A shard's content depends only on the production's settings, the process and the shard's number. So a run that was
interrupted goes on with the shards that are missing, and any number of workers gives the same files. Where only sums of
shards are wanted, these stand for the shards (see ``training.sums``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sage.errors import InputError
from training.simulation.aim import find_aim, table_hash
from training.simulation.origin import code_hash
from training.simulation.production import Production, Shard, Simulation
from training.sums import Plan, count_shard, read_sums, sums_path
from workshop.claims import claimed
from workshop.files import read_checked, write_arrays
from workshop.jobs import Pool, process_pool

SETTINGS_FILE = "simulation.json"
SHARDS_FOLDER = "shards"


def claimed_by(production: Production, output: Path) -> AbstractContextManager[None]:
    """Own ``output`` for a production; see ``workshop.claims``."""
    return claimed(output, identity(production), results=(f"{SHARDS_FOLDER}/*/*.npz",), file=SETTINGS_FILE)


def identity(production: Production) -> dict[str, Any]:
    """Return what tells a production from others: its settings, without those of an aim it has not, and its code."""
    settings = {**asdict(production), "code": code_hash("production")}
    aim = find_aim(settings.pop("aim"))
    return settings if aim is None else {**settings, "aim": {**asdict(aim), "table": table_hash()}}


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
    what_to_do = "delete it and run the same command again"
    arrays = read_checked(path, what_to_do)
    try:
        tried = {int(code): int(count) for code, count in arrays.pop("tried")}
        return Shard(**arrays, tried=tried)
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path}: damaged ({error}); {what_to_do}"
        raise InputError(msg) from error


def produce(
    n_rows: dict[str, int], production: Production, output: Path, cache: Path, workers: int, plan: Plan | None = None
) -> dict[str, int]:
    """Make the shards that are missing for ``n_rows`` rows of each process.

    Args:
        n_rows: Rows by process.
        production: What to make.
        output: Folder of the production.
        cache: Folder of the libraries.
        workers: Processes.
        plan: What counts the shards, of which only the sums are kept then; the shards themselves are if absent.

    Returns:
        Number of shards to use by process: the first ones that together hold at least ``n_rows`` rows.
    """
    if workers > 1:
        Simulation(production, cache)  # makes the libraries once, before workers that would all make them
    place, rows_of = (shard_path, _rows_of_shard) if plan is None else (sums_path, _rows_of_sums)
    with process_pool(workers, _start, (production, cache, plan)) as pool:
        return {
            name: _produce(name, rows, pool, partial(place, output, name), rows_of, workers)
            for name, rows in n_rows.items()
        }


def iterate(output: Path, process: str, n_shards: int) -> Iterator[Shard]:
    """Yield the first shards of a process."""
    for index in range(n_shards):
        yield read_shard(shard_path(output, process, index))


def _rows_of_shard(path: Path) -> int:
    return len(read_shard(path))


def _rows_of_sums(path: Path) -> int:
    return int(read_sums(path)["rows"].sum())


def _produce(
    process: str, n_rows: int, pool: Pool, place: Callable[[int], Path], rows_of: Callable[[Path], int], workers: int
) -> int:
    """Keep all workers busy without starting shards that will hardly be needed."""
    sizes: dict[int, int] = {}
    index = 0

    def start() -> None:
        nonlocal index
        while _needed(sizes, n_rows) is None:
            rows = sum(sizes.values())
            typical = rows / len(sizes) if sizes else n_rows / workers
            if len(pool) and not (len(pool) < workers and rows + len(pool) * typical < n_rows):
                return
            path = place(index)
            if path.exists():
                sizes[index] = rows_of(path)
                progress.update(sizes[index])
            else:
                pool.submit(index, _make, process, index, path)
            index += 1

    with tqdm(total=n_rows, desc=process, unit="rows", disable=None) as progress:
        start()
        for done, rows in pool.finished():
            sizes[done] = rows
            progress.update(rows)
            start()
    needed = _needed(sizes, n_rows)
    assert needed is not None
    return needed


def _needed(sizes: dict[int, int], n_rows: int) -> int | None:
    """Number of leading shards that hold ``n_rows`` rows, None if those finished are not enough."""
    rows, index = 0, 0
    while rows < n_rows:
        if index not in sizes:
            return None
        rows, index = rows + sizes[index], index + 1
    return index


_worker: list[tuple[Simulation, Production, Plan | None]] = []
"""What a process that makes shards keeps between them."""


def _start(production: Production, cache: Path, plan: Plan | None) -> None:
    _worker[:] = [(Simulation(production, cache), production, plan)]


def _make(process: str, index: int, path: Path) -> int:
    simulation, production, plan = _worker[0]
    shard = simulation.shard(process, index)
    if plan is None:
        write_shard(path, shard)
    else:
        write_arrays(path, count_shard(plan, shard, process, index, production.seed))
    return len(shard)
