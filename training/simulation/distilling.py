"""A small events file with the same expectation as a large one.

A row of weight w and importance a is kept with probability p = min(1, k w a) and its weight divided by p. This is the
choice that gives the smallest variance of sum(w a) for the number of rows. The importance has a floor, so rows that
matter nowhere are kept, too, with weights up to 1 / (k floor). Rows are drawn systematically in the order of process
and place (bin), so that the yield of each place stays the same but for a row or so. Everything is in memory: about 150
bytes a row of the large file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from training.events import DATA_FILE, PARENTS_FILE, Events, EventsFile
from training.simulation.buckets import RECORD, Buckets, write
from training.simulation.processes import TABLE
from workshop.claims import claimed
from workshop.files import scratch_folder, sha256

SETTINGS_FILE = "distill.json"
ALL_BITS = 23
"""Of float32."""
DESCRIPTION = (
    "Simulation, distilled from a larger events file: rows kept by what they are worth, with weights that keep the "
    "expectation. NOT the public data set. Weights are not uniform."
)


@dataclass(frozen=True)
class Judged:
    """What rows are worth.

    Args:
        importance: How far a unit of weight moves what is measured, shape (n,), not negative.
        place: A number of the place, such as a bin, whose yields are kept, shape (n,).
    """

    importance: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class Distilling:
    """What decides the rows.

    Args:
        rows: Rows wanted; as many are kept but for a few.
        seed: Decides which, and their order.
        floor: Smallest importance, in units of the mean one of each process by weight.
        bits: Bits of each value after the leading one that are kept, 23 for all: fewer make a smaller file.
    """

    rows: int
    seed: int
    floor: float
    bits: int = ALL_BITS


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float32 numbers to so many bits after the leading one, to nearest, halves up in magnitude.

    Args:
        values: Finite float32 numbers of any shape.
        bits: From 1 to 23; the relative change is at most 2^-(bits + 1).
    """
    dropped = ALL_BITS - bits
    if dropped == 0:
        return values
    whole = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    # A carry into the exponent is the next power of two, as it should be.
    kept = (whole + np.uint32(1 << (dropped - 1))) >> np.uint32(dropped) << np.uint32(dropped)
    return kept.view(np.float32)


def keep_probabilities(weights: np.ndarray, importance: np.ndarray, rows: float) -> np.ndarray:
    """Return min(1, k weight importance), shape (n,), with the k that makes their sum ``rows`` (at most n)."""
    wanted = weights * importance
    if rows >= np.count_nonzero(wanted):
        return np.asarray(wanted > 0.0, dtype=np.float64)
    falling = np.sort(wanted)[::-1]
    # With the i largest certain, k is (rows - i) over the sum of the others; the first i that makes sense is right.
    rest = falling.sum() - np.concatenate([[0.0], np.cumsum(falling)[:-1]])
    k = (rows - np.arange(len(falling))) / np.maximum(rest, 1e-300)
    kept: np.ndarray = np.minimum(1.0, k[np.argmax(k * falling <= 1.0)] * wanted)
    return kept


def draw_rows(probabilities: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw rows systematically: of any stretch of ``order`` as many as its probabilities add up to, but for one.

    Returns:
        Row numbers, rising.
    """
    steps = np.floor(np.cumsum(probabilities[order]) + rng.random())
    return np.sort(order[np.diff(steps, prepend=0.0) >= 1.0])


def distil(
    folder: Path,
    output: Path,
    settings: Distilling,
    judge: Callable[[Events], Judged],
    describe: Callable[[Events], Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the small events file, its metadata and the showered events of its rows.

    Args:
        folder: Folder of the large file, with parents.parquet.
        output: Folder for the files: new, empty or of the same command.
        settings: What decides the rows.
        judge: Tells what rows are worth.
        describe: Tells what goes into the metadata about the rows kept.

    Returns:
        The metadata.

    Raises:
        InputError: If there are no parents, or fewer rows than wanted.
        UsageError: If the output holds something else.
    """
    file = EventsFile(folder, 1.0)
    if not (folder / PARENTS_FILE).is_file():
        msg = f"{folder / PARENTS_FILE} is missing; distil events of python -m scripts.simulate"
        raise InputError(msg)
    if settings.rows > file.total_rows:
        msg = f"{settings.rows} rows cannot be kept of {file.total_rows}; ask for fewer"
        raise InputError(msg)
    source = sha256(folder / DATA_FILE)
    asked = {**vars(settings), "source": source}
    with claimed(output, asked, (DATA_FILE,), file=SETTINGS_FILE), scratch_folder(output / ".buckets") as dealt:
        events = file.read(file.rows("all"))
        kept = choose(events, judge(events), settings)
        rng = np.random.default_rng([settings.seed, 1])
        counts = {name: int((kept.classes == i).sum()) for i, name in enumerate(PROCESSES)}
        buckets = Buckets(dealt, {name: counts[name] for name in TABLE if counts[name]}, rng)
        for number, name in enumerate(TABLE):
            if counts[name]:
                here = kept.take(np.flatnonzero(kept.classes == PROCESSES.index(name)))
                buckets.deal(name, _records(here, number, settings.bits))
        made_by = {key: file.metadata[key] for key in ("simulation", "join") if key in file.metadata}
        details = {**asked, "of_rows": file.total_rows, "of": made_by, "kept": dict(describe(kept))}
        return write(buckets, output, rng, DESCRIPTION, {"distill": details}, compact=True)


def choose(events: Events, judged: Judged, settings: Distilling) -> Events:
    """Return the rows that are kept, with their new weights, which add up to the old sum in each process."""
    importance = judged.importance.astype(np.float64)
    for number in np.unique(events.classes):
        here = events.classes == number
        mean = np.average(importance[here], weights=events.weights[here])
        importance[here] = np.maximum(importance[here], settings.floor * mean)
    probabilities = keep_probabilities(events.weights, importance, settings.rows)
    rng = np.random.default_rng(settings.seed)
    # Within a place in random order, whatever the order of the file.
    order = np.lexsort((rng.random(len(events)), judged.place, events.classes))
    rows = draw_rows(probabilities, order, rng)
    kept = events.take(rows)
    weights = kept.weights / probabilities[rows]
    n = len(PROCESSES)
    before = np.bincount(events.classes, events.weights, minlength=n)
    after = np.bincount(kept.classes, weights, minlength=n)
    if ((before > 0) & (after <= 0)).any():
        name = PROCESSES[int(np.argmax((before > 0) & (after <= 0)))]
        msg = f"of {settings.rows} rows none is of {name}; keep more"
        raise InputError(msg)
    scale = np.divide(before, after, out=np.ones(n), where=after > 0)
    return Events(kept.columns, weights * scale[kept.classes], kept.classes, kept.keys)


def _records(events: Events, number: int, bits: int) -> np.ndarray:
    records = np.empty(len(events), RECORD)
    records["values"] = rounded(np.stack([events.columns[name] for name in PRIMARIES], axis=1), bits)
    records["weight"] = rounded(events.weights.astype(np.float32), bits)
    records["process"] = number
    records["parent"] = events.keys
    return records
