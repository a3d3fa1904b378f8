"""Compare simulated events with the published yields and with reference events.

DIR of --reference holds one parquet file per process, and real_500.parquet, which is compared if it is there. Prints
tables; writes comparison.json and a picture of all features for each process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import parser, run_program
from scripts.options import add_output

EXAMPLE = "--events build/events --reference DIR --output build/comparison"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("compare_simulation", __doc__, EXAMPLE)
    add = options.add_argument
    add("--events", type=Path, required=True, help="folder of simulated events")
    add("--beside", type=Path, nargs="+", default=[], help="more such folders, for the pictures")
    add("--reference", type=Path, required=True, metavar="DIR", help="folder of reference events")
    add_output(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Compare, write and print."""
    from training.simulation.compare import compare

    compare(given.events, given.reference, given.output, given.beside)
    print(f"written: {given.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
