"""Writing files that are either complete or absent, and whose bytes depend on nothing but their content.

Whatever is half-written has a name that ends in ``.partial``, and is locked by the process that writes. A lock ends
with its process, so what a killed run has left tells itself apart from what another process is writing just now: the
next process that writes to the same folder removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from sage.errors import InputError, SageError
from workshop.errors import disk_error

if TYPE_CHECKING:
    import pandas as pd

PARTIAL = ".partial"
"""How the names of half-written files and temporary folders end."""

_swept: set[Path] = set()
"""Folders whose left-overs this process has removed."""


def make_folder(path: Path) -> Path:
    """Make a folder and its parents, unless it is there.

    Raises:
        UsageError: If it cannot be made, for example because a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
    return path


@contextmanager
def partial_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give a new locked file beside ``path``, and its name; it is removed unless it has been moved to another name."""
    while True:
        handle, name = tempfile.mkstemp(PARTIAL, f".{path.name[:100]}.", path.parent)
        stream, partial = os.fdopen(handle, "wb"), Path(name)
        take_lock(handle)
        # Another process may have taken it for a left-over before it was locked.
        if os.fstat(handle).st_nlink:
            break
        stream.close()
    try:
        with stream:
            os.fchmod(handle, 0o644)  # mkstemp makes it private
            yield stream, partial
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file: a reader sees the old content or the new one, also after an interruption or a power failure.

    Raises:
        UsageError: If it cannot be written; nothing half-written stays.
    """
    make_folder(path.parent)
    try:
        _sweep(path.parent)
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory")
        with partial_file(path) as (stream, partial):
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON with a fixed layout; refuses NaN, which is not JSON."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return what ``write_json`` writes."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode("utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed ``.npz``; numpy stamps its members 1980-01-01, so equal arrays give equal bytes."""
    buffer = io.BytesIO()
    # The stubs take every keyword for allow_pickle.
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as Parquet."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a ``.npz`` of plain arrays."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def read_checked(path: Path, what_to_do: str) -> dict[str, np.ndarray]:
    """Read a ``.npz`` of plain arrays that may be damaged.

    Args:
        path: The file.
        what_to_do: Way out, for the message.

    Raises:
        InputError: If it is not there, or damaged.
    """
    try:
        # numpy leaves a file open that it cannot read.
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no archive")  # noqa: EM101
        return read_arrays(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{path}: missing or damaged ({error}); {what_to_do}"
        raise InputError(msg) from error


def read_object(path: Path, what_to_do: str, error: type[SageError] = InputError) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        what_to_do: Way out, for the message.
        error: What is raised.

    Raises:
        SageError: If it cannot be read, is not JSON or holds something else; of the given kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        msg = f"{path}: cannot be read as JSON ({cause}); {what_to_do}"
        raise error(msg) from cause
    if not isinstance(content, dict):
        msg = f"{path}: holds a {type(content).__name__}, not an object; {what_to_do}"
        raise error(msg)
    return content


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Give a folder in ``TMPDIR`` that is removed afterwards, and remove those of killed runs.

    Args:
        prefix: Begin of its name.

    Raises:
        UsageError: If it cannot be made.
    """
    place = Path(tempfile.gettempdir()).resolve()
    try:
        _sweep(place, prefix)
        folder = Path(tempfile.mkdtemp(PARTIAL, prefix, place))
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise disk_error(error, f"{place} (TMPDIR)") from error
    try:
        take_lock(lock)
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder in a place that this program owns; it is removed afterwards, as is that of a killed run."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield make_folder(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def take_lock(file: int, *, wait: bool = True) -> bool | None:
    """Lock an open file or folder until it is closed or the process ends.

    Args:
        file: Number of the open file.
        wait: Wait until another process lets go.

    Returns:
        Whether it is locked for this process now; None where the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sweep(folder: Path, prefix: str = ".") -> None:
    """Remove what killed processes have left in a folder; once per process, as a folder may hold many files."""
    if folder / prefix in _swept:
        return
    _swept.add(folder / prefix)
    for path in folder.glob(f"{prefix}*{PARTIAL}"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if take_lock(handle, wait=False):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)
