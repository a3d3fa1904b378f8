"""Toys: how estimates, pulls, coverage and p-values behave in many experiments.

At the level of counts, toys are Poisson counts around the templates (thousands per minute); at the level of events,
whole pseudo-experiments through the challenge's functions and the network. Both are analysed alike. Prints tables;
writes toys.parquet (one row per toy), analysis.json and pictures. An interrupted run continues with the same command,
a larger --toys adds to it, and results do not depend on --workers.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import checks
from scripts.common import ROOT, parser, run_program
from scripts.options import (
    add_data,
    add_output,
    add_overwrite,
    add_seed,
    add_sets,
    add_systematics,
    add_test_size,
    add_weights,
    add_workers,
    nuisance_value,
    number_of_sets,
    run_options,
)
from studies.faults import FAULTS
from studies.likelihoods import SIMULATION, open_weights
from workshop.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from studies.thresholds import Thresholds
    from studies.toys import ToySettings

EXAMPLE = "--level counts --toys 24000 --mu 0.1 0.5 1 2 3 --workers 2 --output results/toys"
THRESHOLDS = "thresholds"
THRESHOLDS_SEED = 2**31
"""Added to the seed of toys that make thresholds, so that they are not the ones that test them."""

logger = logging.getLogger("sage.scripts.toys")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    from harness.settings import MU_RANGE

    options = parser("toys", __doc__, EXAMPLE)
    add = options.add_argument
    add("--level", choices=("counts", "events"), default="counts", help="what is drawn (default: %(default)s)")
    add_weights(options)
    add_output(options)
    add("--toys", type=checks.whole(1), default=1000, help="number of toys (default: %(default)s)")
    add_seed(options, "toy number i has seed SEED + i")
    add_workers(options)
    add("--mu", type=checks.mu, nargs="+", help="true signal strengths, the same number of toys each")
    add(
        "--mu-range",
        type=checks.mu,
        nargs=2,
        default=MU_RANGE,
        metavar=("LOW", "HIGH"),
        help="without --mu, they are uniform in this range (default: %(default)s)",
    )
    add_systematics(options)
    add_overwrite(options)
    counts = options.add_argument_group("level counts")
    counts.add_argument(
        "--simulation",
        choices=SIMULATION,
        help="finite simulation in the toys' truth and the fit, one of them, or none (default: both if the weights'"
        " settings have it in the fit, else none)",
    )
    faults = "; ".join(f"{name}: {text}" for name, text in FAULTS.items()).replace("%", "%%")  # argparse formats it
    counts.add_argument(
        "--fix",
        type=nuisance_value,
        nargs="+",
        metavar="NAME=VALUE",
        help="true physical values (soft_met in GeV) that are the same in all toys; the others are drawn, and the fit"
        " keeps its constraints",
    )
    counts.add_argument("--inject", choices=tuple(FAULTS), help=f"put a fault into the fit ({faults})")
    counts.add_argument(
        "--thresholds",
        type=checks.whole(2),
        metavar="TOYS",
        help="derive thresholds for exact coverage from so many further toys at each of a grid of mu",
    )
    events = options.add_argument_group("level events")
    add_data(events, required=False)
    add_sets(events)
    add_test_size(events)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Make toys, analyse them, print and write."""
    from studies.toys import run_toys
    from workshop.claims import locked
    from workshop.jobs import run_parts

    if given.mu_range[0] > given.mu_range[1]:
        msg = f"--mu-range is {given.mu_range[0]:g} {given.mu_range[1]:g}; give the lower end first"
        raise UsageError(msg)
    if given.level == "events":
        _check_events(given)
        with locked(given.output):
            _report(given, _event_toys(given))
        return
    settings = _settings(given)
    with _claimed(given, given.output, settings):
        there, began = _rows_there(given.output), time.monotonic()
        frame = run_parts(given.output, given.toys, functools.partial(run_toys, settings), given.workers, "toy")
        made, seconds = _rows_there(given.output) - there, time.monotonic() - began
        if made > 0:
            rate = made / seconds
            logger.info("%d toys in %.0f s: %.1f per second with %d workers", made, seconds, rate, given.workers)
        _report(given, frame)


