"""Step 3: the fixed event graph and the numbers that live on it.

An event is a graph of five nodes (lepton, hadronic tau, leading jet, subleading jet, MET). Its 14 node, 14 edge and 7
global features are split between a deterministic branch, which sees what no energy scale moves, and an
uncertainty-aware branch, which sees the rest (arXiv:2509.00672, feature tables). These 35 inputs are ``PUBLISHED``;
``WITH_DITAU`` sees directions in a standard position and has more globals. The template below is the only place where
this layout is written down; the network, its torch-geometric twin and the normalisation read it.

Readings taken where the sources are silent:

* Three slots (pt, eta, phi) and a one-hot type make the 8 inputs of a node; a slot without a feature is 0.
* A distance to MET takes the pseudorapidity of MET as 0.
* Each edge feature is one edge with one scalar, in both directions; two features of one pair are parallel edges.
* A jet exists where its pt is positive. The number of jets does not tell: the challenge lowers it for every removed
  jet, so an event with three jets, the second of them removed, has two jets and no subleading one.
* What a missing jet would define is 0 after normalisation, and so is any value that is not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sage.challenge.ditau import DITAU
from sage.challenge.features import angular_distances
from sage.challenge.position import TURNED, standard_position
from sage.challenge.shifts import namespace
from sage.network.ditau import write_ditau

NODES = ("lep", "had", "jet_leading", "jet_subleading", "met")
N_NODES = len(NODES)
N_SLOTS = 3


@dataclass(frozen=True)
class Branch:
    """The features of one branch: where each column sits on the graph.

    Args:
        nodes: (column, node, slot) with slot 0, 1, 2 for pt, eta, phi.
        edges: (column, node, node); each stands for two directed edges.
        globals: (column, nodes that must exist for it to be defined).
    """

    nodes: tuple[tuple[str, str, int], ...]
    edges: tuple[tuple[str, str, str], ...]
    globals: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all input columns: node, edge, then global features."""
        nodes = tuple(column for column, _, _ in self.nodes)
        edges = tuple(column for column, _, _ in self.edges)
        return nodes + edges + tuple(column for column, _ in self.globals)

    @property
    def sources(self) -> tuple[int, ...]:
        """Source node of each directed edge: all forward edges, then all backward edges."""
        forward = [NODES.index(a) for _, a, _ in self.edges]
        backward = [NODES.index(b) for _, _, b in self.edges]
        return tuple(forward + backward)

    @property
    def targets(self) -> tuple[int, ...]:
        """Target node of each directed edge, in the order of ``sources``."""
        half = len(self.edges)
        return self.sources[half:] + self.sources[:half]


JETS = ("jet_leading", "jet_subleading")

DETERMINISTIC = Branch(
    nodes=(
        ("PRI_lep_pt", "lep", 0),
        ("PRI_lep_eta", "lep", 1),
        ("PRI_lep_phi", "lep", 2),
        ("PRI_had_eta", "had", 1),
        ("PRI_had_phi", "had", 2),
        ("PRI_jet_leading_eta", "jet_leading", 1),
        ("PRI_jet_leading_phi", "jet_leading", 2),
        ("PRI_jet_subleading_eta", "jet_subleading", 1),
        ("PRI_jet_subleading_phi", "jet_subleading", 2),
    ),
    edges=(
        ("dr_had_jet_leading", "had", "jet_leading"),
        ("dr_had_jet_subleading", "had", "jet_subleading"),
        ("dr_lep_jet_leading", "lep", "jet_leading"),
        ("dr_lep_jet_subleading", "lep", "jet_subleading"),
        ("dr_jet_leading_jet_subleading", "jet_leading", "jet_subleading"),
        ("DER_deltar_had_lep", "had", "lep"),
    ),
    globals=(("DER_lep_eta_centrality", JETS),),
)

UNCERTAINTY_AWARE = Branch(
    nodes=(
        ("PRI_had_pt", "had", 0),
        ("PRI_jet_leading_pt", "jet_leading", 0),
        ("PRI_jet_subleading_pt", "jet_subleading", 0),
        ("PRI_met", "met", 0),
        ("PRI_met_phi", "met", 2),
    ),
    edges=(
        ("dr_had_met", "had", "met"),
        ("dr_lep_met", "lep", "met"),
        ("DER_mass_transverse_met_lep", "lep", "met"),
        ("dr_jet_leading_met", "jet_leading", "met"),
        ("dr_jet_subleading_met", "jet_subleading", "met"),
        ("DER_mass_jet_jet", "jet_leading", "jet_subleading"),
        ("DER_pt_ratio_lep_had", "lep", "had"),
        ("DER_mass_vis", "had", "lep"),
    ),
    globals=(
        ("PRI_n_jets", ()),
        ("DER_pt_tot", ()),
        ("DER_pt_h", ()),
        ("DER_sum_pt", ()),
        ("DER_met_phi_centrality", ()),
        ("PRI_jet_all_pt", ()),
    ),
)

LOG = "log_"
"""Begins the name of an input that is the logarithm of a column."""

LOG_UNIT = 20.0
"""Such an input is log(1 + column / LOG_UNIT), GeV: linear below, where momenta may vanish, and logarithmic above."""

LONG_TAILED = (
    *("PRI_lep_pt", "PRI_had_pt", "PRI_jet_leading_pt", "PRI_jet_subleading_pt", "PRI_jet_all_pt", "PRI_met"),
    *("DER_mass_transverse_met_lep", "DER_mass_jet_jet", "DER_mass_vis", "DER_pt_tot", "DER_pt_h", "DER_sum_pt"),
    *("ditau_mass_collinear", "ditau_mass_mean", "ditau_mass_transverse_met_had", "ditau_mass_transverse_total"),
    "ditau_vis_bisector",
)
"""Columns whose logarithm is an input of ``WITH_DITAU``."""


