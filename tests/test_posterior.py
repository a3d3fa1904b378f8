"""The interval of the posterior: truncated Gaussians, dense integration, and the answer where it cannot be fitted."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from sage.binned.statistic import with_counts
from sage.errors import TimeLimitError
from sage.files.bundle import read_bundle
from sage.fit.interval import Interval, measure_interval
from sage.fit.misfit import misfit_scale
from sage.fit.newton import fit
from sage.fit.objective import Wrapped
from sage.fit.posterior import TAIL, posterior_interval
from sage.measurement import fit_interval, likelihood_of
from studies.likelihoods import asimov_likelihood, parameters_at
from tests.conftest import ROOT
from tests.test_objective import CENTRES, TOTAL, TRUTH, Parabola

RANGES = [(TRUTH - 0.3, TRUTH + 2.0), (TRUTH + 0.2, TRUTH + 3.0), (TRUTH + 0.8, 9.0), (-9.0, TRUTH + 0.1), (0.1, 3.0)]


def truncated(prior, scale=1.0):
    """Return the quantiles of a Gaussian of the parabola's width that is cut off at the ends of the prior."""
    low, high = ((end - TRUTH) / (scale * TOTAL) for end in prior)
    return stats.truncnorm.ppf([TAIL, 1.0 - TAIL], low, high, loc=TRUTH, scale=scale * TOTAL)


@pytest.mark.parametrize("prior", RANGES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_gaussian_profile_gives_quantiles_of_the_truncated_gaussian(prior, scale):
    objective = Parabola(CENTRES)
    profile = measure_interval(objective)
    profile = dataclasses.replace(profile, low=TRUTH - scale * TOTAL, high=TRUTH + scale * TOTAL)
    found = posterior_interval(objective, profile, prior, scale)
    np.testing.assert_allclose([found.low, found.high], truncated(prior, scale), atol=5e-4 * TOTAL)
    assert not found.flags
    assert found.fit == profile.fit


def test_a_wide_range_gives_the_interval_of_the_profile():
    objective = Parabola(CENTRES)
    profile = measure_interval(objective)
    found = posterior_interval(objective, profile, (-50.0, 60.0))
    np.testing.assert_allclose([found.low, found.high], [profile.low, profile.high], atol=5e-4 * TOTAL)


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(ROOT / "weights")


@pytest.mark.parametrize(("mu", "seed"), [(0.1, 1), (1.0, 3), (3.0, 5)])
def test_against_dense_integration_of_the_shipped_likelihood(bundle, mu, seed):
    expected = asimov_likelihood(bundle, parameters_at(bundle, mu)).statistic.counts
    counts = np.random.default_rng(seed).poisson(expected).astype(float)
    likelihood = with_counts(likelihood_of(np.zeros(bundle.regions.n_bins), bundle), counts)
    settings = bundle.settings | {"flat_prior": [0.1, 3.0]}
    found, profile = fit_interval(likelihood, settings), fit_interval(likelihood, bundle.settings)
    assert found.fit.mu == profile.fit.mu
    grid, at, values = np.linspace(0.1, 3.0, 301), profile.fit.parameters, []
    for value in grid.tolist():
        result = fit(likelihood, at, fixed_mu=value)
        at = result.parameters
        values.append(result.value)
    density = np.exp(min(values) - np.array(values))
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    ends = np.interp([TAIL * below[-1], (1.0 - TAIL) * below[-1]], below, grid)
    np.testing.assert_allclose([found.low, found.high], ends, atol=2e-3 * (profile.high - profile.low))
    assert 0.1 < found.low < found.high < 3.0


@dataclasses.dataclass(frozen=True)
class Late(Wrapped):
    """An objective whose time is over."""

    def evaluate(self, parameters):
        msg = "over"
        raise TimeLimitError(msg)


@dataclasses.dataclass(frozen=True)
class Edged(Wrapped):
    """An objective that is infinite above a signal strength."""

    def evaluate(self, parameters):
        found = self.objective.evaluate(parameters)
        return dataclasses.replace(found, value=math.inf) if parameters[0] > TRUTH + 1.0 else found


@pytest.mark.parametrize("spoiled", [Late, Edged])
def test_parabolas_through_the_limits_stand_in(spoiled):
    objective = Parabola(CENTRES)
    profile = dataclasses.replace(measure_interval(objective), flags=("before",))
    prior = (TRUTH - 0.3, TRUTH + 2.0)
    found = posterior_interval(spoiled(objective), profile, prior)
    np.testing.assert_allclose([found.low, found.high], truncated(prior), atol=2e-3 * TOTAL)
    assert found.flags == ("before", "posterior_from_limits")


def test_parabolas_have_the_width_of_their_side():
    objective = Parabola(CENTRES)
    best = measure_interval(objective).fit
    found = posterior_interval(Late(objective), Interval(best, TRUTH - 0.2, TRUTH + 0.6), (-9.0, 9.0))
    # Of two half Gaussians joined at their mode, each holds a share of the probability in proportion to its width.
    low = stats.norm.ppf(TAIL / (2 * 0.25))
    high = stats.norm.isf(TAIL / (2 * 0.75))
    np.testing.assert_allclose([found.low, found.high], [TRUTH + 0.2 * low, TRUTH + 0.6 * high], atol=1e-3)


def test_a_poor_fit_widens_the_posterior(bundle):
    expected = asimov_likelihood(bundle, parameters_at(bundle, 4.0)).statistic.counts
    rng = np.random.default_rng(8)
    counts = expected + 4.0 * np.sqrt(expected) * rng.choice([-1.0, 1.0], len(expected))
    likelihood = with_counts(likelihood_of(np.zeros(bundle.regions.n_bins), bundle), np.maximum(counts, 0.0))
    profile = fit_interval(likelihood, bundle.settings)
    assert misfit_scale(profile, likelihood) > 1.5
    assert 2.5 < profile.fit.mu < 6.0
    found = fit_interval(likelihood, bundle.settings | {"flat_prior": [0.0, 9.0]})
    assert found.high - found.low == pytest.approx(profile.high - profile.low, rel=0.1)
    assert found.flags == profile.flags
