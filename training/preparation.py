"""What training has to know about its events beforehand: feature constants and class weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage.challenge.features import derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select, shift
from sage.errors import SettingsError
from sage.network.graph import PUBLISHED, InputSet, Normalisation, raw_inputs
from training.events import EventsFile
from training.sampling import HeldOut


@dataclass(frozen=True)
class Preparation:
    """What one pass over the nominal training events yields.

    Args:
        normalisation: Feature constants.
        class_scale: Factor per class that gives it its share of the total weight, 1 on average, shape (4,).
        totals: Expected selected events of each class, shape (4,).
        rows: Rows per class, shape (4,).
        n_selected: Selected nominal training events.
    """

    normalisation: Normalisation
    class_scale: np.ndarray
    totals: np.ndarray
    rows: np.ndarray
    n_selected: int


def prepare(
    file: EventsFile,
    rows: range,
    held_out: HeldOut,
    inputs: InputSet = PUBLISHED,
    shares: Sequence[float] = (1 / len(PROCESSES),) * len(PROCESSES),
) -> Preparation:
    """Measure feature constants from defined values of the selected nominal events, each event counted once.

    Args:
        file: The events.
        rows: Rows for the training.
        held_out: Which of them are held out.
        inputs: What the inputs are.
        shares: Shares of the classes in the total weight.

    Raises:
        SettingsError: If a process has no selected event or an input never varies.
    """
    entries, sums, squares = np.zeros((3, len(inputs.columns)))
    found, totals = np.zeros((2, len(PROCESSES)))
    n_selected = 0
    for events in file.stream(rows, keep=held_out.others):
        found += np.bincount(events.classes, minlength=len(PROCESSES))
        columns, kept = select(shift(events.columns))
        values, defined = raw_inputs(columns, derived(columns), inputs)
        clean = np.where(defined, values, 0.0).astype(np.float64)
        entries += defined.sum(axis=0)
        sums += clean.sum(axis=0)
        squares += (clean**2).sum(axis=0)
        n_selected += len(kept)
        totals += np.bincount(events.classes[kept], events.weights[kept], minlength=len(PROCESSES))
    with np.errstate(all="ignore"):
        mean = sums / entries
        std = np.sqrt(squares / entries - mean**2)
    bad = [name for name, deviation in zip(inputs.columns, std, strict=True) if not deviation > 0.0]
    bad += [name for name, total in zip(PROCESSES, totals, strict=True) if not total > 0.0]
    if bad:
        msg = f"{bad[0]!r} is empty or constant in rows {rows.start} to {rows.stop}; train on more events"
        raise SettingsError(msg)
    normalisation = Normalisation(mean.astype(np.float32), std.astype(np.float32), inputs)
    return Preparation(normalisation, n_selected * np.asarray(shares) / totals, totals, found, n_selected)
