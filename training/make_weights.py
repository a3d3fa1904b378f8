"""The whole way from an events file to the weights folder.

Trains the network, or takes that of an existing weights folder, builds the tables and writes ``network.npz``,
``tables.npz``, ``response.npz`` and ``manifest.json``; the result is read back. Steps
that are finished in the build folder are not repeated. Equal events, settings and library versions
give equal bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES
from sage.files.bundle import Bundle, read_bundle
from sage.files.manifest import FORMAT, MANIFEST, signed
from sage.files.settings import Rebuilding
from sage.network.graph import PUBLISHED
from training.adding import add, keep
from training.build_tables import (
    REGIONS_FILE,
    REPORT,
    RESPONSE_FILE,
    TABLES_FILE,
    add_tables,
    build_tables,
    decided_by,
    summary,
)
from training.config import Config
from training.networks import NETWORK_FILE, REPORT_FILE
from training.train import train, versions
from workshop.claims import locked
from workshop.files import read_arrays, sha256, write_bytes, write_json

TABLES_ORIGIN = ("data", "effective_weight", "variance_factors", "errors")
"""What the manifest says about the tables."""

log = logging.getLogger("sage.training.make_weights")


def write_weights(config: Config, training: Path, tables: Path, output: Path) -> Bundle:
    """Put trained network and tables into a weights folder and read it back.

    Args:
        config: The settings, for the manifest.
        training: Folder that ``training.train`` wrote, or a weights folder, whose network is taken.
        tables: Folder that ``training.build_tables`` wrote.
        output: The weights folder.

    Returns:
        What ``read_bundle`` makes of it.
    """
    origin, constants, trained = _network_origin(training)
    built = json.loads((tables / REPORT).read_text(encoding="utf-8"))
    sources = {
        NETWORK_FILE: training / NETWORK_FILE,
        TABLES_FILE: tables / TABLES_FILE,
        RESPONSE_FILE: tables / RESPONSE_FILE,
    }
    for name, path in sources.items():
        write_bytes(output / name, path.read_bytes())
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "method": "sage",
        "inputs": constants["inputs"],
        "classes": list(PROCESSES),
        "settings": {
            **asdict(config.measurement),
            "rebuilding": asdict(Rebuilding()),
        },
        "normalisation": constants["normalisation"],
        "region_set": json.loads((tables / REGIONS_FILE).read_text(encoding="utf-8")),
        "origin": {
            **origin,
            "tables": {name: built[name] for name in TABLES_ORIGIN if built[name]},
            "seed": config.seed,
            "config": asdict(config) | trained,
            "versions": versions(),
            "created_with": "scripts.make_weights",
        },
        "files": {
            name: {
                "sha256": sha256(output / name),
                "shapes": {key: list(array.shape) for key, array in read_arrays(output / name).items()},
            }
            for name in sources
        },
    }
    # Last, so that an interruption leaves a folder that is refused rather than one that is mixed.
    write_json(output / MANIFEST, signed(manifest))
    read_bundle(output, {"templates": "grid"})  # reads and checks the tables as well
    return read_bundle(output)


def _network_origin(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what a network was trained on, its inputs with their constants and the settings of its training."""
    manifest = folder / MANIFEST
    if manifest.exists():
        content = json.loads(manifest.read_text(encoding="utf-8"))
        origin = content["origin"]
    else:
        content = origin = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    constants = {"inputs": content.get("inputs", list(PUBLISHED.columns)), "normalisation": content["normalisation"]}
    sections = {name: origin["config"][name] for name in ("training", "scores") if name in origin["config"]}
    return {key: origin[key] for key in ("data", "rows")}, constants, sections


def make_weights(
    config: Config,
    data: Path,
    build: Path,
    output: Path,
    *,
    overwrite: bool = False,
    network: Path | None = None,
    scheduler: str | None = None,
) -> Bundle:
    """Train, or take the network of a weights folder, build the tables and write the weights folder."""
    with locked(build), locked(output):
        training, tables = network or build / "training", build / "tables"
        if network is None:
            losses = train(config, data, training, overwrite)["losses"]
            log.info("held-out loss %.5f", min(entry["validation"] for entry in losses))
        report = build_tables(config, data, training, tables, overwrite=overwrite, scheduler=scheduler)
        log.info("tables:\n%s", summary(report))
        return write_weights(config, training, tables, output)


def add_weights(
    config: Config,
    counts: Sequence[Path],
    network: Path,
    build: Path,
    output: Path,
    *,
    gain: np.ndarray | None = None,
    sums: Path | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Make tables from sums of counted productions, for the network that counted them, and write the weights folder.

    Args:
        config: The settings; what the counts decide is not taken from them.
        counts: Folders of counts.
        network: Folder of the network.
        build: Folder for intermediate results.
        output: The weights folder.
        gain: d mu_hat / d n in each bin, which decides how much each folder contributes; see ``training.adding.add``.
        sums: Folder for the sums together, to which later productions can be added; None for none.
        overwrite: Throw away earlier tables of ``build``, and what ``sums`` holds.

    Raises:
        sage.errors.InputError: If the counts do not belong together, or to the network.
    """
    with locked(build), locked(output):
        added = add(counts, gain)
        if sums is not None:
            keep(added, sums, overwrite=overwrite)
        config = decided_by(config, added)
        report = add_tables(config, added, network, build / "tables", overwrite=overwrite)
        log.info("tables:\n%s", summary(report))
        return write_weights(config, network, build / "tables", output)
