"""What the benchmarks share: test sets, clocks, memory, machine speed, torch-geometric as the yardstick."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sage.challenge.features import Derived
from sage.challenge.frame import read_test_set
from sage.challenge.shifts import PRIMARIES, select, shift
from sage.files.bundle import Bundle
from sage.network.dense import from_arrays
from sage.network.engine import Engine
from sage.network.inputs import network_inputs
from sage.network.parameters import split
from sage.network.perceptron import NAME as PERCEPTRON
from training.graph_oracle import OracleNetwork, build_graphs

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" / "FAIR_Universe_HiggsML_data.parquet"

EXPECTED = 945_000
"""Events of a pseudo-experiment."""
GRAPH_BATCH = 1024
"""Events per batch of torch-geometric, at which it is fastest here; 4096 take nearly twice as long."""


def draw_test_set(n_events: int, seed: int) -> dict[str, Any]:
    """Draw selected nominal events of the embedded file with replacement, in proportion to their weights.

    They count as a whole pseudo-experiment, however few they are: others would be fitted the long way.
    """
    events = pd.read_parquet(DATA)
    columns, rows = select(shift({name: events[name].to_numpy() for name in PRIMARIES}))
    share = events["weights"].to_numpy(np.float64)[rows]
    drawn = np.random.default_rng(seed).choice(len(rows), n_events, p=share / share.sum())
    frame = pd.DataFrame({name: column[drawn] for name, column in columns.items()})
    return {"data": frame, "weights": np.full(n_events, EXPECTED / n_events)}


def seconds_of(function: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def machine_speed() -> float:
    """Return the seconds of a fixed amount of arithmetic on this machine (median of five)."""
    matrix = np.random.default_rng(0).standard_normal((1500, 1500), dtype=np.float32)
    return float(np.median([seconds_of(lambda: matrix @ matrix) for _ in range(5)]))


def core_scaling() -> float:
    """Return how many times as much two threads compute in a time as one does: 2, unless cores are busy or shared."""
    angles = np.random.default_rng(0).random(4_000_000)

    def run(n_threads: int) -> float:
        with ThreadPoolExecutor(n_threads) as executor:
            return seconds_of(lambda: list(executor.map(np.sin, [angles] * n_threads)))

    return float(np.median([2 * run(1) / run(2) for _ in range(5)]))


def machine() -> dict[str, Any]:
    """Describe the machine and its speed now."""
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "machine_speed_s": machine_speed(),
        "two_threads": core_scaling(),
    }


def describe(found: dict[str, Any]) -> str:
    """Return what ``machine`` found in one line."""
    speed = found["machine_speed_s"] * 1e3
    text = f"{found['machine']}, {found['cores']} cores, load {found['load']:.1f}; "
    text += f"machine speed: 1500 x 1500 float32 matrix product {speed:.1f} ms, "
    return text + f"two threads do {found['two_threads']:.2f} x the arithmetic of one"


@contextmanager
def peak_memory(result: dict[str, float]) -> Iterator[None]:
    """Put the peak of the resident memory above its start, in MB, into ``result["memory_mb"]``."""
    # Memory that was freed but not given back would hide what is used next.
    ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = _resident("VmRSS")
    yield
    result["memory_mb"] = _resident("VmHWM") - before


def _resident(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True)
class Comparison:
    """Events per second of the network alone, one thread, medians of interleaved rounds.

    Args:
        native: The native kernel.
        torch: The dense module.
        torch_geometric: The oracle, graphs built beforehand.
        graphs: Building the oracle's graphs.
    """

    native: float
    torch: float
    torch_geometric: float
    graphs: float

    @property
    def ratio(self) -> float:
        """How many times as fast as torch-geometric the kernel is."""
        return self.native / self.torch_geometric


def compare_networks(bundle: Bundle, test_set: dict[str, Any], rounds: int, n_slow: int) -> Comparison:
    """Time the graph network on the same events in turn, so that a busy machine slows all of them down.

    What torch-geometric is the yardstick of is the graph: perceptrons beside it are left out, of all three.

    Args:
        bundle: The weights.
        test_set: Events; the native kernel runs over all of them.
        rounds: Rounds.
        n_slow: Events for the dense module and torch-geometric.
    """
    columns, _, _ = read_test_set(test_set)
    values, jets = network_inputs(columns, Derived(columns), bundle.normalisation)
    graph = {name: value for name, value in split(bundle.network)[0].items() if not name.startswith(f"{PERCEPTRON}.")}
    engines = {kind: Engine(graph, kind, 1) for kind in ("native", "torch")}
    oracle = OracleNetwork(bundle.normalisation.inputs).eval().requires_grad_(False)
    oracle.load_state_dict(from_arrays(graph).state_dict())
    batches = [
        (
            torch.from_numpy(values[start : start + GRAPH_BATCH].copy()),
            torch.from_numpy(jets[start : start + GRAPH_BATCH]),
        )
        for start in range(0, n_slow, GRAPH_BATCH)
    ]

    def build() -> None:
        for batch in batches:
            for branch in (oracle.deterministic.branch, oracle.uncertainty.branch):
                build_graphs(branch, *batch, bundle.normalisation.inputs)

    @torch.inference_mode()
    def geometric() -> None:
        for batch in batches:
            oracle(*batch)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    n_graph = sum(len(batch[1]) for batch in batches)
    steps: dict[str, tuple[int, Callable[[], Any]]] = {
        "native": (len(values), lambda: engines["native"].probabilities(values, jets)),
        "torch": (n_slow, lambda: engines["torch"].probabilities(values[:n_slow], jets[:n_slow])),
        "graphs": (n_graph, build),
        "whole": (n_graph, geometric),
    }
    for _, step in steps.values():
        step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (_, step) in steps.items():
            taken[name].append(seconds_of(step))
    torch.set_num_threads(threads)
    median = {name: float(np.median(seconds)) / steps[name][0] for name, seconds in taken.items()}
    return Comparison(
        1.0 / median["native"],
        1.0 / median["torch"],
        # The oracle builds its graphs in the forward pass; a program that trains with it would not.
        1.0 / (median["whole"] - median["graphs"]),
        1.0 / median["graphs"],
    )
