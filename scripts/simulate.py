"""Simulate events of the challenge: Pythia 8, detector, selection, weights.

Writes FAIR_Universe_HiggsML_data.parquet with its metadata, as the public data set has them, and parents.parquet, which
tells for every row the showered event it comes from. Finished shards are kept in OUTPUT/shards: the same command
continues an interrupted run, and a larger --events adds to a finished one. The same seed gives the same events
whatever the number of workers. Needs the packages of requirements-simulation.txt.

With --count no events are kept: every shard is counted as soon as it is made, for the network, in the bins and at the
nuisance points of the given weights, and OUTPUT holds the sums, of which scripts.make_weights --add makes tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import checks
from scripts.common import ROOT, logger, parser, run_program
from workshop.errors import UsageError

if TYPE_CHECKING:
    from training.simulation.production import Production

REQUIRED = ("pythia8mc", "awkward", "numba")
FEWEST = 100
"""Showered events of a shard."""
SHOWERED_PER_ROW = 4
"""Enough of most processes."""
COUNTED_TOGETHER = 10
"""Shards that are only counted are larger by this, because the sums of one take as much space as 3000 events."""
EXAMPLE = "--process all --events 100000 --mode fast --seed 1 --workers 2 --output build/events"


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    options = parser("simulate", __doc__, EXAMPLE)
    options.add_argument("--process", default="all", help="all, htautau, ztautau, ttbar or diboson")
    options.add_argument(
        "--events",
        required=True,
        metavar="N|NAME=N,NAME=N...",
        help="rows of each process, or of those named; whole shards, so a few more",
    )
    options.add_argument("--mode", default="fast", help="full: one detector pass per event; fast: several")
    options.add_argument("--seed", type=checks.seed, required=True, help="decides all random numbers")
    options.add_argument(
        "--workers", type=checks.whole(1, 1024), default=1, help="processes that work at the same time"
    )
    options.add_argument("--output", type=Path, required=True, help="folder for the events; new, or of the same run")
    options.add_argument("--cache", type=Path, default=ROOT / "build" / "simulation", help="folder for the libraries")
    options.add_argument(
        "--shard-events",
        type=checks.whole(),
        default=0,
        help="showered events per shard (default: the mode's; fewer for few rows; those of OUTPUT if it goes on)",
    )
    options.add_argument(
        "--z-quiet",
        type=checks.real(0.0, 1.0, above=True),
        default=1.0,
        help="fraction of Z events with little recoil that are kept; smaller weights for those with hard jets",
    )
    options.add_argument(
        "--aim",
        choices=("off", "signal"),
        default="off",
        help="signal: more of the H and Z events that look like signal, weighted down (default: %(default)s)",
    )
    options.add_argument(
        "--count",
        type=Path,
        metavar="WEIGHTS",
        help="count the events for tables of these weights and keep only the sums",
    )
    return run_program(_simulate, options.parse_args(argv))


def _simulate(arguments: argparse.Namespace) -> None:
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        msg = f"package {missing[0]!r} is not installed; pip install -r requirements-simulation.txt"
        raise UsageError(msg)
    _run(arguments)


def _rows(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Return (process, rows) as --process and --events say."""
    pairs = [part.rpartition("=") for part in str(arguments.events).split(",")]
    out = []
    for name, _, number in pairs:
        if not number.strip().isdecimal() or int(number) < 1 or (len(pairs) > 1 and not name):
            msg = (
                f"--events is {arguments.events}; it must be at least 1, or such numbers by name: ztautau=100,ttbar=20"
            )
            raise UsageError(msg)
        out.append((name.strip() or arguments.process, int(number)))
    twice = [name for i, (name, _) in enumerate(out) if name in [other for other, _ in out[:i]]]
    if twice:
        msg = f"--events is {arguments.events}; it names {twice[0]} twice: give each process once"
        raise UsageError(msg)
    return out


def _shard_events(arguments: argparse.Namespace, rows: int) -> int:
    """Return the showered events of a shard: those of the run that goes on, else so few that a small run is quick."""
    from training.adding import COUNTS_FILE
    from training.simulation.production import find_mode
    from training.simulation.shards import SETTINGS_FILE

    usual: int = find_mode(arguments.mode).shard_events
    with suppress(OSError, ValueError, LookupError, TypeError):  # a damaged file is refused when the run begins
        if arguments.count is None:
            return int(json.loads((arguments.output / SETTINGS_FILE).read_text(encoding="utf-8"))["shard_events"])
        counted = json.loads((arguments.output / COUNTS_FILE).read_text(encoding="utf-8"))
        return int(counted["production"]["simulation"]["shard_events"])
    if arguments.count is not None:
        usual *= COUNTED_TOGETHER
    return min(usual, max(FEWEST, SHOWERED_PER_ROW * rows))


def _run(arguments: argparse.Namespace) -> None:
    # Only now: these import Pythia.
    from training.simulation.aim import find_aim
    from training.simulation.output import merge
    from training.simulation.processes import TABLE, find_processes
    from training.simulation.production import Production
    from training.simulation.shards import claimed_by, produce

    n_rows = {process.name: rows for name, rows in _rows(arguments) for process in find_processes(name)}
    shard_events = arguments.shard_events or _shard_events(arguments, max(n_rows.values()))
    find_aim(arguments.aim)
    production = Production(arguments.mode, arguments.seed, shard_events, arguments.z_quiet, aim=arguments.aim)
    for name, rows in n_rows.items():
        logger.info("%s: %d rows asked for; whole shards of %d showered events are made", name, rows, shard_events)
    if arguments.count is not None:
        _count(arguments, n_rows, production)
        return
    with claimed_by(production, arguments.output):
        shards = produce(n_rows, production, arguments.output, arguments.cache, arguments.workers)
        metadata = merge(production, shards, arguments.output)
    for name, made in metadata["simulation"]["processes"].items():
        logger.info(
            "%s: %d rows (%.0f effective), predicted %.5g +- %.2g at 10/fb, normalised to %.5g (factor %.4f)",
            name,
            made["rows"],
            made["effective_rows"] / made["inflation"],
            made["prediction"],
            made["error"],
            TABLE[name].expected,
            made["factor"],
        )
    logger.info("%d rows in %s", metadata["total_rows"], arguments.output)


def _count(arguments: argparse.Namespace, n_rows: dict[str, int], production: Production) -> None:
    from training.adding import counting, finish
    from training.simulation.shards import identity, produce
    from training.sums import read_plan

    plan = read_plan(arguments.count)
    with counting(arguments.output, plan.identity(), {"simulation": identity(production), "events": None}):
        shards = produce(n_rows, production, arguments.output, arguments.cache, arguments.workers, plan)
        found = finish(arguments.output, shards)
    for name, made in found.items():
        logger.info(
            "%s: %d rows counted (%.0f effective showered events), predicted %.5g at 10/fb",
            name,
            made["rows"],
            made["effective_events"],
            made["expected"],
        )
    logger.info("sums in %s", arguments.output)


if __name__ == "__main__":
    sys.exit(main())
