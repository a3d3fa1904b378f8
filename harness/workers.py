"""Pseudo-experiments in spawned worker processes, the official way: the fitted model travels as a pickle."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.experiment import Record, run_experiment
from harness.fast_pseudo_data import PseudoData
from harness.mapped import DiskPool, MappedColumn, attach
from harness.settings import Job
from harness.submission import unpickle_model
from harness.surroundings import surroundings
from harness.test_set import EventFile
from workshop.files import scratch_folder
from workshop.jobs import process_pool

THREAD_VARIABLE = "OMP_NUM_THREADS"


class _Worker:
    """State of a worker process."""

    def __init__(self) -> None:
        self.model: Any = None
        self.pool: Any = None
        self.systematics: Collection[str] = ()
        self.surroundings = ExitStack()


_worker = _Worker()


def run_in_workers(
    pickled_model: bytes,
    folder: Path,
    events: EventFile,
    jobs: Sequence[Job],
    systematics: Collection[str],
    workers: int,
    scratch: Path,
) -> Iterator[Record]:
    """Yield the record of each pseudo-experiment as it finishes, in any order.

    Args:
        pickled_model: The fitted model.
        folder: Folder of the submission.
        events: The events; the test part is written to ``scratch`` once and mapped by all workers.
        jobs: What to run.
        systematics: Names of the uncertainties that are switched on.
        workers: Number of processes.
        scratch: Folder for the time of the run; it must not exist.

    Raises:
        UsageError: The first failure, after the pseudo-experiments that had begun are yielded; none is begun after.
    """
    with scratch_folder(scratch) as place, thread_limit(workers):
        mapped = DiskPool(place)
        events.load_test_set(mapped.allocate)
        devices = get_context("spawn").Queue()
        names = visible_gpus()
        for number in range(workers):
            devices.put(names[number % len(names)] if names else None)
        arguments = (pickled_model, folder, mapped.columns, tuple(systematics), devices)
        with process_pool(workers, _init_worker, arguments, here=False) as pool:
            for job in jobs:
                pool.submit(job, _run_job, job)
            for _, record in pool.finished():
                yield record


def _init_worker(
    pickled_model: bytes, folder: Path, columns: list[MappedColumn], systematics: Collection[str], devices: Any
) -> None:
    """Prepare a worker process."""
    device = devices.get()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before the model is unpickled, which may import torch
    _worker.surroundings.enter_context(surroundings(folder))  # for the life of the process
    _worker.pool = PseudoData(attach(columns))
    _worker.systematics = systematics
    _worker.model = unpickle_model(pickled_model, folder)


def _run_job(job: Job) -> Record:
    return run_experiment(_worker.model, _worker.pool, job, _worker.systematics)


def visible_gpus() -> list[str]:
    """Return the GPUs to share out, as ``CUDA_VISIBLE_DEVICES`` names them; empty without torch or GPU."""
    try:
        import torch
    except ImportError:
        return []
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


@contextmanager
def thread_limit(workers: int) -> Iterator[None]:
    """Share the cores among processes that are started inside, unless the user has set the number of threads.

    Args:
        workers: Number of processes that work at a time.
    """
    if THREAD_VARIABLE in os.environ:
        yield
        return
    os.environ[THREAD_VARIABLE] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        del os.environ[THREAD_VARIABLE]
