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

from harness.errors import HarnessError
from harness.runner import RunOptions, run
from harness.settings import DEFAULT_SEED, MU_RANGE, make_settings
from sage.nuisances import NAMES
from scripts.common import parser, run_program

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_SETS, DEFAULT_EXPERIMENTS = 10, 10
EXAMPLE = "--data data/ --sets 10 --experiments 100 --workers 4 --output results/first"


def systematics(text: str) -> tuple[str, ...]:
    """Read all, none or names of uncertainties from the command line."""
    if text in ("all", "none"):
        return NAMES if text == "all" else ()
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        msg = f"no systematic uncertainty is called {unknown[0]!r}; choose all, none or some of {','.join(NAMES)}"
        raise argparse.ArgumentTypeError(msg)
    return names


def test_size(text: str) -> float:
    """Read a number of rows or a fraction from the command line."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        msg = f"{text!r} is neither a number of rows (100000) nor a fraction (0.3)"
        raise argparse.ArgumentTypeError(msg) from None


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("run_ingestion", __doc__, EXAMPLE)
    add = options.add_argument
    add("--data", type=Path, required=True, help="events: a Parquet file, or the folder of the public data set")
    add(
        "--submission",
        type=Path,
        default=ROOT,
        metavar="DIR_OR_ZIP",
        help="folder or zip file with model.py at its root (default: this checkout)",
    )
    add("--output", type=Path, required=True, help="folder for the results; made if it is not there")
    add("--sets", type=int, help=f"sets, each with its own true mu (default: {DEFAULT_SETS}, or one per given mu)")
    add(
        "--experiments",
        type=int,
        default=DEFAULT_EXPERIMENTS,
        help="pseudo-experiments per set (default: %(default)s)",
    )
    add("--workers", type=int, default=1, help="processes; results do not depend on it (default: %(default)s)")
    add("--seed", type=int, default=DEFAULT_SEED, help="initial seed (default: %(default)s)")
    add(
        "--systematics",
        type=systematics,
        default=NAMES,
        metavar="all|none|NAME,NAME...",
        help=f"uncertainties to switch on, of {','.join(NAMES)} (default: all)",
    )
    low, high = MU_RANGE
    add(
        "--ground-truth-mus",
        type=float,
        nargs="+",
        metavar="MU",
        help=f"true mu of each set (default: drawn uniformly from {low} to {high} with the seed)",
    )
    add(
        "--test-size",
        type=test_size,
        default=0.3,
        help="rows, or fraction of the rows, pseudo-experiments are drawn from (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="throw away an earlier run in the output folder")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Run the ingestion and say where the results are."""
    mus = given.ground_truth_mus
    sets = given.sets if given.sets is not None else len(mus) if mus else DEFAULT_SETS
    settings = make_settings(sets, given.experiments, given.seed, given.systematics, mus)
    try:
        run(
            RunOptions(
                data=given.data,
                submission=given.submission,
                output=given.output,
                settings=settings,
                workers=given.workers,
                test_size=given.test_size,
                overwrite=given.overwrite,
                progress=True,
            )
        )
    except HarnessError as error:
        if error.exit_code == 1:
            print(f"finished pseudo-experiments are kept in {given.output}", file=sys.stderr)
        raise
    print(f"results are in {given.output}")
    print(f"score them with: python -m scripts.score --results {given.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
