"""Counts per process and bin at nuisance points, with their Monte Carlo errors.

The simulated events are the same at all points, so that two points differ only by the events which change bin between
them. Those are counted as well: they are the error of the difference. The soft-MET noise of an event is a function of
its id, so it does not depend on which other events are counted, in which order, or by how many processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from sage.binned.regions import RegionSet, bin_numbers, quantities
from sage.binned.response import Point
from sage.binned.tables import SCALE_RANGE, SOFT_MET_RANGE
from sage.challenge.features import Derived
from sage.challenge.nuisances import CHALLENGE, PROCESSES
from sage.challenge.shifts import Columns, select_single, shift
from sage.errors import SettingsError
from sage.network.classifier import Classifier

NOMINAL = (1.0, 1.0, 0.0)

AXIS_SCALES = (0.96, 0.975, 0.99, 1.01, 1.025, 1.04)
AXIS_SOFT_MET = (0.5, 1.0, 2.0, 3.5, 5.0)
SCATTER_WIDTH = 0.02
"""Width of the scattered points in tes and jes: wide enough to bind the polynomial, most of it where fits end."""

BLOCK = 32768
"""Events per pass of features and network: bounds the memory and is what threads share out; counts do not change."""

KINDS = ("counts", "squares", "moved")
"""What is counted; see ``count_points``."""


@dataclass(frozen=True)
class Sample:
    """Simulated events in memory.

    Args:
        columns: The 16 primary columns, each of shape (n,), float32.
        weights: Expected number of events each stands for, shape (n,), float64.
        classes: What is told apart, shape (n,): mostly the process's place in ``PROCESSES``.
        ids: Numbers that tell the events apart, shape (n,); they decide the soft-MET noise.
    """

    columns: Columns
    weights: np.ndarray
    classes: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.weights)

    def take(self, rows: np.ndarray | slice) -> Sample:
        """Return the events at the given places."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Sample(columns, self.weights[rows], self.classes[rows], self.ids[rows])


