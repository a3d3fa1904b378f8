r"""Calibrates the shares of the processes and fits the norms Z, from events that trained neither.

A share g_p is calibrated if, among events with this g_p, a fraction g_p is of process p. Each stage maps every g_p by
isotonic regression (pool adjacent violators) of "is p" on bins of g_p, and normalises the four anew; as that moves what
was calibrated, further stages follow. Bins hold equal parts of the events and of the process, in equal shares.

The norms Z (``sage.unbinned.norms``) are sums over the same events, at a grid of points and at some drawn from the
priors, which count more in the fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sage.binned.counting import BLOCK, draw_points, quantities_of
from sage.binned.regions import RegionSet, bin_numbers, ratios
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import Columns, select, shift
from sage.network.classifier import Classifier
from sage.unbinned.norms import fit_norms, norm_points
from sage.unbinned.ratios import UNBINNED, Calibration, ResponseNetworks, defined, map_name, normalised, of_rows
from training.config import Config
from training.events import EventsFile

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
    """

    ratios: np.ndarray
    response: np.ndarray
    weights: np.ndarray
    classes: np.ndarray

    @property
    def yields(self) -> np.ndarray:
        """Expected events of the processes, shape (4,)."""
        return np.bincount(self.classes, self.weights, minlength=len(PROCESSES))


def read_regions(
    file: EventsFile, rows: range, regions: RegionSet, classifier: Classifier, networks: ResponseNetworks
) -> list[RegionEvents]:
    """Return the nominal events of the unbinned regions.

    Args:
        file: The events.
        rows: Which of them; their weights are scaled to the full expectation.
        regions: Regions among which are the unbinned ones.
        classifier: Gives the class probabilities.
        networks: Give the response.
    """
    names = [region.name for region in regions.regions]
    pieces: list[list[tuple[np.ndarray, ...]]] = [[] for _ in UNBINNED]
    for events in file.stream(rows):
        selected, kept = select(shift(events.columns))
        columns: Columns = {name: column.astype(np.float32, copy=False) for name, column in selected.items()}
        for start in range(0, len(kept), BLOCK):
            block = of_rows(columns, slice(start, start + BLOCK))
            values = quantities_of(block, classifier)
            densities = np.stack(ratios(regions, values), axis=1)
            found = bin_numbers(regions, values)
            for name, piece in zip(UNBINNED, pieces, strict=True):
                inside = found[names.index(name)][0]
                own = kept[start + inside]
                response = networks(of_rows(block, inside), name)
                known = defined(densities[inside], response)
                piece.append(
                    tuple(
                        part[known] for part in (densities[inside], response, events.weights[own], events.classes[own])
                    )
                )
    return [RegionEvents(*map(np.concatenate, zip(*piece, strict=True))) for piece in pieces]


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


def calibrate(events: RegionEvents, stages: int = STAGES) -> Calibration:
    """Fit the maps of one region."""
    made = Calibration(events.yields)
    shares = made(events.ratios)
    for _ in range(stages):
        fitted = [isotonic(shares[:, p], events.classes == p, events.weights) for p in range(len(PROCESSES))]
        made = replace(made, stages=(*made.stages, tuple(fitted)))
        shares = normalised(np.stack([np.interp(shares[:, p], *fitted[p]) for p in range(len(PROCESSES))], axis=1))
    return made


def make_surrogates(
    config: Config,
    data: Path,
    regions: RegionSet,
    classifier: Classifier,
    trained: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the arrays of ``sage.surrogates``: the response networks with calibration and norms of the table part.

    Args:
        config: The settings.
        data: Folder of the events file.
        regions: Regions of the weights.
        classifier: Gives the class probabilities.
        trained: Arrays of the response networks.
    """
    networks = ResponseNetworks(trained)
    file = EventsFile(data, config.table_fraction)
    events = read_regions(file, file.rows("tables"), regions, classifier, networks)
    grid = norm_points()
    points = np.concatenate([grid, draw_points(NORM_DRAWS, config.seed)])
    terms = networks.basis.terms(points).astype(np.float32)
    arrays = dict(trained)
    norms = np.zeros((len(points), len(PROCESSES), len(UNBINNED)))
    for r, (name, own) in enumerate(zip(UNBINNED, events, strict=True)):
        made = calibrate(own)
        for stage, maps in enumerate(made.stages):
            for process, pair in zip(PROCESSES, maps, strict=True):
                arrays |= {map_name(name, process, stage, axis): part for axis, part in zip("xy", pair, strict=True)}
        weighted = own.weights[:, None] * made(own.ratios)
        for b, v in enumerate(terms):
            norms[b, :, r] = (weighted * np.exp(own.response @ v)).sum(axis=0)
    precision = np.where(np.arange(len(points)) < len(grid), 1.0, DRAWN_PRECISION)
    arrays["norms"] = norms[0]
    arrays["norm_coefficients"] = fit_norms(points, norms, precision)
    arrays["yields"] = np.stack([own.yields for own in events], axis=1)
    return arrays
