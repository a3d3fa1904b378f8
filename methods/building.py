"""What the methods' builds share: the way from events to a submission folder.

What classifies events stands in ``network.npz``, and templates come from the events of the table part, as those of the
weights in this repository do. ``fit`` may rebuild them as SAGE's does.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.packing import package_files
from methods import FOLDER
from sage.binned.regions import RegionSet
from sage.files.bundle import NETWORK, Bundle, read_bundle
from sage.files.manifest import MANIFEST, signed
from sage.network.classifier import Classifier, NetworkClassifier
from sage.network.graph import INPUT_SETS, Normalisation
from training.build_tables import build_tables
from training.config import Config
from training.events import DATA_FILE, Events, EventsFile
from training.make_weights import write_weights
from training.networks import NETWORK_FILE, REPORT_FILE
from workshop.files import read_arrays, sha256, write_arrays, write_json

ROOT = FOLDER.parent


@dataclass(frozen=True)
class Build:
    """What a submission is made from, and where it goes.

    Args:
        config: Settings; the same as SAGE's, for a fair comparison.
        data: Folder of the events file.
        weights: SAGE's weights folder, for what is taken from it.
        output: Folder that becomes the submission.
        intermediate: Folder for counts, from which an interrupted build goes on.
        training: Folder of other events that train, all of them; the training part of ``data`` if absent.
        replicas: Folder whose sub-folders hold replicas of what trains, for methods that take some.
    """

    config: Config
    data: Path
    weights: Path
    output: Path
    intermediate: Path
    training: Path | None = None
    replicas: Path | None = None

    def training_rows(self, most: int = 0) -> Events:
        """Read the events that train; the first ones if there are more than ``most``, unless that is 0."""
        file = (
            EventsFile(self.data, self.config.table_fraction)
            if self.training is None
            else EventsFile(self.training, 0.0)
        )
        rows = file.rows("training")
        return file.read(rows[:most] if most else rows)

    def training_source(self) -> dict[str, str]:
        """Return the name and hash of the file that trains."""
        return {"file": DATA_FILE, "sha256": sha256((self.training or self.data) / DATA_FILE)}


def build(name: str, this: Build) -> Bundle:
    """Make the submission folder of a method.

    Args:
        name: Key of ``methods.summaries``.
        this: From what and where to.

    Returns:
        What the submission will read.
    """
    bundle: Bundle = importlib.import_module(f"methods.{name}.build").build(this)
    model = FOLDER / name / "model.py"
    copies = {"model.py": model if model.exists() else ROOT / "model.py", **package_files(ROOT)}
    for target, path in copies.items():
        (this.output / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, this.output / target)
    return bundle


def unscaled(config: Config) -> Normalisation:
    """Return feature constants that leave the inputs of these settings as they are."""
    inputs = INPUT_SETS[config.training.inputs]
    n = len(inputs.columns)
    return Normalisation(np.zeros(n, np.float32), np.ones(n, np.float32), inputs)


def write_network(this: Build, parameters: Mapping[str, np.ndarray]) -> Path:
    """Write the parameters of a classifier of unscaled inputs as training would; return the folder."""
    folder = this.intermediate / "training"
    write_arrays(folder / NETWORK_FILE, parameters)
    constants = unscaled(this.config)
    report = {
        "inputs": list(constants.inputs.columns),
        "normalisation": {"mean": constants.mean.tolist(), "std": constants.std.tolist()},
        "config": asdict(this.config),
        "data": this.training_source(),
        "rows": {},
    }
    write_json(folder / REPORT_FILE, report)
    return folder


def write_binned(
    method: str,
    this: Build,
    network: Path,
    *,
    make_classifier: Callable[..., Classifier] = NetworkClassifier,
    regions: RegionSet | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Bundle:
    """Fill tables and write the weights folder of a method that counts in bins.

    Args:
        method: Name of the method, for the manifest.
        this: From what and where to.
        network: Folder that ``write_network`` or training wrote, or a weights folder.
        make_classifier: Makes what classifies of parameters and feature constants.
        regions: Regions that have no name; the configured ones if absent.
        settings: Settings of the measurement that differ from the configured ones.

    Returns:
        What the submission will read.
    """
    tables, weights = this.intermediate / "tables", this.output / "weights"
    build_tables(this.config, this.data, network, tables, bare=regions, make_classifier=make_classifier)
    write_weights(this.config, network, tables, weights)
    manifest = json.loads((weights / MANIFEST).read_text(encoding="utf-8"))
    manifest["settings"] |= settings or {}
    manifest["method"] = method
    write_json(weights / MANIFEST, signed(manifest))
    return read_bundle(weights)


def add_arrays(weights: Path, arrays: Mapping[str, np.ndarray]) -> Bundle:
    """Put arrays that are only known once there are tables beside a method's parameters; return what will be read."""
    together = read_arrays(weights / NETWORK) | dict(arrays)
    write_arrays(weights / NETWORK, together)
    manifest = json.loads((weights / MANIFEST).read_text(encoding="utf-8"))
    shapes = {name: list(array.shape) for name, array in together.items()}
    manifest["files"][NETWORK] = {"sha256": sha256(weights / NETWORK), "shapes": shapes}
    write_json(weights / MANIFEST, signed(manifest))
    return read_bundle(weights)
