"""Where the network runs: in the native kernel, or where that cannot be used on a GPU, or else in dense torch.

The kernel comes first because it takes a third of a second per pseudo-experiment and cannot be lost on the way: a
worker that left a busy GPU would answer in other bits from then on. The three agree to 1e-5 in the logits. torch is
imported only where it computes. A back end that exists but fails is left for the next one, and the answer carries a
flag.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np

from sage.errors import EngineError, SettingsError
from sage.network.native import NativeNetwork
from sage.network.parameters import split, unstack

logger = logging.getLogger(__name__)

KINDS = ("native", "cuda", "torch")
"""Back ends in the order in which they are tried."""

THREAD_VARIABLE = "OMP_NUM_THREADS"
"""Environment variable in which a harness states each worker's share of the cores."""

GPU_CHUNK = 16384
"""Events per pass on a GPU: about 0.5 GB of intermediate results."""

SMALLEST = np.finfo(np.float32).tiny
"""Stands for a probability that float32 rounds to 0, where networks are averaged."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Backend(Protocol):
    """One way to run the network."""

    name: str

    def probabilities(self, values: np.ndarray, jets: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, 4) of normalised inputs (n, number of inputs) with jet masks (n, 2)."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function that calls ``probabilities`` to each item; results come in the order of the items."""


class Engine:
    """Runs the network on the first back end that works; which one that is turns out on first use.

    Args:
        parameters: Network parameters by name; with a first axis of networks if several vote. Those of a network of
            scores beside it are not read.
        kind: One of ``KINDS``; None to choose.
        threads: Threads on the CPU; None for this process's share of the cores.

    Raises:
        SettingsError: If there is no such kind, or the number of threads is not positive.
    """

    def __init__(
        self, parameters: Mapping[str, np.ndarray], kind: str | None = None, threads: int | None = None
    ) -> None:
        check_choice(kind, threads)
        self._parameters = split(parameters)[0]
        self._threads = threads
        self._forced = kind is not None
        self._untried = list(KINDS) if kind is None else [kind]
        self._failures: list[str] = []
        self._backend: Backend | None = None
        self._lock = Lock()

    @property
    def flags(self) -> tuple[str, ...]:
        """What did not go the normal way, for the result."""
        if self._backend is None or not self._failures:
            return ()
        return (f"engine: {self._backend.name} ({'; '.join(self._failures)})",)

    def probabilities(self, values: np.ndarray, jets: np.ndarray) -> np.ndarray:
        """Return class probabilities.

        Args:
            values: Normalised inputs, shape (n, number of inputs), float32.
            jets: Which jets exist, shape (n, 2), boolean.

        Returns:
            Shape (n, 4), float32; rows sum to 1.

        Raises:
            EngineError: If no back end works.
        """
        while True:
            backend = self._ready()
            try:
                return backend.probabilities(values, jets)
            except RuntimeError as error:  # what torch raises for anything that goes wrong on a device
                self._leave(backend, error)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function that calls ``probabilities`` to each item, several at once where that helps.

        Returns:
            The results in the order of the items, whatever the number of threads.
        """
        return self._ready().map(function, items)

    def _ready(self) -> Backend:
        with self._lock:
            while self._backend is None:
                if not self._untried:
                    msg = f"the network cannot run here: {'; '.join(self._failures)}"
                    raise EngineError(msg)
                kind = self._untried.pop(0)
                if kind == "cuda" and not self._forced and not _gpu_usable():
                    continue
                try:
                    self._backend = self._build(kind)
                except (EngineError, ImportError, RuntimeError, AssertionError) as error:
                    self._failures.append(str(error) if isinstance(error, EngineError) else f"{kind}: {error}")
                else:
                    logger.debug("engine: %s", self._backend.name)
            return self._backend

    def _leave(self, backend: Backend, error: Exception) -> None:
        with self._lock:
            # Another thread may have left it already.
            if self._backend is backend:
                self._backend = None
                self._failures.append(f"{backend.name}: {str(error).splitlines()[0]}")
                logger.debug("engine: %s failed", backend.name, exc_info=error)

    def _build(self, kind: str) -> Backend:
        threads = default_threads() if self._threads is None else self._threads
        backends: list[Backend] = []
        for parameters in unstack(self._parameters):
            native = kind == "native"
            backends.append(_Native(parameters, threads) if native else _Torch(parameters, kind, threads))
        return backends[0] if len(backends) == 1 else _Mean(backends)


class _Native:
    """The native kernel; row blocks run in Python threads, as it and numpy release the GIL."""

    def __init__(self, parameters: Mapping[str, np.ndarray], threads: int) -> None:
        self._network = NativeNetwork(parameters)
        self._threads = threads
        self.name = f"native ({self._network.instruction_set})"
        self.probabilities = self._network.probabilities

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        if self._threads == 1:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(self._threads) as executor:
            yield from executor.map(function, items)


class _Torch:
    """The dense module on the CPU or on the GPU that the process sees first."""

    def __init__(self, parameters: Mapping[str, np.ndarray], device: str, threads: int) -> None:
        from sage.network.dense import class_probabilities, from_arrays

        self.name = device
        self._threads = threads
        self._function = class_probabilities
        self._chunk: dict[str, Any] = {"chunk": GPU_CHUNK} if device == "cuda" else {}
        self._network = from_arrays(parameters).to("cpu" if device == "torch" else device)

    def probabilities(self, values: np.ndarray, jets: np.ndarray) -> np.ndarray:
        return self._function(self._network, values, jets, **self._chunk)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        with _torch_threads(self._threads):
            yield from map(function, items)


class _Mean:
    """Several networks of one kind, whose logits are averaged."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = backends
        self.name = f"{backends[0].name}, mean of {len(backends)}"
        self.map = backends[0].map

    def probabilities(self, values: np.ndarray, jets: np.ndarray) -> np.ndarray:
        found = (backend.probabilities(values, jets) for backend in self._backends)
        # Logarithms differ from the logits by a constant per event, which the normalisation removes.
        logits = sum(np.log(np.maximum(part, SMALLEST)) for part in found) / len(self._backends)
        out: np.ndarray = np.exp(logits - logits.max(axis=1, keepdims=True))
        out /= out.sum(axis=1, keepdims=True)
        return out


