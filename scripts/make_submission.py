"""Build the zip file to submit: model.py, the package sage and the weights.

The same files give the same zip, byte for byte. Weights are checked against the hashes in their manifest.json.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import stat
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from harness.bundle import bundle_files
from harness.errors import HarnessError
from harness.results import write_atomically
from scripts.common import ROOT, parser, run_program

DEFAULT_OUTPUT = ROOT / "build" / "sage_submission.zip"
EXAMPLE = "--output build/sage_submission.zip"
EARLIEST = (1980, 1, 1, 0, 0, 0)  # what a zip file can state
UNIX = 3
LEVEL = 9
LARGEST = 100_000_000
"""Bytes of a zip file that can be uploaded to Codabench in practice."""


def build(root: Path, weights: Path | None = None) -> tuple[bytes, int]:
    """Return the zip file of the project in ``root`` and the number of files in it.

    The weights are those of ``root`` or of another folder.

    Names are sorted; time stamps, permissions and compression are fixed.

    Raises:
        HarnessError: If a file is missing or differs from the manifest, or the zip file is too large.
    """
    files = bundle_files(root, weights)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, path in tqdm(files.items(), desc="packing", unit="file", leave=False, disable=None):
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.create_system = UNIX
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, LEVEL)
    data = buffer.getvalue()
    if len(data) > LARGEST:
        name, path = max(files.items(), key=lambda item: item[1].stat().st_size)
        msg = f"the zip file has {len(data)} bytes, more than the {LARGEST} that can be uploaded to Codabench; the "
        msg += f"largest file is {name} ({path.stat().st_size} bytes): build tables with fewer bins, or give other "
        msg += "--weights"
        raise HarnessError(msg)
    return data, len(files)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("make_submission", __doc__, EXAMPLE)
    options.add_argument("--root", type=Path, default=ROOT, help="checkout to pack (default: this one)")
    options.add_argument("--weights", type=Path, help="weights folder to pack (default: that of the checkout)")
    options.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="zip file (default: %(default)s)")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Write the zip file and print what it is."""
    data, files = build(given.root, given.weights)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(given.output, data)
    print(f"written {given.output}")
    print(f"size    {len(data)} bytes")
    print(f"sha256  {hashlib.sha256(data).hexdigest()}")
    print(f"files   {files}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
