"""Densities of events by coupling flows, as plain arrays: what a submission needs of flows that were trained elsewhere.

A coupling flow maps an event x to z layer by layer, each of which moves every second column by functions of the others,

    ln q(x) = sum ln N(z; 0, 1) + sum over layers of ln |det dz/dx|.

Layer i moves the columns whose number plus i is odd. Its functions come from a perceptron of the columns that stay. A
layer is a tuple of matrices, each with the biases in its last row.

``affine``
    y = x e^a + b with a = s / (1 + |s| / 2), so that |a| < 2: one to one, and the density is normalised.
``gated``, ``quadratic``
    The layers of contrastive flows (arXiv:2505.08709, as in their program): y = (1 - g) x + g (x e^s + t) with
    g = sigmoid(u), and y = x + s' x^2 + t with s' = 0.1 tanh(s). The latter folds at x = -1 / (2 s'): it is not one to
    one, and the integral of its density is not 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sage.errors import SettingsError

OUTPUTS = {"affine": 2, "gated": 3, "quadratic": 3}
"""Kinds of layers: numbers that the perceptron gives for each column that is moved."""
LARGEST_SLOPE = 2.0
"""Bound on the logarithm of an affine layer's slope."""
LARGEST_CURVATURE = 0.1
LOG_TWO_PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Layer:
    """One coupling layer.

    Args:
        kind: Key of ``OUTPUTS``.
        matrices: Of its perceptron, each of shape (inputs + 1, outputs), float32.
    """

    kind: str
    matrices: tuple[np.ndarray, ...]


def moved(layer: int) -> slice:
    """Return the columns that the layer of this number moves; those of the next one stay."""
    return slice((layer + 1) % 2, None, 2)


def log_density(layers: Sequence[Layer], values: np.ndarray) -> np.ndarray:
    """Return ln q of n events.

    Args:
        layers: The flow.
        values: Standardised inputs, shape (n, d), float32; not changed.

    Returns:
        Shape (n,), float32.

    Raises:
        SettingsError: If a layer is of an unknown kind.
    """
    # One column after the other in memory: every step works on whole columns of a block.
    x = np.array(values.T, dtype=np.float32, order="C")
    total = np.zeros(x.shape[1], dtype=np.float32)
    for number, layer in enumerate(layers):
        if layer.kind not in TRANSFORMS:
            msg = f"no layer {layer.kind!r}; choose one of {', '.join(TRANSFORMS)}"
            raise SettingsError(msg)
        columns = moved(number)
        given = _perceptron(layer, x[moved(number + 1)])
        y, slopes = TRANSFORMS[layer.kind](x[columns], *np.split(given, OUTPUTS[layer.kind]))
        x[columns] = y
        total += slopes.sum(axis=0)
    return np.asarray(total - 0.5 * (x * x).sum(axis=0) - np.float32(0.5 * len(x) * LOG_TWO_PI))


def _perceptron(layer: Layer, x: np.ndarray) -> np.ndarray:
    """Return the outputs, shape (k, n), for columns (d, n)."""
    *inner, last = layer.matrices
    published = layer.kind != "affine"
    for matrix in inner:
        x = matrix[:-1].T @ x
        x += matrix[-1][:, None]
        x = gelu(x) if published else np.maximum(x, 0.0, out=x)
    x = last[:-1].T @ x
    x += last[-1][:, None]
    return np.tanh(x, out=x) if published else x


def gelu(x: np.ndarray) -> np.ndarray:
    """Return x times the normal distribution function at x, in the approximation by a tanh (arXiv:1606.08415)."""
    inner = np.float32(math.sqrt(2.0 / math.pi)) * (x + np.float32(0.044715) * x**3)
    return np.asarray(np.float32(0.5) * x * (np.float32(1.0) + np.tanh(inner)))


Pair = tuple[np.ndarray, np.ndarray]
"""The columns that were moved, and the logarithms of the slopes."""


def _affine(x: np.ndarray, s: np.ndarray, b: np.ndarray) -> Pair:
    a = s / (np.float32(1.0) + np.abs(s) / np.float32(LARGEST_SLOPE))
    return x * np.exp(a) + b, a


def _gated(x: np.ndarray, s: np.ndarray, t: np.ndarray, u: np.ndarray) -> Pair:
    gate = np.float32(1.0) / (np.float32(1.0) + np.exp(-u))
    slope = np.exp(s)
    return (1 - gate) * x + gate * (x * slope + t), np.log((1 - gate) + gate * slope)


def _quadratic(x: np.ndarray, s: np.ndarray, t: np.ndarray, u: np.ndarray) -> Pair:
    del u
    curvature = np.float32(LARGEST_CURVATURE) * np.tanh(s)
    slope = np.abs(1 + 2 * curvature * x)
    return x + curvature * x * x + t, np.log(np.maximum(slope, np.float32(1e-30)))


TRANSFORMS: Mapping[str, Callable[..., Pair]] = {"affine": _affine, "gated": _gated, "quadratic": _quadratic}
