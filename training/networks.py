"""What a training leaves behind, and what others read of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES
from sage.errors import InputError
from sage.files.manifest import MANIFEST
from sage.network.graph import INPUT_SETS, PUBLISHED, Normalisation, find_inputs
from workshop.files import read_arrays

NETWORK_FILE = "network.npz"
REPORT_FILE = "training.json"


def read_network(folder: Path) -> tuple[dict[str, np.ndarray], Normalisation]:
    """Read what ``training.train`` wrote, or the network of a weights folder."""
    description = description_of(folder)
    mean, std = (np.array(description["normalisation"][key], dtype=np.float32) for key in ("mean", "std"))
    # What was written before there was a choice has the published inputs.
    inputs = find_inputs(description.get("inputs", PUBLISHED.columns))
    if inputs is None:
        msg = f"{folder}: inputs {description['inputs']} are none of those of this code, {list(INPUT_SETS)}"
        raise InputError(msg)
    return read_arrays(folder / NETWORK_FILE), Normalisation(mean, std, inputs)


def read_shares(folder: Path) -> tuple[float, ...]:
    """Read the class proportions to which the probabilities of the network in ``folder`` refer, shape (4,)."""
    description = description_of(folder)
    config = description.get("origin", description)["config"]
    return tuple(float(config["training"][f"share_{process}"]) for process in PROCESSES)


def description_of(folder: Path) -> dict[str, Any]:
    """Read what a folder says about its network: a training's report or the manifest of weights."""
    path = folder / (MANIFEST if (folder / MANIFEST).exists() else REPORT_FILE)
    if not path.exists():
        msg = f"{folder}: holds neither {MANIFEST} nor {REPORT_FILE}; give weights, or the output of scripts.train"
        raise InputError(msg)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
