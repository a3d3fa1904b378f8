"""Compare the smooth response with counts at nuisance points it was not fitted to.

Counts events at the points of --weights and at --held-out others, fits the response to the former and says how far
the latter are from it, in the error of the events that change bin and in mu_hat. Writes response.json. An interrupted
run is continued by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_output, add_overwrite, add_part, add_table_fraction, add_weights, add_workers

EXAMPLE = "--data data --weights weights --workers 2 --output results/response"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("check_response", __doc__, EXAMPLE)
    add_part(options)
    add_weights(options)
    add_output(options)
    add_table_fraction(options, "of a file that are :tables", 0.5)
    options.add_argument(
        "--held-out", type=checks.whole(1), default=100, help="points that are not fitted (default: %(default)s)"
    )
    add_workers(options)
    add_overwrite(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Count, compare, write and print."""
    from studies.response_check import CHECK_FILE, check_response, summary
    from training.simulation.parts import parse_parts

    (piece,) = parse_parts([given.data], given.table_fraction)
    found = check_response(given.weights, piece, given.output, given.held_out, given.workers, overwrite=given.overwrite)
    print(summary(found))
    print(f"written: {given.output / CHECK_FILE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
