"""The two problems with interference: their numbers, and that events are drawn from the densities they claim."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import chi2, expon, kstest, norm

from examples.interference import four_leptons, sampling
from examples.interference.gaussian import GaussianAmplitudes
from examples.interference.oracle import MIXTURE, coefficients, draw_oracle
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


def test_errors_of_the_gaussian_problem():
    """From second derivatives of the quadrature, without and with the nuisance parameter."""
    step = 1e-3

    def second(i, j):
        ends = [(a, b) for a in (-step, step) for b in (-step, step)]
        shifts = [np.array([a * (i == 0) + b * (j == 0), a * (i == 1) + b * (j == 1)]) for a, b in ends]
        values = [GAUSSIAN.expected_t(1 + d[0], d[1]) for d in shifts]
        return (values[0] - values[1] - values[2] + values[3]) / (4 * step**2)

    hessian = np.array([[second(i, j) for j in range(2)] for i in range(2)]) / 2
    assert 1 / math.sqrt(hessian[0, 0]) == pytest.approx(0.2149, abs=6e-5)
    mu, alpha = np.sqrt(np.diag(np.linalg.inv(hessian)))
    assert mu == pytest.approx(0.2188, abs=6e-5)
    assert alpha == pytest.approx(0.439, abs=6e-4)


def test_what_networks_read_is_finite():
    x = sampling.sample_total(np.random.default_rng(6), 2000)
    x[0, 1:4] = 1.0, -1.0, 1.0
    read = four_leptons.inputs(x)
    assert read.shape == (2000, 15)
    assert np.isfinite(read).all()
    turned = x.copy()
    turned[:, 4] -= 2 * math.pi
    np.testing.assert_allclose(four_leptons.inputs(turned), read, atol=1e-5)


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


def proposed(rng, n):
    """Return events of simple independent distributions, in which every process has support, and their density."""
    gamma = rng.gamma(1.0, 45.0, n)
    x = np.column_stack(
        [
            falling_masses(rng.random(n)),
            *rng.uniform(-1, 1, (3, n)),
            rng.uniform(-math.pi, math.pi, n),
            gamma,
            rng.normal(0.0, 1.4, n),
        ]
    )
    low, high = four_leptons.LOW**-2, four_leptons.HIGH**-2
    mass = 2 * x[:, 0] ** -3 / (low - high)
    return x, mass / 8 / (2 * math.pi) * expon.pdf(gamma, scale=45.0) * norm.pdf(x[:, 6], scale=1.4)


def falling_masses(uniform):
    """Return masses that fall with the third power."""
    low, high = four_leptons.LOW**-2, four_leptons.HIGH**-2
    return (low - uniform * (low - high)) ** -0.5


@pytest.fixture(scope="module")
def integrated():
    """Return events of 7-dimensional Monte Carlo integration, and the weights of the five processes."""
    x, density = proposed(np.random.default_rng(21), 600_000)
    return x, four_leptons.components(x) / density[:, None] / len(x)


def test_integrals_by_quadrature_are_those_in_seven_dimensions(integrated):
    _, weights = integrated
    error = np.sqrt(len(weights)) * weights.std(axis=0)
    assert (error / abs(four_leptons.yields()) < 0.02).all()
    assert (abs(weights.sum(axis=0) - four_leptons.yields()) < 4 * error).all()


@pytest.mark.parametrize("name", ["S", "SBI 0", "SBI 1", "SBI 4", "spin2", "qqZZ"])
def test_four_lepton_events_follow_their_density(integrated, name):
    """Every feature, and pairs that the interference ties together, beside weighted events of another origin."""
    x, weights = integrated
    process, _, mu = name.partition(" ")
    value = float(mu or 1)
    factors = {"S": [1, 0, 0, 0, 0], "SBI": [value, math.sqrt(value), 1, 0, 0]}
    factors |= {"spin2": [0, 0, 0, 1, 0], "qqZZ": [0, 0, 0, 0, 1]}
    theirs = weights @ factors[process]
    ours = sampling.sample(np.random.default_rng(22), 30_000, process, value)

    def observables(rows):
        m, c, c1, c2, phi, pt, y = rows.T
        across = np.sqrt((1 - c1**2) * (1 - c2**2))
        return [m, c, c1, c2, phi, pt, y, c1 * c2, across * np.cos(phi), across * np.sin(phi), m * c**2]

    for drawn, integrated_one in zip(observables(ours), observables(x), strict=True):
        inner = np.quantile(drawn, np.linspace(0, 1, 11))[1:-1]
        found, index = (
            np.histogram(np.searchsorted(inner, drawn), np.arange(11))[0],
            np.searchsorted(inner, integrated_one),
        )
        fractions = np.bincount(index, theirs, 10) / theirs.sum()
        errors = np.bincount(index, theirs**2, 10) / theirs.sum() ** 2 + fractions / len(drawn)
        assert ((found / len(drawn) - fractions) ** 2 / errors).sum() < chi2(9).isf(1e-5)


@pytest.fixture(scope="module")
def oracle():
    return draw_oracle(problem_of("four_leptons"), np.random.default_rng(4), 300_000)


def agrees(found, row):
    """Compare with a row of printed numbers: 1 %, and half of the last digit that is printed."""
    for value, text in zip(found, row.split(), strict=True):
        half = 0.5 * 10.0 ** -len(text.partition(".")[2])
        assert value == pytest.approx(float(text), rel=0.01, abs=0.01 * float(text) + half)


def test_exact_t_of_the_four_lepton_problem(oracle):
    agrees([oracle.expected_t(mu) for mu in MUS], "4.07 .37 .10 .13 .66 3.3 8.2")


@pytest.mark.parametrize(
    ("bins", "row"),
    [(1, ".90 .09 .02 .00 .00 .06 .27"), (30, "2.76 .14 .02 .05 .32 2.0 5.6")],
)
def test_histograms_of_the_four_lepton_problem(oracle, bins, row):
    """Bins of ln(S/SBI) with equally many expected events; one bin is the rate."""
    agrees(oracle.binned_t(MUS, score(oracle), bins), row)


def score(oracle):
    """Return the fixed observable of the histogram."""
    return np.log(oracle.densities[:, 0] / oracle.densities.sum(axis=1))


def test_the_histogram_of_masses_by_quadrature(oracle):
    """t, its interval and the distance of mu = 0 from the spectrum alone, and the sampled histogram beside it."""
    m = np.linspace(four_leptons.LOW, four_leptons.HIGH, 40_001)
    densities = four_leptons.spectrum(m).T * (m[1] - m[0])
    densities = np.column_stack([densities[:, :3], densities[:, 3:].sum(axis=1)])
    cumulated = np.cumsum(densities @ coefficients(1.0))
    index = np.minimum((20 * cumulated / cumulated[-1]).astype(int), 19)
    histogram = np.stack([np.bincount(index, column, 20) for column in densities.T], axis=1)
    expected = histogram @ coefficients(1.0)

    def t(mu):
        tested = histogram @ coefficients(mu)
        return 2 * float((tested - expected - expected * np.log(tested / expected)).sum())

    agrees([t(mu) for mu in MUS], "1.64 .13 .02 .01 .06 .46 1.5")
    assert math.sqrt(t(0)) == pytest.approx(1.28, rel=0.01)
    assert brentq(lambda mu: t(mu) - 1, 1, 5) == pytest.approx(3.6, rel=0.01)
    # t falls by 0.3 from 0.015 to 0.03, so that this end is sharper in t than in mu.
    assert brentq(lambda mu: t(mu) - 1, 0, 1) == pytest.approx(0.0153, abs=5e-4)
    np.testing.assert_allclose(
        oracle.binned_t(MUS, oracle.events[:, 0], 20), [t(mu) for mu in MUS], rtol=0.03, atol=2e-3
    )


@pytest.mark.parametrize(("exact", "low", "high", "sigmas"), [(False, 0.05, 2.53, 1.66), (True, 0.10, 2.19, 2.02)])
def test_intervals_of_the_four_lepton_problem(oracle, exact, low, high, sigmas):
    """Where t of the expected data is 1, and the root of t(0)."""
    observable = score(oracle)

    def t(mu):
        return oracle.expected_t(mu) if exact else oracle.binned_t([mu], observable, 30)[0]

    assert math.sqrt(t(0.0)) == pytest.approx(sigmas, rel=0.01)
    assert brentq(lambda mu: t(mu) - 1, 0.0, 1.0, xtol=1e-4) == pytest.approx(low, abs=0.01)
    assert brentq(lambda mu: t(mu) - 1, 1.0, 5.0, xtol=1e-3) == pytest.approx(high, rel=0.01)


def test_the_second_derivative_says_little_of_the_interval(oracle):
    """The error from it is 1.58, and t(0) would be 0.4 instead of 4."""
    first = MIXTURE.at_mu(1.0)[1]
    total = oracle.densities @ coefficients(1.0)
    information = oracle.weights @ (oracle.densities @ first / total) ** 2
    assert 1 / math.sqrt(information) == pytest.approx(1.58, rel=0.01)
    assert oracle.expected_t(0.0) > 5 * information


def test_the_rate_alone_excludes_nothing(oracle):
    rate = oracle.binned_t([0.0, 4.0], oracle.events[:, 0], 1)
    assert math.sqrt(rate[0]) == pytest.approx(0.95, rel=0.01)
    assert max(rate) < 1


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
