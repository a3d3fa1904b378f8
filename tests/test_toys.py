"""Toys: what they are drawn from, that processes and kills do not change them, and that the study sees faults."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import sage.fit.ladder
import sage.fit.published
import sage.measurement
from harness.experiment import Record
from harness.pseudo_experiments import draw_nuisances
from sage.binned.statistic import with_counts
from sage.challenge.nuisances import CHALLENGE, NAMES, PROCESSES
from sage.fit.interval import measure_interval
from sage.fit.newton import fit
from sage.measurement import fit_interval
from scripts import toys as program
from studies.analysis import analyse
from studies.asimov import study_asimov
from studies.event_toys import frame_of_records, parabolic_rise
from studies.faults import FAULTS, faulty_likelihood, faulty_templates
from studies.likelihoods import asimov_likelihood, open_weights, parameters_at, process_yields
from studies.toys import (
    ToySettings,
    Truth,
    _prepared,
    draw_counts,
    draw_truth,
    run_toys,
    template_factors,
    toy_row,
)
from tests.conftest import EVENTS, REAL_EVENTS, ROOT
from tests.ending import exit_code
from tests.events import FIVE_WEIGHTS
from workshop import jobs
from workshop.claims import claimed
from workshop.errors import UsageError

WEIGHTS = FIVE_WEIGHTS
SETTINGS = ToySettings(WEIGHTS, seed=7, mus=(0.5, 2.0))
TES_BIAS = -0.06
"""Mean of its pull, +- 0.007 in 24 000 toys: its estimate goes with that of soft_met, which is far from Gaussian."""


@pytest.fixture(scope="module")
def bundle():
    return open_weights(WEIGHTS)


def test_truths_are_those_of_the_pseudo_experiment_with_the_same_seed():
    for number in (0, 5):
        truth = draw_truth(SETTINGS, number)
        assert truth.alphas == draw_nuisances(7 + number, NAMES)
        assert truth.mu == (0.5, 2.0)[number % 2]
    fixed = draw_truth(replace(SETTINGS, fixed=(("tes", 1.02), ("soft_met", 5.0))), 5)
    assert fixed.alphas == truth.alphas | {"tes": 1.02, "soft_met": 5.0}
    off = draw_truth(replace(SETTINGS, systematics=("jes",)), 3)
    assert (off.alphas["tes"], off.alphas["soft_met"], off.alphas["bkg_scale"]) == (1.0, 0.0, 1.0)
    assert off.alphas["jes"] != 1.0


def test_mu_is_uniform_in_its_range():
    spread = replace(SETTINGS, mus=None, mu_range=(0.5, 0.7))
    mus = np.array([draw_truth(spread, number).mu for number in range(400)])
    assert ((mus > 0.5) & (mus < 0.7)).all()
    assert mus.mean() == pytest.approx(0.6, abs=4 * 0.2 / np.sqrt(12 * 400))


def test_counts_are_poisson_around_the_likelihood_s_expectation(bundle):
    truth = draw_truth(SETTINGS, 4)
    sample = np.array([draw_counts(bundle, truth, SETTINGS, number) for number in range(600)])
    parameters = parameters_at(bundle, truth.mu, truth.alphas)
    expected = asimov_likelihood(bundle, parameters).statistic.counts
    deviations = (sample.mean(axis=0) - expected) / np.sqrt(expected / 600)
    assert np.abs(deviations).max() < 4.5
    assert sample.var(axis=0, ddof=1).sum() == pytest.approx(expected.sum(), rel=0.15)


def test_template_factors_have_the_stated_variance():
    yields = np.array([100.0, 100.0, 5.0, 0.0, 20.0])
    variances = np.array([4.0, 900.0, 25.0, 0.0, 0.0])
    rng = np.random.default_rng(1)
    n = 20000
    drawn = np.array([template_factors(yields, variances, rng) for _ in range(n)])
    assert (drawn[:, 3:] == 1.0).all()
    assert (drawn >= 0.0).all()
    scattered = drawn[:, :3] * yields[:3]
    assert np.abs((scattered.mean(axis=0) - yields[:3]) / np.sqrt(variances[:3] / n)).max() < 4
    # The variance of a gamma variable's sample variance: excess kurtosis 6 / shape.
    kurtosis = 6 * variances[:3] / yields[:3] ** 2
    errors = variances[:3] * np.sqrt((2 + kurtosis) / n)
    assert np.abs((scattered.var(axis=0) - variances[:3]) / errors).max() < 4


def test_simulation_uncertainty_is_one_factor_for_all_nuisance_points(bundle):
    settings = replace(SETTINGS, simulation="toys", systematics=())
    sample, n = [], 500
    truth = draw_truth(settings, 0)
    expected = process_yields(bundle, parameters_at(bundle, truth.mu, truth.alphas))
    for number in range(n):
        sample.append(draw_counts(bundle, truth, settings, number))
    signal_row = PROCESSES.index("htautau")
    scale = np.ones((4, 1))
    scale[signal_row] = truth.mu
    # Poisson and simulation add up, the latter with mu^2 for the signal.
    wanted = expected.sum(axis=0) + (scale**2 * bundle.variances).sum(axis=0)
    ratio = np.array(sample).var(axis=0, ddof=1) / wanted
    assert ratio.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / n / len(ratio)) + 0.02)


def test_rise_is_what_profiling_at_the_true_mu_gives(bundle):
    _, empty = _prepared(SETTINGS)
    truth = draw_truth(SETTINGS, 1)
    likelihood = with_counts(empty, draw_counts(bundle, truth, SETTINGS, 1))
    row = toy_row(bundle, likelihood, truth, 1)
    start = np.concatenate([[truth.mu], np.zeros(6)])
    twin = fit(likelihood, start, fixed_mu=truth.mu)
    assert row["rise"] == pytest.approx(twin.value - row["nll"], abs=1e-6)
    assert row["rise"] >= 0
    assert (row["rise"] <= 0.5) == (row["p16"] <= truth.mu <= row["p84"])
    assert row["true_diboson_scale"] == CHALLENGE[4].nu(truth.alphas["diboson_scale"])
    assert row["degrees"] == bundle.regions.n_bins - 1


def test_a_fit_that_fails_does_not_stop_the_others(bundle, monkeypatch):
    def broken(likelihood, *_):
        raise np.linalg.LinAlgError

    for step in ("measure_interval", "damped_interval", "minuit_interval", "grid_interval", "total_interval"):
        monkeypatch.setattr(f"sage.fit.ladder.{step}", broken)
    rows = run_toys(SETTINGS, range(2))
    assert (rows["status"] == "failed").all()
    assert rows["mu_hat"].isna().all()
    assert rows["flags"].str.contains("LinAlgError").all()


def test_toys_are_fitted_by_the_ladder(bundle, monkeypatch):
    """The same numbers as from its first step alone; without that, other steps' numbers and an alarm."""
    rows = run_toys(SETTINGS, range(4))
    _, empty = _prepared(SETTINGS)
    for number, row in rows.iterrows():
        counts = draw_counts(bundle, draw_truth(SETTINGS, number), SETTINGS, number)
        interval = measure_interval(with_counts(empty, counts))
        assert (row["p16"], row["mu_hat"], row["p84"]) == (interval.low, interval.fit.mu, interval.high)
    assert analyse(rows).later_steps == 0
    whole = sage.fit.ladder.measure_interval

    def broken_once(likelihood, *rest):
        if likelihood.statistic.counts.tolist() == first.tolist():
            raise np.linalg.LinAlgError
        return whole(likelihood, *rest)

    first = draw_counts(bundle, draw_truth(SETTINGS, 0), SETTINGS, 0)
    monkeypatch.setattr(sage.fit.ladder, "measure_interval", broken_once)
    later = run_toys(SETTINGS, range(4))
    assert list(later["status"]) == ["flagged", "ok", "ok", "ok"]
    assert later["flags"][0].startswith("fit_by_damped; newton: LinAlgError")
    np.testing.assert_allclose(later["p84"], rows["p84"], atol=1e-4)
    assert analyse(later).later_steps == 1


