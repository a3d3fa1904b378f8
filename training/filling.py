"""Counts of many binnings from one evaluation of the events per nuisance point, kept apart for parts of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sage.binned.counting import BLOCK, Noise, parent_variances, place_bins, quantities_at, tally
from sage.binned.regions import RegionSet, bin_numbers
from sage.binned.response import Point
from sage.challenge.nuisances import PROCESSES
from sage.network.classifier import Classifier
from training.events import Events


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the network on simulated events at nuisance points."""

    classifier: Classifier
    noise: Noise

    def __call__(self, events: Events, point: Point, draw: int = 0) -> tuple[dict[str, Any], np.ndarray]:
        """Return what regions are made of for the m selected events, and their row numbers, shape (m,)."""
        pieces, kept = [], []
        for start in range(0, len(events), BLOCK):
            columns = {name: column[start : start + BLOCK] for name, column in events.columns.items()}
            ids = np.arange(start, start + len(columns["PRI_met"]))
            noise = self.noise(ids, draw, point) if point[2] > 0 else None
            values, rows = quantities_at(columns, point, noise, self.classifier)
            pieces.append(values)
            kept.append(start + rows)
        joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        return joined, np.concatenate(kept)


@dataclass(frozen=True)
class Filled:
    """A candidate with edges, and what was counted in its bins.

    Args:
        regions: Regions with their edges.
        counts: Sums of weights per point and part of the events, shape (k, n_parts, 4, n_bins).
        moved: Sums of squared weights of the events that are in another bin than at the nominal point, same shape.
        variances: Variance of the nominal counts, shape (n_parts, 4, n_bins).
    """

    regions: RegionSet
    counts: np.ndarray
    moved: np.ndarray
    variances: np.ndarray


class Filler:
    """Counts one candidate's events point by point.

    Args:
        regions: Regions with their edges.
        events: The events.
        parts: Part of each event, shape (n,); rows of one showered event are in one part.
        n_parts: Number of parts.
        n_points: Number of points.
    """

    def __init__(self, regions: RegionSet, events: Events, parts: np.ndarray, n_parts: int, n_points: int) -> None:
        self.regions = regions
        self._weights = events.weights
        self._first_cell = (parts * len(PROCESSES) + events.classes) * regions.n_bins
        self._keys = events.keys
        self._shape = (n_parts, len(PROCESSES), regions.n_bins)
        self._counts, self._moved = np.zeros((2, n_points, *self._shape))
        self._nominal = np.zeros((0, 0), dtype=np.int16)
        self._variances = np.zeros(self._shape)

    def add(self, k: int, values: dict[str, Any], kept: np.ndarray, part: float) -> None:
        """Count the events at point k; the nominal point is number 0 and comes first."""
        bins = place_bins(self.regions, values, kept, len(self._weights)).astype(np.int16)
        if k == 0:
            self._nominal = bins
            self._variances = sum(map(self._variance, bins), start=self._variances)
        sums, _, moved = tally(self._nominal, bins, self._first_cell, self._weights, math.prod(self._shape))
        self._counts[k] += part * sums.reshape(self._shape)
        self._moved[k] += part * moved.reshape(self._shape)

    def result(self) -> Filled:
        """Return what was counted."""
        return Filled(self.regions, self._counts, self._moved, self._variances)

    def _variance(self, bins: np.ndarray) -> np.ndarray:
        taken = np.flatnonzero(bins >= 0)
        cells = self._first_cell[taken] + bins[taken]
        found = parent_variances(self._keys[taken], cells, self._weights[taken], math.prod(self._shape))
        return found.reshape(self._shape)


@dataclass(frozen=True)
class NominalCounts:
    """Counts selected events at the nominal point for ``choose_edges``."""

    values: dict[str, Any]
    weights: np.ndarray
    classes: np.ndarray
    selection: np.ndarray

    def __call__(self, regions: RegionSet) -> dict[str, np.ndarray]:
        """Return sums of weights and of squared weights, shape (1, 4, n_bins)."""
        sums = np.zeros((2, len(PROCESSES) * regions.n_bins))
        # A fold stands for the whole, with larger weights: the rule speaks of expected events.
        scale = self.weights.sum() / self.weights[self.selection].sum()
        for rows, bins in bin_numbers(regions, self.values):
            inside = self.selection[rows]
            cells = (self.classes[rows] * regions.n_bins + bins)[inside]
            weights = self.weights[rows][inside] * scale
            for power in (1, 2):
                sums[power - 1] += np.bincount(cells, weights**power, minlength=sums.shape[1])
        counts, squares = sums.reshape(2, 1, len(PROCESSES), regions.n_bins)
        return {"counts": counts, "squares": squares}
