"""Perceptrons: layers of linear maps with SiLU, x sigmoid(x), between them.

One stands beside the graph and adds to its class logits: given the same inputs and trained on as many events as there
are, a graph of 32 numbers a node does not find by itself what a perceptron of all inputs at once does. Another gives
the scores of the shape nuisances. They run in the native kernel, or in numpy where that cannot be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import CDLL
from itertools import pairwise

import numpy as np

from sage.errors import EngineError
from sage.network.library import choose_instruction_set, strided

NAME = "perceptron"
"""Begins the names of the parameters: ``perceptron.LAYER.weight`` and ``.bias``."""

MOST_LAYERS = 4
WIDTHS = range(8, 257, 8)
"""Widths that hidden layers may have; the kernel's."""

TILE = 8
"""Outputs that the kernel computes together."""
CHUNK = 4096
"""Events per pass in numpy; bounds the memory."""

Shapes = dict[str, tuple[int, ...]]


def shapes(sizes: Sequence[int]) -> Shapes:
    """Return parameter name -> shape; ``sizes`` are those of inputs, hidden layers and outputs, empty for none."""
    out: Shapes = {}
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        out |= {f"{NAME}.{i}.weight": (n_out, n_in), f"{NAME}.{i}.bias": (n_out,)}
    return out


def widths_of(arrays: Mapping[str, np.ndarray]) -> tuple[int, ...] | None:
    """Return the widths of the hidden layers of the perceptron among some parameters, None if there is none.

    Whether the parameters fit each other is for whoever compares them with ``shapes``.
    """
    rows = [np.shape(arrays[name])[0] for name in _weights(arrays)]
    if not rows or any(width not in WIDTHS for width in rows[:-1]):
        return None
    return tuple(rows[:-1])


def _weights(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of the weights, layer by layer."""
    names: list[str] = []
    while (name := f"{NAME}.{len(names)}.weight") in arrays and len(names) < MOST_LAYERS:
        if np.ndim(arrays[name]) != 2:
            break
        names.append(name)
    return names


class Perceptron:
    """A perceptron with one set of parameters.

    Args:
        parameters: Arrays by name, as ``shapes`` has them; others are not read.
        instruction_set: One of ``sage.network.library.INSTRUCTION_SETS``.
        library: The native library, see ``sage.network.library.load``; None for numpy.

    Raises:
        EngineError: If this machine does not have the instruction set.
    """

    def __init__(
        self,
        parameters: Mapping[str, np.ndarray],
        instruction_set: str = "automatic",
        library: CDLL | None = None,
    ) -> None:
        names = _weights(parameters)
        self._layers = [
            tuple(np.asarray(parameters[name], dtype=np.float32) for name in (weight, weight.replace("weight", "bias")))
            for weight in names
        ]
        self._sizes = np.array([self._layers[0][0].shape[1], *(len(bias) for _, bias in self._layers)], dtype=np.int64)
        self._library = library
        if library is not None:
            self._number = choose_instruction_set(library, instruction_set)
            self._flat = np.concatenate([transposed(*layer) for layer in self._layers])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the outputs.

        Args:
            values: Normalised inputs, shape (n, number of inputs), float32, in any memory layout.

        Returns:
            Shape (n, number of outputs), float32.

        Raises:
            ValueError: If the inputs are not that many.
        """
        if values.shape != (len(values), self._sizes[0]):
            msg = f"inputs of shape {values.shape}, expected (n, {self._sizes[0]})"
            raise ValueError(msg)
        if self._library is None:
            parts = (self._in_numpy(values[start : start + CHUNK]) for start in range(0, len(values), CHUNK))
            return np.concatenate([np.empty((0, self._sizes[-1]), dtype=np.float32), *parts])
        values, row_stride, column_stride = strided(values)
        out = np.empty((len(values), self._sizes[-1]), dtype=np.float32)
        status = self._library.sage_perceptron(
            *(self._flat.ctypes.data, self._flat.size, self._sizes.ctypes.data, len(self._layers)),
            *(values.ctypes.data, row_stride, column_stride, len(values)),
            *(out.ctypes.data, self._number),
        )
        if status != 0:
            msg = f"native library refused its arguments (status {status})"
            raise EngineError(msg)
        return out

    def _in_numpy(self, values: np.ndarray) -> np.ndarray:
        for i, (weight, bias) in enumerate(self._layers):
            if i:
                with np.errstate(over="ignore"):
                    values = values / (1.0 + np.exp(-values))
            values = values @ weight.T + bias
        return values


def transposed(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return a layer as the kernel reads it: weights (inputs, outputs), then bias, outputs padded with 0; float32."""
    missing = -len(bias) % TILE
    block = np.concatenate([weight.T, bias[None]])
    return np.pad(block, ((0, 0), (0, missing))).astype(np.float32).ravel()
