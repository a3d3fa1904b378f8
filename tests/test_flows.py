"""Coupling flows and their losses, against autograd, quadrature and closed forms."""

import math

import numpy as np
import pytest
import torch

from sage.errors import SettingsError
from sage.flows.density import Layer, log_density
from training.flow_losses import (
    FitSettings,
    contrastive,
    contrastive_loss,
    fit_flows,
    likelihood_loss,
    two_flow_loss,
    two_flows,
)
from training.flows import PUBLISHED, CouplingFlow, FlowSettings

SMALL = (16, 16)
KINDS = {
    "affine": FlowSettings("affine", 4, SMALL),
    "spline": FlowSettings("spline", 3, SMALL),
    "gated": FlowSettings("gated", 4, SMALL),
    "published": FlowSettings("gated", 4, SMALL, "quadratic"),
}
ONE_TO_ONE = ("affine", "spline", "gated")


def excited(features, settings, seed=1, size=1.5):
    """A flow far from the identity, float64."""
    torch.manual_seed(seed)
    flow = CouplingFlow(features, settings).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter *= size
        for perceptron in flow.perceptrons:
            for parameter in perceptron[-2].parameters():
                parameter *= 6.0
    return flow


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [2, 5])
def test_log_det_is_that_of_the_jacobian(kind, features):
    flow = excited(features, KINDS[kind])
    x = torch.randn(20, features, dtype=torch.float64)
    _, found = flow(x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: flow(one[None])[0][0]))(x)
    expected = torch.linalg.slogdet(jacobian)[1]
    assert float(found.detach().abs().max()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ONE_TO_ONE)
def test_inverse_leads_back(kind):
    flow = excited(5, KINDS[kind])
    x = 2.0 * torch.randn(500, 5, dtype=torch.float64)
    z, _ = flow(x)
    assert float((z - x).detach().abs().max()) > 0.5
    torch.testing.assert_close(flow.inverse(z), x, atol=1e-4, rtol=0)


def integral(flow, reach, points):
    """Integral of a two-dimensional density by the midpoint rule."""
    step = 2.0 * reach / points
    axis = torch.arange(points, dtype=torch.float64) * step + (0.5 * step - reach)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        return sum(float(flow.log_density(part).exp().sum()) for part in grid.split(100_000)) * step**2


@pytest.mark.parametrize("kind", ONE_TO_ONE)
def test_densities_are_normalised(kind):
    flow = excited(2, KINDS[kind], size=1.2)
    assert integral(flow, 20.0, 800) == pytest.approx(1.0, abs=1e-3)


def test_the_quadratic_layer_is_not_normalised_and_has_no_inverse():
    """With s' at its bound both sides of x = -6.6 map to the same points: twice almost all of the normal density."""
    flow = CouplingFlow(2, FlowSettings("quadratic", 1, SMALL)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
        flow.perceptrons[0][-2].bias[0] = 20.0
    curvature = 0.1 * math.tanh(1.0)
    expected = 1.0 + math.erf(1.0 / (4.0 * curvature) / math.sqrt(2.0))
    assert integral(flow, 25.0, 1200) == pytest.approx(expected, abs=1e-3)
    assert expected > 1.99
    with pytest.raises(SettingsError, match="folds"):
        flow.inverse(torch.zeros(1, 2, dtype=torch.float64))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "spline"])
def test_plain_arrays_give_the_same_density(kind):
    flow = excited(5, KINDS[kind]).float()
    x = torch.randn(200, 5)
    found = log_density(flow.layers(), x.numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, flow.log_density(x).detach().numpy(), rtol=1e-4, atol=1e-3)


def test_the_contrastive_optimum_of_two_gaussians():
    """A histogram of N(0, 1) against N(1, 1) reaches (c p_o - p_a)_+ / Z, and lies at the floor where p_a > c p_o."""
    edges = torch.linspace(-4, 4, 41, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    p_o, p_a = (torch.diff(normal.cdf(edges - d)) for d in (0.0, 1.0))
    p_o, p_a = p_o / p_o.sum(), p_a / p_a.sum()
    width = float(edges[1] - edges[0])
    for c in (1.0, 2.0, 1e4):
        theta = torch.zeros_like(p_o, requires_grad=True)
        optimiser = torch.optim.Adam([theta], lr=0.5, eps=1e-15)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.999)
        for _ in range(4000):
            optimiser.zero_grad()
            log_q = torch.log_softmax(theta, 0) - math.log(width)
            (contrastive(log_q, log_q, c, own_weights=p_o, other_weights=p_a) / c).backward()
            optimiser.step()
            schedule.step()
        q = torch.softmax(theta, 0).detach()
        optimum = (c * p_o - p_a).clamp_min(0.0)
        torch.testing.assert_close(q, optimum / optimum.sum(), atol=2e-3, rtol=0)
        emptied = p_a > 1.1 * c * p_o
        assert bool(emptied.any()) == (c < 100.0)
        if emptied.any():
            # Where nothing of the own class holds it up it stays a little below the floor.
            assert float((q[emptied].log() - math.log(width)).max()) < -49.0
        else:
            torch.testing.assert_close(q, p_o, atol=2e-3, rtol=0)


