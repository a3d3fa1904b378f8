"""Rehearse the final phase: ten sets of pseudo-experiments, several submissions on the same, and why they are off.

Pseudo-data are made once for all submissions. Beside the official scores it tells coverage, bias and interval in every
set and in bins of mu and of each true nuisance; which part of the bias comes from the events that are drawn and from
those of the tables, and what is left for the method. Take events that filled no table. Prints tables; writes
rehearsal.json, which depends on events, seed and submissions alone, seconds.json with the times, a picture for each
submission, and one sub-folder of results each, which scripts.score and scripts.report read. An interrupted run is
continued by the same command, and results do not depend on --workers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.checks import check_read
from scripts.common import logger, parser, run_program
from scripts.compare import named
from scripts.options import add_run, run_options, run_settings

if TYPE_CHECKING:
    from harness.experiment import Record
    from harness.settings import Settings

EXAMPLE = (
    "--submissions sage=build/sage_submission.zip build/mass_histogram --data build/events --test-size 1.0 "
    "--workers 2 --output results/rehearsal"
)
EXPERIMENTS, QUICK = 1000, 100
CONTENT_FILE, SECONDS_FILE = "rehearsal.json", "seconds.json"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("rehearse", __doc__, EXAMPLE)
    add = options.add_argument
    text = "folders or zip files with model.py at their root; the others are compared with the first"
    add("--submissions", nargs="+", required=True, metavar="[NAME=]DIR_OR_ZIP", help=text)
    add_run(options)
    add("--quick", action="store_true", help=f"{QUICK} pseudo-experiments per set, as in the first phase")
    options.set_defaults(experiments=EXPERIMENTS)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Run, analyse, print and write."""
    from studies.compare import run_all
    from studies.rehearsal import points_of

    if given.quick:
        given.experiments = QUICK
    submissions = named(given.submissions)
    for path in submissions.values():
        check_read("--submissions", path, "any")
    settings = run_settings(given)
    records = run_all(submissions, run_options(given, settings, Path(), given.output), points_of(settings.mus))
    tell(given.output, records, settings, expected_shifts(submissions, given.data, given.test_size))


def tell(
    output: Path, records: Mapping[str, list[Record]], settings: Settings, origin: Mapping[str, dict[str, float]]
) -> None:
    """Analyse records of submissions, whose results are in sub-folders of ``output``; print and write what is found.

    Args:
        output: Folder of the results.
        records: Records by submission, sorted by set and index.
        settings: Settings of the run.
        origin: What ``expected_shifts`` returns.
    """
    from studies.rehearsal import rehearsal
    from studies.rehearsal_report import as_text, draw
    from workshop.files import write_json

    content, seconds = rehearsal(output, records, settings.mus, origin)
    head: dict[str, Any] = {"seed": settings.seed, "settings": settings.as_official()}
    write_json(output / CONTENT_FILE, head | content)
    write_json(output / SECONDS_FILE, seconds)
    pictures = [path for name in records for path in draw(content, name, output / f"coverage_{name}")]
    print(as_text(content, seconds))
    print(f"\nErrors: standard deviations of {content['bootstraps']} bootstraps of the pseudo-experiments in each set;")
    print('"score, sets drawn": mean and standard deviation over bootstraps of the sets, as in the final phase.')
    print(f"Written: {', '.join(map(str, (output / CONTENT_FILE, output / SECONDS_FILE, *pictures)))}")


def expected_shifts(submissions: Mapping[str, Path], data: Path, test_size: int | float) -> dict[str, dict[str, float]]:
    """Return how far chance in the events of pool and tables should move mu, for submissions of which it is known.

    Submissions that differ in their settings alone have the same tables, for which the events are counted once.
    """
    from harness.packing import MANIFEST
    from harness.submission import opened
    from harness.test_set import EventFile
    from sage.errors import SageError
    from sage.files.bundle import TABLES
    from studies.table_check import check_tables
    from training.simulation.parts import Piece
    from workshop.files import sha256

    file = EventFile(data, test_size)
    share = file.test_rows / file.total_rows
    by_tables: dict[str, dict[str, float]] = {}
    shifts = {}
    for name, submission in submissions.items():
        try:
            with opened(submission) as folder:
                if not (folder / MANIFEST).is_file():
                    continue
                tables = sha256(folder / "weights" / TABLES)
                if tables not in by_tables:
                    piece = Piece(file.path.parent, "all" if share == 1.0 else "tables", share)
                    found = check_tables(folder / "weights", piece)["mu"][-1]
                    by_tables[tables] = {key: float(found[key]) for key in ("shift", "tables_error", "sample_error")}
            shifts[name] = by_tables[tables]
        except (SageError, KeyError, OSError) as error:
            logger.warning("%s: what chance in the events does is not told: %s", name, error)
    return shifts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
