"""Sections from the studies: the Asimov data set, and what other programs have written to their folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from report.blocks import Block, Matrix, Picture, Section, Table, count, number, with_error
from report.run import read_json
from report.svg import inline, svg_of
from sage.challenge.nuisances import PROCESSES
from sage.files.bundle import Bundle
from studies.asimov import as_json, study_asimov
from studies.asimov_plots import draw_impacts, draw_scan
from studies.likelihoods import parameters_at
from studies.table_check import BEYOND, CHECK_FILE
from workshop.errors import UsageError
from workshop.labels import process_name

MU_HEADER = ("process", "shift of mu", "error of the tables", "error of the sample", "pull")

Pictures = Mapping[str, bytes]
"""SVG files by name."""


def asimov_section(bundle: Bundle, folder: Path | None) -> Section:
    """Return the section on the Asimov data set: from the folder of ``scripts.asimov``, else studied at mu = 1."""
    if folder is None:
        study = study_asimov(bundle, parameters_at(bundle, 1.0))
        drawn = {"scan": draw_scan(study.scan, study.interval, "Asimov data")}
        drawn["impacts"] = draw_impacts(study.impacts, "Asimov data")
        content, pictures = as_json(study), {name: svg_of(figure) for name, figure in drawn.items()}
    else:
        content, pictures = read_study(folder, "asimov.json", ("scan", "impacts"))
    with entries(folder, "asimov.json"):
        return _asimov(content, pictures)


def _asimov(content: Mapping[str, Any], pictures: Pictures) -> Section:
    nuisances = content["nuisances"]
    best, low, high = content["mu_hat"], content["p16"], content["p84"]
    text = (
        f"Fit of the expected counts at mu = {number(content['truth']['mu'], 2)}: the estimate is the truth, and the "
    )
    text += "uncertainties are those of a typical experiment. "
    text += f"mu = {number(best)} (−{number(best - low)}, +{number(high - best)}), interval {number(high - low)}."
    captions = {
        "scan": (
            "Profile scan of mu",
            "Rise of −ln L above its minimum; dotted lines at 1/2 and 2 are 1 and 2 standard deviations. Look for one "
            "smooth valley. The gap between the curves is what the nuisances cost. Below: where they are pulled to.",
        ),
        "impacts": (
            "Impacts on mu",
            "Change of mu_hat when a nuisance is held at ±1 standard deviation: hollow before the fit (width of the "
            "constraint), filled after it. Long filled bars are what limits the measurement; a filled bar much shorter "
            "than the hollow one means that the data constrain the nuisance. Diamonds: the constraint’s centre "
            "moved by one width. Points, on the lower axis: pulls with their width after the fit.",
        ),
    }
    blocks: list[Block] = pictures_of("asimov", pictures, captions)
    ordered = sorted(nuisances, key=lambda entry: -max(map(abs, entry["fixed_postfit"])))
    header = ("nuisance", "nu", "width before", "width after", "prefit −1σ", "+1σ", "postfit −1σ", "+1σ", "own part")
    rows = tuple(
        (
            entry["name"],
            number(entry["nu"], 3),
            number(entry["width"], 3),
            number(entry["sigma"], 3),
            *(number(value, sign=True) for key in ("fixed_prefit", "fixed_postfit") for value in entry[key]),
            number(abs(entry["auxiliary_covariance"][1])),
        )
        for entry in ordered
    )
    caption = (
        "nu and its widths are in units of the constraint, impacts in units of mu. Own part: what the constraint’s "
    )
    caption += "own measurement adds to the uncertainty of mu, in quadrature."
    blocks.append(Table("impacts-table", "Nuisances and impacts", header, rows, caption))
    parts = tuple(
        (name, number(part["down"]), number(part["up"])) for name, part in content["breakdown_by_freezing"].items()
    )
    caption = "What is lost from the interval when parameters are held, in quadrature and units of mu: statistical, "
    caption += "systematic and simulation add up to the total; groups overlap."
    blocks.append(Table("breakdown", "Parts of the uncertainty", ("part", "down", "up"), parts, caption))
    names = tuple(content["correlation"]["parameters"])
    matrix = tuple(tuple(row) for row in content["correlation"]["matrix"])
    caption = "In per cent, after the fit. A large number in the first row is a nuisance that moves mu."
    blocks.append(Matrix("correlation", "Correlations", names, matrix, caption))
    blocks.append(_changes(content))
    return Section("asimov", "Expected: the Asimov data set", text, tuple(blocks))


def _changes(content: Mapping[str, Any]) -> Table:
    names = [entry["name"] for entry in content["nuisances"]]
    found = {(entry["region"], entry["process"], entry["nuisance"]): entry for entry in content["yield_changes"]}
    rows = tuple(
        (region, process_name(process), *(_change(found[region, process, name]) for name in names))
        for region in content["yields"]
        for process in PROCESSES
    )
    caption = "Change of the expected events in per cent for nu −1 / +1 width."
    return Table("changes", "Changes of yields", ("region", "process", *names), rows, caption, (0, 1), folded=True)


def _change(entry: Mapping[str, Any]) -> str:
    return f"{number(100 * entry['down'], 2, sign=True)} / {number(100 * entry['up'], 2, sign=True)}"


def toys_section(folder: Path) -> Section:
    """Return the section on toys, from the folder of ``scripts.toys``."""
    content, pictures = read_study(folder, "analysis.json", ("coverage", "pulls", "estimates", "p_values"))
    with entries(folder, "analysis.json"):
        coverage, band = content["coverage"], content["band"]
        text = f"{count(content['toys'])} toys at the level of {content['level']}, seed {content['seed']}: "
        text += f"{count(content['failed'])} failed, {count(content['flagged'])} flagged. Coverage "
        text += f"{number(coverage['value'])} [{number(coverage['low'])}, {number(coverage['high'])}], no penalty from "
        text += f"{number(band[0])} to {number(band[1])}; mean interval {number(content['interval'])}, quantiles score "
        text += f"{number(content['score'])}."
        captions = {
            "coverage": ("Coverage of toys", "Points should lie on the line at every mu."),
            "pulls": ("Pulls of toys", "Histograms should follow the unit Gaussian."),
            "estimates": ("Estimates of toys", "The means should lie on the diagonal."),
            "p_values": ("p-values of toys", "Both histograms should be flat."),
        }
        blocks: list[Block] = pictures_of("toys", pictures, captions, wide=("pulls", "p_values"))
        groups = tuple(
            (
                number(group["mu"], 3),
                count(group["coverage"]["n"]),
                f"{number(group['coverage']['value'])} [{number(group['coverage']['low'])}, "
                f"{number(group['coverage']['high'])}]",
                with_error(group["interval"], group["interval_error"]),
                with_error(group["bias"], group["bias_error"], sign=True),
                number(group["rms"]),
            )
            for group in content["groups"]
        )
        header = ("mu", "toys", "coverage", "interval / mu", "bias", "RMS")
        caption = "Coverage with its 68.27 % interval, which should hold 0.6827 in two of three rows; ± is the error."
        blocks.append(Table("toys-mu", "Toys by true mu", header, groups, caption, texts=()))
        pulls = tuple(
            (
                name,
                count(pull["n"]),
                with_error(pull["mean"], pull["mean_error"], sign=True),
                with_error(pull["width"], pull["width_error"]),
            )
            for name, pull in content["pulls"].items()
        )
        caption = "Means should be 0 and widths 1 within the errors."
        blocks.append(Table("toys-pulls", "Pulls of toys", ("parameter", "toys", "mean", "width"), pulls, caption))
        checks = tuple(
            (
                check["name"],
                number(check["value"]),
                number(check["low"]),
                number(check["high"]),
                verdict_text(check["ok"]),
            )
            for check in content["checks"]
        )
        caption = "Bounds are four standard errors, or the stated tolerance if that is more."
        columns = ("check", "value", "from", "to", "result")
        blocks.append(Table("toys-checks", "Checks of toys", columns, checks, caption, texts=(0, 4), folded=True))
    return Section("toys", "Toys", text, tuple(blocks))


def verdict_text(ok: bool) -> str:
    """Return whether a check holds, in words."""
    return "holds" if ok else "does not hold"


def postfit_section(folder: Path) -> Section:
    """Return the section on one fitted pseudo-experiment, from the folder of ``scripts.postfit``."""
    content, pictures = read_study(folder, "postfit.json", ("regions", "pulls", "probabilities"))
    with entries(folder, "postfit.json"):
        text = f"One pseudo-experiment, seed {content['seed']}: true mu {number(content['mu'], 3)}, measured "
        text += f"{number(content['mu_hat'], 3)} [{number(content['p16'], 3)}, {number(content['p84'], 3)}]. −2 ln L "
        text += f"against the saturated model: {number(content['twice_nll'], 1)} in {count(content['bins'])} bins; "
        text += "about the number of bins if the templates fit."
        captions = {
            "regions": (
                "Data and expectation",
                "Events by bin before the fit (above) and after it (below), with the ratio to the expectation and its "
                "uncertainty (grey). After the fit, points should scatter around 1 within their errors.",
            ),
            "pulls": ("Fitted nuisances", "Points with errors: the fit. Diamonds: the truth, which two in three hold."),
            "probabilities": (
                "Outputs of the network",
                "Expected events by class probability; bands are the spread over nuisance points. Each process should "
                "pile up at the right of its own panel.",
            ),
        }
        blocks: list[Block] = pictures_of("postfit", pictures, captions, wide=("regions", "probabilities"))
        rows = tuple(
            (
                name,
                count(sum(region["observed"])),
                *(cell for state in ("before", "after") for cell in _state(region[state])),
                str(len(region["observed"])),
            )
            for name, region in content["regions"].items()
        )
        header = ("region", "observed", "before the fit", "χ²", "after the fit", "χ²", "bins")
        caption = (
            "Events; ± is the uncertainty of the expectation. χ² counts the data’s Poisson errors alone, so before "
        )
        caption += "the fit it may be far above the number of bins, but should come near it after."
        blocks.append(Table("postfit-table", "Observed and expected events", header, rows, caption))
    return Section("postfit", "One pseudo-experiment before and after the fit", text, tuple(blocks))


def _state(entry: Mapping[str, Any]) -> tuple[str, str]:
    return f"{count(entry['integral'])} ± {count(entry['integral_sigma'])}", number(entry["chi2"], 1)


def compare_section(folder: Path) -> Section:
    """Return the section on several submissions, from the folder of ``scripts.compare``."""
    content, pictures = read_study(folder, "comparison.json", ("comparison",))
    with entries(folder, "comparison.json"):
        submissions = content["submissions"]
        names = list(submissions)
        text = f"{count(content['experiments'])} pseudo-experiments, the same for all; ± is the standard deviation of "
        text += f"{count(content['bootstraps'])} bootstraps, which all submissions share."
        captions = {
            "comparison": ("Submissions side by side", "Points with their errors; dashed lines show the ideal.")
        }
        blocks: list[Block] = pictures_of("compare", pictures, captions, wide=("comparison",))
        header = ("quantity", *names)
        rows = _by_statistic(submissions, names, "statistics")
        caption = "Interval, RMS and bias are in units of mu."
        blocks.append(Table("compare-table", "Scores", header, rows, caption))
        if len(names) > 1:
            rows = _by_statistic(submissions, names[1:], "differences")
            caption = f"Each minus {names[0]}; errors of paired differences, so what the answers share drops out."
            blocks.append(Table("compare-differences", "Differences", ("quantity", *names[1:]), rows, caption))
    return Section("compare", "Comparison", text, tuple(blocks))


def check_section(folder: Path) -> Section:
    """Return the section on tables against other events, from the folder of ``scripts.check_tables``."""
    content, _ = read_study(folder, CHECK_FILE, ())
    with entries(folder, CHECK_FILE):
        text = f"{len(content['beyond'])} of {count(content['comparisons'])} comparisons differ by more than "
        text += f"{number(BEYOND, 0)} standard deviations; chance makes one in 370 do so. "
        text += "; ".join(content["beyond"])
        yields = tuple(
            (
                entry["place"],
                process_name(entry["process"]),
                with_error(entry["tables"], entry["tables_error"]),
                with_error(entry["sample"], entry["sample_error"]),
                number(entry["pull"], 1, sign=True),
                number(entry["published"], 1),
                number(entry["published_pull"], 1, sign=True),
            )
            for entry in content["yields"]
        )
        header = ("bins", "process", "tables", "sample", "pull", "published", "pull")
        caption = "Expected events at nominal nuisances. Errors of the sample: by showered events; of the tables: "
        caption += f"{content['tables_errors']}; the published yields have none."
        bins = tuple(
            (
                entry["place"],
                process_name(entry["process"]),
                number(entry["chi2"], 1),
                str(entry["bins"]),
                number(entry["p_value"]),
            )
            for entry in content["chi2"]
        )
        mu = tuple(
            (
                process_name(entry["process"]),
                number(entry["shift"], 3, sign=True),
                number(entry["tables_error"], 3),
                number(entry["sample_error"], 3),
                number(entry["pull"], 1, sign=True),
            )
            for entry in content["mu"]
        )
        moved = "How far mu_hat of data like the sample is from 1 under these tables, to first order."
        columns = ("region", "process", "χ²", "bins", "p")
        blocks: tuple[Block, ...] = (
            Table("check-mu", "What the difference does to mu", MU_HEADER, mu, moved),
            Table("check-yields", "Tables and an independent sample", header, yields, caption, texts=(0, 1)),
            Table("check-bins", "Bin by bin", columns, bins, texts=(0, 1), folded=True),
        )
    return Section("check", "Tables against other events", text, blocks)


def _by_statistic(submissions: Mapping[str, Any], names: Sequence[str], key: str) -> tuple[tuple[str, ...], ...]:
    statistics = submissions[names[0]][key]
    return tuple(
        (
            statistic.replace("_", " "),
            *(with_error(*(submissions[name][key][statistic][part] for part in ("value", "error"))) for name in names),
        )
        for statistic in statistics
    )


def pictures_of(
    section: str, pictures: Pictures, captions: Mapping[str, tuple[str, str]], wide: Sequence[str] = ()
) -> list[Block]:
    """Return those pictures that are there, in the order of their captions."""
    return [
        Picture(f"{section}-{name}", title, inline(pictures[name], f"{section}-{name}", title), caption, name in wide)
        for name, (title, caption) in captions.items()
        if name in pictures
    ]


def read_study(folder: Path, name: str, pictures: Sequence[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the content of a study's JSON file, and those of its SVG pictures that are there."""
    content = read_json(folder / name)
    if not content:
        msg = f"{folder}: no {name}; give the output folder of the program that makes it"
        raise UsageError(msg)
    paths = {picture: folder / f"{picture}.svg" for picture in pictures}
    return content, {picture: path.read_bytes() for picture, path in paths.items() if path.is_file()}


@contextlib.contextmanager
def entries(folder: Path | None, name: str) -> Iterator[None]:
    """Say which file is at fault if an entry of it is missing."""
    try:
        yield
    except (KeyError, TypeError, IndexError) as error:
        msg = f"{folder or '.'}/{name}: entry {error} is missing or of a wrong type; make it again with this version"
        raise UsageError(msg) from error
