"""The two problems with interference: their numbers, and that events are drawn from the densities they claim."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import kstest

from examples.interference import four_leptons, sampling
from examples.interference.gaussian import GaussianAmplitudes
from examples.interference.oracle import coefficients, draw_oracle
from examples.interference.problems import problem_of
from sage.errors import SettingsError

GAUSSIAN = GaussianAmplitudes()
MUS = (0, 0.25, 0.5, 1.5, 2, 3, 4)


def test_yields_of_the_gaussian_problem():
    assert GAUSSIAN.yields[1] == pytest.approx(-153.661, abs=1e-3)
    assert GAUSSIAN.yields.sum() == pytest.approx(396.339, abs=1e-3)
    integral = GAUSSIAN.integral(GAUSSIAN.components)
    np.testing.assert_allclose(integral, GAUSSIAN.yields, rtol=1e-10)


@pytest.mark.parametrize(
    ("mu", "t", "rate"),
    [
        (0, 61.153, 23.153),
        (0.25, 21.810, 3.663),
        (0.5, 7.532, 0.977),
        (2, 14.443, 0.481),
        (3, 44.277, 0.402),
        (4, 81.600, 0.034),
    ],
)
def test_expected_t_of_the_gaussian_problem(mu, t, rate):
    assert GAUSSIAN.expected_t(mu) == pytest.approx(t, abs=6e-4)
    tested, true = (value * 50 + math.sqrt(value) * GAUSSIAN.yields[1] + 500 for value in (mu, 1))
    assert 2 * (tested - true - true * math.log(tested / true)) == pytest.approx(rate, abs=6e-4)


@pytest.mark.parametrize(
    ("mu", "t"),
    [(0, 55.352), (0.25, 20.783), (0.5, 7.202), (0.75, 1.505), (1.5, 4.192), (2, 14.154), (3, 43.811)],
)
def test_profiled_t_of_the_gaussian_problem(mu, t):
    found = minimize_scalar(lambda alpha: GAUSSIAN.expected_t(mu, alpha), bounds=(-5, 5), method="bounded")
    assert found.fun == pytest.approx(t, abs=6e-4)


@pytest.mark.parametrize("dimension", [1, 3])
def test_gaussian_events_follow_their_density(dimension):
    problem = GaussianAmplitudes(dimension)
    x = problem.sample(np.random.default_rng(3), 20_000, 2.0)
    u = np.linspace(-8, 10, 4001)
    density = GAUSSIAN.components(u[:, None]) @ [2.0, math.sqrt(2.0), 1.0]
    cumulated = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    assert kstest(x[:, 0], lambda v: np.interp(v, u, cumulated / cumulated[-1])).pvalue > 1e-3
    if dimension > 1:
        assert kstest(x[:, 1], "norm").pvalue > 1e-3
        np.testing.assert_allclose(problem.components(x).sum(axis=1) > 0, True)


def test_integrals_of_the_four_lepton_problem():
    s, i, b, spin2, quarks = four_leptons.yields()
    assert (s, spin2, quarks) == pytest.approx((30, 100, 1400), rel=1e-5)
    assert i == pytest.approx(-68.909, abs=1e-3)
    assert b == pytest.approx(196.403, abs=1e-3)
    assert (i / s, b / s) == pytest.approx((-2.2970, 6.5468), abs=1e-4)


@pytest.fixture(scope="module")
def oracle():
    return draw_oracle(problem_of("four_leptons"), np.random.default_rng(4), 300_000)


def test_exact_t_of_the_four_lepton_problem(oracle):
    exact = [oracle.expected_t(mu) for mu in MUS]
    np.testing.assert_allclose(exact, [4.07, 0.37, 0.10, 0.13, 0.66, 3.3, 8.2], rtol=0.012, atol=0.006)


@pytest.mark.parametrize(
    ("analysis", "bins", "row"),
    [
        ("rate", 1, [0.90, 0.09, 0.02, 0.00, 0.00, 0.06, 0.27]),
        ("m4l", 20, [1.64, 0.13, 0.02, 0.01, 0.06, 0.46, 1.5]),
        ("observable", 30, [2.76, 0.14, 0.02, 0.05, 0.32, 2.0, 5.6]),
    ],
)
def test_histograms_of_the_four_lepton_problem(oracle, analysis, bins, row):
    """Bins with equally many expected events; the spec's table is good to 1 %."""
    observable = oracle.events[:, 0]
    if analysis == "observable":
        observable = np.log(oracle.densities[:, 0] / oracle.densities.sum(axis=1))
    np.testing.assert_allclose(oracle.binned_t(MUS, observable, bins), row, rtol=0.02, atol=0.006)


def test_densities_are_nowhere_negative(oracle):
    for mu in np.linspace(0, 6, 25):
        assert (oracle.densities @ coefficients(mu) >= 0).all()


def test_what_is_refused():
    rng = np.random.default_rng(1)
    for wrong in (
        lambda: sampling.sample(rng, 10, "SBI", -0.1),
        lambda: sampling.sample(rng, 10, "SBI", math.nan),
        lambda: sampling.sample(rng, 10, "ZZ"),
        lambda: four_leptons.yields({"pt": 1.0}),
        lambda: GAUSSIAN.sample(rng, 10, -1.0),
        lambda: GaussianAmplitudes(0),
    ):
        with pytest.raises(SettingsError):
            wrong()