def _report(given: argparse.Namespace, frame: pd.DataFrame) -> None:
    from studies import toy_report
    from studies.analysis import analyse
    from studies.thresholds import as_text, compare
    from workshop.files import write_frame, write_json
    from workshop.plots import save

    write_frame(given.output / "toys.parquet", frame)
    found = analyse(frame)
    content = found.to_dict() | {"seed": given.seed, "level": given.level}
    print(toy_report.as_text(found))
    corrected = None
    if given.thresholds is not None and given.level == "counts":
        thresholds = _thresholds(given)
        comparisons = compare(frame, thresholds)
        write_json(given.output / "thresholds.json", thresholds.to_dict())
        content["thresholds"] = [
            {"mu": entry.mu, "coverage": entry.coverage.value, "corrected_coverage": entry.corrected_coverage.value}
            | {"interval": entry.interval, "corrected_interval": entry.corrected_interval}
            for entry in comparisons
        ]
        corrected = {e.mu: (e.corrected_coverage.value, e.corrected_interval) for e in comparisons[:-1]}
        print("\n" + as_text(thresholds, comparisons))
    write_json(given.output / "analysis.json", content)
    title = f"SAGE, {found.toys} toys ({given.level})" + (f", fault: {given.inject}" if given.inject else "")
    title += "".join(f", {name} = {value:g}" for name, value in given.fix or ())
    for name, figure in {
        "measurement": toy_report.draw_measurement(frame, found, title),
        "pulls": toy_report.draw_toy_pulls(frame, found, title),
        "estimates": toy_report.draw_estimates(frame, found, title),
        "coverage": toy_report.draw_coverage(found, title, corrected),
        "p_values": toy_report.draw_p_values(frame, found, title),
    }.items():
        save(figure, given.output / name)
    print(f"\nwritten to {given.output}: toys.parquet, analysis.json, pictures (.png, .svg)")


def _settings(given: argparse.Namespace) -> ToySettings:
    from studies.toys import ToySettings

    bundle = open_weights(given.weights)
    simulation = given.simulation or ("both" if bundle.settings.get("simulation_uncertainty") else "none")
    return ToySettings(
        weights=given.weights.resolve(),
        seed=given.seed,
        mus=tuple(given.mu) if given.mu else None,
        mu_range=tuple(given.mu_range),
        systematics=given.systematics,
        simulation=simulation,
        fault=given.inject,
        fixed=tuple(given.fix or ()),
    )


def _thresholds(given: argparse.Namespace) -> Thresholds:
    """Make the toys behind the thresholds in a folder of their own, and derive them."""
    from studies.thresholds import MU_GRID, thresholds_from
    from studies.toys import ToySettings, run_toys
    from workshop.jobs import run_parts

    settings = _settings(given)
    seed = (settings.seed + THRESHOLDS_SEED) % 2**32
    further = ToySettings(**{**vars(settings), "seed": seed, "mus": MU_GRID})
    folder = given.output / THRESHOLDS
    toys = given.thresholds * len(MU_GRID)
    with _claimed(given, folder, further):
        return thresholds_from(run_parts(folder, toys, functools.partial(run_toys, further), given.workers, "toy"))


def _claimed(given: argparse.Namespace, folder: Path, settings: ToySettings) -> AbstractContextManager[None]:
    from workshop.claims import claimed
    from workshop.jobs import PARTS

    return claimed(folder, settings.identity(), results=(f"{PARTS}/*.parquet",), overwrite=given.overwrite)


def _check_events(given: argparse.Namespace) -> None:
    """Refuse what level events cannot use."""
    if given.data is None:
        msg = "--data is missing; level events draws pseudo-experiments from an events file"
        raise UsageError(msg)
    for name in ("inject", "thresholds", "simulation", "fix"):
        if getattr(given, name) is not None:
            msg = f"--{name} works at --level counts only; leave it out"
            raise UsageError(msg)


def _event_toys(given: argparse.Namespace) -> pd.DataFrame:
    """Run the ingestion in a folder of its own and bring its results into the toys' form."""
    from harness.runner import run
    from harness.settings import make_settings
    from studies.event_toys import frame_of_run, submission_of

    bundle = open_weights(given.weights)
    sets = number_of_sets(given.sets, given.mu)
    settings = make_settings(sets, math.ceil(given.toys / sets), given.seed, given.systematics, given.mu)
    folder = given.output / "run"
    with submission_of(ROOT, given.weights) as submission:
        run(run_options(given, settings, submission, folder))
    return frame_of_run(folder, bundle)


def _rows_there(output: Path) -> int:
    from workshop.jobs import PARTS

    spans = [path.stem.split("-") for path in (output / PARTS).glob("*.parquet")]
    return sum(int(stop) - int(start) for start, stop in spans)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
