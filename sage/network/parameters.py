"""The parameters of the network: names, shapes and their order, known without torch.

The names are those of the dense module's ``state_dict``; the order is that of the native kernel's flat block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sage.challenge.nuisances import SHAPE_NAMES
from sage.errors import WeightsError
from sage.network import perceptron
from sage.network.graph import INPUT_SETS, N_NODES, N_SLOTS, PUBLISHED, Branch, InputSet
from sage.network.perceptron import Shapes

HIDDEN = 32
N_CLASSES = 4
NARROW = 8
ROUNDS = 3

EXPANDER = "uncertainty.global_expander.weight"
"""The parameter whose shape tells the choice of inputs."""

SCORES = "scores/"
"""Before the names of the parameters of the perceptron that gives the scores of the shape nuisances."""

N_SCORES = len(SHAPE_NAMES)


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _branch(name: str, branch: Branch, attention: Shapes, message_inputs: int) -> Shapes:
    shapes: Shapes = {f"{name}.mixing": (ROUNDS,)}
    shapes |= _linear(f"{name}.node_expander", HIDDEN, N_SLOTS + N_NODES)
    shapes |= _linear(f"{name}.edge_expander", HIDDEN, 1)
    shapes |= _linear(f"{name}.global_expander", HIDDEN, len(branch.globals))
    shapes |= {f"{name}.{part}": shape for part, shape in attention.items()}
    for i in range(ROUNDS):
        shapes |= _linear(f"{name}.messages.{i}", HIDDEN, message_inputs)
    return shapes | _linear(f"{name}.readout.linear", HIDDEN, 2 * HIDDEN)


_ATTENTION: Shapes = {
    "node_score.weight": (1, HIDDEN),
    "edge_score.weight": (1, 2 * HIDDEN),
    **_linear("node_gate", 1, HIDDEN),
    **_linear("edge_gate", 1, 2 * HIDDEN),
}


def shapes(inputs: InputSet = PUBLISHED, widths: tuple[int, ...] | None = None) -> Shapes:
    """Return parameter name -> shape of a network; the order is the same for all.

    Args:
        inputs: What its inputs are.
        widths: Widths of the hidden layers of the perceptron beside the graph; None for no perceptron.
    """
    sizes = () if widths is None else (len(inputs.columns), *widths, N_CLASSES)
    return {
        **_branch("deterministic", inputs.deterministic, {}, 2 * HIDDEN),
        **_branch("uncertainty", inputs.uncertainty, _ATTENTION, 3 * HIDDEN),
        **_linear("gate_hidden", HIDDEN, HIDDEN),
        **_linear("gate", HIDDEN, HIDDEN),
        **_linear("head_hidden", HIDDEN, 2 * HIDDEN),
        **_linear("head_narrow", NARROW, HIDDEN),
        **_linear("head_residual", NARROW, 2 * HIDDEN),
        **_linear("classes", N_CLASSES, NARROW),
        **perceptron.shapes(sizes),
    }


def score_shapes(inputs: InputSet, widths: tuple[int, ...]) -> Shapes:
    """Return parameter name -> shape of the perceptron that gives the scores of the shape nuisances."""
    return perceptron.shapes((len(inputs.columns), *widths, N_SCORES))


SHAPES = shapes()
"""Parameter name -> shape with the published inputs."""


def inputs_of(arrays: Mapping[str, np.ndarray]) -> InputSet:
    """Return the choice of inputs that the parameters of a network were made for, published ones if they fit none."""
    found = np.shape(arrays.get(EXPANDER, 0.0))
    return next((choice for choice in INPUT_SETS.values() if shapes(choice)[EXPANDER] == found), PUBLISHED)


def check_parameters(arrays: Mapping[str, np.ndarray], inputs: InputSet | None = None) -> None:
    """Check names and shapes.

    Args:
        arrays: Parameters by name.
        inputs: What the inputs of the network must be; None for any choice of them.

    Raises:
        WeightsError: If a parameter is missing, unknown or of the wrong shape.
    """
    _compare(arrays, shapes(inputs or inputs_of(arrays), perceptron.widths_of(arrays)))


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
    axes = {name: len(SHAPES[name]) for name in arrays if name in SHAPES}
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
    """Return the parameters of the graph as one float32 array in the order of ``SHAPES``; they passed the check."""
    return np.concatenate([np.asarray(arrays[name], dtype=np.float32).ravel() for name in SHAPES])
