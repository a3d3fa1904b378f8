"""The closed-form likelihood against torch autograd, a loop over bins and scipy's Poisson distribution."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from sage.binned.statistic import BinnedLikelihood
from sage.challenge.nuisances import CHALLENGE, PROCESSES, variant
from sage.files.bundle import read_bundle
from tests.events import FIVE_WEIGHTS
from tests.likelihoods import likelihood_from, with_variances

N_BINS = 40


def make(tables, counts, name="challenge", centres=None, has_signal=None) -> BinnedLikelihood:
    has_signal = np.ones(N_BINS, bool) if has_signal is None else has_signal
    return likelihood_from(tables, variant(name), counts, has_signal, np.zeros(6) if centres is None else centres)


def autograd_rate(likelihood: BinnedLikelihood, parameters: torch.Tensor) -> torch.Tensor:
    """The expected events in torch, with its own trilinear interpolation; for autograd only."""
    mu, nus = parameters[0], parameters[1:]
    alphas = []
    for nuisance, nu in zip(likelihood.nuisances, nus, strict=True):
        exponential = hasattr(nuisance.to_alpha, "offset")
        mapping = nuisance.to_alpha
        raw = torch.exp(mapping.width * nu) + mapping.offset if exponential else mapping.centre + mapping.width * nu
        alphas.append(raw.clamp(*nuisance.clip))
    table = torch.from_numpy(likelihood.rates.templates.yields)
    for axis_array, alpha in zip(likelihood.rates.templates.axes, alphas[:3], strict=True):
        axis = torch.from_numpy(axis_array)
        value = alpha.clamp(float(axis[0]), float(axis[-1]))
        cell = min(int(torch.searchsorted(axis, value.detach(), right=True)) - 1, len(axis) - 2)
        share = (value - axis[cell]) / (axis[cell + 1] - axis[cell])
        table = table[cell] * (1 - share) + table[cell + 1] * share
    signal, z, tt, vv = (table[PROCESSES.index(name)] for name in ("htautau", "ztautau", "ttbar", "diboson"))
    tt_scale, vv_scale, bkg = alphas[3:]
    return mu * signal * torch.from_numpy(likelihood.rates.has_signal) + bkg * (z + tt_scale * tt + vv_scale * vv)


def autograd_nll(likelihood: BinnedLikelihood, parameters: torch.Tensor) -> torch.Tensor:
    """The likelihood without simulation uncertainty in torch."""
    rate, nus = autograd_rate(likelihood, parameters), parameters[1:]
    n = torch.from_numpy(likelihood.statistic.counts)
    poisson = (rate - n + torch.special.xlogy(n, n / rate)).sum()
    return poisson + 0.5 * ((nus - torch.from_numpy(likelihood.centres)) ** 2).sum()


@pytest.mark.parametrize("name", ["challenge", "published"])
def test_gradient_and_hessian_equal_autograd(analytic_tables, name):
    rng = np.random.default_rng(7)
    has_signal = np.arange(N_BINS) < 25
    for _ in range(10):
        truth = np.array([1.0, *rng.uniform(0.05, 1.5, 6)])
        counts = rng.poisson(make(analytic_tables, np.zeros(N_BINS), name).expected(truth)).astype(float)
        likelihood = make(analytic_tables, counts, name, rng.normal(size=6), has_signal)
        at = truth + rng.uniform(-0.04, 0.04, 7)
        point = likelihood.evaluate(at)
        torch_at = torch.tensor(at, requires_grad=True)
        value = autograd_nll(likelihood, torch_at)
        gradient = torch.autograd.grad(value, torch_at)[0].numpy()
        hessian = torch.autograd.functional.hessian(lambda p, li=likelihood: autograd_nll(li, p), torch_at).numpy()
        assert point.value == pytest.approx(value.item(), rel=1e-9, abs=1e-8)
        np.testing.assert_allclose(point.gradient, gradient, rtol=1e-9, atol=1e-9 * np.abs(gradient).max())
        np.testing.assert_allclose(point.hessian, hessian, rtol=1e-9, atol=1e-9 * np.abs(hessian).max())
        assert np.linalg.eigvalsh(point.fisher).min() > 0


def test_value_equals_a_loop_over_bins_with_scipy(analytic_tables):
    truth = np.array([1.4, 0.3, -0.6, 0.2, 0.5, -0.4, 0.1])
    rng = np.random.default_rng(8)
    counts = rng.poisson(make(analytic_tables, np.zeros(N_BINS)).expected(truth)).astype(float)
    likelihood = make(analytic_tables, counts)
    tes, jes, met, tt, vv, bkg = (nuisance.alpha(nu)[0] for nuisance, nu in zip(CHALLENGE, truth[1:], strict=True))
    yields = analytic_tables.terms((tes, jes, met))[0]
    slow = 0.5 * float(truth[1:] @ truth[1:])
    for b in range(N_BINS):
        h, z, t, v = yields[:, b]
        rate = truth[0] * h + bkg * (z + tt * t + vv * v)
        slow -= stats.poisson.logpmf(counts[b], rate) - stats.poisson.logpmf(counts[b], counts[b])
    assert likelihood.value(truth) == pytest.approx(slow, rel=1e-9)


def test_yield_is_linear_in_mu_and_rates_multiply(analytic_tables):
    likelihood = make(analytic_tables, np.zeros(N_BINS))
    at = np.array([0.7, 0.2, 0.1, -0.5, 0.8, -1.1, 0.6])
    rates = [likelihood.expected(np.array([mu, *at[1:]])) for mu in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(rates[2] - rates[1], rates[1] - rates[0], rtol=1e-9)
    tt_only = dataclasses.replace(CHALLENGE[5], scales=("ttbar",))
    changed = likelihood_from(analytic_tables, (*CHALLENGE[:5], tt_only), np.zeros(N_BINS), np.ones(N_BINS, bool))
    assert not np.allclose(changed.expected(at), likelihood.expected(at))


@pytest.mark.parametrize("smooth", [False, True])
def test_yield_is_linear_in_each_scale_and_the_one_of_all_backgrounds_multiplies(analytic_tables, smooth):
    templates = read_bundle(FIVE_WEIGHTS).response if smooth else analytic_tables
    n_bins = templates.terms((1.0, 1.0, 0.0)).shape[2]
    likelihood = likelihood_from(templates, CHALLENGE, np.zeros(n_bins), np.ones(n_bins, bool))
    rng = np.random.default_rng(10)
    mu, tt, vv, bkg = 0, 4, 5, 6
    for _ in range(10):
        at = np.array([rng.uniform(0, 3), *rng.uniform(-2, 1.5, 6)])

        def rate(*moved, distance=1.0, at=at):
            return likelihood.expected(at + distance * np.isin(np.arange(7), moved))

        tes, jes, met = (nuisance.alpha(nu)[0] for nuisance, nu in zip(CHALLENGE[:3], at[1:4], strict=True))
        h, z, t, v = templates.terms((tes, jes, met))[0]
        tt_scale, vv_scale, bkg_scale = 1 + 0.02 * at[tt], 1 + 0.25 * at[vv], 1 + 0.001 * at[bkg]
        close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12 * rate().max())
        close(rate(), at[mu] * h + bkg_scale * (z + tt_scale * t + vv_scale * v))
        slopes = {mu: h, tt: 0.02 * bkg_scale * t, vv: 0.25 * bkg_scale * v}
        slopes[bkg] = 0.001 * (z + tt_scale * t + vv_scale * v)
        for i, slope in slopes.items():
            for distance in (-1.5, 0.5, 2.0):
                close(rate(i, distance=distance) - rate(), distance * slope)
        mixed = {(bkg, tt): 0.001 * 0.02 * t, (bkg, vv): 0.001 * 0.25 * v, (tt, vv): 0 * t, (mu, bkg): 0 * t}
        for (i, j), wanted in mixed.items():
            close(rate(i, j) - rate(i) - rate(j) + rate(), wanted)


def test_order_of_bins_does_not_matter(analytic_tables):
    rng = np.random.default_rng(9)
    truth = np.array([1.0, 0.3, 0.2, 0.1, 0.0, 0.5, -0.3])
    counts = rng.poisson(make(analytic_tables, np.zeros(N_BINS)).expected(truth)).astype(float)
    order = rng.permutation(N_BINS)
    shuffled = dataclasses.replace(analytic_tables, yields=analytic_tables.yields[..., order])
    one, other = make(analytic_tables, counts), make(shuffled, counts[order])
    assert one.value(truth) == pytest.approx(other.value(truth), rel=1e-11)


def test_domain(analytic_tables):
    empty = make(analytic_tables, np.zeros(N_BINS))
    nominal = np.zeros(7)
    assert math.isfinite(empty.value(nominal))
    deep = np.array([-1e6, 0, 0, 0, 0, 0, 0])
    assert empty.value(deep) == math.inf
    nothing = dataclasses.replace(analytic_tables, yields=np.zeros_like(analytic_tables.yields))
    assert make(nothing, np.zeros(N_BINS)).value(nominal) == 0.0
    assert make(nothing, np.ones(N_BINS)).value(nominal) == math.inf
    point = make(nothing, np.zeros(N_BINS)).evaluate(nominal)
    assert np.isfinite(point.gradient).all()
    assert np.isfinite(point.hessian).all()


def test_a_diboson_scale_of_zero_has_finite_derivatives(analytic_tables):
    likelihood = make(analytic_tables, np.full(N_BINS, 1000.0))
    point = likelihood.evaluate(np.array([1.0, 0, 0, 0, 0, -4.0, 0]))
    assert np.isfinite(point.gradient).all()
    assert point.gradient[5] != 0.0


def variances_of(tables, size: float) -> np.ndarray:
    """Variances of ``size`` events' weight per expected event."""
    return size * tables.terms((1.0, 1.0, 0.0))[0]


