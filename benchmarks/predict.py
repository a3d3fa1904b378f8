"""Time of one ``predict``, stage by stage.

    python -m benchmarks.predict --events 945000 --threads 1 --output results/benchmarks

Events are drawn with replacement from the embedded file. Machines differ and are noisy: the time of a matrix product
of fixed size is printed beside the stages, so that two runs can be compared as ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from model import Model
from sage.graph import jets_present, normalise, raw_inputs
from sage.interval import measure_interval
from sage.measurement import BLOCK, likelihood_of, read_test_set
from sage.network import class_probabilities, from_arrays
from sage.regions import counts, quantities
from sage.shifts import PRIMARIES, select, shift

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" / "FAIR_Universe_HiggsML_data.parquet"


def draw_test_set(n_events: int, seed: int) -> dict[str, Any]:
    """Draw selected nominal events with replacement, in proportion to their weights."""
    events = pd.read_parquet(DATA)
    columns, rows = select(shift({name: events[name].to_numpy() for name in PRIMARIES}))
    share = events["weights"].to_numpy(np.float64)[rows]
    drawn = np.random.default_rng(seed).choice(len(rows), n_events, p=share / share.sum())
    frame = pd.DataFrame({name: column[drawn] for name, column in columns.items()})
    return {"data": frame, "weights": np.ones(n_events)}


def time_stages(model: Model, test_set: dict[str, Any]) -> dict[str, float]:
    """Run the stages of one measurement on their own; return seconds per stage."""
    seconds: dict[str, float] = {}

    def timed(stage: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = function()
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
        return result

    bundle = model.bundle
    network = timed("build network", lambda: from_arrays(bundle.network))
    columns, weights, _ = timed("arrays", lambda: read_test_set(test_set))
    observed = np.zeros(bundle.regions.n_bins)
    for start in range(0, len(weights), BLOCK):
        block = {name: column[start : start + BLOCK] for name, column in columns.items()}
        values, defined, derived = timed("features", lambda b=block: raw_inputs(b))
        inputs = timed("normalisation", lambda v=values, d=defined: normalise(v, d, bundle.normalisation))
        jets = jets_present(block)
        probabilities = timed("network", lambda i=inputs, j=jets: class_probabilities(network, i, j))
        observed += timed(
            "histogram",
            lambda b=block, d=derived, p=probabilities: counts(bundle.regions, quantities(b, d, p)),
        )
    timed("fit", lambda: measure_interval(likelihood_of(observed, bundle)))
    return seconds


def calibrate() -> float:
    """Return the seconds of a fixed amount of arithmetic on this machine (median of five)."""
    matrix = np.random.default_rng(0).standard_normal((1500, 1500), dtype=np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=945_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    test_set = draw_test_set(arguments.events, arguments.seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = Model()
    start = time.perf_counter()
    model.predict(test_set)
    total = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    stages = time_stages(model, test_set)

    print(f"{arguments.events} events, {arguments.threads} thread(s), {platform.processor() or platform.machine()}")
    for stage, seconds in stages.items():
        print(f"  {stage:16s}{seconds:8.3f} s{seconds / total:8.1%}")
    print(f"  {'predict':16s}{total:8.3f} s, {memory:.0f} MB above the input frame")
    calibration = calibrate()
    print(f"  calibration: 1500 x 1500 float32 matrix product {calibration * 1e3:.1f} ms")
    arguments.output.mkdir(parents=True, exist_ok=True)
    report = {
        "events": arguments.events,
        "threads": arguments.threads,
        "seed": arguments.seed,
        "stages_s": stages,
        "predict_s": total,
        "memory_mb": memory,
        "calibration_s": calibration,
    }
    (arguments.output / "predict.json").write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
