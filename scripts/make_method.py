"""Build the submission of another method, to compare SAGE with or to start an own one from.

Writes a folder that runs by itself, with model.py, a copy of the package sage and weights. scripts.compare,
scripts.run_ingestion and scripts.make_submission take it. An interrupted build is continued by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import parser, run_program
from scripts.options import add_config, add_data_folder, add_weights, chosen_config

EXAMPLE = "--method mass_histogram --data data --workers 2 --output build/mass_histogram"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("make_method", __doc__, EXAMPLE)
    add = options.add_argument
    from methods import summaries

    known = summaries()
    listing = " ".join(f"{name}: {summary}" for name, summary in known.items())
    add("--method", choices=known, required=True, help=listing)
    add_data_folder(options)
    add("--train", type=Path, help="folder of other events that train (default: the training part of --data)")
    add_weights(options)
    add_config(options, "seed", "table_fraction", "workers")
    add("--output", type=Path, required=True, help="folder that becomes the submission")
    add("--replicas", type=Path, help="folder whose sub-folders hold replicas of the response networks, for gollum")
    add("--build", type=Path, help="folder for intermediate results (default: OUTPUT with .build behind it)")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Build the folder and say what is in it."""
    from methods.building import Build, build
    from workshop.errors import UsageError

    output: Path = given.output
    intermediate = given.build or output.with_name(f"{output.name}.build")
    if given.replicas is not None and given.method != "gollum":
        msg = f"{given.method} takes no replicas; leave --replicas out"
        raise UsageError(msg)
    this = Build(chosen_config(given), given.data, given.weights, output, intermediate, given.train, given.replicas)
    bundle = build(given.method, this)
    bins = ", ".join(f"{region.name} {region.n_bins}" for region in bundle.regions.regions)
    print(f"written {output}; bins: {bins}")
    print(
        f"compare it with: python -m scripts.compare --submissions {output} OTHER --data {given.data} --output FOLDER"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
