"""Counting the events of a file at nuisance points: as jobs, on one machine or on a cluster, resumable.

A job is some points and some row groups of the file. Its result is a pure function of what its name is the hash of,
and goes to a file of that name. So an interrupted run goes on where it stopped, whoever ran the jobs, and a job that
runs twice because a worker died changes nothing. Jobs hold several points, because the nominal bins that every count
is compared with are found once per job.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import sparse
from tqdm import tqdm

from sage.binned.counting import (
    BLOCK,
    KINDS,
    NOMINAL,
    Noise,
    Sample,
    count_points,
    find_bins,
    parent_variances,
    quantities_at,
)
from sage.binned.regions import RegionSet
from sage.binned.response import Point
from sage.challenge.nuisances import PROCESSES
from sage.files.manifest import describe_regions
from sage.network.classifier import Classifier, NetworkClassifier
from sage.network.graph import PUBLISHED, Normalisation
from training.efficient import Block
from training.events import DATA_FILE, PARENTS_FILE, Events, EventsFile, Part
from workshop.files import read_arrays, sha256, write_arrays
from workshop.jobs import Pool, process_pool

POINTS_PER_JOB = 16
ROWS_PER_JOB = 131_072
"""Row groups are put together up to this."""
RETRIES = 5
"""Times a cluster may start a job anew when the worker that had it dies."""

log = logging.getLogger("sage.training.counting")


@dataclass(frozen=True)
class Counter:
    """Counts events of a file at nuisance points; small enough to be sent to worker processes.

    Args:
        data: Folder of the events file.
        table_fraction: Fraction of the rows, from the first on, that fill the tables.
        part: Part that is counted.
        parameters: Network parameters by name.
        normalisation: Feature constants.
        noise: How soft-MET noise is drawn.
        make_classifier: Makes a classifier of parameters and feature constants.
    """

    data: Path
    table_fraction: float
    part: Part
    parameters: dict[str, np.ndarray]
    normalisation: Normalisation
    noise: Noise = field(default_factory=Noise)
    make_classifier: Callable[..., Classifier] = NetworkClassifier

    def classifier(self) -> Classifier:
        """Return what classifies, with one thread."""
        return self.make_classifier(self.parameters, self.normalisation, threads=1)

    def shards(self) -> list[tuple[range, float]]:
        """Cut the part into row ranges, each with the factor that makes its weights a share of the whole part's.

        Raises:
            sage.errors.InputError: If the part holds no events.
        """
        rows = EventsFile(self.data, self.table_fraction).rows(self.part)
        file = pq.ParquetFile(self.data / DATA_FILE)
        layout = file.metadata
        pieces: list[list[Any]] = []
        start = 0
        for group in range(layout.num_row_groups):
            stop = start + layout.row_group(group).num_rows
            first, last = max(start, rows.start), min(stop, rows.stop)
            if first < last:
                column = file.read_row_group(group, columns=["weights"])["weights"].to_numpy()
                weight = float(column[first - start : last - start].sum(dtype=np.float64))
                if pieces and last - pieces[-1][0] <= ROWS_PER_JOB:
                    pieces[-1][1:] = [last, pieces[-1][2] + weight]
                else:
                    pieces.append([first, last, weight])
            start = stop
        total = sum(weight for *_, weight in pieces)
        return [(range(first, last), weight / total) for first, last, weight in pieces if weight > 0]

    def read(self, rows: range, share: float) -> Sample:
        """Read rows whose weights are ``share`` of the whole part's."""
        events = EventsFile(self.data, self.table_fraction).read(rows)
        return Sample(events.columns, events.weights * share, events.classes, np.arange(rows.start, rows.stop))

    def count(self, points: Sequence[Point], regions: RegionSet) -> dict[str, np.ndarray]:
        """Count at points in this process; returns what ``sage.binned.counting.count_points`` does."""
        results = [CountingJob(self, rows, share, tuple(points), regions)() for rows, share in self.shards()]
        return {name: sum((result[name] for result in results[1:]), start=results[0][name]) for name in KINDS}

    def variances(self, regions: RegionSet) -> np.ndarray:
        """Return the variance of the nominal yields, shape (4, n_bins).

        Rows of one showered parent are fully correlated. Without the file of parents each row is its own.
        """
        if not self.has_parents:
            squares: np.ndarray = self.count([NOMINAL], regions)["squares"][0]
            return squares
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for block, all_bins in self._nominal(regions):
            for bins in all_bins:
                taken = np.flatnonzero(bins >= 0)
                cells = block.classes[taken] * regions.n_bins + bins[taken]
                found.append((block.keys[taken], cells, block.weights[taken]))
        parents, cells, weights = (np.concatenate(column) for column in zip(*found, strict=True))
        flat = parent_variances(parents, cells, weights, len(PROCESSES) * regions.n_bins)
        return flat.reshape(len(PROCESSES), regions.n_bins)

    def by_parents(self, regions: RegionSet) -> ByParents:
        """Return sums over rows and showered parents at the nominal point, by process."""
        found = [(block.keys, block.classes, bins.T, block.weights) for block, bins in self._nominal(regions)]
        parents, classes, bins, weights = (np.concatenate(column) for column in zip(*found, strict=True))
        return sum_by_parents(parents, classes, bins.T, weights, len(PROCESSES), regions.n_bins)

    @property
    def has_parents(self) -> bool:
        """Whether the file tells the showered parents of its rows."""
        return (self.data / PARENTS_FILE).exists()

    def _nominal(self, regions: RegionSet) -> Iterator[tuple[Events, np.ndarray]]:
        """Yield blocks of events with their weights as shares of the whole part's, and their bins of ``find_bins``."""
        classifier = self.classifier()
        for block, _ in self._events():
            yield block, find_bins(block.columns, NOMINAL, None, regions, classifier)

    def _events(self) -> Iterator[tuple[Events, np.ndarray]]:
        """Yield blocks of events with their weights as shares of the whole part's, and their row numbers."""
        for rows, share in self.shards():
            events = EventsFile(self.data, self.table_fraction).read(rows)
            events = replace(events, weights=events.weights * share)
            for first in range(0, len(events), BLOCK):
                places = np.arange(first, min(first + BLOCK, len(events)))
                yield events.take(places), rows.start + places

    def blocks(self, point: Point) -> Iterator[Block]:
        """Yield all events that are selected at a nuisance point; see ``training.efficient.Blocks``."""
        classifier, noise = self.classifier(), replace(self.noise, common=True)
        for block, numbers in self._events():
            drawn = noise(numbers, 0, point) if point[2] > 0 else None
            values, kept = quantities_at(block.columns, point, drawn, classifier)
            yield values, block.weights[kept], block.classes[kept], block.keys[kept]

    def digest(self) -> bytes:
        """Return a hash of everything but points, rows and regions that decides the counts."""
        out = hashlib.sha256()
        for name, value in sorted(self.parameters.items()):
            out.update(name.encode() + value.tobytes())
        out.update(self.normalisation.mean.tobytes() + self.normalisation.std.tobytes())
        maker = f"{self.make_classifier.__module__}.{self.make_classifier.__qualname__}"
        if self.normalisation.inputs is not PUBLISHED:
            out.update(self.normalisation.inputs.name.encode())
        out.update(json.dumps([self.table_fraction, self.part, *astuple(self.noise), maker]).encode())
        out.update(sha256(self.data / DATA_FILE).encode())
        return out.digest()


