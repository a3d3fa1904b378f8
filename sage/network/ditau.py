"""The di-tau quantities as float32 inputs: in the native kernel, or in numpy where that cannot be used.

The kernel takes about a fiftieth of numpy's time; ``sage.challenge.ditau`` is the definition, and both agree to 1e-5
of each quantity's spread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge import ditau as definition
from sage.challenge.ditau import DITAU, MASSES, ditau, mass_weights
from sage.errors import EngineError
from sage.network.library import LIBRARY, choose_instruction_set, load
from sage.network.library_hash import SHA256

COLUMNS = (
    *("PRI_lep_pt", "PRI_lep_eta", "PRI_lep_phi", "PRI_had_pt", "PRI_had_eta", "PRI_had_phi"),
    *("PRI_jet_all_pt", "PRI_met", "PRI_met_phi"),
)
"""What the kernel reads, in its order."""

NUMPY_BLOCK = 4096
"""Events that numpy computes at once, so that intermediate results stay in the cache."""


class NativeDitau:
    """The di-tau quantities in the native kernel.

    Args:
        library: The shared library.
        sha256: Its hash.
        instruction_set: One of ``sage.network.library.INSTRUCTION_SETS``.

    Raises:
        EngineError: If the library cannot be used.
    """

    def __init__(self, library: Path = LIBRARY, sha256: str = SHA256, instruction_set: str = "automatic") -> None:
        self._library = load(library, sha256)
        self._instruction_set = choose_instruction_set(self._library, instruction_set)
        self._constants = constants()

    def __call__(self, events: Mapping[str, Any], out: np.ndarray) -> None:
        """Write the quantities of n events.

        Args:
            events: The 16 primary columns, numpy, shape (n,).
            out: Receives them, shape (10, n), float32; rows are contiguous.
        """
        columns = [np.ascontiguousarray(events[name], dtype=np.float32) for name in COLUMNS]
        n_events = len(columns[0])
        stride = out.strides[0] // out.itemsize if n_events else 0
        contiguous = n_events < 2 or out.strides[1] == out.itemsize
        if out.shape != (len(DITAU), n_events) or out.dtype != np.float32 or not contiguous or stride < n_events:
            msg = f"output of shape {out.shape}, strides {out.strides} and type {out.dtype}; it must be "
            msg += f"({len(DITAU)}, {n_events}), float32, with contiguous rows"
            raise ValueError(msg)
        pointers = (ctypes.c_void_p * len(columns))(*(column.ctypes.data for column in columns))
        status = self._library.sage_ditau(
            self._constants.ctypes.data,
            self._constants.size,
            pointers,
            len(columns),
            n_events,
            out.ctypes.data,
            stride,
            self._instruction_set,
        )
        if status != 0:
            msg = f"native library refused its arguments (status {status})"
            raise EngineError(msg)


def write_ditau(events: Mapping[str, Any], out: np.ndarray) -> None:
    """Write the di-tau quantities of n events, in the kernel where that can be used.

    Args:
        events: The 16 primary columns, numpy, shape (n,).
        out: Receives them, shape (10, n), float32; rows are contiguous.
    """
    native = _native()
    if native is not None:
        native(events, out)
        return
    for start in range(0, out.shape[1], NUMPY_BLOCK):
        rows = slice(start, start + NUMPY_BLOCK)
        for i, column in enumerate(ditau({name: events[name][rows] for name in COLUMNS}).values()):
            out[i, rows] = column


@cache
def _native() -> NativeDitau | None:
    # That the kernel is missing is told by the engine, which runs the network on the same library.
    try:
        return NativeDitau()
    except EngineError:
        return None


def constants() -> np.ndarray:
    """Return the kernel's constants in the order of ``DitauConstants`` in native/ditau.h."""
    d = definition
    numbers = [d.MET_CONSTANT, d.MET_JETS, d.WINDOW, d.LIKELIHOOD_FLOOR, d.ALMOST_PARALLEL, d.WIDEST]
    numbers += [d.SMALLEST, d.LARGEST, d.LARGEST_COLLINEAR, *d.NODES, *d.NODE_WEIGHTS, *MASSES, *mass_weights()]
    return np.array([*numbers, d.AT_Z, d.AT_H], dtype=np.float32)
