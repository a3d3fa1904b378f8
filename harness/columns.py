"""What the events file must look like, and the checks that say so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sage.challenge.shifts import PRIMARIES
from workshop.errors import UsageError

logger = logging.getLogger("sage.harness.columns")

PROCESS_ORDER = ("ztautau", "diboson", "ttbar", "htautau")
"""Order of the processes in the official test set. The seed of each process's Poisson draw depends on it."""

LABEL_COLUMNS = ("detailed_labels", "labels")
REQUIRED = (*PRIMARIES, "weights", *LABEL_COLUMNS)
TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
"""The ways in which Arrow may store the names of the processes."""


def check_schema(path: Path, schema: Any) -> tuple[str, ...]:
    """Check names and types of the columns.

    Args:
        path: The events file, for the message.
        schema: Its Arrow schema.

    Returns:
        The columns that hold data, in the order of the file: no stored pandas index, and of columns that the challenge
        does not know only the numeric ones.

    Raises:
        UsageError: If a column is missing or there twice, or one that the challenge knows is not numeric
            (``detailed_labels``: not text).
    """
    names = tuple(name for name in schema.names if not name.startswith("__index_level_"))
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        msg = f"{path}: column {missing[0]!r} is missing ({len(missing)} of {len(REQUIRED)} required columns are)"
        msg += "; use the challenge's public data set or a file with the same columns"
        raise UsageError(msg)
    kept = []
    for name in names:
        if names.count(name) > 1:
            msg = f"{path}: column {name!r} is there {names.count(name)} times; keep one of them"
            raise UsageError(msg)
        kind = schema.field(name).type
        if name == "detailed_labels":
            text = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not any(is_text(text) for is_text in TEXT):
                msg = f"{path}: column {name!r} has type {kind}, but process names are text; write it as strings"
                raise UsageError(msg)
        elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            if name not in REQUIRED:
                logger.warning("%s: column %r has type %s, is not numeric and is ignored", path, name, kind)
                continue
            msg = f"{path}: column {name!r} has type {kind}, but must be numeric; convert it to float32"
            raise UsageError(msg)
        elif pa.types.is_float16(kind):
            # Sums of half precision end at 65504.
            msg = f"{path}: column {name!r} has type {kind}, but must be numeric; convert it to float32"
            raise UsageError(msg)
        kept.append(name)
    return tuple(kept)


def plain_text(table: Any) -> Any:
    """Return a table with ``detailed_labels`` in a type that Arrow can take rows of: ``string_view`` it cannot."""
    for number, field in enumerate(table.schema):
        if pa.types.is_string_view(field.type):
            values = table.column(number).cast(pa.large_string())
            table = table.set_column(number, field.with_type(pa.large_string()), values)
    return table


def process_codes(path: Path, column: Any, first_row: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return the position in ``PROCESS_ORDER`` of each label.

    Args:
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

    Args:
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
