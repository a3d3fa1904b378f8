"""Compare two samples of simulated events: features, bins, regions and responses, process by process.

Both must hold parents.parquet and share no showered event. Errors are by showered events; where both have the same
expectation, p-values are uniform. Also tells how far the first in place of the second would move mu. Writes
closure.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scripts.common import parser, run_program
from scripts.options import add_output, add_part, add_weights

EXAMPLE = "--events build/aimed --reference build/events --output results/closure"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options = parser("compare_events", __doc__, EXAMPLE)
    add_part(options, "--events", "folder of events to compare")
    add_part(options, "--reference", "folder of events to compare them with")
    add_weights(options)
    add_output(options)
    return run_program(_compare, options.parse_args(argv))


def _compare(given: argparse.Namespace) -> None:
    from studies.closure import compare, summary
    from studies.likelihoods import open_weights
    from training.simulation.parts import parse_parts
    from workshop.files import write_json

    pieces = parse_parts([given.events, given.reference], 0.5)
    one, other = (piece.file.read(piece.rows) for piece in pieces)
    found = compare(one, other, open_weights(given.weights))
    write_json(given.output / "closure.json", found)
    print(summary(found))
    print(f"written: {given.output / 'closure.json'}")


if __name__ == "__main__":
    sys.exit(main())
