"""Gradient-boosted trees in place of the graph network, trained at the nominal point."""

from __future__ import annotations

from typing import Any

import numpy as np

from methods.boosted_trees.model import Trees
from methods.building import Build, unscaled, write_binned, write_network
from sage.challenge.features import derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select, shift
from sage.errors import SettingsError
from sage.files.bundle import Bundle
from sage.network.graph import normalise, raw_inputs

N_TREES, TREE_DEPTH, LEARNING_RATE, MIN_LEAF = 30, 4, 0.2, 100
"""Trees per class, and what shapes them."""


def build(this: Build) -> Bundle:
    """Train the trees and make the weights: tables in the configured regions."""
    network = write_network(this, tree_arrays(train(this)))
    return write_binned("boosted_trees", this, network, make_classifier=Trees)


def train(this: Build) -> Any:
    """Train trees on the nominal events of the training part, classes in the proportions of the configuration.

    Returns:
        A fitted ``HistGradientBoostingClassifier``.

    Raises:
        SettingsError: If the training part lacks a process.
    """
    # Imported here because only this method needs scikit-learn.
    from sklearn.ensemble import HistGradientBoostingClassifier

    events = this.training_rows()
    selected, kept = select(shift(events.columns))
    columns = {name: column.astype(np.float32) for name, column in selected.items()}
    classes, event_weights = events.classes[kept], events.weights[kept]
    sums = np.bincount(classes, event_weights, minlength=len(PROCESSES))
    if (sums == 0).any():
        lacking = PROCESSES[int(np.argmin(sums))]
        msg = f"{this.training or this.data}: the training part holds no {lacking}; give a file with all processes"
        raise SettingsError(msg)
    shares = np.array(this.config.training.shares()) / sums
    forest = HistGradientBoostingClassifier(
        learning_rate=LEARNING_RATE,
        max_iter=N_TREES,
        max_depth=TREE_DEPTH,
        min_samples_leaf=MIN_LEAF,
        early_stopping=False,
        random_state=this.config.seed,
    )
    constants = unscaled(this.config)
    inputs = normalise(*raw_inputs(columns, derived(columns), constants.inputs), constants)
    return forest.fit(inputs, classes, sample_weight=event_weights * shares[classes] * len(classes))


def tree_arrays(forest: Any) -> dict[str, np.ndarray]:
    """Return the nodes of a fitted ``HistGradientBoostingClassifier`` as plain arrays, see ``Trees``."""
    trees = [tree.nodes for iteration in forest._predictors for tree in iteration]
    shape = len(trees), max(map(len, trees))
    arrays = {name: np.zeros(shape) for name in ("feature", "threshold", "left", "right", "value")}
    for number, nodes in enumerate(trees):
        inner, here = nodes["is_leaf"] == 0, (number, slice(len(nodes)))
        for name, source in (("feature", "feature_idx"), ("threshold", "num_threshold")):
            arrays[name][here] = np.where(inner, nodes[source], 0)
        for name in ("left", "right"):
            arrays[name][here] = np.where(inner, nodes[name], 0)
        arrays["value"][here] = nodes["value"]
    # Features are float32: compared with the next smaller float32, they go the same way as with a float64 threshold.
    rounded = arrays["threshold"].astype(np.float32)
    arrays["threshold"] = np.where(rounded > arrays["threshold"], np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return arrays | {"baseline": np.asarray(forest._baseline_prediction, dtype=np.float64).ravel()}
