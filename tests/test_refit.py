"""Runs answered again from their counts: the answers are those that the submissions would have given themselves."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from harness.experiment import Answer, Record, describe
from harness.pool_point import write_answers
from harness.results import RunFolder
from harness.settings import make_settings
from model import Model
from sage.challenge.nuisances import NAMES, variant
from sage.files.bundle import read_bundle
from sage.measurement import measure_counts, rates_of
from scripts import make_submission
from scripts import refit as program
from studies.refit import CHUNK, read_run
from studies.rehearsal import points_of
from tests.events import FIVE_WEIGHTS, drawn_frame, full_weights

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = make_settings(2, CHUNK, 5)
IDENTITY = {"seed": SETTINGS.seed, **SETTINGS.as_official()}


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(ROOT / "weights")


@pytest.fixture(scope="module")
def zips(tmp_path_factory):
    """Submissions that count alike: what ships, one with exact tables, one whose prior is flat."""
    folder = tmp_path_factory.mktemp("zips")
    settings = {"sage": {}, "exact": {"simulation_uncertainty": False}, "flat": {"flat_prior": [0.1, 3.0]}}
    for name, chosen in settings.items():
        data, _ = make_submission.build(ROOT, settings=chosen)
        (folder / f"{name}.zip").write_bytes(data)
    return folder


def counts_at(bundle, mu, nu, rng=None):
    """Expected counts, or such as a pseudo-experiment has."""
    expected = rates_of(bundle).expected(np.array([mu, *nu]))
    return expected if rng is None else rng.poisson(expected).astype(float)


@pytest.fixture(scope="module")
def run_folder(bundle, tmp_path_factory):
    """A rehearsal of the shipped submission, whose counts are drawn from its tables."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("run") / "sage"
    nuisances = variant(bundle.settings["nuisances"])
    with RunFolder(folder, IDENTITY) as run:
        for job in SETTINGS.jobs():
            nu = rng.normal(size=len(nuisances)).clip(-2, 2)
            alphas = {each.name: each.alpha(value)[0] for each, value in zip(nuisances, nu, strict=True)}
            found = measure_counts(counts_at(bundle, job.mu, nu, rng), bundle, 900_000)
            record = Record(job.set, job.index, job.seed, job.mu, alphas, 900_000, found.answer(), 0.5, 1.5)
            run.append(dataclasses.replace(record, result=describe(found)))
        run.write_settings(SETTINGS)
        run.write_results(SETTINGS, 1.0)
    points = points_of(SETTINGS.mus)
    answers = {}
    for point in points:
        nu = [each.nu(point.nuisances()[each.name]) for each in nuisances]
        found = measure_counts(counts_at(bundle, point.mu, nu), bundle)
        answers[point] = Answer(found.answer(), 1.0, describe(found))
    write_answers(folder, points, answers)
    return folder


def run(results, output, *submissions, more=()):
    given = ["--results", results, "--submissions", *submissions, "--output", output, *more]
    return program.main([str(value) for value in given])


def test_a_measurement_follows_from_its_counts(bundle):
    model = Model()
    weights = full_weights(40_000)
    answer = model.predict({"data": drawn_frame(40_000, 3), "weights": weights})
    result = model.last_result
    assert result.status != "fallback"
    assert sum(result.counts) == pytest.approx(np.sum(weights))
    again = measure_counts(np.array(result.counts), bundle, result.n_events)
    assert again == result
    assert again.answer() == answer


def test_what_no_signal_strength_describes_gets_the_answer_of_predict(bundle):
    found = measure_counts(np.full(bundle.regions.n_bins, 1e4), bundle, 7)
    assert found.status == "fallback"
    assert found.n_events == 7
    assert found.flags


