"""Reads the networks of a checkout of the published unbinned method's repository, HephyAnalysisSW/GOLLUM.

They are there as checkpoints of TensorFlow and as pickles of the repository's own classes. Neither is needed here: a
checkpoint is a sorted table of names (the format of LevelDB) with the places of arrays in a second file, and pickles
are read with empty classes in place of all but numpy's arrays, so that nothing of the checkout is executed.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sage.challenge.nuisances import PROCESSES
from sage.unbinned.published import GRID, knots_of
from sage.unbinned.ratios import UNBINNED, map_name, rate_name
from sage.unbinned.response import PUBLISHED
from workshop.errors import UsageError

CONFIG = "configs/config_submission.yaml"
REGIONS = dict(zip(UNBINNED, ("lowMT_VBFJet", "highMT_VBFJet", "lowMT_noVBFJet_ptH100"), strict=True))
"""The repository's names of the unbinned regions."""
BINS = (
    "lowMT_noVBFJet_ptH0to100",
    "highMT_noVBFJet_MVAHighMTnoVBFJetTtbar",
    "highMT_noVBFJet_MVAHighMTnoVBFJetDiboson",
)
"""Its names of the binned ones."""
TAGGER = "tagger"
"""Network whose class probabilities tell the last two bins."""
NUISANCES = ("nu_tes", "nu_jes", "nu_met")

_FOOTER, _TRAILER = 48, 5
_CORE = ("numpy.core.multiarray", "numpy._core.multiarray")
_PLAIN = {
    *((module, name) for module in _CORE for name in ("_reconstruct", "scalar")),
    *(("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")),
}


class Record:
    """What a pickle holds of an object: its attributes, under ``values``."""

    def __init__(self, *_: object) -> None:
        self.values: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.values = dict(state)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in _PLAIN else Record


def read_pickle(path: Path) -> Any:
    """Read a pickle; objects that are no plain values or arrays of numpy become a ``Record``.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError) as error:
        msg = f"{path}: cannot be read ({error!r}); take a checkout of HephyAnalysisSW/GOLLUM at commit d9f5db3"
        raise UsageError(msg) from error


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block of the table."""
    if data[offset + size] != 0:
        msg = "table is compressed"
        raise ValueError(msg)
    block = data[offset : offset + size]
    end = size - 4 * (1 + struct.unpack("<I", block[-4:])[0])
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        else:
            length, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            yield tag >> 3, message[at : at + length]
            at += length


