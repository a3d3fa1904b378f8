"""Unpacking a submission's zip file without trusting it."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from harness.errors import HarnessError

MAX_MEMBERS = 10_000
MAX_MEMBER_BYTES = 1 << 30
MAX_TOTAL_BYTES = 2 << 30
_CHUNK = 1 << 20
_REMEDY = "repack the submission with model.py at the root and ordinary files only"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack ``archive`` into ``folder``.

    Arguments:
        archive: A zip file.
        folder: An existing, empty folder.

    Raises:
        HarnessError: If it is no zip file or damaged, or a member is encrypted, a link, stored twice, would land
            outside ``folder`` or exceeds the limits (10 000 members, 1 GiB each, 2 GiB in all).
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = source.infolist()
            _check(archive, members)
            left = MAX_TOTAL_BYTES
            for member in members:
                target = folder.joinpath(*PurePosixPath(member.filename).parts)
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open(member) as stream, target.open("xb") as output:
                    left -= _copy(archive, member.filename, stream, output, min(left, MAX_MEMBER_BYTES))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        msg = f"{archive}: cannot be unpacked ({error}); {_REMEDY}"
        raise HarnessError(msg) from error


def _check(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse what the table of contents already shows to be wrong."""
    if len(members) > MAX_MEMBERS:
        msg = f"{archive}: holds {len(members)} members, more than {MAX_MEMBERS}; {_REMEDY}"
        raise HarnessError(msg)
    seen: set[str] = set()
    for member in members:
        name = member.filename
        path = PurePosixPath(name)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
            reason = "has a path that leads out of the submission's folder"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            reason = "is a link or a special file"
        elif member.flag_bits & 0x1:
            reason = "is encrypted"
        elif str(path) in seen:
            reason = "is there twice"
        elif member.file_size > MAX_MEMBER_BYTES:
            reason = f"has {member.file_size} bytes, more than {MAX_MEMBER_BYTES}"
        else:
            seen.add(str(path))
            continue
        msg = f"{archive}: member {name!r} {reason}; {_REMEDY}"
        raise HarnessError(msg)
    total = sum(member.file_size for member in members)
    if total > MAX_TOTAL_BYTES:
        msg = f"{archive}: unpacks to {total} bytes, more than {MAX_TOTAL_BYTES}; {_REMEDY}"
        raise HarnessError(msg)


def _copy(archive: Path, name: str, stream: IO[bytes], output: IO[bytes], limit: int) -> int:
    """Copy at most ``limit`` bytes and return how many; the sizes in the table of contents may be lies."""
    size = 0
    while chunk := stream.read(_CHUNK):
        size += len(chunk)
        if size > limit:
            msg = f"{archive}: member {name!r} unpacks to more than the {limit} bytes allowed; {_REMEDY}"
            raise HarnessError(msg)
        output.write(chunk)
    return size
