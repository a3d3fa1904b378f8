"""A finished run, answered again: other tables or settings on the counts that a submission has made.

Making and counting pseudo-data takes seconds, fitting the counts milliseconds. What shares network and bins with the
submission that counted has the same counts, so its answers to all pseudo-experiments of a run cost next to nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from harness.experiment import ANSWER_KEYS, Answer, Record, describe
from harness.pool_point import PoolPoint, read_answers, write_answers
from harness.results import EXPERIMENTS_FILE, RUN_FILE, RunFolder, read_records
from harness.settings import Settings, make_settings
from sage.files.bundle import NETWORK, Bundle, read_bundle
from sage.files.manifest import MANIFEST, read_manifest
from sage.measurement import measure_counts
from studies.rehearsal import points_of
from workshop.errors import UsageError
from workshop.files import read_object, sha256
from workshop.jobs import process_pool

METHODS = ("sage", "published")
"""Whose answers follow from counts."""
SHARED = ("inputs", "normalisation", "region_set")
"""Entries of the manifest that decide the counts, besides the network."""
CHUNK = 100
"""Pseudo-experiments that a process fits at a time."""
TOLERANCE = 1e-6
"""By how much an answer may differ from the recorded one: processors round differently."""


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run tells.

    Args:
        settings: Its settings.
        identity: What it was made of.
        records: Its records, sorted by set and index.
        pool: Counts of the whole pool at each point where a rehearsal looks at it; empty if it was no rehearsal.
    """

    settings: Settings
    identity: dict[str, Any]
    records: list[Record]
    pool: dict[PoolPoint, list[float]]


def read_run(folder: Path) -> FinishedRun:
    """Read a run that is to be answered again.

    Raises:
        UsageError: If it is not there, not complete, or its answers hold no counts.
    """
    path = folder / RUN_FILE
    identity = read_object(path, "give the folder of a submission's results", UsageError)
    identity = identity.get("refit", identity)  # what has been answered again can be once more
    try:
        systematics = [name for name, on in identity["systematics"].items() if on]
        mus = None if identity["random_mu"] else identity["ground_truth_mus"]
        shape = identity["num_of_sets"], identity["num_pseudo_experiments"]
        settings = make_settings(*shape, identity["seed"], systematics, mus)
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"{path}: not the file of a run ({error!r}); give the folder of a submission's results"
        raise UsageError(msg) from error
    records, _ = read_records(folder / EXPERIMENTS_FILE)
    records.sort(key=lambda record: (record.set, record.index))
    missing = settings.sets * settings.experiments - len(records)
    if missing:
        msg = f"{folder}: {missing} of {len(settings.jobs())} pseudo-experiments are missing; finish the run first"
        raise UsageError(msg)
    for record in records:
        _counts(folder, f"set {record.set}, pseudo-experiment {record.index}", record.result)
    points = points_of(settings.mus)
    asked = read_answers(folder, points)
    pool = {}
    if asked is not None:
        pool = {
            point: _counts(folder, f"the whole pool at {point}", entry)
            for point, entry in zip(points, asked, strict=True)
        }
    return FinishedRun(settings, identity, records, pool)


def _counts(folder: Path, what: str, holder: Mapping[str, Any] | None) -> list[float]:
    found = (holder or {}).get("counts")
    if not found:
        msg = f"{folder}: {what} has no counts, so it was not measured, or not by counts, or by an earlier version; "
        msg += "run it again with scripts.rehearse"
        raise UsageError(msg)
    return list(found)


def check_same_counts(folders: Mapping[str, Path]) -> None:
    """Check that submissions, given as folders of their weights, would all make the same counts.

    Raises:
        UsageError: If one differs from the first in network or bins.
    """
    manifests = {name: read_manifest(folder) for name, folder in folders.items()}
    first, *others = manifests
    for name, manifest in manifests.items():
        if manifest["method"] not in METHODS:
            msg = f"{name}: the answers of method {manifest['method']!r} do not follow from counts alone; "
            msg += f"give submissions of {' or '.join(METHODS)}"
            raise UsageError(msg)
    for name in others:
        pairs = [(key, manifests[first][key], manifests[name][key]) for key in SHARED]
        networks = [manifests[each]["files"][NETWORK]["sha256"] for each in (first, name)]
        for key, one, other in (*pairs, ("network", *networks)):
            if one != other:
                msg = f"{name} and {first} differ in {key}, so they do not count the same; run scripts.rehearse"
                raise UsageError(msg)


def refit(run: FinishedRun, weights: Path, output: Path, workers: int, *, overwrite: bool = False) -> list[Record]:
    """Answer a run again, or go on with that; write its files to a folder.

    Args:
        run: The run.
        weights: Folder of the weights whose tables and settings are used.
        output: Where the results go; what is there of the same run and weights is kept.
        workers: Number of processes; results do not depend on it.
        overwrite: Throw away what is there.

    Returns:
        The records; of their times, that of ``predict`` is the recorded one.
    """
    identity = {"format": 1, "refit": run.identity, "weights": sha256(weights / MANIFEST)}
    with RunFolder(output, identity, overwrite=overwrite) as results:
        results.write_settings(run.settings)
        missing = [record for record in run.records if (record.set, record.index) not in results.finished]
        chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
        there = len(run.records) - len(missing)
        with (
            tqdm(total=len(run.records), initial=there, unit="exp", disable=None, desc=output.name) as done,
            process_pool(min(workers, max(1, len(chunks)))) as pool,
        ):
            for number, chunk in enumerate(chunks):
                pool.submit(number, refit_records, weights, chunk)
            for _, found in pool.finished():
                for record in found:
                    results.append(record)
                done.update(len(found))
        if run.pool:
            answers = {point: _answer(weights, counts) for point, counts in run.pool.items()}
            write_answers(output, list(run.pool), answers)
        results.write_results(run.settings, 0.0)
        return [results.finished[record.set, record.index] for record in run.records]


def refit_records(weights: Path, records: Sequence[Record]) -> list[Record]:
    """Return records with the answers of a weights folder to their counts."""
    out = []
    for record in records:
        assert record.result is not None
        found = _answer(weights, record.result["counts"], record.events)
        out.append(dataclasses.replace(record, answer=found.values, result=found.result))
    return out


def check_reproduced(run: FinishedRun, records: Sequence[Record]) -> None:
    """Check that answers are those of the run itself, as they must be with the weights of the submission that counted.

    Raises:
        UsageError: If one is not.
    """
    for before, after in zip(run.records, records, strict=True):
        for key in ANSWER_KEYS:
            if abs(before.answer[key] - after.answer[key]) > TOLERANCE:
                msg = f"set {before.set}, pseudo-experiment {before.index}: {key} is {before.answer[key]:.6g} in the "
                msg += f"run, but {after.answer[key]:.6g} from its counts; the first submission must be the one that "
                msg += "made the run"
                raise UsageError(msg)


def _answer(weights: Path, counts: Sequence[float], n_events: int = 0) -> Answer:
    found = measure_counts(np.array(counts, dtype=np.float64), _bundle(weights), n_events)
    return Answer(found.answer(), 0.0, describe(found))


@lru_cache(maxsize=1)
def _bundle(weights: Path) -> Bundle:
    return read_bundle(weights)
