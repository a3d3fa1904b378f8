"""The smooth response's derivatives against finite differences, and its ends."""

from __future__ import annotations

import numpy as np
import pytest

from sage.binned.response import EXPECTED_SIZE, POWERS, Response
from sage.binned.tables import PAIRS


@pytest.fixture(scope="module")
def response() -> Response:
    """Random coefficients of the size that real ones have."""
    rng = np.random.default_rng(5)
    widths = EXPECTED_SIZE ** (POWERS[:, 0] + POWERS[:, 1] + (POWERS[:, 2] > 0))
    return Response(rng.gamma(2.0, 50.0, (4, 6)), rng.normal(scale=widths, size=(4, 6, len(POWERS))))


def test_value_equals_the_call(response):
    points = np.random.default_rng(6).uniform([0.96, 0.96, 0.0], [1.04, 1.04, 5.0], (50, 3))
    for point, expected in zip(points, response(points), strict=True):
        np.testing.assert_allclose(response.terms(tuple(point))[0], expected, rtol=1e-12)


def test_derivatives_equal_finite_differences(response):
    rng = np.random.default_rng(7)
    steps = np.array([1e-5, 1e-5, 1e-4])
    for point in rng.uniform([0.962, 0.962, 0.01], [1.038, 1.038, 4.9], (20, 3)):
        terms = response.terms(tuple(point))
        for axis in range(3):
            step = steps * (np.arange(3) == axis)
            up, down = (response.terms(tuple(point + sign * step)) for sign in (1, -1))
            numeric = (up - down) / (2 * steps[axis])
            np.testing.assert_allclose(terms[1 + axis], numeric[0], atol=1e-6 * np.abs(numeric[0]).max())
            for row, (a, b) in enumerate(PAIRS, start=4):
                if a == axis:
                    np.testing.assert_allclose(terms[row], numeric[1 + b], atol=1e-6 * np.abs(numeric[1 + b]).max())


def test_flat_beyond_the_ends(response):
    outside = response.terms((0.9, 1.2, 7.0))
    np.testing.assert_allclose(outside[0], response.terms((0.96, 1.04, 5.0))[0], rtol=1e-12)
    assert not outside[1:].any()
    half = response.terms((0.9, 1.001, 2.0))
    assert not half[1].any()
    assert half[2].any()
    assert half[3].any()


def test_an_exponent_beyond_the_bound_gives_a_constant():
    coefficients = np.zeros((1, 1, len(POWERS)))
    coefficients[..., 1] = 10.0
    terms = Response(np.ones((1, 1)), coefficients).terms((1.03, 1.0, 0.0))
    assert terms[0, 0, 0] == pytest.approx(np.exp(5.0))
    assert not terms[1:].any()
