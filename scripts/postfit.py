"""Fit one pseudo-experiment and show the data against the expectation before and after the fit.

Draws the pseudo-experiment as the challenge does. Writes postfit.json, pictures of all regions and of the nuisance
parameters, and the class probabilities averaged over nodes of the nuisance grid; an interrupted average is continued
by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import (
    TEST_SIZE,
    add_data,
    add_output,
    add_seed,
    add_systematics,
    add_weights,
    add_workers,
)

EXAMPLE = "--weights weights --data data --test-size 0.5 --mu 1.5 --seed 31415 --output results/postfit"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("postfit", __doc__, EXAMPLE)
    add = options.add_argument
    add_weights(options)
    add_data(options)
    text = "fraction of the rows, from the first on, to draw from (default: %(default)s)"
    add("--test-size", type=checks.fraction, default=TEST_SIZE, help=text)
    add("--mu", type=checks.mu, default=1.0, help="true signal strength (default: %(default)s)")
    add_seed(options, "decides the pseudo-experiment")
    add_systematics(options)
    add(
        "--nodes",
        type=checks.whole(),
        default=24,
        help="nuisance nodes the probabilities are averaged over; 0 for none",
    )
    add_workers(options)
    add_output(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Fit, write and print."""
    from studies.postfit import as_dict, postfit, probability_histograms, summary
    from studies.postfit_plots import draw_fitted_nuisances, draw_probabilities, draw_regions
    from workshop.files import write_json

    output: Path = given.output
    result = postfit(given.weights, given.data, given.test_size, given.mu, given.seed, given.systematics)
    content = as_dict(result)
    pictures = [*draw_regions(content, output / "regions"), *draw_fitted_nuisances(content, output / "pulls")]
    if given.nodes:
        histograms = probability_histograms(
            result.bundle, given.data, given.test_size, given.nodes, given.seed, output / "nodes", given.workers
        )
        content["probabilities"] = histograms
        pictures += draw_probabilities(histograms, output / "probabilities")
    write_json(output / "postfit.json", content)
    print(summary(content))
    print(f"\nWritten: {', '.join(str(path) for path in (output / 'postfit.json', *pictures))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
