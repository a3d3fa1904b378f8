"""Step 4: the dual-branch graph network as a dense, batched torch module.

Every event has the same five-node template, so no scatter is needed: nodes are an axis of length 5, edges an axis of
fixed length, and absent jets are masked (arXiv:2509.00672; the torch-geometric twin in ``training`` is the oracle).

The algebra that makes it cheap: a message ``Linear(concat(x_source, e))`` is ``W_x x_source + W_e e + b``, and an
expanded edge feature ``e = s a + b`` is a scalar times a vector plus a vector. So ``W_x`` is applied to 5 nodes rather
than 12 or 16 edges, and the edge part is an outer product. Where a message has no nonlinearity its mean over the
incoming edges is a weighted sum of nodes.

Readings taken where the sources are garbled or silent:

* Aggregation is the mean over incoming edges; a node without any receives 0. Each of the rounds has its own
  weights and its own residual mixing ``x' = a x + (1 - a) m`` with ``a = sigmoid(parameter)``.
* The edge score of the attention, ``Linear(64, 1)``, reads (x_target, e). With the source's features they would
  cancel in the softmax over that source's edges. Scores have no bias for the same reason. Gates read (x_source, e).
* Attention and gate both multiply the features: nodes by their weight and gate, expanded edges by theirs.
* The fusion gate is ``sigmoid(Linear(LeakyReLU(Linear(h_unc))))``; the head is
  ``Linear(8, 4)(LeakyReLU(Linear(32, 8)(LeakyReLU(Linear(64, 32)(h)))) + Linear(64, 8)(h))``
  where the hidden width H is 32.
* The 5-node mean before fusion runs over the nodes that are present; the global vector joins every node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, leaky_relu, linear, silu

from sage.network.graph import N_NODES, N_SLOTS, NODES, PUBLISHED, Branch, InputSet
from sage.network.parameters import (
    DEFAULT_SIZE,
    N_CLASSES,
    N_SCORES,
    NARROW,
    GraphSize,
    check_parameters,
    inputs_of,
    size_of,
)
from sage.network.perceptron import widths_of


class Template(nn.Module):
    """Spreads one branch's columns of the input array over nodes, edges and globals.

    Buffers: ``source`` and ``target`` node of each directed edge, shape (E,); ``leaves`` and ``into``, shape (5, E),
    1 where an edge leaves or enters a node.
    """

    slot_index: Tensor
    source: Tensor
    target: Tensor
    leaves: Tensor
    into: Tensor

    def __init__(self, branch: Branch, inputs: InputSet) -> None:
        super().__init__()
        first = inputs.columns.index(branch.columns[0])
        n_nodes, n_edges = len(branch.nodes), len(branch.edges)
        self.edge_columns = slice(first + n_nodes, first + n_nodes + n_edges)
        self.global_columns = slice(first + n_nodes + n_edges, first + len(branch.columns))
        # Empty slots point at an extra column of zeros behind the inputs.
        slots = torch.full((N_NODES, N_SLOTS), len(inputs.columns))
        for i, (_, node, slot) in enumerate(branch.nodes):
            slots[NODES.index(node), slot] = first + i
        every = torch.arange(2 * n_edges)
        leaves, into = torch.zeros(N_NODES, 2 * n_edges), torch.zeros(N_NODES, 2 * n_edges)
        leaves[torch.tensor(branch.sources), every] = 1.0
        into[torch.tensor(branch.targets), every] = 1.0
        self.register_buffer("slot_index", slots.flatten(), persistent=False)
        self.register_buffer("source", torch.tensor(branch.sources), persistent=False)
        self.register_buffer("target", torch.tensor(branch.targets), persistent=False)
        self.register_buffer("leaves", leaves, persistent=False)
        self.register_buffer("into", into, persistent=False)

    def forward(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return node inputs (n, 5, 8), edge scalars (n, E), edge masks (n, E) and global inputs (n, G)."""
        n = len(values)
        padded = torch.cat([values, values.new_zeros(n, 1)], dim=1)
        slots = padded[:, self.slot_index].view(n, N_NODES, N_SLOTS)
        kind = torch.eye(N_NODES, dtype=values.dtype, device=values.device).expand(n, -1, -1)
        scalars = values[:, self.edge_columns].repeat(1, 2)
        mask = present[:, self.source] * present[:, self.target]
        return torch.cat([slots, kind], dim=2), scalars, mask, values[:, self.global_columns]


