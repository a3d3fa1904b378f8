"""The rehearsal of the final phase: what it finds is what was put in, and its files depend on nothing but the input."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from harness.experiment import Record
from harness.scores import ONE_SIGMA, quantiles_score
from sage.challenge.nuisances import NAMES
from scripts import rehearse as program
from studies.analysis import fraction
from studies.rehearsal import BINS, Answers, bins_of, checks_of, points_of, set_entry, whole
from tests import official
from tests.submissions.making import write

COUNTING = official.TESTS / "submissions" / "counting"
WIDTH = 0.3
MUS = (0.4, 1.1, 2.6)


def records(seed=1, experiments=400, shift=0.0, slope=0.0, width=WIDTH):
    """Gaussian answers: off by ``shift`` and by ``slope`` times the nu of jes, with intervals of +- ``width``."""
    rng = np.random.default_rng(seed)
    out = []
    for number, mu in enumerate(MUS):
        for index in range(experiments):
            nuisances = dict(zip(NAMES, rng.normal(1.0, 0.01, len(NAMES)).tolist(), strict=True))
            off = shift + slope * (nuisances["jes"] - 1.0) / 0.01
            mu_hat = mu + WIDTH * rng.normal() + off
            answer = {"mu_hat": mu_hat, "delta_mu_hat": width, "p16": mu_hat - width, "p84": mu_hat + width}
            out.append(Record(number, index, 0, mu, nuisances, 100, answer, 1.0, 0.5))
    return out


def expected_coverage(shift, width=WIDTH):
    """Coverage of Gaussian answers that are off by a shift."""
    return stats.norm.cdf((width - shift) / WIDTH) - stats.norm.cdf((-width - shift) / WIDTH)


def test_a_set_against_single_records():
    given = records()
    found = set_entry(Answers.of(given), 1, MUS[1], 0.05)
    own = [record for record in given if record.set == 1]
    off = [record.answer["mu_hat"] - MUS[1] for record in own]
    inside = [record.answer["p16"] <= MUS[1] <= record.answer["p84"] for record in own]
    back = [record.answer["p16"] - 0.05 <= MUS[1] <= record.answer["p84"] - 0.05 for record in own]
    assert found["coverage"]["k"] == sum(inside)
    assert found["coverage_moved_back"]["k"] == sum(back)
    assert found["bias"]["value"] == pytest.approx(np.mean(off))
    assert found["bias"]["error"] == pytest.approx(np.std(off, ddof=1) / 20)
    assert found["rest"]["value"] == pytest.approx(np.mean(off) - 0.05)
    assert found["pull"]["mean"] == pytest.approx(np.mean(off) / WIDTH)
    assert found["interval"]["value"] == pytest.approx(2 * WIDTH)
    assert found["quantiles_score"] == pytest.approx(quantiles_score(2 * WIDTH, sum(inside) / 400, 400))


def test_a_common_shift_is_taken_out():
    shift = 0.2
    answers = Answers.of(records(shift=shift, experiments=2000))
    moved = answers.moved(np.full(len(answers.mu), shift))
    every = np.ones(len(answers.mu), dtype=bool)
    assert answers.coverage(every).value == pytest.approx(expected_coverage(shift), abs=0.02)
    assert moved.coverage(every).value == pytest.approx(expected_coverage(0.0), abs=0.02)
    assert whole(moved)["quantiles_score"] > whole(answers)["quantiles_score"] + 5
    assert abs(moved.pull(every).mean) < 4 * moved.pull(every).mean_error
    rests = [set_entry(answers, number, mu, shift)["rest"] for number, mu in enumerate(MUS)]
    assert all(abs(rest["value"]) < 4 * rest["error"] for rest in rests)


def test_bins_hold_equally_many_and_all():
    answers = Answers.of(records())
    for key in NAMES:
        bins = bins_of(answers, answers, key)["bins"]
        assert len(bins) == BINS
        counts = [one["experiments"] for one in bins]
        assert sum(counts) == len(answers.mu)
        assert max(counts) - min(counts) <= 1
        assert all(one["high"] <= other["low"] for one, other in itertools.pairwise(bins))
        assert sum(one["coverage"]["k"] for one in bins) == answers.covered().sum()
    by_mu = bins_of(answers, answers, "mu")["bins"]
    assert [(one["low"], one["high"], one["experiments"]) for one in by_mu] == [(mu, mu, 400) for mu in MUS]


def test_a_dependence_on_a_nuisance_is_found_there_and_nowhere_else():
    answers = Answers.of(records(slope=0.15, experiments=1000))
    p_values = {key: bins_of(answers, answers, key) for key in ("mu", *NAMES)}
    assert p_values["jes"]["p_coverage"] < 1e-3
    assert p_values["jes"]["p_pull"] < 1e-12
    assert all(found["p_coverage"] > 1e-3 for key, found in p_values.items() if key != "jes")


@pytest.mark.stat
def test_p_values_of_even_coverage_are_uniform():
    found = []
    for seed in range(60):
        answers = Answers.of(records(seed, experiments=200))
        found += [bins_of(answers, answers, key)["p_coverage"] for key in ("tes", "ttbar_scale")]
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def checks(given, pool=None):
    answers = Answers.of(given)
    entry = {
        "official": {"statuses": {"ok": len(given)}},
        "pool": pool,
        "sets": [set_entry(answers, number, mu, 0.0) for number, mu in enumerate(MUS)],
        "bins": {key: bins_of(answers, answers, key) for key in ("mu", *NAMES)},
    }
    return {check.name: check for check in checks_of(entry, answers, answers)}


def test_checks_hold_for_right_intervals_and_name_what_is_wrong():
    assert all(check.ok for check in checks(records(experiments=1000)).values())
    narrow = checks(records(experiments=1000, width=0.7 * WIDTH))
    assert not narrow["coverage, no penalty"].ok
    assert not narrow["coverage of set 2"].ok
    assert narrow["pull mean"].ok
    biased = checks(records(experiments=1000, shift=0.1))
    assert not biased["pull mean"].ok
    expected = {"shift": 0.0, "tables_error": 0.03, "sample_error": 0.04}
    pools = [checks(records(), {"shift": shift, "expected": expected}) for shift in (0.1, 0.2)]
    assert [found["shift by pool and tables"].ok for found in pools] == [True, False]


def test_points_begin_with_those_of_the_sets():
    points = points_of(MUS)
    assert [point.mu for point in points[:3]] == list(MUS)
    assert {(point.tes, point.jes, point.soft_met) for point in points[:3]} == {(1.0, 1.0, 1.0)}
    assert len(set(points)) == len(points)


def test_fractions_of_nothing_off():
    assert fraction(0, 5).low == 0.0
    assert math.isclose(expected_coverage(0.0), ONE_SIGMA, abs_tol=1e-4)


SHIFTED = """
from model_counting import Model as Counting


