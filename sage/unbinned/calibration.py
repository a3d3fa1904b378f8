r"""Calibrates the shares of the processes and fits the norms Z, from events that trained neither.

A share g_p is calibrated if, among events with this g_p, a fraction g_p is of process p. Each stage maps every g_p by
isotonic regression (pool adjacent violators) of "is p" on bins of g_p, and normalises the four anew; as that moves what
was calibrated, further stages follow. Bins hold equal parts of the events and of the process, in equal shares.

The norms Z (``sage.unbinned.norms``) are sums over the same events, at a grid of points and at some drawn from the
priors, which count more in the fit.

Weightings of the same events, such as those of a bootstrap, are calibrated together: they share the exponentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sage.binned.counting import BLOCK, Sample, draw_points
from sage.binned.regions import RegionSet
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select_single, shift
from sage.network.classifier import Classifier
from sage.unbinned.norms import fit_norms, norm_points, norm_sums
from sage.unbinned.published import GRID, ORIGINS, SHAPE, UNITS, spline_coefficients
from sage.unbinned.ratios import UNBINNED, Calibration, ResponseNetworks, look, map_name, of_rows, rate_name
from sage.unbinned.response import PUBLISHED, Basis

STAGES = 3
BINS = 40
NORM_DRAWS = 64
DRAWN_PRECISION = 10.0
"""Precision asked of the norms at points drawn from the priors, in units of that on the grid."""


@dataclass(frozen=True)
class RegionEvents:
    """Simulated nominal events of one region.

    Args:
        ratios: Densities of the processes relative to a mixture of all, shape (n, 4).
        response: A, shape (n, 4, C), float32.
        weights: Shape (n,).
        classes: Shape (n,).
        inputs: Of the response networks, shape (n, number of inputs), float32; empty if absent.
        bootstraps: Weights in each of K bootstraps, shape (K, n); none if absent.
    """

    ratios: np.ndarray
    response: np.ndarray
    weights: np.ndarray
    classes: np.ndarray
    inputs: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    bootstraps: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def yields(self) -> np.ndarray:
        """Expected events of the processes, shape (4,)."""
        return np.bincount(self.classes, self.weights, minlength=len(PROCESSES))


@dataclass(frozen=True)
class Calibrated:
    """What one weighting of the events makes.

    Args:
        calibrations: Of each unbinned region.
        norms: Z at the nominal point, shape (P, R).
        norm_coefficients: Of ln Z, shape (P, R, M).
    """

    calibrations: tuple[Calibration, ...]
    norms: np.ndarray
    norm_coefficients: np.ndarray

    @property
    def yields(self) -> np.ndarray:
        """Expected events that the maps were made for, shape (P, R)."""
        return np.stack([made.yields for made in self.calibrations], axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return it as arrays of the weights, see ``sage.surrogates``."""
        out = {"norms": self.norms, "norm_coefficients": self.norm_coefficients, "yields": self.yields}
        return out | named(self.calibrations)


def named(calibrations: Sequence[Calibration]) -> dict[str, np.ndarray]:
    """Return the maps of the unbinned regions as arrays of the weights."""
    return {
        map_name(region, process, stage, axis): part
        for region, made in zip(UNBINNED, calibrations, strict=True)
        for stage, maps in enumerate(made.stages)
        for process, pair in zip(PROCESSES, maps, strict=True)
        for axis, part in zip("xy", pair, strict=True)
    }


def collect(
    samples: Iterable[Sample],
    regions: RegionSet,
    classifier: Classifier,
    networks: ResponseNetworks,
    repeats: Callable[[np.ndarray], np.ndarray],
    check: Callable[[], None] = lambda: None,
) -> list[RegionEvents]:
    """Return the nominal events of the unbinned regions.

    Args:
        samples: Simulated events, some at a time.
        regions: Regions among which are the unbinned ones.
        classifier: Gives the class probabilities.
        networks: Give the response.
        repeats: How often each of K bootstraps has events with given ids, shape (K, n).
        check: Called between blocks; may raise if there is no more time.
    """
    pieces: list[list[tuple[np.ndarray, ...]]] = [[] for _ in UNBINNED]
    totals, drawn = np.zeros(len(PROCESSES)), np.zeros(())
    for sample in samples:
        often = repeats(sample.ids)
        # Process by process: cross sections are known, so a bootstrap has as many expected events as there are.
        of = np.eye(len(PROCESSES))[sample.classes] * sample.weights[:, None]
        totals, drawn = totals + of.sum(axis=0), drawn + often @ of
        columns, kept = select_single(shift(sample.columns))
        for start in range(0, len(kept), BLOCK):
            check()
            found = look(of_rows(columns, slice(start, start + BLOCK)), regions, classifier, networks)[1]
            for piece, inside in zip(pieces, found, strict=True):
                own = kept[start + inside.rows]
                weights = sample.weights[own]
                parts = (inside.densities, inside.response, weights, sample.classes[own], inside.inputs)
                piece.append((*parts, (often[:, own] * weights).T.astype(np.float32)))
    scales = np.divide(totals, drawn, out=np.ones_like(drawn), where=drawn > 0)
    joined = [RegionEvents(*map(np.concatenate, zip(*piece, strict=True))) for piece in pieces]
    return [replace(own, bootstraps=own.bootstraps.T * scales[:, own.classes]) for own in joined]


