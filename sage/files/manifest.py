"""The manifest of a weights folder: which method, files and settings it holds, with a checksum of its own content."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sage.binned.regions import OPERATORS, QUANTITIES, Region, RegionSet
from sage.binned.score import EFFICIENT_SCORE, EfficientScore
from sage.challenge.nuisances import CHALLENGE, NAMES, PROCESSES
from sage.errors import WeightsError
from sage.files.arrays import REMEDY, read_file

FORMAT = 4
BEFORE = 3
"""The format that ``scripts.convert_weights`` turns into this one."""
MANIFEST = "manifest.json"

LARGEST_MANIFEST = 1 << 20
"""Bound in bytes on what is read at all; eighty times the shipped one."""


def signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the ``sha256`` of its content: of its JSON without that entry, keys sorted, no spaces."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return content | {"sha256": hashlib.sha256(text.encode("ascii")).hexdigest()}


def read_manifest(folder: Path, version: int = FORMAT) -> dict[str, Any]:
    """Read a manifest that is whole and of this version; nothing else about its content is checked.

    Raises:
        WeightsError: If it is not.
    """
    path = folder / MANIFEST
    content = read_file(path, LARGEST_MANIFEST)
    try:
        manifest = json.loads(content.decode("utf-8"))
        digest = signed(manifest)["sha256"] if isinstance(manifest, dict) else None
    except (ValueError, RecursionError) as error:
        msg = f"{path}: cannot be read as JSON ({error}); {REMEDY}"
        raise WeightsError(msg) from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != version:
        way_out = "use weights and code of one release"
        if (found, version) == (BEFORE, FORMAT):
            way_out = f"convert it: python -m scripts.convert_weights --weights {folder} --output NEW"
        if found == FORMAT:
            way_out = f"there is nothing to convert, use {folder} as it is"
        msg = f"{path}: format version {found!r}, this code reads version {version}; {way_out}"
        raise WeightsError(msg)
    if manifest.get("sha256") != digest:
        msg = f"{path}: sha256 of its content is {digest}, it states another one; {REMEDY}, and choose settings by "
        msg += "python -m scripts.make_submission --set"
        raise WeightsError(msg)
    return dict(manifest)


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
    out = {
        "name": region_set.name,
        "exclusive": region_set.exclusive,
        "class_weights": list(region_set.class_weights),
        "regions": regions,
    }
    score = region_set.score
    if score is not None:
        out["efficient_score"] = {
            "mu": score.mu,
            "nuisances": dict(zip(NAMES, score.nus, strict=True)),
            "yields": dict(zip(PROCESSES, score.yields, strict=True)),
            "coefficients": dict(zip(NAMES, score.coefficients, strict=True)),
        }
    return out


def read_regions(path: Path, entry: dict[str, Any]) -> RegionSet:
    """Return the region set of a manifest entry.

    Raises:
        WeightsError: If a value of it cannot be; the message names it and ``path``, the manifest.
        LookupError, TypeError, ValueError: If it is no such entry.
    """
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
    score = _read_score(path, entry["efficient_score"]) if "efficient_score" in entry else None
    out = RegionSet(str(entry["name"]), tuple(regions), bool(entry["exclusive"]), class_weights, score)
    if score is None and EFFICIENT_SCORE in out.names:
        msg = f"{path}: region set {out.name!r} names the efficient score without saying what makes it; {REMEDY}"
        raise WeightsError(msg)
    return out


def _read_score(path: Path, entry: dict[str, Any]) -> EfficientScore:
    """Return the efficient score of a manifest entry; errors as of ``read_regions``."""
    mu = float(entry["mu"])
    tables = {"nuisances": NAMES, "yields": PROCESSES, "coefficients": NAMES}
    found = {}
    for name, keys in tables.items():
        if set(entry[name]) != set(keys):
            msg = f"{path}: {name} of the efficient score are of {sorted(entry[name])}, not of {sorted(keys)}; {REMEDY}"
            raise WeightsError(msg)
        found[name] = tuple(float(entry[name][key]) for key in keys)
    numbers = (mu, *(number for numbers in found.values() for number in numbers))
    inside = all(n.nu_range[0] <= nu <= n.nu_range[1] for n, nu in zip(CHALLENGE, found["nuisances"], strict=True))
    if not (all(map(math.isfinite, numbers)) and mu >= 0.0 and inside and min(found["yields"]) > 0.0):
        msg = f"{path}: the efficient score has the reference point mu = {mu}, {found['nuisances']}, yields "
        msg += f"{found['yields']} and coefficients {found['coefficients']}; all must be finite, yields positive, "
        msg += f"mu not negative and nuisances within reach of a fit; {REMEDY}"
        raise WeightsError(msg)
    return EfficientScore(mu, found["nuisances"], found["yields"], found["coefficients"])
