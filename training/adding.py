"""Sums of several productions together, with the weights that give the smallest variance.

A folder of counts holds the sums of one production or events file (see ``training.sums``). Each, scaled to the expected
total of a process, is an unbiased estimate of its counts. They are averaged with shares in proportion to one over the
variance that each gives mu_hat, where it is known how far an event of each bin moves that; else to their effective
numbers of showered events, as ``training.simulation.joining`` does with events. Shares differ where events are aimed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sage.binned.regions import RegionSet
from sage.binned.response import Point
from sage.challenge.nuisances import PROCESSES
from sage.errors import InputError
from sage.files.manifest import read_regions
from training.counting import ByParents
from training.simulation.joining import find_shares
from training.simulation.parts import check_sources
from training.simulation.processes import TABLE
from training.sums import SUMS_FOLDER, Sums, digest, final_arrays, sum_shards, sums_path
from workshop.claims import claimed
from workshop.files import read_object, write_arrays, write_json

COUNTS_FILE = "counts.json"
"""Says what a folder counts; there from the beginning."""
FINISHED_FILE = "finished.json"
"""Says what was counted; there in the end."""
WORDS = {
    "network": "another network",
    "regions": "other bins",
    "points": "other nuisance points",
    "noise": "other soft-MET noise",
}
KINDS = ("version", "mode")
"""What productions of a process must have in common; aims may differ, as none changes what is expected."""

log = logging.getLogger("sage.training.adding")


@contextmanager
def counting(
    folder: Path, plan: Mapping[str, Any], production: Mapping[str, Any], overwrite: bool = False
) -> Iterator[None]:
    """Own a folder of counts that is new, or goes on.

    Args:
        folder: The folder.
        plan: What counts; see ``Plan.identity``.
        production: What is counted: ``simulation``, what tells a production from others, or None; and for an events
            file ``events``, its hash, rows and sources.
        overwrite: Throw away what the folder holds.

    Raises:
        UsageError: If the folder holds other counts, something else, or is in use.
    """
    identity = {**plan, "production": production}
    results = (f"{SUMS_FOLDER}/*/*.npz", "nodes/*.npz")
    with claimed(folder, identity, results, (FINISHED_FILE,), COUNTS_FILE, overwrite=overwrite):
        (folder / FINISHED_FILE).unlink(missing_ok=True)
        yield


def finish(folder: Path, shards: Mapping[str, int]) -> dict[str, Any]:
    """Write what was counted.

    Args:
        folder: The folder.
        shards: Number of shards by process, the first ones. Workers may have made more, and which ones depends on
            their speed; these wait for a larger run.

    Returns:
        What was written: by process ``shards``, ``rows``, ``expected`` events at 10/fb before normalisation, and
        ``effective_events``.
    """
    found = {}
    for name, number in shards.items():
        sums = _sum(folder, name, number)
        found[name] = {
            "shards": number,
            "rows": sums.rows,
            "expected": sums.total,
            "effective_events": sums.effective_events,
        }
    write_json(folder / FINISHED_FILE, {"processes": found})
    return found


@dataclass(frozen=True)
class Counts:
    """What a folder of counts holds.

    Args:
        folder: The folder.
        plan: What counted; see ``Plan.identity``.
        production: What was counted; see ``counting``.
        sums: Sums by process.
    """

    folder: Path
    plan: dict[str, Any]
    production: dict[str, Any]
    sums: dict[str, Sums]

    def sources(self) -> list[dict[str, Any]]:
        """Return what the events come from; see ``training.simulation.parts.Piece.sources``."""
        if self.production["events"] is not None:
            return list(self.production["events"]["sources"])
        made = self.production["simulation"]
        return [{"sha256": digest(made), "rows": [0, 1], "seed": made["seed"], "processes": sorted(self.sums)}]


def read_counts(folder: Path) -> Counts:
    """Read a folder of counts.

    Raises:
        InputError: If it is none, is not finished, or is damaged.
    """
    plan, finished = (_read(folder / name) for name in (COUNTS_FILE, FINISHED_FILE))
    try:
        production = plan.pop("production")
        shards = {name: int(entry["shards"]) for name, entry in finished["processes"].items()}
        sums = {name: _sum(folder, name, number) for name, number in shards.items()}
        if plan.keys() != WORDS.keys() or production.keys() != {"simulation", "events"}:
            raise KeyError(*sorted(plan))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"{folder}: its files do not fit together ({error!r}); count again into a new folder"
        raise InputError(msg) from error
    return Counts(folder, plan, production, sums)


@dataclass(frozen=True)
class Added:
    """Counts of several productions together, normalised to the expected total of each process.

    Args:
        network: Hash of the network's file.
        regions: Regions with their edges.
        points: The k points, the nominal one first.
        noise: Seed, draws and common of ``sage.binned.counting.Noise``.
        counts: Sums of weights, shape (k, 4, B).
        moved: Sums of squared weights of what moved, shape (k, 4, B).
        sums: Sums over rows and showered parents.
        parts: What was added, as JSON values.
        by_process: The same counts and sums by process.
        plan: What counted; see ``Plan.identity``.
        sources: What the events come from; see ``training.simulation.parts.Piece.sources``.
    """

    network: str
    regions: RegionSet
    points: tuple[Point, ...]
    noise: tuple[Any, ...]
    counts: np.ndarray
    moved: np.ndarray
    sums: ByParents
    parts: list[dict[str, Any]]
    by_process: dict[str, Sums]
    plan: dict[str, Any]
    sources: list[dict[str, Any]]


def add(folders: Sequence[Path], gain: np.ndarray | None = None) -> Added:
    """Add folders of counts.

    Args:
        folders: The folders.
        gain: d mu_hat / d n in each bin, shape (B,), to decide how much each contributes; None to let the effective
            numbers of showered events decide.

    Raises:
        InputError: If they do not belong together, hold the same events, or lack a process, or there is no gain for
            each bin.
    """
    everything = [read_counts(folder) for folder in folders]
    for i, counts in enumerate(everything):
        for earlier in everything[:i]:
            _check(earlier, counts)
    missing = [name for name in PROCESSES if not any(name in counts.sums for counts in everything)]
    if missing:
        msg = f"none of {', '.join(map(str, folders))} holds counts of {missing[0]}; add a production of it"
        raise InputError(msg)
    plan = everything[0].plan
    regions = read_regions(folders[0] / COUNTS_FILE, plan["regions"])
    if gain is not None and len(gain) != regions.n_bins:
        msg = f"the weights have {len(gain)} bins, the counts {regions.n_bins}; take those the events were counted with"
        raise InputError(msg)
    shares = find_shares(everything) if gain is None else _shares_by_worth(everything, gain)
    by_process: dict[str, Sums] = {}
    for counts, share in zip(everything, shares, strict=True):
        for name, part in share.items():
            sums = counts.sums[name].scaled(TABLE[name].expected * part / counts.sums[name].total)
            by_process[name] = by_process[name] + sums if name in by_process else sums
    ordered = [by_process[name] for name in PROCESSES]
    return Added(
        network=plan["network"],
        regions=regions,
        points=tuple((float(tes), float(jes), float(soft_met)) for tes, jes, soft_met in plan["points"]),
        noise=tuple(plan["noise"]),
        counts=np.stack([sums.counts for sums in ordered], axis=1),
        moved=np.stack([sums.moved for sums in ordered], axis=1),
        sums=ByParents(
            rows=np.array([sums.rows for sums in ordered]),
            totals=np.array([sums.total for sums in ordered]),
            yields=np.stack([sums.counts[0] for sums in ordered]),
            covariances=np.stack([sums.covariance for sums in ordered]),
        ),
        parts=[_describe(counts, share) for counts, share in zip(everything, shares, strict=True)],
        by_process=by_process,
        plan=plan,
        sources=[source for counts in everything for source in counts.sources()],
    )


def keep(added: Added, folder: Path, *, overwrite: bool = False) -> None:
    """Write counts that were added as a folder of counts, to which later productions can be added.

    Args:
        added: The counts.
        folder: The folder.
        overwrite: Throw away what it holds.

    Raises:
        UsageError: If the folder holds other counts, something else, or is in use.
    """
    rows = sum(sums.rows for sums in added.by_process.values())
    events = {"sha256": digest({"added": added.sources}), "rows": [0, rows], "sources": added.sources}
    with counting(folder, added.plan, {"simulation": None, "events": events}, overwrite):
        for name, sums in added.by_process.items():
            write_arrays(sums_path(folder, name, 0), final_arrays(sums))
        finish(folder, dict.fromkeys(added.by_process, 1))


def _shares_by_worth(everything: Sequence[Counts], gain: np.ndarray) -> list[dict[str, float]]:
    """Return, for each folder, the share of each of its processes that makes the variance of mu_hat smallest."""
    worth = [{name: 1.0 / sums.variance_along(gain) for name, sums in counts.sums.items()} for counts in everything]
    totals = {name: sum(found.get(name, 0.0) for found in worth) for name in PROCESSES}
    return [{name: value / totals[name] for name, value in found.items()} for found in worth]


def _check(one: Counts, other: Counts) -> None:
    """Refuse two that cannot be added."""
    for name, word in WORDS.items():
        if one.plan[name] != other.plan[name]:
            msg = f"{other.folder} was counted with {word} than {one.folder}, so they cannot be added; count it again "
            msg += (
                "with the weights of the other (python -m scripts.simulate --count, or python -m scripts.count_events)"
            )
            raise InputError(msg)
    here, there = one.production["simulation"], other.production["simulation"]
    shared = sorted(one.sums.keys() & other.sums.keys())
    if here is not None and there is not None and shared:
        for name in KINDS:
            if here.get(name) != there.get(name):
                msg = f"{one.folder} and {other.folder} both hold {shared[0]} but of different {name} "
                msg += f"({here.get(name, 'none')}, {there.get(name, 'none')}); add productions of one {name}"
                raise InputError(msg)
        if here.get("code") != there.get("code"):
            log.warning("%s and %s were made by different code or versions of Pythia", one.folder, other.folder)
    check_sources(str(one.folder), one.sources(), str(other.folder), other.sources())


def _describe(counts: Counts, shares: Mapping[str, float]) -> dict[str, Any]:
    processes = {
        name: {
            "rows": sums.rows,
            "effective_events": sums.effective_events,
            "share": shares[name],
        }
        for name, sums in counts.sums.items()
    }
    return {"folder": counts.folder.name, "production": counts.production, "processes": processes}


def _sum(folder: Path, name: str, number: int) -> Sums:
    return sum_shards(TABLE[name], [sums_path(folder, name, index) for index in range(number)])


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        msg = f"{path.parent}: {path.name} is missing; give a folder that python -m scripts.simulate --count, or "
        msg += "scripts.count_events, has finished"
        raise InputError(msg)
    return read_object(path, "count again into a new folder")
