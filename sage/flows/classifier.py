"""A classifier of events with jets that reads densities of flows beside the events' columns.

For each category a tower of its own reads the standardised columns and ln q of each named flow; one trunk behind both
gives the probability of signal among equally many signal and background events. Everything is stored by name, the
row of weights of a flow's feature beside the flow itself, so no order of features has to be agreed on.

    CATEGORY/scaling/{smallest, mean, std}       see ``sage.flows.inputs.Scaling``
    CATEGORY/flow/NAME/LAYER/KIND/MATRIX         see ``sage.flows.density.Layer``
    CATEGORY/feature/NAME                        mean and standard deviation of ln q, or of its sigmoid
    CATEGORY/entry/{columns, NAME}, CATEGORY/entry/second, trunk/{0, 1}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES, SIGNAL
from sage.errors import WeightsError
from sage.flows.density import Layer, log_density
from sage.flows.inputs import CATEGORIES, Category, Scaling, columns_of, members, standardised

LOG_RANGE = (-60.0, 0.0)
"""ln q is clipped to it."""
BLOCK = 4096
"""Events per pass: what a layer works on stays in the cache."""
CUT = ("pt_jet_leading", ">", 0.0)
"""Holds for the events that are classified."""


@dataclass(frozen=True)
class Flows:
    """The flows of a category and the constants of what they give.

    Args:
        category: Whose events they describe.
        scaling: Of their inputs.
        flows: Layers by name.
        features: Mean and standard deviation of each flow's feature, by name.
        published: Whether the feature is sigmoid(ln q), as published, which is next to 0 for most events; otherwise
            it is ln q.
    """

    category: Category
    scaling: Scaling
    flows: Mapping[str, Sequence[Layer]]
    features: Mapping[str, tuple[float, float]]
    published: bool = False

    def of(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return each flow's standardised feature, shape (n,), by name, of inputs (n, d)."""
        out = {}
        for name, layers in self.flows.items():
            mean, std = self.features[name]
            out[name] = (self.raw(log_density(layers, inputs)) - np.float32(mean)) / np.float32(std)
        return out

    def raw(self, logs: np.ndarray) -> np.ndarray:
        """Return the feature of ln q before it is standardised."""
        if self.published:
            return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logs, *LOG_RANGE))), dtype=np.float32)
        return np.asarray(np.clip(logs, *LOG_RANGE))


