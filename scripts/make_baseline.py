"""Build a baseline: a simpler submission, to compare SAGE with or to start an own one from.

Writes a folder that runs by itself, with model.py, a copy of the package sage and weights. scripts.compare,
scripts.run_ingestion and scripts.make_submission take it. An interrupted build is continued by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from baselines.build import BASELINES, ROOT, build
from harness.errors import HarnessError
from sage.errors import SageError
from scripts.common import parser, run_program
from training.config import DEFAULT_CONFIG, read_config

EXAMPLE = "--baseline mass_histogram --data data --workers 2 --output build/baselines/mass_histogram"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("make_baseline", __doc__, EXAMPLE)
    add = options.add_argument
    listing = "; ".join(f"{name}: {baseline.summary}" for name, baseline in BASELINES.items())
    add("--baseline", choices=BASELINES, required=True, help=listing)
    add("--data", type=Path, default=Path("data"), help="folder of the events file (default: %(default)s)")
    add("--config", type=Path, default=DEFAULT_CONFIG, help="YAML settings (default: those of the weights)")
    add("--weights", type=Path, default=ROOT / "weights", help="SAGE's weights, for the network of seed_regions")
    add("--seed", type=int, help="replaces the setting of that name")
    add("--workers", type=int, help="processes that count events; replaces the setting of that name")
    add("--output", type=Path, required=True, help="folder that becomes the submission")
    add("--build", type=Path, help="folder for intermediate results (default: OUTPUT with .build behind it)")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Build the folder and say what is in it."""
    output: Path = given.output
    intermediate = given.build or output.with_name(f"{output.name}.build")
    try:
        config = read_config(given.config, seed=given.seed, workers=given.workers)
        bundle = build(given.baseline, config, given.data, given.weights, output, intermediate)
    except (ValueError, SageError) as error:
        raise HarnessError(str(error)) from error
    bins = ", ".join(f"{region.name} {region.n_bins}" for region in bundle.regions.regions)
    print(f"written {output}; bins: {bins}")
    print(f"run it with: python -m scripts.compare --submissions sage=. {output} --data {given.data} --output results")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
