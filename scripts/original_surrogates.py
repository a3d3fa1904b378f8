"""Fit pseudo-experiments with the networks of the published unbinned method, read from a checkout of its repository.

Take HephyAnalysisSW/GOLLUM at commit d9f5db3. Nothing of it is executed, and TensorFlow is not needed. Writes
original.npz, the networks as arrays of this project's published variant, and original.json with the intervals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_data, add_output, add_seed, add_systematics, add_test_size

EXAMPLE = "--checkout ../GOLLUM --data data --mu 1 2 --output results/original"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("original_surrogates", __doc__, EXAMPLE)
    options.add_argument("--checkout", type=Path, required=True, help="folder of the checkout")
    add_data(options)
    mus = "true signal strengths of the pseudo-experiments (default: 1)"
    options.add_argument("--mu", type=checks.real(0.0, 10.0), nargs="+", default=[1.0], help=mus)
    add_systematics(options)
    add_test_size(options)
    add_seed(options, "seed of the first pseudo-experiment; each following one has the next")
    add_output(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Read, fit and say what came out."""
    from harness.fast_pseudo_data import PseudoData
    from harness.pseudo_experiments import draw_nuisances
    from harness.test_set import EventFile
    from sage.challenge.frame import read_test_set
    from studies.original import OriginalSurrogates
    from studies.original_files import export
    from workshop.files import write_arrays, write_json

    arrays = export(given.checkout)
    write_arrays(given.output / "original.npz", arrays)
    surrogates = OriginalSurrogates(arrays)
    pool = PseudoData(EventFile(given.data, given.test_size).load_test_set())
    rows = []
    for number, mu in enumerate(given.mu):
        seed = given.seed + number
        data = pool.make(mu, draw_nuisances(seed, given.systematics), seed)
        columns, weights, _ = read_test_set(data)
        found = surrogates.interval(columns, weights)
        rows.append({"mu": mu, "seed": seed, "mu_hat": found.fit.mu, "p16": found.low, "p84": found.high})
        print(f"mu {mu:g}, seed {seed}: {found.fit.mu:.4f}, from {found.low:.4f} to {found.high:.4f}")
        write_json(given.output / "original.json", rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
