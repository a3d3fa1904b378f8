"""Scores against the official scorer and against a slow implementation of the published formulae."""

import json
import math
import os
import statistics

import numpy as np
import pytest

from harness.leaderboard import leaderboard, scores_as_dict
from harness.results import RunResults, SetResult, read_results
from harness.scores import coverage_penalty, pulls, quantiles_score, score_results
from scripts.score import pull_line
from tests import official
from workshop.errors import UsageError

# Made by running the official scoring program: see ``made`` in the file, and tests/official.py.
REFERENCE = json.loads(official.SCORE_REFERENCE.read_text())["cases"]
OVERALL = ("rmse", "mae", "interval", "coverage", "quantiles_score")


@pytest.fixture(params=sorted(REFERENCE))
def case(request, tmp_path):
    values = REFERENCE[request.param]
    official.write_results(tmp_path, values["mus"], values["sets"])
    return values, read_results(tmp_path)


def test_equal_to_the_official_scores(case):
    values, results = case
    scores, expected = score_results(results), values["official"]
    for key in OVERALL:
        assert getattr(scores, key) == pytest.approx(expected["overall"][key], rel=0, abs=1e-12)
    for ours, theirs in zip(scores.sets, expected["sets"], strict=True):
        assert ours.experiments == theirs["set_size"]
        for key in OVERALL:
            assert getattr(ours, key) == pytest.approx(theirs[key], rel=0, abs=1e-12)
    for key, first in expected["bootstraps"].items():
        np.testing.assert_allclose(getattr(scores.bootstrap, key)[: len(first)], first, rtol=0, atol=1e-12)
        assert getattr(scores.bootstrap, key).shape == (1000,)


@pytest.mark.skipif("HEP_CHALLENGE_DIR" not in os.environ, reason="HEP_CHALLENGE_DIR points to no checkout")
@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_equal_to_the_official_scores_computed_now(name, tmp_path):
    values = official.score_cases()[name]
    official.write_results(tmp_path, values["mus"], values["sets"])
    scores, expected = (
        score_results(read_results(tmp_path)),
        official.run_scorer(os.environ["HEP_CHALLENGE_DIR"], tmp_path),
    )
    for key in OVERALL:
        assert getattr(scores, key) == pytest.approx(expected["overall"][key], rel=0, abs=1e-12)
    for key in expected["bootstraps"]:
        np.testing.assert_allclose(getattr(scores.bootstrap, key), expected["bootstraps"][key], rtol=0, atol=1e-12)


def slow_penalty(coverage, n):
    s = math.sqrt(0.6827 * (1 - 0.6827) / n)
    if abs(coverage - 0.6827) <= 2 * s:
        return 1.0
    return 1 + (abs(coverage - 0.6827) / s - 2) ** (4 if coverage < 0.6827 else 3)


def test_equal_to_a_slow_implementation(case):
    values, results = case
    scores = score_results(results)
    widths, hits, rmse, mae = [], [], [], []
    for mu, columns in zip(values["mus"], values["sets"], strict=True):
        rows = list(zip(*columns, strict=True))
        widths += [abs(p84 - p16) for _, _, p16, p84 in rows]
        hits += [p16 <= mu <= p84 for _, _, p16, p84 in rows]
        rmse.append(statistics.fmean(math.hypot(m - mu, (m - mu) ** 2 - d**2) for m, d, _, _ in rows))
        mae.append(statistics.fmean(abs(m - mu) + abs(abs(m - mu) - d) for m, d, _, _ in rows))
    width, coverage = statistics.fmean(widths), sum(hits) / len(hits)
    slow = (statistics.fmean(rmse), statistics.fmean(mae), width, coverage)
    slow += (-math.log((width + 0.001) * slow_penalty(coverage, len(hits))),)
    assert [getattr(scores, key) for key in OVERALL] == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("n", [10, 1000, 10_000])
