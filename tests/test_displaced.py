"""Errors of known covariance in the profile: the algebra, derivatives, and that fits, ladder and impacts take them."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from sage.fit.displaced import Displaced, Displacement, displaced
from sage.fit.interval import measure_interval
from sage.fit.ladder import climb, damped_interval, grid_interval, minuit_interval, total_interval
from sage.fit.newton import fit_global
from studies.impacts import impacts
from tests.test_objective import CENTRES, TOTAL, TRUTH, Parabola
from tests.test_unbinned import POINT, exact_value, gaussian_likelihood, likelihood

ERRORS = np.array([[0.09, 0.04, -0.02], [0.04, 0.05, 0.01], [-0.02, 0.01, 0.03]])
MORE = np.array([[0.04, 0.0, 0.01], [0.0, 0.01, 0.0], [0.01, 0.0, 0.02]])


def with_errors() -> Displaced:
    objective = displaced(Parabola(CENTRES), [Displacement("first error", ERRORS), Displacement("second error", MORE)])
    assert isinstance(objective, Displaced)
    return objective


def test_the_profile_of_a_parabola_has_the_covariance_c_plus_c_v_c():
    objective = with_errors()
    interval = measure_interval(objective)
    assert not interval.flags
    covariance = np.linalg.inv(Parabola(CENTRES).evaluate(np.zeros(3)).hessian) + ERRORS + MORE
    best = objective.marginal(interval.fit)
    np.testing.assert_allclose(best.covariance, covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(best.parameters, [TRUTH, *CENTRES], atol=1e-9)
    sigma = np.sqrt(covariance[0, 0])
    np.testing.assert_allclose([interval.low, interval.high], [TRUTH - sigma, TRUTH + sigma], atol=1e-5)


def test_errors_are_seen_where_they_have_moved_the_estimate():
    """Data displaced by what an auxiliary measurement of eta says give back the truth, nuisances included."""
    objective = with_errors()
    move = Displacement("first error", ERRORS).move
    seen = objective.centred(np.array([*(CENTRES + move[1:]), 1.0, 0.0]))
    best = seen.marginal(fit_global(seen))
    np.testing.assert_allclose(best.parameters[1:], CENTRES, atol=1e-9)


@pytest.mark.parametrize("native", [True, False])
def test_gradient_and_hessian_against_mpmath(native):
    of = likelihood(n=4, native=native)
    spread = np.random.default_rng(1).normal(size=(2, 7, 9))
    errors = [Displacement(f"{number}", 0.01 * each @ each.T) for number, each in enumerate(spread)]
    objective = displaced(of, errors).centred(np.array([*np.zeros(6), 0.2, -0.1]))
    at = np.array([*POINT, 0.7, -0.4])
    found = objective.evaluate(at)
    moves = [np.sqrt(each.covariance[0, 0]) for each in errors]
    with mpmath.workdps(30):

        def exact(point: list[mpmath.mpf]) -> mpmath.mpf:
            mu = point[0] + moves[0] * point[7] + moves[1] * point[8]
            return exact_value(of, [mu, *point[1:7]]) + ((point[7] - 0.2) ** 2 + (point[8] + 0.1) ** 2) / 2

        step = mpmath.mpf("1e-8")
        here = [mpmath.mpf(float(x)) for x in at]

        def moved(*by: tuple[int, int]) -> mpmath.mpf:
            there = list(here)
            for i, sign in by:
                there[i] += sign * step
            return exact(there)

        assert found.value == pytest.approx(float(exact(here)), rel=1e-12)
        assert objective.value(at) == pytest.approx(found.value, rel=1e-13)
        for i in range(9):
            first = float((moved((i, 1)) - moved((i, -1))) / (2 * step))
            assert found.gradient[i] == pytest.approx(first, rel=1e-8, abs=1e-8), i
        for i, k in [(0, 0), (0, 7), (1, 7), (3, 8), (4, 7), (7, 7), (7, 8), (8, 8)]:
            corners = [a * b * moved((i, a), (k, b)) for a in (1, -1) for b in (1, -1)]
            second = float(sum(corners) / (4 * step**2))
            assert found.hessian[i, k] == pytest.approx(second, rel=1e-6, abs=1e-6), (i, k)
    np.testing.assert_allclose(found.hessian, found.hessian.T, rtol=1e-12)


@pytest.mark.parametrize(
    "attempt",
    [
        climb,
        lambda objective: damped_interval(objective, None, None),
        lambda objective: minuit_interval(objective, None, None),
        lambda objective: grid_interval(objective, None, None),
    ],
)
def test_every_step_of_the_ladder_widens_the_interval(attempt):
    interval = attempt(with_errors())
    sigma = np.sqrt(TOTAL**2 + ERRORS[0, 0] + MORE[0, 0])
    np.testing.assert_allclose([interval.low, interval.high], [TRUTH - sigma, TRUTH + sigma], atol=0.05)


def test_totals_know_the_errors_as_well():
    of = gaussian_likelihood(np.random.default_rng(2).normal(size=1000))
    alone = total_interval(of, None, None)
    both = total_interval(displaced(of, [Displacement("error", np.diag([0.25, *np.zeros(6)]))]), None, None)
    widths = [each.high - each.fit.mu for each in (alone, both)]
    assert widths[1] ** 2 - widths[0] ** 2 == pytest.approx(0.25, rel=1e-6)


def test_impacts_of_the_errors_are_their_widths():
    objective = with_errors()
    found = {impact.name: impact for impact in impacts(objective, measure_interval(objective).fit)}
    assert list(found) == ["first", "second", "first error", "second error"]
    np.testing.assert_allclose(found["first error"].fixed_postfit, [0.3, -0.3], atol=1e-6)
    np.testing.assert_allclose(found["second error"].auxiliary_refit, [0.2, -0.2], atol=1e-6)


def test_what_moves_nothing_is_left_out():
    objective = Parabola(CENTRES)
    assert displaced(objective, []) is objective
    assert displaced(objective, [Displacement("none", np.diag([0.0, 1.0, 1.0]))]) is objective
