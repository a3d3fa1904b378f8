"""What a killed program leaves of the file that it was writing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def others(folder: Path, first: str) -> Iterator[Path]:
    """Yield what a folder holds beyond half-written copies of a program's first file.

    A file is written under a temporary name until it is complete: ``.NAME-XXXXXXXX`` (``harness.results``) or
    ``.NAME.PID`` (``workshop.files``). A program killed at its very start leaves nothing but that, and must be able to
    start again.

    Arguments:
        folder: An existing folder.
        first: Name of the file that the program writes before all others.
    """
    for path in folder.iterdir():
        if not path.name.startswith((f".{first}-", f".{first}.")):
            yield path
