"""Speed of the simulation on one core: rows, effective rows and the cost of each stage.

    python -m benchmarks.simulation --mode fast --events 3000

Effective rows are rows over the variance of the yield that weights and shared showered events add. Times are CPU times.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES
from training.simulation.output import event_weights
from training.simulation.processes import TABLE
from training.simulation.production import MODES, Production, Simulation

STAGES = {
    "hard process, shower, hadronisation": ("nextBatch",),
    "decisions inside them": ("doVetoProcessLevel", "doVetoPartonLevel"),
    "conversion": ("_convert",),
    "deposits": ("deposits", "overlay"),
    "detector": ("measure",),
    "selection": ("select_candidates",),
}
"""Functions whose cumulated times make up each stage."""


def measure_speed(simulation: Simulation, process: str, n_events: int) -> dict[str, Any]:
    """Make one shard; return rates per second and milliseconds per showered event."""
    start = time.process_time()
    shard = simulation.shard(process, 0)
    seconds = time.process_time() - start
    weights = event_weights(TABLE[process], shard, shard.tried)
    together = np.bincount(shard.parents, weights=weights)
    independent = float(weights.sum() ** 2 / (weights**2).sum())
    inflation = float((together**2).sum() / (weights**2).sum())

    profile = cProfile.Profile(time.process_time)
    profile.runcall(simulation.shard, process, 1)
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
        "stages_ms": stages,
    }


def main() -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("--mode", default="fast", choices=sorted(MODES))
    options.add_argument("--events", type=int, default=3000, help="showered events per process")
    options.add_argument("--cache", type=Path, default=Path("build/simulation"), help="folder of the libraries")
    arguments = options.parse_args()
    # Compiles what is compiled at first use.
    Simulation(Production(arguments.mode, 1, 50), arguments.cache).shard("ztautau", 0)
    simulation = Simulation(Production(arguments.mode, 1, arguments.events), arguments.cache)
    for process in PROCESSES:
        made = measure_speed(simulation, process, arguments.events)
        print(
            f"{process} {arguments.mode}: {made['rows_per_second']:.0f} rows/s, "
            f"{made['independent_rows_per_second']:.0f} by weights, inflation {made['inflation']:.2f}, "
            f"{made['effective_rows_per_second']:.0f} effective rows/s"
        )
        for stage, cost in made["stages_ms"].items():
            print(f"  {stage:<36} {cost:6.2f} ms per showered event")
    # Kilobytes on Linux.
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
