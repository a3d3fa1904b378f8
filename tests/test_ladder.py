"""Every step of the ladder is forced by taking away those before it; hostile input ends in an answer all the same."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import sage.fit.ladder
from sage.binned.statistic import BinnedLikelihood
from sage.binned.tables import YieldTables
from sage.challenge.nuisances import CHALLENGE
from sage.errors import FitError
from sage.fit.interval import measure_interval
from sage.fit.ladder import climb
from tests.drawing import few_and_many
from tests.likelihoods import likelihood_from

N_BINS = 40
STEPS = {
    "newton": "measure_interval",
    "damped": "damped_interval",
    "minuit": "minuit_interval",
    "grid": "grid_interval",
    "total": "total_interval",
}


@pytest.fixture
def likelihood(analytic_tables) -> BinnedLikelihood:
    rng = np.random.default_rng(31)
    bare = likelihood_from(analytic_tables, CHALLENGE, np.zeros(N_BINS), np.ones(N_BINS, bool))
    counts = rng.poisson(bare.expected(np.array([1.3, 0.4, -0.6, 0.2, 0.5, -0.3, 0.1])))
    return likelihood_from(analytic_tables, CHALLENGE, counts.astype(float), np.ones(N_BINS, bool))


def broken(*_):
    msg = "taken away"
    raise np.linalg.LinAlgError(msg)


@pytest.mark.parametrize("last", list(STEPS))
def test_each_step_takes_over_and_says_so(likelihood, monkeypatch, last):
    reference = measure_interval(likelihood)
    earlier = list(STEPS)[: list(STEPS).index(last)]
    for name in earlier:
        monkeypatch.setattr(sage.fit.ladder, STEPS[name], broken)
    interval = climb(likelihood)
    sigma = reference.fit.sigma_mu
    if not earlier:
        assert interval.flags == ()
        return
    assert interval.flags[0] == f"fit_by_{last}"
    assert [flag.partition(":")[0] for flag in interval.flags[1:]] == earlier
    assert all("taken away" in flag for flag in interval.flags[1:])
    if last == "total":
        # Far wider, and compatible.
        assert interval.high - interval.low > 3 * sigma
        assert interval.low < reference.fit.mu < interval.high
    else:
        allowed = {"damped": 1e-4, "minuit": 0.02, "grid": 0.3}[last] * sigma
        assert interval.fit.mu == pytest.approx(reference.fit.mu, abs=allowed)
        assert interval.low == pytest.approx(reference.low, abs=allowed)
        assert interval.high == pytest.approx(reference.high, abs=allowed)


@pytest.mark.parametrize("last", ["damped", "minuit", "grid", "total"])
def test_each_step_keeps_a_bound_on_mu(likelihood, monkeypatch, last):
    for name in list(STEPS)[: list(STEPS).index(last)]:
        monkeypatch.setattr(sage.fit.ladder, STEPS[name], broken)
    interval = climb(likelihood, mu_range=(1.25, 3.0))
    assert 1.25 <= interval.low <= interval.fit.mu <= interval.high <= 3.0


def test_minuit_is_skipped_where_it_is_not_installed(likelihood, monkeypatch):
    monkeypatch.setattr(sage.fit.ladder, "grid_interval", broken)
    for name in ("newton", "damped"):
        monkeypatch.setattr(sage.fit.ladder, STEPS[name], broken)
    original = builtins.__import__

    def without(name, *rest, **options):
        if name == "iminuit":
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    flags = climb(likelihood).flags
    assert flags[0] == "fit_by_total"
    assert flags[3] == "minuit: ImportError iminuit"


def test_a_flagged_answer_is_not_taken_while_a_later_step_does_better(likelihood, monkeypatch):
    interval = measure_interval(likelihood)
    poor = type(interval)(interval.fit, interval.low, interval.high, ("limit_not_found",))
    monkeypatch.setattr(sage.fit.ladder, "measure_interval", lambda *_: poor)
    assert climb(likelihood).flags == ("fit_by_damped", "newton: limit_not_found")


def test_nothing_left_is_an_error_that_tells_every_reason(likelihood, monkeypatch):
    for name in STEPS.values():
        monkeypatch.setattr(sage.fit.ladder, name, broken)
    with pytest.raises(FitError, match=r"newton: LinAlgError taken away.*total: LinAlgError"):
        climb(likelihood)


def test_the_total_has_the_width_of_a_counting_experiment(likelihood, monkeypatch):
    """Toys of the total alone scatter as the last step says, the nuisances drawn from their constraints."""
    rng = np.random.default_rng(32)
    for name in list(STEPS)[:-1]:
        monkeypatch.setattr(sage.fit.ladder, STEPS[name], broken)
    found, sigmas = [], []
    for _ in range(300):
        truth = np.concatenate([[1.0], rng.normal(size=6)])
        truth[3] = min(truth[3], math.log(5.0))
        counts = rng.poisson(likelihood.expected(truth)).astype(float)
        interval = climb(likelihood_from(likelihood.rates.templates, CHALLENGE, counts, likelihood.rates.has_signal))
        found.append(interval.fit.mu)
        sigmas.append((interval.high - interval.low) / 2)
    # First order in soft_met is rough; four standard errors of a width from 300 toys are 0.16.
    assert np.std(found) / np.mean(sigmas) == pytest.approx(1.0, abs=0.2)


def check_counts_and_templates(counts, level, empty, simulated, bounded, seed):
    rng = np.random.default_rng(seed)
    yields = np.exp(rng.normal(level, 1.5, (3, 3, 3, 4, 12))) * (rng.uniform(size=(4, 12)) >= empty)
    axes = (np.linspace(0.96, 1.04, 3), np.linspace(0.96, 1.04, 3), np.linspace(0.0, 5.0, 3))
    variances = None if simulated is None else simulated * yields[1, 1, 0]
    has_signal = rng.uniform(size=12) > 0.2
    likelihood = likelihood_from(YieldTables(axes, yields), CHALLENGE, counts, has_signal, variances=variances)
    signal = yields[1, 1, 0, 0] * has_signal
    reason = ""
    try:
        interval = climb(likelihood, (0.1, 3.0) if bounded else None)
    except FitError as error:
        reason = str(error)
    if reason:
        # Left to the constant answer: no signal anywhere, or a total outside the bounds or beyond any signal.
        assert bounded or not signal.any() or "no signal strength" in reason
        return
    assert np.isfinite([interval.low, interval.high, interval.fit.mu]).all()
    assert interval.low <= interval.fit.mu <= interval.high


test_any_counts_and_any_templates_give_a_finite_ordered_interval, test_more_counts_and_templates = few_and_many(
    check_counts_and_templates,
    (10, 100),
    counts=arrays(np.float64, 12, elements=st.floats(0, 1e9, allow_subnormal=False)),
    level=st.floats(-6, 8),
    empty=st.floats(0, 0.6),
    simulated=st.sampled_from([None, 1e-3, 1.0, 30.0]),
    bounded=st.booleans(),
    seed=st.integers(0, 1000),
)
