"""Step 4: from events to class probabilities: the seam between what classifies and everything behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from sage.network.engine import SMALLEST, Engine
from sage.network.graph import Normalisation
from sage.network.inputs import network_inputs
from sage.network.parameters import split

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
    """The graph network with its feature constants, and the network of scores if there is one.

    The network of scores has the architecture and the inputs of the other, so that every back end runs it as it is.
    It has one output for each shape nuisance and a last one to which they refer: a score is the difference of two
    logits, and that the logarithm of a ratio of two of the "probabilities" which a back end returns.

    Args:
        parameters: Network parameters by name; with a first axis of networks if several vote. Those of the network of
            scores have ``sage.network.parameters.SCORES`` before their names.
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
        self._scores = Engine(scores, kind, threads) if scores else None
        self.map = self.engine.map
        self._normalisation = normalisation

    @property
    def flags(self) -> tuple[str, ...]:
        """What did not go the normal way, for the result."""
        both = (*self.engine.flags, *(() if self._scores is None else self._scores.flags))
        return tuple(dict.fromkeys(both))

    def outputs(self, events: Mapping[str, Any], derived: Mapping[str, Any]) -> np.ndarray:
        """Return class probabilities and scores, see ``Classifier``.

        Raises:
            EngineError: If no back end works.
        """
        values, jets = network_inputs(events, derived, self._normalisation)
        probabilities = self.engine.probabilities(values, jets)
        if self._scores is None:
            return probabilities
        logarithms = np.log(np.maximum(self._scores.probabilities(values, jets), SMALLEST))
        return np.concatenate([probabilities, logarithms[:, :-1] - logarithms[:, -1:]], axis=1)
