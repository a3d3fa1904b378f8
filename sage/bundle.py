"""Reads the weights folder and refuses whatever is damaged, foreign or implausible.

The folder holds ``manifest.json`` and the ``.npz`` files it states, see ``sage.arrays``. The manifest holds constants
of the measurement as well, so it carries a checksum of its own content.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sage.arrays import LARGEST_VALUE, REMEDY, read_arrays, read_file
from sage.calibration import read_calibration
from sage.errors import SettingsError, WeightsError
from sage.graph import INPUTS, Normalisation
from sage.likelihood import Templates
from sage.nuisances import PROCESSES, VARIANTS
from sage.regions import OPERATORS, QUANTITIES, Region, RegionSet
from sage.response import POWERS, Response
from sage.tables import AXES, GRID, YieldTables

TEMPLATES = ("smooth", "grid")
PROFILES = ("newton", "seed")
DEFAULT_SETTINGS: dict[str, Any] = {
    "mu_range": None,
    "templates": "smooth",
    "simulation_uncertainty": False,
    "profile": "newton",
    "thresholds": None,
    "calibration": {},
    "time_limit": 18.0,
}
"""What a manifest may leave out of its settings; their meaning is told at ``Bundle``."""
FORMAT = 3
MANIFEST = "manifest.json"
FILES = ("network.npz", "response.npz", "tables.npz")

LARGEST_MANIFEST = 4 << 20
"""Bound in bytes on what is read at all."""


@dataclass(frozen=True)
class Bundle:
    """What training produced.

    Arguments:
        network: Parameter name -> array, float32.
        normalisation: Feature constants.
        regions: Regions with their bin edges.
        tables: Yield tables on the concatenated bins of ``regions``; None where they are not needed, see ``lean``.
        response: Smooth yields on the same bins, from which the tables may have been filled.
        variances: Variance of the simulated yields at the nominal point, shape (4, n_bins).
        settings: Settings of the measurement: ``nuisances`` (variant), ``mu_range`` (None or [low, high]),
            ``templates`` (``smooth`` for the response, ``grid`` for the tables), ``simulation_uncertainty`` (whether
            the fit takes ``variances`` into account), ``profile`` (``newton``, or ``seed`` for the published recipe),
            ``thresholds`` (None, or the rise of the nll at a limit as {"mu": [...], "delta_nll": [...]}),
            ``calibration`` (see ``sage.calibration.Calibration``) and ``time_limit`` (seconds within which an answer
            has to be there, or None; see ``sage.deadline``; not for ``profile: seed``, which takes minutes).
        origin: What the files were made from, for reports.
    """

    network: dict[str, np.ndarray]
    normalisation: Normalisation
    regions: RegionSet
    tables: YieldTables | None
    response: Response
    variances: np.ndarray
    settings: dict[str, Any]
    origin: dict[str, Any]

    @property
    def templates(self) -> Templates:
        """The expected yields that the settings choose."""
        if self.settings["templates"] != "grid":
            return self.response
        assert self.tables is not None
        return self.tables

    def lean(self) -> Bundle:
        """Return what a measurement needs: without the tables, nearly all of the memory, if it never reads them."""
        return self if self.settings["templates"] == "grid" else replace(self, tables=None)


def read_bundle(folder: Path) -> Bundle:
    """Read and check a weights folder.

    Raises:
        WeightsError: If anything about it is wrong; the message names the file, the rule and the way out.
    """
    manifest = _read_manifest(folder)
    try:
        return _assemble(folder, manifest)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        msg = f"{folder / MANIFEST}: an entry is missing or cannot be used ({error!r}); {REMEDY}"
        raise WeightsError(msg) from error


def signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the ``sha256`` of its content: of its JSON without that entry, keys sorted, no spaces."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return content | {"sha256": hashlib.sha256(text.encode("ascii")).hexdigest()}


def describe_regions(region_set: RegionSet) -> dict[str, Any]:
    """Return the manifest entry for a region set; the inverse of what ``read_bundle`` does with it."""
    regions = [
        {
            "name": region.name,
            "cuts": [list(cut) for cut in region.cuts],
            "observable": region.observable,
            "signal": region.signal,
            "edges": list(region.edges),
        }
        for region in region_set.regions
    ]
    return {
        "name": region_set.name,
        "exclusive": region_set.exclusive,
        "class_weights": list(region_set.class_weights),
        "regions": regions,
    }


def check_mu_range(given: Any) -> None:
    """Check bounds on mu.

    Raises:
        SettingsError: If they are neither None nor two increasing numbers.
    """
    if given is None:
        return
    numbers = isinstance(given, (list, tuple)) and all(type(value) in (int, float) for value in given)
    if not numbers or len(given) != 2 or not -LARGEST_VALUE <= given[0] < given[1] <= LARGEST_VALUE:
        msg = f"mu_range is {given!r}; give two increasing numbers, or None for no bounds"
        raise SettingsError(msg)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    content = read_file(path, LARGEST_MANIFEST)
    try:
        manifest = json.loads(content.decode("utf-8"))
        digest = signed(manifest)["sha256"] if isinstance(manifest, dict) else None
    except (ValueError, RecursionError) as error:
        msg = f"{path}: cannot be read as JSON ({error}); {REMEDY}"
        raise WeightsError(msg) from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        msg = f"{path}: format version {found!r}, this code reads version {FORMAT}; use weights and code of one release"
        raise WeightsError(msg)
    if manifest.get("sha256") != digest:
        msg = f"{path}: sha256 of its content is {digest}, it states another one; {REMEDY}, and choose settings by "
        msg += "python -m scripts.make_submission --set"
        raise WeightsError(msg)
    return dict(manifest)


def _assemble(folder: Path, manifest: dict[str, Any]) -> Bundle:
    path = folder / MANIFEST
    for key, expected in (("inputs", INPUTS), ("classes", PROCESSES)):
        if tuple(manifest[key]) != expected:
            msg = f"{path}: {key} {manifest[key]} differ from those of this code {list(expected)}; {REMEDY}"
            raise WeightsError(msg)
    if set(manifest["files"]) != set(FILES):
        msg = f"{path}: files are {sorted(manifest['files'])}, expected {sorted(FILES)}; {REMEDY}"
        raise WeightsError(msg)
    settings = read_settings(path, manifest["settings"])
    regions = _regions(path, manifest["region_set"])
    arrays = {name: read_arrays(folder / name, manifest["files"][name]) for name in FILES}
    with np.errstate(over="ignore"):
        mean, std = (np.asarray(manifest["normalisation"][key], dtype=np.float32) for key in ("mean", "std"))
    finite = np.isfinite(mean).all() and np.isfinite(std).all()
    if mean.shape != (len(INPUTS),) or std.shape != mean.shape or not (finite and (std > 0).all()):
        msg = f"{path}: normalisation must be {len(INPUTS)} finite means and positive deviations; {REMEDY}"
        raise WeightsError(msg)
    return Bundle(
        network=arrays["network.npz"],
        normalisation=Normalisation(mean, std),
        regions=regions,
        tables=_tables(folder / "tables.npz", arrays["tables.npz"], regions),
        response=_response(folder / "response.npz", arrays["response.npz"], regions),
        variances=np.concatenate(_parts(folder / "response.npz", arrays["response.npz"], "variance", regions), axis=1),
        settings=settings,
        origin=manifest["origin"],
    )


def read_settings(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Fill up a manifest's settings with their defaults and check them.

    Arguments:
        path: The manifest, for messages.
        entry: Its settings.

    Raises:
        WeightsError, SettingsError: If there is no such setting or value; the message names it.
        KeyError, TypeError: If the entry is none of settings.
    """
    settings = {**DEFAULT_SETTINGS, **entry}
    unknown = sorted(set(settings) - set(DEFAULT_SETTINGS) - {"nuisances"})
    if unknown:
        msg = f"{path}: unknown setting {unknown[0]!r}; choose one of {sorted(['nuisances', *DEFAULT_SETTINGS])}"
        raise WeightsError(msg)
    for key, allowed, what in (
        ("nuisances", tuple(VARIANTS), "nuisance variant"),
        ("templates", TEMPLATES, "templates"),
        ("profile", PROFILES, "profile"),
        ("simulation_uncertainty", (True, False), "simulation_uncertainty"),
    ):
        if settings[key] not in allowed:
            msg = f"{path}: unknown {what} {settings[key]!r}; choose one of {list(allowed)}"
            raise WeightsError(msg)
    check_mu_range(settings["mu_range"])
    limit = settings["time_limit"]
    if limit is not None and not (type(limit) in (int, float) and 0 < limit <= LARGEST_VALUE):
        msg = f"{path}: time_limit is {limit!r}; choose a positive number of seconds, or null for no limit"
        raise WeightsError(msg)
    thresholds = settings["thresholds"]
    if thresholds is not None:
        mu, rise = (np.asarray(thresholds[key], dtype=np.float64) for key in ("mu", "delta_nll"))
        if mu.ndim != 1 or mu.shape != rise.shape or not len(mu) or not ((np.diff(mu) > 0).all() and (rise > 0).all()):
            msg = f"{path}: thresholds must be increasing mu with one positive delta_nll each; {REMEDY}"
            raise WeightsError(msg)
    try:
        read_calibration(settings)
    except (ValueError, TypeError) as error:
        msg = f"{path}: setting 'calibration': {error}; {REMEDY}"
        raise WeightsError(msg) from error
    return settings


