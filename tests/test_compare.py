"""Several submissions on the same pseudo-experiments: the statistics, their paired bootstrap, running and resuming."""

import json
import math

import numpy as np
import pytest

from harness.experiment import Record
from harness.scores import mae_score, mean_coverage, mean_interval, quantiles_score, rmse_score
from scripts import compare as program
from studies.compare import SAME, STATISTICS, columns, compare, resampled_means, statistics
from tests import official
from tests.submissions.making import write

COUNTING = official.TESTS / "submissions" / "counting"

SHIFTED = """
from model_counting import Model as Counting


class Model(Counting):
    def predict(self, test_set):
        answer = super().predict(test_set)
        return {key: value + 0.5 * (key != "delta_mu_hat") for key, value in answer.items()}
"""


def made_up(seed, sets=3, experiments=4, noise=0.3):
    """Records of answers around the truth."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(sets):
        mu = 0.5 + number
        for index in range(experiments):
            mu_hat, delta = mu + noise * rng.normal(), noise * rng.uniform(0.5, 1.5)
            answer = {"mu_hat": mu_hat, "delta_mu_hat": delta, "p16": mu_hat - delta, "p84": mu_hat + 1.1 * delta}
            records.append(Record(number, index, index, mu, {}, 100, answer, 1.0, rng.uniform(0.4, 0.6)))
    return records


def slow_statistics(records):
    """Compute the statistics from records one by one."""
    mu, mu_hat, delta, p16, p84 = (
        np.array([record.mu if key == "mu" else record.answer[key] for record in records])
        for key in ("mu", "mu_hat", "delta_mu_hat", "p16", "p84")
    )
    interval, coverage = mean_interval(p16, p84), mean_coverage(mu, p16, p84)
    by_set = [np.flatnonzero(mu == value) for value in np.unique(mu)]
    pulls = (mu_hat - mu) / delta
    return {
        "coverage": coverage,
        "interval": interval,
        "quantiles_score": quantiles_score(interval, coverage, len(mu)),
        "rmse": np.mean([rmse_score(mu[rows[0]], mu_hat[rows], delta[rows]) for rows in by_set]),
        "mae": np.mean([mae_score(mu[rows[0]], mu_hat[rows], delta[rows]) for rows in by_set]),
        "rms": math.sqrt(sum((mu_hat - mu) ** 2) / len(mu)),
        "bias": sum(mu_hat - mu) / len(mu),
        "pull_mean": pulls.mean(),
        "pull_width": pulls.std(),
        "predict_seconds": np.mean([record.predict_seconds for record in records]),
    }


def test_statistics_against_those_of_single_records():
    records = made_up(1)
    found = statistics(columns(records).mean(axis=0), len(records))
    expected = slow_statistics(records)
    assert list(found) == list(STATISTICS) == list(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-12), key


def test_paired_bootstrap_against_drawing_records():
    """The slow twin repeats records as often as they are drawn and takes all statistics again."""
    first, second = made_up(1), made_up(2)
    n_bootstraps, seed = 40, 42
    rng = np.random.default_rng(seed)
    times = np.concatenate([rng.multinomial(4, np.full(4, 0.25), size=n_bootstraps) for _ in range(3)], axis=1)
    slow = []
    for counts in times:
        drawn = [[record for record, n in zip(rows, counts, strict=True) for _ in range(n)] for rows in (first, second)]
        slow.append([slow_statistics(rows) for rows in drawn])
    found = compare({"a": first, "b": second}, n_bootstraps)["b"]
    for key in STATISTICS:
        a, b = (np.array([draw[i][key] for draw in slow]) for i in (0, 1))
        assert found["statistics"][key]["error"] == pytest.approx(b.std(), rel=1e-9, abs=1e-12), key
        assert found["differences"][key]["error"] == pytest.approx((b - a).std(), rel=1e-9, abs=1e-12), key
    ratios = np.array([draw[1]["rms"] / draw[0]["rms"] for draw in slow])
    assert found["ratios"]["rms"]["error"] == pytest.approx(ratios.std(), rel=1e-9)


def test_bootstrap_error_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(3).normal(size=(1, 400, 1))
    sets = np.repeat(np.arange(4), 100)
    found = resampled_means(values, sets, 4000).std()
    within = np.mean([values[0, sets == number, 0].var() for number in range(4)])
    assert found == pytest.approx(math.sqrt(within / 400), rel=0.05)


def test_what_two_submissions_share_has_no_error():
    records = made_up(5)
    moved = [
        Record(**{**vars(record), "answer": {**record.answer, "mu_hat": record.answer["mu_hat"] + 0.25}})
        for record in records
    ]
    found = compare({"a": records, "b": moved}, 100)["b"]["differences"]
    assert found["bias"]["value"] == pytest.approx(0.25)
    assert found["bias"]["error"] == pytest.approx(0.0, abs=1e-12)
    assert found["interval"] == {"value": 0.0, "error": 0.0}
    assert found["rms"]["error"] > 0


def test_a_width_of_zero_leaves_no_pull():
    records = made_up(6)
    records[0].answer["delta_mu_hat"] = 0.0
    found = compare({"a": records}, 10)["a"]["statistics"]
    assert found["pull_mean"] == found["pull_width"] == {"value": None, "error": None}
    assert found["mae"]["value"] > 0


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Events and two submissions, of which the second answers 0.5 higher."""
    folder = tmp_path_factory.mktemp("compare")
    shifted = write(folder / "shifted", SHIFTED)
    (shifted / "model_counting.py").write_text((COUNTING / "model.py").read_text())
    return official.events_folder(folder / "events"), shifted


