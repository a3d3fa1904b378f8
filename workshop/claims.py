"""Output folders: which run a folder holds, who works in it, and whether a run may go on there.

One rule for all programs. A folder says what it holds in an identity file. A run of the same identity goes on; another
one is refused, and so is a folder that holds anything but a run. As long as nothing has been finished the identity may
change. While a program works in a folder it holds a lock, which names its owner and ends with its process.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workshop.errors import UsageError, disk_error
from workshop.files import PARTIAL, make_folder, read_object, take_lock, write_json

logger = logging.getLogger("sage.workshop.claims")

IDENTITY_FILE = "identity.json"
OURS = ".sage-"
"""How names of what a program needs only while it works in a folder begin."""
LOCK_FILE = f"{OURS}lock"
"""Holds the owner; there only while it works."""
LONGEST = 80
"""Characters of a value in a message."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Own an output folder, which is made if it is not there.

    Args:
        folder: The folder.

    Raises:
        UsageError: If another program works in it, or it cannot be made or written to.
    """
    path = make_folder(folder) / LOCK_FILE
    try:
        handle = _lock(path)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_owner()).encode(), 0)
    except OSError as error:
        raise disk_error(error, folder) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock goes, as whoever takes it next must find it gone
        os.close(handle)


@contextmanager
def claimed(
    folder: Path,
    identity: Mapping[str, Any],
    results: Sequence[str],
    others: Sequence[str] = (),
    file: str = IDENTITY_FILE,
    *,
    overwrite: bool = False,
) -> Iterator[None]:
    """Own the folder of a run that is new, or goes on.

    Args:
        folder: The folder; made if it is not there.
        identity: What decides the results, as JSON values by name.
        results: Patterns of files with finished work; while there is none, the identity may change.
        others: Patterns of what a run writes besides.
        file: Name of the identity file.
        overwrite: Throw an earlier run away.

    Raises:
        UsageError: If the folder holds another run, anything else, or is in use.
    """
    with locked(folder):
        wanted = json.loads(json.dumps(identity))  # tuples become lists
        path = folder / file
        if overwrite:
            for pattern in (file, *results, *others):
                for old in folder.glob(pattern):
                    old.unlink()
        if path.is_file():
            if any(found.stat().st_size for pattern in results for found in folder.glob(pattern)):
                _compare(folder, _read(path), wanted)
        elif not overwrite and not all(map(_is_ours, folder.iterdir())):
            msg = f"{folder} is not empty and holds no run to continue; choose another --output folder"
            raise UsageError(msg)
        write_json(path, wanted)
        yield


def _is_ours(path: Path) -> bool:
    """Whether a run may have left this before its identity file: its lock or scratch, or a half-written file."""
    return path.name.startswith(OURS) or (path.name.startswith(".") and path.name.endswith(PARTIAL))


def _compare(folder: Path, earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [name for name in {**wanted, **earlier} if earlier.get(name) != wanted.get(name)]
    if different:
        pairs = (f"{name} (there {_short(earlier.get(name))}, now {_short(wanted.get(name))})" for name in different)
        msg = f"{folder} holds a run with other settings: {', '.join(pairs)}; choose another --output, or throw that "
        msg += "run away (--overwrite where the program has it)"
        raise UsageError(msg)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, "choose another --output or remove the folder", UsageError)


def _lock(path: Path) -> int:
    """Return the number of the open and locked file."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        got = take_lock(handle, wait=False)
        if got is None:
            logger.warning("%s: the file system has no locks; make sure that no other program works there", path.parent)
            return handle
        if got and path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
            return handle  # and not a file that its owner has just removed
        owner = os.pread(handle, 4096, 0).decode("utf-8", "replace")
        os.close(handle)
        if not got:
            msg = f"{path.parent}: {_describe(owner)} works in this folder; wait for it, or choose another --output"
            raise UsageError(msg)


def _owner() -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"host": socket.gethostname(), "pid": os.getpid(), "command": shlex.join(sys.orig_argv), "since": now}


def _describe(owner: str) -> str:
    try:
        return "process {pid} on {host} ({command}, since {since})".format(**json.loads(owner))
    except (ValueError, KeyError, TypeError):
        return "another process"
