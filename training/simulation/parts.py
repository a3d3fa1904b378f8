"""Parts of events files: which rows, what they come from, and whether two parts hold the same events."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pyarrow.parquet as pq

from sage.errors import InputError
from training.events import DATA_FILE, PARENTS_FILE, EventsFile, Part
from workshop.files import sha256

logger = logging.getLogger("sage.training.simulation.parts")


@dataclass
class Sums:
    """Sums over the rows of one process in one part."""

    rows: int = 0
    total: float = 0.0
    squares: float = 0.0
    parent_squares: float = 0.0

    @property
    def effective_events(self) -> float:
        """Showered events of equal weight that would have the same relative variance."""
        return self.total**2 / self.parent_squares

    def add(self, weights: np.ndarray, parents: np.ndarray) -> None:
        """Add rows, shape (n,) each: all the rows of each of their showered events, numbered from 0."""
        self.rows += len(weights)
        self.total += float(weights.sum())
        self.squares += float((weights**2).sum())
        self.parent_squares += float((np.bincount(parents, weights=weights) ** 2).sum())


@dataclass
class Piece:
    """A part of an events file.

    Args:
        folder: Folder of the file.
        part: Which part.
        table_fraction: Fraction of the rows, from the first on, that fill the tables.

    Raises:
        InputError: If the file cannot be used, the part is empty or its border cuts a showered event.
    """

    folder: Path
    part: Part
    table_fraction: float
    sums: dict[str, Sums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file = EventsFile(self.folder, self.table_fraction)
        self.rows = self.file.rows(self.part)
        if not self.rows:
            msg = f"{self}: no rows at table fraction {self.table_fraction}; choose another part, --table-fraction or "
            msg += "a larger file"
            raise InputError(msg)
        self.has_parents = (self.folder / PARENTS_FILE).exists()
        if not self.has_parents:
            logger.warning("%s has no %s: its rows count as showered events of their own", self.folder, PARENTS_FILE)
        self._check_border()
        self.hash = sha256(self.file.path)
        self.metadata = self.file.metadata

    def __str__(self) -> str:
        return f"{self.folder}:{self.part}"

    def _check_border(self) -> None:
        if not self.has_parents or self.part == "all":
            return
        parents = pq.read_table(self.folder / PARENTS_FILE, columns=["parent"])["parent"].to_numpy()
        cut = len(np.intersect1d(parents[: self.file.table_rows], parents[self.file.table_rows :]))
        if cut:
            msg = f"{self}: table fraction {self.table_fraction} cuts {cut} showered events in two, which would be on "
            msg += "both sides; use 0.3 or 0.5, where simulated files keep them whole"
            raise InputError(msg)

    def sources(self) -> list[dict[str, Any]]:
        """Return what the rows come from: hash of the file, range of rows, seed, processes; flat for a joined file."""
        production = self.metadata.get("simulation", {})
        own = {
            "sha256": self.hash,
            "rows": [self.rows.start, self.rows.stop],
            "seed": production.get("seed"),
            "processes": sorted(production.get("processes", [])),
        }
        earlier = [source for piece in self.metadata.get("join", {}).get("parts", []) for source in piece["sources"]]
        return [own, *earlier]


def parse_parts(texts: Sequence[str], table_fraction: float) -> list[Piece]:
    """Open parts given as FOLDER, FOLDER:tables, FOLDER:training or FOLDER:all.

    Raises:
        InputError: If a part cannot be used, or two parts share events.
    """
    pieces = []
    for text in texts:
        folder, colon, part = text.rpartition(":")
        if not colon:
            folder, part = text, "all"
        if part not in get_args(Part):
            msg = f"part {part!r} of {text!r} is unknown; give FOLDER:tables, FOLDER:training or FOLDER:all"
            raise InputError(msg)
        if not (Path(folder) / DATA_FILE).is_file():
            msg = f"{folder}: holds no {DATA_FILE}; give a folder of events (python -m scripts.simulate)"
            raise InputError(msg)
        pieces.append(Piece(Path(folder), cast(Part, part), table_fraction))
    for index, piece in enumerate(pieces):
        for other in pieces[:index]:
            _check_apart(other, piece)
    return pieces


def _check_apart(one: Piece, other: Piece) -> None:
    """Refuse two parts that hold the same events."""
    if one.hash == other.hash:
        if one.rows.start < other.rows.stop and other.rows.start < one.rows.stop:
            msg = f"{one} and {other} are rows of the same file and overlap; give every event once"
            raise InputError(msg)
        return
    check_sources(str(one), one.sources(), str(other), other.sources())


def check_sources(
    one: str, sources: Sequence[Mapping[str, Any]], other: str, others: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse two sources that hold the same events; see ``Piece.sources``.

    Args:
        one: Name of the first.
        sources: What its events come from.
        other: Name of the second.
        others: What its events come from.

    Raises:
        InputError: If they share events, or may do so.
    """
    for a in sources:
        for b in others:
            if a["sha256"] == b["sha256"]:
                if a["rows"][0] < b["rows"][1] and b["rows"][0] < a["rows"][1]:
                    msg = f"{one} and {other} both hold rows of the file {a['sha256'][:12]}; give every event once"
                    raise InputError(msg)
            elif a["seed"] is not None and a["seed"] == b["seed"]:
                shared = sorted({*a["processes"]} & {*b["processes"]})
                if shared:
                    msg = f"{one} and {other} both hold {shared[0]} simulated with seed {a['seed']}"
                    msg += ", which may be the same events; give productions of different seeds"
                    raise InputError(msg)
