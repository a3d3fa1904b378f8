"""The fit of the signal fraction and its toys, against derivatives, the truth and a likelihood with rates."""

import math

import numpy as np
import pytest

from sage.binned.response import POWERS, Response
from sage.challenge.nuisances import CHALLENGE, NAMES
from sage.errors import FitError, WeightsError
from sage.fit.neyman import GRID
from sage.flows.fraction import (
    PUBLISHED_FRACTION,
    Fraction,
    fit_fraction,
    fraction_interval,
    lowest_fraction,
    read_tables,
    strength,
    table_arrays,
    toy_tables,
)
from sage.rates import Rates


@pytest.fixture(scope="module")
def templates():
    """Smooth yields in 12 bins: falling backgrounds, rising signal, and two nuisances that are told apart."""
    x = np.linspace(0.0, 1.0, 12)
    shapes = [np.exp(2.5 * x), np.exp(-4.0 * x), np.exp(-1.0 * x), np.ones(12)]
    totals = [1000.0, 300_000.0, 40_000.0, 4000.0]
    coefficients = np.zeros((4, 12, len(POWERS)))
    coefficients[:, :, 1] = 0.02 * np.cos(3.0 * x)
    coefficients[:, :, 2] = 0.02 * np.cos(9.0 * x)
    coefficients[1, :, 3] = 0.001 * x
    coefficients[:, :, 8] = 0.01 * x
    return Response(np.array([n * s / s.sum() for n, s in zip(totals, shapes, strict=True)]), coefficients)


@pytest.fixture(scope="module")
def tables(templates):
    """What the fit does in 200 toys at each signal strength."""
    return toy_tables(templates, 200, seed=1)


def counts_at(templates, mu, tes=1.0, jes=1.0):
    return Rates(templates, CHALLENGE).yields(mu, [tes, jes, 0.0, 1.0, 1.0, 1.0]).sum(axis=0)


def test_derivatives(templates):
    counts = np.random.default_rng(1).poisson(counts_at(templates, 1.0)).astype(float)
    objective = Fraction(templates, counts, np.array([0.3, -0.2]))
    at, steps = np.array([0.004, 0.37, -0.21]), np.array([1e-6, 1e-4, 1e-4])
    found = objective.evaluate(at)
    for i, step in enumerate(np.diag(steps)):
        slope = (objective.value(at + step) - objective.value(at - step)) / (2 * steps[i])
        assert found.gradient[i] == pytest.approx(slope, rel=2e-4, abs=1e-3)
    # To leading order: exact where the counts are the expected ones.
    expected = counts_at(templates, 1.0)
    fraction = expected_fraction(templates, 1.0)
    objective = Fraction(templates, expected, np.zeros(2))
    at = np.array([fraction, 0.0, 0.0])
    for i, step in enumerate(np.diag(steps)):
        column = (objective.evaluate(at + step).gradient - objective.evaluate(at - step).gradient) / (2 * steps[i])
        np.testing.assert_allclose(objective.evaluate(at).hessian[i], column, rtol=2e-2, atol=0.05 * abs(column).max())
    np.testing.assert_allclose(objective.evaluate(at).hessian, objective.evaluate(at).fisher)


def expected_fraction(templates, mu):
    yields = templates.terms((1.0, 1.0, 0.0))[0].sum(axis=1)
    return mu * yields[0] / (mu * yields[0] + yields[1:].sum())


@pytest.mark.parametrize("mu", [0.1, 1.0, 3.0])
def test_expected_counts_give_the_truth_back(templates, mu):
    found = fit_fraction(templates, counts_at(templates, mu))
    np.testing.assert_allclose(found.parameters, [expected_fraction(templates, mu), 0.0, 0.0], atol=1e-5)
    assert strength(templates, found.mu) == pytest.approx(mu, rel=1e-3)
    assert found.value == pytest.approx(0.0, abs=1e-6)
    assert strength(templates, 0.003, published=True) == 0.003 / PUBLISHED_FRACTION


def test_shifted_counts_are_found_and_the_number_of_events_does_not_matter(templates):
    counts = counts_at(templates, 1.0, tes=1.01, jes=0.99)
    found = fit_fraction(templates, counts)
    assert found.parameters[1] == pytest.approx(1.0, abs=0.25)
    assert found.parameters[2] == pytest.approx(-1.0, abs=0.25)
    expected = fit_fraction(templates, counts_at(templates, 1.0))
    halved = fit_fraction(templates, 0.5 * counts_at(templates, 1.0))
    assert halved.mu == pytest.approx(expected.mu, rel=1e-4)


