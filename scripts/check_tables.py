"""Compare the tables of weights with events that did not make them, and with the published yields.

Region by region, in the most signal-like bins, bin by bin and for what it does to mu; errors are by showered events.
Writes check.json, which scripts.report --check shows, and warns of differences beyond three standard deviations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import logger, parser, run_program
from scripts.options import add_output, add_part, add_table_fraction, add_weights

EXAMPLE = "--data build/events --weights weights --output results/check"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("check_tables", __doc__, EXAMPLE)
    add_part(options)
    add_weights(options)
    add_output(options)
    add_table_fraction(options, "of a file that are :tables", 0.5)
    return options.parse_args(argv)


def check(weights: Path, data: str, table_fraction: float, output: Path) -> None:
    """Compare, write, print and warn."""
    from studies.table_check import CHECK_FILE, check_tables, summary
    from training.simulation.parts import parse_parts
    from workshop.files import write_json

    (piece,) = parse_parts([data], table_fraction)
    found = check_tables(weights, piece)
    write_json(output / CHECK_FILE, found)
    print(summary(found))
    for text in found["beyond"]:
        logger.warning("%s", text)
    print(f"written: {output / CHECK_FILE}")


def work(given: argparse.Namespace) -> None:
    """Check the tables."""
    check(given.weights, given.data, given.table_fraction, given.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
