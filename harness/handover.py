"""Pseudo-data from the process that makes them to those that measure them, through a file in memory.

The arrays are written to a file once; whoever reads it maps it, so that nothing is copied, and what a reader changes
stays its own.
"""

from __future__ import annotations

import mmap
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workshop.errors import disk_error

ALIGNMENT = 64
"""Bytes; arrays begin at multiples of it."""


@dataclass(frozen=True)
class Handed:
    """Where data are, and what puts them together again.

    Args:
        path: The file with the content of the arrays.
        head: Everything else, pickled.
        spans: First byte and size of each array.
    """

    path: Path
    head: bytes
    spans: tuple[tuple[int, int], ...]


def hand_over(data: Any, path: Path) -> Handed:
    """Write data to a new file.

    Raises:
        UsageError: If it cannot be written.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(data, protocol=5, buffer_callback=buffers.append)
    spans = []
    try:
        with path.open("wb") as stream:
            for buffer in buffers:
                stream.write(bytes(-stream.tell() % ALIGNMENT))
                spans.append((stream.tell(), stream.write(buffer.raw())))
            stream.write(bytes(1))  # an empty file cannot be mapped
    except OSError as error:
        raise disk_error(error, path) from error
    return Handed(path, head, tuple(spans))


def take_over(handed: Handed) -> Any:
    """Return the data, as changeable as they were and the reader's own; the file may be removed afterwards."""
    with handed.path.open("rb") as stream:
        content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    return pickle.loads(handed.head, buffers=[content[start : start + size] for start, size in handed.spans])