class FlowClassifier:
    """Classifies events by flows; see the head of the module for its parameters.

    Args:
        parameters: Arrays by name.
        normalisation: Not used: the inputs have their own constants.
        threads: Not used.

    Raises:
        WeightsError: If arrays are missing, or belong to no flow that is there.
    """

    flags = ()

    def __init__(
        self, parameters: Mapping[str, np.ndarray], normalisation: Any = None, threads: int | None = None
    ) -> None:
        del normalisation, threads
        self._parameters = {name: np.asarray(array, dtype=np.float32) for name, array in parameters.items()}
        try:
            self.flows = {category.name: read_flows(category, self._parameters) for category in CATEGORIES}
            for category in CATEGORIES:
                self._tower(category.name)
            self._trunk  # noqa: B018  made now, so that what is missing is missed now
        except KeyError as error:
            msg = f"the classifier with flows lacks the array {error}; build the weights again"
            raise WeightsError(msg) from error

    def outputs(self, events: Mapping[str, Any], derived: Mapping[str, Any]) -> np.ndarray:
        """Return class probabilities (n, 4), float32: NaN without jets or where a column is not finite.

        The backgrounds share what the signal leaves, as this classifier does not tell them apart.
        """
        del derived
        out = np.full((len(events["PRI_met"]), len(PROCESSES)), np.nan, dtype=np.float32)
        rows = members(events)
        for category in CATEGORIES:
            here = rows[category.name]
            for start in range(0, len(here), BLOCK):
                block = here[start : start + BLOCK]
                score = self.of_inputs(category.name, self.inputs(category, events, block))
                out[block] = ((1.0 - score) / (len(PROCESSES) - 1))[:, None]
                out[block, PROCESSES.index(SIGNAL)] = score
        return out

    def inputs(self, category: Category, events: Mapping[str, Any], rows: np.ndarray) -> np.ndarray:
        """Return the standardised columns of some events of a category, shape (len(rows), d)."""
        return standardised(category, columns_of(category, events, rows), self.flows[category.name].scaling)

    def of_inputs(self, category: str, inputs: np.ndarray) -> np.ndarray:
        """Return the signal probability, shape (n,), of standardised columns (n, d)."""
        columns, by_flow, second = self._tower(category)
        with np.errstate(over="ignore", invalid="ignore"):
            x = inputs @ columns[:-1] + columns[-1]
            for name, feature in self.flows[category].of(inputs).items():
                x += feature[:, None] * by_flow[name]
            first, last = self._trunk
            for matrix in (second, first):
                np.maximum(x, 0.0, out=x)
                x = x @ matrix[:-1] + matrix[-1]
            np.maximum(x, 0.0, out=x)
            logit = (x @ last[:-1] + last[-1])[:, 0]
            return np.asarray(1.0 / (1.0 + np.exp(-logit)), dtype=np.float32)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Apply a function to each item."""
        return map(function, items)

    def _tower(self, category: str) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        entry = f"{category}/entry"
        by_flow = {name: self._parameters[f"{entry}/{name}"][0] for name in self.flows[category].flows}
        return self._parameters[f"{entry}/columns"], by_flow, self._parameters[f"{entry}/second"]

    @cached_property
    def _trunk(self) -> tuple[np.ndarray, np.ndarray]:
        return self._parameters["trunk/0"], self._parameters["trunk/1"]


def read_flows(category: Category, parameters: Mapping[str, np.ndarray]) -> Flows:
    """Return the flows of a category among parameters by name.

    Raises:
        KeyError: If an array is missing; it names it.
        WeightsError: If there are features or weights of flows that are not there.
    """
    found: dict[str, dict[int, tuple[str, dict[int, np.ndarray]]]] = {}
    start = f"{category.name}/flow/"
    for key, array in parameters.items():
        if key.startswith(start):
            name, layer, kind, matrix = key.removeprefix(start).split("/")
            found.setdefault(name, {}).setdefault(int(layer), (kind, {}))[1][int(matrix)] = array
    flows = {
        name: tuple(
            Layer(kind, tuple(matrices[i] for i in sorted(matrices))) for _, (kind, matrices) in sorted(layers.items())
        )
        for name, layers in sorted(found.items())
    }
    named = {key.rpartition("/")[2] for key in parameters if key.startswith(f"{category.name}/feature/")}
    weighed = {key.rpartition("/")[2] for key in parameters if key.startswith(f"{category.name}/entry/")}
    strange = (named | weighed) - {"columns", "second"} - set(flows)
    if strange:
        msg = f"the classifier reads {min(strange)!r} with {category.name}, but has no flow of this name, only "
        msg += f"{', '.join(flows) or 'none'}; build the weights again"
        raise WeightsError(msg)
    scaling = Scaling(*(parameters[f"{category.name}/scaling/{part}"] for part in ("smallest", "mean", "std")))
    features = {}
    for name in flows:
        mean, std = parameters[f"{category.name}/feature/{name}"]
        features[name] = float(mean), float(std)
    return Flows(category, scaling, flows, features, bool(parameters.get("published", np.zeros(1))[0]))


def flow_arrays(flows: Flows) -> dict[str, np.ndarray]:
    """Return the arrays that ``read_flows`` reads."""
    start = flows.category.name
    out = {f"{start}/scaling/{part}": getattr(flows.scaling, part) for part in ("smallest", "mean", "std")}
    for name, layers in flows.flows.items():
        out[f"{start}/feature/{name}"] = np.array(flows.features[name])
        for number, layer in enumerate(layers):
            for i, matrix in enumerate(layer.matrices):
                out[f"{start}/flow/{name}/{number}/{layer.kind}/{i}"] = matrix
    return out | {"published": np.array([float(flows.published)])}
