"""Measure coverage by true mu in toys of events, with the intervals of contrastive flows.

At each nuisance point all events are shifted and classified anew; toys there are Poisson counts with rates drawn.
Either of the settings toy_interval measures the same toys. Prints a table for each with errors from the spread of
points, and writes coverage.json as it goes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_data_folder, add_output, add_seed, add_table_fraction, add_weights

if TYPE_CHECKING:
    import numpy as np

    from sage.files.bundle import Bundle
    from sage.fit.deadline import Deadline
    from sage.fit.interval import Interval

EXAMPLE = "--weights build/contrastive_flows/weights --data data --table-fraction 0.5 --output results/coverage"
MUS = (0.1, 0.5, 1.0, 2.0, 3.0)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("event_coverage", __doc__, EXAMPLE)
    add = options.add_argument
    add_weights(options)
    add_data_folder(options)
    add_table_fraction(options, "whose events the toys are made of; with that of the templates they are the same", 0.5)
    add("--mu", type=checks.mu, nargs="+", default=MUS, help="true signal strengths (default: %(default)s)")
    add("--points", type=checks.whole(2), default=40, help="nuisance points (default: %(default)s)")
    add("--toys", type=checks.whole(1), default=20, help="at each point and mu (default: %(default)s)")
    add(
        "--smooth", action="store_true", help="take the yields at the points from the templates, not from events: quick"
    )
    add_seed(options, "seed of points, noise and toys")
    add_output(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Make toys, write and print."""
    from methods.contrastive_flows.model import Model, find_interval
    from sage.files.settings import TOY_INTERVALS
    from sage.flows.classifier import FlowClassifier
    from studies.event_coverage import COVERAGE_FILE, event_coverage
    from training.events import EventsFile
    from workshop.files import write_json
    from workshop.numbers import with_error

    bundle = Model(weights=given.weights).bundle
    file = EventsFile(given.data, given.table_fraction)
    events = None if given.smooth else file.read(file.rows("tables"))
    path = given.output / COVERAGE_FILE

    def find(choice: str, counts: np.ndarray, bundle: Bundle, deadline: Deadline) -> Interval:
        return find_interval(counts, replace(bundle, settings=bundle.settings | {"toy_interval": choice}), deadline)

    found = event_coverage(
        events,
        bundle,
        FlowClassifier(bundle.network),
        {choice: partial(find, choice) for choice in TOY_INTERVALS},
        list(given.mu),
        given.points,
        given.toys,
        given.seed,
        lambda result: write_json(path, result),
    )
    columns = ("coverage", "width", "spread", "ratio", "bias")
    for choice, one in found.items():
        print(f"{choice}:\n{'mu':>5}" + "".join(f"{name:>20}" for name in columns) + "  failed")
        for entry in one["mus"]:
            cells = "".join(f"{with_error(entry[name]['value'], entry[name]['error']):>20}" for name in columns)
            print(f"{entry['mu']:5.2f}{cells}{entry['failed']:8d}")
    print(f"written: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
