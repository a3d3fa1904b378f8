"""Time and memory of one ``predict``: stage by stage, against torch-geometric, and as the number of events grows.

    python -m benchmarks.predict --events 945000 --threads 1 2 --output results/benchmarks

Events are drawn with replacement from the embedded file. Machines differ and are noisy: compare ratios of one run, and
the time of a matrix product of fixed size, which is printed beside. Writes ``predict.json`` and ``predict.png``.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import (
    GRAPH_BATCH,
    ROOT,
    compare_networks,
    describe,
    draw_test_set,
    machine,
    peak_memory,
    seconds_of,
)
from benchmarks.plot import draw
from model import Model
from sage.binned.counting import BLOCK
from sage.binned.regions import counts, quantities
from sage.binned.tables import GRID
from sage.challenge.features import Derived, derived
from sage.challenge.frame import read_test_set
from sage.challenge.shifts import select, shift
from sage.errors import FitError
from sage.measurement import count_events, fit_interval, likelihood_of
from sage.network.classifier import NetworkClassifier
from sage.network.engine import KINDS
from sage.network.graph import WITH_DITAU, normalise, raw_inputs
from sage.network.inputs import network_inputs
from sage.submission import WEIGHTS
from workshop.plots import save

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 5_000_000)


def time_stages(model: Model, test_set: dict[str, Any], threads: int) -> dict[str, dict[str, float]]:
    """Run the stages of one measurement on their own; return seconds and peak memory per stage.

    Inputs of the native kernel are computed in numpy as well, for comparison; that is no stage of the measurement.
    """
    stages: dict[str, dict[str, float]] = {}

    def timed(stage: str, function: Callable[[], Any]) -> Any:
        result: list[Any] = []
        stages[stage] = {}
        with peak_memory(stages[stage]):
            stages[stage]["seconds"] = seconds_of(lambda: result.append(function()))
        return result[0]

    bundle = model.bundle
    constants = bundle.normalisation
    classifier = NetworkClassifier(bundle.network, constants, model.engine, threads)
    columns, weights, _ = timed("arrays", lambda: read_test_set(test_set))
    starts = range(0, len(weights), BLOCK)
    blocks = [{name: column[start : start + BLOCK] for name, column in columns.items()} for start in starts]

    def each(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return list(classifier.map(function, items))

    def inputs(block: Any) -> Any:
        columns = Derived(block)
        return *network_inputs(block, columns, constants), columns

    def in_numpy(block: Any) -> Any:
        return normalise(*raw_inputs(block, derived(block), constants.inputs), constants)

    found = timed("inputs", lambda: each(inputs, blocks))
    if constants.inputs == WITH_DITAU:
        timed("(in numpy)", lambda: each(in_numpy, blocks))
    outputs = timed("network", lambda: each(lambda part: classifier.outputs_of(*part[:2]), found))
    triples = [(block, columns, out) for block, (_, _, columns), out in zip(blocks, found, outputs, strict=True)]
    counted = timed("histogram", lambda: each(lambda t: counts(bundle.regions, quantities(*t)), triples))
    observed = np.sum(counted, axis=0)

    def fit() -> None:
        # Tables of few events may fit nothing; ``predict`` then answers with its fall-back.
        with suppress(FitError):
            fit_interval(likelihood_of(observed, bundle), bundle.settings)

    timed("fit", fit)
    return stages


def time_predict(model: Model, test_set: dict[str, Any], repeats: int = 3) -> dict[str, float]:
    """Return the median seconds of a warm ``predict`` and its peak memory above what was there before."""
    result: dict[str, float] = {}
    with peak_memory(result):
        model.predict(test_set)
    result["seconds"] = float(np.median([seconds_of(lambda: model.predict(test_set)) for _ in range(repeats)]))
    return result


def time_fresh_worker(model: Model, test_set: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of import, unpickling and first ``predict`` in a new process, and of a second one."""
    program = (
        "import sys, time, numpy, pandas\n"
        "data = pandas.read_pickle(sys.argv[1])\n"
        "start = time.perf_counter()\n"
        "import pickle\n"
        "model = pickle.loads(open(sys.argv[2], 'rb').read())\n"
        "model.predict(data)\n"
        "first = time.perf_counter()\n"
        "model.predict(data)\n"
        "print(first - start, time.perf_counter() - first)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        data, pickled = Path(folder, "set.pkl"), Path(folder, "model.pkl")
        data.write_bytes(pickle.dumps(test_set))
        pickled.write_bytes(pickle.dumps(model))
        run = subprocess.run(
            [sys.executable, "-c", program, str(data), str(pickled)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    first, warm = map(float, run.stdout.split())
    return {"first_s": first, "warm_s": warm}


def time_node(model: Model, test_set: dict[str, Any]) -> float:
    """Return the seconds of one pass over 1 M events at one nuisance point: shifts to counts, one thread."""
    columns, _, _ = read_test_set(test_set)
    bundle = model.bundle
    classifier = NetworkClassifier(bundle.network, bundle.normalisation, model.engine, 1)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, len(columns["PRI_met"])))

    def run() -> None:
        selected, _ = select(shift(columns, 1.01, 0.99, 1.0, noise=(noise[0], noise[1])))
        selected = {name: column.astype(np.float32) for name, column in selected.items()}
        count_events(selected, bundle.regions, classifier)

    return float(np.median([seconds_of(run) for _ in range(3)])) * 1e6 / len(columns["PRI_met"])


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=945_000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engine", choices=KINDS, help="default: the first that works")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="most events of the growth curve; 0 for none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    arguments = parser.parse_args()

    report: dict[str, Any] = {"events": arguments.events, "seed": arguments.seed, "before": machine()}
    print(describe(report["before"]))
    test_set = draw_test_set(arguments.events, arguments.seed)
    report["threads"] = {}
    for threads in arguments.threads:
        model = Model(weights=arguments.weights, engine=arguments.engine, threads=threads)
        whole = time_predict(model, test_set)
        stages = time_stages(model, test_set, threads)
        report["threads"][str(threads)] = {"predict": whole, "stages": stages}
        print(f"{arguments.events} events, {threads} thread(s)")
        for stage, found in [*stages.items(), ("predict", whole)]:
            speed = arguments.events / found["seconds"] / 1e6
            print(f"  {stage:14s}{found['seconds']:8.3f} s{speed:9.2f} M events/s{found['memory_mb']:8.0f} MB")

    model = Model(weights=arguments.weights, engine=arguments.engine, threads=1)
    report["worker"] = time_fresh_worker(model, test_set)
    print(f"fresh worker: first predict {report['worker']['first_s']:.2f} s, warm {report['worker']['warm_s']:.2f} s")
    report["node_s_per_million"] = node = time_node(model, test_set)
    hours = node * np.prod(GRID) / 3600
    print(
        f"1 M events at one nuisance point {node:.2f} s, at all {np.prod(GRID)} of the grid {hours:.1f} h, one thread"
    )

    comparison = compare_networks(model.bundle, test_set, rounds=5, n_slow=16 * GRAPH_BATCH)
    report["network_events_per_s"] = asdict(comparison)
    for name, speed in asdict(comparison).items():
        print(f"  {name:16s}{speed:12,.0f} events/s{speed / comparison.torch_geometric:8.1f} x torch-geometric")

    report["growth"] = {}
    for size in (size for size in SIZES if size <= arguments.largest):
        found = time_predict(model, draw_test_set(size, arguments.seed))
        report["growth"][str(size)] = found
        print(f"  {size:9d} events {found['seconds']:8.3f} s {found['memory_mb']:6.0f} MB, one thread")
    report["after"] = machine()
    print(describe(report["after"]))

    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "predict.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    save(draw(report), arguments.output / "predict", ("png",))


if __name__ == "__main__":
    main()