@pytest.mark.slow
@pytest.mark.stat
def test_less_than_one_of_a_thousand_fits_needs_a_later_step():
    found = analyse(run_toys(replace(SETTINGS, seed=20000, mus=None, simulation="both"), range(10_000)))
    assert found.later_steps < 10


CHOICES = {
    "mu_range": [0.9, 1.05],
    "thresholds": {"mu": [0, 3], "delta_nll": [1.0, 1.1]},
    "profile": "published",
}


@pytest.mark.parametrize("name", list(CHOICES))
def test_toys_asimov_and_pools_measure_as_the_model_does(bundle, monkeypatch, name):
    """A setting of the weights means the same wherever a signal strength is measured."""
    if name == "profile":  # in full it takes minutes
        quick = functools.partial(sage.fit.published.published_interval, points=9, annealing_iterations=2)
        monkeypatch.setattr(sage.measurement, "published_interval", quick)
    chosen = replace(bundle, settings={**bundle.settings, name: CHOICES[name]})
    truth = parameters_at(bundle, 1.0)
    likelihood = asimov_likelihood(chosen, truth)
    shipped = fit_interval(likelihood, chosen.settings)
    usual = fit_interval(likelihood, bundle.settings)
    expected = [shipped.low, shipped.fit.mu, shipped.high]
    assert expected != [usual.low, usual.fit.mu, usual.high]

    row = toy_row(chosen, likelihood, Truth(1.0, {item.name: item.alpha(0.0)[0] for item in CHALLENGE}), 0)
    assert [row["p16"], row["mu_hat"], row["p84"]] == expected
    if name != "profile":
        study = study_asimov(chosen, truth, points=3)
        assert [study.interval.low, study.interval.fit.mu, study.interval.high] == expected
        assert study.parts["statistical"].up <= study.parts["total"].up + 1e-9
    else:
        called = []
        monkeypatch.setattr(sage.measurement, "published_interval", lambda given: called.append(given) or usual)
        study_asimov(chosen, truth, points=3)
        assert len(called) > len(CHALLENGE)  # the interval and all its parts


