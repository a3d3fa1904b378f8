"""What the command line may say: readers of numbers, and the look at files and folders before any work begins."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from harness.settings import LARGEST_MU, LARGEST_SEED
from sage.errors import SageError
from workshop.errors import UsageError

MOST = 10**7
"""Of anything that is counted on the command line; more is a slip of the finger."""
ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://[^\s/:]+:\d{1,5}/?")

READ = {
    **dict.fromkeys(("weights", "results", "training", "train", "test", "network", "reference", "root"), "folder"),
    **dict.fromkeys(("count", "add"), "folder"),
    **dict.fromkeys(("asimov", "postfit", "toys", "compare", "events", "beside", "check"), "folder"),
    **dict.fromkeys(("data", "submission"), "any"),
    "config": "file",
}
"""Options that name what is read, and what it must be; in all programs a name means the same."""


def whole(least: int = 0, most: int = MOST) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``least`` to ``most``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            msg = f"{_short(text)} is not a whole number from {least} to {most}; give one"
            raise argparse.ArgumentTypeError(msg)
        return value

    return read


def real(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    """Return a reader of finite numbers from ``least`` to ``most``; ``above`` leaves ``least`` itself out."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            start = f"above {least:g}, at most" if above else f"from {least:g} to"
            msg = f"{_short(text)} is not a number {start} {most:g}; give one"
            raise argparse.ArgumentTypeError(msg)
        return value

    return read


seed = whole(0, LARGEST_SEED)
mu = real(0.0, LARGEST_MU)
fraction = real(0.0, 1.0)


def nuisance_points(text: str) -> int:
    """Read a number of nuisance points; 0 stands for all."""
    if text == "all":
        return 0
    try:
        return whole(1)(text)
    except argparse.ArgumentTypeError as error:
        msg = f"{error}, or all"
        raise argparse.ArgumentTypeError(msg) from error


def scheduler(text: str) -> str:
    """Read the address of a dask scheduler."""
    if not ADDRESS.fullmatch(text):
        msg = f"{_short(text)} is not an address as in tcp://10.0.0.1:8786"
        raise argparse.ArgumentTypeError(msg)
    return text


def check_paths(given: argparse.Namespace) -> None:
    """Look at every file and folder of a command line; nothing is made.

    Raises:
        UsageError: If one that is read is not there or of the wrong kind, or the output cannot be made.
    """
    for name, value in vars(given).items():
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, Path):
                continue
            try:
                if name in READ:
                    check_read(f"--{name}", path, READ[name])
                elif name in ("output", "build", "cache"):
                    _check_written(f"--{name}", path, getattr(given, f"{name}_is", "folder"))
            except (OSError, ValueError) as error:
                if isinstance(error, SageError):
                    raise
                msg = f"--{name} {_short(str(path))} cannot name a file or folder ({error}); give another"
                raise UsageError(msg) from error


def check_read(option: str, path: Path, kind: str) -> None:
    """Look at what an option names: a ``folder``, a ``file``, or ``any`` of both.

    Raises:
        UsageError: If it is not there or of the wrong kind.
    """
    if not path.exists():
        what = {"folder": "no such folder", "file": "no such file", "any": "no such folder, and no such events file"}
        if option.startswith("--submission"):
            what["any"] = "no such folder or zip file"
        msg = f"{option} {path}: {what[kind]}; give one that is there"
        raise UsageError(msg)
    _check_kind(option, path, kind)


def _check_written(option: str, path: Path, kind: str) -> None:
    if path.exists():
        _check_kind(option, path, kind)
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                msg = f"{parent} is a file in the place of a folder; {path} cannot be made, choose another output"
                raise UsageError(msg)
            return


def _check_kind(option: str, path: Path, kind: str) -> None:
    if (kind == "folder" and not path.is_dir()) or (kind == "file" and path.is_dir()):
        other = "a file in the place of a folder" if kind == "folder" else "a folder in the place of a file"
        msg = f"{option} {path}: {other}; give a {kind}"
        raise UsageError(msg)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
