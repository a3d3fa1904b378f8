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
    read_table,
    strength,
    table_arrays,
    toy_table,
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


def test_the_fraction_stays_in_its_range(templates):
    counts = counts_at(templates, 0.0)
    signal = templates.terms((1.0, 1.0, 0.0))[0][0]
    found = fit_fraction(templates, np.maximum(counts - 2.0 * signal, 0.0))
    assert found.mu == 0.0


def test_toys_cover(templates):
    """Intervals of new toys with all nuisances drawn; as wide as the toys are spread."""
    table = toy_table(templates, 60, seed=1)
    slope, _ = table.line
    assert slope == pytest.approx(1.0, abs=0.15)
    rates, rng = Rates(templates, CHALLENGE), np.random.default_rng(5)
    covered, widths, estimates = [], [], []
    for _ in range(150):
        alphas = [nuisance.alpha(rng.normal())[0] for nuisance in CHALLENGE]
        counts = rng.poisson(rates.yields(1.5, alphas).sum(axis=0)).astype(float)
        interval = fraction_interval(templates, counts, table)
        assert interval.low < interval.fit.mu < interval.high
        assert interval.fit.parameters.shape == (1 + len(NAMES),)
        covered.append(interval.low <= 1.5 <= interval.high)
        widths.append(interval.high - interval.low)
        estimates.append(interval.fit.mu)
    assert abs(np.mean(covered) - 0.68) < 4 * math.sqrt(0.68 * 0.32 / 150)
    assert np.mean(widths) == pytest.approx(2 * np.std(estimates), rel=0.3)


def test_the_published_toys_have_nominal_rates(templates):
    plain, published = (toy_table(templates, 22, 1, published=choice) for choice in (False, True))
    assert (published.mean != plain.mean).all()
    assert len(published.mu) == len(GRID)


def test_the_table_is_read_back_or_refused(templates):
    table = toy_table(templates, 22, seed=1)
    arrays = table_arrays(table)
    for part in ("mu", "mean", "sd"):
        np.testing.assert_array_equal(getattr(read_table(arrays), part), getattr(table, part))
    with pytest.raises(WeightsError, match="neyman/sd"):
        read_table({name: array for name, array in arrays.items() if name != "neyman/sd"})
    with pytest.raises(WeightsError, match="deviations"):
        read_table(arrays | {"neyman/sd": -arrays["neyman/sd"]})


def test_no_events_are_refused(templates):
    with pytest.raises(FitError, match="0 events"):
        fit_fraction(templates, np.zeros(12))