def _regions(path: Path, entry: dict[str, Any]) -> RegionSet:
    regions = []
    for item in entry["regions"]:
        cuts = tuple((str(name), str(symbol), float(value)) for name, symbol, value in item["cuts"])
        edges = np.asarray(item["edges"], dtype=np.float64)
        if edges.ndim != 1 or len(edges) < 2 or not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
            msg = f"{path}: edges of region {item['name']!r} must increase, got {item['edges']}; {REMEDY}"
            raise WeightsError(msg)
        unknown = [symbol for _, symbol, _ in cuts if symbol not in OPERATORS]
        if unknown:
            msg = f"{path}: region {item['name']!r} has the operator {unknown[0]!r}; use one of {list(OPERATORS)}"
            raise WeightsError(msg)
        unknown = [name for name in (item["observable"], *(name for name, _, _ in cuts)) if name not in QUANTITIES]
        if unknown:
            msg = f"{path}: region {item['name']!r} names the quantity {unknown[0]!r}; use one of {list(QUANTITIES)}"
            raise WeightsError(msg)
        regions.append(
            Region(str(item["name"]), cuts, str(item["observable"]), bool(item["signal"]), tuple(edges.tolist()))
        )
    if not regions or len({region.name for region in regions}) < len(regions):
        msg = f"{path}: there must be a region, and no two of the same name; {REMEDY}"
        raise WeightsError(msg)
    class_weights = tuple(float(weight) for weight in entry["class_weights"])
    if len(class_weights) != len(PROCESSES) or not all(0.0 < weight < math.inf for weight in class_weights):
        msg = f"{path}: class_weights must be {len(PROCESSES)} positive numbers, got {class_weights}; {REMEDY}"
        raise WeightsError(msg)
    return RegionSet(str(entry["name"]), tuple(regions), bool(entry["exclusive"]), class_weights)


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