def explicit_nll(likelihood: BinnedLikelihood, rate: np.ndarray, gammas: np.ndarray) -> float:
    """The bins' part of the likelihood with the per-bin factors as free parameters of their own."""
    n, x = likelihood.statistic.counts, gammas * rate
    saturated = np.where(n > 0, n * np.log(np.where(n > 0, n, 1.0)), 0.0)
    logs = np.where(n > 0, n * np.log(np.where(n > 0, x, 1.0)), 0.0)
    deltas = np.sqrt(likelihood.statistic.variance) / rate
    return float((x - n + saturated - logs + 0.5 * ((gammas - 1.0) / deltas) ** 2).sum())


@pytest.mark.parametrize("size", [0.05, 1.0, 20.0])
def test_profiled_simulation_uncertainty_equals_a_minimisation_over_all_factors(analytic_tables, size):
    rng = np.random.default_rng(21)
    truth = np.array([1.2, 0.3, -0.6, 0.2, 0.5, -0.4, 0.1])
    counts = rng.poisson(make(analytic_tables, np.zeros(N_BINS)).expected(truth)).astype(float)
    counts[:3] = 0.0
    likelihood = with_variances(make(analytic_tables, counts), variances_of(analytic_tables, size))
    rate = likelihood.expected(truth)
    at = np.ones(N_BINS)
    for b in range(N_BINS):
        # The bins are independent, so a coordinate at a time finds the minimum over all of them.
        at[b] = optimize.minimize_scalar(
            lambda gamma, b=b: explicit_nll(likelihood, rate, np.where(np.arange(N_BINS) == b, gamma, at)),
            bounds=(0.0, 5.0),
            method="bounded",
            options={"xatol": 1e-12},
        ).x
    minimum = explicit_nll(likelihood, rate, at) + 0.5 * float(truth[1:] @ truth[1:])
    assert likelihood.value(truth) == pytest.approx(minimum, rel=1e-7, abs=1e-6)