def isotonic(
    share: np.ndarray, own: np.ndarray, weights: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a monotone map to the fraction of events that are of a process.

    Args:
        share: Predicted fraction, shape (n,).
        own: Whether each event is of the process, shape (n,).
        weights: Shape (n,).
        bins: Bins from which neighbours are pooled.

    Returns:
        Increasing shares and what they are mapped to; both 0 and 1 if there is nothing to fit.
    """
    order = np.argsort(share, kind="stable")
    x, w, y = share[order].astype(np.float64), weights[order], weights[order] * own[order]
    if not (len(x) and w.sum() > 0 and y.sum() > 0):
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    position = (np.cumsum(w) / w.sum() + np.cumsum(y) / y.sum()) / 2
    number = np.minimum((bins * position).astype(np.int64), bins - 1)
    total, mine, middle = (np.bincount(number, part, minlength=bins) for part in (w, y, w * x))
    filled = total > 0
    # Each block: weight, weight of the process, weighted sum of the shares.
    blocks: list[np.ndarray] = []
    for block in np.stack([total, mine, middle], axis=1)[filled]:
        blocks.append(block)
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            last = blocks.pop()
            blocks[-1] = blocks[-1] + last
    pooled = np.array(blocks)
    return pooled[:, 2] / pooled[:, 0], pooled[:, 1] / pooled[:, 0]


def calibrate(events: RegionEvents, stages: int = STAGES, *, keeps_signal: bool = False) -> Calibration:
    """Fit the maps of one region."""
    made = Calibration(events.yields, keeps_signal=keeps_signal)
    for _ in range(stages):
        shares = made(events.ratios)
        fitted = [isotonic(shares[:, p], events.classes == p, events.weights) for p in range(len(PROCESSES))]
        made = replace(made, stages=(*made.stages, tuple(fitted)))
    return made


def norm_sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points at which norms are summed, shape (k, 3), and the precision asked of their fit there, (k,)."""
    grid = norm_points()
    points = np.concatenate([grid, draw_points(NORM_DRAWS, seed)])
    return points, np.where(np.arange(len(points)) < len(grid), 1.0, DRAWN_PRECISION)


def weighted_shares(
    events: RegionEvents, weights: Sequence[np.ndarray], calibrations: Sequence[Calibration]
) -> Callable[[slice], np.ndarray]:
    """Return what gives w g_p of a range of the events for K weightings, see ``sage.unbinned.norms.norm_sums``."""

    def of(rows: slice) -> np.ndarray:
        pairs = zip(weights, calibrations, strict=True)
        return np.stack([own[rows, None] * calibration(events.ratios[rows]) for own, calibration in pairs])

    return of


def calibrate_regions(
    events: Sequence[RegionEvents],
    basis: Basis,
    seed: int,
    weightings: Sequence[Sequence[np.ndarray]] | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Calibrated]:
    """Fit the maps and norms of all unbinned regions.

    Args:
        events: Events of the regions.
        basis: Terms of the response.
        seed: Of the points drawn from the priors.
        weightings: Weights for each region, K times, in place of the events' own.
        check: Called between passes; may raise if there is no more time.

    Returns:
        One for each weighting.
    """
    given = weightings or [[own.weights for own in events]]
    points, precision = norm_sample(seed)
    terms = basis.terms(points).astype(np.float32)
    norms = np.zeros((len(given), len(points), len(PROCESSES), len(events)))
    made: list[list[Calibration]] = []
    for r, own in enumerate(events):
        weights, fitted = [each[r] for each in given], []
        for drawn in weights:
            check()
            fitted.append(calibrate(replace(own, weights=drawn)))
        made.append(fitted)
        norms[..., r] = norm_sums(weighted_shares(own, weights, fitted), own.response, terms, check)
    # All weightings at once: the least-squares problem is the same.
    stacked = np.moveaxis(norms, 1, 0).reshape(len(points), -1, len(events))
    coefficients = fit_norms(points, stacked, precision).reshape(len(given), len(PROCESSES), len(events), -1)
    parts = zip(zip(*made, strict=True), norms, coefficients, strict=True)
    return [Calibrated(maps, sums[0], fitted) for maps, sums, fitted in parts]


def calibrate_published(
    events: Sequence[RegionEvents], trained: Mapping[str, np.ndarray], check: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """Calibrate networks of the published variant: one stage that keeps the signal's share, and rates on a grid.

    Args:
        events: Events of the regions.
        trained: Arrays of the response networks.
        check: Called between passes; may raise if there is no more time.

    Returns:
        Arrays of the weights, see ``sage.surrogates``.
    """
    grid = np.stack(np.meshgrid(*GRID, indexing="ij"), axis=-1).reshape(-1, len(GRID))
    terms = PUBLISHED.terms(grid * UNITS + ORIGINS).astype(np.float32)
    made = [calibrate(own, 1, keeps_signal=True) for own in events]
    rates = np.zeros((len(PROCESSES), len(UNBINNED), len(grid)))
    for r, (name, own) in enumerate(zip(UNBINNED, events, strict=True)):
        sums = norm_sums(weighted_shares(own, [own.weights], [made[r]]), own.response, terms, check)
        rates[:, r] = np.exp([terms @ trained[rate_name(name, process)] for process in PROCESSES]) * sums[0].T
    yields = np.stack([own.yields for own in events], axis=1)
    coefficients = spline_coefficients(rates.reshape(*rates.shape[:2], *SHAPE))
    return {"yields": yields, "rate_coefficients": coefficients, **named(made)}
