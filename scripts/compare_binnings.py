"""Compare region sets and binnings by the precision of mu they promise for one trained network.

Every simulated event of the chosen part is evaluated once per nuisance point; all candidates are filled from that.
Prints a table; writes binnings.json and binnings.txt. training/compare_binnings.py tells what the columns mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import checks
from scripts.common import ROOT, parser, run_program
from scripts.options import add_data_folder, add_output, add_seed, add_table_fraction

EXAMPLE = "--data data --weights weights --uniform-bins 50 100 --output build/binnings"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("compare_binnings", __doc__, EXAMPLE)
    add = options.add_argument
    add_data_folder(options)
    add("--weights", type=Path, default=ROOT / "weights", help="of SAGE, or folder of a trained network")
    add_output(options)
    add("--part", choices=("tables", "training", "all"), default="tables", help="events that are counted")
    add_table_fraction(options, "that are the table part", 0.5)
    add("--points", type=checks.whole(2), default=36, help="nuisance points (default: %(default)s)")
    add(
        "--noise-draws",
        type=checks.whole(1),
        default=2,
        help="soft-MET noise vectors averaged over (default: %(default)s)",
    )
    add(
        "--min-effective",
        type=checks.real(0.0, 1e12),
        nargs="+",
        default=[250.0],
        help="effective background entries of a bin",
    )
    add("--uniform-bins", type=checks.whole(1), nargs="+", default=[100], help="bins to start from")
    add("--region-sets", nargs="+", help="only these (default: all)")
    add_seed(options, "decides points, noise and folds")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Count, compare, write and print."""
    from sage.binned.counting import Noise, choose_points
    from sage.network.classifier import NetworkClassifier
    from training.compare_binnings import candidates, compare, table
    from training.events import EventsFile
    from training.filling import Evaluator
    from training.networks import read_network, read_shares
    from workshop.files import write_bytes, write_json

    parameters, normalisation = read_network(given.weights)
    file = EventsFile(given.data, given.table_fraction)
    events = file.read(file.rows(given.part))
    chosen = candidates(given.min_effective, given.uniform_bins, given.region_sets)
    points = choose_points(given.points, given.seed)
    noise = Noise(given.seed, given.noise_draws, common=False)
    evaluate = Evaluator(NetworkClassifier(parameters, normalisation, threads=1), noise)
    result = compare(chosen, events, evaluate, read_shares(given.weights), points, given.seed)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    write_json(given.output / "binnings.json", {"settings": settings, "rows": len(events), **result})
    text = table(result)
    write_bytes(given.output / "binnings.txt", text.encode("utf-8"))
    print(text)
    print(f"written: {given.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
