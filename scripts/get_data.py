"""Download the challenge's public data set (Zenodo record 15131565, about 220 million events) and unpack it.

An interrupted download continues with the same command. The archive's hash is compared with the record's before it is
unpacked, and an archive already in the output folder is used instead of a download.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.common import logger, parser, run_program
from workshop.errors import UsageError

EXAMPLE = "--output public_data"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("get_data", __doc__, EXAMPLE)
    options.add_argument("--output", type=Path, required=True, help="folder for archive and events; 40 GB should do")
    options.add_argument("--address", help="where the archive is, if not where the record says")
    options.add_argument("--checksum", metavar="ALGORITHM:HEX", help="its hash; asked from the record if not given")
    options.add_argument("--keep-archive", action="store_true", help="do not remove the archive in the end")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Download, check and unpack what is not there yet."""
    from harness.download import ARCHIVE_NAME
    from harness.test_set import FILE_NAME
    from workshop.claims import locked

    output: Path = given.output
    if (output / FILE_NAME).exists():
        print(f"{output / FILE_NAME} is there already; remove it to download again")
        return
    if given.address and not given.checksum:
        msg = "--address needs --checksum, because what comes from elsewhere must be compared with something"
        raise UsageError(msg)
    algorithm, _, digest = (given.checksum or "").partition(":")
    with locked(output):
        _get(given, output / ARCHIVE_NAME, algorithm, digest)


def _get(given: argparse.Namespace, archive: Path, algorithm: str, digest: str) -> None:
    from harness.download import RemoteFile, download, extract, file_digest, find_archive

    if not archive.exists():
        remote = RemoteFile(given.address, None, algorithm, digest) if given.address else find_archive()
        if given.checksum:
            remote = RemoteFile(remote.address, remote.size, algorithm, digest)
        download(remote, archive)
    elif given.checksum and file_digest(archive, algorithm) != digest:
        msg = f"{archive}: {algorithm} differs from {digest}; remove the file and run the same command again"
        raise UsageError(msg)
    logger.info("unpacking %s", archive)
    events = extract(archive, given.output)
    if not given.keep_archive:
        archive.unlink()
    print(f"events are in {events}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
