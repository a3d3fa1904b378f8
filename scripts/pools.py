"""Independent pools: how far finite simulation moves mu, compared with the prediction from the pools' weights.

Splits the table part of simulated events into pools by showered parent. In each pair, one pool makes the tables and
the other the expected data, whose fit shows the shift of mu; toys around that expectation show pulls and coverage.
Prints a table; writes pools.json and a picture. Needs events with parents.parquet (python -m scripts.simulate).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_data_folder, add_fraction, add_output, add_seed, add_weights
from studies.likelihoods import open_weights
from studies.plots import BLACK, BLUE, label
from studies.pools import Summary, as_text, count_pools, read_events, study_pairs, summarise
from workshop.files import write_json
from workshop.plots import drawn, new_figure, save

EXAMPLE = "--data build/events --pairs 2 --test-size 1.0 --output results/pools"


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
    add_fraction(options, "that the network was not trained on", 0.5)
    add_seed(options, "decides the pools and the toys")
    return options.parse_args(argv)


@drawn
def draw(found: Summary) -> Any:
    """Draw the shift of each pair with the predicted spread, and the mean pull of its toys."""
    figure, axes = new_figure(6.0, 1.4 + 0.32 * len(found.pairs))
    y = np.arange(len(found.pairs))
    for size, shade in ((2, 0.12), (1, 0.22)):
        axes.axvspan(-size * found.predicted, size * found.predicted, color=BLUE, alpha=shade, lw=0)
    axes.axvline(0, color=BLACK, lw=0.8)
    axes.plot([pair.shift / pair.sigma for pair in found.pairs], y, "o", color=BLACK, ms=6, label="Asimov shift")
    axes.plot([pair.pull_mean for pair in found.pairs], y, "D", mfc="none", color="#d1495b", label="mean pull of toys")
    axes.set_yticks(y, [f"pair {number}" for number in y])
    axes.set_xlabel(
        r"shift of $\hat\mu$ in units of its uncertainty; bands: predicted 1 and 2 standard deviations", fontsize=8
    )
    axes.legend(frameon=False, fontsize=8)
    label(axes, "SAGE, independent pools")
    return figure


def work(given: argparse.Namespace) -> None:
    """Count, fit, print and write."""
    bundle = open_weights(given.weights)
    events, parents = read_events(given.data, given.test_size)
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
