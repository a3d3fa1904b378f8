r"""Adds a nuisance or a process to trained surrogates; what was trained before stays as it is (arXiv:2505.05544).

    R(x) = sum_p c_p g_p(x) exp(A_p(x) . v(nu)) exp(a_p(x) n + b_p(x) n^2)  +  c_q g_q(x) exp(A_q(x) . v) ...

A nuisance n gets a network of two outputs for each process and region, a process q one for its density over that of all
processes that were there at first, and one for its response to each group of nuisances. Their rates are fitted to
counts, and factors are normalised by sums over nominal events, as those of the surrogates are. Everything is written
beside the surrogates' arrays, with the names of ``sage.unbinned.ratios``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sage.binned.counting import NOMINAL, draw_points, quantities_of
from sage.binned.regions import RegionSet, bin_numbers
from sage.binned.tables import SCALE_RANGE
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import Columns, select
from sage.errors import InputError
from sage.network.classifier import Classifier
from sage.network.graph import Normalisation
from sage.unbinned.ratios import UNBINNED, network_name
from sage.unbinned.response import EXACT, Basis, Coordinate
from training.events import Events, EventsFile, join
from training.surrogates import ResponseTraining, SurrogateConfig, candidates
from training.variations import Copies, Variation, copies_of, draw_scales, exact, moved_columns

ORDER = ((1,), (2,))
"""Powers of a nuisance in its factor."""
RATE_POINTS = (-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)
"""Where the rates are counted, in widths of the constraint."""
ADDED_SEED = 1000
"""Added to the number of a process, for random draws of its own."""


@dataclass(frozen=True)
class AddedNuisance:
    """A nuisance that moves single events, as a factor alpha around 1.

    Args:
        name: Its name.
        width: Standard deviation of its constraint.
        ends: Range of alpha.
        move: Moves primary columns, shape (n,), to alpha, shape (n,); the selection follows.
    """

    name: str
    width: float
    ends: tuple[float, float]
    move: Callable[[Columns, np.ndarray], Columns]

    @property
    def basis(self) -> Basis:
        """Its monomials, in widths from 1."""
        return Basis(self.name, (Coordinate(self.name, 1.0, self.width, self.ends),), ORDER)

    def variation(self) -> Variation:
        """Return how events are moved by it, drawn twice as wide as the constraint."""

        def draw(rng: np.random.Generator, n: int) -> np.ndarray:
            return draw_scales(rng, (n, 1), 2 * self.width, self.ends)

        def move(
            events: Events, points: np.ndarray | None, rng: np.random.Generator, constants: Normalisation | None
        ) -> Copies:
            columns = events.columns if points is None else self.move(events.columns, points[:, 0])
            return copies_of(moved_columns(columns, None, rng), constants)

        return Variation(self.basis.terms, draw, move)


def scale_lepton(columns: Columns, alphas: np.ndarray) -> Columns:
    """Multiply the lepton's pt; MET takes the recoil, as with the other scales (``sage.challenge.shifts``)."""
    out = dict(columns)
    pt, phi = columns["PRI_lep_pt"], columns["PRI_lep_phi"]
    x = columns["PRI_met"] * np.cos(columns["PRI_met_phi"]) + (1.0 - alphas) * pt * np.cos(phi)
    y = columns["PRI_met"] * np.sin(columns["PRI_met_phi"]) + (1.0 - alphas) * pt * np.sin(phi)
    moved = {"PRI_lep_pt": alphas * pt, "PRI_met": np.hypot(x, y), "PRI_met_phi": np.arctan2(y, x)}
    return out | {name: column.astype(np.float32) for name, column in moved.items()}


NUISANCES = {each.name: each for each in (AddedNuisance("lepton_scale", 0.01, SCALE_RANGE, scale_lepton),)}
"""Those that can be added: one line for each, which names what it does to an event."""


def response_name(process: str, nuisance: str) -> str:
    """Return the name in place of the process's under which a network of a factor is kept."""
    return f"{process}+{nuisance}"


def share_name(process: str) -> str:
    """Return the name in place of the process's under which the network of its density is kept."""
    return f"{process}+share"


def train_factor(
    events: Events, constants: Normalisation, config: SurrogateConfig, process: int, variation: Variation
) -> dict[str, dict[str, np.ndarray]]:
    """Train the networks of one process in all regions; return their parameters by region."""
    torch.manual_seed(config.seed * ADDED_SEED + process)
    return ResponseTraining(events, constants, config, process, variation).networks()[0]


def train_share(
    mixture: Events, added: Events, constants: Normalisation, config: SurrogateConfig, process: int, move: Any = None
) -> dict[str, dict[str, np.ndarray]]:
    """Train the networks of the density of a process over that of the mixture of those that were there at first.

    Args:
        mixture: Events of all these, with natural weights.
        added: Events of the process, with natural weights.
        constants: Feature constants.
        config: The settings.
        process: Its number.
        move: Finds regions and inputs of events, as ``Variation.move`` at the nominal point does; for tests.

    Returns:
        Parameters of the networks, which give the logarithm, by region.
    """
    place = move or exact(EXACT).move
    n = len(mixture)
    together = join_any([replace(mixture, classes=np.zeros(n, np.int64)), replace(added, classes=np.ones(len(added)))])
    found = place(together, None, np.random.default_rng(config.seed), None).regions
    is_added = together.classes == 1
    totals = np.array(
        [[together.weights[(found == r) & (is_added == own)].sum() for own in (False, True)] for r in range(len(UNBINNED))]
    )
    ratios = np.divide(totals[:, 1], totals[:, 0], out=np.ones(len(UNBINNED)), where=(totals > 0).all(axis=1))

    def move_one(
        events: Events, points: np.ndarray | None, rng: np.random.Generator, constants: Normalisation | None
    ) -> Copies:
        """In place of an event that moves: nominal ones are of the mixture, moved ones of the process."""
        copies = place(events, None, rng, constants)
        wanted = 0 if points is None else 1
        regions = np.where(events.classes == wanted, copies.regions, -1)
        # Equal sums in each region, so that the network learns shapes; the ratio of the rates is put back below.
        factors = np.where(events.classes == 1, 1.0 / ratios[np.maximum(regions, 0)], 1.0)
        return Copies(copies.inputs, regions, factors=factors)

    variation = Variation(np.ones_like, lambda _, n: np.zeros((n, 1)), move_one)
    networks = train_factor(together, constants, config, process, variation)
    for r, region in enumerate(UNBINNED):
        last = f"{config.depth}.bias"
        networks[region][last] = (networks[region][last] + np.log(ratios[r])).astype(np.float32)
    return networks


def join_any(pieces: list[Events]) -> Events:
    """Put events one after the other, with keys that do not meet."""
    first, second = pieces
    return Events(
        {name: np.concatenate([first.columns[name], second.columns[name]]) for name in first.columns},
        np.concatenate([first.weights, second.weights]),
        np.concatenate([first.classes, second.classes]),
        np.concatenate([first.keys, second.keys + 1 + first.keys.max(initial=0)]),
    )
