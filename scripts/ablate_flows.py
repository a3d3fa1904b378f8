"""Train the same classifiers with and without densities of flows and say what the flows are worth.

Classifiers of the events' columns, and of a network's class probabilities, several seeds of each. Prints a table;
writes ablation.json and ablation.png. An interrupted run is continued by the same command. The flows need zuko, which
requirements-simulation.txt pins.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_data_folder, add_flows, add_output, add_seed, add_weights

EXAMPLE = "--data build/training_events --test data --output build/ablation"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("ablate_flows", __doc__, EXAMPLE)
    add = options.add_argument
    add_data_folder(options)
    add("--test", type=Path, required=True, help="folder of events that train nothing, and judge")
    add_weights(options)
    add_flows(options)
    add("--epochs", type=checks.whole(1), default=5, help="of each classifier at most (default: %(default)s)")
    add("--seeds", type=checks.whole(2, 1000), default=5, help="classifiers of each kind (default: %(default)s)")
    add_seed(options, "seed of the flows, and of the first classifier of each kind")
    add_output(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Train, judge, write and print."""
    import torch

    from training.flow_ablation import ABLATED, ABLATION_FILE, AblationSettings, ablate, draw_ablation, table
    from training.flow_classifier import TowerSettings
    from training.flow_features import FlowFeatureSettings
    from training.flow_losses import FitSettings
    from workshop.plots import save

    torch.set_num_threads(given.threads)
    fit = FitSettings(epochs=given.flow_epochs, seed=given.seed)
    flows = {loss: FlowFeatureSettings(loss=loss, fit=fit, rows=given.flow_rows) for loss in ABLATED}
    settings = AblationSettings(flows, TowerSettings(epochs=given.epochs, seed=given.seed), given.seeds, given.rows)
    content = ablate(settings, given.data, given.test, given.weights, given.output, given.threads)
    save(draw_ablation(content), given.output / "ablation", ("png",))
    print(table(content))
    for flag in content["flags"]:
        print(f"flagged: {flag}")
    print(f"written to {given.output}: {ABLATION_FILE}, ablation.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
