"""A submission that fits one histogram of the visible mass of the lepton and the hadronic tau."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES
from sage.files.bundle import read_bundle
from sage.files.settings import read_rebuilding
from sage.measurement import Measurement, measure
from sage.rebuilding import rebuild

WEIGHTS = Path(__file__).resolve().parent / "weights"


class NoClassifier:
    """Stands where the network would be: the visible mass needs no class probabilities."""

    flags = ()

    def __init__(self, parameters: Any = None, normalisation: Any = None, threads: int | None = None) -> None:
        del parameters, normalisation, threads

    def probabilities(self, events: Mapping[str, Any], derived: Mapping[str, Any]) -> np.ndarray:
        """Return zeros, shape (n, 4)."""
        del derived
        return np.zeros((len(events["PRI_met"]), len(PROCESSES)), dtype=np.float32)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Apply a function to each item."""
        return map(function, items)


class Model:
    """Measures the signal strength from the visible mass; ``last_result`` tells how the last answer came about."""

    def __init__(self, get_train_set: Callable[..., Any] | None = None, systematics: Any = None) -> None:
        del systematics
        self.get_train_set = get_train_set
        self.bundle = read_bundle(WEIGHTS)
        self.last_result: Measurement | None = None

    def fit(self) -> None:
        """Rebuild the templates from the training events if there are enough of them, as SAGE does."""
        how = read_rebuilding(self.bundle.settings)
        self.bundle, self.fit_report = rebuild(self.bundle, how, self.get_train_set, NoClassifier())
        # The loader holds an open file, which cannot travel to a worker.
        self.get_train_set = None

    def predict(self, test_set: Mapping[str, Any]) -> dict[str, float]:
        """Measure mu in ``{"data": DataFrame, "weights": array}``."""
        self.last_result = measure(test_set, self.bundle, NoClassifier())
        return self.last_result.answer()
