"""Counting an events file into a folder of counts, which ``training.adding`` adds to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES
from training.adding import counting, finish
from training.counting import Counter, count_nodes
from training.simulation.parts import Piece
from training.sums import Plan, Sums, final_arrays, sums_path
from workshop.files import write_arrays

NODES = "nodes"


def count_events(
    plan: Plan, piece: Piece, output: Path, workers: int = 1, scheduler: str | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Count a part of an events file and keep the sums of each process that has events.

    Args:
        plan: What counts.
        piece: The events.
        output: Folder for the sums; finished jobs go to its sub-folder ``nodes``, from which an interrupted run goes
            on.
        workers: Processes on this machine.
        scheduler: Address of a dask scheduler that counts instead.
        overwrite: Throw away what ``output`` holds.

    Returns:
        What was counted; see ``training.adding.finish``.

    Raises:
        UsageError: If the folder holds other counts, something else, or is in use.
    """
    events = {"sha256": piece.hash, "rows": [piece.rows.start, piece.rows.stop], "sources": piece.sources()}
    made = piece.metadata.get("simulation")
    simulation = None if made is None else {name: value for name, value in made.items() if name != "processes"}
    production = {"simulation": simulation, "events": events}
    counter = Counter(piece.folder, piece.table_fraction, piece.part, plan.parameters, plan.normalisation, plan.noise)
    with counting(output, plan.identity(), production, overwrite):
        counted = count_nodes(counter, plan.points, plan.regions, output / NODES, workers, scheduler)
        sums = counter.by_parents(plan.regions)
        there = np.flatnonzero(sums.rows).tolist()
        for number in there:
            found = Sums(
                rows=int(sums.rows[number]),
                counts=counted["counts"][:, number],
                moved=counted["moved"][:, number],
                covariance=sums.covariances[number],
                total=float(sums.totals[number]),
            )
            write_arrays(sums_path(output, PROCESSES[number], 0), final_arrays(found))
        return finish(output, {PROCESSES[number]: 1 for number in there})
