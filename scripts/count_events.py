"""Count the events of a file for tables that several productions make together.

Counts at the nuisance points, in the bins and by the network of --weights, and keeps sums, so that the events are not
needed any more: python -m scripts.make_weights --add makes tables of such sums. scripts.simulate --count counts events
as it makes them. An interrupted run is continued by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scripts.common import parser, run_program
from scripts.options import (
    add_output,
    add_overwrite,
    add_part,
    add_scheduler,
    add_table_fraction,
    add_weights,
    add_workers,
)

EXAMPLE = "--data build/events --weights weights --workers 2 --output build/counts"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("count_events", __doc__, EXAMPLE)
    add_part(options)
    add_weights(options)
    add_output(options)
    add_table_fraction(options, "of a file that are :tables", 0.5)
    add_workers(options)
    add_scheduler(options)
    add_overwrite(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Count and say what was counted."""
    from training.count_events import count_events
    from training.simulation.parts import parse_parts
    from training.sums import read_plan

    (piece,) = parse_parts([given.data], given.table_fraction)
    found = count_events(
        read_plan(given.weights), piece, given.output, given.workers, given.scheduler, overwrite=given.overwrite
    )
    for name, made in found.items():
        print(f"{name}: {made['rows']} rows, {made['effective_events']:.0f} effective showered events")
    print(f"written: {given.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
