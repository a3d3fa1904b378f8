"""Step 6: expected yields as a function of the three shape nuisances.

A table holds the expected events of every process and bin at 17 x 17 x 41 nodes in (tes, jes, soft_met). Between the
nodes it is interpolated trilinearly (arXiv:2509.00672): exact at a node, constant beyond the outermost ones,
continuous everywhere; the gradient jumps where a cell ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sage.rates import N_TERMS, PAIRS

AXES = ("tes", "jes", "soft_met")
GRID = (17, 17, 41)
SCALE_RANGE = (0.96, 1.04)
SOFT_MET_RANGE = (0.0, 5.0)

DERIVATIVES = np.array(
    [[0, *(axis == i for i in range(3)), *(pair.count(axis) for pair in PAIRS)] for axis in range(3)]
)
"""Order of each term's derivative along each axis, shape (3, 10)."""


def default_axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the grid's axes: tes and jes over four standard deviations either side, soft_met in GeV."""
    return (
        np.linspace(*SCALE_RANGE, GRID[0]),
        np.linspace(*SCALE_RANGE, GRID[1]),
        np.linspace(*SOFT_MET_RANGE, GRID[2]),
    )


def grid_points() -> list[tuple[float, float, float]]:
    """Return the grid's 11 849 nodes, tes slowest, as the yields are laid out."""
    # Axes made by linspace miss 1 by a rounding error.
    axes = [np.round(axis, 9).tolist() for axis in default_axes()]
    return [(tes, jes, soft_met) for tes in axes[0] for jes in axes[1] for soft_met in axes[2]]


@dataclass(frozen=True)
class YieldTables:
    """Expected events at 10 fb^-1 on a grid of nuisance points.

    Args:
        axes: Node positions of tes, jes and soft_met (GeV), increasing.
        yields: Expected events, shape (n_tes, n_jes, n_met, 4, n_bins); processes in the order of ``PROCESSES``.
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    yields: np.ndarray

    def terms(self, point: tuple[float, ...]) -> np.ndarray:
        """Interpolate at one nuisance point, which is clamped to the grid.

        Args:
            point: (tes, jes, soft_met).

        Returns:
            Shape (10, 4, n_bins), float64: the yields, their derivatives in tes, jes and soft_met, and the second
            derivatives of ``PAIRS``. Derivatives along an axis are 0 beyond its ends; within a cell the yields are
            linear along each axis.
        """
        cells, factors = [], []
        for i, (axis, value) in enumerate(zip(self.axes, point, strict=True)):
            clamped = min(max(value, axis[0]), axis[-1])
            # A point on a node belongs to the cell above it, except at the upper end.
            cell = min(int(axis.searchsorted(clamped, side="right")) - 1, len(axis) - 2)
            width = axis[cell + 1] - axis[cell]
            fraction = (clamped - axis[cell]) / width
            slope = 1.0 / width if clamped == value else 0.0
            cells.append(slice(cell, cell + 2))
            by_order = np.array([[1.0 - fraction, fraction], [-slope, slope], [0.0, 0.0]])
            factors.append(by_order[DERIVATIVES[i]])
        corners = self.yields[cells[0], cells[1], cells[2]].reshape(8, -1).astype(np.float64)
        tes, jes, met = factors
        matrix = tes[:, :, None, None] * jes[:, None, :, None] * met[:, None, None, :]
        out: np.ndarray = (matrix.reshape(N_TERMS, 8) @ corners).reshape(N_TERMS, *self.yields.shape[3:])
        return out
