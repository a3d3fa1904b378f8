"""The parameters of the network: names, shapes and their order, known without torch.

The names are those of the dense module's ``state_dict``; the order is that of the native kernel's flat block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sage.challenge.nuisances import SHAPE_NAMES
from sage.errors import WeightsError
from sage.network import perceptron
from sage.network.graph import INPUT_SETS, N_NODES, N_SLOTS, PUBLISHED, Branch, InputSet
from sage.network.perceptron import Shapes

N_CLASSES = 4
NARROW = 8
HIDDEN_WIDTHS = (16, 32, 48, 64)
"""Hidden widths that the graph may have; those of the kernel."""
MOST_ROUNDS = 4

EXPANDER = "uncertainty.global_expander.weight"
"""The parameter whose shape tells the choice of inputs."""
MIXING = "deterministic.mixing"
"""The parameter whose shape tells the number of rounds."""

SCORES = "scores/"
"""Before the names of the parameters of the perceptron that gives the scores of the shape nuisances."""

N_SCORES = len(SHAPE_NAMES)


@dataclass(frozen=True)
class GraphSize:
    """Size of the graph network.

    Args:
        hidden: Numbers of a node, an edge and the globals, one of ``HIDDEN_WIDTHS``.
        rounds: Rounds of message passing in each branch, from 1 to ``MOST_ROUNDS``.
    """

    hidden: int = 32
    rounds: int = 3

    @property
    def supported(self) -> bool:
        """Whether there is a kernel for it."""
        return self.hidden in HIDDEN_WIDTHS and 1 <= self.rounds <= MOST_ROUNDS


DEFAULT_SIZE = GraphSize()


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _branch(name: str, branch: Branch, size: GraphSize, attention: Shapes, message_inputs: int) -> Shapes:
    hidden = size.hidden
    shapes: Shapes = {f"{name}.mixing": (size.rounds,)}
    shapes |= _linear(f"{name}.node_expander", hidden, N_SLOTS + N_NODES)
    shapes |= _linear(f"{name}.edge_expander", hidden, 1)
    shapes |= _linear(f"{name}.global_expander", hidden, len(branch.globals))
    shapes |= {f"{name}.{part}": shape for part, shape in attention.items()}
    for i in range(size.rounds):
        shapes |= _linear(f"{name}.messages.{i}", hidden, message_inputs)
    return shapes | _linear(f"{name}.readout.linear", hidden, 2 * hidden)


def shapes(
    inputs: InputSet = PUBLISHED, widths: tuple[int, ...] | None = None, size: GraphSize = DEFAULT_SIZE
) -> Shapes:
    """Return parameter name -> shape of a network; the order is the same for all.

    Args:
        inputs: What its inputs are.
        widths: Widths of the hidden layers of the perceptron beside the graph; None for no perceptron.
        size: Size of the graph.
    """
    hidden = size.hidden
    attention: Shapes = {
        "node_score.weight": (1, hidden),
        "edge_score.weight": (1, 2 * hidden),
        **_linear("node_gate", 1, hidden),
        **_linear("edge_gate", 1, 2 * hidden),
    }
    sizes = () if widths is None else (len(inputs.columns), *widths, N_CLASSES)
    return {
        **_branch("deterministic", inputs.deterministic, size, {}, 2 * hidden),
        **_branch("uncertainty", inputs.uncertainty, size, attention, 3 * hidden),
        **_linear("gate_hidden", hidden, hidden),
        **_linear("gate", hidden, hidden),
        **_linear("head_hidden", hidden, 2 * hidden),
        **_linear("head_narrow", NARROW, hidden),
        **_linear("head_residual", NARROW, 2 * hidden),
        **_linear("classes", N_CLASSES, NARROW),
        **perceptron.shapes(sizes),
    }


def score_shapes(inputs: InputSet, widths: tuple[int, ...]) -> Shapes:
    """Return parameter name -> shape of the perceptron that gives the scores of the shape nuisances."""
    return perceptron.shapes((len(inputs.columns), *widths, N_SCORES))


_AXES = {name: len(shape) for name, shape in shapes(size=GraphSize(rounds=MOST_ROUNDS)).items()}
"""Number of axes of every parameter that a graph may have."""


def inputs_of(arrays: Mapping[str, np.ndarray]) -> InputSet:
    """Return the choice of inputs that the parameters of a network were made for, published ones if they fit none."""
    found = np.shape(arrays.get(EXPANDER, 0.0))[1:]
    return next((choice for choice in INPUT_SETS.values() if shapes(choice)[EXPANDER][1:] == found), PUBLISHED)


def size_of(arrays: Mapping[str, np.ndarray]) -> GraphSize:
    """Return the size of the graph that parameters are of, the default one if they contradict each other."""
    weight, bias, mixing = (np.shape(arrays.get(name, 0.0)) for name in ("gate.weight", "gate.bias", MIXING))
    if len(bias) != 1 or weight != 2 * bias or len(mixing) != 1:
        return DEFAULT_SIZE
    size = GraphSize(bias[0], mixing[0])
    return size if f"deterministic.messages.{size.rounds - 1}.bias" in arrays else DEFAULT_SIZE


def check_parameters(arrays: Mapping[str, np.ndarray], inputs: InputSet | None = None) -> None:
    """Check names and shapes.

    Args:
        arrays: Parameters by name.
        inputs: What the inputs of the network must be; None for any choice of them.

    Raises:
        WeightsError: If a parameter is missing, unknown or of the wrong shape, or there is no kernel for the size.
    """
    size = size_of(arrays)
    if not size.supported:
        msg = f"the network's graph has hidden width {size.hidden} and {size.rounds} rounds; this version knows widths "
        msg += f"{', '.join(map(str, HIDDEN_WIDTHS))} and 1 to {MOST_ROUNDS} rounds: train it anew with one of them"
        raise WeightsError(msg)
    _compare(arrays, shapes(inputs or inputs_of(arrays), perceptron.widths_of(arrays), size))


def _compare(arrays: Mapping[str, np.ndarray], expected: Shapes) -> None:
    found = {name: tuple(value.shape) for name, value in arrays.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        msg = f"network parameter {wrong[0]!r} does not fit this architecture: rebuild the weights with this version"
        raise WeightsError(msg)


def split(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the parameters of the network of class probabilities and those of the scores, which may be none."""
    classes = {name: value for name, value in arrays.items() if not name.startswith(SCORES)}
    return classes, {name.removeprefix(SCORES): value for name, value in arrays.items() if name not in classes}


