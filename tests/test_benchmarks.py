"""The yardstick of the benchmarks fits the shipped weights; how fast anything is, is not judged here."""

from __future__ import annotations

import warnings

from sage.files.bundle import read_bundle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch-geometric uses deprecated torch functions on import
    from benchmarks.measuring import ROOT, compare_networks, draw_test_set


def test_torch_geometric_runs_the_graph_of_the_shipped_weights() -> None:
    """Weights with perceptrons beside the graph are compared by their graph."""
    found = compare_networks(read_bundle(ROOT / "weights"), draw_test_set(3000, seed=1), rounds=1, n_slow=1024)
    assert min(found.native, found.torch, found.torch_geometric, found.graphs) > 0
