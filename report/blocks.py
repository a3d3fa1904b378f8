"""What a page is made of: sections of tables, matrices and pictures, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from workshop import numbers

MISSING = "–"
"""In place of a number that does not exist."""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Args:
        name: Its anchor.
        title: What it shows.
        header: Titles of the columns.
        rows: Cells; numbers are already texts.
        caption: What to look for.
        texts: Columns that hold words: they stand at the left.
        marked: Rows to set apart.
        ruled: First row of a part of its own, below a rule.
        folded: Show the title alone until it is asked for.
    """

    kind: ClassVar[str] = "table"
    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    texts: tuple[int, ...] = (0,)
    marked: tuple[int, ...] = ()
    ruled: int | None = None
    folded: bool = False


@dataclass(frozen=True)
class Matrix:
    """A square matrix of numbers from -1 to 1, shown in per cent on a coloured ground."""

    kind: ClassVar[str] = "matrix"
    name: str
    title: str
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture.

    Args:
        name: Its anchor.
        title: What it shows.
        svg: image element from ``report.svg``.
        caption: What to look for.
        wide: Whether its text would be too small on a phone, so that it scrolls there.
    """

    kind: ClassVar[str] = "picture"
    name: str
    title: str
    svg: str
    caption: str = ""
    wide: bool = False


Block = Table | Matrix | Picture


@dataclass(frozen=True)
class Section:
    """A section; ``name`` is its anchor."""

    name: str
    title: str
    text: str
    blocks: tuple[Block, ...]


def number(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """Return a number with a fixed number of digits, with a real minus; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def with_error(value: float | None, error: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """Return ``value ± error`` to the digits that the error justifies; ``digits`` of the value if it has no error."""
    if value is None or error is None or not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return number(value, digits, sign=sign)
    return numbers.with_error(value, error, sign=sign, plus_minus="±").replace("-", "−")


def count(value: float) -> str:
    """Return a whole number in groups of three digits."""
    return f"{value:,.0f}".replace(",", "\u202f")


def flat(content: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Return nested JSON values as pairs of dotted name and text."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value))))
        else:
            rows.append((f"{prefix}{key}", "none" if value is None else str(value)))
    return tuple(rows)
