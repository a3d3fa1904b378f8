"""The network of ``sage.network.dense`` once more, in plain torch-geometric: slow, literal, the oracle of its tests.

Nothing here uses the algebra that makes the dense module cheap: every message concatenates and multiplies edge by
edge, graphs hold only the nodes and edges that exist, and normalisation over neighbours is torch-geometric's. The
readings of arXiv:2509.00672 are those stated in ``sage.network.dense``. Parameters carry the same names, so that
``oracle.load_state_dict(dense.state_dict())`` works.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot
from torch_geometric.nn import MessagePassing, global_mean_pool
from torch_geometric.utils import softmax

from sage.network.graph import N_NODES, N_SLOTS, NODES, PUBLISHED, Branch, InputSet
from sage.network.parameters import DEFAULT_SIZE, N_CLASSES, GraphSize


@dataclass(frozen=True)
class GraphBatch:
    """The graphs of n events for one branch, joined as torch-geometric joins them.

    Args:
        x: Node inputs, shape (N, 8): three slots and the one-hot type; only nodes that exist.
        edge_index: Source and target of each directed edge, shape (2, M).
        edge_attr: Its scalar, shape (M, 1).
        globals: Global inputs, shape (n, G).
        event: Event of each node, shape (N,).
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    globals: Tensor
    event: Tensor


def build_graphs(branch: Branch, values: Tensor, jets: Tensor, inputs: InputSet = PUBLISHED) -> GraphBatch:
    """Build the graphs of all events at once.

    Args:
        branch: Which features sit where.
        values: Normalised inputs, shape (n, number of inputs).
        jets: Which jets exist, shape (n, 2).
        inputs: What the inputs are.
    """
    n = len(values)
    exists = torch.ones(n, N_NODES, dtype=torch.bool)
    exists[:, NODES.index("jet_leading")] = jets[:, 0] > 0
    exists[:, NODES.index("jet_subleading")] = jets[:, 1] > 0
    number = torch.cumsum(exists.flatten(), dim=0).view(n, N_NODES) - 1

    slots = values.new_zeros(n, N_NODES, N_SLOTS)
    for name, node, slot in branch.nodes:
        slots[:, NODES.index(node), slot] = values[:, inputs.columns.index(name)]
    kinds = one_hot(torch.arange(N_NODES)).to(values.dtype).expand(n, -1, -1)

    index, scalars = [], []
    for name, first, second in branch.edges:
        a, b = NODES.index(first), NODES.index(second)
        rows = torch.nonzero(exists[:, a] & exists[:, b]).squeeze(1)
        forward = torch.stack([number[rows, a], number[rows, b]])
        index += [forward, forward.flip(0)]
        scalars += [values[rows, inputs.columns.index(name)]] * 2
    return GraphBatch(
        x=torch.cat([slots, kinds], dim=2)[exists],
        edge_index=torch.cat(index, dim=1),
        edge_attr=torch.cat(scalars).unsqueeze(1),
        globals=values[:, [inputs.columns.index(name) for name, _ in branch.globals]],
        event=torch.nonzero(exists)[:, 0],
    )


class MeanMessages(MessagePassing):  # type: ignore[misc]  # the library has no types
    """Mean over incoming edges of ``activation(Linear(concat(x_source, e, ...)))``."""

    def __init__(self) -> None:
        super().__init__(aggr="mean")

    def forward(self, x: Tensor, edge_index: Tensor, edge: Tensor, linear: nn.Module, activation: nn.Module) -> Tensor:
        """Aggregate onto targets: x (N, H), edge (M, C) with whatever the message reads besides the source."""
        out: Tensor = self.propagate(edge_index, x=x, edge=edge, linear=linear, activation=activation)
        return out

    def message(self, x_j: Tensor, edge: Tensor, linear: nn.Module, activation: nn.Module) -> Tensor:
        """Compute one message per edge."""
        out: Tensor = activation(linear(torch.cat([x_j, edge], dim=1)))
        return out


class Readout(nn.Module):
    """Broadcast global, Linear, ReLU, mean over the event's nodes."""

    def __init__(self, size: GraphSize) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * size.hidden, size.hidden)

    def forward(self, x: Tensor, globals_: Tensor, event: Tensor) -> Tensor:
        """Map nodes (N, H) and globals (n, H) to (n, H)."""
        joined = torch.relu(self.linear(torch.cat([x, globals_[event]], dim=1)))
        out: Tensor = global_mean_pool(joined, event, size=len(globals_))
        return out


