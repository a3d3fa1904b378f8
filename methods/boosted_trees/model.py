"""A submission that classifies events with gradient-boosted trees and fits the signal probability in SAGE's regions.

The trees are those of scikit-learn's ``HistGradientBoostingClassifier``, evaluated here from plain arrays: a pickled
classifier would tie the submission to one version of scikit-learn, and run code when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sage.files.bundle import read_bundle
from sage.files.settings import read_rebuilding
from sage.measurement import Measurement, measure
from sage.network.graph import INPUTS, Normalisation, normalise, raw_inputs
from sage.rebuilding import rebuild

UNSCALED = Normalisation(np.zeros(len(INPUTS), np.float32), np.ones(len(INPUTS), np.float32))
"""Feature constants that leave the inputs as they are, but for 0 where one is undefined."""
WEIGHTS = Path(__file__).resolve().parent / "weights"


class Trees:
    """A boosted forest: each of T trees adds one of its N nodes' values to the logit of one class.

    Arguments:
        parameters: ``feature``, ``threshold``, ``left``, ``right`` and ``value`` of each node, shape (T, N) each, where
            a leaf has 0 as its children; ``baseline``, logits before the first tree, shape (4,). Tree t belongs to
            class t modulo 4. An event goes left where its feature is at most the threshold.
        normalisation: Not used.
        threads: Not used.
    """

    flags = ()

    def __init__(
        self,
        parameters: Mapping[str, np.ndarray],
        normalisation: Normalisation | None = None,
        threads: int | None = None,
    ) -> None:
        del normalisation, threads
        self._feature, self._left, self._right = (
            parameters[name].astype(int).tolist() for name in ("feature", "left", "right")
        )
        self._threshold, self._value = parameters["threshold"], parameters["value"].tolist()
        self._baseline = parameters["baseline"]

    def probabilities(self, events: Mapping[str, Any], derived: Mapping[str, Any]) -> np.ndarray:
        """Return class probabilities (n, 4), float32, of n events."""
        return self.of_inputs(normalise(*raw_inputs(events, derived), UNSCALED))

    def of_inputs(self, inputs: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, 4), float32, of events with inputs (n, 35), float32."""
        features = np.ascontiguousarray(inputs.T)
        logits = np.repeat(self._baseline[:, None], len(inputs), axis=1)
        for tree in range(len(self._value)):
            logits[tree % len(logits)] += self._descend(tree, 0, features)
        odds = np.exp(logits - logits.max(axis=0))
        return np.ascontiguousarray((odds / odds.sum(axis=0)).T, dtype=np.float32)

    def _descend(self, tree: int, node: int, features: np.ndarray) -> Any:
        """Return the value each event ends at, starting from a node; one number where that is a leaf."""
        left, right = self._left[tree][node], self._right[tree][node]
        if left == right:
            return self._value[tree][node]
        # Both branches for all events: cheaper in numpy than to look up where each event is.
        go_left = features[self._feature[tree][node]] <= self._threshold[tree, node]
        return np.where(go_left, self._descend(tree, left, features), self._descend(tree, right, features))

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Apply a function to each item."""
        return map(function, items)


class Model:
    """Measures the signal strength with trees; ``last_result`` tells how the last answer came about."""

    def __init__(self, get_train_set: Callable[..., Any] | None = None, systematics: Any = None) -> None:
        del systematics
        self.get_train_set = get_train_set
        self.bundle = read_bundle(WEIGHTS)
        self.trees = Trees(self.bundle.network)
        self.last_result: Measurement | None = None

    def fit(self) -> None:
        """Rebuild the templates from the training events if there are enough of them, as SAGE does."""
        how = read_rebuilding(self.bundle.settings)
        self.bundle, self.fit_report = rebuild(self.bundle, how, self.get_train_set, self.trees)
        # The loader holds an open file, which cannot travel to a worker.
        self.get_train_set = None

    def predict(self, test_set: Mapping[str, Any]) -> dict[str, float]:
        """Measure mu in ``{"data": DataFrame, "weights": array}``."""
        self.last_result = measure(test_set, self.bundle, self.trees)
        return self.last_result.answer()
