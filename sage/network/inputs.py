"""The normalised inputs of events: in the native kernel for those of ``WITH_DITAU``, else in numpy.

``sage.network.graph`` is the definition. The kernel takes a small part of numpy's time and gives what regions need of
the derived quantities in the same pass.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.features import Derived
from sage.challenge.shifts import PRIMARIES, Columns
from sage.errors import EngineError
from sage.network.ditau import constants
from sage.network.graph import WITH_DITAU, Normalisation, jets_present, normalise, raw_inputs
from sage.network.library import LIBRARY, choose_instruction_set, load
from sage.network.library_hash import SHA256

DERIVED = ("DER_mass_transverse_met_lep", "DER_mass_vis", "DER_pt_h")
"""Derived columns that the kernel gives, in its order."""


class NativeInputs:
    """The inputs ``WITH_DITAU`` in the native kernel.

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

    def __call__(self, events: Mapping[str, Any], normalisation: Normalisation) -> tuple[np.ndarray, Columns]:
        """Compute the inputs of n events.

        Args:
            events: The 16 primary columns, numpy, shape (n,).
            normalisation: Feature constants of ``WITH_DITAU``.

        Returns:
            Normalised inputs, shape (n, 45), float32, one input after the other in memory; and the columns
            ``DERIVED``, shape (n,), float32.

        Raises:
            EngineError: If the library refuses its arguments.
        """
        columns = [np.ascontiguousarray(events[name], dtype=np.float32) for name in PRIMARIES]
        n_events = len(columns[0])
        pointers = (ctypes.c_void_p * len(columns))(*(column.ctypes.data for column in columns))
        mean, std = (np.ascontiguousarray(part, dtype=np.float32) for part in (normalisation.mean, normalisation.std))
        values = np.empty((len(mean), n_events), dtype=np.float32)
        # Apart from the inputs, which need not stay as long as these.
        derived = np.empty((len(DERIVED), n_events), dtype=np.float32)
        status = self._library.sage_inputs(
            *(self._constants.ctypes.data, self._constants.size, mean.ctypes.data, std.ctypes.data, len(mean)),
            *(pointers, len(columns), n_events, values.ctypes.data, derived.ctypes.data, self._instruction_set),
        )
        if status != 0:
            msg = f"native library refused its arguments (status {status})"
            raise EngineError(msg)
        return values.T, dict(zip(DERIVED, derived, strict=True))


def network_inputs(
    events: Mapping[str, Any], derived: Mapping[str, Any], normalisation: Normalisation
) -> tuple[np.ndarray, np.ndarray]:
    """Compute what the network reads.

    Args:
        events: The 16 primary columns of n selected events, numpy float32.
        derived: Their derived columns. A ``Derived`` receives what the kernel gives and need not compute anything.
        normalisation: Feature constants; they say what the inputs are.

    Returns:
        Normalised inputs, shape (n, number of inputs), float32, and which jets exist, shape (n, 2), boolean.
    """
    jets = jets_present(events)
    native = _native() if normalisation.inputs == WITH_DITAU else None
    if native is None:
        return normalise(*raw_inputs(events, derived, normalisation.inputs), normalisation), jets
    values, given = native(events, normalisation)
    if isinstance(derived, Derived):
        derived.give(given)
    return values, jets


@cache
def _native() -> NativeInputs | None:
    # That the kernel is missing is told by the engine, which runs the network on the same library.
    try:
        return NativeInputs()
    except EngineError:
        return None
