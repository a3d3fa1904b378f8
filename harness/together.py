"""Several submissions on the same pseudo-experiments, whose data are made once for all of them.

A worker process makes the data and hands them to a process of each submission in turn, so that submissions do not meet.
Every submission gets a folder of results as if it had run alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from harness.experiment import Answer, Record, ask, make_experiment, name_of, record_of
from harness.fast_pseudo_data import PseudoData
from harness.handover import Handed, hand_over, take_over
from harness.mapped import POOL_FOLDER, DiskPool, MappedColumn, attach
from harness.pool_point import PoolPoint, read_answers, write_answers
from harness.runner import OpenRun, RunOptions, opened_run
from harness.settings import Job
from harness.submission import pickle_model, start, unpickle_model
from harness.surroundings import surroundings
from harness.test_set import EventFile
from harness.workers import thread_limit, visible_gpus
from workshop.errors import UsageError
from workshop.files import scratch_folder
from workshop.jobs import Pool, process_pool

logger = logging.getLogger("sage.harness.together")

Outcome = tuple[list[tuple[str, Any]], UsageError | None]
"""What submissions answered, by name, and why the next one did not."""


@dataclass(frozen=True)
class _Started:
    """A fitted submission on its way to the processes that measure.

    Args:
        pickled_model: The fitted model.
        folder: Folder of the submission.
    """

    pickled_model: bytes
    folder: Path


def run_together(submissions: Mapping[str, Path], options: RunOptions, points: Sequence[PoolPoint] = ()) -> None:
    """Run submissions, or continue such a run; results of each go to the sub-folder of ``options.output`` of its name.

    Args:
        submissions: Folder or zip file by name.
        options: What to run and how; ``submission`` is not used.
        points: Where to ask, besides, what those submissions that know event weights make of the whole pool.

    Raises:
        UsageError: If the input is wrong or a submission fails; what had finished before is kept.
    """
    events = EventFile(options.data, options.test_size)
    with ExitStack() as stack:
        runs = {}
        for name, path in submissions.items():
            own = replace(options, submission=path, output=options.output / name)
            runs[name] = stack.enter_context(opened_run(own, events))
        todo = {job: [name for name, run in runs.items() if run.lacks(job)] for job in options.settings.jobs()}
        weighted = [name for name, run in runs.items() if run.knows_weights]
        asked = [name for name in weighted if points and read_answers(runs[name].output, points) is None]
        total = len(todo) * len(runs) + len(points) * len(weighted)
        left = sum(map(len, todo.values())) + len(points) * len(asked)
        with tqdm(total=total, initial=total - left, disable=not options.progress, unit="exp") as done:
            work = _Work(options, events, runs, {job: names for job, names in todo.items() if names}, asked, points)
            for name, record in work.records():
                runs[name].add(record)
                done.update()
            for name, answers in work.answers.items():
                done.update(len(points))
                if any((answer.result or {}).get("status") == "fallback" for answer in answers.values()):
                    # A pool is larger than a draw from it, so that a time limit may pass on a busy machine.
                    logger.warning("%s has not measured the whole pool: its shift is not told; run again", name)
                    continue
                write_answers(runs[name].output, points, answers)
        for run in runs.values():
            run.finish(sum(run.seconds) / options.workers)


@dataclass
class _Work:
    """What is left to do, see ``run_together``; ``answers`` holds those about the pool once the records are through."""

    options: RunOptions
    events: EventFile
    runs: Mapping[str, OpenRun]
    todo: Mapping[Job, list[str]]
    asked: Sequence[str]
    points: Sequence[PoolPoint]

    def __post_init__(self) -> None:
        self.answers: dict[str, dict[PoolPoint, Answer]] = {}

    def records(self) -> Iterator[tuple[str, Record]]:
        """Yield each record with the name of its submission as it finishes.

        Raises:
            UsageError: The first failure.
        """
        needed = {name for names in self.todo.values() for name in names} | set(self.asked)
        if not needed:
            return
        self.events.check_processes()
        started = {name: self._start(name) for name in self.runs if name in needed}
        workers = min(self.options.workers, len(self.todo) + (len(self.points) if self.asked else 0))
        with scratch_folder(self.options.output.resolve() / POOL_FOLDER) as place, thread_limit(workers):
            mapped = DiskPool(place)
            self.events.load_test_set(mapped.allocate)
            devices = get_context("spawn").Queue()
            names = visible_gpus()
            for number in range(workers):
                devices.put(names[number % len(names)] if names else None)
            arguments = (started, mapped.columns, self.options.settings.systematics, place, devices)
            with process_pool(workers, _init_maker, arguments, here=False) as pool:
                for job, wanted in self.todo.items():
                    pool.submit(job, _run_job, job, wanted)
                for point in self.points if self.asked else ():
                    pool.submit(point, _ask_about_pool, point, self.asked)
                for key, (found, failure) in pool.finished():
                    for name, entry in found:
                        if isinstance(key, PoolPoint):
                            self.answers.setdefault(name, {})[key] = entry
                        else:
                            yield name, entry
                    if failure is not None:
                        raise failure

    def _start(self, name: str) -> _Started:
        folder = self.runs[name].folder
        np.random.seed(self.options.settings.seed)
        with surroundings(folder):
            return _Started(pickle_model(start(folder, self.events)), folder)


class _Maker:
    """State of a process that makes data, and of one that measures."""

    def __init__(self) -> None:
        self.pool: Any = None
        self.systematics: Sequence[str] = ()
        self.place = Path()
        self.measuring: dict[str, Pool] = {}
        self.model: Any = None
        self.exits = ExitStack()


_state = _Maker()


def _init_maker(
    started: Mapping[str, _Started],
    columns: list[MappedColumn],
    systematics: Sequence[str],
    place: Path,
    devices: Any,
) -> None:
    """Prepare a process that makes data, with a process of its own for each submission."""
    device = devices.get()
    _state.pool = PseudoData(attach(columns))
    _state.systematics, _state.place = systematics, place
    for name, submission in started.items():
        own = process_pool(1, _init_measuring, (submission, device), here=False)
        _state.measuring[name] = _state.exits.enter_context(own)  # for the life of the process
    # At its end a process waits for its own, and those wait for work until they are told that there is none. They must
    # be told first of all: what closes the queues that tell them has priority 10.
    Finalize(None, _end_measuring, exitpriority=100)


def _end_measuring() -> None:
    _state.exits.close()
    for process in active_children():
        process.join()


def _init_measuring(submission: _Started, device: str | None) -> None:
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before the model is unpickled, which may import torch
    _state.exits.enter_context(surroundings(submission.folder))
    _state.model = unpickle_model(submission.pickled_model, submission.folder)


def _run_job(job: Job, names: Sequence[str]) -> Outcome:
    made = make_experiment(_state.pool, job, _state.systematics)
    answers, failure = _ask_all(made.data, names, name_of(job), f"{job.set}-{job.index}")
    return [(name, record_of(made, answer)) for name, answer in answers], failure


def _ask_about_pool(point: PoolPoint, names: Sequence[str]) -> Outcome:
    data = _state.pool.expected(point.mu, point.nuisances())
    return _ask_all(data, names, f"the whole pool at {point}", f"pool-{hash(point)}")


def _ask_all(data: Any, names: Sequence[str], what: str, file: str) -> Outcome:
    """Let submissions measure the same data one after the other."""
    handed = hand_over(data, _state.place / f"{file}.data")
    answers: list[tuple[str, Any]] = []
    try:
        for name in names:
            _state.measuring[name].submit(name, _measure, handed, what)
            answers += _state.measuring[name].finished()
    except UsageError as error:
        return answers, error
    finally:
        handed.path.unlink()
    return answers, None


def _measure(handed: Handed, what: str) -> Answer:
    return ask(_state.model, take_over(handed), what)