def autograd_profiled(likelihood: BinnedLikelihood, parameters: torch.Tensor) -> torch.Tensor:
    """``autograd_nll`` of explicit per-bin expectations at the minimum that plain bisection finds."""
    exact = with_variances(likelihood, None)
    rate = autograd_rate(exact, parameters)
    n, variance = torch.from_numpy(likelihood.statistic.counts), torch.from_numpy(likelihood.statistic.variance)
    low, high = torch.zeros_like(rate), 10.0 * (rate + n + variance).detach()
    for _ in range(200):
        middle = 0.5 * (low + high)
        rising = 1.0 - n / middle + (middle - rate.detach()) / variance > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    x = 0.5 * (low + high)
    # One Newton step with the graph attached: makes x depend on the rate as the root does, to first order.
    x = x - (1.0 - n / x + (x - rate) / variance) / (n / x**2 + 1.0 / variance)
    nus = parameters[1:] - torch.from_numpy(likelihood.centres)
    poisson = x - n + torch.special.xlogy(n, n / x) + 0.5 * (x - rate) ** 2 / variance
    return poisson.sum() + 0.5 * (nus**2).sum()


@pytest.mark.parametrize("size", [0.05, 1.0, 20.0])
def test_derivatives_with_simulation_uncertainty_equal_autograd(analytic_tables, size):
    rng = np.random.default_rng(22)
    for _ in range(5):
        truth = np.array([1.0, *rng.uniform(0.05, 1.5, 6)])
        counts = rng.poisson(make(analytic_tables, np.zeros(N_BINS)).expected(truth)).astype(float)
        likelihood = make(analytic_tables, counts, centres=rng.normal(size=6))
        likelihood = with_variances(likelihood, variances_of(analytic_tables, size))
        at = truth + rng.uniform(-0.04, 0.04, 7)
        point = likelihood.evaluate(at)
        torch_at = torch.tensor(at, requires_grad=True)
        value = autograd_profiled(likelihood, torch_at)
        gradient = torch.autograd.grad(value, torch_at)[0].numpy()
        hessian = torch.autograd.functional.hessian(lambda p, li=likelihood: autograd_profiled(li, p), torch_at).numpy()
        assert point.value == likelihood.value(at) == pytest.approx(value.item(), rel=1e-9, abs=1e-8)
        np.testing.assert_allclose(point.gradient, gradient, rtol=1e-7, atol=1e-8 * np.abs(gradient).max())
        np.testing.assert_allclose(point.hessian, hessian, rtol=1e-7, atol=1e-8 * np.abs(hessian).max())
        assert np.linalg.eigvalsh(point.fisher).min() > 0


