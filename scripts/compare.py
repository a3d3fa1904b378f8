"""Run several submissions on the same pseudo-experiments and compare what they score.

Prints one table with bootstrap errors, and the differences to the first submission, whose errors are small because the
pseudo-experiments are the same. Writes comparison.json and a picture beside one sub-folder of results per submission.
A run that was interrupted is continued by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.checks import check_read
from scripts.common import logger, parser, run_program
from scripts.options import add_run, run_options, run_settings
from workshop.errors import UsageError

EXAMPLE = (
    "--submissions sage=build/demo/sage_submission.zip build/mass_histogram --data data --test-size 0.5 --sets 10 "
    "--experiments 10 --seed 31415 --workers 2 --output results/comparison"
)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("compare", __doc__, EXAMPLE)
    options.add_argument(
        "--submissions",
        nargs="+",
        required=True,
        metavar="[NAME=]DIR_OR_ZIP",
        help="folders or zip files with model.py at their root; the others are compared with the first",
    )
    add_run(options)
    return options.parse_args(argv)


def named(given: Sequence[str]) -> dict[str, Path]:
    """Return submissions by name; without NAME= it is that of the folder or file.

    Raises:
        UsageError: If a name occurs twice or cannot name a folder.
    """
    submissions: dict[str, Path] = {}
    for text in given:
        name, _, path = text.rpartition("=")
        name = name or Path(path).resolve().stem
        if name in submissions or name in ("", ".", "..") or "/" in name:
            msg = f"{text!r} cannot be called {name!r}: every submission needs its own folder name; write NAME=PATH"
            raise UsageError(msg)
        submissions[name] = Path(path)
    return submissions


def work(given: argparse.Namespace) -> None:
    """Run all submissions, write and print the comparison."""
    from studies.compare import draw, report, run_all, tables
    from workshop.files import write_json

    submissions = named(given.submissions)
    for path in submissions.values():
        check_read("--submissions", path, "any")
    settings = run_settings(given)
    options = run_options(given, settings, Path(), given.output)
    for name, path in submissions.items():
        logger.info("%s: %s", name, path)
    records = run_all(submissions, options)
    content = {"seed": given.seed, "settings": settings.as_official(), **report(given.output, records)}
    write_json(given.output / "comparison.json", content)
    pictures = draw(content, given.output / "comparison")
    print(tables(content))
    print(f"\nErrors: standard deviations of {content['bootstraps']} bootstraps of the pseudo-experiments in each set.")
    print(f"Written: {', '.join(str(path) for path in (given.output / 'comparison.json', *pictures))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