class OracleBranch(nn.Module):
    """What both branches share: expanders, rounds with residual mixing, readout."""

    def __init__(self, branch: Branch, inputs: InputSet, size: GraphSize, message_width: int) -> None:
        super().__init__()
        self.branch, self.inputs = branch, inputs
        self.node_expander = nn.Linear(N_SLOTS + N_NODES, size.hidden)
        self.edge_expander = nn.Linear(1, size.hidden)
        self.global_expander = nn.Linear(len(branch.globals), size.hidden)
        self.messages = nn.ModuleList(nn.Linear(message_width, size.hidden) for _ in range(size.rounds))
        self.mixing = nn.Parameter(torch.zeros(size.rounds))
        self.readout = Readout(size)
        self.propagate = MeanMessages()

    def rounds(self, x: Tensor, graphs: GraphBatch, edge: Tensor, inner: nn.Module, outer: nn.Module) -> Tensor:
        """Pass messages; ``inner`` acts on each message, ``outer`` on the mixed node."""
        for message, parameter in zip(self.messages, self.mixing, strict=True):
            mean = self.propagate(x, graphs.edge_index, edge, message, inner)
            a = torch.sigmoid(parameter)
            x = outer(a * x + (1 - a) * mean)
        return x


class DeterministicBranch(OracleBranch):
    """Twin of ``sage.network.dense.DeterministicBranch``."""

    def __init__(self, inputs: InputSet = PUBLISHED, size: GraphSize = DEFAULT_SIZE) -> None:
        super().__init__(inputs.deterministic, inputs, size, 2 * size.hidden)

    def forward(self, values: Tensor, jets: Tensor) -> Tensor:
        """Return h_det, shape (n, H)."""
        graphs = build_graphs(self.branch, values, jets, self.inputs)
        edge = self.edge_expander(graphs.edge_attr)
        x = self.rounds(self.node_expander(graphs.x), graphs, edge, nn.ReLU(), nn.ReLU())
        out: Tensor = self.readout(x, self.global_expander(graphs.globals), graphs.event)
        return out


class UncertaintyBranch(OracleBranch):
    """Twin of ``sage.network.dense.UncertaintyBranch``."""

    def __init__(self, inputs: InputSet = PUBLISHED, size: GraphSize = DEFAULT_SIZE) -> None:
        super().__init__(inputs.uncertainty, inputs, size, 3 * size.hidden)
        self.node_score = nn.Linear(size.hidden, 1, bias=False)
        self.edge_score = nn.Linear(2 * size.hidden, 1, bias=False)
        self.node_gate = nn.Linear(size.hidden, 1)
        self.edge_gate = nn.Linear(2 * size.hidden, 1)

    def forward(self, values: Tensor, jets: Tensor) -> Tensor:
        """Return h_unc, shape (n, H)."""
        graphs = build_graphs(self.branch, values, jets, self.inputs)
        x, edge = self.node_expander(graphs.x), self.edge_expander(graphs.edge_attr)
        g = self.global_expander(graphs.globals)
        source, target = graphs.edge_index
        node_attention = softmax(self.node_score(x), graphs.event)
        edge_attention = softmax(self.edge_score(torch.cat([x[target], edge], dim=1)), source, num_nodes=len(x))
        node_gate = torch.sigmoid(self.node_gate(x))
        edge_gate = torch.sigmoid(self.edge_gate(torch.cat([x[source], edge], dim=1)))

        x, edge = x * node_attention * node_gate, edge * edge_attention * edge_gate
        edge = torch.cat([edge, leaky_relu(g)[graphs.event[source]]], dim=1)
        x = self.rounds(x, graphs, edge, nn.Identity(), nn.LeakyReLU())
        out: Tensor = self.readout(x, g, graphs.event)
        return out


class OracleNetwork(nn.Module):
    """Twin of ``sage.network.dense.DualBranchNetwork``: same inputs, same outputs, same parameter names."""

    def __init__(self, inputs: InputSet = PUBLISHED, size: GraphSize = DEFAULT_SIZE) -> None:
        super().__init__()
        self.deterministic = DeterministicBranch(inputs, size)
        self.uncertainty = UncertaintyBranch(inputs, size)
        self.gate_hidden = nn.Linear(size.hidden, size.hidden)
        self.gate = nn.Linear(size.hidden, size.hidden)
        self.head_hidden = nn.Linear(2 * size.hidden, size.hidden)
        self.head_narrow = nn.Linear(size.hidden, 8)
        self.head_residual = nn.Linear(2 * size.hidden, 8)
        self.classes = nn.Linear(8, N_CLASSES)

    def forward(self, values: Tensor, jets: Tensor) -> Tensor:
        """Return class logits (n, 4) from normalised inputs (n, number of inputs) and jet masks (n, 2)."""
        h_det = self.deterministic(values, jets)
        h_unc = self.uncertainty(values, jets)
        gate = torch.sigmoid(self.gate(leaky_relu(self.gate_hidden(h_unc))))
        h = torch.cat([h_det, h_unc * (1 + gate)], dim=1)
        narrow = leaky_relu(self.head_narrow(leaky_relu(self.head_hidden(h))))
        out: Tensor = self.classes(narrow + self.head_residual(h))
        return out
