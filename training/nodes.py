"""Counts per process and bin at nuisance points, with their Monte Carlo errors.

The simulated events are the same at all points, so that two points differ only by the events which change bin between
them. Those are counted as well: they are the error of the difference. The soft-MET noise of an event, however, is drawn
afresh at every point. Were it the same everywhere, all points would share its fluctuation, which with few, heavy events
exceeds the statistical error of the data; the smooth response averages independent fluctuations away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm, qmc

from sage.engine import Engine
from sage.graph import Normalisation, jets_present, normalise, raw_inputs
from sage.nuisances import PROCESSES
from sage.regions import RegionSet, bin_numbers, quantities
from sage.shifts import Columns, select, shift
from sage.tables import SCALE_RANGE, SOFT_MET_RANGE
from training.dataset import EventsFile, Part

NOMINAL = (1.0, 1.0, 0.0)
Point = tuple[float, float, float]
"""tes, jes and soft_met in GeV."""

AXIS_SCALES = (0.96, 0.975, 0.99, 1.01, 1.025, 1.04)
AXIS_SOFT_MET = (0.5, 1.0, 2.0, 3.5, 5.0)
SCATTER_WIDTH = 0.02
"""Width of the scattered points in tes and jes: wide enough to bind the polynomial, most of it where fits end."""


@dataclass(frozen=True)
class Counter:
    """Counts events at nuisance points; small enough to be sent to worker processes.

    Arguments:
        data: Folder of the events file.
        test_size: Fraction of the rows that form the test part.
        part: Part that is counted.
        parameters: Network parameters by name.
        normalisation: Feature constants.
        seed: Seed of the soft-MET noise.
        noise_draws: Noise vectors averaged over.
    """

    data: Path
    test_size: float
    part: Part
    parameters: dict[str, np.ndarray]
    normalisation: Normalisation
    seed: int
    noise_draws: int

    def count(self, point: Point, regions: RegionSet) -> dict[str, np.ndarray]:
        """Count at one point.

        Args:
            point: (tes, jes, soft_met).
            regions: Regions with their edges.

        Returns:
            ``counts``, sums of weights; ``squares``, sums of squared weights; and ``moved``, sums of squared weights
            of the events that are in a bin either here or at the nominal point but not in both. Each of shape
            (4, n_bins), averaged over the noise draws.
        """
        engine = Engine(self.parameters, threads=1)
        out = {name: np.zeros((len(PROCESSES), regions.n_bins)) for name in ("counts", "squares", "moved")}
        draws = self.noise_draws if point[2] > 0 else 1
        file = EventsFile(self.data, self.test_size)
        for piece, events in enumerate(file.stream(file.rows(self.part))):

            def add(name: str, bins: np.ndarray, weights: np.ndarray, classes: np.ndarray = events.classes) -> None:
                taken = bins >= 0
                cell = classes[taken] * regions.n_bins + bins[taken]
                out[name] += np.bincount(cell, weights[taken], minlength=out[name].size).reshape(out[name].shape)

            nominal = self._bins(engine, regions, events.columns, NOMINAL, None)
            for noise in self._noise(point, piece, len(events), draws):
                here = nominal if point == NOMINAL else self._bins(engine, regions, events.columns, point, noise)
                for before, after in zip(nominal, here, strict=True):
                    add("counts", after, events.weights / draws)
                    add("squares", after, events.weights**2 / draws)
                    changed = events.weights**2 * (before != after) / draws
                    add("moved", before, changed)
                    add("moved", after, changed)
        return out

    def _noise(self, point: Point, piece: int, n_events: int, draws: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw unit noise that depends on nothing but the seed, the point and the event's place in the file."""
        place = [round(value * 1e6) for value in point]
        for draw in range(draws):
            rng = np.random.default_rng([self.seed, draw, piece, *place])
            yield rng.standard_normal(n_events), rng.standard_normal(n_events)

    def _bins(
        self,
        engine: Engine,
        regions: RegionSet,
        columns: Columns,
        point: Point,
        noise: tuple[np.ndarray, np.ndarray] | None,
    ) -> np.ndarray:
        """Return each event's bin in each region, shape (n_regions, n_events); -1 where it is not in the region."""
        selected, kept = select(shift(columns, *point, noise=noise))
        # A test set holds float32, whatever the shifts computed in.
        selected = {name: column.astype(np.float32) for name, column in selected.items()}
        values, defined, derived = raw_inputs(selected)
        inputs = normalise(values, defined, self.normalisation)
        probabilities = engine.probabilities(inputs, jets_present(selected))
        out = np.full((len(regions.regions), len(columns["PRI_met"])), -1)
        for region, (rows, bins) in enumerate(bin_numbers(regions, quantities(selected, derived, probabilities))):
            out[region, kept[rows]] = bins
        return out


def choose_points(n_nodes: int, n_held_out: int, seed: int) -> tuple[list[Point], list[Point]]:
    """Choose the points of the fit and those that judge it.

    The first are the nominal point, points on the axes and scrambled Sobol points: uniform in log(1 + soft_met), and
    in tes and jes normal with twice the prior's width, cut where the tables end. The second continue the sequence.

    Raises:
        ValueError: If ``n_nodes`` leaves no Sobol point.
    """
    points: list[Point] = [NOMINAL]
    points += [(scale, 1.0, 0.0) for scale in AXIS_SCALES]
    points += [(1.0, scale, 0.0) for scale in AXIS_SCALES]
    points += [(1.0, 1.0, soft_met) for soft_met in AXIS_SOFT_MET]
    n_sobol = n_nodes - len(points)
    if n_sobol < 1:
        msg = f"nodes is {n_nodes}; the axes alone take {len(points)}, ask for more"
        raise ValueError(msg)
    total = n_sobol + n_held_out
    sequence = qmc.Sobol(3, seed=seed).random_base2((total - 1).bit_length())[:total]
    low, high = norm.cdf((np.array(SCALE_RANGE) - 1.0) / SCATTER_WIDTH)
    scales = 1.0 + SCATTER_WIDTH * norm.ppf(low + sequence[:, :2] * (high - low))
    soft_met = np.expm1(sequence[:, 2] * np.log1p(SOFT_MET_RANGE[1]))
    scattered = np.column_stack([scales, soft_met])
    rounded = [(round(tes, 6), round(jes, 6), round(met, 6)) for tes, jes, met in scattered.tolist()]
    return points + rounded[:n_sobol], rounded[n_sobol:]
