"""Choose bins and build the yield tables for a trained network.

Counts the table part of an events file at nuisance points and fits a smooth response to every bin. Writes tables.npz,
response.npz, regions.json, tables.json (settings, checks) and cost.json. An interrupted build is continued by the same
command; --held-out compares the result with counts at further points.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import parser, run_program
from scripts.options import add_config, add_data_folder, add_output, add_scheduler, chosen_config

EXAMPLE = "--data data --training weights --workers 2 --output build/tables"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("build_tables", __doc__, EXAMPLE)
    add_data_folder(options)
    options.add_argument("--training", type=Path, required=True, help="folder of the trained network, or of weights")
    add_output(options)
    add_config(options, "seed", "table_fraction", "workers", "region_set", "nodes", "held_out")
    add_scheduler(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Count, fit, write and print."""
    from training.build_tables import build_tables, summary

    report = build_tables(chosen_config(given), given.data, given.training, given.output, scheduler=given.scheduler)
    print(summary(report))
    print(f"written: {given.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
