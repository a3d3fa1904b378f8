"""Join parts of several events folders into one, for example productions of different seeds.

Every process keeps its expected total; each part contributes to it in proportion to its effective number of showered
events, which gives the smallest variance. A part may hold only some of the processes. OUTPUT is an events folder like
those of scripts.simulate: rows in random order, parents.parquet with new numbers, the parts in the metadata. Takes
about 130 bytes of free disk space for each row, whatever the memory. Parts that hold the same events are refused.

Events that trained the network must not fill its tables: it knows them too well, and the tables would promise a
separation that other events do not have. Train on :training of one production, and join its :tables, at the
--table-fraction of the training, with further productions of other seeds for the tables. Nothing of the joined file may
go into training: its rows are shuffled, so that no later split takes the parts apart again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import logger, parser, run_program
from scripts.options import PART, add_seed, add_table_fraction

EXAMPLE = "--parts build/large:tables build/more_z:all --table-fraction 0.5 --output build/tables_events"


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    options = parser("join_events", __doc__, EXAMPLE)
    add = options.add_argument
    add(
        "--parts",
        nargs="+",
        required=True,
        metavar=PART,
        help="events to join (default: all)",
    )
    add_table_fraction(options, "of each file that are :tables", 0.5)
    add_seed(options, "decides the order of the rows")
    add("--output", type=Path, required=True, help="folder for the events; new, empty or of the same command")
    return run_program(_join, options.parse_args(argv))


def _join(arguments: argparse.Namespace) -> None:
    from training.simulation.joining import join_parts
    from training.simulation.parts import parse_parts

    metadata = join_parts(parse_parts(arguments.parts, arguments.table_fraction), arguments.output, arguments.seed)
    for part in metadata["join"]["parts"]:
        for name, sums in part["processes"].items():
            logger.info(
                "%s:%s: %s %d rows, %.0f effective showered events, share %.3f",
                part["folder"],
                part["part"],
                name,
                sums["rows"],
                sums["effective_events"],
                sums["share"],
            )
    logger.info("%d rows in %s", metadata["total_rows"], arguments.output)


if __name__ == "__main__":
    sys.exit(main())
