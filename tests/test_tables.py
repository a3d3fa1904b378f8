"""The interpolation against scipy, a slow twin and finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from sage.binned.tables import GRID, PAIRS, YieldTables, default_axes
from tests.conftest import analytic_yields


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


def test_weights_of_the_corners_add_up_to_one(rough_tables):
    """Of a table of ones: at nodes, inside and outside; and a function linear along each axis is reproduced."""
    ones = YieldTables(rough_tables.axes, np.ones((*GRID, 4, 3)))
    products = np.einsum("i,j,k->ijk", *(1 + axis for axis in rough_tables.axes))[..., None, None]
    linear = YieldTables(rough_tables.axes, products * np.ones((4, 3)))
    nodes = [tuple(axis[n] for axis, n in zip(ones.axes, (i, 2 * i, 4 * i), strict=True)) for i in range(0, 9, 2)]
    for point in (*nodes, *map(tuple, points_inside(100)), (0.9, 1.0, 7.0)):
        terms = ones.terms(point)
        np.testing.assert_allclose(terms[0], 1.0, rtol=1e-12)
        # A slope is a difference over the width of a cell, 0.005 and 0.125.
        np.testing.assert_allclose(terms[1:4], 0.0, atol=1e-12)
        wanted = np.prod([1 + np.clip(v, axis[0], axis[-1]) for v, axis in zip(point, ones.axes, strict=True)])
        np.testing.assert_allclose(linear.terms(point)[0], wanted, rtol=1e-12)


def test_derivatives_inside_cells(rough_tables):
    """Central differences are exact inside a cell, where yields are linear along each axis, so steps may be large."""
    for point in points_inside(50):
        terms = rough_tables.terms(tuple(point))
        for axis, nodes in enumerate(rough_tables.axes):
            step = np.zeros(3)
            step[axis] = 0.5 * np.abs(nodes - point[axis]).min()
            up, down = (rough_tables.terms(tuple(point + sign * step)) for sign in (1, -1))
            numeric = (up - down) / (2 * step[axis])
            np.testing.assert_allclose(terms[1 + axis], numeric[0], rtol=1e-6)
            for k, pair in enumerate(PAIRS):
                if axis in pair:
                    other = pair[0] if pair[1] == axis else pair[1]
                    scale = np.abs(terms[4:]).max()
                    np.testing.assert_allclose(terms[4 + k], numeric[1 + other], atol=1e-6 * scale)


def test_the_error_between_nodes_is_of_second_order(analytic_tables):
    """Half the spacing, a quarter of the error, in every process and bin; at the full grid it does not matter."""
    points = points_inside(200)
    exact = np.array([analytic_yields(*point, 40) for point in points])
    errors = []
    for step in (4, 2, 1):
        axes = tuple(axis[::step] for axis in analytic_tables.axes)
        coarse = YieldTables(axes, analytic_tables.yields[::step, ::step, ::step])
        errors.append(np.array([coarse.terms(tuple(point))[0] for point in points]) - exact)
    rms = [np.sqrt((error**2).mean(axis=0)) for error in errors]
    for wide, narrow in itertools.pairwise(rms):
        ratio = wide / narrow
        assert np.median(ratio) == pytest.approx(4.0, rel=0.05)
        assert (ratio > 3.5).all()
        assert (ratio < 4.5).all()
    assert np.abs(errors[-1].sum(axis=1) / np.sqrt(exact.sum(axis=1))).max() < 0.1


def test_continuous_at_faces_with_a_jump_of_the_slope(rough_tables):
    face = rough_tables.axes[0][5]
    below, above = (rough_tables.terms((face + d, 1.0012, 0.3)) for d in (-1e-12, 1e-12))
    np.testing.assert_allclose(below[0], above[0], rtol=1e-8)
    assert np.abs(below[1] - above[1]).max() > 1.0
