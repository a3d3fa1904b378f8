"""Train the response networks of the unbinned likelihood: how densities change with the shape nuisances.

Writes one file for each process, from which an interrupted training goes on, then response_networks.npz and
surrogates.json. make_method --method gollum takes them from the sub-folder surrogates of its --build folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_data_folder, add_output, add_overwrite, add_seed, add_weights

EXAMPLE = "--data data --output build/gollum.build/surrogates"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("train_surrogates", __doc__, EXAMPLE)
    add = options.add_argument
    add_data_folder(options)
    add_weights(options)
    add_output(options)
    add_overwrite(options)
    add_seed(options, "seed of every random draw")
    positive = checks.whole(1)
    fraction = "fraction of the rows, from the first on, that is left for tables and calibration (default: 0)"
    add("--table-fraction", type=checks.fraction, default=0.0, help=fraction)
    variants = (
        "sage, or published for points, terms, schedule and size of the published training (default: %(default)s)"
    )
    add("--variant", default="sage", help=variants)
    add("--basis", help="terms of the response: exact or quadratic (default: exact); published has its own")
    add("--width", type=positive, help="width of the hidden layers (default: 64; published 128)")
    add("--epochs", type=positive, help="passes over the events (default: 30; published 200)")
    add("--replica", type=checks.whole(0), default=0, help="number of a bootstrap of the showered events; 0 for none")
    add("--threads", type=checks.whole(1, 1024), default=1, help="threads of the training (default: %(default)s)")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Train and say how well."""
    import torch

    from training.surrogates import PUBLISHED_SETTINGS, SURROGATES_FILE, SurrogateConfig, train_surrogates

    torch.set_num_threads(given.threads)
    chosen = {name: getattr(given, name) for name in ("basis", "width", "epochs") if getattr(given, name) is not None}
    settings = {"variant": given.variant} if given.variant != "published" else PUBLISHED_SETTINGS
    config = SurrogateConfig(seed=given.seed, replica=given.replica, **{**settings, **chosen})
    output: Path = given.output
    report = train_surrogates(
        config,
        given.data,
        given.weights,
        output,
        table_fraction=given.table_fraction,
        overwrite=given.overwrite,
    )
    for process, found in report["processes"].items():
        for region, losses in found["losses"].items():
            best = losses.index(min(losses))
            print(f"{process:10} {region:22} held-out loss {losses[0]:.6f} -> {losses[best]:.6f} in epoch {best}")
    print(f"written: {output / SURROGATES_FILE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
