"""Sums of counted events, from which tables are made when the events themselves are gone.

A production is counted shard by shard. The sums of a shard are kept by Pythia's process code and with the weights the
shard has, because what an event stands for follows from all tried events of its code, which only the whole production
knows. So the shards of a production add up to what counting it at once gives, however they were made. An events file is
counted as a whole, with final weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sage.binned.counting import NOMINAL, Noise, Sample, choose_points, count_points, find_bins
from sage.binned.regions import RegionSet
from sage.binned.response import Point
from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from sage.files.bundle import NETWORK, read_bundle
from sage.files.manifest import describe_regions
from sage.network.classifier import NetworkClassifier
from sage.network.graph import Normalisation
from training.counting import sum_by_parents
from training.simulation.processes import TABLE, Process
from workshop.files import read_checked, sha256

if TYPE_CHECKING:
    from training.simulation.production import Shard

SUMS_FOLDER = "sums"
FINAL = 0
"""Stands for Pythia's process code where weights are final."""


@dataclass(frozen=True)
class Plan:
    """What counts: network, bins, nuisance points.

    Args:
        network: Hash of the network's file.
        parameters: Network parameters by name.
        normalisation: Feature constants.
        regions: Regions with their edges.
        points: The k points, the nominal one first.
        noise: How soft-MET noise is drawn.
    """

    network: str
    parameters: dict[str, np.ndarray]
    normalisation: Normalisation
    regions: RegionSet
    points: tuple[Point, ...]
    noise: Noise

    def identity(self) -> dict[str, Any]:
        """Return what must agree for sums to be added, as JSON values by name."""
        return {
            "network": self.network,
            "regions": describe_regions(self.regions),
            "points": [list(point) for point in self.points],
            "noise": list(astuple(self.noise)),
        }


def read_plan(weights: Path) -> Plan:
    """Return the plan by which the tables of a weights folder were counted.

    Raises:
        InputError: If the folder does not tell, or its tables were counted at all points of the grid.
        sage.errors.WeightsError: If it is damaged.
    """
    bundle = read_bundle(weights)
    try:
        config = bundle.origin["config"]
        tables, seed = config["tables"], int(config["seed"])
        noise = Noise(seed, int(tables["noise_draws"]), bool(tables["common_noise"]))
        nodes = int(tables["nodes"])
    except (LookupError, TypeError, ValueError) as error:
        msg = f"{weights}: its manifest does not tell how its tables were counted ({error!r}); make weights with "
        msg += "python -m scripts.make_weights"
        raise InputError(msg) from error
    if nodes < 1:
        msg = f"{weights}: its tables were counted at all points of the grid; make weights with --nodes 64"
        raise InputError(msg)
    points = tuple(choose_points(nodes, seed))
    return Plan(sha256(weights / NETWORK), bundle.network, bundle.normalisation, bundle.regions, points, noise)


@dataclass(frozen=True)
class Sums:
    """Sums over the events of one process.

    Args:
        rows: Number of rows.
        counts: Sums of weights at each point, shape (k, B).
        moved: Sums of squared weights of what is not in the bin it has at the nominal point, shape (k, B).
        covariance: Covariance of the nominal counts by showered parents, and of the sum of all weights, shape
            (B + 1, B + 1).
        total: Sum of all weights, those in no bin included.
    """

    rows: int
    counts: np.ndarray
    moved: np.ndarray
    covariance: np.ndarray
    total: float

    @property
    def effective_events(self) -> float:
        """Showered events of equal weight that would have the same relative variance."""
        return self.total**2 / float(self.covariance[-1, -1])

    def variance_along(self, gain: np.ndarray) -> float:
        """Return the variance of sum_b gain_b n_b, by showered events, for a total that is normalised to 1.

        Args:
            gain: Weight of each bin, shape (B,); 0 for events in none.
        """
        mean = float(gain @ self.counts[0]) / self.total
        along = np.append(gain, -mean)
        return float(along @ self.covariance @ along) / self.total**2

    def scaled(self, factor: float) -> Sums:
        """Return the sums for weights multiplied by a factor."""
        return Sums(
            self.rows, self.counts * factor, self.moved * factor**2, self.covariance * factor**2, self.total * factor
        )

    def __add__(self, other: Sums) -> Sums:
        """Return the sums of independent events together."""
        return Sums(*(mine + more for mine, more in zip(astuple(self), astuple(other), strict=True)))


