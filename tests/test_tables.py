"""The interpolation against scipy, a slow twin and finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from sage.tables import GRID, PAIRS, YieldTables, default_axes


@pytest.fixture(scope="module")
def rough_tables() -> YieldTables:
    """Random yields: nothing about them is smooth, so every corner counts."""
    return YieldTables(default_axes(), np.random.default_rng(3).gamma(2.0, 10.0, (*GRID, 4, 3)))


def points_inside(n: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    return np.stack([rng.uniform(0.96, 1.04, n), rng.uniform(0.96, 1.04, n), rng.uniform(0, 5, n)], axis=1)


def slow_interpolation(tables: YieldTables, point: np.ndarray) -> np.ndarray:
    """Sum over the eight corners of the cell, written out."""
    corners = []
    for axis, value in zip(tables.axes, point, strict=True):
        clamped = np.clip(value, axis[0], axis[-1])
        upper = next((i for i in range(1, len(axis)) if clamped < axis[i]), len(axis) - 1)
        share = (clamped - axis[upper - 1]) / (axis[upper] - axis[upper - 1])
        corners.append([(upper - 1, 1 - share), (upper, share)])
    out = np.zeros(tables.yields.shape[3:])
    for (i, a), (j, b), (k, c) in itertools.product(*corners):
        out += a * b * c * tables.yields[i, j, k]
    return out


def test_exact_at_every_node(rough_tables):
    for i, j, k in itertools.product(range(GRID[0]), range(GRID[1]), range(GRID[2])):
        point = tuple(axis[n] for axis, n in zip(rough_tables.axes, (i, j, k), strict=True))
        np.testing.assert_allclose(rough_tables.terms(point)[0], rough_tables.yields[i, j, k], rtol=1e-12)


def test_equals_scipy_and_the_slow_twin(rough_tables):
    oracle = RegularGridInterpolator(rough_tables.axes, rough_tables.yields)
    for point in points_inside(200):
        value = rough_tables.terms(tuple(point))[0]
        np.testing.assert_allclose(value, oracle(point)[0], rtol=1e-10)
        np.testing.assert_allclose(value, slow_interpolation(rough_tables, point), rtol=1e-10)


def test_clamped_outside_with_zero_slope(rough_tables):
    outside = rough_tables.terms((0.9, 1.2, 7.0))
    np.testing.assert_allclose(outside[0], rough_tables.yields[0, -1, -1], rtol=1e-12)
    assert not outside[1:].any()
    half = rough_tables.terms((0.9, 1.001, 2.01))
    assert not half[1].any()
    assert half[2].any()
    assert half[3].any()


def test_derivatives_inside_cells(rough_tables):
    steps = np.array([1e-7, 1e-7, 1e-6])
    for point in points_inside(20):
        terms = rough_tables.terms(tuple(point))
        for axis in range(3):
            step = np.zeros(3)
            step[axis] = steps[axis]
            up, down = (rough_tables.terms(tuple(point + sign * step)) for sign in (1, -1))
            numeric = (up - down) / (2 * steps[axis])
            np.testing.assert_allclose(terms[1 + axis], numeric[0], rtol=1e-5, atol=1e-3)
            for k, pair in enumerate(PAIRS):
                if axis in pair:
                    other = pair[0] if pair[1] == axis else pair[1]
                    scale = np.abs(terms[4:]).max()
                    np.testing.assert_allclose(terms[4 + k], numeric[1 + other], atol=1e-5 * scale)


def test_continuous_at_faces_with_a_jump_of_the_slope(rough_tables):
    face = rough_tables.axes[0][5]
    below, above = (rough_tables.terms((face + d, 1.0012, 0.3)) for d in (-1e-12, 1e-12))
    np.testing.assert_allclose(below[0], above[0], rtol=1e-8)
    assert np.abs(below[1] - above[1]).max() > 1.0
