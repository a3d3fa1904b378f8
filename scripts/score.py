"""Score the results of a run, as the challenge's scoring program does.

Writes scores.json (the official keys, the scores by set and of the final phase's 1000 bootstraps) and intervals.png,
and prints a table beside the published results. It reads results of run_ingestion and of the official program.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from scripts.common import parser, run_program

if TYPE_CHECKING:
    from harness.scores import Array

LARGEST_PULL = 1e6
EXAMPLE = "--results results/first --label 'full simulation'"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("score", __doc__, EXAMPLE)
    options.add_argument("--results", type=Path, required=True, help="output folder of run_ingestion")
    options.add_argument("--output", type=Path, help="folder for scores.json and intervals.png (default: RESULTS)")
    options.add_argument("--name", default="SAGE (local)", help="team name in the table (default: %(default)s)")
    options.add_argument("--label", default="local", help="what the data is, for the table (default: %(default)s)")
    return options.parse_args(argv)


def pull_line(found: Array) -> str:
    """Return mean and width of the pulls that can be told; one of an estimate without a width has no value."""
    import numpy as np

    finite = found[np.isfinite(found) & (np.abs(found) < LARGEST_PULL)]
    left_out = len(found) - len(finite)
    without = f"; {left_out} without a usable delta_mu_hat are left out" if left_out else ""
    if not len(finite):
        return f"Pulls (mu_hat - mu) / delta_mu_hat: none{without}."
    return f"Pulls (mu_hat - mu) / delta_mu_hat: mean {finite.mean():.2f}, width {finite.std():.2f}{without}."


def work(given: argparse.Namespace) -> None:
    """Compute, write and print the scores."""
    from harness.leaderboard import leaderboard, scores_as_dict, sets_table
    from harness.plots import draw_intervals
    from harness.results import read_results
    from harness.scores import pulls, score_results
    from workshop.files import write_text

    output = given.output or given.results
    with tqdm(total=3, unit="step", leave=False, disable=None) as progress:
        progress.set_description("scores")
        results = read_results(given.results)
        scores = score_results(results)
        progress.update()
        content = scores_as_dict(scores, results)
        write_text(output / "scores.json", json.dumps(content, indent=4))
        progress.update()
        progress.set_description("picture")
        draw_intervals(results, output / "intervals.png", title=f"{given.name}, {given.label}")
        progress.update()
    print(sets_table(scores))
    print()
    print(leaderboard(scores, given.name, given.label))
    print("\nCoverage, interval and quantiles score are means over 1000 bootstraps of the sets, as in the final phase.")
    spread = ", ".join(f"{name} {values['std']:.4f}" for name, values in content["bootstrap"].items())
    print(f"Standard deviations of this run's bootstraps: {spread}.")
    found = pulls(results)
    print(pull_line(found))
    if results.statuses is not None:
        print(f"Answers by status: {', '.join(f'{name} {count}' for name, count in results.statuses.items())}.")
    print(f"Written: {output / 'scores.json'}, {output / 'intervals.png'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
