"""The network as a native CPU kernel: ``libsage_network.so`` beside this module, built from ``native/network.cpp``.

About 25 times as fast as torch-geometric at its best batch size, and without torch. The library holds no state:
threads may call it at once, a fork does not matter, and nothing of it has to be pickled. ctypes releases the GIL
during a call.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sage.errors import EngineError
from sage.network.graph import INPUTS, JETS
from sage.network.library_hash import SHA256
from sage.network.parameters import N_CLASSES, flatten

LIBRARY = Path(__file__).resolve().with_name("libsage_network.so")
VERSION = 2
"""Version of the library's interface that this module speaks."""

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
        library.sage_network_parameters.restype = count
        library.sage_network_forward.argtypes = [
            *(pointer, count),  # parameters
            *(pointer, count, count, pointer, count),  # values with their strides, jets, number of events
            *(pointer, pointer, number),  # probabilities, logits, instruction set
        ]
        library.sage_ditau.argtypes = [
            *(pointer, count),  # constants
            *(pointer, count, count),  # columns, number of events
            *(pointer, count, number),  # quantities with their stride, instruction set
        ]
        version = library.sage_network_version()
    except (OSError, AttributeError) as error:
        # Answers carry the message as a flag, and where the user's files are is nobody's business.
        reason = str(error).replace(str(path), path.name)
        msg = f"native library {path.name} cannot be loaded ({reason})"
        raise EngineError(msg) from error
    if version != VERSION:
        msg = f"native library {path.name} speaks interface version {version}, expected {VERSION}; run make kernel"
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


class NativeNetwork:
    """The network's forward pass with one set of parameters.

    Args:
        parameters: Arrays by name, as ``sage.network.parameters.check_parameters`` accepts them.
        library: The shared library.
        sha256: Its hash.
        instruction_set: One of ``INSTRUCTION_SETS``.

    Raises:
        EngineError: If the library cannot be used.
    """

    def __init__(
        self,
        parameters: Mapping[str, np.ndarray],
        library: Path | None = None,
        sha256: str = SHA256,
        instruction_set: str = "automatic",
    ) -> None:
        self._library = load(LIBRARY if library is None else library, sha256)
        self._flat = flatten(parameters)
        if self._library.sage_network_parameters() != self._flat.size:
            msg = f"native library takes {self._library.sage_network_parameters()} parameters, not {self._flat.size}"
            raise EngineError(msg)
        self.instruction_set = INSTRUCTION_SETS[choose_instruction_set(self._library, instruction_set)]

    def probabilities(self, values: np.ndarray, jets: np.ndarray) -> np.ndarray:
        """Return class probabilities.

        Args:
            values: Normalised inputs, shape (n, 35), float32, in any memory layout.
            jets: Which jets exist, shape (n, 2), boolean.

        Returns:
            Shape (n, 4), float32; rows sum to 1, or are NaN where an input is not finite.
        """
        return self._forward(values, jets, logits=False)

    def logits(self, values: np.ndarray, jets: np.ndarray) -> np.ndarray:
        """Return class logits, shape (n, 4), float32; arguments as for ``probabilities``."""
        return self._forward(values, jets, logits=True)

    def _forward(self, values: np.ndarray, jets: np.ndarray, *, logits: bool) -> np.ndarray:
        n_events = len(values)
        if values.shape != (n_events, len(INPUTS)) or jets.shape != (n_events, len(JETS)):
            msg = f"inputs of shape {values.shape} with jets of shape {jets.shape}, expected (n, 35) and (n, 2)"
            raise ValueError(msg)
        values = np.require(values, np.float32, ["ALIGNED"])
        if any(stride % values.itemsize for stride in values.strides):
            values = np.ascontiguousarray(values)
        row_stride, column_stride = (stride // values.itemsize for stride in values.strides)
        present = np.ascontiguousarray(jets, dtype=np.bool_)
        out = np.empty((n_events, N_CLASSES), dtype=np.float32)
        scores = np.empty_like(out) if logits else None
        status = self._library.sage_network_forward(
            self._flat.ctypes.data,
            self._flat.size,
            values.ctypes.data,
            row_stride,
            column_stride,
            present.ctypes.data,
            n_events,
            out.ctypes.data,
            None if scores is None else scores.ctypes.data,
            INSTRUCTION_SETS.index(self.instruction_set),
        )
        if status != 0:
            msg = f"native library refused its arguments (status {status})"
            raise EngineError(msg)
        return out if scores is None else scores
