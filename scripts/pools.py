"""Independent pools: how far finite simulation moves mu, compared with the prediction from the pools' weights.

Splits the table part of simulated events into pools by showered parent. In each pair, one pool makes the tables and
the other the expected data, whose fit shows the shift of mu; toys around that expectation show pulls and coverage.
Prints a table; writes pools.json and a picture. Needs events with parents.parquet (python -m scripts.simulate).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tqdm import tqdm

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_data_folder, add_output, add_seed, add_table_fraction, add_weights

EXAMPLE = "--data build/events --pairs 2 --table-fraction 1.0 --output results/pools"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("pools", __doc__, EXAMPLE)
    add = options.add_argument
    add_data_folder(options)
    add_weights(options)
    add_output(options)
    add("--pairs", type=checks.whole(2), default=8, help="pairs of pools (default: %(default)s)")
    add("--toys", type=checks.whole(), default=100, help="toys per pair; 0 for none (default: %(default)s)")
    add(
        "--nodes", type=checks.whole(1), default=48, help="nuisance points of each pool's tables (default: %(default)s)"
    )
    add_table_fraction(options, "that the network was not trained on", 0.5)
    add_seed(options, "decides the pools and the toys")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Count, fit, print and write."""
    from studies.likelihoods import open_weights
    from studies.pools import as_text, count_pools, read_events, study_pairs, summarise
    from studies.pools_plots import draw
    from workshop.files import write_json
    from workshop.plots import save

    bundle = open_weights(given.weights)
    events, parents = read_events(given.data, given.table_fraction)
    pools = count_pools(bundle, events, parents, 2 * given.pairs, given.nodes, given.seed)
    pairs = study_pairs(bundle, pools, given.toys, given.seed, given.weights)
    found = summarise(list(tqdm(pairs, total=given.pairs, desc="pairs", disable=None)))
    settings = {
        "pairs": given.pairs,
        "toys": given.toys,
        "nodes": given.nodes,
        "seed": given.seed,
        "events": len(events),
    }
    write_json(given.output / "pools.json", {"settings": settings, **found.to_dict()})
    save(draw(found), given.output / "pools")
    print(as_text(found))
    print(f"\nwritten to {given.output}: pools.json, pools (.png, .svg)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