def test_workers_do_not_change_the_toys(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PART_ROWS", 6)
    job = functools.partial(run_toys, SETTINGS)
    frames = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        frames.append(jobs.run_parts(folder, 15, job, workers, "toy"))
    pd.testing.assert_frame_equal(*frames, check_exact=True)
    monkeypatch.setattr(jobs, "PART_ROWS", 15)
    pd.testing.assert_frame_equal(frames[0], run_toys(SETTINGS, range(15)), check_exact=True)


def test_a_killed_run_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    code = f"""
import functools, pathlib
from studies import toys
from workshop import jobs
from workshop.claims import claimed
jobs.PART_ROWS = 4
settings = toys.ToySettings(pathlib.Path({str(WEIGHTS)!r}), seed=7, mus=(0.5, 2.0))
folder = pathlib.Path({str(tmp_path)!r}, "killed")
with claimed(folder, settings.identity(), results=("parts/*.parquet",)):
    jobs.run_parts(folder, 400, functools.partial(toys.run_toys, settings), 1, "toy")
"""
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(list(folder.glob("parts/*.parquet"))) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in (folder / "parts").glob("*.parquet")}
    assert 2 <= len(done) < 100
    monkeypatch.setattr(jobs, "PART_ROWS", 4)
    toys = 4 * len(done) + 10
    with claimed(folder, SETTINGS.identity(), results=("parts/*.parquet",)):
        frame = jobs.run_parts(folder, toys, functools.partial(run_toys, SETTINGS), 1, "toy")
    for name, stamp in done.items():
        assert (folder / "parts" / name).stat().st_mtime_ns == stamp
    pd.testing.assert_frame_equal(frame, run_toys(SETTINGS, range(toys)), check_exact=True)


def claim(folder, settings, **options):
    with claimed(folder, settings.identity(), results=("parts/*.parquet",), **options):
        (folder / "parts").mkdir(exist_ok=True)
        (folder / "parts" / "one.parquet").write_text("finished")


def test_a_folder_of_other_toys_is_refused(tmp_path):
    claim(tmp_path / "a", SETTINGS)
    claim(tmp_path / "a", SETTINGS)
    with pytest.raises(UsageError, match=r"seed \(there 7, now 8\)"):
        claim(tmp_path / "a", replace(SETTINGS, seed=8))
    claim(tmp_path / "a", replace(SETTINGS, seed=8), overwrite=True)


