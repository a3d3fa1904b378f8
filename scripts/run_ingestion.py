"""Run a submission on pseudo-experiments, as the challenge's ingestion program does.

Draws sets of pseudo-experiments from the test part of an events file, asks the submission for its interval on each,
and writes result files in the official format. A run that was interrupted is continued by the same command. With the
same data, settings and seed the pseudo-experiments are those of the official program.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import ROOT, parser, run_program
from scripts.options import add_run, run_options, run_settings
from workshop.errors import SubmissionError

EXAMPLE = "--data data/ --sets 10 --experiments 100 --workers 4 --output results/first"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("run_ingestion", __doc__, EXAMPLE)
    options.add_argument(
        "--submission",
        type=Path,
        default=ROOT,
        metavar="DIR_OR_ZIP",
        help="folder or zip file with model.py at its root (default: this checkout)",
    )
    add_run(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Run the ingestion and say where the results are."""
    from harness.runner import run

    settings = run_settings(given)
    try:
        run(run_options(given, settings, given.submission, given.output))
    except SubmissionError:
        print(f"finished pseudo-experiments are kept in {given.output}", file=sys.stderr)
        raise
    print(f"results are in {given.output}")
    print(f"score them with: python -m scripts.score --results {given.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