class Readout(nn.Module):
    """Joins the global vector to every node and averages over the nodes that are present."""

    def __init__(self, size: GraphSize) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * size.hidden, size.hidden)

    def forward(self, nodes: Tensor, globals_: Tensor, present: Tensor) -> Tensor:
        """Map nodes (n, 5, H) and globals (n, H) to the branch's event vector (n, H)."""
        (weight_node, weight_global), bias = _blocks(self.linear)
        joined = linear(nodes, weight_node) + linear(globals_, weight_global, bias).unsqueeze(1)
        weight = present / present.sum(dim=1, keepdim=True)
        return (torch.relu(joined) * weight.unsqueeze(2)).sum(dim=1)


class DeterministicBranch(nn.Module):
    """Message passing with a ReLU on every edge, over features that no energy scale moves."""

    def __init__(self, inputs: InputSet = PUBLISHED, size: GraphSize = DEFAULT_SIZE) -> None:
        super().__init__()
        self.template = Template(inputs.deterministic, inputs)
        self.node_expander = nn.Linear(N_SLOTS + N_NODES, size.hidden)
        self.edge_expander = nn.Linear(1, size.hidden)
        self.global_expander = nn.Linear(len(inputs.deterministic.globals), size.hidden)
        self.messages = nn.ModuleList(nn.Linear(2 * size.hidden, size.hidden) for _ in range(size.rounds))
        self.mixing = nn.Parameter(torch.zeros(size.rounds))
        self.readout = Readout(size)

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        """Map inputs (n, number of inputs) and node masks (n, 5) to h_det (n, H)."""
        nodes, scalars, mask, globals_ = self.template(values, present)
        x = self.node_expander(nodes)
        mean_in = _mean_in(self.template.into, mask)
        edge_slope, edge_offset = self.edge_expander.weight.squeeze(1), self.edge_expander.bias
        for message, mixing in zip(self.messages, torch.sigmoid(self.mixing), strict=True):
            (weight_x, weight_e), bias = _blocks(message)
            offset = weight_e @ edge_offset + bias
            from_nodes = linear(x, weight_x)[:, self.template.source]
            edges = torch.relu(from_nodes + scalars.unsqueeze(2) * (weight_e @ edge_slope) + offset)
            x = torch.relu(mixing * x + (1 - mixing) * (mean_in @ edges))
        return self.readout(x, self.global_expander(globals_), present)  # type: ignore[no-any-return]


