"""Downloads the public data set: resumable, checked, and unpacked without trusting the archive."""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from harness.archive import Limits, unpack
from harness.test_set import FILE_NAME, METADATA_NAME
from workshop.errors import UsageError
from workshop.files import scratch_folder

logger = logging.getLogger("sage.harness.download")

RECORD = "15131565"
"""Zenodo record of the public data set (arXiv:2410.02867)."""
ARCHIVE_NAME = "FAIR_Universe_HiggsML_data.zip"
RECORD_ADDRESS = "https://zenodo.org/api/records/{record}"
BY_HAND = (
    f"without internet access, fetch {ARCHIVE_NAME} from Zenodo record {RECORD} elsewhere, put it into the output "
    "folder and run the same command again; or make events with python -m scripts.simulate"
)
TIMEOUT = 60.0
LOCAL = ("127.0.0.1", "localhost")
NOTHING_LEFT = 416
"""Status of an answer to a request for what lies behind the end of a file."""
CHUNK = 1 << 16
"""Bytes written at a time; what is lost of a chunk when a connection breaks is downloaded again."""
DATA_SET = Limits(100, 64 << 30, 80 << 30, "the archive is not the public data set; download it again")


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        address: Where it is.
        size: Its size in bytes; None if unknown.
        algorithm: Hash function of ``digest``, a name that hashlib knows.
        digest: Its hash, hexadecimal.
    """

    address: str
    size: int | None
    algorithm: str
    digest: str


def find_archive(record_address: str = RECORD_ADDRESS.format(record=RECORD)) -> RemoteFile:
    """Ask the archive's record where the data set is and what its hash should be.

    Raises:
        UsageError: If there is no answer, or the record does not hold the data set.
    """
    answer = _get(record_address)
    try:
        files = answer.json()["files"]
        entry = next(item for item in files if item["key"] == ARCHIVE_NAME)
        algorithm, _, digest = entry["checksum"].partition(":")
        return RemoteFile(entry["links"]["self"], int(entry["size"]), algorithm, digest)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        msg = f"{record_address}: does not describe {ARCHIVE_NAME} ({error!r}); {BY_HAND}"
        raise UsageError(msg) from error


def download(remote: RemoteFile, target: Path) -> None:
    """Download a file, going on where an interrupted download stopped; it gets its name once its hash is right.

    Raises:
        UsageError: If the connection fails (what has arrived is kept), there is no room, or the hash is wrong.
    """
    partial = target.with_name(f"{target.name}.part")
    have = partial.stat().st_size if partial.exists() else 0
    if remote.size is not None:
        free = shutil.disk_usage(target.parent).free + have
        if free < remote.size:
            msg = f"{target.parent}: {free >> 20} MiB are free, {ARCHIVE_NAME} has {remote.size >> 20}; make room"
            raise UsageError(msg)
    if remote.size is None or have < remote.size:
        _receive(remote, partial, have)
    logger.info("comparing the hash of %s", partial.name)
    digest = file_digest(partial, remote.algorithm)
    if digest != remote.digest:
        partial.unlink()
        msg = f"{target.name}: {remote.algorithm} is {digest}, expected {remote.digest}; it was removed, try again"
        raise UsageError(msg)
    partial.replace(target)


def extract(archive: Path, folder: Path) -> Path:
    """Unpack the data set into ``folder`` and return the events file; nothing half-unpacked takes its name.

    Raises:
        UsageError: If the archive is damaged or dangerous, or does not hold the data set.
    """
    with scratch_folder(folder / "unpacking") as scratch:
        unpack(archive, scratch, DATA_SET)
        for name in (METADATA_NAME, FILE_NAME):
            found = next(scratch.rglob(name), None)
            if found is None:
                msg = f"{archive}: holds no {name}; {DATA_SET.remedy}"
                raise UsageError(msg)
            found.replace(folder / name)
    return folder / FILE_NAME


def file_digest(path: Path, algorithm: str) -> str:
    """Return the hash of a file, hexadecimal.

    Raises:
        UsageError: If there is no such hash function.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, algorithm).hexdigest()
    except ValueError as error:
        msg = f"no hash function {algorithm!r}; use one of md5, sha256"
        raise UsageError(msg) from error


def _receive(remote: RemoteFile, partial: Path, have: int) -> None:
    """Append what is missing to a partial file."""
    response = _get(remote.address, {"Range": f"bytes={have}-"} if have else {}, stream=True)
    if response.status_code == NOTHING_LEFT:
        logger.info("%s: there is nothing behind the %d bytes that have arrived", remote.address, have)
        response.close()
        return
    # A server that cannot resume sends everything, with another status.
    resumed = have > 0 and response.status_code == requests.codes.partial_content
    begin = have if resumed else 0
    try:
        with (
            partial.open("ab" if resumed else "wb") as output,
            tqdm(total=remote.size, initial=begin, unit="B", unit_scale=True, desc=ARCHIVE_NAME) as progress,
        ):
            for chunk in response.iter_content(CHUNK):
                output.write(chunk)
                progress.update(len(chunk))
    except requests.RequestException as error:
        msg = f"{remote.address}: the connection broke ({error}); the same command continues the download"
        raise UsageError(msg) from error


def _get(address: str, headers: dict[str, str] | None = None, *, stream: bool = False) -> Any:
    """Send a request; plain HTTP is refused except to this machine, also where the server redirects to."""
    if not _is_safe(address):
        msg = f"{address}: the connection must be encrypted; give an address that begins with https://"
        raise UsageError(msg)
    try:
        response = requests.get(address, headers=headers, stream=stream, timeout=TIMEOUT)
        for step in (*response.history, response):
            if not _is_safe(step.url):
                response.close()
                msg = f"{address}: redirects to {step.url}, but the connection must be encrypted; {BY_HAND}"
                raise UsageError(msg)
        if not (headers and response.status_code == NOTHING_LEFT):
            response.raise_for_status()
    except requests.RequestException as error:
        msg = f"{address}: cannot be reached ({type(error).__name__}); {BY_HAND}"
        raise UsageError(msg) from error
    return response


def _is_safe(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "https" or parts.hostname in LOCAL
