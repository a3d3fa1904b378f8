"""Unpacking a zip file without trusting it."""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from workshop.errors import FULL, UsageError, disk_error

_CHUNK = 1 << 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError, ValueError)
"""What reading a damaged or unusual zip file may raise; ``ValueError`` for names that are not UTF-8, for example."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold, and what to do if it does not keep to that.

    Attributes:
        members: Number of members.
        member_bytes: Unpacked size of each.
        total_bytes: Unpacked size of all.
        remedy: The way out, for error messages.
    """

    members: int
    member_bytes: int
    total_bytes: int
    remedy: str


SUBMISSION = Limits(10_000, 1 << 30, 2 << 30, "repack the submission with model.py at the root and ordinary files only")


def unpack(archive: Path, folder: Path, limits: Limits = SUBMISSION) -> None:
    """Unpack ``archive`` into ``folder``.

    Args:
        archive: A zip file.
        folder: An existing, empty folder.
        limits: What the archive may hold.

    Raises:
        UsageError: If it is no zip file or damaged, or a member is encrypted, a link, stored twice, has a name that
            leads outside of ``folder`` or is not the same on every system, or exceeds the limits.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = source.infolist()
            _check(archive, members, limits)
            left = limits.total_bytes
            for member in members:
                target = folder.joinpath(*PurePosixPath(member.filename).parts)
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open(member) as stream, target.open("xb") as output:
                    left -= _copy(archive, member.filename, stream, output, min(left, limits.member_bytes), limits)
    except UsageError:  # is a ValueError too
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise disk_error(error, folder) from error
        msg = f"{archive}: cannot be unpacked ({error}); {limits.remedy}"
        raise UsageError(msg) from error


def _check(archive: Path, members: list[zipfile.ZipInfo], limits: Limits) -> None:
    """Refuse what the table of contents already shows to be wrong."""
    if len(members) > limits.members:
        msg = f"{archive}: holds {len(members)} members, more than {limits.members}; {limits.remedy}"
        raise UsageError(msg)
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member.filename)
        reason = _fault_of_name(member.filename) or _fault_of_kind(member)
        if reason is None and member.file_size > limits.member_bytes:
            reason = f"has {member.file_size} bytes, more than {limits.member_bytes}"
        elif reason is None and (path in files or (path in folders and not member.is_dir())):
            reason = "is there twice"
        elif reason is None and not files.isdisjoint(path.parents):
            reason = "lies in a folder that is there as a file too"
        if reason is not None:
            msg = f"{archive}: member {member.filename!r} {reason}; {limits.remedy}"
            raise UsageError(msg)
        folders.update(path.parents)
        (folders if member.is_dir() else files).add(path)
    total = sum(member.file_size for member in members)
    if total > limits.total_bytes:
        msg = f"{archive}: unpacks to {total} bytes, more than {limits.total_bytes}; {limits.remedy}"
        raise UsageError(msg)


def _fault_of_name(name: str) -> str | None:
    """Return what is wrong with the name of a member, if anything; ``./`` before it is nothing."""
    path = PurePosixPath(name)
    if "\\" in name:
        return "has a backslash in its name, where the zip format has / between folder and file"
    if path.is_absolute():
        return "has an absolute path, which leads out of the folder"
    if ".." in path.parts:
        return "has '..' in its path, which leads out of the folder"
    if ":" in name:
        return "has a colon in its name, which is a drive or a stream on some systems"
    if not name:
        return "has no name"
    return None


def _fault_of_kind(member: zipfile.ZipInfo) -> str | None:
    """Return why a member is no ordinary file or folder, if it is none."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if kind == stat.S_IFLNK else "is a special file (a device, socket or pipe)"
    return "is encrypted" if member.flag_bits & 0x1 else None


def _copy(archive: Path, name: str, stream: IO[bytes], output: IO[bytes], limit: int, limits: Limits) -> int:
    """Copy at most ``limit`` bytes and return how many; the sizes in the table of contents may be lies."""
    size = 0
    while chunk := stream.read(_CHUNK):
        size += len(chunk)
        if size > limit:
            msg = f"{archive}: member {name!r} unpacks to more than the {limit} bytes allowed; {limits.remedy}"
            raise UsageError(msg)
        output.write(chunk)
    return size