def read_checkpoint(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weights, shape (n_in, n_out), and biases of the layers of a checkpoint.

    Raises:
        UsageError: If it is none.
    """
    try:
        name = (folder / "checkpoint").read_text(encoding="utf-8").split('"')[1]
        index = (folder / f"{name}.index").read_bytes()
        data = (folder / f"{name}.data-00000-of-00001").read_bytes()
        _, at = _varint(index, len(index) - _FOOTER)
        _, at = _varint(index, at)
        offset, at = _varint(index, at)
        size, _ = _varint(index, at)
        layers: dict[str, np.ndarray] = {}
        for _, handle in _block(index, offset, size):
            start, at = _varint(handle, 0)
            for key, value in _block(index, start, _varint(handle, at)[0]):
                if key.startswith(b"model/layer_with_weights"):
                    layers[key.decode()] = _array(dict(_fields(value)), data)
    except (OSError, IndexError, KeyError, ValueError, struct.error) as error:
        msg = f"{folder}: holds no checkpoint that can be read ({error!r}); take a checkout of HephyAnalysisSW/GOLLUM "
        msg += "at commit d9f5db3"
        raise UsageError(msg) from error
    ends = "/.ATTRIBUTES/VARIABLE_VALUE"
    # Other layers than dense ones, such as normalisation, have other names and are not met.
    numbers = range(sum(name.endswith(f"kernel{ends}") for name in layers))
    begin = "model/layer_with_weights-"
    return [(layers[f"{begin}{i}/kernel{ends}"], layers[f"{begin}{i}/bias{ends}"]) for i in numbers]


def _array(entry: dict[int, Any], data: bytes) -> np.ndarray:
    if entry.get(1) != 1:
        msg = f"array of type {entry.get(1)}, expected float32"
        raise ValueError(msg)
    shape = [dict(_fields(dimension)).get(1, 0) for number, dimension in _fields(entry.get(2, b"")) if number == 2]
    offset, size = entry.get(4, 0), entry[5]
    return np.frombuffer(data[offset : offset + size], dtype="<f4").reshape(shape).copy()


def _responses(record: Record) -> np.ndarray:
    """Return coefficients by the names of their monomials in the order of ``PUBLISHED``."""
    out = np.zeros(len(PUBLISHED.powers))
    out[_places(record)] = record.values["DeltaA"]
    return out


def _places(record: Record) -> np.ndarray:
    powers = [tuple(combination.count(name) for name in NUISANCES) for combination in record.values["combinations"]]
    return np.array([PUBLISHED.powers.index(each) for each in powers])


def export(checkout: Path) -> dict[str, np.ndarray]:
    """Return the arrays of ``studies.original`` of a checkout.

    Raises:
        UsageError: If it is none, or a file is missing or damaged.
    """
    path = checkout / CONFIG
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        msg = f"{path}: cannot be read ({error}); take a checkout of HephyAnalysisSW/GOLLUM at commit d9f5db3"
        raise UsageError(msg) from error
    out: dict[str, np.ndarray] = {}
    coefficients = []
    for region, theirs in REGIONS.items():
        tagger = config["MultiClassifier"][theirs]
        out |= _classifier(checkout / tagger["model_path"], region)
        maps = read_pickle(checkout / tagger["calibration"])
        for process, regression in zip(PROCESSES, maps, strict=True):
            for axis, name in (("x", "X_thresholds_"), ("y", "y_thresholds_")):
                out[map_name(region, process, 0, axis)] = regression.values[name]
        for process in PROCESSES:
            files = config[process][theirs]
            out |= _network(checkout / files["model_path"], f"{region}/{process}")
            record = read_pickle(checkout / files["model_path"] / "config.pkl")
            out |= {f"{region}/{process}/{key}": record.values[f"feature_{name}"] for key, name in _INPUTS}
            out[f"{region}/{process}/terms"] = _places(record)
            out[rate_name(region, process)] = _responses(read_pickle(checkout / files["icp_file"]))
            rates, constant = read_pickle(checkout / f"data/tmp_data/CSI_{theirs}_{process}_TrainingData.pkl")
            spline = rates.values["_spline"].values
            if any(not np.array_equal(t, knots_of(axis)) for t, axis in zip(spline["t"], GRID, strict=True)):
                msg = f"{checkout}: the rates of {process} in {theirs} have other knots than those of the published fit"
                raise UsageError(msg)
            coefficients.append(spline["c"] + constant)  # B-splines add up to 1
    shape = (len(UNBINNED), len(PROCESSES), *coefficients[0].shape)
    out["rate_coefficients"] = np.reshape(coefficients, shape).swapaxes(0, 1)
    bins = [config["Poisson"][name] for name in BINS]
    out |= _classifier(checkout / bins[-1]["model_path"], TAGGER)
    yields = [read_pickle(checkout / each["IC"]).values["weight_sums"] for each in bins]
    out["bins/yields"] = np.array([[float(each[p]) for each in yields] for p in range(len(PROCESSES))])
    out["bins/responses"] = np.array(
        [[_responses(read_pickle(checkout / each["ICP"][process])) for each in bins] for process in PROCESSES]
    )
    return out


_INPUTS = (("mean", "means"), ("variance", "variances"))


def _classifier(folder: Path, name: str) -> dict[str, np.ndarray]:
    _, means, variances, yields = read_pickle(folder / "config.pkl")
    out = _network(folder, f"{name}/share")
    out |= {f"{name}/share/mean": means, f"{name}/share/variance": variances}
    return out | {f"{name}/yields": np.array([float(yields[p]) for p in range(len(PROCESSES))])}


def _network(folder: Path, name: str) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    for i, (weight, bias) in enumerate(read_checkpoint(folder)):
        out |= {f"{name}/{i}.weight": weight, f"{name}/{i}.bias": bias}
    return out