def test_toys_with_and_without_fixed_nuisances_are_not_mixed(tmp_path):
    fixed = replace(SETTINGS, fixed=(("tes", 1.02), ("jes", 0.98)))
    assert "fixed" not in SETTINGS.identity()
    assert fixed.identity() == replace(fixed, fixed=fixed.fixed[::-1]).identity()
    claim(tmp_path / "a", SETTINGS)
    with pytest.raises(UsageError, match=r"fixed \(there None, now"):
        claim(tmp_path / "a", fixed)
    claim(tmp_path / "b", fixed)
    with pytest.raises(UsageError, match=r"fixed \(there .*, now None"):
        claim(tmp_path / "b", SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("simulation", "some"),
        ("fault", "gremlins"),
        ("seed", -1),
        ("fixed", (("tes", 1.2),)),
        ("fixed", (("tes", math.nan),)),
        ("fixed", (("tec", 1.0),)),
    ],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(UsageError, match=f"{value[0][0]}.*choose" if name == "fixed" else str(value)):
        replace(SETTINGS, **{name: value})


def test_faults_change_the_fit_and_not_the_truth(bundle):
    at = parameters_at(bundle, 1.0)
    right = process_yields(bundle, at)
    shifted = process_yields(faulty_templates(bundle, "template-shift"), at)
    np.testing.assert_allclose(shifted[1] / right[1], 1.01)
    np.testing.assert_array_equal(shifted[[0, 2, 3]], right[[0, 2, 3]])
    assert (process_yields(faulty_templates(bundle, "dropped-process"), at)[3] == 0).all()
    narrow = faulty_likelihood(asimov_likelihood(bundle, at), "tes-constraint")
    assert [nuisance.width for nuisance in narrow.nuisances] == [0.1, 1, 1, 1, 1, 1]
    for fault in FAULTS:
        assert draw_truth(replace(SETTINGS, fault=fault), 2) == draw_truth(SETTINGS, 2)


@pytest.mark.stat
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_eighty_toys_show_each_fault(fault):
    found = analyse(run_toys(ToySettings(WEIGHTS, seed=100, mus=(1.0,), fault=fault), range(80)))
    assert bool(found.alarms) == (fault is not None), found.alarms


@pytest.mark.slow
@pytest.mark.stat
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_five_thousand_toys_show_each_fault_in_mu(fault):
    """Either the pull, the coverage or the p-value of mu itself must be out of bounds, not only a nuisance's.

    Without a fault, all are within four standard errors of what they should be, at every mu.
    """
    settings = ToySettings(WEIGHTS, seed=1000, mus=(0.1, 0.5, 1.0, 2.0, 3.0), fault=fault)
    found = analyse(run_toys(settings, range(5000)))
    if fault is None:
        for group in found.groups:
            assert 625 <= group.coverage.k <= 739
            assert abs(group.pull.mean) < 0.126
            assert abs(group.pull.width - 1.0) < 0.089
        for name, pull in found.pulls.items():
            assert abs(pull.mean - (TES_BIAS if name == "tes" else 0.0)) < 0.057
            assert abs(pull.width - 1.0) < 0.040
        assert min(found.test_statistic.p_value, found.goodness_of_fit.p_value) > 1e-3
    names = [check.name for check in found.alarms]
    about_mu = [name for name in names if name.endswith(" of mu") or "coverage" in name or "lambda" in name]
    assert bool(about_mu) == (fault is not None), names


