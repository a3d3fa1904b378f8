"""A small perceptron that tells how far something would move mu_hat; 1 is the mean of what it was fitted to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workshop.files import read_arrays


@dataclass(frozen=True)
class Importance:
    """The perceptron: one hidden layer of tanh, whose output is the logarithm of the importance.

    Args:
        first: Weights of the hidden layer, shape (n_hidden, n_features), and its biases, shape (n_hidden,).
        second: Weights of the output, shape (n_hidden,), and its bias.
    """

    first: tuple[np.ndarray, np.ndarray]
    second: tuple[np.ndarray, float]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the importance of n things, shape (n,), from their features, shape (n, n_features)."""
        hidden = np.tanh(features @ self.first[0].T + self.first[1])
        importance: np.ndarray = np.exp(hidden @ self.second[0] + self.second[1])
        return importance


def read_importance(path: Path) -> Importance:
    """Read a perceptron."""
    table = read_arrays(path)
    return Importance((table["w1"], table["b1"]), (table["w2"], float(table["b2"])))


def file_hash(*paths: Path) -> str:
    """Return the sha256 of the content of files, one after the other."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
