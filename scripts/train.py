"""Train the network on the training part of an events file.

Writes network.npz, training.json and, as it goes, losses.json and a checkpoint, from which the same command goes on.
Networks of scores of the shape nuisances (section scores of the settings) follow those of classes into the same file.
Settings come from a YAML file; training/config.py tells what each one means. On several GPUs the program is started as

  torchrun --nproc-per-node 4 -m scripts.train --device cuda --data FOLDER --output build/training
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import parser, run_program
from scripts.options import add_config, add_data_folder, add_output, add_overwrite, chosen_config

EXAMPLE = "--data data --output build/training"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("train", __doc__, EXAMPLE)
    add_data_folder(options)
    add_output(options)
    options.add_argument(
        "--network", type=Path, help="folder whose network of classes is taken; only networks of scores are trained"
    )
    add_config(options, "seed", "table_fraction", "device", "threads", "checkpoint_minutes")
    add_overwrite(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Train and say where the network is."""
    from training.networks import NETWORK_FILE
    from training.train import train

    report = train(chosen_config(given), given.data, given.output, given.overwrite, given.network)
    for name in ("losses", "score_losses"):
        if name in report:
            best = min(entry["validation"] for entry in report[name])
            print(f"held-out {'loss' if name == 'losses' else 'loss of the scores'} {best:.5f}")
    print(f"written: {given.output / NETWORK_FILE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
