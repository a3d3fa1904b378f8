"""Step 0: from a test set's data frame to columns; whatever a frame may hold, it is used or refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sage.challenge.shifts import PRIMARIES, Columns
from sage.errors import InputError

LARGEST_WEIGHT = 1e6
"""Largest event weight that is believed; a whole pseudo-experiment has about as many events."""


def read_test_set(test_set: Mapping[str, Any]) -> tuple[Columns, np.ndarray, list[str]]:
    """Take the primary columns and weights out of a test set; rows that hold no finite number are dropped.

    Returns:
        Columns (float32) and weights (float64) of the usable rows, and flags for what was unusual.

    Raises:
        InputError: If a column is missing, doubled or not numeric.
    """
    frame = test_set["data"]
    flags: list[str] = []
    columns: Columns = {}
    usable: np.ndarray | None = None
    for name in PRIMARIES:
        column, converted_from = _column(frame, name)
        if converted_from:
            flags.append(f"converted: {name} from {converted_from}")
        finite = np.isfinite(column)
        usable = finite if usable is None else usable & finite
        columns[name] = column
    assert usable is not None
    weights = _weights(test_set.get("weights"), len(usable), flags)
    usable &= np.isfinite(weights)
    if not usable.all():
        flags.append(f"unusable_rows: {int((~usable).sum())}")
        columns = {name: column[usable] for name, column in columns.items()}
        weights = weights[usable]
    return columns, weights, flags


def _column(frame: Any, name: str) -> tuple[np.ndarray, str]:
    """Return one column of a data frame as a new or shared float32 array, and the dtype it had if another one."""
    if name not in frame:
        msg = f"column {name!r} missing from test_set['data']; columns are selected by name, any order will do"
        raise InputError(msg)
    try:
        given = np.asarray(frame[name])
        if given.dtype.kind in "cmMV":
            msg = f"values of type {given.dtype}"
            raise TypeError(msg)
        # Read as float64 first where the column is neither, so that no other type is silently truncated. What is too
        # large becomes infinite, and its row is dropped with a flag.
        with np.errstate(over="ignore", invalid="ignore"):
            column = given if given.dtype == np.float32 else given.astype(np.float64).astype(np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"column {name!r} of test_set['data'] does not hold numbers ({error}); convert it to float32"
        raise InputError(msg) from error
    if column.ndim != 1:
        msg = f"column {name!r} of test_set['data'] is there {column.shape[-1]} times; keep one of them"
        raise InputError(msg)
    return column, "" if given.dtype == np.float32 else str(given.dtype)


def _weights(given: Any, n_events: int, flags: list[str]) -> np.ndarray:
    """Return event weights; ones, with a flag, where what was given cannot be weights."""
    try:
        weights = np.ones(n_events) if given is None else np.asarray(given)
        weights = np.empty(0) if weights.dtype.kind in "cmMV" else weights.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        weights = np.empty(0)
    known = weights[np.isfinite(weights)]
    if weights.shape != (n_events,) or (known < 0).any() or (known > LARGEST_WEIGHT).any():
        flags.append(f"weights_ignored: must be one number from 0 to {LARGEST_WEIGHT:g} per event")
        return np.ones(n_events)
    return weights
