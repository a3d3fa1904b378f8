"""Work in several processes, and long jobs in numbered parts on disk.

A killed run loses what was being computed and nothing else. A part is a frame, written whole or not at all, and depends
on nothing but its rows' numbers and the run's identity (see ``workshop.claims``). So the result does not depend on the
number of processes, and a longer run goes on from a shorter one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pandas as pd
from tqdm import tqdm

from workshop.errors import UsageError
from workshop.files import make_folder, write_frame

PARTS = "parts"
PART_ROWS = 250
Clock = Callable[[str], AbstractContextManager[Any]]
"""Entered with a name around a step whose time is wanted."""
LONGEST_WAIT = 5.0
"""Seconds to wait for what is known of an ended process."""
OOM_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
"""Where Linux counts the processes that it has killed for lack of memory."""

_failure: list[Exception] = []
"""Why this worker process cannot work."""


class Pool:
    """Calls that are made in other processes, or in this one, and their results as they finish.

    Args:
        executor: Makes the calls; this process if absent, one at a time and when its result is asked for.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        self._executor = executor
        self._keys: dict[Future[Any], Any] = {}
        self._done: SimpleQueue[Future[Any]] = SimpleQueue()
        self._here: deque[tuple[Any, Callable[[], Any]]] = deque()
        self._others = set(multiprocessing.active_children())
        self._processes: set[BaseProcess] = set()
        self._killed = _oom_kills()

    def __len__(self) -> int:
        """Return how many calls are not finished."""
        return len(self._keys) + len(self._here)

    def submit(self, key: Any, call: Callable[..., Any], *arguments: Any) -> None:
        """Add a call; ``key`` comes back with its result, also to a loop over ``finished`` that has begun."""
        if self._executor is None:
            self._here.append((key, lambda: call(*arguments)))
            return
        try:
            future = self._executor.submit(_call, call, *arguments)
        except BrokenProcessPool as error:
            raise self._broken() from error
        if not self._processes:
            self._processes = set(multiprocessing.active_children()) - self._others
        self._keys[future] = key
        future.add_done_callback(self._done.put)

    def finished(self) -> Iterator[tuple[Any, Any]]:
        """Yield key and result of each call as it finishes, in any order.

        Raises:
            Exception: The first failure, after what had begun is yielded; nothing is begun after it.
            UsageError: If a worker process ended.
        """
        while self._here:
            key, call = self._here.popleft()
            yield key, call()
        failure: BaseException | None = None
        while self._keys:
            future = self._done.get()
            key = self._keys.pop(future)
            try:
                result = future.result()
            except CancelledError:
                continue
            except BrokenProcessPool as error:
                raise self._broken() from error
            except Exception as error:  # noqa: BLE001 (raised below)
                failure = failure or error
                for other in list(self._keys):
                    other.cancel()
                continue
            yield key, result
        if failure is not None:
            raise failure

    def _broken(self) -> UsageError:
        """Tell what is known of the worker process that ended."""
        end_of_wait = time.monotonic() + LONGEST_WAIT
        for process in self._processes:
            process.join(LONGEST_WAIT)
            # The pool's own thread waits for it, too; if it came first, the exit code is there a little later.
            while process.exitcode is None and time.monotonic() < end_of_wait:
                time.sleep(0.01)
        codes = [process.exitcode for process in self._processes if process.exitcode]
        # The others are ended with SIGTERM once one is gone.
        code = next((code for code in codes if code != -signal.SIGTERM), codes[0] if codes else None)
        remedy = "what has finished is kept: the same command continues"
        if code == -signal.SIGKILL and _oom_kills() > self._killed:
            return UsageError(f"a worker process was killed for lack of memory; use fewer --workers, {remedy}")
        end = "" if code is None else f" with exit code {code}" if code > 0 else f" by {signal.Signals(-code).name}"
        return UsageError(f"a worker process was ended{end}; {remedy}, and --workers 1 may show the reason")


@contextmanager
def process_pool(
    workers: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = (), *, here: bool = True
) -> Iterator[Pool]:
    """Give a pool of spawned processes, which end with this one.

    Args:
        workers: Number of processes.
        start: Prepares each of them; if it raises, so does every call.
        arguments: Its arguments.
        here: Whether one worker is this process itself.

    Raises:
        UsageError: If the number is below 1.
    """
    if workers < 1:
        msg = f"workers is {workers}, but must be at least 1"
        raise UsageError(msg)
    if workers == 1 and here:
        if start is not None:
            start(*arguments)
        yield Pool()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (start, arguments)) as executor:
        try:
            yield Pool(executor)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def run_parts(folder: Path, rows: int, job: Callable[[range], pd.DataFrame], workers: int, unit: str) -> pd.DataFrame:
    """Compute the rows 0 to ``rows`` that are not there yet, and return all.

    Args:
        folder: Place of the run, claimed by the caller.
        rows: Number of rows.
        job: Computes the rows with the given numbers; travels to other processes, so it must be picklable.
        workers: Number of processes.
        unit: What a row is, for the progress bar.

    Raises:
        UsageError: If a number is out of range.
    """
    if rows < 1:
        msg = f"{unit}s is {rows}, but must be at least 1"
        raise UsageError(msg)
    parts = [range(first, min(first + PART_ROWS, rows)) for first in range(0, rows, PART_ROWS)]
    missing = [part for part in parts if not _path(folder, part).is_file()]
    there = rows - sum(map(len, missing))
    make_folder(folder / PARTS)
    with (
        tqdm(total=rows, initial=there, unit=unit, disable=None) as progress,
        process_pool(min(workers, max(1, len(missing)))) as pool,
    ):
        for part in missing:
            pool.submit(part, job, part)
        for part, frame in pool.finished():
            write_frame(_path(folder, part), frame)
            progress.update(len(part))
    return pd.concat([pd.read_parquet(_path(folder, part)) for part in parts], ignore_index=True)


def _path(folder: Path, part: range) -> Path:
    return folder / PARTS / f"{part.start:07d}-{part.stop:07d}.parquet"


def _call(call: Callable[..., Any], *arguments: Any) -> Any:
    if _failure:
        raise _failure[0]
    return call(*arguments)


def _start(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Prepare a worker process."""
    # A worker that waits for work holds both ends of the queue open, so nothing else would tell it that the parent is
    # gone: after a kill -9 of the parent it would wait for ever, with its memory.
    threading.Thread(target=_end_with_parent, daemon=True, name="end-with-parent").start()
    # Ctrl-C reaches all processes of the terminal; only the main one acts on it, and lets running calls finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if start is not None:
            start(*arguments)
    except Exception as error:  # noqa: BLE001 (here it would only show as a broken pool)
        _failure.append(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _oom_kills() -> int:
    """Return how many processes the system has killed for lack of memory so far, where it tells."""
    lines = [line.split() for path in OOM_COUNTS if path.is_file() for line in path.read_text().splitlines()]
    return sum(int(line[1]) for line in lines if line[0] == "oom_kill")
