"""Speed of the simulation on one core: rows, what they are worth for mu and the cost of each stage.

    python -m benchmarks.simulation --mode fast --events 3000 --shards 4

Effective rows are rows over the variance of the yield that weights and shared showered events add. The effective
weight w (``studies.worth``) falls as one over time and rows, so w times core hours and w times rows do not depend on
how many events are made; few events miss the rare showers that matter, and the errors do not know. Times are CPU times.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from studies.likelihoods import open_weights
from studies.worth import Sensitivity
from training.events import Events
from training.simulation.output import event_weights
from training.simulation.processes import TABLE, find_processes
from training.simulation.production import MODES, Production, Simulation

STAGES = {
    "hard process, shower, hadronisation": ("nextBatch",),
    "decisions inside them": ("doVetoProcessLevel", "doVetoPT", "doVetoPartonLevel"),
    "conversion": ("_convert",),
    "deposits": ("deposits", "overlay"),
    "detector": ("measure",),
    "selection": ("select_candidates",),
}
"""Functions whose cumulated times make up each stage."""
SIGNAL_REGIONS = ("lowMT_VBF", "lowMT_noVBF_highPtH")
"""Where most of the information on mu lies; rows in them are what training needs."""


def make_events(simulation: Simulation, process: str, n_shards: int) -> tuple[Events, float]:
    """Make some shards; return their events, normalised as ``scripts.simulate`` does, and the seconds it took."""
    start = time.process_time()
    shards = [simulation.shard(process, number) for number in range(n_shards)]
    seconds = time.process_time() - start
    tried: Counter[int] = Counter()
    for shard in shards:
        tried.update(shard.tried)
    weights = np.concatenate([event_weights(TABLE[process], shard, tried) for shard in shards])
    values = np.concatenate([shard.values for shard in shards])
    events = Events(
        {name: values[:, place] for place, name in enumerate(PRIMARIES)},
        weights * (TABLE[process].expected / weights.sum()),
        np.full(len(weights), PROCESSES.index(process)),
        np.concatenate([number << 32 | shard.parents.astype(np.int64) for number, shard in enumerate(shards)]),
    )
    return events, seconds


def measure_speed(
    simulation: Simulation, process: str, n_events: int, n_shards: int, sensitivity: Sensitivity
) -> dict[str, Any]:
    """Make shards; return rates per second, what the rows are worth and milliseconds per showered event."""
    events, seconds = make_events(simulation, process, n_shards)
    weights = events.weights
    together = np.bincount(np.unique(events.keys, return_inverse=True)[1], weights=weights)
    independent = float(weights.sum() ** 2 / (weights**2).sum())
    inflation = float((together**2).sum() / (weights**2).sum())
    bins = sensitivity.bins(events)
    worth = sensitivity.measure(events, bins)[process]

    profile = cProfile.Profile(time.process_time)
    profile.runcall(simulation.shard, process, n_shards)
    stats = pstats.Stats(profile).get_stats_profile().func_profiles
    stages = {
        stage: 1e3
        * sum(entry.cumtime for name, entry in stats.items() if any(part in name for part in parts))
        / n_events
        for stage, parts in STAGES.items()
    }
    return {
        "rows_per_second": len(weights) / seconds,
        "independent_rows_per_second": independent / seconds,
        "inflation": inflation,
        "effective_rows_per_second": independent / inflation / seconds,
        "core_hours": worth.w * seconds / 3600,
        "core_hours_error": worth.error * seconds / 3600,
        "region_rows": {
            name: float(np.isin(bins, sensitivity.bins_of(name)).sum() / seconds * 3600) for name in SIGNAL_REGIONS
        },
        "rows": worth.w * worth.rows,
        "rows_error": worth.error * worth.rows,
        "ideal_rows": worth.ideal * worth.rows,
        "stages_ms": stages,
    }


def main() -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("--mode", default="fast", choices=sorted(MODES))
    options.add_argument("--events", type=int, default=3000, help="showered events per process")
    options.add_argument("--shards", type=int, default=1, help="shards per process, each of so many events")
    options.add_argument("--process", default="all", help="all, htautau, ztautau, ttbar or diboson")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--z-quiet", type=float, default=1.0, help="as for scripts.simulate")
    options.add_argument("--aim", default="off", help="as for scripts.simulate")
    options.add_argument("--weights", type=Path, default=Path("weights"), help="what judges the rows")
    options.add_argument("--cache", type=Path, default=Path("build/simulation"), help="folder of the libraries")
    arguments = options.parse_args()
    # Compiles what is compiled at first use.
    Simulation(Production(arguments.mode, 1, 50, aim=arguments.aim), arguments.cache).shard("ztautau", 0)
    simulation = Simulation(
        Production(arguments.mode, arguments.seed, arguments.events, arguments.z_quiet, aim=arguments.aim),
        arguments.cache,
    )
    sensitivity = Sensitivity(open_weights(arguments.weights))
    for process in (found.name for found in find_processes(arguments.process)):
        made = measure_speed(simulation, process, arguments.events, arguments.shards, sensitivity)
        print(
            f"{process} {arguments.mode}: {made['rows_per_second']:.0f} rows/s, "
            f"{made['independent_rows_per_second']:.0f} by weights, inflation {made['inflation']:.2f}, "
            f"{made['effective_rows_per_second']:.0f} effective rows/s"
        )
        print(
            f"  w x core hours {made['core_hours']:.3g} +- {made['core_hours_error']:.2g}, "
            f"w x rows {made['rows']:.3g} +- {made['rows_error']:.2g}, with ideal weights {made['ideal_rows']:.3g}"
        )
        rates = ", ".join(f"{name} {rows:.3g}" for name, rows in made["region_rows"].items())
        print(f"  rows per core hour: {rates}")
        for stage, cost in made["stages_ms"].items():
            print(f"  {stage:<36} {cost:6.2f} ms per showered event")
    # Kilobytes on Linux.
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
