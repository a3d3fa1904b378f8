"""Reads ``.npz`` files of plain arrays without trusting them.

Every file's sha256 is compared before its content is looked at; a raw bit flip in an array would otherwise load
silently. Nothing is unpacked, and no memory set aside, beyond what the manifest's shapes take.
"""

from __future__ import annotations

import hashlib
import io
import math
import operator
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sage.errors import WeightsError

REMEDY = "build the weights again or take them from a release"

LARGEST_FILE = 100 << 20
"""Bound in bytes on what is read at all."""
LARGEST_HEADER = 1024
"""Bound in bytes on what precedes the values of an array in its file."""
MOST_ARRAYS = 1000
"""Bound on the arrays that the manifest states for one file, before anything is done for each of them."""
LARGEST_VALUE = float(np.finfo(np.float32).max)

_ARCHIVE_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""What a damaged archive or array raises; encryption and unknown compression are a RuntimeError."""


def read_file(path: Path, limit: int) -> bytes:
    """Read an ordinary file of at most ``limit`` bytes.

    Raises:
        WeightsError: If it is no ordinary file, larger, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            msg = f"{path}: cannot be read, it is not an ordinary file; {REMEDY}"
            raise WeightsError(msg)
        size = path.stat().st_size
        if size > limit:
            msg = f"{path}: has {size} bytes, more than {limit}; {REMEDY}"
            raise WeightsError(msg)
        return path.read_bytes()
    except OSError as error:
        msg = f"{path}: cannot be read ({error}); {REMEDY}"
        raise WeightsError(msg) from error


def read_arrays(path: Path, entry: dict[str, Any]) -> dict[str, np.ndarray]:
    """Read the arrays of one ``.npz`` file.

    Args:
        path: The file.
        entry: What the manifest says about it: ``sha256``, and ``shapes`` by name of the array.

    Returns:
        Arrays by name, float32 or float64, all values finite in float32.

    Raises:
        WeightsError: If the file is not what the manifest says.
        TypeError, ValueError, KeyError: If the entry itself is not one.
    """
    content = read_file(path, LARGEST_FILE)
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["sha256"]:
        msg = f"{path}: sha256 is {digest}, the manifest says {entry['sha256']}; {REMEDY}"
        raise WeightsError(msg)
    if len(entry["shapes"]) > MOST_ARRAYS:
        msg = f"{path}: the manifest states {len(entry['shapes'])} arrays, more than {MOST_ARRAYS}; {REMEDY}"
        raise WeightsError(msg)
    stated = {str(name): _shape(shape) for name, shape in entry["shapes"].items()}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_members(path, members, stated)
            arrays = {name: _read_array(archive, f"{name}.npy", shape) for name, shape in stated.items()}
    except _ARCHIVE_ERRORS as error:
        msg = f"{path}: is not an archive of plain arrays ({error}); {REMEDY}"
        raise WeightsError(msg) from error
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64) or not _bounded(array):
            msg = f"{path}: array {name!r} must hold finite floating point numbers; {REMEDY}"
            raise WeightsError(msg)
    return arrays


def _bounded(array: np.ndarray) -> bool:
    """Tell whether all values are finite in float32, without a copy; extremes of NaN are NaN."""
    return bool(array.min(initial=0.0) >= -LARGEST_VALUE and array.max(initial=0.0) <= LARGEST_VALUE)


def _shape(given: Any) -> tuple[int, ...]:
    shape = tuple(map(operator.index, given))
    if any(length < 0 for length in shape):
        msg = f"shape {given}"
        raise ValueError(msg)
    return shape


def _check_members(path: Path, members: list[zipfile.ZipInfo], stated: dict[str, tuple[int, ...]]) -> None:
    """Compare an archive's table of contents with the manifest, before anything is unpacked."""
    expected = {f"{name}.npy": math.prod(shape) * np.dtype(np.float64).itemsize for name, shape in stated.items()}
    if sorted(member.filename for member in members) != sorted(expected):
        named = min({member.filename for member in members} ^ set(expected), default="one is there twice")
        msg = f"{path}: arrays differ from the manifest: {named}; {REMEDY}"
        raise WeightsError(msg)
    for member in members:
        if member.file_size > expected[member.filename] + LARGEST_HEADER:
            msg = f"{path}: arrays differ from the manifest: {member.filename!r} unpacks to {member.file_size} bytes, "
            msg += f"more than {expected[member.filename]}; {REMEDY}"
            raise WeightsError(msg)


def _read_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read one array; no memory is set aside for a shape other than the stated one.

    Raises:
        ValueError: If it is not a plain array of this shape.
    """
    # Unpacked as a whole, so that the archive's checksum is compared.
    stream = io.BytesIO(archive.read(name))
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        msg = f"{name} has format version {version}, expected (1, 0)"
        raise ValueError(msg)
    found, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if found != shape:
        msg = f"arrays differ from the manifest: {name} has shape {found}, not {shape}"
        raise ValueError(msg)
    array = np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if fortran_order else "C")
    return array.copy()