def test_exact_simulation_is_the_poisson_likelihood(analytic_tables):
    rng = np.random.default_rng(23)
    truth = np.array([0.8, 0.3, -0.6, 0.2, 0.5, -0.4, 0.1])
    counts = rng.poisson(make(analytic_tables, np.zeros(N_BINS)).expected(truth)).astype(float)
    counts[0] = 0.0
    poisson = make(analytic_tables, counts)
    tiny = with_variances(poisson, variances_of(analytic_tables, 1e-14))
    for one, other in zip(
        poisson.evaluate(truth).__dict__.values(), tiny.evaluate(truth).__dict__.values(), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9 * np.abs(one).max())


def test_signal_left_out_of_a_bin_takes_its_variance_along(analytic_tables):
    variances = variances_of(analytic_tables, 1.0)
    counts = np.full(N_BINS, 20000.0)
    background = variances * np.array([0.0, 1.0, 1.0, 1.0])[:, None]
    for has_signal, same in ((False, True), (True, False)):
        likelihood = make(analytic_tables, counts, has_signal=np.full(N_BINS, has_signal))
        values = [with_variances(likelihood, v).value(np.zeros(7)) for v in (variances, background)]
        assert (values[0] == values[1]) == same


@pytest.mark.parametrize("variance", [0.5, 3.0, 40.0])
def test_a_bin_without_events_is_continuous_with_its_slope(analytic_tables, variance):
    """Without events the per-bin function turns from a parabola into a line; value and slope join there."""
    yields = np.zeros_like(analytic_tables.yields)
    yields[..., 0, 0] = 1.0
    tables = dataclasses.replace(analytic_tables, yields=yields)
    variances = np.zeros((4, N_BINS))
    variances[0, 0] = variance
    likelihood = with_variances(make(tables, np.zeros(N_BINS)), variances)
    step = 1e-4
    for mu in np.concatenate([np.linspace(0.01, 2 * variance, 7), [variance - step / 2, variance]]):
        before, point, after = (likelihood.evaluate(np.array([m, *np.zeros(6)])) for m in (mu - step, mu, mu + step))
        assert (after.value - before.value) / (2 * step) == pytest.approx(point.gradient[0], abs=step)
    assert likelihood.value(np.array([-0.1, *np.zeros(6)])) == math.inf
