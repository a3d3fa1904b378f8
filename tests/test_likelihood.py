"""The closed-form likelihood against torch autograd, a loop over bins and scipy's Poisson distribution."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from sage.likelihood import Likelihood
from sage.nuisances import CHALLENGE, PROCESSES, variant

N_BINS = 40


def make(tables, counts, name="challenge", centres=None, has_signal=None) -> Likelihood:
    has_signal = np.ones(N_BINS, bool) if has_signal is None else has_signal
    return Likelihood(tables, variant(name), counts, has_signal, np.zeros(6) if centres is None else centres)


def autograd_nll(likelihood: Likelihood, parameters: torch.Tensor) -> torch.Tensor:
    """The same function in torch, with its own trilinear interpolation; for autograd only."""
    mu, nus = parameters[0], parameters[1:]
    alphas = []
    for nuisance, nu in zip(likelihood.nuisances, nus, strict=True):
        exponential = hasattr(nuisance.to_alpha, "offset")
        mapping = nuisance.to_alpha
        raw = torch.exp(mapping.width * nu) + mapping.offset if exponential else mapping.centre + mapping.width * nu
        alphas.append(raw.clamp(*nuisance.clip))
    table = torch.from_numpy(likelihood.templates.yields)
    for axis_array, alpha in zip(likelihood.templates.axes, alphas[:3], strict=True):
        axis = torch.from_numpy(axis_array)
        value = alpha.clamp(float(axis[0]), float(axis[-1]))
        cell = min(int(torch.searchsorted(axis, value.detach(), right=True)) - 1, len(axis) - 2)
        share = (value - axis[cell]) / (axis[cell + 1] - axis[cell])
        table = table[cell] * (1 - share) + table[cell + 1] * share
    signal, z, tt, vv = (table[PROCESSES.index(name)] for name in ("htautau", "ztautau", "ttbar", "diboson"))
    tt_scale, vv_scale, bkg = alphas[3:]
    rate = mu * signal * torch.from_numpy(likelihood.has_signal) + bkg * (z + tt_scale * tt + vv_scale * vv)
    n = torch.from_numpy(likelihood.counts)
    poisson = (rate - n + torch.special.xlogy(n, n / rate)).sum()
    return poisson + 0.5 * ((nus - torch.from_numpy(likelihood.centres)) ** 2).sum()


@pytest.mark.parametrize("name", ["challenge", "seed"])
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
    changed = Likelihood(analytic_tables, (*CHALLENGE[:5], tt_only), np.zeros(N_BINS), np.ones(N_BINS, bool))
    assert not np.allclose(changed.expected(at), likelihood.expected(at))


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
