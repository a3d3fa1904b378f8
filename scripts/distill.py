"""Distil a small events file from a large one: the same expectation with far fewer rows.

Rows are kept by how far they would move the measured mu, at the nominal point and at shifted energy scales and MET, as
a weights folder tells; their weights make up for it. The expectation of every process is kept exactly, that of every
bin but for a row or so, and parents.parquet keeps the showered events. The effective weight of each process and its
largest row weight in signal-like bins are printed and written to the metadata, under distill.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scripts import checks
from scripts.common import logger, parser, run_program
from scripts.options import add_data_folder, add_output, add_seed, add_weights

if TYPE_CHECKING:
    from training.events import Events
    from training.simulation.distilling import Judged

EXAMPLE = "--data build/large --rows 200000 --output build/small"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options = parser("distill", __doc__, EXAMPLE)
    add_data_folder(options)
    add_weights(options)
    add_output(options)
    options.add_argument(
        "--rows", type=checks.whole(100), required=True, help="rows to keep, of all processes together"
    )
    options.add_argument(
        "--floor",
        type=checks.real(0.0, 1.0, above=True),
        default=0.2,
        help="smallest importance of a row, in units of its process's mean (default: %(default)s)",
    )
    options.add_argument(
        "--bits",
        type=checks.whole(8, 23),
        default=23,
        help="bits kept of each value after the leading one; 13 change it by 0.006 %% and save a third of the file "
        "(default: %(default)s, all)",
    )
    add_seed(options, "decides which rows, and their order")
    return run_program(_distill, options.parse_args(argv))


def _distill(given: argparse.Namespace) -> None:
    from studies.likelihoods import open_weights, weights_hash
    from studies.worth import Sensitivity
    from training.simulation.distilling import Distilling, Judged, distil

    sensitivity = Sensitivity(open_weights(given.weights))

    def judge(events: Events) -> Judged:
        return Judged(*sensitivity.importance(events, given.seed))

    def describe(events: Events) -> Mapping[str, Any]:
        judged = {name: asdict(worth) for name, worth in sensitivity.measure(events).items()}
        return {"weights": weights_hash(given.weights), "processes": judged}

    metadata = distil(
        given.data, given.output, Distilling(given.rows, given.seed, given.floor, given.bits), judge, describe
    )
    for name, worth in metadata["distill"]["kept"]["processes"].items():
        logger.info(
            "%s: %d rows, w %.3g +- %.2g, largest weight in signal-like bins %.3g",
            name,
            worth["rows"],
            worth["w"],
            worth["error"],
            worth["largest"],
        )
    logger.info("%d of %d rows in %s", metadata["total_rows"], metadata["distill"]["of_rows"], given.output)


if __name__ == "__main__":
    sys.exit(main())
