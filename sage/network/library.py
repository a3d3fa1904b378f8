"""The native kernel as a shared library: ``libsage_network.so`` beside this module, built from ``native/network.cpp``.

The library holds no state: threads may call it at once, a fork does not matter, and nothing of it has to be pickled.
ctypes releases the GIL during a call.
"""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

import numpy as np

from sage.errors import EngineError

LIBRARY = Path(__file__).resolve().with_name("libsage_network.so")
VERSION = 4
"""Version of the library's interface that this code speaks."""

INPUTS_VERSION = 1
"""Version of its interface to the inputs, and of their meaning."""

UNBINNED_VERSION = 1
"""Version of its interface to the sums over events, and of their meaning."""

INSTRUCTION_SETS = ("automatic", "baseline", "avx2", "avx512")
"""Names by the library's numbers; automatic is the widest one the machine has."""


def load(path: Path, sha256: str) -> ctypes.CDLL:
    """Load the library after comparing its hash, so that a damaged or foreign file is never executed.

    Raises:
        EngineError: If it cannot be used; the message says why.
    """
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            msg = f"native library {path.name} has sha256 {found[:12]}..., expected {sha256[:12]}...; run make kernel"
            raise EngineError(msg)
        library = ctypes.CDLL(str(path))
        pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
        library.sage_network_parameters.argtypes = [count, count, count]
        library.sage_network_parameters.restype = count
        library.sage_network_forward.argtypes = [
            *(pointer, count, count, count, count),  # parameters, number of inputs, size of the graph
            *(pointer, count, count, pointer, count),  # values with their strides, jets, number of events
            *(pointer, count),  # what is added to the logits, with its stride
            *(pointer, pointer, number),  # probabilities, logits, instruction set
        ]
        library.sage_perceptron.argtypes = [
            *(pointer, count, pointer, count),  # parameters, sizes, number of layers
            *(pointer, count, count, count),  # values with their strides, number of events
            *(pointer, number),  # results, instruction set
        ]
        library.sage_ditau.argtypes = [
            *(pointer, count),  # constants
            *(pointer, count, count),  # columns, number of events
            *(pointer, count, number),  # quantities with their stride, instruction set
        ]
        library.sage_inputs.argtypes = [
            *(pointer, count, pointer, pointer, count),  # constants, means, deviations
            *(pointer, count, count),  # columns, number of events
            *(pointer, pointer, number),  # inputs, derived columns, instruction set
        ]
        library.sage_unbinned.argtypes = [
            *(pointer, count, count, count, count),  # events, numbers of blocks, processes, shapes and terms
            *(pointer, pointer, pointer, number),  # factors, terms, their derivatives, whether to derive
            *(pointer, count, number),  # sums, instruction set
        ]
        versions = (
            (library.sage_network_version(), VERSION),
            (library.sage_inputs_version(), INPUTS_VERSION),
            (library.sage_unbinned_version(), UNBINNED_VERSION),
        )
    except (OSError, AttributeError) as error:
        # Answers carry the message as a flag, and where the user's files are is nobody's business.
        reason = str(error).replace(str(path), path.name)
        msg = f"native library {path.name} cannot be loaded ({reason})"
        raise EngineError(msg) from error
    for version, expected in versions:
        if version != expected:
            msg = f"native library {path.name} speaks interface version {version}, expected {expected}; run make kernel"
            raise EngineError(msg)
    return library


def choose_instruction_set(library: ctypes.CDLL, name: str) -> int:
    """Return the library's number of an instruction set, that of the widest one for ``automatic``.

    Raises:
        EngineError: If this machine does not have it.
    """
    best = int(library.sage_network_instruction_set())
    number = INSTRUCTION_SETS.index(name) or best
    if number > best:
        msg = f"this machine has no {name}; its best is {INSTRUCTION_SETS[best]}"
        raise EngineError(msg)
    return number


def strided(values: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Return a matrix as the library reads it, float32 and aligned, with the distances of its rows and columns.

    Args:
        values: Shape (n, m), in any memory layout; copied only where that layout cannot be read.

    Returns:
        The matrix, and both distances in elements.
    """
    values = np.require(values, np.float32, ["ALIGNED"])
    if any(stride % values.itemsize for stride in values.strides):
        values = np.ascontiguousarray(values)
    row_stride, column_stride = (stride // values.itemsize for stride in values.strides)
    return values, row_stride, column_stride
