"""Makes the folders of the baselines from an events file.

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

from baselines.boosted_trees.model import Trees
from baselines.mass_histogram.model import NoClassifier
from sage.bundle import MANIFEST, Bundle, read_bundle, signed
from sage.engine import Engine
from sage.errors import SettingsError
from sage.graph import INPUTS, Normalisation, normalise, raw_inputs
from sage.nuisances import PROCESSES
from sage.regions import Region, RegionSet
from sage.shifts import select, shift
from training.build_tables import build_tables
from training.config import Config
from training.dataset import DATA_FILE, EventsFile
from training.files import sha256, write_arrays, write_json
from training.make_weights import write_weights
from training.train import NETWORK_FILE, REPORT_FILE

ROOT = Path(__file__).resolve().parent.parent
MASS_RANGE = (20.0, 220.0)
"""Visible masses in GeV that are binned; masses outside enter the first or last bin."""
MASS = RegionSet("mass", (Region("all", (), observable="m_vis", edges=MASS_RANGE),), exclusive=True)

N_TREES, TREE_DEPTH, LEARNING_RATE, MIN_LEAF = 30, 4, 0.2, 100
"""Trees per class, and what shapes them."""
UNSCALED = Normalisation(np.zeros(len(INPUTS), np.float32), np.ones(len(INPUTS), np.float32))

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
    # Imported here because only this baseline needs scikit-learn.
    from sklearn.ensemble import HistGradientBoostingClassifier

    del weights
    file = EventsFile(data, config.test_size)
    events = file.read(file.rows("train"))
    selected, kept = select(shift(events.columns))
    values, defined, _ = raw_inputs({name: column.astype(np.float32) for name, column in selected.items()})
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
class Baseline:
    """What makes a baseline differ from SAGE.

    Arguments:
        summary: One line about it.
        classifier: (weights, data, config) -> parameters and report.
        make_engine: Makes of the parameters what classifies.
        model: Its ``model.py``.
        region_set: Name of its regions; the configured ones if absent.
        regions: Regions that have no such name.
        settings: Settings of the measurement that differ.
    """

    summary: str
    classifier: Callable[[Path, Path, Config], tuple[Arrays, Report]]
    make_engine: Callable[..., Any]
    model: Path
    region_set: str | None = None
    regions: RegionSet | None = None
    settings: dict[str, Any] = field(default_factory=dict)


BASELINES = {
    "seed_regions": Baseline(
        "regions FR, CR1-3 overlapping, no signal in CR1-3, trilinear tables, nuisance maps of arXiv:2509.00672",
        network_of,
        Engine,
        ROOT / "model.py",
        region_set="seed",
        settings={"nuisances": "seed", "templates": "grid", "simulation_uncertainty": False},
    ),
    "mass_histogram": Baseline(
        "one histogram of the visible mass",
        no_network,
        NoClassifier,
        ROOT / "baselines" / "mass_histogram" / "model.py",
        regions=MASS,
    ),
    "boosted_trees": Baseline(
        "gradient-boosted trees in place of the graph network, trained at the nominal point",
        train_trees,
        Trees,
        ROOT / "baselines" / "boosted_trees" / "model.py",
    ),
}


def build(name: str, config: Config, data: Path, weights: Path, output: Path, intermediate: Path) -> Bundle:
    """Make a submission folder.

    Args:
        name: Key of ``BASELINES``.
        config: Settings; the same as SAGE's, for a fair comparison.
        data: Folder of the events file.
        weights: SAGE's weights folder, from which ``seed_regions`` takes the network.
        output: Folder that becomes the submission.
        intermediate: Folder for counts, from which an interrupted build goes on.

    Returns:
        What the submission will read.
    """
    baseline = BASELINES[name]
    parameters, report = baseline.classifier(weights, data, config)
    training, tables = intermediate / "training", intermediate / "tables"
    write_arrays(training / NETWORK_FILE, parameters)
    source = {"file": DATA_FILE, "sha256": sha256(data / DATA_FILE)}
    write_json(training / REPORT_FILE, report | {"data": source, "rows": {}})
    if baseline.region_set is not None:
        config = replace(config, tables=replace(config.tables, region_set=baseline.region_set))
    build_tables(config, data, training, tables, bare=baseline.regions, make_engine=baseline.make_engine)
    write_weights(config, training, tables, output / "weights")
    manifest = json.loads((output / "weights" / MANIFEST).read_text(encoding="utf-8"))
    manifest["settings"] |= baseline.settings
    manifest["origin"]["baseline"] = name
    write_json(output / "weights" / MANIFEST, signed(manifest))
    shutil.copyfile(baseline.model, output / "model.py")
    (output / "sage").mkdir(exist_ok=True)
    for pattern in ("*.py", "*.so"):
        for path in (ROOT / "sage").glob(pattern):
            shutil.copyfile(path, output / "sage" / path.name)
    return read_bundle(output / "weights")


def _report(normalisation: Normalisation, config: dict[str, Any]) -> Report:
    constants = {"mean": normalisation.mean.tolist(), "std": normalisation.std.tolist()}
    return {"normalisation": constants, "config": config}
