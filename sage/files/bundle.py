"""Reads the weights folder and refuses whatever is damaged, foreign or implausible.

The folder holds ``manifest.json`` and the ``.npz`` files it states, see ``sage.files.arrays``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sage.binned.regions import RegionSet
from sage.binned.response import POWERS, Response
from sage.binned.tables import AXES, GRID, YieldTables
from sage.challenge.nuisances import PROCESSES
from sage.errors import WeightsError
from sage.files.arrays import REMEDY, read_arrays
from sage.files.manifest import MANIFEST, read_manifest, read_regions
from sage.files.settings import read_settings
from sage.network.graph import INPUT_SETS, Normalisation, find_inputs
from sage.network.parameters import split
from sage.rates import Templates

TABLES = "tables.npz"
NETWORK = "network.npz"
VARIANCE_FACTORS = "variance_factors"
"""Array of ``response.npz``; files of simulation whose rows are independent have none."""
FILES = (NETWORK, "response.npz", TABLES)
SURROGATES = "surrogates.npz"
"""File of unbinned methods, see ``sage.surrogates``; others have none."""


@dataclass(frozen=True)
class Bundle:
    """What training produced.

    Args:
        network: Parameter name -> array, float32.
        normalisation: Feature constants.
        regions: Regions with their bin edges.
        tables: Yield tables on the concatenated bins of ``regions``; read only where the settings choose them.
        response: Smooth yields on the same bins, from which the tables may have been filled.
        variances: Variance of the simulated yields at the nominal point, shape (4, n_bins), with the factor of each
            process that makes up for correlations of the bins.
        settings: Settings of the measurement, see ``sage.files.settings``.
        method: Name of the method that the files belong to.
        origin: What the files were made from, for reports.
        surrogates: Arrays of an unbinned method by name; empty for others.
    """

    network: dict[str, np.ndarray]
    normalisation: Normalisation
    regions: RegionSet
    tables: YieldTables | None
    response: Response
    variances: np.ndarray
    settings: dict[str, Any]
    method: str
    origin: dict[str, Any]
    surrogates: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def templates(self) -> Templates:
        """The expected yields that the settings choose."""
        if self.settings["templates"] != "grid":
            return self.response
        assert self.tables is not None
        return self.tables


def read_bundle(folder: Path, changes: Mapping[str, Any] | None = None) -> Bundle:
    """Read and check a weights folder.

    Args:
        folder: The folder.
        changes: Settings that replace those of the manifest.

    Raises:
        WeightsError: If anything about it is wrong; the message names the file, the rule and the way out.
    """
    return assemble(folder, read_manifest(folder), changes or {})


def assemble(folder: Path, manifest: dict[str, Any], changes: Mapping[str, Any]) -> Bundle:
    """Read the files of a weights folder as a manifest states them; otherwise as ``read_bundle``.

    Raises:
        WeightsError: If anything about them or the manifest's entries is wrong.
    """
    try:
        return _assemble(folder, manifest, changes)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        msg = f"{folder / MANIFEST}: an entry is missing or cannot be used ({error!r}); {REMEDY}"
        raise WeightsError(msg) from error


def _assemble(folder: Path, manifest: dict[str, Any], changes: Mapping[str, Any]) -> Bundle:
    path = folder / MANIFEST
    inputs = find_inputs(manifest["inputs"])
    if inputs is None:
        msg = f"{path}: inputs {manifest['inputs']} are none of those of this code, {list(INPUT_SETS)}; {REMEDY}"
        raise WeightsError(msg)
    if tuple(manifest["classes"]) != PROCESSES:
        msg = f"{path}: classes {manifest['classes']} differ from those of this code {list(PROCESSES)}; {REMEDY}"
        raise WeightsError(msg)
    if set(manifest["files"]) - {SURROGATES} != set(FILES):
        msg = f"{path}: files are {sorted(manifest['files'])}, expected {sorted(FILES)}; {REMEDY}"
        raise WeightsError(msg)
    settings = read_settings(path, {**manifest["settings"], **changes})
    regions = read_regions(path, manifest["region_set"])
    # The grid is nearly all of the folder's size, and few measurements read it.
    wanted = [name for name in manifest["files"] if name != TABLES or settings["templates"] == "grid"]
    arrays = {name: read_arrays(folder / name, manifest["files"][name]) for name in wanted}
    with np.errstate(over="ignore"):
        mean, std = (np.asarray(manifest["normalisation"][key], dtype=np.float32) for key in ("mean", "std"))
    if regions.needs and not split(arrays[NETWORK])[1]:
        msg = f"{path}: region set {regions.name!r} needs {sorted(regions.needs)}, but {NETWORK} has no network of "
        msg += f"scores; {REMEDY}"
        raise WeightsError(msg)
    finite = np.isfinite(mean).all() and np.isfinite(std).all()
    if mean.shape != (len(inputs.columns),) or std.shape != mean.shape or not (finite and (std > 0).all()):
        msg = f"{path}: normalisation must be {len(inputs.columns)} finite means and positive deviations; {REMEDY}"
        raise WeightsError(msg)
    return Bundle(
        network=arrays[NETWORK],
        normalisation=Normalisation(mean, std, inputs),
        regions=regions,
        tables=_tables(folder / TABLES, arrays[TABLES], regions) if TABLES in arrays else None,
        response=_response(folder / "response.npz", arrays["response.npz"], regions),
        variances=_variances(folder / "response.npz", arrays["response.npz"], regions),
        settings=settings,
        method=str(manifest["method"]),
        origin=manifest["origin"],
        surrogates=arrays.get(SURROGATES, {}),
    )


def _tables(path: Path, arrays: dict[str, np.ndarray], regions: RegionSet) -> YieldTables:
    axes = []
    for name, length in zip(AXES, GRID, strict=True):
        axis = arrays[name].astype(np.float64)
        if axis.shape != (length,) or not (np.diff(axis) > 0).all():
            msg = f"{path}: axis {name!r} must be {length} increasing values, got shape {axis.shape}; {REMEDY}"
            raise WeightsError(msg)
        axes.append(axis)
    # The file has the grid last, where neighbouring values compress best.
    parts = [np.moveaxis(part, (0, 1), (-2, -1)) for part in _parts(path, arrays, "yields", regions, after=GRID)]
    # Joined in place: a second copy of the tables would be the largest part of the memory.
    yields = np.empty((*GRID, len(PROCESSES), regions.n_bins), np.result_type(*parts))
    return YieldTables(axes=(axes[0], axes[1], axes[2]), yields=np.concatenate(parts, axis=-1, out=yields))


def _response(path: Path, arrays: dict[str, np.ndarray], regions: RegionSet) -> Response:
    nominal = np.concatenate(_parts(path, arrays, "nominal", regions), axis=1)
    coefficients = np.concatenate(_parts(path, arrays, "response", regions, after=(len(POWERS),), signed=True), axis=1)
    return Response(nominal.astype(np.float64), coefficients.astype(np.float64))


def _variances(path: Path, arrays: dict[str, np.ndarray], regions: RegionSet) -> np.ndarray:
    variances = np.concatenate(_parts(path, arrays, "variance", regions), axis=1)
    if VARIANCE_FACTORS not in arrays:
        return variances
    factors = arrays[VARIANCE_FACTORS]
    if factors.shape != (len(PROCESSES),) or not (factors >= 0).all():
        msg = f"{path}: {VARIANCE_FACTORS} must be {len(PROCESSES)} numbers, none below 0, got {factors}; {REMEDY}"
        raise WeightsError(msg)
    scaled: np.ndarray = factors[:, None] * variances
    return scaled


def _parts(
    path: Path,
    arrays: dict[str, np.ndarray],
    kind: str,
    regions: RegionSet,
    after: tuple[int, ...] = (),
    signed: bool = False,
) -> list[np.ndarray]:
    """Check and return the arrays ``kind_REGION`` of shape (4, n_bins, *after), in the order of the regions."""
    parts = []
    for region in regions.regions:
        found = arrays[f"{kind}_{region.name}"]
        expected = (len(PROCESSES), region.n_bins, *after)
        if found.shape != expected:
            msg = f"{path}: {kind} of region {region.name!r} has shape {found.shape}, expected {expected}; {REMEDY}"
            raise WeightsError(msg)
        if not signed and (found < 0).any():
            msg = f"{path}: region {region.name!r} has negative {kind} ({found.min():.3g}); {REMEDY}"
            raise WeightsError(msg)
        parts.append(found)
    return parts
