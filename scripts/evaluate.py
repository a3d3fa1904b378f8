"""Judge a trained network beside the same one without shifts, boosted trees and a perceptron.

All are scored on events that trained none of them. Writes evaluation.json (cross entropy, area under the curve by
region, reliability, how far nuisances move the score) and pictures. --resume keeps the classifiers that are done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_config, add_data_folder, add_output, add_resume, chosen_config

EXAMPLE = "--data data --training build/training --output build/evaluation --max-rows 75000"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("evaluate", __doc__, EXAMPLE)
    add_data_folder(options)
    options.add_argument("--training", type=Path, required=True, help="folder of the trained network")
    add_output(options)
    add_config(options, "seed", "table_fraction", "threads")
    options.add_argument(
        "--max-rows", type=checks.whole(0, 10**10), default=0, help="rows per class for trees and perceptron; 0: all"
    )
    options.add_argument(
        "--score-rows", type=checks.whole(0, 10**10), default=0, help="held-out rows that are scored; 0: all"
    )
    add_resume(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Train the references, score, write and print."""
    from training.evaluate import EVALUATION_FILE, evaluate

    report = evaluate(
        chosen_config(given),
        given.data,
        given.training,
        given.output,
        given.resume,
        given.max_rows,
        given.score_rows,
    )
    print(json.dumps(report["floors"], indent=1))
    print(f"written: {given.output / EVALUATION_FILE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
