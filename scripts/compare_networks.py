"""Compare trained networks on events that trained none of them: cross entropy, and the information on mu by region.

Ratios are to the first network, with errors from resampled showers, the same for all. Prints a table; writes
networks.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scripts import checks
from scripts.common import parser, run_program
from scripts.compare import named
from scripts.options import add_data_folder, add_output, add_seed

EXAMPLE = "--data build/aimed --networks shipped=weights mine=build/training --output build/networks"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("compare_networks", __doc__, EXAMPLE)
    add_data_folder(options)
    options.add_argument(
        "--networks", nargs="+", required=True, metavar="[NAME=]FOLDER", help="folders of scripts.train, or weights"
    )
    options.add_argument("--rows", type=checks.whole(0, 10**10), default=0, help="first rows that are scored; 0: all")
    options.add_argument("--threads", type=checks.whole(1), default=1, help="of the CPU (default: %(default)s)")
    add_seed(options, "decides halves and resamplings of the showers")
    add_output(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Score, compare, write and print."""
    from training.compare_networks import NETWORKS_FILE, compare, table
    from workshop.files import write_json

    networks = named(given.networks)
    for path in networks.values():
        checks.check_read("--networks", path, "folder")
    result = compare(given.data, networks, given.seed, given.rows, given.threads)
    write_json(given.output / NETWORKS_FILE, result)
    print(table(result))
    print(f"written: {given.output / NETWORKS_FILE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
