"""C V C from bootstraps of one training against the spread of estimates over retrainings, with Gaussians in the plane.

Four classes, of which the signal and the backgrounds move with tes: all density ratios are known. The response is
linear in x, so a linear model trained by the loss of the response networks has no error but that of its finite events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from sage.binned.response import POWERS, Response
from sage.challenge.nuisances import CHALLENGE
from sage.fit.newton import fit_global
from sage.rates import Rates
from sage.unbinned.calibration import Calibrated, RegionEvents, calibrate_regions
from sage.unbinned.displacement import asimov_data, covariance, displacements
from sage.unbinned.likelihood import UnbinnedLikelihood
from sage.unbinned.norms import Factors
from sage.unbinned.ratios import Calibration
from sage.unbinned.response import EXACT
from sage.unbinned.statistic import kernel, pack
from training.surrogates import pair_loss

Model = Callable[[np.ndarray], np.ndarray]
"""Coefficients of t and t^2, shape (n, 2), at points of shape (n, 2)."""
MEANS = np.array([[1.0, 0.5], [0.0, 0.0], [-1.0, 0.3], [0.5, -1.0]])
MOVES = np.array([[0.3, -0.15], [0.25, 0.1], [0.0, 0.3], [0.1, 0.1]])
"""Of the means, by one standard deviation of tes."""
YIELDS = np.array([1000.0, 7000.0, 1500.0, 500.0])
TRUTH = np.array([1.5, 1.2, 0.0, -5.0, 0.0, 0.0, 0.0])
TRAINED, CALIBRATED = 4000, 6000
"""Events of each class."""


def ratios(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * ((x[:, None] - MEANS) ** 2).sum(axis=2))


@dataclass
class Simulation:
    """Events that train, with their moved copies; and events that calibrate."""

    here: list[np.ndarray]
    there: list[np.ndarray]
    tes: list[np.ndarray]
    x: np.ndarray
    classes: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Simulation:
        here = [rng.normal(mean, 1.0, (TRAINED, 2)) for mean in MEANS]
        tes = [2.0 * rng.standard_normal(TRAINED) for _ in MEANS]
        there = [x + t[:, None] * move for x, t, move in zip(here, tes, MOVES, strict=True)]
        x = np.concatenate([rng.normal(mean, 1.0, (CALIBRATED, 2)) for mean in MEANS])
        return cls(here, there, tes, x, np.repeat(np.arange(4), CALIBRATED))

    def models(self, rng: np.random.Generator | None = None) -> list[Model]:
        """Train, on bootstrapped events if there is a generator."""
        often = [np.ones(TRAINED) if rng is None else rng.poisson(1.0, TRAINED).astype(float) for _ in MEANS]
        return [trained(*each) for each in zip(self.here, self.there, self.tes, often, strict=True)]

    def calibrated(self, models: list[Model], rng: np.random.Generator | None = None) -> Made:
        """Calibrate, likewise."""
        weights = YIELDS[self.classes] / CALIBRATED
        drawn = weights if rng is None else weights * rng.poisson(1.0, len(weights))
        drawn = drawn * (YIELDS / np.bincount(self.classes, drawn))[self.classes]
        events = RegionEvents(ratios(self.x), responses(models, self.x), weights, self.classes)
        return likelihood(events, calibrate_regions([events], EXACT, 1, [[drawn]])[0])


def responses(models: list[Model], x: np.ndarray) -> np.ndarray:
    """Return A, shape (n, 4, 9)."""
    out = np.zeros((len(x), 4, 9), np.float32)
    out[:, :, [0, 2]] = np.stack([model(x) for model in models], axis=1)
    return out


def trained(here: np.ndarray, there: np.ndarray, tes: np.ndarray, often: np.ndarray) -> Model:
    """Return the coefficients of t and t^2 as a function of x: linear, at the minimum of the loss."""
    model = torch.nn.Linear(2, 2, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    terms = np.tile(np.stack([tes, tes**2], axis=1), (2, 1))
    signs = np.repeat([1.0, -1.0], len(tes))
    batch = [torch.from_numpy(part) for part in (np.concatenate([here, there]), terms, signs, np.tile(often, 2))]
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = pair_loss(model, *batch) / len(tes)
        loss.backward()
        return loss

    optimiser.step(closure)
    weight, bias = (value.detach().numpy() for value in model.parameters())
    return lambda x: x @ weight.T + bias


@dataclass(frozen=True)
class Made:
    """A calibration, and the likelihood of the nominal events with it."""

    calibration: Calibration
    likelihood: UnbinnedLikelihood


def likelihood(events: RegionEvents, made: Calibrated) -> Made:
    """Return the likelihood of events with the surrogates; lambda is the known one."""
    yields = Response(YIELDS[:, None], np.zeros((4, 1, len(POWERS))))
    factors = Rates(Factors(yields, made.norms, made.norm_coefficients), CHALLENGE)
    packed = (pack(made.calibrations[0](events.ratios), events.response, events.weights),)
    rates = Rates(yields, CHALLENGE)
    return Made(made.calibrations[0], UnbinnedLikelihood(rates, factors, EXACT, packed, np.zeros(6), kernel()))


def nature(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points and the weights that make them the Asimov data at the truth."""
    x = rng.normal(0.0, 2.0, (n, 2))
    scales = YIELDS * np.array([TRUTH[0], 1.0, 1.0, 1.0])
    density = np.exp(-0.5 * ((x[:, None] - MEANS - TRUTH[1] * MOVES) ** 2).sum(axis=2)) @ scales
    return x, density / np.exp(-0.125 * (x**2).sum(axis=1)) * 4.0 / n


