"""What the measurement expects: interval, impacts and profile of the Asimov data set.

The Asimov data set has the expected counts, and auxiliary measurements at the true values, so its fit gives the
truth back and shows the uncertainties of a typical experiment. Nothing is drawn: there is no seed, and it takes
seconds. Prints tables; writes asimov.json and pictures (PNG and SVG) of the scan, pulls, impacts and correlations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_output, add_weights, nuisance_value
from studies.asimov import SCAN_POINTS

EXAMPLE = "--mu 1 --nuisance soft_met=0.5 diboson_scale=1.2 --output build/asimov"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("asimov", __doc__, EXAMPLE)
    add = options.add_argument
    add_weights(options)
    add_output(options)
    add("--mu", type=checks.mu, default=1.0, help="true signal strength (default: %(default)s)")
    add(
        "--nuisance",
        type=nuisance_value,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="true physical values (soft_met in GeV); others have the median of their prior (nu = 0, soft_met 1 GeV)",
    )
    add(
        "--points", type=checks.whole(3, 100_000), default=SCAN_POINTS, help="points of the scan (default: %(default)s)"
    )
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Study, print and write."""
    from studies.asimov import as_json, as_text, study_asimov
    from studies.asimov_plots import draw_correlations, draw_impacts, draw_pulls, draw_scan
    from studies.likelihoods import nuisances_of, open_weights, parameters_at
    from workshop.files import write_json
    from workshop.plots import save

    bundle = open_weights(given.weights)
    truth = parameters_at(bundle, given.mu, dict(given.nuisance))
    with tqdm(total=6, unit="step", leave=False, disable=None) as progress:
        progress.set_description("fits")
        study = study_asimov(bundle, truth, given.points)
        progress.update()
        write_json(given.output / "asimov.json", as_json(study))
        progress.update()
        progress.set_description("pictures")
        names = ["mu", *(nuisance.name for nuisance in nuisances_of(bundle))]
        title = "SAGE, Asimov data"
        pictures: dict[str, Callable[[], Any]] = {
            "scan": lambda: draw_scan(study.scan, study.interval, title),
            "pulls": lambda: draw_pulls(study.impacts, title),
            "impacts": lambda: draw_impacts(study.impacts, title),
            "correlations": lambda: draw_correlations(study.correlation, names, title),
        }
        for name, draw in pictures.items():
            save(draw(), given.output / name)
            progress.update()
    print(as_text(study))
    print(f"\nwritten to {given.output}: asimov.json, {', '.join(pictures)} (.png, .svg)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