class Model(Counting):
    def predict(self, test_set):
        answer = super().predict(test_set)
        return {key: value + 0.5 * (key != "delta_mu_hat") for key, value in answer.items()}
"""


@pytest.mark.slow
def test_program(tmp_path, capsys):
    """Killed on the way, in another order and with other workers: the same files."""
    events = official.events_folder(tmp_path / "events", sum_weights=2000.0)
    shifted = write(tmp_path / "shifted", SHIFTED)
    (shifted / "model_counting.py").write_text((COUNTING / "model.py").read_text())
    common = ["--data", events, "--ground-truth-mus", 1.0, 2.5, "--experiments", 3]

    def run(output, *more):
        given = ["--submissions", f"plain={COUNTING}", shifted, *common, "--output", output, *more]
        return program.main([str(value) for value in given])

    assert run(tmp_path / "one") == 0
    printed = capsys.readouterr().out
    for expected in ("shifted - plain", "HEPHY", "other: official hold-out", "checks:", "score, sets drawn"):
        assert expected in printed
    content = json.loads((tmp_path / "one" / "rehearsal.json").read_text())
    assert content["submissions"]["shifted"]["differences"]["bias"]["value"] == pytest.approx(0.5)
    assert content["submissions"]["plain"]["pool"] is None
    assert "seconds" not in json.dumps(content)
    times = json.loads((tmp_path / "one" / "seconds.json").read_text())
    assert times["plain"]["p99"] >= 0.0 < times["plain"]["pseudo_data"]
    assert (tmp_path / "one" / "coverage_plain.png").stat().st_size > 10_000

    lines = (tmp_path / "one" / "plain" / "experiments.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "one" / "plain" / "experiments.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:30])
    kept = (tmp_path / "one" / "rehearsal.json").read_bytes()
    (tmp_path / "one" / "rehearsal.json").unlink()
    assert run(tmp_path / "one", "--workers", 2) == 0
    assert (tmp_path / "one" / "rehearsal.json").read_bytes() == kept
    given = ["--submissions", shifted, f"plain={COUNTING}", *common, "--output", tmp_path / "two", "--workers", 2]
    assert program.main([str(value) for value in given]) == 0
    for name in ("plain", "shifted"):
        for file in ("result_0.json", "result_1.json"):
            assert (tmp_path / "two" / name / file).read_bytes() == (tmp_path / "one" / name / file).read_bytes()


def test_defaults_are_those_of_the_final_phase():
    given = program.arguments(["--submissions", "x", "--data", "y", "--output", "z"])
    assert (given.sets, given.experiments, given.seed, given.systematics) == (None, 1000, 31415, NAMES)