@dataclass(frozen=True)
class ByParents:
    """Sums over the rows of C classes and over their showered parents, rows of which are fully correlated.

    Args:
        rows: Number of rows, shape (C,).
        totals: Sum of the weights of all rows, those in no bin included, shape (C,).
        yields: Sums of weights in the bins, shape (C, B).
        covariances: Sums over parents of the products of what they have in two bins, shape (C, B + 1, B + 1); the last
            row and column belong to what a parent has in all, those in no bin included.
    """

    rows: np.ndarray
    totals: np.ndarray
    yields: np.ndarray
    covariances: np.ndarray

    @property
    def variances(self) -> np.ndarray:
        """Variances of the sums of weights in the bins, shape (C, B)."""
        return np.diagonal(self.covariances, axis1=1, axis2=2)[:, :-1]


def sum_by_parents(
    parents: np.ndarray, classes: np.ndarray, bins: np.ndarray, weights: np.ndarray, n_classes: int, n_bins: int
) -> ByParents:
    """Return sums over rows and parents.

    Args:
        parents: Showered parent of each row, shape (n,), integers.
        classes: Class of each row, shape (n,); parents of different classes are different.
        bins: Bin of each row, one row per region where these overlap; -1 for none; shape (1 or R, n).
        weights: Weight of each row, shape (n,).
        n_classes: Number of classes C.
        n_bins: Number of bins B.
    """
    sums, covariances = np.zeros((n_classes, n_bins + 1)), np.zeros((n_classes, n_bins + 1, n_bins + 1))
    places = np.concatenate([bins, np.full((1, len(weights)), n_bins)])
    for number in range(n_classes):
        of, rows = np.nonzero((places >= 0) & (classes == number))
        _, parent = np.unique(parents[rows], return_inverse=True)
        entries = weights[rows], (parent, places[of, rows])
        each = sparse.csr_array(entries, shape=(int(parent.max(initial=-1)) + 1, n_bins + 1))
        sums[number] = each.sum(axis=0)
        covariances[number] = (each.T @ each).toarray()
    return ByParents(np.bincount(classes, minlength=n_classes), sums[:, -1], sums[:, :-1], covariances)


