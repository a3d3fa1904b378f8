"""The first line of a report: whether all is well, by the checks that a run and its studies have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from harness.scores import ONE_SIGMA
from report.blocks import count, number
from report.rehearsal import failed_checks
from report.run import Run
from report.studies import entries, read_study
from studies.analysis import ERRORS, binomial_error, fraction, pull_of
from studies.table_check import CHECK_FILE

SMALLEST_P = 1e-3
"""Of the goodness of fit of one pseudo-experiment."""


@dataclass(frozen=True)
class Verdict:
    """What the checks say together.

    Args:
        ok: Whether all hold.
        line: That in one line.
        failed: What does not hold, one text each.
    """

    ok: bool
    line: str
    failed: tuple[str, ...]


def verdict_of(
    run: Run,
    *,
    toys: Path | None = None,
    check: Path | None = None,
    postfit: Path | None = None,
    rehearsal: Path | None = None,
) -> Verdict:
    """Return the verdict about a run and those studies whose folders are given."""
    found = [("run", *_run_checks(run))]
    found += [("toys", *_toy_checks(toys))] if toys else []
    found += [("tables", *_table_checks(check))] if check else []
    found += [("fit", *_fit_checks(postfit))] if postfit else []
    found += [("rehearsal", *failed_checks(rehearsal))] if rehearsal else []
    return together(found)


def together(found: Sequence[tuple[str, int, list[str]]]) -> Verdict:
    """Return the verdict of checks: where from, how many, and those that do not hold."""
    total = sum(number for _, number, _ in found)
    failed = tuple(f"{origin}: {text}" for origin, _, texts in found for text in texts)
    origins = ", ".join(f"{origin} {count(number)}" for origin, number, _ in found)
    if not failed:
        return Verdict(True, f"All is well: all {count(total)} checks hold ({origins}).", ())
    one = len(failed) == 1
    line = f"Not all is well: {len(failed)} of {count(total)} checks {'does' if one else 'do'} not hold ({origins})."
    return Verdict(False, line, failed)


def _run_checks(run: Run) -> tuple[int, list[str]]:
    """Check answers, coverage and pulls of mu, within four standard errors."""
    n, failed, checks = run.scores.experiments, [], 1
    if run.results.statuses is not None:
        checks += 1
        fallbacks = run.results.statuses.get("fallback", 0)
        failed += [f"{count(fallbacks)} answers are fallbacks, not measurements"] if fallbacks else []
    inside = sum(low <= one.mu <= high for one in run.results.sets for low, high in zip(one.p16, one.p84, strict=True))
    coverage, reach = fraction(inside, n).value, ERRORS * binomial_error(n)
    if abs(coverage - ONE_SIGMA) > reach:
        failed.append(f"coverage is {number(coverage, 3)}, more than {ERRORS:g} errors from {ONE_SIGMA}")
    pull = pull_of(run.pulls["mu"])
    if pull.n > 1:
        checks += 2
        if abs(pull.mean) > ERRORS * pull.mean_error:
            failed.append(f"mean pull of mu is {number(pull.mean, 2, sign=True)}, more than {ERRORS:g} errors from 0")
        if abs(pull.width - 1.0) > ERRORS * pull.width_error:
            failed.append(f"width of the pulls of mu is {number(pull.width, 2)}, more than {ERRORS:g} errors from 1")
    return checks, failed


def _toy_checks(folder: Path) -> tuple[int, list[str]]:
    content, _ = read_study(folder, "analysis.json", ())
    with entries(folder, "analysis.json"):
        return len(content["checks"]), [str(check["name"]) for check in content["checks"] if not check["ok"]]


def _table_checks(folder: Path) -> tuple[int, list[str]]:
    content, _ = read_study(folder, CHECK_FILE, ())
    with entries(folder, CHECK_FILE):
        return int(content["comparisons"]), [str(text) for text in content["beyond"]]


def _fit_checks(folder: Path) -> tuple[int, list[str]]:
    content, _ = read_study(folder, "postfit.json", ())
    with entries(folder, "postfit.json"):
        p_value = float(stats.chi2.sf(content["twice_nll"], content["bins"] - 1))
        text = f"the fit does not describe the pseudo-experiment, p = {p_value:.1g}"
        return 1, [] if p_value > SMALLEST_P else [text]
