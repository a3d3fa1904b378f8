"""Runs foreign code in a forked process that can be stopped, and brings back plain arrays.

What the organisers' loader of training events does with time and memory is not ours to bound: one call may copy
terabytes, and a process that runs out of memory is ended with everything in it. A forked child has the loader without
pickling it, and its end is not ours.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sage.errors import ChildError, SageError

Arrays = dict[str, np.ndarray]
Report = dict[str, Any]
"""Plain values by name."""

POLL = 0.2
"""Seconds between looks at the child's memory."""
GRACE = 2.0
"""Seconds beyond its time after which a child is ended that does not end itself."""
CHUNK = 1 << 20
SHARE_OF_MEMORY = 0.8
"""Part of the memory that is free when the child begins which it may take."""
ERROR = "error"


def can_fork() -> bool:
    """Tell whether this system can fork a process."""
    return hasattr(os, "fork") and Path("/proc/self/statm").exists()


def free_memory() -> int:
    """Return the bytes of memory that this process could still take, by the machine's and the container's count."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = (_cgroup(name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, limit - used)


def run_in_child(
    function: Callable[[Report], Arrays], report: Report, seconds: float, memory: float | None = None
) -> Arrays:
    """Run a function in a forked process and return what it returns.

    Args:
        function: What is run; it may use everything this process has, and changes nothing of it.
        report: What it fills in on its way, also if it fails; ``peak_memory`` in MB is added.
        seconds: Time that it may take.
        memory: Bytes that it may take on top of what it begins with; None for most of what is free.

    Raises:
        ChildError: If the child fails, dies, or is ended for time or memory; the message tells which, with numbers.
    """
    memory = SHARE_OF_MEMORY * free_memory() if memory is None else memory
    receiver, sender = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Threads of other libraries do not live on in the child; nothing that it calls waits for them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(receiver)
        _work(function, report, sender)
    os.close(sender)
    try:
        content = _receive(child, receiver, seconds, memory)
    finally:
        os.close(receiver)
        status = _end(child, report)
    if not content:
        msg = f"the process that loaded the training events ended without a result ({_cause(status)})"
        raise ChildError(msg)
    arrays, said = _unpack(content)
    error = said.pop(ERROR, None)
    report.update(said)
    if error is not None:
        raise ChildError(error)
    return arrays


def _work(function: Callable[[Report], Arrays], report: Report, sender: int) -> None:
    """Do the child's work and end it, whatever happens."""
    try:
        arrays: Arrays = {}
        try:
            arrays = function(report)
        except (SageError, TimeoutError) as error:
            report[ERROR] = str(error)
        except BaseException as error:  # noqa: BLE001 (the parent raises it)
            report[ERROR] = f"{type(error).__name__}: {error}"
        with os.fdopen(sender, "wb") as stream:
            stream.write(_pack(arrays, report))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    finally:
        os._exit(1)


def _pack(arrays: Arrays, report: Report) -> bytes:
    """Return arrays and report as one line of JSON and the arrays' values."""
    layout = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
    head = json.dumps({"report": report, "arrays": layout}).encode()
    return b"\n".join([head, b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())])


def _unpack(content: bytes) -> tuple[Arrays, Report]:
    head, _, values = content.partition(b"\n")
    said = json.loads(head)
    arrays, start = {}, 0
    for name, (kind, shape) in said["arrays"].items():
        dtype, size = np.dtype(kind), math.prod(shape)
        arrays[name] = np.frombuffer(values, dtype, size, start).reshape(shape).copy()
        start += size * dtype.itemsize
    return arrays, dict(said["report"])


def _receive(child: int, receiver: int, seconds: float, memory: float) -> bytes:
    """Read what the child sends until it closes the pipe."""
    end = time.monotonic() + seconds + GRACE
    parts: list[bytes] = []
    before = _resident(child)
    while True:
        ready, _, _ = select.select([receiver], [], [], POLL)
        if ready:
            part = os.read(receiver, CHUNK)
            if not part:
                return b"".join(parts)
            parts.append(part)
        taken = _resident(child) - before
        if taken > memory:
            msg = (
                f"loading and counting took {taken / 1e9:.2f} GB of memory and was stopped, {memory / 1e9:.2f} GB were "
            )
            msg += "allowed; ask for fewer training events (train_size)"
            raise ChildError(msg)
        if time.monotonic() > end:
            msg = f"loading and counting was stopped after {seconds:.0f} s; ask for fewer training events (train_size) "
            msg += "or allow more (time_budget)"
            raise ChildError(msg)


def _end(child: int, report: Report) -> int:
    """End the child if it still runs; return its status."""
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    report["peak_memory"] = round(usage.ru_maxrss / 1024, 1)
    return status


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"ended by {signal.Signals(number).name}" + (", maybe for lack of memory" if number == 9 else "")
    return f"exit code {os.WEXITSTATUS(status)}"


def _resident(process: int) -> int:
    """Return the memory in bytes that a process holds; 0 once it is gone."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGESIZE")


def _cgroup(name: str) -> int | None:
    """Return a number of the container's memory control; None where there is none or no limit."""
    try:
        text = Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
