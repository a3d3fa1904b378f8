"""Fit the MET resolution of the di-tau likelihood to simulated H and Z, whose masses are known.

The result belongs into ``sage.challenge.ditau``; it is printed beside what stands there. Writes met.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_data_folder, add_output, add_seed

EXAMPLE = "--data data --rows 20000 --output build/met"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("fit_met", __doc__, EXAMPLE)
    add_data_folder(options)
    options.add_argument(
        "--rows",
        type=checks.whole(100, 10**7),
        default=40_000,
        help="events of each process, drawn in proportion to their weights (default: %(default)s)",
    )
    add_output(options)
    add_seed(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Fit and print."""
    from sage.challenge.ditau import MET_CONSTANT, MET_JETS
    from training.met_resolution import fit_resolution, read_resonances
    from workshop.files import write_json

    found = fit_resolution(read_resonances(given.data), given.rows, given.seed)
    print("sigma^2 = constant^2 + jets^2 * summed pt of all jets")
    print(f"constant {found.constant:.3f} +- {found.errors[0]:.3f} GeV, in use {MET_CONSTANT}")
    print(f"jets     {found.jets:.3f} +- {found.errors[1]:.3f} sqrt(GeV), in use {MET_JETS}")
    print(f"-ln L    {found.minimum:.1f}")
    in_use = {"constant": MET_CONSTANT, "jets": MET_JETS}
    write_json(given.output / "met.json", {"rows": given.rows, "seed": given.seed, **found._asdict(), "in_use": in_use})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
