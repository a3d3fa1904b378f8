"""The section on a rehearsal of the final phase."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.leaderboard import PUBLISHED, PUBLISHED_DATA, PUBLISHED_EXPERIMENTS
from harness.scores import ONE_SIGMA
from report.blocks import Block, Section, Table, count, number, with_error
from report.studies import entries, pictures_of, read_study, verdict_text
from studies.rehearsal import physical
from studies.rehearsal_report import COLUMNS

FILE, SECONDS = "rehearsal.json", "seconds.json"


def rehearsal_section(folder: Path) -> Section:
    """Return the section, from the folder of ``scripts.rehearse``; of the first submission in detail."""
    seconds, _ = read_study(folder, SECONDS, ())
    content, _ = read_study(folder, FILE, ())
    with entries(folder, FILE):
        submissions = content["submissions"]
        first, *others = submissions
        entry = submissions[first]
        _, pictures = read_study(folder, FILE, (f"coverage_{first}",))
        low, high = content["band"]
        text = f"{count(content['experiments'])} pseudo-experiments in {len(entry['sets'])} sets, the same for all "
        text += f"submissions, seed {content['seed']}. A coverage from {number(low)} to {number(high)} costs nothing. "
        text += f"The tables by set and by bin are of {first}. {_causes(entry)}"
        blocks: list[Block] = [_methods(content, seconds)]
        if others:
            blocks.append(_differences(submissions, seconds))
        captions = {
            f"coverage_{first}": (
                f"Coverage of {first} by set and nuisance",
                "Every panel has all pseudo-experiments, in sets or in bins of equal content. Grey: as answered. Blue: "
                "intervals moved back by what the whole pool of events does to mu. Points should scatter around the "
                "line by their errors; the band is one binomial error.",
            )
        }
        blocks += pictures_of("rehearsal", pictures, captions, wide=tuple(captions))
        blocks += [_sets(entry), _bins(entry), _checks(submissions)]
    return Section("rehearsal", "The final phase, rehearsed", text, tuple(blocks))


def failed_checks(folder: Path) -> tuple[int, list[str]]:
    """Return how many checks the rehearsal's first submission has, and the names of those that do not hold."""
    content, _ = read_study(folder, FILE, ())
    with entries(folder, FILE):
        checks = next(iter(content["submissions"].values()))["checks"]
        return len(checks), [str(check["name"]) for check in checks if not check["ok"]]


def _methods(content: Mapping[str, Any], seconds: Mapping[str, Any]) -> Table:
    header = (
        "method",
        *COLUMNS.values(),
        "score, sets drawn",
        "predict / s",
        "experiments",
        "data",
    )
    rows = []
    for name, entry in content["submissions"].items():
        bootstrap = entry["official"]["bootstrap"]["quantiles_score"]
        rows.append(
            (
                name,
                *(_pair(entry["statistics"][key]) for key in COLUMNS),
                with_error(bootstrap["mean"], bootstrap["std"] if len(entry["sets"]) > 1 else None, 2),
                _pair(seconds[name]["predict"]),
                count(content["experiments"]),
                "these",
            )
        )
    for team, coverage, interval, score in PUBLISHED:
        values = (number(coverage), number(interval), "", "", number(score), "", count(PUBLISHED_EXPERIMENTS))
        rows.append((team, *values, f"other: {PUBLISHED_DATA}"))
    caption = "± is the standard deviation of bootstraps of the pseudo-experiments within each set; the last score is "
    caption += "mean and standard deviation over bootstraps of the sets, by which the final phase ranked. The teams’ "
    caption += "rows were measured on other data: no ranking."
    own = tuple(range(len(content["submissions"])))
    return Table("rehearsal-methods", "Methods", header, tuple(rows), caption, texts=(0, 8), marked=own, ruled=len(own))


