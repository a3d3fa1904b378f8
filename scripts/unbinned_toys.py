"""Expected interval and toys of an unbinned method, from the simulated events that its weights were made of.

Says what the likelihood expects at mu = 1, and draws and fits toys with all six systematics: events of the unbinned
regions from the simulated ones by Poisson numbers, counts of the others from the templates. Toys are written as they
come to toys.jsonl; the same command goes on. Writes unbinned.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_config, add_data_folder, add_output, add_seed, chosen_config

EXAMPLE = "--weights build/gollum/weights --data data --toys 200 --output results/unbinned"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("unbinned_toys", __doc__, EXAMPLE)
    add = options.add_argument
    add("--weights", type=Path, required=True, help="weights folder of the method")
    add_data_folder(options)
    add_config(options, "table_fraction")
    add_seed(options, "seed; toy number i has this plus i")
    add(
        "--mu",
        type=checks.real(-10.0, 10.0),
        nargs="+",
        default=[0.1, 0.5, 1.0, 2.0, 3.0],
        help="true signal strengths, in turn",
    )
    add("--toys", type=checks.whole(0), default=0, help="toys in all (default: %(default)s)")
    add_output(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Measure and say what came out."""
    from tqdm import tqdm

    from sage.network.classifier import NetworkClassifier
    from studies.likelihoods import open_weights, weights_hash
    from studies.toys import ToySettings
    from studies.unbinned import expected, read_nature, summary, toy_row
    from workshop.claims import claimed
    from workshop.files import write_json

    bundle = open_weights(given.weights)
    classifier = NetworkClassifier(bundle.network, bundle.normalisation, threads=1)
    settings = ToySettings(given.weights, given.seed, tuple(given.mu))
    output: Path = given.output
    identity = {"weights": weights_hash(given.weights), "seed": given.seed, "mu": given.mu}
    toys = output / "toys.jsonl"
    with claimed(output, identity, results=(toys.name,), others=("unbinned.json",)):
        nature = read_nature(bundle, given.data, chosen_config(given).table_fraction, classifier)
        found = expected(nature)
        print("\n".join(f"{name}: mu = 1 -{part['down']:.4f} +{part['up']:.4f}" for name, part in found.items()))
        done = len(toys.read_text(encoding="utf-8").splitlines()) if toys.exists() else 0
        with toys.open("a", encoding="utf-8") as file:
            for number in tqdm(range(done, given.toys), unit="toy", initial=done, total=given.toys):
                file.write(json.dumps(toy_row(nature, settings, number)) + "\n")
                file.flush()
        rows = [json.loads(line) for line in toys.read_text(encoding="utf-8").splitlines()]
        by_mu = summary(rows)
        write_json(output / "unbinned.json", {"expected": found, "toys": by_mu})
        for mu, each in by_mu.items():
            print(f"mu {mu}: " + ", ".join(f"{name} {value:.4g}" for name, value in each.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
