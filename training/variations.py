r"""What response networks are trained on: events as they are, and moved to nuisance points.

``exact`` draws a point for every event, anew in every epoch, twice as wide as the priors. ``published`` draws from the
34 fixed points of the published method and divides the weights of moved events by exp(I(nu)), the log-quadratic
response of the region's rate, so that networks learn shapes alone (arXiv:2505.05544 and its submission).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import NormalDist

import numpy as np

from sage.binned.counting import SCATTER_WIDTH
from sage.binned.regions import bin_numbers, quantities
from sage.binned.tables import SCALE_RANGE, SOFT_MET_RANGE
from sage.challenge.features import Derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import Columns, select_single, shift
from sage.network.graph import Normalisation
from sage.network.inputs import network_inputs
from sage.unbinned.ratios import KINEMATIC, UNBINNED, network_name, rate_name
from sage.unbinned.response import PUBLISHED, Basis
from training.events import Events

_NEAR = tuple((float(tes), float(jes), float(met)) for tes, jes, met in product((-1, 0, 1), (-1, 0, 1), (0, 1, 2)))
_FAR = tuple(point for far in (-3.0, -2.0, 2.0, 3.0) for point in ((far, 0.0, 0.0), (0.0, far, 0.0)))
PUBLISHED_COPIES = (*((region, "diboson") for region in UNBINNED), ("highMT_VBF", "ztautau"))
"""Regions and processes with the signal's responses of rate and shape in the published submission."""
PUBLISHED_LINEAR = (("lowMT_noVBF_highPtH", "ttbar"),)
"""Those whose shape has the linear terms alone there."""
FIXED_POINTS = np.array([point for point in (*_NEAR, *_FAR) if any(point)]) * (0.01, 0.01, 1.0) + (1.0, 1.0, 0.0)
"""tes, jes and soft_met of the published training, shape (34, 3)."""


@dataclass(frozen=True)
class Copies:
    """Events at nuisance points of their own.

    Args:
        inputs: Normalised inputs, shape (n, number of inputs), float32; of events in no region they mean nothing.
        regions: Number in ``UNBINNED`` of the region each is in, -1 for none; shape (n,).
        factors: On the weights, shape (n,).
    """

    inputs: np.ndarray
    regions: np.ndarray
    factors: np.ndarray = field(kw_only=True)


Move = Callable[[Events, np.ndarray | None, np.random.Generator, Normalisation | None], Copies]
"""Moves events to points (n, K), None for the nominal one, with noise; without constants there are no inputs."""


@dataclass(frozen=True)
class Variation:
    """How events are moved, and in which terms their response is learnt.

    Args:
        terms: Gives the terms v at points (n, K), shape (n, C).
        draw: Gives n points.
        move: Moves events there.
        learnt: Which terms each region has, of 0 and 1, shape (R, C) or (1, 1) for all.
    """

    terms: Callable[[np.ndarray], np.ndarray]
    draw: Callable[[np.random.Generator, int], np.ndarray]
    move: Move
    learnt: np.ndarray = field(default_factory=lambda: np.ones((1, 1), np.float32))


def exact(basis: Basis) -> Variation:
    """Return the variation by the challenge's shape nuisances at points of each event's own."""
    return Variation(basis.terms, draw_points, move_events)


def published(responses: np.ndarray, process: str) -> Variation:
    """Return the variation by the published points.

    Args:
        responses: Coefficients of the rates of the regions, see ``rate_responses``, shape (R, 9).
        process: Name of the process, which decides what is not learnt at all or in linear terms alone.
    """
    orders = np.sum(PUBLISHED.powers, axis=1)
    largest = np.array([_published_order(region, process) for region in UNBINNED])

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        drawn: np.ndarray = FIXED_POINTS[rng.integers(len(FIXED_POINTS), size=n)]
        return drawn

    def move(
        events: Events, points: np.ndarray | None, rng: np.random.Generator, constants: Normalisation | None
    ) -> Copies:
        copies = move_events(events, points, rng, constants)
        if points is None:
            return copies
        own = np.maximum(copies.regions, 0)
        return replace(copies, factors=np.exp(-(responses[own] * PUBLISHED.terms(points)).sum(axis=1)))

    return Variation(PUBLISHED.terms, draw, move, (orders <= largest[:, None]).astype(np.float32))


def _published_order(region: str, process: str) -> int:
    """Return the highest order of the terms; 0 where the response is a copy."""
    if (region, process) in PUBLISHED_COPIES:
        return 0
    return 1 if (region, process) in PUBLISHED_LINEAR else 2


