"""The checks of surrogates: areas under curves, and moved events told from reweighted ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sage.unbinned.calibration import RegionEvents
from sage.unbinned.ratios import UNBINNED, Calibration
from sage.unbinned.response import EXACT
from studies import surrogate_checks
from studies.surrogate_checks import GROUPS, area, calibration_table, told_apart
from training.events import Events
from training.variations import Copies

MOVED = 0.4
"""Of a Gaussian, by one percent of tes."""


def test_the_area_counts_equal_scores_half():
    rng = np.random.default_rng(6)
    label = rng.integers(2, size=4000)
    weights = rng.uniform(0.5, 2.0, 4000)
    for score in (rng.normal(label * 0.3), np.round(rng.normal(label * 0.3)), np.zeros(4000)):
        value, _ = area(score, label == 1, weights, np.arange(4000))
        assert value == pytest.approx(roc_auc_score(label, score, sample_weight=weights), abs=1e-9)


def test_the_error_of_an_area_is_its_spread():
    """Of showers with copies that share most of their score; of a shower and its like, which deviate together."""
    rng = np.random.default_rng(9)
    found = []
    for _ in range(300):
        shower = rng.integers(80, size=400)
        score = rng.normal(size=80)[shower] + 0.5 * rng.normal(size=400)
        found.append(area(score, shower % 2 == 0, rng.uniform(0.5, 2.0, 400), shower))
    values, errors = np.array(found).T
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)
    alone = area(score, shower % 2 == 0, np.ones(400), np.arange(400))[1]
    assert alone < 0.6 * np.mean(errors)
    twice, label = np.tile(score, 2), np.repeat([False, True], 400)
    assert area(twice, label, np.ones(800), np.tile(shower, 2)) == pytest.approx((0.5, 0.0), abs=1e-9)


def test_reweighted_gaussians_are_not_told_from_moved_ones(monkeypatch):
    """With the response in closed form; one that is half as large is found out, and so is none."""

    def place(events, points, rng, constants):
        x = events.columns["x"] + (0.0 if points is None else MOVED * 100 * (points[:, 0] - 1))
        return Copies(x[:, None].astype(np.float32), np.zeros(len(x), np.int64), factors=np.ones(len(x)))

    monkeypatch.setattr(surrogate_checks, "move_events", place)
    n = 30_000
    x = np.random.default_rng(7).normal(size=n)
    events = Events({"x": x}, np.ones(n), np.ones(n, np.int64), np.arange(n))

    def found(strength: float) -> dict[str, float]:
        def response(values, region, process):
            out = np.zeros((len(values), 9))
            out[:, 0], out[:, 2] = strength * MOVED * values[:, 0], -0.5 * (strength * MOVED) ** 2
            return out

        networks = SimpleNamespace(constants=None, basis=EXACT, of_inputs=response)
        surrogates = SimpleNamespace(networks=networks)
        return told_apart(events, (1.01, 1.0, 0.0), surrogates, 1)[UNBINNED[0]]

    right, wrong = found(1.0), found(0.5)
    assert abs(right["reweighted"] - 0.5) < 4 * right["reweighted_error"] < 0.02
    assert right["showers"] == 30_000
    # Means that differ by d give the area of a normal at d over the square root of 2.
    assert right["nominal"] == pytest.approx(0.611, abs=0.015)
    assert 0.53 < wrong["reweighted"] < right["nominal"]


def test_shares_are_compared_with_what_is_there():
    rng = np.random.default_rng(8)
    true = rng.dirichlet([1.0, 4.0, 2.0, 1.0], 20_000)
    classes = (rng.random(20_000)[:, None] > true.cumsum(axis=1)).sum(axis=1).clip(max=3)
    yields = np.bincount(classes).astype(float)
    events = RegionEvents(true / yields, np.zeros((20_000, 4, 9), np.float32), np.ones(20_000), classes)
    table = calibration_table(events, Calibration(yields))
    for groups in table.values():
        assert len(groups) == GROUPS
        pulls = [(group["share"] - group["true"]) / max(group["error"], 1e-6) for group in groups]
        assert np.sqrt(np.mean(np.square(pulls))) < 2.0
