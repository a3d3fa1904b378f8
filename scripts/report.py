"""Write one HTML page about a run: scores, coverage, pulls, timings, studies, weights.

The page needs no other file and no network. Besides the run it shows the Asimov data set, which is studied here unless
a folder of scripts.asimov is given, and what the programs toys, postfit, compare, rehearse and check_tables have
written, where their folders are given. Its first line is a verdict from the checks that these have. Writes the same
numbers as JSON beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from scripts.common import parser, run_program
from scripts.options import add_weights
from workshop.errors import UsageError

EXAMPLE = "--results results/demo --label 'other data: simulation, closure' --output results/demo/report.html"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("report", __doc__, EXAMPLE)
    options.set_defaults(output_is="file")
    add = options.add_argument
    add("--results", type=Path, required=True, help="output folder of run_ingestion, or of the official program")
    add("--output", type=Path, required=True, help="HTML file to write")
    add_weights(options)
    add("--name", default="SAGE (local)", help="name of the submission (default: %(default)s)")
    add("--label", default="local", help="what the events are, for the score table (default: %(default)s)")
    for study in ("asimov", "postfit", "toys", "compare", "rehearse"):
        add(f"--{study}", type=Path, metavar="DIR", help=f"output folder of scripts.{study}")
    add("--check", type=Path, metavar="DIR", help="output folder of scripts.check_tables, or of make_weights --check")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Read, draw and write."""
    from report.bundle import weights_section
    from report.page import as_json, render
    from report.rehearsal import rehearsal_section
    from report.run import how_section, read_run, run_sections
    from report.studies import asimov_section, check_section, compare_section, postfit_section, toys_section
    from report.verdict import verdict_of
    from sage import __version__
    from studies.likelihoods import open_weights
    from workshop.files import write_json, write_text

    if given.output.suffix == ".json":
        msg = f"--output {given.output} is the name of the numbers written beside the page; end it with .html"
        raise UsageError(msg)
    with tqdm(total=4, unit="step", leave=False, disable=None) as progress:
        progress.set_description("run")
        bundle = open_weights(given.weights)
        run = read_run(given.results, given.name, given.label, bundle)
        sections = run_sections(run)
        progress.update()
        progress.set_description("studies")
        sections.append(asimov_section(bundle, given.asimov))
        sections += [postfit_section(given.postfit)] if given.postfit else []
        sections += [toys_section(given.toys)] if given.toys else []
        sections += [compare_section(given.compare)] if given.compare else []
        sections += [rehearsal_section(given.rehearse)] if given.rehearse else []
        sections += [check_section(given.check)] if given.check else []
        studies = {"toys": given.toys, "check": given.check, "postfit": given.postfit, "rehearsal": given.rehearse}
        verdict = verdict_of(run, **studies)
        progress.update()
        sections += [weights_section(given.weights, bundle, run), how_section(run)]
        page = render(run, verdict, sections, __version__)
        progress.update()
        write_json(given.output.with_suffix(".json"), as_json(run, verdict, sections))
        write_text(given.output, page)
        progress.update()
    print(verdict.line)
    print(f"Report: {given.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