def test_program(run_folder, zips, bundle, tmp_path, capsys):
    """Same answers as the run, as other settings alone; the files do not depend on workers or a kill."""
    given = [zips / f"{name}.zip" for name in ("sage", "exact", "flat")]
    assert run(run_folder, tmp_path / "one", *given) == 0
    printed = capsys.readouterr().out
    for expected in ("exact - sage", "flat - sage", "what is left for the method", "moved back"):
        assert expected in printed
    for name in ("result_0.json", "result_1.json", "pool.json", "test_settings.json"):
        assert (tmp_path / "one" / "sage" / name).read_bytes() == (run_folder / name).read_bytes(), name
    content = json.loads((tmp_path / "one" / "rehearsal.json").read_text())["submissions"]
    assert content["exact"]["differences"]["interval"]["value"] < 0
    assert (tmp_path / "one" / "coverage_flat.png").stat().st_size > 10_000
    exact = read_bundle(ROOT / "weights", {"simulation_uncertainty": False})
    before, after = read_run(run_folder), read_run_of(tmp_path / "one" / "exact")
    for record, found in zip(before.records[:5], after[:5], strict=True):
        assert found["answer"] == measure_counts(np.array(record.result["counts"]), exact).answer()

    lines = (tmp_path / "one" / "exact" / "experiments.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "one" / "exact" / "experiments.jsonl").write_bytes(b"".join(lines[:20]) + lines[20][:30])
    kept = (tmp_path / "one" / "rehearsal.json").read_bytes()
    (tmp_path / "one" / "rehearsal.json").unlink()
    assert run(run_folder, tmp_path / "one", *given, more=["--workers", 2]) == 0
    assert (tmp_path / "one" / "rehearsal.json").read_bytes() == kept


def read_run_of(folder):
    """Records of an answered run by set and index."""
    lines = (folder / "experiments.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda record: (record["set"], record["index"]))


def test_bad_input_is_refused(run_folder, zips, tmp_path, capsys):
    def refused(results, *submissions):
        assert run(results, tmp_path / "out", *submissions) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "must be the one that made the run" in refused(run_folder, zips / "exact.zip")
    data, _ = make_submission.build(ROOT, FIVE_WEIGHTS)
    (tmp_path / "five.zip").write_bytes(data)
    assert "do not count the same" in refused(run_folder, zips / "sage.zip", tmp_path / "five.zip")
    assert "no such folder or zip file" in refused(run_folder, zips / "none.zip")
    assert "results" in refused(tmp_path / "nowhere", zips / "sage.zip")

    part = tmp_path / "part"
    part.mkdir()
    (part / "run.json").write_bytes((run_folder / "run.json").read_bytes())
    lines = (run_folder / "experiments.jsonl").read_text().splitlines(keepends=True)
    (part / "experiments.jsonl").write_text("".join(lines[:-3]))
    assert "3 of 200 pseudo-experiments are missing" in refused(part, zips / "sage.zip")
    bare = json.loads(lines[0])
    del bare["result"]["counts"]
    (part / "experiments.jsonl").write_text("".join([json.dumps(bare) + "\n", *lines[1:]]))
    assert "has no counts" in refused(part, zips / "sage.zip")
    (part / "run.json").write_text("{}")
    assert "not the file of a run" in refused(part, zips / "sage.zip")


def test_what_was_answered_again_is_answered_once_more(run_folder, zips, tmp_path):
    assert run(run_folder, tmp_path / "one", zips / "sage.zip", zips / "exact.zip") == 0
    assert run(tmp_path / "one" / "exact", tmp_path / "two", zips / "exact.zip", zips / "sage.zip") == 0
    for name in ("result_0.json", "result_1.json", "pool.json"):
        assert (tmp_path / "two" / "sage" / name).read_bytes() == (run_folder / name).read_bytes(), name


def test_a_run_is_not_replaced_by_its_answers(run_folder, zips, capsys):
    before = (run_folder / "experiments.jsonl").read_bytes()
    assert run(run_folder, run_folder.parent, f"sage={zips / 'sage.zip'}", more=["--overwrite"]) == 2
    assert "would replace the run" in capsys.readouterr().err
    assert (run_folder / "experiments.jsonl").read_bytes() == before


def test_method_that_does_not_count_is_refused(run_folder, zips, tmp_path, capsys, monkeypatch):
    from studies import refit

    monkeypatch.setattr(refit, "METHODS", ("published",))
    assert run(run_folder, tmp_path / "out", zips / "sage.zip") == 2
    assert "do not follow from counts" in capsys.readouterr().err


def test_names_of_the_run_are_those_of_the_challenge(run_folder):
    found = read_run(run_folder)
    assert found.settings == SETTINGS
    assert set(found.records[0].nuisances) == set(NAMES)
    assert list(found.pool) == points_of(SETTINGS.mus)