def test_two_flows_find_the_ratio_of_two_gaussians():
    """The loss over the true densities on a grid: exp(d x - d^2 / 2) within 2 % where most events are."""
    d = 1.0
    axis = torch.linspace(-5.0, 6.0, 40)
    grid = torch.cartesian_prod(axis, axis)
    normal = torch.distributions.Normal(0.0, 1.0)
    weights = [normal.log_prob(grid - torch.tensor([shift, 0.0])).sum(1).exp() for shift in (d, 0.0)]
    own_weights, other_weights = (weight / weight.sum() for weight in weights)
    torch.manual_seed(1)
    flows = [CouplingFlow(2, FlowSettings("affine", 2, (16,))) for _ in range(2)]
    parameters = [parameter for flow in flows for parameter in flow.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1500)
    for _ in range(1500):
        optimiser.zero_grad()
        r = flows[0].log_density(grid) - flows[1].log_density(grid)
        two_flows(r, r, own_weights, other_weights).backward()
        optimiser.step()
        schedule.step()
    bulk = (grid - torch.tensor([0.5 * d, 0.0])).norm(dim=1) < 2.0
    with torch.no_grad():
        ratio = (flows[0].log_density(grid) - flows[1].log_density(grid)).exp()[bulk]
    expected = (d * grid[bulk, 0] - d**2 / 2).exp()
    torch.testing.assert_close(ratio, expected, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("kind", ["affine", "gated", "published"])
@pytest.mark.parametrize("features", [2, 5])
def test_a_flow_is_made_again_of_its_layers(kind, features):
    flow = excited(features, KINDS[kind]).float()
    again = CouplingFlow.of_layers(flow.layers())
    assert again.settings.kinds == flow.settings.kinds
    x = torch.randn(50, features)
    torch.testing.assert_close(again.log_density(x), flow.log_density(x), atol=0, rtol=0)


def test_training_lowers_the_loss_and_keeps_the_best():
    own, other = torch.randn(2000, 3) * 0.5 + 1.0, torch.randn(2000, 3)
    settings = FitSettings(epochs=6, patience=2, batch=200, rate=5e-3, seed=3)
    generator = torch.Generator().manual_seed(3)
    held = [x[torch.randperm(2000, generator=generator)[:400]] for x in (own, other)]
    for loss, n in ((likelihood_loss, 1), (contrastive_loss(2.0), 1), (two_flow_loss, 2)):
        torch.manual_seed(1)
        flows = [CouplingFlow(3, FlowSettings("affine", 2, (8,))) for _ in range(n)]
        report = fit_flows(flows, own, other, loss, settings)
        assert not report.flags
        assert min(report.losses) < report.losses[0]
        with torch.no_grad():
            assert float(loss(flows, *held)) == min(report.losses)


def test_a_training_that_fails_ends_with_the_best_parameters():
    own, other = torch.randn(400, 2) + 1.0, torch.randn(400, 2)
    calls = []

    def loss(flows, own, other):
        calls.append(1)
        return likelihood_loss(flows, own, other) * (math.nan if len(calls) > 20 else 1.0)

    torch.manual_seed(1)
    flow = CouplingFlow(2, FlowSettings("affine", 2, (4,)))
    report = fit_flows([flow], own, other, loss, FitSettings(epochs=50, patience=50, batch=100))
    assert [flag.partition(":")[0] for flag in report.flags] == [f"stopped in epoch {len(report.losses)}"]
    assert 0 < len(report.losses) < 10
    assert torch.isfinite(flow.log_density(own)).all()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FlowSettings("radial"), "'radial'"),
        (lambda: FlowSettings(last="radial"), "'radial'"),
        (lambda: FlowSettings(layers=0), "0 layers"),
        (lambda: FlowSettings(hidden=()), r"\(\)"),
        (lambda: FlowSettings(hidden=(8, 0)), r"\(8, 0\)"),
        (lambda: CouplingFlow(1), "1 columns"),
        (lambda: CouplingFlow(2, FlowSettings("spline", 1, SMALL)).layers(), "spline"),
        (lambda: contrastive(torch.zeros(2), torch.zeros(2), 0.0), "c is 0.0"),
        (lambda: contrastive(torch.zeros(2), torch.zeros(2), math.nan), "c is nan"),
        (lambda: contrastive(torch.zeros(2), torch.zeros(2), 1.0, 0.0), "floor 0.0"),
        (lambda: FitSettings(epochs=0), "epochs=0"),
        (lambda: FitSettings(rate=0.0), "rate=0.0"),
        (lambda: FitSettings(held_out=1.0), "held_out=1.0"),
        (
            lambda: fit_flows([CouplingFlow(2)], torch.zeros(3, 2), torch.zeros(99, 2), likelihood_loss, FitSettings()),
            "3",
        ),
        (lambda: log_density((Layer("radial", ()),), np.zeros((1, 2))), "'radial'"),
    ],
)
def test_invalid_settings_are_refused(make, named):
    with pytest.raises(SettingsError, match=named):
        make()


def test_the_published_flow_is_as_published():
    flow = CouplingFlow(20, PUBLISHED)
    assert flow.settings.kinds == ("gated",) * 29 + ("quadratic",)
    linear = [part for part in flow.perceptrons[0] if isinstance(part, torch.nn.Linear)]
    assert [part.out_features for part in linear] == [64, 64, 64, 64, 30]
