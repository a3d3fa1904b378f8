"""The whole of the fit on an objective that is no likelihood of ours, whose minimum and interval are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from sage.errors import FitError
from sage.fit.deadline import Deadline, Timed
from sage.fit.interval import measure_interval
from sage.fit.ladder import climb, damped_interval, grid_interval, minuit_interval, total_interval
from sage.fit.objective import Evaluation, Objective
from studies.impacts import HeldNuisance, breakdown_by_auxiliary_data, breakdown_by_freezing, frozen, impacts

SIGMA, PULL = 0.3, 0.5
"""Statistical uncertainty of mu, and how far one standard deviation of each nuisance moves it."""


@dataclass(frozen=True)
class Parabola:
    """(mu - 1 - PULL (nu_1 + nu_2))^2 / (2 SIGMA^2) + sum (nu - centre)^2 / (2 width^2)."""

    centres: np.ndarray
    nuisances = (
        HeldNuisance("first", (-5.0, 5.0), 1.0, starts=(-2.0, 2.0)),
        HeldNuisance("second", (-5.0, 5.0), 0.5),
    )
    kinks = (np.array([]), np.array([-1.0, 0.0, 1.0]))

    def value(self, parameters: np.ndarray) -> float:
        return self.evaluate(parameters).value

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        slopes, off = np.array([1.0, -PULL, -PULL]), parameters[0] - 1 - PULL * parameters[1:].sum()
        precisions = np.array([0.0, 1.0, 4.0])
        pulls = np.concatenate([[0.0], parameters[1:] - self.centres])
        hessian = np.outer(slopes, slopes) / SIGMA**2 + np.diag(precisions)
        value = 0.5 * (off / SIGMA) ** 2 + 0.5 * float(precisions @ pulls**2)
        return Evaluation(value, off / SIGMA**2 * slopes + precisions * pulls, hessian, hessian)

    def centred(self, centres: np.ndarray) -> Parabola:
        return replace(self, centres=centres)


CENTRES = np.array([0.4, -0.2])
TRUTH = 1 + PULL * CENTRES.sum()
TOTAL = math.sqrt(SIGMA**2 + PULL**2 * (1 + 0.25))


@pytest.fixture
def objective() -> Objective:
    return Parabola(CENTRES)


@pytest.mark.parametrize(
    "attempt",
    [
        climb,
        measure_interval,
        lambda objective: damped_interval(objective, None, None),
        lambda objective: minuit_interval(objective, None, None),
        lambda objective: climb(objective, deadline=Deadline(60.0)),
        lambda objective: measure_interval(Timed(objective, Deadline(60.0))),
    ],
)
def test_minimum_and_interval_are_the_known_ones(objective, attempt):
    interval = attempt(objective)
    assert not interval.flags
    np.testing.assert_allclose(interval.fit.parameters, [TRUTH, *CENTRES], atol=1e-4)
    np.testing.assert_allclose([interval.low, interval.high], [TRUTH - TOTAL, TRUTH + TOTAL], atol=2e-4)
    assert interval.fit.sigma_mu == pytest.approx(TOTAL, rel=1e-4)


def test_the_scan_comes_near(objective):
    interval = grid_interval(objective, None, None)
    assert interval.low == pytest.approx(TRUTH - TOTAL, abs=0.05)
    assert interval.high == pytest.approx(TRUTH + TOTAL, abs=0.05)


def test_bounds_and_thresholds_hold(objective):
    bounded = climb(objective, mu_range=(TRUTH - 0.1, TRUTH + 0.1))
    assert (bounded.low, bounded.high) == (TRUTH - 0.1, TRUTH + 0.1)
    assert bounded.flags == ("limit_at_bound", "limit_at_bound")
    twice = climb(objective, thresholds=(np.array([0.0]), np.array([2.0])))
    assert twice.high - TRUTH == pytest.approx(2 * TOTAL, rel=1e-4)


def test_impacts_and_parts_are_the_known_ones(objective):
    interval = measure_interval(objective)
    for impact, width in zip(impacts(objective, interval.fit), (1.0, 0.5), strict=True):
        np.testing.assert_allclose(impact.fixed_prefit, [-PULL * width, PULL * width], atol=1e-6)
        np.testing.assert_allclose(impact.auxiliary_refit, [-PULL * width, PULL * width], atol=1e-6)
    parts = breakdown_by_freezing(objective, interval, measure_interval)
    assert parts["statistical"].up == pytest.approx(SIGMA, rel=1e-4)
    assert parts["first"].up == pytest.approx(PULL, rel=1e-4)
    assert parts["simulation"].up == 0.0
    assert breakdown_by_auxiliary_data(objective, interval.fit)["second"] == pytest.approx(PULL / 2, rel=1e-6)
    alone = measure_interval(frozen(objective, interval.fit.parameters, ["first", "second"]))
    assert alone.high - alone.low == pytest.approx(2 * SIGMA, rel=1e-4)


def test_what_counts_no_events_has_no_total(objective):
    with pytest.raises(FitError, match="no events"):
        total_interval(objective, None, None)