@dataclass(frozen=True)
class CountingJob:
    """Counting of some rows at some points.

    Args:
        counter: What is counted and how.
        rows: Row numbers.
        share: Share of these rows in the weights of the part.
        points: Nuisance points.
        regions: Regions with their edges.
    """

    counter: Counter
    rows: range
    share: float
    points: tuple[Point, ...]
    regions: RegionSet

    def __call__(self) -> dict[str, np.ndarray]:
        """Return what ``sage.binned.counting.count_points`` does, and the ``seconds`` a core worked, shape ()."""
        began = time.process_time()
        counter = self.counter
        sample = counter.read(self.rows, self.share)
        out = count_points(sample, self.points, self.regions, counter.classifier(), counter.noise)
        return out | {"seconds": np.array(time.process_time() - began)}

    def key(self, digest: bytes) -> str:
        """Return a name that changes with everything that decides the result, given ``Counter.digest``."""
        what = [self.rows.start, self.rows.stop, self.points, describe_regions(self.regions)]
        return hashlib.sha256(digest + json.dumps(what).encode()).hexdigest()[:20]


def count_nodes(
    counter: Counter,
    points: Sequence[Point],
    regions: RegionSet,
    folder: Path,
    workers: int = 1,
    scheduler: str | None = None,
) -> dict[str, np.ndarray]:
    """Count at all points, reusing what ``folder`` holds already.

    Args:
        counter: What is counted and how.
        points: The k points.
        regions: Regions with their edges.
        folder: Receives one file per job.
        workers: Processes on this machine.
        scheduler: Address of a dask scheduler that runs the jobs instead; its workers must see the events file under
            the same path.

    Returns:
        What ``sage.binned.counting.count_points`` returns, and ``seconds``: the time that cores worked, in
        this run or an earlier one.
    """
    digest, shards = counter.digest(), counter.shards()
    groups = [tuple(points[first : first + POINTS_PER_JOB]) for first in range(0, len(points), POINTS_PER_JOB)]
    jobs = [[CountingJob(counter, rows, share, group, regions) for rows, share in shards] for group in groups]
    files = [[folder / f"{job.key(digest)}.npz" for job in row] for row in jobs]
    missing = {
        file: job for row in zip(jobs, files, strict=True) for job, file in zip(*row, strict=True) if not file.exists()
    }
    with _pool(min(workers, max(1, len(missing))), scheduler) as pool:
        for file, job in missing.items():
            pool.submit(file, job)
        for file, result in tqdm(pool.finished(), "count", len(missing), disable=None, unit="job"):
            write_arrays(file, result)
    out: dict[str, list[np.ndarray]] = {name: [] for name in KINDS}
    seconds = 0.0
    for row in files:
        parts = [read_arrays(file) for file in row]
        seconds += sum(float(part["seconds"]) for part in parts)
        for name in KINDS:
            # In the order of the rows, so that the sums do not depend on who finished first.
            out[name].append(sum((part[name] for part in parts[1:]), start=parts[0][name]))
    return {name: np.concatenate(value) for name, value in out.items()} | {"seconds": np.array(seconds)}


@contextmanager
def _pool(workers: int, scheduler: str | None) -> Iterator[Pool]:
    """Give what runs the jobs."""
    if scheduler is None:
        with process_pool(workers) as pool:
            yield pool
        return
    from distributed import Client

    with Client(scheduler) as client:  # type: ignore[no-untyped-call]  # the library has no types
        log.info("%s", client)
        yield Pool(client.get_executor(retries=RETRIES))
