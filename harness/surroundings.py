"""What a submission finds around it in its process, and what this program finds there.

Both share a process, and each expects to be alone: a submission may have a package ``scripts`` of its own, make numpy
raise where it warns, leave for another folder. So the two take turns, and each finds its own state as it left it.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import importlib
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from harness.capture import captured_output
from harness.pseudo_experiments import quiet_pandas

PROJECT = Path(__file__).resolve().parent.parent
PROGRAM = PROJECT / "harness" / "ingestion_program"
OFFICIAL = frozenset(path.stem for path in PROGRAM.glob("*.py")) - {"__init__"}
"""Modules of the official program."""


Private = Callable[[str, ModuleType], bool]
"""Whether a module, by its name, is not the same for the submission and for this program."""


def search_path(folder: Path) -> list[str]:
    """Return what the official program appends to ``sys.path``: the folder and each of its sub-folders."""
    subfolders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("__")]
    return [str(path) for path in (folder, *sorted(subfolders))]


class Surroundings:
    """Those of one submission.

    Modules from its folder and of the official program are its own, and those of this project are hidden from it. Only
    where the folder holds this project, because the checkout itself is the submission, are they the same.

    Args:
        folder: Folder of the submission.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._shared = PROJECT.is_relative_to(self._folder)
        self._theirs: _State | None = None
        self._places: dict[str, bool] = {}

    @contextmanager
    def inside(self, level: int) -> Iterator[None]:
        """Let the submission have the process; what it prints goes to the log at ``level``."""
        loggers = _ProjectLoggers()
        ours = _State.now(self._private)
        with captured_output(level):
            (self._theirs or self._first(ours)).replace(ours)
            try:
                yield
            finally:
                with suppress(ValueError, OSError, AttributeError):
                    sys.stdout.flush()
                self._theirs = _State.now(self._private)
                ours.replace(self._theirs)
                loggers.restore()

    def _first(self, ours: _State) -> _State:
        """Return what the submission finds first: this process without the project."""
        path = [entry for entry in ours.path if entry and not _within(entry, PROJECT)]
        importlib.invalidate_caches()
        with quiet_pandas():
            filters = list(warnings.filters)
        return dataclasses.replace(
            ours,
            path=[str(PROGRAM), *path, *search_path(self._folder)],
            modules={"__main__": ModuleType("__main__")},
            start_method=None,
            filters=filters,
            streams=(sys.stdout, sys.stderr),
        )

    def _private(self, name: str, module: ModuleType) -> bool:
        """Whether a module is not the same for the submission and for this program."""
        top = name.partition(".")[0]
        if top in OFFICIAL or name in ("__main__", "__mp_main__"):
            return True
        if top == "model" and self._shared:
            return not any(_within(place, PROJECT) for place in module_places(module))
        return top == "model" or any(map(self._place_is_private, module_places(module)))

    def _place_is_private(self, place: str) -> bool:
        if place not in self._places:
            self._places[place] = not self._shared if _within(place, PROJECT) else _within(place, self._folder)
        return self._places[place]


@dataclasses.dataclass(frozen=True)
class _State:
    """What either of the two finds as it left it."""

    path: list[str]
    modules: dict[str, ModuleType]
    streams: tuple[Any, Any]
    folder: str | None
    floats: dict[str, Any]
    on_float_error: Any
    random: tuple[Any, Any]
    filters: list[Any]
    show_warning: Any
    handlers: list[logging.Handler]
    level: int
    disabled: int
    start_method: str | None
    signals: dict[int, Any]
    alarm: tuple[float, float]

    @classmethod
    def now(cls, private: Private) -> _State:
        """Return the state of the process."""
        folder = None
        with suppress(OSError):  # the folder may be gone
            folder = str(Path.cwd())
        root = logging.getLogger()
        return cls(
            list(sys.path),
            {name: module for name, module in list(sys.modules.items()) if private(name, module)},
            (sys.stdout, sys.stderr),
            folder,
            dict(np.geterr()),
            np.geterrcall(),
            (random.getstate(), np.random.get_state()),
            list(warnings.filters),
            warnings.showwarning,
            list(root.handlers),
            root.level,
            root.manager.disable,
            multiprocessing.get_start_method(allow_none=True),
            {number: signal.getsignal(number) for number in signal.valid_signals()},
            signal.getitimer(signal.ITIMER_REAL),
        )

    def replace(self, other: _State) -> None:
        """Make this the state of the process, which is the other one now."""
        sys.path[:] = self.path
        for name in other.modules:
            sys.modules.pop(name, None)
        sys.modules.update(self.modules)
        sys.stdout, sys.stderr = self.streams
        with suppress(OSError):
            if self.folder is not None:
                os.chdir(self.folder)
        np.seterr(**self.floats)
        np.seterrcall(self.on_float_error)
        random.setstate(self.random[0])
        np.random.set_state(self.random[1])
        warnings.filters[:] = self.filters  # type: ignore[index]
        warnings.showwarning = self.show_warning
        with warnings.catch_warnings():
            pass  # makes Python look at the filters again
        root = logging.getLogger()
        root.handlers[:] = self.handlers
        root.setLevel(self.level)
        logging.disable(self.disabled)
        multiprocessing.set_start_method(self.start_method, force=True)
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.signals.items():
                if handler is not None and handler != signal.getsignal(number):
                    signal.signal(number, handler)
            signal.setitimer(signal.ITIMER_REAL, *self.alarm)


class _ProjectLoggers:
    """The log of this program, which a submission may silence when it configures its own."""

    def __init__(self) -> None:
        names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "sage"]
        self._before = [
            (log, log.disabled, log.level, log.propagate, list(log.handlers)) for log in map(logging.getLogger, names)
        ]

    def restore(self) -> None:
        """Give the log back its own settings."""
        for log, disabled, level, propagate, handlers in self._before:
            log.disabled, log.propagate = disabled, propagate
            log.setLevel(level)
            log.handlers[:] = handlers


def module_places(module: ModuleType) -> list[str]:
    """Return the file of a module, or the folders of a package without one; looked up so that nothing is imported."""
    known = getattr(module, "__dict__", {})
    if isinstance(known.get("__file__"), str):
        return [known["__file__"]]
    try:
        return [str(place) for place in known.get("__path__") or ()]
    except (KeyError, TypeError):
        return []


def _within(place: str, folder: Path) -> bool:
    path = Path(place).resolve()
    return path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts


_current: Surroundings | None = None


@contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """Make ``inside`` that of the submission in a folder; afterwards nothing of it is left.

    Args:
        folder: Folder of the submission.
    """
    global _current
    before, crashes = _current, faulthandler.is_enabled()
    _current = Surroundings(folder)
    try:
        yield
    finally:
        _current = before
        if not crashes:
            faulthandler.disable()
        importlib.invalidate_caches()


@contextmanager
def inside(level: int) -> Iterator[None]:
    """Run a piece of the submission, in its surroundings if it has some; what it prints goes to the log."""
    with captured_output(level) if _current is None else _current.inside(level):
        yield