class UncertaintyBranch(nn.Module):
    """Attention and gates on nodes and edges, then linear message passing, over features that the shifts move."""

    def __init__(self, inputs: InputSet = PUBLISHED, size: GraphSize = DEFAULT_SIZE) -> None:
        super().__init__()
        self.template = Template(inputs.uncertainty, inputs)
        self.node_expander = nn.Linear(N_SLOTS + N_NODES, size.hidden)
        self.edge_expander = nn.Linear(1, size.hidden)
        self.global_expander = nn.Linear(len(inputs.uncertainty.globals), size.hidden)
        self.node_score = nn.Linear(size.hidden, 1, bias=False)
        self.edge_score = nn.Linear(2 * size.hidden, 1, bias=False)
        self.node_gate = nn.Linear(size.hidden, 1)
        self.edge_gate = nn.Linear(2 * size.hidden, 1)
        self.messages = nn.ModuleList(nn.Linear(3 * size.hidden, size.hidden) for _ in range(size.rounds))
        self.mixing = nn.Parameter(torch.zeros(size.rounds))
        self.readout = Readout(size)

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        """Map inputs (n, number of inputs) and node masks (n, 5) to h_unc (n, H)."""
        nodes, scalars, mask, globals_ = self.template(values, present)
        x = self.node_expander(nodes)
        g = self.global_expander(globals_)
        node_weight, edge_weight = self._weights(x, scalars, mask, present)
        x = x * node_weight.unsqueeze(2)

        # A weighted edge is w (s a + b), so its mean over incoming edges needs only the means of w s and of w.
        mean_in = _mean_in(self.template.into, mask)
        neighbours = mean_in @ self.template.leaves.T
        mean_ws = mean_in @ (edge_weight * scalars).unsqueeze(2)
        mean_w = mean_in @ edge_weight.unsqueeze(2)
        has_input = mean_in.sum(dim=2, keepdim=True)
        edge_slope, edge_offset = self.edge_expander.weight.squeeze(1), self.edge_expander.bias
        for message, mixing in zip(self.messages, torch.sigmoid(self.mixing), strict=True):
            (weight_x, weight_e, weight_g), bias = _blocks(message)
            from_nodes = linear(neighbours @ x, weight_x)
            from_edges = mean_ws * (weight_e @ edge_slope) + mean_w * (weight_e @ edge_offset)
            from_globals = has_input * linear(leaky_relu(g), weight_g, bias).unsqueeze(1)
            x = leaky_relu(mixing * x + (1 - mixing) * (from_nodes + from_edges + from_globals))
        return self.readout(x, g, present)  # type: ignore[no-any-return]

    def _weights(self, x: Tensor, scalars: Tensor, mask: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return attention times gate for nodes (n, 5) and edges (n, E); 0 for what is absent."""
        node_weight = _masked_softmax(self.node_score(x).squeeze(2), present)
        node_weight = node_weight * torch.sigmoid(self.node_gate(x).squeeze(2))

        slope, offset = self.edge_expander.weight.squeeze(1), self.edge_expander.bias
        score_x, score_e = self.edge_score.weight[0].chunk(2)
        gate_x, gate_e = self.edge_gate.weight[0].chunk(2)
        score = (x @ score_x)[:, self.template.target] + scalars * (score_e @ slope) + score_e @ offset
        gate = (x @ gate_x)[:, self.template.source] + scalars * (gate_e @ slope) + gate_e @ offset
        leaves = self.template.leaves * mask.unsqueeze(1)
        attention = _masked_softmax(score.unsqueeze(1).expand_as(leaves), leaves).sum(dim=1)
        return node_weight, attention * torch.sigmoid(gate + self.edge_gate.bias)


class Perceptron(nn.ModuleList):
    """Linear layers with SiLU and, in training, dropout between them; see ``sage.network.perceptron``.

    Args:
        sizes: Numbers of inputs, of hidden layers and of outputs.
        drop: Share of the hidden numbers that training drops.
    """

    def __init__(self, sizes: Sequence[int], drop: float = 0.0) -> None:
        super().__init__(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))
        self._drop = drop

    def forward(self, values: Tensor) -> Tensor:
        """Map inputs (n, sizes[0]) to outputs (n, sizes[-1])."""
        for i, layer in enumerate(self):
            values = layer(values if i == 0 else dropout(silu(values), self._drop, self.training))
        return values


class ScoreNetwork(nn.Module):
    """Scores of the shape nuisances: a perceptron of the inputs.

    Args:
        inputs: What its inputs are.
        widths: Widths of the hidden layers.
        drop: See ``Perceptron``.
    """

    def __init__(self, inputs: InputSet, widths: Sequence[int], drop: float = 0.0) -> None:
        super().__init__()
        self.perceptron = Perceptron((len(inputs.columns), *widths, N_SCORES), drop)

    def forward(self, values: Tensor, jets: Tensor) -> Tensor:
        """Map inputs (n, number of inputs) to scores (n, 3); which jets exist does not matter."""
        return self.perceptron(values)  # type: ignore[no-any-return]


class DualBranchNetwork(nn.Module):
    """The whole network: two branches, gated fusion and a small head with a linear residual; a perceptron beside it.

    Args:
        inputs: What its inputs are.
        widths: Widths of the hidden layers of the perceptron, whose outputs are added to the logits; None for none.
        drop: See ``Perceptron``.
        size: Size of the graph.

    Shapes:
        values: (n, number of inputs), normalised inputs in the order of ``inputs.columns``.
        jets: (n, 2), 1 where the leading and the subleading jet exist.
        output: (n, 4), logits of htautau, ztautau, ttbar, diboson.
    """

    def __init__(
        self,
        inputs: InputSet = PUBLISHED,
        widths: Sequence[int] | None = None,
        drop: float = 0.0,
        size: GraphSize = DEFAULT_SIZE,
    ) -> None:
        super().__init__()
        self.deterministic = DeterministicBranch(inputs, size)
        self.uncertainty = UncertaintyBranch(inputs, size)
        self.gate_hidden = nn.Linear(size.hidden, size.hidden)
        self.gate = nn.Linear(size.hidden, size.hidden)
        self.head_hidden = nn.Linear(2 * size.hidden, size.hidden)
        self.head_narrow = nn.Linear(size.hidden, NARROW)
        self.head_residual = nn.Linear(2 * size.hidden, NARROW)
        self.classes = nn.Linear(NARROW, N_CLASSES)
        if widths is not None:
            self.perceptron = Perceptron((len(inputs.columns), *widths, N_CLASSES), drop)

    def forward(self, values: Tensor, jets: Tensor) -> Tensor:
        """Return class logits; see the class for shapes."""
        always = jets.new_ones(len(jets), 1)
        present = torch.cat([always, always, jets, always], dim=1)
        logits = self.head(self.deterministic(values, present), self.uncertainty(values, present))
        return logits + self.perceptron(values) if hasattr(self, "perceptron") else logits

    def head(self, h_det: Tensor, h_unc: Tensor) -> Tensor:
        """Fuse the two event vectors (n, H) into logits (n, 4)."""
        gate = torch.sigmoid(self.gate(leaky_relu(self.gate_hidden(h_unc))))
        h = torch.cat([h_det, h_unc * (1 + gate)], dim=1)
        hidden = leaky_relu(self.head_narrow(leaky_relu(self.head_hidden(h))))
        return self.classes(hidden + self.head_residual(h))  # type: ignore[no-any-return]


def from_arrays(arrays: Mapping[str, np.ndarray]) -> DualBranchNetwork:
    """Build a network in evaluation mode from parameter arrays named as in ``state_dict``.

    Raises:
        WeightsError: If a parameter is missing, unknown or of the wrong shape.
    """
    check_parameters(arrays)
    network = DualBranchNetwork(inputs_of(arrays), widths_of(arrays), size=size_of(arrays))
    network.load_state_dict(
        {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in arrays.items()}
    )
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def class_probabilities(
    network: DualBranchNetwork, values: np.ndarray, jets: np.ndarray, chunk: int = 1024
) -> np.ndarray:
    """Run the network over all events in chunks.

    Args:
        network: The network, in evaluation mode.
        values: Normalised inputs, shape (n, number of inputs), float32.
        jets: Which jets exist, shape (n, 2), boolean.
        chunk: Events per pass; bounds the memory, does not change the result beyond rounding.

    Returns:
        Probabilities of the four classes, shape (n, 4), float32; rows sum to 1.
    """
    out = np.empty((len(values), N_CLASSES), dtype=np.float32)
    device = network.classes.weight.device
    for start in range(0, len(values), chunk):
        rows = slice(start, start + chunk)
        inputs = torch.from_numpy(np.ascontiguousarray(values[rows])).to(device)
        mask = torch.from_numpy(jets[rows].astype(np.float32)).to(device)
        out[rows] = torch.softmax(network(inputs, mask), dim=1).cpu().numpy()
    return out


def _mean_in(into: Tensor, mask: Tensor) -> Tensor:
    """Return the matrices (n, 5, E) that average over each node's incoming edges; rows without edges are 0."""
    incoming = into * mask.unsqueeze(1)
    return incoming / incoming.sum(dim=2, keepdim=True).clamp_min(1.0)


def _masked_softmax(score: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis among the places where ``mask`` is 1; 0 elsewhere, also where a row has none."""
    lowest = torch.finfo(score.dtype).min
    return torch.softmax(score.masked_fill(mask == 0, lowest), dim=-1) * mask


def _blocks(module: nn.Module) -> tuple[tuple[Tensor, ...], Tensor]:
    """Cut the weight of a Linear over a concatenation into one square block per part; return them and the bias."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    bias: Tensor = module.bias  # type: ignore[assignment]
    return torch.split(weight, len(weight), dim=1), bias
