"""Say how well flows describe events that they have not seen, as the AUC of a classifier of samples and events.

Trains the flows of contrastive flows, and such of maximum likelihood, of signal and background with one jet and with
two or more. Prints a table; writes flow_checks.json. Flows of an earlier run of the same command are taken. They need
zuko, which requirements-simulation.txt pins.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_data_folder, add_flows, add_output, add_seed

EXAMPLE = "--data build/training_events --rows 300000 --test data --output results/flow_checks"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("check_flows", __doc__, EXAMPLE)
    add = options.add_argument
    add_data_folder(options)
    add("--test", type=Path, required=True, help="folder of events that the flows have not seen")
    add_flows(options)
    add("--most", type=checks.whole(100), default=10_000, help="events of a class and category (default: %(default)s)")
    add_seed(options, "seed of the flows and of the classifiers")
    add_output(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Train, compare, write and print."""
    import torch

    from studies.flow_checks import CHECKS_FILE, check_flows, table
    from training.flow_features import FlowFeatureSettings
    from training.flow_losses import FitSettings

    torch.set_num_threads(given.threads)
    fit = FitSettings(epochs=given.flow_epochs, seed=given.seed)
    settings = FlowFeatureSettings(fit=fit, rows=given.flow_rows)
    content = check_flows(settings, given.data, given.test, given.output, given.rows, given.most)
    print(table(content))
    for flag in content["flags"]:
        print(f"flagged: {flag}")
    print(f"written: {given.output / CHECKS_FILE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