def with_published_copies(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays of response networks and rates in which the published copies stand for what they replace."""
    out = dict(arrays)
    for region, process in PUBLISHED_COPIES:
        begin, copy = (network_name(region, name, "") for name in (PROCESSES[0], process))
        own = [name for name in out if name.startswith(begin)]
        out = {name: array for name, array in out.items() if not name.startswith(copy)}
        out |= {copy + name.removeprefix(begin): out[name] for name in own}
        out[rate_name(region, process)] = out[rate_name(region, PROCESSES[0])]
    return out


def rate_responses(events: Events, rng: np.random.Generator) -> np.ndarray:
    """Fit the log-quadratic response of the rate in each region by ordinary least squares over the published points.

    Returns:
        Coefficients I of ``PUBLISHED``, shape (R, 9); 0 for a region that is empty at a point.
    """

    def rates(points: np.ndarray | None) -> np.ndarray:
        regions = move_events(events, points, rng, None).regions
        inside = regions >= 0
        return np.bincount(regions[inside], events.weights[inside], minlength=len(UNBINNED))

    nominal = rates(None)
    there = np.array([rates(np.tile(point, (len(events), 1))) for point in FIXED_POINTS])
    terms, out = PUBLISHED.terms(FIXED_POINTS), np.zeros((len(UNBINNED), len(PUBLISHED.powers)))
    filled = (there > 0).all(axis=0) & (nominal > 0)
    out[filled] = np.linalg.lstsq(terms, np.log(there[:, filled] / nominal[filled]), rcond=None)[0].T
    return out


def draw_points(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return one point (tes, jes, soft_met) for each of n events, shape (n, 3), within the range of the tables.

    Scales are normal with twice the width of the prior, cut at the ends; soft_met is uniform in log(1 + soft_met).
    """
    scales = draw_scales(rng, (n, 2), SCATTER_WIDTH, SCALE_RANGE)
    soft_met = np.expm1(math.log1p(SOFT_MET_RANGE[1]) * rng.random(n))
    return np.column_stack([scales, soft_met])


def draw_scales(
    rng: np.random.Generator, shape: tuple[int, ...], width: float, ends: tuple[float, float]
) -> np.ndarray:
    """Return numbers from a normal distribution around 1 that is cut at both ends."""
    normal = NormalDist(1.0, width)
    low, high = (normal.cdf(end) for end in ends)
    quantiles = low + (high - low) * rng.random(shape)
    grid = np.linspace(*ends, 4001)
    return np.interp(quantiles, [normal.cdf(x) for x in grid.tolist()], grid)


def move_events(
    events: Events, points: np.ndarray | None, rng: np.random.Generator, constants: Normalisation | None
) -> Copies:
    """Move events and find their regions and inputs.

    Args:
        events: The n events.
        points: A point (tes, jes, soft_met) for each, shape (n, 3); None for the nominal point.
        rng: Source of the noise.
        constants: Feature constants; None if no inputs are needed.
    """
    return copies_of(moved_columns(events.columns, points, rng), constants)


def moved_columns(columns: Columns, points: np.ndarray | None, rng: np.random.Generator) -> Columns:
    """Move primary columns (n,) to points (tes, jes, soft_met), shape (n, 3); None for the nominal one."""
    n = len(columns["PRI_met"])
    if points is None:
        return shift(columns)
    noise = (rng.standard_normal(n), rng.standard_normal(n))
    tes, jes = points[:, :2].T.astype(np.float32)
    return shift(columns, tes, jes, points[:, 2], noise=noise)


def copies_of(shifted: Columns, constants: Normalisation | None) -> Copies:
    """Select shifted events and find regions and inputs of those that remain."""
    n = len(shifted["PRI_met"])
    selected, kept = select_single(shifted)
    derived = Derived(selected)
    values = quantities(selected, derived, np.zeros((len(kept), len(PROCESSES))))  # no cut asks for probabilities
    regions = np.full(n, -1)
    found = bin_numbers(KINEMATIC, values)[: len(UNBINNED)]
    for number, (rows, _) in enumerate(found):
        regions[kept[rows]] = number
    if constants is None:
        return Copies(np.empty((n, 0), dtype=np.float32), regions, factors=np.ones(n))
    inputs = np.zeros((n, len(constants.mean)), dtype=np.float32)
    rows = np.sort(np.concatenate([rows for rows, _ in found]))
    part = {name: column[rows] for name, column in selected.items()}
    inputs[kept[rows]] = network_inputs(part, Derived(part), constants)[0]
    return Copies(inputs, regions, factors=np.ones(n))
