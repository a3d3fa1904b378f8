"""The interval of the published unbinned method on an objective whose slice is known."""

from __future__ import annotations

import numpy as np
import pytest

from sage.files.settings import DEFAULT_SETTINGS
from sage.fit.slice import BEYOND, FACTOR, slice_interval
from sage.measurement import fit_interval
from tests.test_objective import CENTRES, SIGMA, TRUTH, Parabola


def test_limits_are_those_of_the_slice_times_the_factor():
    interval = fit_interval(Parabola(CENTRES), {**DEFAULT_SETTINGS, "profile": "slice"})
    assert not interval.flags
    assert interval.fit.mu == pytest.approx(TRUTH, abs=1e-6)
    # Linear interpolation between points a tenth apart is inward of the parabola.
    np.testing.assert_allclose(
        [interval.low, interval.high], [TRUTH - FACTOR * SIGMA, TRUTH + FACTOR * SIGMA], atol=0.02
    )


class Moved(Parabola):
    """The same with a minimum elsewhere."""

    def __init__(self, by: float) -> None:
        super().__init__(CENTRES)
        object.__setattr__(self, "by", by)

    def evaluate(self, parameters):
        there = parameters.copy()
        there[0] -= self.by
        return super().evaluate(there)


@pytest.mark.parametrize(("by", "side"), [(-1.0, 0), (1.9, 1)])
def test_limits_outside_of_the_range_of_mu_are_put_beyond_it(by, side):
    interval = slice_interval(Moved(by))
    assert (interval.low, interval.high)[side] == BEYOND[side]
    assert (interval.low, interval.high)[1 - side] != BEYOND[1 - side]
    assert interval.fit.mu == pytest.approx(TRUTH + by, abs=1e-6)


def test_an_interval_beyond_the_range_of_mu_is_none_that_covers():
    interval = slice_interval(Moved(4.0))
    assert interval.low == BEYOND[1]
    assert BEYOND[1] < interval.high < interval.fit.mu
