"""The two problems with interference: their numbers, and that events are drawn from the densities they claim."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import kstest

from examples.interference import four_leptons, sampling
from examples.interference.gaussian import GaussianAmplitudes
from examples.interference.oracle import coefficients, draw_oracle
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
    return draw_oracle(np.random.default_rng(4), 300_000)


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
    edges = oracle.quantiles(observable, bins)
    np.testing.assert_allclose([oracle.binned_t(mu, observable, edges) for mu in MUS], row, rtol=0.02, atol=0.006)


@pytest.mark.parametrize("process", ["S", "SBI", "spin2", "qqZZ"])
@pytest.mark.parametrize("alphas", [{}, dict.fromkeys(four_leptons.NUISANCES, 2.0)])
def test_four_lepton_events_follow_their_density(process, alphas):
    """The mean of q / p over events of p is 1 for every density q with support only where p has some."""
    x = sampling.sample(np.random.default_rng(5), 30_000, process, 0.5, alphas)
    assert ((x[:, 0] >= four_leptons.LOW) & (x[:, 0] <= four_leptons.HIGH)).all()
    mixture = {"S": [1, 0, 0, 0, 0], "SBI": [0.5, math.sqrt(0.5), 1, 0, 0], "spin2": [0, 0, 0, 1, 0]}
    own = np.array(mixture.get(process, [0, 0, 0, 0, 1]))
    ours = four_leptons.components(x, alphas) @ own / (four_leptons.yields(alphas) @ own)
    for others in np.eye(5)[[0, 2, 3, 4]]:
        theirs = four_leptons.components(x) @ others / (four_leptons.yields() @ others)
        # Half of each in the denominator bounds the ratio; its mean under p is then compared with that under q.
        ratio = theirs / (ours + theirs)
        names = {0: "S", 2: "SBI", 3: "spin2", 4: "qqZZ"}
        y = sampling.sample(np.random.default_rng(6), 30_000, names[int(others.argmax())], 0.0)
        ours_y = four_leptons.components(y, alphas) @ own / (four_leptons.yields(alphas) @ own)
        theirs_y = four_leptons.components(y) @ others / (four_leptons.yields() @ others)
        back = ours_y / (ours_y + theirs_y)
        error = math.hypot(ratio.std(), back.std()) / math.sqrt(len(x))
        assert abs(ratio.mean() - back.mean()) <= 4 * error


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