def test_the_fraction_goes_below_zero_or_ends_there(templates):
    """The profile has one valley, so that what ends at 0 is what would go below, and the rest is the same."""
    rng, found = np.random.default_rng(3), []
    expected = counts_at(templates, -0.5)
    assert strength(templates, fit_fraction(templates, expected).mu) == pytest.approx(-0.5, rel=1e-3)
    for _ in range(40):
        counts = rng.poisson(counts_at(templates, 0.1)).astype(float)
        both = [fit_fraction(templates, counts, below_zero=choice).mu for choice in (True, False)]
        assert both[1] == pytest.approx(max(both[0], 0.0), abs=1e-7)
        found.append(both[0])
    assert 5 < np.sum(np.array(found) < 0) < 35


def test_every_bin_expects_events_at_the_lowest_fraction(templates):
    nominal = templates.terms((1.0, 1.0, 0.0))[0]
    signal, background = nominal[0] / nominal[0].sum(), nominal[1:].sum(axis=0) / nominal[1:].sum()
    lowest = lowest_fraction(templates)
    assert lowest < 0
    assert ((lowest * signal + (1.0 - lowest) * background) / background).min() == pytest.approx(0.1)
    # Bins with much signal are empty: the fit ends where they still expect something.
    found = fit_fraction(templates, np.where(signal > 3.0 * background, 0.0, counts_at(templates, 0.0)))
    assert found.mu == lowest
    assert found.converged


@pytest.mark.parametrize(("interval", "mu"), [("belt", 0.1), ("belt", 1.5), ("published", 1.5)])
def test_toys_cover(templates, tables, interval, mu):
    """Intervals of new toys with all nuisances drawn; as wide as the toys are spread."""
    assert tables.table.line[0] == pytest.approx(1.0, abs=0.15)
    assert tables.belt.slope == pytest.approx(1.0, abs=0.15)
    rates, rng = Rates(templates, CHALLENGE), np.random.default_rng(5)
    covered, widths, estimates = [], [], []
    error = math.sqrt(0.68 * 0.32 / 150 + 2.0 * 0.16 * 0.84 / 200)
    for _ in range(150):
        alphas = [nuisance.alpha(rng.normal())[0] for nuisance in CHALLENGE]
        counts = rng.poisson(rates.yields(mu, alphas).sum(axis=0)).astype(float)
        found = fraction_interval(templates, counts, tables, interval=interval)
        assert found.low < found.fit.mu < found.high
        assert found.fit.parameters.shape == (1 + len(NAMES),)
        covered.append(found.low <= mu <= found.high)
        widths.append(found.high - found.low)
        estimates.append(found.fit.mu)
    assert abs(np.mean(covered) - 0.68) < 4 * error
    assert np.mean(widths) == pytest.approx(2 * np.std(estimates), rel=0.3)


def test_the_published_toys_have_nominal_rates(templates):
    plain, published = (toy_tables(templates, 22, 1, published=choice).table for choice in (False, True))
    assert (published.mean != plain.mean).all()
    assert len(published.mu) == len(GRID)


def test_the_tables_are_read_back_or_refused(tables):
    arrays = table_arrays(tables)
    read = read_tables(arrays)
    for part in ("mu", "mean", "sd"):
        np.testing.assert_array_equal(getattr(read.table, part), getattr(tables.table, part))
    for part in ("mu", "quantiles"):
        np.testing.assert_array_equal(getattr(read.belt, part), getattr(tables.belt, part))
    for missing in ("neyman/sd", "belt/quantiles"):
        with pytest.raises(WeightsError, match=missing):
            read_tables({name: array for name, array in arrays.items() if name != missing})
    with pytest.raises(WeightsError, match="deviations"):
        read_tables(arrays | {"neyman/sd": -arrays["neyman/sd"]})
    with pytest.raises(WeightsError, match="quantiles"):
        read_tables(arrays | {"belt/quantiles": -arrays["belt/quantiles"]})


def test_no_events_are_refused(templates):
    with pytest.raises(FitError, match="0 events"):
        fit_fraction(templates, np.zeros(12))
