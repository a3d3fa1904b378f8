"""What the events file must look like, and the checks that say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sage.challenge.shifts import PRIMARIES
from workshop.errors import UsageError

PROCESS_ORDER = ("ztautau", "diboson", "ttbar", "htautau")
"""Order of the processes in the official test set. The seed of each process's Poisson draw depends on it."""

LABEL_COLUMNS = ("detailed_labels", "labels")
REQUIRED = (*PRIMARIES, "weights", *LABEL_COLUMNS)


def check_schema(path: Path, schema: Any) -> tuple[str, ...]:
    """Check names and types of the columns.

    Arguments:
        path: The events file, for the message.
        schema: Its Arrow schema.

    Returns:
        The columns that hold data, in the order of the file; a stored pandas index is not among them.

    Raises:
        UsageError: If a column is missing, there twice or not numeric (``detailed_labels``: not text).
    """
    names = tuple(name for name in schema.names if not name.startswith("__index_level_"))
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        msg = f"{path}: column {missing[0]!r} is missing ({len(missing)} of {len(REQUIRED)} required columns are)"
        msg += "; use the challenge's public data set or a file with the same columns"
        raise UsageError(msg)
    for name in names:
        if names.count(name) > 1:
            msg = f"{path}: column {name!r} is there {names.count(name)} times; keep one of them"
            raise UsageError(msg)
        kind = schema.field(name).type
        if name == "detailed_labels":
            text = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
                msg = f"{path}: column {name!r} has type {kind}, but process names are text; write it as strings"
                raise UsageError(msg)
        elif pa.types.is_float16(kind) or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            # Sums of half precision end at 65504.
            msg = f"{path}: column {name!r} has type {kind}, but must be numeric; convert it to float32"
            raise UsageError(msg)
    return names


def process_codes(path: Path, column: Any, first_row: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return the position in ``PROCESS_ORDER`` of each label.

    Arguments:
        path: The events file, for the message.
        column: Arrow column of process names, length n.
        first_row: Row of the file the column starts at, for the message.

    Returns:
        Codes 0 to 3, shape (n,).

    Raises:
        UsageError: If a label is none of the four processes.
    """
    codes = pc.index_in(column.cast(pa.large_string()), value_set=pa.array(PROCESS_ORDER, pa.large_string()))
    if codes.null_count:
        row = int(np.argmax(pc.is_null(codes).to_numpy(zero_copy_only=False)))
        msg = f"{path}: column 'detailed_labels' holds {column[row].as_py()!r} in row {first_row + row}"
        msg += f", but a process is one of {', '.join(sorted(PROCESS_ORDER))}; rename or drop such rows"
        raise UsageError(msg)
    return codes.to_numpy(zero_copy_only=False).astype(np.int8)  # type: ignore[no-any-return]


def numeric_values(path: Path, name: str, column: Any, first_row: int) -> np.ndarray[Any, Any]:
    """Return the values of a numeric column after checking that all of them are finite.

    Arguments:
        path: The events file, for the message.
        name: Name of the column.
        column: Arrow column, length n.
        first_row: Row of the file the column starts at, for the message.

    Returns:
        Values in the column's own type, shape (n,); possibly read-only.

    Raises:
        UsageError: If a value is missing, NaN or infinite.
    """
    values: np.ndarray[Any, Any] = column.to_numpy()  # missing values come out as NaN
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        msg = f"{path}: column {name!r} holds {values[row]} in row {first_row + row} ({int(bad.sum())} such values in "
        msg += f"{len(values)} rows), but all values must be finite; undefined jet quantities are coded as -25"
        raise UsageError(msg)
    return values
