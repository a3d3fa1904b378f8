"""The time guard: wherever the time runs out there is an answer that says so; in normal use it never does."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

import sage.fit.deadline
import sage.fit.ladder
import sage.measurement
from model import Model
from sage.challenge.frame import read_test_set
from sage.challenge.nuisances import CHALLENGE
from sage.errors import TimeLimitError
from sage.files.settings import DEFAULT_SETTINGS
from sage.fit.deadline import SHARE, Deadline
from sage.fit.interval import measure_interval
from sage.fit.ladder import climb
from sage.measurement import count_events, likelihood_of, measure
from sage.network.classifier import NetworkClassifier
from tests.events import FIVE_WEIGHTS, drawn_frame, full_weights
from tests.likelihoods import likelihood_from
from tests.test_ladder import STEPS, broken

ROWS, BLOCKS = 20_000, 5
LIMIT = DEFAULT_SETTINGS["time_limit"]


@pytest.fixture(scope="module")
def model():
    return Model(weights=FIVE_WEIGHTS, threads=1)


@pytest.fixture(scope="module")
def test_set():
    """Few events that stand for all, so that they are fitted the normal way; they do so poorly, which is flagged."""
    return {"data": drawn_frame(ROWS, 8), "weights": full_weights(ROWS)}


@pytest.fixture(autouse=True)
def _blocks(monkeypatch):
    monkeypatch.setattr(sage.measurement, "BLOCK", ROWS // BLOCKS)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it has been looked at a number of times; then it is far too late."""

    class Clock:
        def __init__(self):
            self.looks, self.last = 0, math.inf

        def __call__(self):
            self.looks += 1
            return 0.0 if self.looks <= self.last else 1e6

        def stop_after(self, looks):
            self.looks, self.last = 0, looks

    made = Clock()
    monkeypatch.setattr(sage.fit.deadline, "clock", made)
    return made


def check(result):
    answer = result.answer()
    assert all(type(value) is float and math.isfinite(value) for value in answer.values())
    assert answer["p16"] <= answer["mu_hat"] <= answer["p84"]
    return [flag for flag in result.flags if flag.startswith("time_guard: ")]


def test_whenever_the_time_runs_out_there_is_an_answer_that_says_so(model, test_set, clock):
    """The clock is looked at to start with, before each block, and at each evaluation of the likelihood."""
    normal = measure(test_set, model.bundle, model._ready())
    assert len(normal.flags) == 1
    assert normal.flags[0].startswith("poor_fit")
    looks = clock.looks
    assert 1 + BLOCKS + 5 < looks < 200
    for last in range(1, looks + 1):
        clock.stop_after(last)
        result = measure(test_set, model.bundle, model._ready())
        guarded = check(result)
        if last <= BLOCKS:
            assert (result.status, result.mu_hat) == ("fallback", 1.55)
            assert guarded[0].startswith(f"time_guard: counting stopped, time_limit is {LIMIT:g} s")
        elif last < looks:
            assert result.status == "flagged"
            assert result.flags[0] == "fit_by_total"
            assert guarded == [f"time_guard: newton stopped, {guarded[0].partition(', ')[2]}"]
            assert result.p16 < normal.mu_hat < result.p84
        else:
            assert result == normal


@pytest.mark.parametrize("threads", [1, 2])
def test_counting_stops_between_blocks(model, test_set, clock, threads):
    columns, weights, _ = read_test_set(test_set)
    classifier = NetworkClassifier(model.bundle.network, model.bundle.normalisation, threads=threads)
    clock.stop_after(3)
    with pytest.raises(TimeLimitError):
        count_events(columns, model.bundle.regions, classifier, weights, Deadline(LIMIT))
    # One look to start with; then every block that is left looks once, and is not counted.
    assert clock.looks <= 1 + BLOCKS


