"""Add a nuisance or a process to the surrogates of an unbinned method without training the others again.

nuisance  trains how the lepton energy scale (or another one of training.refining.NUISANCES) moves each process
process   trains the density and the response of a process whose events are in a folder of their own

Everything that was there before stays as it is, bit for bit. --refined takes what was added before, so that the two
commands may follow each other in any order. Writes refined.npz with all arrays, refined.json, and one file for each
piece that was trained, from which an interrupted command goes on; says what the likelihood expects with and without.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_data_folder, add_output, add_overwrite, add_seed, add_table_fraction

EXAMPLE = "nuisance lepton_scale --weights build/gollum/weights --data data --output build/refined"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("refine_surrogates", __doc__, EXAMPLE)
    add = options.add_argument
    add("kind", choices=("nuisance", "process"), help="what is added")
    add("name", help="its name")
    add("--weights", type=Path, required=True, help="weights folder of the method")
    add("--refined", type=Path, help="folder of what was added before")
    add_data_folder(options)
    pairs = "events of a process that was or is added, in the challenge's format; labels are not looked at"
    add("--events", action="append", default=[], type=_folder_of, metavar="PROCESS=FOLDER", help=pairs)
    width = "standard deviation of its rate relative to the expectation; 0 if that is known (default: 0)"
    add("--rate-width", type=checks.real(0.0, 1.0), default=0.0, help=width)
    add_table_fraction(options, "for rates and norms; the others train", 0.5)
    positive = checks.whole(1)
    add("--width", type=positive, default=64, help="width of the hidden layers (default: %(default)s)")
    add("--epochs", type=positive, default=30, help="passes over the events (default: %(default)s)")
    add_seed(options, "seed of every random draw")
    add_output(options)
    add_overwrite(options)
    return options.parse_args(argv)


def _folder_of(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        msg = f"{text!r} names no process and folder; write PROCESS=FOLDER"
        raise argparse.ArgumentTypeError(msg)
    return name, Path(folder)


def work(given: argparse.Namespace) -> None:
    """Train what is added, write it and say what is expected."""
    from studies.refined import expected_errors, observe, refine

    found = refine(
        *(given.kind, given.name, given.weights, given.refined, given.data, dict(given.events), given.output),
        table_fraction=given.table_fraction,
        rate_width=given.rate_width,
        training={"seed": given.seed, "width": given.width, "epochs": given.epochs},
        overwrite=given.overwrite,
    )
    observed = observe(found, given.data, given.table_fraction)
    for name, error in expected_errors(found, observed).items():
        print(f"{name}: error of mu = 1 is {error:.4f}")
    print(f"written: {given.output / 'refined.npz'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