def estimate(x: np.ndarray, weights: np.ndarray, simulation: Simulation) -> np.ndarray:
    """Retrain, and fit the data."""
    models = simulation.models()
    made = simulation.calibrated(models)
    shares = made.calibration(ratios(x))
    data = (pack(shares, responses(models, x), weights),)
    return fit_global(replace(made.likelihood, events=data, centres=TRUTH[1:])).parameters


@pytest.mark.slow
def test_c_v_c_is_the_spread_of_retrainings():
    rng = np.random.default_rng(1)
    x, weights = nature(rng, 50_000)
    n = 100
    estimates = np.array([estimate(x, weights, Simulation.draw(rng)) for _ in range(n)])
    one = Simulation.draw(rng)
    base = one.calibrated(one.models()).likelihood
    replicas = [one.calibrated(one.models(rng), rng).likelihood for _ in range(n)]
    expected = covariance(displacements([asimov_data(base, [], TRUTH)], replicas))
    for i, name in ((0, "mu"), (1, "tes")):
        found, predicted = float(estimates[:, i].std(ddof=1)), float(np.sqrt(expected[i, i]))
        print(f"{name}: retrainings {found:.4f} +- {found / np.sqrt(2 * n):.4f}, C V C {predicted:.4f}")
        assert predicted == pytest.approx(found, rel=0.2)
    assert np.abs(estimates.mean(axis=0) - TRUTH)[:2].max() < 0.05


def test_wrong_responses_move_nothing_where_the_simulation_is():
    """There shares add up to 1 and norms are exact; elsewhere the same responses move tes."""
    rng = np.random.default_rng(2)
    simulation = Simulation.draw(rng)
    right = [
        lambda x, m=mean, d=move: (x - m) @ np.array([d, 0 * d]).T - [0, d @ d / 2]
        for mean, move in zip(MEANS, MOVES, strict=True)
    ]
    wrong = [lambda x, of=model: 1.02 * of(x) for model in right]
    base, replica = (simulation.calibrated(models).likelihood for models in (right, wrong))
    nominal = np.array([1.0, 0.0, 0.0, -5.0, 0.0, 0.0, 0.0])
    data = [asimov_data(base, [], truth) for truth in (TRUTH, nominal)]
    (there,), (here,) = displacements(data, [replica])
    # d = -C s says where the minimum is, as a fit does.
    fitted = fit_global(data[0].of(replica)).parameters - TRUTH
    assert there[1] == pytest.approx(-0.02 * TRUTH[1], rel=0.2)
    np.testing.assert_allclose(fitted[:2], there[:2], atol=0.002)
    np.testing.assert_allclose(here[:2], 0.0, atol=0.001)


def test_the_covariance_has_no_bias_from_few_replicas():
    rng = np.random.default_rng(3)
    factor = np.array([[1.0, 0.0], [0.5, 0.3]])
    offset = np.array([5.0, -2.0])
    found = np.mean([covariance(offset + rng.standard_normal((2, 3, 2)) @ factor.T) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(found, factor @ factor.T, atol=0.03)