@pytest.mark.parametrize("last", list(STEPS)[:-1])
@pytest.mark.parametrize("evaluations", [1, 7])
def test_from_every_step_it_goes_straight_to_the_last_one(model, test_set, clock, monkeypatch, last, evaluations):
    columns, weights, _ = read_test_set(test_set)
    likelihood = likelihood_of(count_events(columns, model.bundle.regions, model._ready(), weights), model.bundle)
    names = list(STEPS)
    for name in names[: names.index(last)]:
        monkeypatch.setattr(sage.fit.ladder, STEPS[name], broken)
    for name in names[names.index(last) + 1 : -1]:
        monkeypatch.setattr(sage.fit.ladder, STEPS[name], lambda *_: pytest.fail("tried a step without time"))
    clock.stop_after(1 + evaluations)
    interval = climb(likelihood, deadline=Deadline(LIMIT))
    assert clock.looks == 1 + evaluations + 1
    assert interval.flags[0] == "fit_by_total"
    assert interval.flags[-1].startswith(f"time_guard: {last} stopped, ")
    expected = sage.fit.ladder.total_interval(likelihood, None, None)
    assert (interval.low, interval.fit.mu, interval.high) == (expected.low, expected.fit.mu, expected.high)


def test_a_deadline_changes_no_bit_of_a_fit_in_time(model, test_set):
    columns, weights, _ = read_test_set(test_set)
    likelihood = likelihood_of(count_events(columns, model.bundle.regions, model._ready(), weights), model.bundle)
    free, limited = climb(likelihood), climb(likelihood, deadline=Deadline(LIMIT))
    assert (free.low, free.fit.mu, free.high, free.flags) == (limited.low, limited.fit.mu, limited.high, limited.flags)


def with_settings(model, **settings):
    return replace(model.bundle, settings=model.bundle.settings | settings)


def test_the_published_recipe_is_not_cut(model, test_set, clock, monkeypatch):
    monkeypatch.setattr(sage.measurement, "published_interval", measure_interval)
    clock.stop_after(0)
    assert not check(measure(test_set, with_settings(model, profile="published"), model._ready()))


def test_no_limit_is_none(model, test_set, clock):
    clock.stop_after(0)
    result = measure(test_set, with_settings(model, time_limit=None), model._ready())
    assert len(result.flags) == 1
    assert result.flags[0].startswith("poor_fit")
    assert clock.looks == 0


def test_a_limit_that_nothing_can_keep_with_a_real_clock(model, test_set, monkeypatch):
    monkeypatch.setattr(sage.fit.deadline, "clock", time.monotonic)
    result = measure(test_set, with_settings(model, time_limit=1e-6), model._ready())
    assert (result.status, len(check(result))) == ("fallback", 1)


def test_a_total_outside_the_bounds_ends_in_the_fall_back_with_the_reason(model, test_set, clock):
    clock.stop_after(BLOCKS + 2)
    doubled = test_set | {"weights": 2 * test_set["weights"]}
    result = measure(doubled, with_settings(model, mu_range=[0.1, 3.0]), model._ready())
    check(result)
    assert result.status == "fallback"
    assert "time_guard: newton stopped" in result.flags[0]


def test_it_fires_before_the_limit(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(sage.fit.deadline, "clock", lambda: now[0])
    deadline = Deadline(LIMIT)
    now[0] = 100.0 + SHARE * LIMIT
    deadline.check()
    now[0] += 1e-3
    assert now[0] < 100.0 + LIMIT
    with pytest.raises(TimeLimitError, match="time_limit is 18 s"):
        deadline.check()


def test_looking_at_the_clock_is_nothing_beside_an_evaluation(monkeypatch, analytic_tables):
    monkeypatch.setattr(sage.fit.deadline, "clock", time.monotonic)
    likelihood = likelihood_from(analytic_tables, CHALLENGE, np.ones(40), np.ones(40, bool))
    at, deadline = np.eye(7)[0], Deadline(LIMIT)

    def fastest(work):
        times = []
        for _ in range(200):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return min(times)

    # Forty bins, where an evaluation takes least; the shipped weights have 227.
    assert fastest(deadline.check) < 0.02 * fastest(lambda: likelihood.evaluate(at))