@dataclass(frozen=True)
class InputSet:
    """A choice of inputs: which columns sit on the graph.

    Args:
        name: Its name in the settings.
        deterministic: Columns of the deterministic branch.
        uncertainty: Columns of the uncertainty-aware branch.
    """

    name: str
    deterministic: Branch
    uncertainty: Branch

    @property
    def branches(self) -> tuple[Branch, Branch]:
        """Both branches, in the order of their columns."""
        return self.deterministic, self.uncertainty

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the inputs in the order of the network's input array."""
        return self.deterministic.columns + self.uncertainty.columns


def _with_ditau(branch: Branch, more: tuple[str, ...]) -> Branch:
    """Return a branch with turned directions, logarithms of what has a long tail, further globals that need no jet."""

    def name(column: str) -> str:
        if column.startswith("PRI_") and column.endswith(("_eta", "_phi")):
            return TURNED + column
        return LOG + column if column in LONG_TAILED else column

    nodes = tuple((name(column), node, slot) for column, node, slot in branch.nodes)
    edges = tuple((name(column), first, second) for column, first, second in branch.edges)
    globals_ = tuple((name(column), needed) for column, needed in branch.globals)
    return Branch(nodes, edges, globals_ + tuple((name(column), ()) for column in more))


PUBLISHED = InputSet("published", DETERMINISTIC, UNCERTAINTY_AWARE)
"""The 35 inputs of arXiv:2509.00672."""

WITH_DITAU = InputSet("ditau", _with_ditau(DETERMINISTIC, ()), _with_ditau(UNCERTAINTY_AWARE, DITAU))
"""The same in standard position, with the ten quantities of ``sage.challenge.ditau`` as further globals of the branch
that sees MET: 45 inputs."""

INPUT_SETS = {choice.name: choice for choice in (PUBLISHED, WITH_DITAU)}
INPUTS = PUBLISHED.columns


def find_inputs(columns: Iterable[str]) -> InputSet | None:
    """Return the choice of inputs with these columns, None if there is none."""
    wanted = tuple(columns)
    return next((choice for choice in INPUT_SETS.values() if choice.columns == wanted), None)


def required_jets(inputs: InputSet = PUBLISHED) -> np.ndarray:
    """Return which jets each input needs, shape (number of inputs, 2), boolean; columns: leading, subleading."""
    needs: list[tuple[str, ...]] = []
    for branch in inputs.branches:
        needs += [(node,) for _, node, _ in branch.nodes]
        needs += [(first, second) for _, first, second in branch.edges]
        needs += [nodes for _, nodes in branch.globals]
    return np.array([[jet in need for jet in JETS] for need in needs])


@dataclass(frozen=True)
class Normalisation:
    """One global set of feature constants, stored with the weights.

    Args:
        mean: Mean of each input over the nominal training events in which it is defined, shape (number of inputs,),
            float32.
        std: Standard deviation likewise; positive.
        inputs: What the inputs are.
    """

    mean: np.ndarray
    std: np.ndarray
    inputs: InputSet = PUBLISHED


def jets_present(events: Mapping[str, Any]) -> np.ndarray:
    """Return which of the two jets exist, shape (n, 2), boolean."""
    return np.stack([events[f"PRI_{jet}_pt"] > 0 for jet in JETS], axis=-1)


def raw_inputs(
    events: Mapping[str, Any], derived: Mapping[str, Any], inputs: InputSet = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the inputs before normalisation.

    Args:
        events: The 16 primary columns of n selected events, numpy float32.
        derived: Their derived columns.
        inputs: What the inputs are.

    Returns:
        The inputs, shape (n, number of inputs), float32, and where they are defined, of the same shape, boolean. Both
        arrays hold one input after the other, as they are made and used.
    """
    columns = {**events, **derived, **angular_distances(events)}
    present = jets_present(events)
    values = np.empty((len(inputs.columns), len(present)), dtype=np.float32)
    if inputs == WITH_DITAU:
        # They are the last inputs, and are written where they stay.
        write_ditau(events, values[-len(DITAU) :])
        columns |= {**standard_position(events), **dict(zip(DITAU, values[-len(DITAU) :], strict=True))}
    defined = np.empty(values.shape, dtype=np.bool_)
    for i, (name, needed) in enumerate(zip(inputs.columns, required_jets(inputs), strict=True)):
        values[i] = input_column(columns, name)
        np.isfinite(values[i], out=defined[i])
        for jet in np.flatnonzero(needed):
            defined[i] &= present[:, jet]
    return values.T, defined.T


def input_column(columns: Mapping[str, Any], name: str) -> Any:
    """Return an input of the network by its name: a column (numpy or torch), or its logarithm."""
    if not name.startswith(LOG):
        return columns[name]
    column = columns[name.removeprefix(LOG)]
    xp = namespace(column)
    with np.errstate(invalid="ignore"):
        return xp.log(xp.clip(column, 0.0, None) * (1.0 / LOG_UNIT) + 1.0)


def normalise(values: np.ndarray, defined: np.ndarray, constants: Normalisation) -> np.ndarray:
    """Return ``(values - mean) / std``, 0 where undefined, of the same shape, float32. Overwrites ``values``."""
    with np.errstate(all="ignore"):
        values -= constants.mean
        values /= constants.std
    np.copyto(values, 0.0, where=~defined)
    return values
