"""A submission that classifies events with gradient-boosted trees and fits the signal probability in SAGE's regions.

The trees are those of scikit-learn's ``HistGradientBoostingClassifier``, evaluated here from plain arrays: a pickled
classifier would tie the submission to one version of scikit-learn, and run code when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from sage.measurement import measure
from sage.network.graph import Normalisation
from sage.network.inputs import network_inputs
from sage.rebuilding import rebuild
from sage.submission import Submission


class Trees:
    """A boosted forest: each of T trees adds one of its N nodes' values to the logit of one class.

    Args:
        parameters: ``feature``, ``threshold``, ``left``, ``right`` and ``value`` of each node, shape (T, N) each, where
            a leaf has 0 as its children; ``baseline``, logits before the first tree, shape (4,). Tree t belongs to
            class t modulo 4. An event goes left where its feature is at most the threshold.
        normalisation: Feature constants.
        threads: Not used.
    """

    flags = ()

    def __init__(
        self, parameters: Mapping[str, np.ndarray], normalisation: Normalisation, threads: int | None = None
    ) -> None:
        del threads
        self._normalisation = normalisation
        self._feature, self._left, self._right = (
            parameters[name].astype(int).tolist() for name in ("feature", "left", "right")
        )
        self._threshold, self._value = parameters["threshold"], parameters["value"].tolist()
        self._baseline = parameters["baseline"]

    def outputs(self, events: Mapping[str, Any], derived: Mapping[str, Any]) -> np.ndarray:
        """Return class probabilities (n, 4), float32, of n events."""
        return self.of_inputs(network_inputs(events, derived, self._normalisation)[0])

    def of_inputs(self, inputs: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, 4), float32, of events with inputs (n, number of inputs), float32."""
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


class Model(Submission):
    """Measures the signal strength with trees; for its arguments see ``sage.submission.Submission``."""

    _reads = ("boosted_trees",)

    def fit(self) -> None:
        """Rebuild the templates from the training events if there are enough of them, as SAGE does."""
        self.bundle, self.fit_report = rebuild(self.bundle, self.rebuilding, self.get_train_set, self._ready())

    def predict(self, test_set: Mapping[str, Any]) -> dict[str, float]:
        """Measure mu in ``{"data": DataFrame, "weights": array}``."""
        return self._answer(measure(test_set, self.bundle, self._ready()))

    def _make_classifier(self) -> Trees:
        return Trees(self.bundle.network, self.bundle.normalisation)
