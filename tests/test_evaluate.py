"""Metrics against scikit-learn and scipy, and the evaluation program on few events."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from sage.challenge.nuisances import PROCESSES
from tests.events import small_data
from training import evaluate as program
from training import reference_classifiers
from training.config import Config, TrainingConfig
from training.evaluate import CLASSIFIERS, EVALUATION_FILE, SHIFTED, Scored, evaluate, moved
from training.metrics import auc, ks_distance, log_loss, reliability

RNG = np.random.default_rng(2)
SETTINGS = TrainingConfig(epochs=1, batch_size=256, points_per_batch=1, validation_points=1)
CONFIG = Config(seed=5, training=SETTINGS)


def test_auc_and_log_loss_are_those_of_scikit_learn():
    scores, weights = RNG.integers(0, 50, 2000) / 50, RNG.exponential(size=2000)
    positive = RNG.random(2000) < scores
    assert auc(scores, positive, weights) == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights))
    assert auc(scores, np.ones(2000, bool), weights) is None
    p, classes = RNG.dirichlet(np.ones(4), 2000), RNG.integers(0, 4, 2000)
    assert log_loss(p, classes, weights) == pytest.approx(sklearn_log_loss(classes, p, sample_weight=weights))


def test_ks_distance_is_that_of_scipy():
    first, second = RNG.integers(0, 30, 500) / 30, RNG.integers(3, 33, 700) / 30
    ones = np.ones(500), np.ones(700)
    assert ks_distance(first, ones[0], second, ones[1]) == pytest.approx(ks_2samp(first, second).statistic)
    doubled = ks_2samp(np.repeat(first, 2), np.concatenate([second, second[:350]])).statistic
    weights = np.where(np.arange(700) < 350, 2.0, 1.0)
    assert ks_distance(first, ones[0], second, weights) == pytest.approx(doubled)


@pytest.mark.parametrize("stretch", [1.0, 0.8])
def test_reliability_finds_the_slope(stretch):
    truth = RNG.beta(0.7, 0.7, 200_000)
    happened = RNG.random(200_000) < 0.5 + stretch * (truth - 0.5)
    found = reliability(truth, happened, RNG.exponential(size=200_000))
    assert found.slope == pytest.approx(stretch, abs=4 * found.slope_error + 0.002)
    assert found.slope_error < 0.01
    pulls = (found.observed - 0.5 - stretch * (found.predicted - 0.5)) / found.error
    assert 0.4 < pulls.std() < 1.7


def test_moves_of_the_signal_probability():
    n = 1000
    before = RNG.random(n).astype(np.float32)
    after = np.where(np.arange(n) < 100, np.nan, before + 0.01).astype(np.float32)
    classes = np.arange(n) % 4
    scored = Scored(np.zeros((n, 4)), {"nominal": before, "tes up": after}, classes, np.ones(n), np.arange(n), {})
    for i, name in enumerate(PROCESSES):
        found = moved(scored, "tes up")[name]
        assert found["mean_per_event"] == pytest.approx(found["rms_per_event"]) == pytest.approx(0.01, rel=1e-3)
        here = classes == i
        threshold = np.sort(before[classes == 0])[::-1][49]
        expected = (after[here] >= threshold).sum() / (before[here] >= threshold).sum() - 1
        assert found["signal_like_yield"] == pytest.approx(expected, abs=0.03)


def test_program_reports_and_resumes(tmp_path, monkeypatch):
    data = small_data(tmp_path)
    monkeypatch.setattr(reference_classifiers, "MAX_TREES", 4)
    monkeypatch.setattr(reference_classifiers, "BOOSTING_SETTINGS", ({"learning_rate": 0.3},))
    monkeypatch.setattr(reference_classifiers, "EPOCHS", 4)
    folders = tmp_path / "training", tmp_path / "evaluation"
    report = evaluate(CONFIG, data, *folders)
    assert report["classifiers"].keys() == set(CLASSIFIERS)
    for name, result in report["classifiers"].items():
        assert result["cross_entropy"] < np.log(4)
        assert result["auc"]["inclusive"]["training"] > 0.6
        assert (len(result["shifts"]) == 6) == (name in SHIFTED)
    for which in ("all events in one", "five regions"):
        found = report["information"][which]
        assert found["averaged"] == {"ratio": 1.0, "error": 0.0}
        assert all(0.0 < found[name]["ratio"] < 5.0 and found[name]["error"] > 0.0 for name in CLASSIFIERS[1:])
    assert (folders[1] / "reliability.png").stat().st_size > 10_000
    assert json.loads((folders[1] / EVALUATION_FILE).read_text()) == report
    (folders[1] / "perceptron.json").unlink()
    (folders[1] / EVALUATION_FILE).unlink()
    fits = []
    fit = program.fit_perceptron
    monkeypatch.setattr(program, "fit_boosting", None)
    monkeypatch.setattr(program, "fit_perceptron", lambda *given: fits.append(1) or fit(*given))
    assert evaluate(CONFIG, data, *folders, resume=True) == report
    assert fits == [1]
    with pytest.raises(ValueError, match=r"holds a run with other settings: seed \(there 5, now 6\)"):
        evaluate(dataclasses.replace(CONFIG, seed=6), data, *folders, resume=True)