def check_choice(kind: str | None, threads: int | None) -> None:
    """Check what a user asks for.

    Raises:
        SettingsError: If there is no such back end, or the number of threads is not positive.
    """
    if kind is not None and kind not in KINDS:
        msg = f"no engine {kind!r}; choose one of {', '.join(KINDS)}, or None for the first that works"
        raise SettingsError(msg)
    if threads is not None and threads < 1:
        msg = f"threads is {threads}; it must be at least 1, or None for this process's share of the cores"
        raise SettingsError(msg)


def default_threads() -> int:
    """Return this process's share of the cores.

    That is what the environment states, else all cores. A worker process that is told nothing takes one: how many
    siblings it has it cannot know, and thirty workers with all cores each would stand in each other's way.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    stated = os.environ.get(THREAD_VARIABLE, "").strip()
    if stated.isdecimal() and int(stated) > 0:
        return min(int(stated), cores)
    return cores if multiprocessing.parent_process() is None else 1


def _gpu_usable() -> bool:
    """Tell whether torch sees a GPU; torch, which takes seconds to import, is asked only if there may be one."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    if hidden or not any(Path("/dev").glob("nvidia[0-9]*")) or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


class _TorchUsers:
    """How many measurements run in torch, and the number of threads that was set before the first of them."""

    lock = Lock()
    count = 0
    before = 1


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Set torch's number of threads, which is global, and put it back when the last user leaves."""
    import torch

    with _TorchUsers.lock:
        if _TorchUsers.count == 0:
            _TorchUsers.before = torch.get_num_threads()
            torch.set_num_threads(threads)
        _TorchUsers.count += 1
    try:
        yield
    finally:
        with _TorchUsers.lock:
            _TorchUsers.count -= 1
            if _TorchUsers.count == 0:
                torch.set_num_threads(_TorchUsers.before)
