"""Answer a finished run again with other tables or settings, from the counts in its records.

Takes seconds to minutes where a rehearsal takes hours. The first submission is the one that made the run, which is
checked; the others must have its network and its bins, and may differ in tables and in settings (make_submission
--set). Prints and writes what scripts.rehearse does; the times are those of the run. An interrupted run is continued
by the same command, and results do not depend on --workers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.checks import check_read
from scripts.common import parser, run_program
from scripts.compare import named
from scripts.options import add_data, add_output, add_overwrite, add_test_size, add_workers
from scripts.rehearse import expected_shifts, tell
from workshop.errors import UsageError

EXAMPLE = (
    "--results results/rehearsal/sage --submissions sage=build/sage_submission.zip flat=build/flat_prior.zip "
    "--workers 2 --output results/refit"
)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("refit", __doc__, EXAMPLE)
    add = options.add_argument
    add("--results", type=Path, required=True, help="folder of the results of a submission of SAGE's method")
    text = "folders or zip files of submissions; the first is the one that made the results"
    add("--submissions", nargs="+", required=True, metavar="[NAME=]DIR_OR_ZIP", help=text)
    add_data(options, required=False)
    add_test_size(options)
    add_workers(options)
    add_output(options)
    add_overwrite(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Fit again, analyse, print and write."""
    from harness.packing import MANIFEST
    from harness.submission import opened
    from studies.refit import check_reproduced, check_same_counts, read_run, refit

    submissions = named(given.submissions)
    for path in submissions.values():
        check_read("--submissions", path, "any")
    for name in submissions:
        if (given.output / name).resolve() == given.results.resolve():
            msg = f"--output {given.output}: the answers of {name} would replace the run that is answered again; give "
            msg += "another folder"
            raise UsageError(msg)
    run = read_run(given.results)
    with ExitStack() as stack:
        weights = {name: stack.enter_context(opened(path)) / MANIFEST.parent for name, path in submissions.items()}
        check_same_counts(weights)
        records = {}
        for name, folder in weights.items():
            records[name] = refit(run, folder, given.output / name, given.workers, overwrite=given.overwrite)
            if len(records) == 1:
                check_reproduced(run, records[name])
    origin = expected_shifts(submissions, given.data, given.test_size) if given.data else {}
    tell(given.output, records, run.settings, origin)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
