"""Parts of several events files as one file, with the weights that give the smallest variance.

The rows of every part are put aside on disk in groups that hold whole showered events; from there they are summed,
weighted and dealt to ``simulation.buckets``. No more than a row group, a group or a bucket of rows is in memory, and 8
bytes for each row of a file that has ``parents.parquet``.

Parts k of one process, each an unbiased sample scaled to the expected total T, are averaged with shares a_k. The
variance of the sum is T^2 sum_k a_k^2 / n_k, where n_k = (sum of weights)^2 / sum over showered events of their summed
weight squared. It is smallest for a_k = n_k / sum_j n_j.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from training.events import DATA_FILE, Events
from training.sampling import uniform
from training.simulation.buckets import BUCKET_ROWS, RECORD, Buckets, write
from training.simulation.parts import Piece, Sums
from training.simulation.processes import TABLE
from workshop.claims import claimed
from workshop.files import scratch_folder

SETTINGS_FILE = "join.json"
GROUPING = 3
"""Tells the hash that groups showered events from the other choices in ``training.sampling``."""

DESCRIPTION = (
    "Simulation, joined from parts of several events files; processes normalised to the challenge's expected events at "
    "10/fb before the selection. NOT the public data set. Weights are not uniform."
)


def join_parts(pieces: Sequence[Piece], output: Path, seed: int) -> dict[str, Any]:
    """Write the joined events file, its metadata and the file of showered events; see the module.

    Args:
        pieces: The parts.
        output: Folder for the files: new, empty or of the same command, which an interrupted run starts again.
        seed: Decides the order of the rows.

    Returns:
        The metadata.

    Raises:
        InputError: If a process cannot be joined.
        UsageError: If the folder holds something else.
    """
    asked = {"seed": seed, "parts": [[piece.hash, piece.rows.start, piece.rows.stop] for piece in pieces]}
    rng = np.random.default_rng(seed)
    with (
        claimed(output, asked, (DATA_FILE,), file=SETTINGS_FILE),
        scratch_folder(output / ".groups") as aside,
        scratch_folder(output / ".buckets") as dealt,
    ):
        groups = [_group(piece, aside, index) for index, piece in enumerate(pieces)]
        for piece, paths in zip(pieces, groups, strict=True):
            _sum(piece, paths)
        shares = find_shares(pieces)
        rows = {name: sum(piece.sums[name].rows for piece in pieces if name in piece.sums) for name in TABLE}
        buckets = Buckets(dealt, {name: count for name, count in rows.items() if count}, rng)
        first_parent = 0
        for piece, paths, share in zip(pieces, groups, shares, strict=True):
            factors = {name: TABLE[name].expected * part / piece.sums[name].total for name, part in share.items()}
            first_parent = _deal(piece, paths, factors, buckets, first_parent)
        details = {
            "seed": seed,
            "parts": [_describe(piece, share) for piece, share in zip(pieces, shares, strict=True)],
        }
        return write(buckets, output, rng, DESCRIPTION, {"join": details})


class Summed(Protocol):
    """Something whose sums over each process are known."""

    @property
    def sums(self) -> Mapping[str, Effective]:
        """Return the sums by process."""


class Effective(Protocol):
    """Sums over the events of one process."""

    @property
    def effective_events(self) -> float:
        """Return the showered events of equal weight that would have the same relative variance."""


def find_shares(pieces: Sequence[Summed]) -> list[dict[str, float]]:
    """Return, for each part, the share of each of its processes that it contributes; they add up to 1."""
    totals: dict[str, float] = {}
    for piece in pieces:
        for name, sums in piece.sums.items():
            totals[name] = totals.get(name, 0.0) + sums.effective_events
    return [{name: sums.effective_events / totals[name] for name, sums in piece.sums.items()} for piece in pieces]


def _group(piece: Piece, folder: Path, number: int) -> list[Path]:
    """Put the rows aside, those of one showered event in one group; returns the groups."""
    n_groups = -(-len(piece.rows) // BUCKET_ROWS)
    paths = [folder / f"{number:03d}_{group:05d}" for group in range(n_groups)]
    for path in paths:
        path.touch()
    with tqdm(total=len(piece.rows), desc=f"read {piece}", unit="rows", disable=None) as progress:
        for events in piece.file.stream(piece.rows):
            records = _records(events)
            groups = (uniform(events.keys, GROUPING) * n_groups).astype(np.int64)
            for group in np.unique(groups):
                with paths[group].open("ab") as stream:
                    stream.write(records[groups == group].tobytes())
            progress.update(len(events))
    return paths


def _records(events: Events) -> np.ndarray:
    records = np.empty(len(events), RECORD)
    records["values"] = np.stack([events.columns[name] for name in PRIMARIES], axis=1)
    records["weight"] = events.weights
    records["process"] = np.array([list(TABLE).index(name) for name in PROCESSES])[events.classes]
    records["parent"] = events.keys
    return records


def _processes(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the processes of a group: name, rows, and the showered event of each row, numbered from 0."""
    records = np.fromfile(path, RECORD)
    for number, name in enumerate(TABLE):
        here = records[records["process"] == number]
        if len(here):
            yield name, here, np.unique(here["parent"], return_inverse=True)[1]


def _sum(piece: Piece, paths: Sequence[Path]) -> None:
    piece.sums = {}
    for path in tqdm(paths, f"sum {piece}", disable=None):
        for name, records, parents in _processes(path):
            piece.sums.setdefault(name, Sums()).add(records["weight"].astype(np.float64), parents)
    for name, sums in piece.sums.items():
        if not sums.total > 0.0:
            msg = f"{piece}: the weights of its {sums.rows} {name} events add up to {sums.total}; remove such events"
            raise InputError(msg)


def _deal(piece: Piece, paths: Sequence[Path], factors: dict[str, float], buckets: Buckets, first_parent: int) -> int:
    """Deal the rows with their final weights; returns the first number that no showered event has yet."""
    for path in tqdm(paths, f"deal {piece}", disable=None):
        for name, records, parents in _processes(path):
            records["weight"] = records["weight"].astype(np.float64) * factors[name]
            records["parent"] = first_parent + parents
            first_parent += int(parents.max()) + 1
            buckets.deal(name, records)
        path.unlink()
    return first_parent


def _describe(piece: Piece, shares: dict[str, float]) -> dict[str, Any]:
    """Return what the metadata say about a part; names are those of a production's summary."""
    processes = {
        name: {
            "rows": sums.rows,
            "effective_rows": sums.total**2 / sums.squares,
            "inflation": sums.parent_squares / sums.squares,
            "effective_events": sums.effective_events,
            "share": shares[name],
        }
        for name, sums in piece.sums.items()
    }
    return {
        "folder": piece.folder.name,
        "part": piece.part,
        "table_fraction": piece.table_fraction,
        "sha256": piece.hash,
        "rows": [piece.rows.start, piece.rows.stop],
        "has_parents": piece.has_parents,
        "processes": processes,
        "sources": piece.sources(),
    }