@dataclass(frozen=True)
class Noise:
    """How soft-MET noise is drawn.

    Args:
        seed: Its seed.
        draws: Draws averaged over; every second one is the opposite of the one before, so that what is odd in the
            noise cancels.
        common: Whether an event has the same noise at all points. Then all points share its fluctuation, which with
            few, heavy events exceeds the statistical error of the data; fresh noise at each point is averaged away by
            the smooth response. On 80 000 events, against 16 independent draws on the soft_met axis, responses from
            two fresh draws were off by 1.2 statistical errors rms (migration of the events included), from two
            common ones by 1.5 to 1.8, and it took eight of these to reach 1.2. So fresh noise is the default.
    """

    seed: int = 1
    draws: int = 2
    common: bool = False

    def evaluations(self, points: Sequence[Point]) -> int:
        """Return how often each event is evaluated to count it at these points."""
        return sum(self.draws if point[2] > 0 else 1 for point in points)

    def __call__(self, ids: np.ndarray, draw: int, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """Return unit normal noise for the x and y component of MET, each of shape (n,), float64."""
        place = () if self.common else tuple(round(value * 1e6) for value in point)
        x, y = event_noise(ids, (self.seed, draw // 2, *place))
        return (-x, -y) if draw % 2 else (x, y)


def event_noise(ids: np.ndarray, key: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return two independent unit normals per event that depend on nothing but its id and the key.

    The ids are hashed with the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014) to two uniform numbers, which
    Box and Muller's transform makes normal.

    Args:
        ids: Shape (n,), integers.
        key: Non-negative integers.
    """
    states = np.random.SeedSequence(list(key)).generate_state(2, np.uint64)
    first, second = (_hash(ids.astype(np.uint64), state) for state in states)
    radius = np.sqrt(-2.0 * np.log1p(-first))
    angle = 2.0 * math.pi * second
    return radius * np.cos(angle), radius * np.sin(angle)


def _hash(ids: np.ndarray, state: np.uint64) -> np.ndarray:
    """Return uniform numbers in [0, 1), shape (n,)."""
    word = ids * np.uint64(0x9E3779B97F4A7C15) + state
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    uniform: np.ndarray = (word >> np.uint64(11)) * 2.0**-53
    return uniform


def quantities_of(events: Mapping[str, Any], classifier: Classifier) -> dict[str, Any]:
    """Return what regions are made of for selected events, shape (n,) each."""
    derived = Derived(events)
    return quantities(events, derived, classifier.outputs(events, derived))


def quantities_at(
    columns: Columns, point: Point, noise: tuple[np.ndarray, np.ndarray] | None, classifier: Classifier
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return what regions are made of at a nuisance point.

    Args:
        columns: Primary columns, shape (n,).
        point: (tes, jes, soft_met).
        noise: Unit normal noise of the two MET components; not needed where soft_met is 0.
        classifier: Gives the class probabilities.

    Returns:
        The quantities of the m selected events, shape (m,) each, and their row numbers, shape (m,).
    """
    selected, kept = select_single(shift(columns, *point, noise=noise))
    return quantities_of(selected, classifier), kept


def find_bins(
    columns: Columns,
    point: Point,
    noise: tuple[np.ndarray, np.ndarray] | None,
    regions: RegionSet,
    classifier: Classifier,
) -> np.ndarray:
    """Return each event's bin on the concatenated axis at a nuisance point; -1 where it is in none.

    Args:
        columns: Primary columns, shape (n,).
        point: (tes, jes, soft_met).
        noise: Unit normal noise of the two MET components; not needed where soft_met is 0.
        regions: Regions with their edges.
        classifier: Gives the class probabilities.

    Returns:
        Shape (1, n) for exclusive regions, else one row per region.
    """
    values, kept = quantities_at(columns, point, noise, classifier)
    return place_bins(regions, values, kept, len(columns["PRI_met"]))


def place_bins(regions: RegionSet, values: Mapping[str, Any], kept: np.ndarray, n_events: int) -> np.ndarray:
    """Return the bin of each of ``n_events`` events, those with values at rows ``kept``; see ``find_bins``."""
    found = bin_numbers(regions, values)
    out = np.full((1 if regions.exclusive else len(found), n_events), -1)
    for region, (rows, bins) in enumerate(found):
        out[0 if regions.exclusive else region, kept[rows]] = bins
    return out


def count_points(
    sample: Sample,
    points: Sequence[Point],
    regions: RegionSet,
    classifier: Classifier,
    noise: Noise,
    deadline: float = math.inf,
    n_classes: int = len(PROCESSES),
) -> dict[str, np.ndarray]:
    """Count events at nuisance points.

    Args:
        sample: The events.
        points: The k points.
        regions: Regions with their edges.
        classifier: Gives the class probabilities; its threads share the events.
        noise: The soft-MET noise.
        deadline: Value of ``time.monotonic`` at which to give up.
        n_classes: Number of classes to tell apart, if these are not the processes.

    Returns:
        ``counts``, sums of weights; ``squares``, sums of squared weights; and ``moved``, sums of squared weights of
        the events that are in a bin either here or at the nominal point but not in both. Each of shape
        (k, n_classes, n_bins), averaged over the noise draws.

    Raises:
        TimeoutError: If the deadline passes.
    """

    def find(block: Sample, point: Point, draw: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        return find_bins(block.columns, point, draw, regions, classifier)

    def count(start: int) -> np.ndarray:
        block = sample.take(slice(start, start + BLOCK))
        found = _count_block(block, points, n_classes, regions.n_bins, find, noise, deadline)
        return found.reshape(len(points), len(KINDS), n_classes, regions.n_bins)

    out = np.zeros((len(points), len(KINDS), n_classes, regions.n_bins))
    # Added up in the order of the blocks, so that threads do not change the sums.
    for part in classifier.map(count, range(0, len(sample), BLOCK)):
        out += part
    return {name: out[:, i] for i, name in enumerate(KINDS)}


def _count_block(
    block: Sample,
    points: Sequence[Point],
    n_classes: int,
    n_bins: int,
    find: Callable[[Sample, Point, tuple[np.ndarray, np.ndarray] | None], np.ndarray],
    noise: Noise,
    deadline: float,
) -> np.ndarray:
    """Count one block of events at all points, shape (k, 3, cells)."""
    out = np.zeros((len(points), len(KINDS), n_classes * n_bins))
    first_cells = block.classes * n_bins
    nominal = find(block, NOMINAL, None)
    drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for k, point in enumerate(points):
        draws = noise.evaluations([point])
        for draw in range(draws):
            if time.monotonic() > deadline:
                msg = f"counting at {len(points)} nuisance points took longer than allowed; allow more or count less"
                raise TimeoutError(msg)
            if point[2] > 0 and not (noise.common and draw in drawn):
                drawn[draw] = noise(block.ids, draw, point)
            here = nominal if point == NOMINAL else find(block, point, drawn[draw] if point[2] > 0 else None)
            out[k] += tally(nominal, here, first_cells, block.weights, out.shape[2])
        out[k] /= draws
    return out


def tally(
    nominal: np.ndarray, bins: np.ndarray, first_cells: np.ndarray, weights: np.ndarray, n_cells: int
) -> np.ndarray:
    """Count events that are in some bins at the nominal point and in others here.

    Args:
        nominal: Bin of each event at the nominal point, shape (1 or n_regions, n); -1 for none.
        bins: Bin of each event here, same shape.
        first_cells: Cell of each event's bin 0, shape (n,).
        weights: Weight of each event, shape (n,).
        n_cells: Number of cells.

    Returns:
        Sums of weights, of squared weights, and of squared weights of what moved; shape (3, n_cells).
    """
    out = np.zeros((len(KINDS), n_cells))
    squares, everything = weights**2, np.arange(len(weights))

    def total(bins: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        rows = rows[bins[rows] >= 0]
        return np.bincount(first_cells[rows] + bins[rows], weights[rows], minlength=n_cells)

    for before, after in zip(nominal, bins, strict=True):
        changed = np.flatnonzero(before != after)
        out[0] += total(after, everything, weights)
        out[1] += total(after, everything, squares)
        out[2] += total(before, changed, squares) + total(after, changed, squares)
    return out


def parent_variances(parents: np.ndarray, cells: np.ndarray, weights: np.ndarray, n_cells: int) -> np.ndarray:
    """Return the variance of the sum of weights in each cell when rows of one showered parent are fully correlated.

    That is the sum over parents of the squared sum of their rows' weights.

    Args:
        parents: Showered parent of each row, shape (n,), integers.
        cells: Cell of each row, shape (n,).
        weights: Weight of each row, shape (n,).
        n_cells: Number of cells.

    Returns:
        Shape (n_cells,).
    """
    _, number = np.unique(parents, return_inverse=True)
    pairs, which = np.unique(number * n_cells + cells, return_inverse=True)
    sums = np.bincount(which, weights, minlength=len(pairs))
    return np.bincount(pairs % n_cells, sums**2, minlength=n_cells)


def choose_points(n_nodes: int, seed: int) -> list[Point]:
    """Choose the points at which the response is fitted.

    They are the nominal point, points on the axes and points of a low-discrepancy sequence (additive recurrence with
    the plastic number's analogue in three dimensions; Roberts, "The unreasonable effectiveness of quasirandom
    sequences", 2018): uniform in log(1 + soft_met), and in tes and jes normal with twice the prior's width, cut where
    the tables end.

    Raises:
        SettingsError: If ``n_nodes`` leaves no point of the sequence.
    """
    points: list[Point] = [NOMINAL]
    points += [(scale, 1.0, 0.0) for scale in AXIS_SCALES]
    points += [(1.0, scale, 0.0) for scale in AXIS_SCALES]
    points += [(1.0, 1.0, soft_met) for soft_met in AXIS_SOFT_MET]
    n_scattered = n_nodes - len(points)
    if n_scattered < 1:
        msg = f"nodes is {n_nodes}; the axes alone take {len(points)}, ask for more"
        raise SettingsError(msg)
    ratio = 1.2207440846057596  # the real root of x^4 = x + 1
    start = np.random.default_rng(seed).random(3)
    sequence = (start + np.arange(1, n_scattered + 1)[:, None] * ratio ** -np.arange(1.0, 4.0)) % 1.0
    normal = NormalDist(1.0, SCATTER_WIDTH)
    low, high = (normal.cdf(end) for end in SCALE_RANGE)
    for u, v, w in sequence.tolist():
        tes, jes = (normal.inv_cdf(low + x * (high - low)) for x in (u, v))
        soft_met = math.expm1(w * math.log1p(SOFT_MET_RANGE[1]))
        points.append((round(tes, 6), round(jes, 6), round(soft_met, 6)))
    return points


def draw_points(n_points: int, seed: int) -> list[Point]:
    """Draw points from the priors, within the range of the tables; they judge the response."""
    rng = np.random.default_rng([seed, n_points])
    ranges = (SCALE_RANGE, SCALE_RANGE, SOFT_MET_RANGE)
    out: list[Point] = []
    for nus in rng.standard_normal((n_points, len(ranges))).tolist():
        tes, jes, soft_met = (
            round(min(max(nuisance.alpha(nu)[0], low), high), 6)
            for nuisance, nu, (low, high) in zip(CHALLENGE, nus, ranges, strict=False)
        )
        out.append((tes, jes, soft_met))
    return out