def _differences(submissions: Mapping[str, Any], seconds: Mapping[str, Any]) -> Table:
    first, *others = submissions
    rows = tuple(
        (name, *(_pair(submissions[name]["differences"][key], sign=True) for key in COLUMNS),
         _pair(seconds[name]["difference"], sign=True))
        for name in others
    )  # fmt: skip
    caption = f"Each minus {first}; what their answers share drops out of the errors."
    header = ("method", *COLUMNS.values(), "predict / s")
    return Table("rehearsal-differences", f"Differences to {first}", header, rows, caption)


def _sets(entry: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            str(place),
            number(one["mu"], 3),
            count(one["experiments"]),
            _fraction(one["coverage"]),
            _pair(one["bias"], sign=True),
            number(one["shift"], 3, sign=True) if entry["pool"] else "",
            _pair(one["rest"], sign=True) if entry["pool"] else "",
            _fraction(one["coverage_moved_back"]) if entry["pool"] else "",
            with_error(one["pull"]["mean"], one["pull"]["mean_error"], sign=True),
            _pair(one["interval"]),
            number(one["quantiles_score"], 2, sign=True),
        )
        for place, one in enumerate(entry["sets"])
    )
    header = (
        *(
            "set",
            "true mu",
            "experiments",
            "coverage",
            "bias",
            "by the pool",
            "rest",
            "coverage, moved back",
            "pull mean",
        ),
        *("interval / mu", "score"),
    )
    caption = (
        "By the pool: what the whole pool in place of a draw does to mu_hat, which comes from chance in the pool’s "
    )
    caption += "events and in those of the tables. The rest of the bias is the method’s."
    return Table("rehearsal-sets", "Set by set", header, rows, caption, texts=())


def _bins(entry: Mapping[str, Any]) -> Table:
    rows = []
    for key, found in entry["bins"].items():
        for place, one in enumerate(found["bins"]):
            back = one["pull_moved_back"]
            rows.append(
                (
                    key if place == 0 else "",
                    physical(key, one["low"], one["high"]),
                    count(one["experiments"]),
                    _fraction(one["coverage"]),
                    with_error(one["pull"]["mean"], one["pull"]["mean_error"], sign=True),
                    _fraction(one["coverage_moved_back"]),
                    with_error(back["mean"], back["mean_error"], sign=True),
                    _pair(one["interval"]),
                    number(found["p_coverage"], 3) if place == 0 else "",
                )
            )
    header = ("truth", "range", "experiments", "coverage", "pull", "moved back", "pull", "interval / mu", "p even")
    caption = "Bins of equal content. p even: probability that chance makes the coverage as uneven as it is."
    return Table("rehearsal-bins", "By mu and true nuisance", header, tuple(rows), caption, texts=(0, 1))


def _checks(submissions: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            name,
            check["name"],
            number(check["value"]),
            number(check["low"]),
            number(check["high"]),
            verdict_text(check["ok"]),
        )
        for name, entry in submissions.items()
        for check in entry["checks"]
    )
    header = ("method", "check", "value", "from", "to", "result")
    return Table("rehearsal-checks", "Checks", header, rows, texts=(0, 1, 5), folded=True)


def _causes(entry: Mapping[str, Any]) -> str:
    pool = entry["pool"]
    if pool is None:
        return ""
    text = f"The whole pool moves its mu_hat by {number(pool['shift'], 3, sign=True)}"
    if pool["expected"]:
        expected = pool["expected"]
        text += f"; chance in the pool’s events explains ±{number(expected['sample_error'], 3)} of it, chance in those "
        text += f"of the tables ±{number(expected['tables_error'], 3)}"
    back = entry["moved_back"]
    text += f". Moved back by that, its coverage is {_fraction(back['coverage'])} (ideal {ONE_SIGMA}) and its score "
    return text + f"{number(back['quantiles_score'], 2, sign=True)}."


def _fraction(found: Mapping[str, Any]) -> str:
    return with_error(found["value"], 0.5 * (found["high"] - found["low"]))


def _pair(entry: Mapping[str, Any], *, sign: bool = False) -> str:
    return with_error(entry["value"], entry["error"], sign=sign)