def final_arrays(sums: Sums) -> dict[str, np.ndarray]:
    """Return the arrays of a file of sums that holds final weights; see ``count_shard``."""
    return {
        "codes": np.array([FINAL]),
        "tried": np.array([0]),
        "rows": np.array([sums.rows]),
        "counts": sums.counts[:, None],
        "moved": sums.moved[:, None],
        "covariance": sums.covariance[None],
        "total": np.array([sums.total]),
    }


def sums_path(folder: Path, process: str, index: int) -> Path:
    """Return where the sums of a shard are kept."""
    return folder / SUMS_FOLDER / process / f"{index:06d}.npz"


def count_shard(plan: Plan, shard: Shard, process: str, index: int, seed: int) -> dict[str, np.ndarray]:
    """Count a shard of a production.

    Args:
        plan: What counts.
        shard: The events.
        process: Their process.
        index: Number of the shard.
        seed: Seed of the production, which with place and number of a row decides its soft-MET noise.

    Returns:
        Arrays of a file of sums, by process code: ``codes``, ``tried``, ``rows`` and ``total`` (C,), ``counts`` and
        ``moved`` (k, C, B), ``covariance`` (C, B + 1, B + 1).
    """
    codes = np.array(sorted(shard.tried), dtype=np.int64)
    classes = np.searchsorted(codes, shard.codes)
    columns = {name: np.ascontiguousarray(shard.values[:, i]) for i, name in enumerate(PRIMARIES)}
    place = np.int64(list(TABLE).index(process)) << 56 | np.int64(index) << 32
    sample = Sample(columns, shard.weights, classes, place + np.arange(len(shard)))
    noise = replace(plan.noise, seed=int(np.random.SeedSequence([plan.noise.seed, seed]).generate_state(1)[0]))
    classifier = NetworkClassifier(plan.parameters, plan.normalisation, threads=1)
    found = count_points(sample, plan.points, plan.regions, classifier, noise, n_classes=len(codes))
    bins = find_bins(columns, NOMINAL, None, plan.regions, classifier)
    sums = sum_by_parents(shard.parents, classes, bins, shard.weights, len(codes), plan.regions.n_bins)
    return {
        "codes": codes,
        "tried": np.array([shard.tried[code] for code in codes.tolist()], dtype=np.int64),
        "rows": sums.rows,
        "counts": found["counts"],
        "moved": found["moved"],
        "covariance": sums.covariances,
        "total": sums.totals,
    }


def read_sums(path: Path) -> dict[str, np.ndarray]:
    """Read a file of sums.

    Raises:
        InputError: If it is missing or damaged.
    """
    return read_checked(path, "delete it and count again with the same command")


def sum_shards(process: Process, paths: Iterable[Path]) -> Sums:
    """Add the shards of one process of a production, in their order.

    Raises:
        InputError: If a file is damaged, or no event was selected.
    """
    by_code: dict[int, Sums] = {}
    tried: dict[int, int] = {}
    for path in paths:
        found = read_sums(path)
        for i, code in enumerate(found["codes"].tolist()):
            part = Sums(
                rows=int(found["rows"][i]),
                counts=found["counts"][:, i],
                moved=found["moved"][:, i],
                covariance=found["covariance"][i],
                total=float(found["total"][i]),
            )
            by_code[code] = by_code[code] + part if code in by_code else part
            tried[code] = tried.get(code, 0) + int(found["tried"][i])
    out: Sums | None = None
    for code, part in sorted(by_code.items()):
        scaled = part if code == FINAL else part.scaled(process.event_weight(code, tried[code]))
        out = scaled if out is None else out + scaled
    if out is None or not out.total > 0.0:
        msg = f"no event of {process.name} was counted; simulate more of it"
        raise InputError(msg)
    return out


def digest(identity: Mapping[str, Any]) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
