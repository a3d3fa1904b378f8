"""The likelihood and its minimum against pyhf, an implementation by others, with the same interpolation in both.

What pyhf cannot express is left out: our rates become exponential (its ``normsys``), and each shape nuisance adds its
own change to the yields, by parabola-like polynomials inside and lines outside of one standard deviation (its
``histosys``, interpolation code 4p, arXiv:1503.07622).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sage.binned.statistic import BinnedLikelihood, with_counts
from sage.challenge.nuisances import PROCESSES, PUBLISHED, SIGNAL, Linear
from sage.files.bundle import read_bundle
from sage.fit.interval import measure_interval
from tests.events import FIVE_WEIGHTS
from tests.likelihoods import likelihood_from

pyhf = pytest.importorskip("pyhf")

REACH = 5.0
NUISANCES = tuple(
    dataclasses.replace(nuisance, to_alpha=Linear(0.0, 1.0), clip=(-REACH, REACH), nu_range=(-REACH, REACH))
    if nuisance.kind == "shape"
    else nuisance
    for nuisance in PUBLISHED
)
NOMINAL = (1.0, 1.0, 1.0)
DOWN, UP = (0.99, 0.99, math.exp(-1.0)), (1.01, 1.01, math.exp(1.0))
"""tes, jes and soft_met at the median and one standard deviation of their priors either side."""


@dataclasses.dataclass(frozen=True)
class AddedShapes:
    """Templates of three variations that add up, shape (P, B) at nominal and (3, P, B) at plus and minus one."""

    nominal: np.ndarray
    down: np.ndarray
    up: np.ndarray

    @property
    def axes(self):
        return (np.array([-REACH, REACH]),) * 3

    def terms(self, point):
        out = np.zeros((10, *self.nominal.shape))
        out[0] = self.nominal
        for i, a in enumerate(point):
            above, below = self.up[i] - self.nominal, self.nominal - self.down[i]
            mean, difference = (above + below) / 2, (above - below) / 16
            if abs(a) < 1:
                change = a * mean + (3 * a**6 - 10 * a**4 + 15 * a**2) * difference
                slope = mean + (18 * a**5 - 40 * a**3 + 30 * a) * difference
                curvature = (90 * a**4 - 120 * a**2 + 30) * difference
            else:
                slope = above if a > 0 else below
                change, curvature = a * slope, 0 * slope
            out[0] += change
            out[1 + i] = slope
            out[4 + i] = curvature
        return out


@pytest.fixture(scope="module")
def empty() -> BinnedLikelihood:
    """Without counts, in the regions of the shipped weights."""
    bundle = read_bundle(FIVE_WEIGHTS)

    def yields(point):
        out = bundle.response.terms(point)[0]
        out[PROCESSES.index(SIGNAL)] *= bundle.regions.has_signal
        return out

    moved = [np.array([yields(tuple(np.where(np.arange(3) == i, to, NOMINAL))) for i in range(3)]) for to in (DOWN, UP)]
    shapes = AddedShapes(yields(NOMINAL), *moved)
    n_bins = bundle.regions.n_bins
    return likelihood_from(shapes, NUISANCES, np.zeros(n_bins), np.ones(n_bins, bool))


@pytest.fixture(scope="module")
def model(empty):
    """The same in pyhf."""
    shapes, samples = empty.rates.templates, []
    for p, process in enumerate(PROCESSES):
        modifiers = [{"name": "mu", "type": "normfactor", "data": None}] if process == SIGNAL else []
        axis = 0
        for nuisance in NUISANCES:
            if nuisance.kind == "shape":
                data = {"lo_data": shapes.down[axis, p].tolist(), "hi_data": shapes.up[axis, p].tolist()}
                modifiers.append({"name": nuisance.name, "type": "histosys", "data": data})
                axis += 1
            elif process in nuisance.scales:
                data = {"lo": nuisance.alpha(-1.0)[0], "hi": nuisance.alpha(1.0)[0]}
                modifiers.append({"name": nuisance.name, "type": "normsys", "data": data})
        samples.append({"name": process, "data": shapes.nominal[p].tolist(), "modifiers": modifiers})
    settings = {"histosys": {"interpcode": "code4p"}, "normsys": {"interpcode": "code1"}}
    spec = {"channels": [{"name": "regions", "samples": samples}]}
    return pyhf.Model(spec, poi_name="mu", modifier_settings=settings, validate=False)


def in_order_of(model, parameters: np.ndarray) -> np.ndarray:
    """Parameters (mu, nu...) in pyhf's order."""
    names = ["mu", *(nuisance.name for nuisance in NUISANCES)]
    return np.array([parameters[names.index(name)] for name in model.config.par_names])


def drawn(empty, rng) -> tuple[np.ndarray, BinnedLikelihood]:
    truth = np.array([rng.uniform(0.1, 3.0), *rng.normal(size=6).clip(-3, 3)])
    return truth, with_counts(empty, rng.poisson(empty.expected(truth)).astype(float))


def test_expected_events_and_likelihood_ratios_are_those_of_pyhf(empty, model):
    rng = np.random.default_rng(61)
    for _ in range(10):
        truth, likelihood = drawn(empty, rng)
        data = [*likelihood.statistic.counts, *model.config.auxdata]
        other = truth + rng.normal(scale=0.3, size=7)
        np.testing.assert_allclose(
            model.expected_actualdata(in_order_of(model, truth)), likelihood.expected(truth), rtol=1e-10
        )
        theirs = [model.logpdf(in_order_of(model, at), data)[0] for at in (other, truth)]
        assert likelihood.value(truth) - likelihood.value(other) == pytest.approx(theirs[0] - theirs[1], abs=1e-6)


@pytest.fixture
def _minuit():
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-3, strategy=1))
    yield
    pyhf.set_backend("numpy")


@pytest.mark.slow
@pytest.mark.usefixtures("_minuit")
def test_estimates_and_limits_of_forty_toys_are_those_of_pyhf(empty, model):
    """At our limits, twice the negative log-likelihood that pyhf profiles must have risen by 1."""
    rng = np.random.default_rng(62)
    start = in_order_of(model, np.concatenate([[1.0], np.zeros(6)])).tolist()
    bounds = [(-5.0, 10.0) if name == "mu" else (-REACH, REACH) for name in model.config.par_names]
    for _ in range(40):
        _, likelihood = drawn(empty, rng)
        ours = measure_interval(likelihood)
        data = [*likelihood.statistic.counts, *model.config.auxdata]
        theirs, lowest = pyhf.infer.mle.fit(data, model, start, bounds, return_fitted_val=True)
        assert theirs[model.config.poi_index] == pytest.approx(ours.fit.mu, abs=0.005 * ours.fit.sigma_mu)
        for limit in (ours.low, ours.high):
            _, value = pyhf.infer.mle.fixed_poi_fit(limit, data, model, start, bounds, return_fitted_val=True)
            assert value - lowest == pytest.approx(1.0, abs=1e-4)
