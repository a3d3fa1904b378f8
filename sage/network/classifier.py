"""Step 4: from events to class probabilities: the seam between what classifies and everything behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from sage.errors import EngineError
from sage.network.engine import Engine
from sage.network.graph import Normalisation
from sage.network.inputs import network_inputs
from sage.network.library import LIBRARY, load
from sage.network.library_hash import SHA256
from sage.network.parameters import split, unstack
from sage.network.perceptron import Perceptron

Item = TypeVar("Item")
Result = TypeVar("Result")


class Classifier(Protocol):
    """Tells the classes of events apart: the graph network, trees, or nothing where no probabilities are needed."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What did not go the normal way, for the result."""

    def outputs(self, events: Mapping[str, Any], derived: Mapping[str, Any]) -> np.ndarray:
        """Return class probabilities and, if it has them, scores of the shape nuisances.

        Args:
            events: The 16 primary columns of selected events, shape (n,), float32.
            derived: Their derived columns, see ``sage.challenge.features``.

        Returns:
            Shape (n, 4), float32, classes in the order of ``PROCESSES``; or (n, 7), with the scores in the order of
            ``SHAPE_NAMES`` behind them.
        """

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function that calls ``outputs`` to each item; results come in the order of the items."""


class NetworkClassifier:
    """The graph network with its feature constants, and the perceptron of scores if there is one.

    Args:
        parameters: Network parameters by name; with a first axis of networks if several vote. Those of the perceptron
            of scores have ``sage.network.parameters.SCORES`` before their names.
        normalisation: Feature constants.
        kind: Where it runs, one of ``sage.network.engine.KINDS``; None for the first that works.
        threads: Threads on the CPU; None for this process's share of the cores.

    Raises:
        SettingsError: If there is no such kind, or the number of threads is not positive.
    """

    def __init__(
        self,
        parameters: Mapping[str, np.ndarray],
        normalisation: Normalisation,
        kind: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.engine = Engine(parameters, kind, threads)
        scores = split(parameters)[1]
        self._scores = [score_function(members, kind) for members in unstack(scores)] if scores else []
        self.map = self.engine.map
        self._normalisation = normalisation

    @property
    def flags(self) -> tuple[str, ...]:
        """What did not go the normal way, for the result."""
        return self.engine.flags

    def outputs(self, events: Mapping[str, Any], derived: Mapping[str, Any]) -> np.ndarray:
        """Return class probabilities and scores, see ``Classifier``.

        Raises:
            EngineError: If no back end works.
        """
        return self.outputs_of(*network_inputs(events, derived, self._normalisation))

    def reads(self, normalisation: Normalisation) -> bool:
        """Tell whether inputs with these feature constants are its own."""
        own = self._normalisation
        pairs = ((own.mean, normalisation.mean), (own.std, normalisation.std))
        return own.inputs == normalisation.inputs and all(np.array_equal(*pair) for pair in pairs)

    def outputs_of(self, values: np.ndarray, jets: np.ndarray) -> np.ndarray:
        """Return the same of normalised inputs, shape (n, number of inputs), with jet masks, shape (n, 2)."""
        probabilities = self.engine.probabilities(values, jets)
        if not self._scores:
            return probabilities
        scores = sum(perceptron(values) for perceptron in self._scores) / len(self._scores)
        return np.concatenate([probabilities, scores], axis=1)


def score_function(parameters: Mapping[str, np.ndarray], kind: str | None) -> Perceptron:
    """Return the perceptron of scores, in the native kernel unless another back end is asked for or it cannot be used.

    What keeps the kernel from running is said by the engine of the graph, which needs it, too.
    """
    if kind in (None, "native"):
        try:
            return Perceptron(parameters, library=load(LIBRARY, SHA256))
        except EngineError:
            pass
    return Perceptron(parameters)
