"""Errors raised on purpose: all are a ``SageError``, shown as one line, and end a program with exit code 2.

``sage.errors`` has those the bundle can raise, and ``training`` uses two of them in the same sense: ``SettingsError``
for a value of the settings, ``InputError`` for events that cannot be used. Everything else a user gave, an argument, a
file, a folder, is a ``UsageError``; what a submission does wrong is a ``SubmissionError``.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sage.errors import SageError


class UsageError(SageError, ValueError):
    """Something the user gave is wrong.

    It is a ``ValueError`` because a submission may catch that: the official loader raises it from ``get_train_set``.
    """


class SubmissionError(UsageError):
    """A submission failed or broke the contract.

    Attributes:
        details: Longer text for the log, for example the submission's own traceback.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


ROOM = "free some space there or choose another place (--output, or TMPDIR for temporary files)"
DISK_ERRORS = {
    errno.ENOSPC: ("no space left on the device", ROOM),
    errno.EDQUOT: ("the quota of disk space is used up", ROOM),
    errno.EFBIG: ("the file becomes too large for this file system or ulimit -f", "choose another place"),
    errno.EROFS: ("the file system is read-only", "choose another place"),
    errno.EACCES: ("no permission", "change the rights or choose another place"),
    errno.EPERM: ("no permission", "change the rights or choose another place"),
    errno.EISDIR: ("is a folder", "give a file"),
    errno.ENOTDIR: ("a file is in the place of a folder", "choose another place or move that file away"),
    errno.EEXIST: ("a file is in the place of a folder", "choose another place or move that file away"),
    errno.ENOENT: ("no such file or folder", "check the name"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.EMFILE: ("too many files are open", "raise ulimit -n or use fewer --workers"),
    errno.EIO: ("the device fails to read or write", "choose another place"),
}
"""What happened and what to do, by the system's number."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_error(error: OSError, path: Path | str | None = None) -> UsageError:
    """Return what an ``OSError`` means: which path, what happened, what to do.

    Args:
        error: The error of the system.
        path: The file or folder in question; what the error names if absent.
    """
    if path is None:
        path = error.filename if error.filename is not None else "a file or stream"
    what, remedy = DISK_ERRORS.get(error.errno or 0, (error.strerror or str(error), "check it and try again"))
    return UsageError(f"{os.fspath(path) if not isinstance(path, int) else path}: {what}; {remedy}")