def test_program(tmp_path, capsys):
    output = tmp_path / "out"
    given = ["--output", str(output), "--toys", "24", "--seed", "5", "--mu", "0.5", "2", "--thresholds", "3"]
    assert program.main(given) == 0
    printed = capsys.readouterr().out
    assert "24 toys: 0 failed" in printed
    assert "thresholds of the rise" in printed
    content = json.loads((output / "analysis.json").read_text())
    assert [group["coverage"]["n"] for group in content["groups"]] == [12, 12]
    assert len(content["thresholds"]) == 3
    assert len(pd.read_parquet(output / "toys.parquet")) == 24
    assert len(json.loads((output / "thresholds.json").read_text())["delta_nll"]) == 13
    for name in ("measurement", "pulls", "estimates", "coverage", "p_values"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (output / f"{name}.svg").is_file()
    assert "fits not by the first step: 0\n" in printed
    assert exit_code(program.main, [*given, "--inject", "tes-constraint"]) == 2
    assert "fault (there None, now 'tes-constraint')" in capsys.readouterr().err


def test_program_fixes_nuisances(tmp_path):
    given = program.arguments(["--output", str(tmp_path), "--fix", "tes=0.98", "soft_met=5"])
    frame = run_toys(program._settings(given), range(6))
    np.testing.assert_allclose(frame["true_tes"], -2.0)
    np.testing.assert_allclose(frame["true_soft_met"], math.log(5.0))
    assert frame["true_jes"].nunique() == 6


def test_program_at_the_level_of_events(tmp_path, capsys):
    output = tmp_path / "out"
    given = ["--level", "events", "--output", str(output), "--toys", "1", "--seed", "9", "--mu", "1"]
    assert program.main([*given, "--data", str(EVENTS), "--test-size", "0.5"]) == 0
    assert "1 toys" in capsys.readouterr().out
    frame = pd.read_parquet(output / "toys.parquet")
    assert list(frame["mu"]) == [1.0]
    drawn = draw_nuisances(9, NAMES)
    for nuisance in CHALLENGE:
        assert frame[f"true_{nuisance.name}"][0] == nuisance.nu(drawn[nuisance.name])
        assert np.isfinite(frame[f"fit_{nuisance.name}"][0])
    assert ((frame["rise"] <= 0.5) == ((frame["p16"] <= 1) & (frame["p84"] >= 1))).all()
    assert set(run_toys(SETTINGS, range(1)).columns) == set(frame.columns)


def test_events_that_nothing_fits_are_a_refusal(tmp_path, capsys):
    data = tmp_path / "real"
    data.mkdir()
    (data / "FAIR_Universe_HiggsML_data.parquet").write_bytes(REAL_EVENTS.read_bytes())
    (data / "FAIR_Universe_HiggsML_data_metadata.json").write_text(json.dumps({"sum_weights": 1_051_433.0}))
    given = ["--level", "events", "--data", data, "--output", tmp_path / "out", "--toys", "2", "--mu", "1"]
    assert program.main([str(value) for value in given]) == 2
    assert "error: none of 2 toys was fitted (" in capsys.readouterr().err


def test_fallbacks_and_order_of_pseudo_experiments(bundle):
    def record(number, result):
        answer = {"mu_hat": 1.5, "delta_mu_hat": 0.5, "p16": 1.0, "p84": 2.0}
        return Record(number, 0, 9, 1.0 + number, dict.fromkeys(NAMES) | {"soft_met": 0.0}, 9, answer, 0, 0, result)

    fitted = {name: {"nu": 0.5, "sigma": 0.1, "alpha": 1.0} for name in NAMES}
    good = {"status": "flagged", "flags": ["a", "b"], "nll": 20.0, "nuisances": fitted}
    bad = {"status": "fallback", "flags": ["no_events"], "nll": None, "nuisances": {}}
    frame = frame_of_records([record(1, bad), record(0, good)], bundle, ROOT)
    assert list(frame["mu"]) == [1.0, 2.0]
    assert list(frame["status"]) == ["flagged", "failed"]
    assert list(frame["flags"]) == ["a; b", "no_events"]
    assert frame["fit_jes"][0] == 0.5
    assert np.isnan(frame["fit_jes"][1])
    assert frame["rise"][0] == 0.5
    with pytest.raises(UsageError, match="holds no pseudo-experiment"):
        frame_of_records([], bundle, ROOT)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--level", "events"], "--data is missing"),
        (["--level", "events", "--data", ".", "--inject", "tes-constraint"], "--inject works at --level counts only"),
        (["--level", "events", "--data", ".", "--fix", "tes=1.02"], "--fix works at --level counts only"),
        (["--fix", "tes=2"], "tes is 2.0, but lies from 0.9 to 1.1"),
        (["--toys", "0"], "--toys: '0'"),
        (["--workers", "0"], "--workers: '0'"),
        (["--weights", "nowhere"], "nowhere"),
    ],
)
def test_unusable_input(tmp_path, capsys, given, said):
    assert exit_code(program.main, ["--output", str(tmp_path / "out"), *given]) == 2
    assert said in capsys.readouterr().err


def test_parabolic_rise_is_a_half_at_the_limits():
    assert parabolic_rise(1.5, 1.0, 0.4, 1.5) == pytest.approx(0.5)
    assert parabolic_rise(0.4, 1.0, 0.4, 1.5) == pytest.approx(0.5)
    assert parabolic_rise(1.0, 1.0, 0.4, 1.5) == 0
    assert parabolic_rise(2.0, 1.0, 0.4, 1.0) == np.inf
