"""Make a weights folder from an events file: train the network, choose bins, build the tables.

--add takes sums of counted productions (scripts.simulate --count, scripts.count_events) instead of events: tables for
the network and in the bins they were counted with. Where --network is a weights folder with these bins, each production
contributes as much as makes the error of mu smallest, else in proportion to its effective number of showered events.
--sums keeps them together, in a small folder that a later --add takes in place of all of them.

--network takes the network of an existing weights folder, or of scripts.train, instead of training one. Intermediate
results are kept in the build folder, from which the same command goes on. Equal events, settings and library versions
give equal bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.check_tables import check
from scripts.common import parser, run_program
from scripts.options import PART, add_config, add_data_folder, add_output, add_overwrite, add_scheduler, chosen_config
from workshop.errors import UsageError

CHECKED_FRACTION = 0.5
"""Of the rows of a file that are its tables part, where --check names that."""
EXAMPLE = "--data data --network weights --workers 2 --output build/weights"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("make_weights", __doc__, EXAMPLE)
    source = options.add_mutually_exclusive_group(required=True)
    add_data_folder(source, required=False)
    source.add_argument("--add", type=Path, nargs="+", metavar="COUNTS", help="folders of counts, instead of events")
    options.add_argument("--network", type=Path, help="folder whose network is taken; none is trained")
    add_output(options)
    options.add_argument("--sums", type=Path, metavar="COUNTS", help="with --add: folder for the sums together")
    options.add_argument(
        "--check",
        metavar=PART,
        help="events that neither train nor fill tables, with which these are compared, as by scripts.check_tables",
    )
    options.add_argument("--build", type=Path, help="folder for intermediate results (default: OUTPUT.build)")
    add_config(options, "seed", "table_fraction", "device", "threads", "workers", "region_set", "nodes", "held_out")
    add_scheduler(options)
    add_overwrite(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Make the folder and say what is in it."""
    from studies.worth import gain_of
    from training.make_weights import add_weights, make_weights

    output: Path = given.output
    build = given.build or output.with_name(f"{output.name}.build")
    if given.add:
        _check_added(given)
        bundle = add_weights(
            chosen_config(given),
            given.add,
            given.network,
            build,
            output,
            gain=gain_of(given.network),
            sums=given.sums,
            overwrite=given.overwrite,
        )
    else:
        if given.sums is not None:
            msg = "--sums has no meaning without --add; count the events with python -m scripts.count_events"
            raise UsageError(msg)
        bundle = make_weights(
            chosen_config(given),
            given.data,
            build,
            output,
            network=given.network,
            scheduler=given.scheduler,
            overwrite=given.overwrite,
        )
    bins = ", ".join(f"{region.name} {region.n_bins}" for region in bundle.regions.regions)
    print(f"written: {output}; bins: {bins}")
    if given.check is not None:
        check(output, given.check, CHECKED_FRACTION, build)


def _check_added(given: argparse.Namespace) -> None:
    """Refuse options that counts leave no room for."""
    if given.network is None:
        msg = "--add needs --network, the folder whose network the events were counted with"
        raise UsageError(msg)
    decided = ("seed", "table_fraction", "device", "threads", "workers", "region_set", "nodes", "held_out", "scheduler")
    for name in decided:
        if getattr(given, name) is not None:
            msg = f"--{name.replace('_', '-')} has no meaning with --add, whose events are counted; leave it out"
            raise UsageError(msg)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
