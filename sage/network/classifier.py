"""Step 4: from events to class probabilities: the seam between what classifies and everything behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from sage.network.engine import Engine
from sage.network.graph import Normalisation, jets_present, normalise, raw_inputs

Item = TypeVar("Item")
Result = TypeVar("Result")


class Classifier(Protocol):
    """Tells the classes of events apart: the graph network, trees, or nothing where no probabilities are needed."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What did not go the normal way, for the result."""

    def probabilities(self, events: Mapping[str, Any], derived: Mapping[str, Any]) -> np.ndarray:
        """Return class probabilities.

        Args:
            events: The 16 primary columns of selected events, shape (n,), float32.
            derived: Their derived columns, see ``sage.challenge.features.derived``.

        Returns:
            Shape (n, 4), float32, classes in the order of ``PROCESSES``.
        """

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function that calls ``probabilities`` to each item; results come in the order of the items."""


class NetworkClassifier:
    """The graph network with its feature constants.

    Args:
        parameters: Network parameters by name; with a first axis of networks if several vote.
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
        self.map = self.engine.map
        self._normalisation = normalisation

    @property
    def flags(self) -> tuple[str, ...]:
        """What did not go the normal way, for the result."""
        return self.engine.flags

    def probabilities(self, events: Mapping[str, Any], derived: Mapping[str, Any]) -> np.ndarray:
        """Return class probabilities, see ``Classifier``.

        Raises:
            EngineError: If no back end works.
        """
        values, defined = raw_inputs(events, derived, self._normalisation.inputs)
        return self.engine.probabilities(normalise(values, defined, self._normalisation), jets_present(events))