def check_networks(arrays: Mapping[str, np.ndarray], inputs: InputSet) -> None:
    """Check names and shapes of all networks of a weights folder, which have the same inputs.

    Raises:
        WeightsError: If a parameter is missing, unknown or of the wrong shape.
    """
    classes, scores = split(arrays)
    for parameters in unstack(classes):
        check_parameters(parameters, inputs)
    for parameters in unstack(scores) if scores else ():
        _compare(parameters, score_shapes(inputs, perceptron.widths_of(parameters) or ()))


def stack(networks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Put the parameters of networks that vote together into one set of arrays.

    Args:
        networks: Parameters by name of each.

    Returns:
        The parameters themselves if there is one network, else arrays with a first axis of networks.
    """
    if len(networks) == 1:
        return dict(networks[0])
    return {name: np.stack([network[name] for network in networks]) for name in networks[0]}


def unstack(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the parameters of each network; the inverse of ``stack``.

    Raises:
        WeightsError: If the arrays hold different numbers of networks.
    """
    axes = {name: _AXES[name] for name in arrays if name in _AXES}
    axes |= {name: 1 + name.endswith(".weight") for name in arrays if name.startswith(f"{perceptron.NAME}.")}
    extra = {name: np.ndim(arrays[name]) - number for name, number in axes.items()}
    if not any(extra.values()):
        return [dict(arrays)]
    lengths = {len(arrays[name]) if number == 1 else 0 for name, number in extra.items()}
    if len(lengths) != 1 or 0 in lengths or len(extra) != len(arrays):
        msg = "network parameters hold different numbers of networks: rebuild the weights with this version"
        raise WeightsError(msg)
    return [{name: value[i] for name, value in arrays.items()} for i in range(lengths.pop())]


def flatten(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the parameters of the graph as one float32 array in the order of ``shapes``; they passed the check."""
    names = shapes(size=size_of(arrays))
    return np.concatenate([np.asarray(arrays[name], dtype=np.float32).ravel() for name in names])
