"""Check the surrogates of an unbinned method: calibration of its shares, and moved events against reweighted ones.

Take events that trained no response network. Needs scikit-learn, which requirements-simulation.txt pins. Writes
surrogates_check.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import parser, run_program
from scripts.options import add_config, add_data_folder, add_output, add_seed, chosen_config

EXAMPLE = "--weights build/gollum/weights --data data --output results/surrogates"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("check_surrogates", __doc__, EXAMPLE)
    options.add_argument("--weights", type=Path, required=True, help="weights folder of the method")
    add_data_folder(options)
    add_config(options, "table_fraction")
    add_seed(options, "seed of the noise and of the halves of the events")
    add_output(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Check and print a table."""
    from sage.network.classifier import NetworkClassifier
    from studies.likelihoods import open_weights
    from studies.surrogate_checks import check
    from workshop.files import write_json

    bundle = open_weights(given.weights)
    classifier = NetworkClassifier(bundle.network, bundle.normalisation, threads=1)
    found = check(bundle, given.data, chosen_config(given).table_fraction, classifier, given.seed)
    write_json(given.output / "surrogates_check.json", found)
    for region, each in found.items():
        for process, groups in each["calibration"].items():
            worst = max(groups, key=lambda group: abs(group["share"] / group["true"] - 1) if group["true"] else 0.0)
            error = worst["error"] / worst["true"] if worst["true"] else 0.0
            ratio = worst["share"] / worst["true"] if worst["true"] else 1.0
            aucs = ", ".join(
                f"{label} {auc['reweighted']:.4f} +- {auc['reweighted_error']:.4f} "
                f"(not reweighted {auc['nominal']:.4f} +- {auc['nominal_error']:.4f})"
                for label, auc in each["auc"].get(process, {}).items()
            )
            print(f"{region} {process}: worst group {ratio:.3f} +- {error:.3f}; AUC {aucs}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