def test_penalty_is_flat_inside_and_steeper_below(n):
    s = math.sqrt(0.6827 * 0.3173 / n)
    assert coverage_penalty(0.6827 - 1.999 * s, n) == coverage_penalty(0.6827 + 1.999 * s, n) == 1.0
    assert coverage_penalty(0.6827 - 4 * s, n) == pytest.approx(17.0)
    assert coverage_penalty(0.6827 + 4 * s, n) == pytest.approx(9.0)
    assert quantiles_score(0.459, 0.6827, n) == pytest.approx(-math.log(0.46))


def test_bootstraps_of_one_set_are_all_the_same(tmp_path):
    official.write_results(tmp_path, [1.0], [[[1.0, 1.1], [0.5, 0.5], [0.5, 0.6], [1.5, 1.6]]])
    scores = score_results(read_results(tmp_path))
    assert set(scores.bootstrap.quantiles_score) == {scores.quantiles_score}
    assert scores.coverage == 1.0


def test_leaderboard_puts_the_run_beside_the_published_results(tmp_path):
    values = REFERENCE["inside"]
    official.write_results(tmp_path, values["mus"], values["sets"])
    results = read_results(tmp_path)
    scores = score_results(results)
    lines = leaderboard(scores, "A team", "toy data").splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [
        "team",
        "-" * 8,
        "A team",
        "IBRAHIME",
        "HEPHY",
        "HZUME",
    ]
    assert f"{scores.bootstrap.coverage.mean():.4f}" in lines[2]
    assert lines[2].endswith("toy data")
    assert all(line.endswith("official hold-out") for line in lines[3:])
    content = json.loads(json.dumps(scores_as_dict(scores, results)))
    assert list(content)[:6] == [*OVERALL, "ingestion_duration"]
    assert content["statuses"] is content["not_ok"] is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "test_settings.json").unlink(), "test_settings.json"),
        (lambda folder: (folder / "result_1.json").unlink(), "result_1.json is missing"),
        (lambda folder: (folder / "result_1.json").write_text("{"), "result_1.json: not JSON"),
        (lambda folder: (folder / "result_1.json").write_text("[1]"), "holds a list"),
        (lambda folder: (folder / "result_1.json").write_text('{"mu_hats": [NaN]}'), "'mu_hats' holds nan"),
        (lambda folder: (folder / "result_1.json").write_text('{"mu_hats": [1.0]}'), "'delta_mu_hats' must be a list"),
        (
            lambda folder: (folder / "result_1.json").write_text(
                '{"mu_hats": [1.0, 2.0], "delta_mu_hats": [1.0], "p16": [1.0], "p84": [1.0]}'
            ),
            "different lengths",
        ),
    ],
)
def test_damaged_results_are_refused(tmp_path, change, named):
    values = REFERENCE["inside"]
    official.write_results(tmp_path, values["mus"], values["sets"])
    change(tmp_path)
    with pytest.raises(UsageError, match=named):
        read_results(tmp_path)


def test_pulls_are_those_of_every_pseudo_experiment():
    one = SetResult(1.0, (1.5, 0.0), (0.5, 0.5), (1.0, -0.5), (2.0, 0.5))
    other = SetResult(2.0, (2.0,), (1.0,), (1.0,), (3.0,))
    np.testing.assert_allclose(pulls(RunResults((one, other), None, None)), [1.0, -2.0, 0.0])


@pytest.mark.parametrize("values", [[np.inf, -np.inf, np.nan], [], [1e308]])
def test_pulls_of_nothing_are_said_to_be_none(values):
    line = pull_line(np.array(values))
    assert ": none" in line
    assert "inf" not in line
    assert "nan" not in line


def test_pulls_without_a_width_are_left_out():
    assert pull_line(np.array([1.0, -1.0, np.inf])).endswith(
        "mean 0.00, width 1.00; 1 without a usable delta_mu_hat are left out."
    )
