"""Fails if the native kernel has become slow: its speed as a multiple of torch-geometric's, measured in the same run.

    python -m benchmarks.gate

A ratio, because machines differ and are noisy; both are timed in turn on one thread. Exit code 1 below the bound.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.measuring import GRAPH_BATCH, ROOT, compare_networks, describe, draw_test_set, machine
from sage.files.bundle import read_bundle
from sage.network.native import NativeNetwork

BOUNDS = {"avx512": 7.0, "avx2": 6.0, "baseline": 2.0}
"""Least ratio by what the machine can do: half of the least that is measured, so that noise passes and a step back not.

With avx512 that is 14, and up to 28 in other runs and on other machines."""


def main() -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bound", type=float, help=f"least ratio; default by instruction set: {BOUNDS}")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    print(describe(machine()))
    test_set = draw_test_set(100_000, seed=1)
    bundle = read_bundle(ROOT / "weights")
    instruction_set = NativeNetwork(bundle.network).instruction_set
    bound = BOUNDS[instruction_set] if arguments.bound is None else arguments.bound
    found = compare_networks(bundle, test_set, arguments.rounds, 8 * GRAPH_BATCH)
    good = found.ratio >= bound
    speeds = {"native": found.native, "dense torch": found.torch, "torch-geometric": found.torch_geometric}
    print(", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items()), "events/s")
    verdict = "ok" if good else "TOO SLOW"
    print(f"native ({instruction_set}) / torch-geometric = {found.ratio:.1f}, bound {bound:g}: {verdict}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