def run(setting, output, *more):
    events, shifted = setting
    given = ["--submissions", f"plain={COUNTING}", shifted, "--data", events, "--output", output, *more]
    return program.main([str(value) for value in (*given, "--ground-truth-mus", 1.0, 2.5, "--experiments", 3)])


def without_seconds(content):
    for entry in content["submissions"].values():
        for group in ("statistics", "differences"):
            del entry[group]["predict_seconds"]
        for result in entry["sets"]:
            del result["predict_seconds"]
    return content


def test_run_resume_and_refuse(setting, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(setting, output) == 0
    printed = capsys.readouterr().out
    assert "shifted - plain" in printed
    content = json.loads((output / "comparison.json").read_text())
    difference = content["submissions"]["shifted"]["differences"]
    assert difference["bias"]["value"] == pytest.approx(0.5)
    assert difference["bias"]["error"] == pytest.approx(0.0, abs=1e-9)
    assert content["submissions"]["plain"]["official"]["experiments"] == 6
    assert (output / "comparison.png").stat().st_size > 10_000

    # The same pseudo-experiments, though each submission ran on its own.
    records = {}
    for name in ("plain", "shifted"):
        lines = (output / name / "experiments.jsonl").read_text().splitlines()
        records[name] = [{key: json.loads(line)[key] for key in SAME} for line in lines]
    assert records["plain"] == records["shifted"]

    # Interrupted in the second submission.
    finished = (output / "plain" / "experiments.jsonl").read_bytes()
    partial = output / "shifted" / "experiments.jsonl"
    lines = partial.read_text().splitlines(keepends=True)
    partial.write_text("".join(lines[:2]))
    (output / "shifted" / "result_0.json").unlink()
    (output / "comparison.json").unlink()
    assert run(setting, output) == 0
    assert (output / "plain" / "experiments.jsonl").read_bytes() == finished
    assert partial.read_text().splitlines(keepends=True)[:2] == lines[:2]
    again = json.loads((output / "comparison.json").read_text())
    assert without_seconds(again) == without_seconds(content)

    # A record that belongs to another pseudo-experiment.
    record = json.loads(lines[0])
    partial.write_text(json.dumps({**record, "events": record["events"] + 1}) + "\n" + "".join(lines[1:]))
    capsys.readouterr()
    assert run(setting, output) == 2
    assert "saw different pseudo-experiments" in capsys.readouterr().err


def test_names_are_told_apart(setting, tmp_path, capsys):
    assert program.named(["a=x/y", "z/b", "c.zip"]).keys() == {"a", "b", "c"}
    assert run(setting, tmp_path / "out", "--submissions", COUNTING, COUNTING) == 2
    assert "write NAME=PATH" in capsys.readouterr().err
