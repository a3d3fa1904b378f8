"""Makes the folders of the methods from an events file.

All use the steps of ``training``: what classifies events stands in ``network.npz``, and templates come from the events
of the test part, as those of the weights in this repository do. ``fit`` may rebuild them as SAGE's does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.packing import package_files
from methods.boosted_trees.model import UNSCALED, Trees
from methods.mass_histogram.model import NoClassifier
from sage.binned.regions import Region, RegionSet
from sage.challenge.features import derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select, shift
from sage.errors import SettingsError
from sage.files.bundle import Bundle, read_bundle
from sage.files.manifest import MANIFEST, signed
from sage.network.classifier import NetworkClassifier
from sage.network.graph import Normalisation, normalise, raw_inputs
from training.build_tables import build_tables
from training.config import Config
from training.events import DATA_FILE, EventsFile
from training.make_weights import write_weights
from training.train import NETWORK_FILE, REPORT_FILE
from workshop.files import sha256, write_arrays, write_json

ROOT = Path(__file__).resolve().parent.parent
MASS_RANGE = (20.0, 220.0)
"""Visible masses in GeV that are binned; masses outside enter the first or last bin."""
MASS = RegionSet("mass", (Region("all", (), observable="m_vis", edges=MASS_RANGE),), exclusive=True)

N_TREES, TREE_DEPTH, LEARNING_RATE, MIN_LEAF = 30, 4, 0.2, 100
"""Trees per class, and what shapes them."""

Arrays = dict[str, np.ndarray]
Report = dict[str, Any]
"""What training writes about a network; see ``training.train``."""


def network_of(weights: Path, data: Path, config: Config) -> tuple[Arrays, Report]:
    """Return the network of a weights folder."""
    del data, config
    bundle = read_bundle(weights)
    return bundle.network, _report(bundle.normalisation, bundle.origin["config"])


def no_network(weights: Path, data: Path, config: Config) -> tuple[Arrays, Report]:
    """Return nothing to classify with."""
    del weights, data
    return {}, _report(UNSCALED, asdict(config))


def train_trees(weights: Path, data: Path, config: Config) -> tuple[Arrays, Report]:
    """Train trees on the nominal events of the training part, classes in the proportions of the configuration.

    Returns:
        What ``Trees`` reads, and a report with constants that leave the inputs as they are.
    """
    # Imported here because only this method needs scikit-learn.
    from sklearn.ensemble import HistGradientBoostingClassifier

    del weights
    file = EventsFile(data, config.test_size)
    events = file.read(file.rows("train"))
    selected, kept = select(shift(events.columns))
    columns = {name: column.astype(np.float32) for name, column in selected.items()}
    values, defined = raw_inputs(columns, derived(columns))
    inputs = normalise(values, defined, UNSCALED)
    classes, event_weights = events.classes[kept], events.weights[kept]
    sums = np.bincount(classes, event_weights, minlength=len(PROCESSES))
    if (sums == 0).any():
        msg = f"{data}: the training part holds no {PROCESSES[int(np.argmin(sums))]}; give a file with all processes"
        raise SettingsError(msg)
    shares = np.array(config.training.shares()) / sums
    forest = HistGradientBoostingClassifier(
        learning_rate=LEARNING_RATE,
        max_iter=N_TREES,
        max_depth=TREE_DEPTH,
        min_samples_leaf=MIN_LEAF,
        early_stopping=False,
        random_state=config.seed,
    )
    forest.fit(inputs, classes, sample_weight=event_weights * shares[classes] * len(classes))
    return tree_arrays(forest), _report(UNSCALED, asdict(config))


def tree_arrays(forest: Any) -> Arrays:
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


@dataclass(frozen=True)
class Method:
    """What makes a method differ from SAGE.

    Arguments:
        summary: One line about it.
        classifier: (weights, data, config) -> parameters and report.
        make_classifier: Makes what classifies of parameters and feature constants.
        model: Its ``model.py``.
        region_set: Name of its regions; the configured ones if absent.
        regions: Regions that have no such name.
        settings: Settings of the measurement that differ.
    """

    summary: str
    classifier: Callable[[Path, Path, Config], tuple[Arrays, Report]]
    make_classifier: Callable[..., Any]
    model: Path
    region_set: str | None = None
    regions: RegionSet | None = None
    settings: dict[str, Any] = field(default_factory=dict)


METHODS = {
    "published": Method(
        "regions FR, CR1-3 overlapping, no signal in CR1-3, trilinear tables, nuisance maps of arXiv:2509.00672",
        network_of,
        NetworkClassifier,
        ROOT / "model.py",
        region_set="published",
        settings={"nuisances": "published", "templates": "grid", "simulation_uncertainty": False},
    ),
    "mass_histogram": Method(
        "one histogram of the visible mass",
        no_network,
        NoClassifier,
        ROOT / "methods" / "mass_histogram" / "model.py",
        regions=MASS,
    ),
    "boosted_trees": Method(
        "gradient-boosted trees in place of the graph network, trained at the nominal point",
        train_trees,
        Trees,
        ROOT / "methods" / "boosted_trees" / "model.py",
    ),
}


def build(name: str, config: Config, data: Path, weights: Path, output: Path, intermediate: Path) -> Bundle:
    """Make a submission folder.

    Args:
        name: Key of ``METHODS``.
        config: Settings; the same as SAGE's, for a fair comparison.
        data: Folder of the events file.
        weights: SAGE's weights folder, from which ``published`` takes the network.
        output: Folder that becomes the submission.
        intermediate: Folder for counts, from which an interrupted build goes on.

    Returns:
        What the submission will read.
    """
    method = METHODS[name]
    parameters, report = method.classifier(weights, data, config)
    training, tables = intermediate / "training", intermediate / "tables"
    write_arrays(training / NETWORK_FILE, parameters)
    source = {"file": DATA_FILE, "sha256": sha256(data / DATA_FILE)}
    write_json(training / REPORT_FILE, report | {"data": source, "rows": {}})
    if method.region_set is not None:
        config = replace(config, tables=replace(config.tables, region_set=method.region_set))
    build_tables(config, data, training, tables, bare=method.regions, make_classifier=method.make_classifier)
    write_weights(config, training, tables, output / "weights")
    manifest = json.loads((output / "weights" / MANIFEST).read_text(encoding="utf-8"))
    manifest["settings"] |= method.settings
    manifest["method"] = name
    write_json(output / "weights" / MANIFEST, signed(manifest))
    shutil.copyfile(method.model, output / "model.py")
    for name, path in package_files(ROOT).items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, output / name)
    return read_bundle(output / "weights")


def _report(normalisation: Normalisation, config: dict[str, Any]) -> Report:
    constants = {"mean": normalisation.mean.tolist(), "std": normalisation.std.tolist()}
    return {"normalisation": constants, "config": config}
