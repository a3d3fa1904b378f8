"""The network as a native CPU kernel; see ``sage.network.library``.

About 25 times as fast as torch-geometric at its best batch size, and without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sage.errors import EngineError
from sage.network.graph import JETS
from sage.network.library import INSTRUCTION_SETS, LIBRARY, choose_instruction_set, load, strided
from sage.network.library_hash import SHA256
from sage.network.parameters import N_CLASSES, flatten, inputs_of, size_of
from sage.network.perceptron import Perceptron, widths_of


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
        self._n_inputs = len(inputs_of(parameters).columns)
        self._size = size_of(parameters)
        expected = self._library.sage_network_parameters(self._n_inputs, self._size.hidden, self._size.rounds)
        if expected != self._flat.size:
            msg = f"native library takes {expected} parameters for {self._n_inputs} inputs and a graph of hidden width "
            msg += f"{self._size.hidden} with {self._size.rounds} rounds, not {self._flat.size}"
            raise EngineError(msg)
        self.instruction_set = INSTRUCTION_SETS[choose_instruction_set(self._library, instruction_set)]
        beside = widths_of(parameters) is not None
        self._perceptron = Perceptron(parameters, self.instruction_set, self._library) if beside else None

    def probabilities(self, values: np.ndarray, jets: np.ndarray) -> np.ndarray:
        """Return class probabilities.

        Args:
            values: Normalised inputs, shape (n, number of inputs), float32, in any memory layout.
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
        if values.shape != (n_events, self._n_inputs) or jets.shape != (n_events, len(JETS)):
            msg = f"inputs of shape {values.shape} with jets of shape {jets.shape}, "
            msg += f"expected (n, {self._n_inputs}) and (n, 2)"
            raise ValueError(msg)
        values, row_stride, column_stride = strided(values)
        present = np.ascontiguousarray(jets, dtype=np.bool_)
        offset = None if self._perceptron is None else self._perceptron(values)
        out = np.empty((n_events, N_CLASSES), dtype=np.float32)
        scores = np.empty_like(out) if logits else None
        status = self._library.sage_network_forward(
            self._flat.ctypes.data,
            self._flat.size,
            self._n_inputs,
            self._size.hidden,
            self._size.rounds,
            values.ctypes.data,
            row_stride,
            column_stride,
            present.ctypes.data,
            n_events,
            None if offset is None else offset.ctypes.data,
            N_CLASSES,
            out.ctypes.data,
            None if scores is None else scores.ctypes.data,
            INSTRUCTION_SETS.index(self.instruction_set),
        )
        if status != 0:
            msg = f"native library refused its arguments (status {status})"
            raise EngineError(msg)
        return out if scores is None else scores
