"""Sections from the results of a run: scores, coverage, pulls, answers and timings, how it was run."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.experiment import Record
from harness.leaderboard import BOOTSTRAPPED, PUBLISHED, PUBLISHED_DATA, PUBLISHED_EXPERIMENTS
from harness.plots import draw_intervals
from harness.results import (
    ENVIRONMENT_FILE,
    EXPERIMENTS_FILE,
    RUN_FILE,
    RunResults,
    SetResult,
    read_records,
    read_results,
)
from harness.scores import ONE_SIGMA, Scores, mae_score, pulls, rmse_score, score_results
from report.blocks import Block, Picture, Section, Table, count, number, with_error
from report.plots import coverage_of, draw_coverage, draw_run_pulls
from report.svg import inline, svg_of
from sage.files.bundle import Bundle
from studies.analysis import UNPULLED, Fraction, Pull, flat_band, fraction, nuisance_pulls, pull_of
from studies.event_toys import frame_of_records
from workshop.errors import UsageError
from workshop.numbers import without_numbers

MOST_SETS, MOST_EXPERIMENTS = 9, 100
"""Intervals that are drawn; with all those of a large run the page would take long to show."""


@dataclass(frozen=True)
class Run:
    """A run as it is reported.

    Args:
        name: Name of the submission.
        label: What the events are.
        results: Its results.
        scores: Its scores.
        records: What is kept of each pseudo-experiment; empty for a run of the official program.
        identity: Content of run.json; empty if there is none.
        environment: Content of environment.json; empty if there is none.
        pulls: Pulls of mu, and of the nuisances that were drawn where the model tells what it fitted.
        soft_met: In how many of how many experiments nu_hat +- sigma of soft_met held the truth.
    """

    name: str
    label: str
    results: RunResults
    scores: Scores
    records: tuple[Record, ...]
    identity: dict[str, Any]
    environment: dict[str, Any]
    pulls: dict[str, np.ndarray]
    soft_met: tuple[int, int]


def read_run(folder: Path, name: str, label: str, bundle: Bundle) -> Run:
    """Read a run of this harness or of the official program.

    Args:
        folder: Output folder of ``run_ingestion``.
        name: Name of the submission.
        label: What the events are.
        bundle: Weights whose nuisance table the model's ``last_result`` speaks of.

    Raises:
        UsageError: If it is not complete, or files are damaged.
    """
    results = read_results(folder)
    records = tuple(read_records(folder / EXPERIMENTS_FILE)[0])
    identity = read_json(folder / RUN_FILE)
    _check_objects(identity, folder / RUN_FILE, "systematics")
    found = pulls(results)
    every = {"mu": found[np.isfinite(found)]}
    soft_met = (0, 0)
    if any(record.result and record.result.get("nuisances") for record in records):
        frame = frame_of_records(records, bundle, folder)
        drawn = [key for key, on in identity.get("systematics", {}).items() if on]
        every |= {key: nuisance_pulls(frame, key) for key in drawn if key != UNPULLED}
        if UNPULLED in drawn:
            off = (frame[f"fit_{UNPULLED}"] - frame[f"true_{UNPULLED}"]).abs()
            measured = frame[f"fit_{UNPULLED}"].notna()
            soft_met = int((off <= frame[f"sigma_{UNPULLED}"]).sum()), int(measured.sum())
    environment = read_json(folder / ENVIRONMENT_FILE)
    _check_objects(environment, folder / ENVIRONMENT_FILE, "data", "machine", "versions")
    return Run(name, label, results, score_results(results), records, identity, environment, every, soft_met)


def _check_objects(content: dict[str, Any], path: Path, *names: str) -> None:
    for name in names:
        if not isinstance(content.get(name, {}), dict):
            msg = f"{path}: {name!r} is {content[name]!r}, not an object; make it again"
            raise UsageError(msg)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if there is none.

    Raises:
        UsageError: If it is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path}: not JSON ({error}); make it again"
        raise UsageError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: holds a {type(content).__name__}, not an object; make it again"
        raise UsageError(msg)
    return content


def key_numbers(run: Run) -> tuple[tuple[str, str, str], ...]:
    """Return the numbers at the top of the page: what, value, and what it should be."""
    low, high = flat_band(run.scores.experiments)
    coverage, interval, score = (_bootstrap(run, name) for name in BOOTSTRAPPED)
    of_mu = pull_of(run.pulls["mu"])
    numbers = [
        ("quantiles score", score, "larger is better"),
        ("coverage", coverage, f"no penalty from {number(low, 3)} to {number(high, 3)}"),
        ("mean interval", interval, "width in units of mu; smaller is better"),
        ("pull mean of mu", with_error(of_mu.mean, of_mu.mean_error, 2, sign=True), "0 if unbiased"),
        ("pull width of mu", with_error(of_mu.width, of_mu.width_error, 2), "1 if intervals are right"),
    ]
    if run.records:
        seconds = float(np.median([record.predict_seconds for record in run.records]))
        numbers.append(("predict", f"{number(seconds, 2)} s", "median per pseudo-experiment"))
    return tuple(numbers)


def run_sections(run: Run) -> list[Section]:
    """Return the sections about what a run found."""
    sections = [_scores(run), _coverage(run), _pulls(run)]
    if run.records:
        sections.append(_answers(run))
    return sections


def how_section(run: Run) -> Section:
    """Return the section on how the run was made."""
    sets = run.results.sets
    rows = [("sets", str(len(sets))), ("pseudo-experiments", str(run.scores.experiments))]
    rows.append(("true mu by set", ", ".join(number(result.mu) for result in sets)))
    if run.identity:
        switches = run.identity.get("systematics", {})
        rows += [
            ("seed", str(run.identity.get("seed"))),
            ("true mu drawn at random", "yes" if run.identity.get("random_mu") else "no, given"),
            ("systematic uncertainties on", ", ".join(name for name, on in switches.items() if on) or "none"),
        ]
        off = [name for name, on in switches.items() if not on]
        rows += [("switched off", ", ".join(off))] if off else []
    blocks: list[Block] = []
    data = run.environment.get("data", {})
    if data:
        rows.append(("data file", str(data.get("file"))))
        all_rows, test_rows = (count(data[key]) if type(data.get(key)) is int else "?" for key in ("rows", "test_rows"))
        rows.append(("rows", f"{all_rows}, of which the test part is the first {test_rows}"))
    if run.environment:
        machine = run.environment.get("machine", {})
        rows.append(("worker processes", str(run.environment.get("workers"))))
        rows.append(("machine", f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('system')}"))
        rows.append(("started", str(run.environment.get("started"))))
    if run.identity:
        rows.append(("fingerprint of data and split", str(run.identity.get("data"))))
        rows.append(("fingerprint of the submission", str(run.identity.get("submission"))))
    blocks.append(Table("settings", "Settings of the run", ("setting", "value"), tuple(rows), texts=(0, 1)))
    found = run.environment.get("versions", {})
    if found:
        versions = tuple((str(name), str(value)) for name, value in found.items())
        blocks.append(Table("versions", "Versions", ("package", "version"), versions, texts=(0, 1)))
    text = "The same data file, split, seed and submission give the same pseudo-experiments and answers."
    return Section("how", "How it was run", text, tuple(blocks))


def _bootstrap(run: Run, name: str) -> str:
    values = getattr(run.scores.bootstrap, name)
    # Resampling a single set always gives that set.
    return with_error(float(values.mean()), float(values.std()) if len(run.results.sets) > 1 else None)


def _scores(run: Run) -> Section:
    own = (run.name, *(_bootstrap(run, name) for name in BOOTSTRAPPED), count(run.scores.experiments), run.label)
    published = tuple(
        (team, *(number(value) for value in values), count(PUBLISHED_EXPERIMENTS), PUBLISHED_DATA)
        for team, *values in sorted(PUBLISHED, key=lambda row: -row[3])
    )
    caption = "Means over 1000 bootstraps of the sets, as in the final phase; for this run ± is the standard deviation "
    caption += "of its bootstraps. Below the rule: the published results, measured on the "
    caption += f"official hold-out, while this run is on “{run.label}”: where the data differ, this is no ranking."
    header = ("team", "coverage", "interval / mu", "quantiles score", "experiments", "data")
    blocks: list[Block] = [
        Table("leaderboard", "Score table", header, (own, *published), caption, texts=(0, 5), marked=(0,), ruled=1),
        _totals(run),
        Table(
            "sets",
            "Scores by set",
            (
                "set",
                "true mu",
                "experiments",
                "coverage",
                "interval / mu",
                "RMSE score",
                "MAE score",
                "mean mu_hat − mu",
            ),
            tuple(
                (
                    str(i),
                    number(score.mu),
                    count(score.experiments),
                    _coverage_text(coverage_of(result)),
                    *(
                        _mean(values)
                        for values in (_widths(result), _terms(rmse_score, result), _terms(mae_score, result))
                    ),
                    _mean(np.subtract(result.mu_hats, result.mu), sign=True),
                )
                for i, (score, result) in enumerate(zip(run.scores.sets, run.results.sets, strict=True))
            ),
            "All experiments of a set share the true mu; ± is the error of a mean. Look for a coverage or a bias that "
            "changes with mu.",
            texts=(),
        ),
    ]
    text = "Coverage, interval and quantiles score are the challenge’s (arXiv:2410.02867, section 4)."
    return Section("scores", "Scores", text, tuple(blocks))


def _totals(run: Run) -> Table:
    """Return the scores of all pseudo-experiments together, with errors that count experiments rather than sets."""
    inside = sum(coverage_of(result).k for result in run.results.sets)
    n = run.scores.experiments
    low, high = flat_band(n)
    sets = run.results.sets
    widths, rmse, mae = (
        np.concatenate([terms(result) for result in sets])
        for terms in (_widths, functools.partial(_terms, rmse_score), functools.partial(_terms, mae_score))
    )
    off = np.concatenate([np.subtract(result.mu_hats, result.mu) for result in sets])
    rms = float(np.sqrt(np.mean(off**2)))
    rows = (
        ("coverage", _coverage_text(fraction(inside, n)), f"{inside} of {n} intervals hold the true mu; no penalty "
         f"from {number(low, 3)} to {number(high, 3)}"),
        ("mean interval", _mean(widths), "p84 − p16, in units of mu"),
        ("quantiles score", number(run.scores.quantiles_score, 2), "of all experiments, without bootstrap"),
        ("bias", _mean(off, sign=True), "mean of mu_hat − mu; 0 if unbiased"),
        ("RMS", with_error(rms, rms / math.sqrt(2 * n)), "root mean square of mu_hat − mu"),
        ("RMSE score", _mean(rmse), "also judges delta_mu_hat; smaller is better"),
        ("MAE score", _mean(mae), "also judges delta_mu_hat; smaller is better"),
    )  # fmt: skip
    caption = "± is the standard error, from the scatter of the experiments; of the coverage the binomial one."
    return Table("totals", "All pseudo-experiments", ("quantity", "value", "meaning"), rows, caption, texts=(0, 2))


def _coverage_text(found: Fraction) -> str:
    return with_error(found.value, 0.5 * (found.high - found.low))


def _mean(values: np.ndarray, *, sign: bool = False) -> str:
    """Return a mean and its standard error."""
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return with_error(float(values.mean()), error, sign=sign)


def _widths(result: SetResult) -> np.ndarray:
    return np.abs(np.subtract(result.p84, result.p16))


def _terms(score: Callable[..., float], result: SetResult) -> np.ndarray:
    """Return what a score of a set is the mean of."""
    pairs = zip(result.mu_hats, result.delta_mu_hats, strict=True)
    return np.array([score(result.mu, np.array([mu_hat]), np.array([delta])) for mu_hat, delta in pairs])


def _coverage(run: Run) -> Section:
    sets = run.results.sets
    title = "Coverage and mean interval against the true mu"
    caption = "Upper panel: fraction of the intervals that hold the true mu, one point per set, with its binomial "
    caption += f"error; the line is {100 * ONE_SIGMA:.2f} %, the band what the score does not penalise. Points should "
    caption += "scatter around the line at every mu. Lower panel: mean width of the interval and its standard error."
    blocks: list[Block] = [
        Picture("coverage-plot", title, inline(svg_of(draw_coverage(sets)), "coverage-plot", title), caption)
    ]
    shown = tuple(
        dataclasses.replace(
            result,
            **{key: getattr(result, key)[:MOST_EXPERIMENTS] for key in ("mu_hats", "delta_mu_hats", "p16", "p84")},
        )
        for result in sets[:MOST_SETS]
    )
    title = "Intervals of the pseudo-experiments"
    caption = (
        "One line per pseudo-experiment from p16 to p84, sorted by the estimate; about 68 in 100 should cross the "
    )
    caption += "dashed line, and misses should come at both ends."
    if shown != sets:
        caption += f" Shown: the first {MOST_EXPERIMENTS} experiments of the first {MOST_SETS} sets at most."
    figure = draw_intervals(dataclasses.replace(run.results, sets=shown), columns=3)
    blocks.append(
        Picture("intervals-plot", title, inline(svg_of(figure), "intervals-plot", title), caption, wide=len(shown) > 2)
    )
    return Section("coverage", "Coverage and intervals", "", tuple(blocks))


def _pulls(run: Run) -> Section:
    found = {name: pull_of(values) for name, values in run.pulls.items()}
    title = "Pulls of the pseudo-experiments"
    caption = (
        "Points: (estimate − truth) / uncertainty of each experiment, beyond ±4 drawn at the edge. Bars: mean and "
    )
    caption += "width. Good pulls have mean 0 and width 1: bars should span the green band. A width above 1 means "
    caption += "uncertainties that are too small."
    figure = draw_run_pulls(run.pulls)
    blocks: list[Block] = [Picture("pulls-plot", title, inline(svg_of(figure), "pulls-plot", title), caption)]
    caption = "± is the standard error. For mu the uncertainty is delta_mu_hat, half of the interval; for a nuisance "
    caption += "it is the parabolic one. Experiments whose estimate has no uncertainty have no pull."
    if run.soft_met[1]:
        held, n = run.soft_met
        caption += " soft_met is left out, as its likelihood is far from Gaussian; nu_hat ± sigma held its true value "
        caption += f"in {held} of {n} experiments."
    header = ("parameter", "experiments", "mean", "width")
    blocks.append(Table("pulls-table", "Pulls", header, tuple(_pull_row(*item) for item in found.items()), caption))
    return Section("pulls", "Pulls", "", tuple(blocks))


def _pull_row(name: str, pull: Pull) -> tuple[str, ...]:
    mean = with_error(pull.mean, pull.mean_error, 3, sign=True)
    return name, count(pull.n), mean, with_error(pull.width, pull.width_error, 3)


def _answers(run: Run) -> Section:
    blocks: list[Block] = []
    if run.results.statuses:
        rows = tuple((name, count(n)) for name, n in run.results.statuses.items())
        caption = "ok: measured the normal way. flagged: measured, with a remark. fallback: not measured; a fixed wide "
        caption += "interval was returned. All should be ok."
        blocks.append(Table("statuses", "Answers by status", ("status", "answers"), rows, caption))
    all_flags = (str(flag) for record in run.records for flag in (record.result or {}).get("flags", ()))
    flags = Counter(map(without_numbers, all_flags))
    if flags:
        rows = tuple((flag, count(n)) for flag, n in sorted(flags.items()))
        caption = "What did not go the normal way, in the model’s words; an answer can have several."
        blocks.append(Table("flags", "Flags", ("flag", "answers"), rows, caption))
    times = tuple(
        (title, *(number(value, 3) for value in _times([getattr(record, key) for record in run.records])))
        for title, key in (("predict", "predict_seconds"), ("making the pseudo-data", "generation_seconds"))
    )
    events = np.array([record.events for record in run.records])
    caption = (
        f"Wall-clock seconds per pseudo-experiment of {count(float(events.mean()))} events on average. With several "
    )
    caption += "worker processes or a busy machine they are longer than alone."
    header = ("step", "median / s", "90 % below / s", "longest / s", "sum / s")
    blocks.append(Table("timings", "Timings", header, times, caption))
    return Section("answers", "Answers and timings", "", tuple(blocks))


def _times(seconds: list[float]) -> tuple[float, ...]:
    values = np.array(seconds)
    return float(np.median(values)), float(np.quantile(values, 0.9)), float(values.max()), float(values.sum())
