"""Build the zip file to submit: model.py, the package sage and the weights.

The same files give the same zip, byte for byte. Weights are checked against the hashes in their manifest.json. --set
chooses other settings of the measurement for the zip; the weights folder stays as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import stat
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.common import ROOT, parser, run_program
from workshop.errors import UsageError
from workshop.files import json_bytes, write_bytes

DEFAULT_OUTPUT = ROOT / "build" / "sage_submission.zip"
EXAMPLE = "--output build/sage_submission.zip"
EARLIEST = (1980, 1, 1, 0, 0, 0)  # what a zip file can state
UNIX = 3
LEVEL = 9
LARGEST = 100_000_000
"""Bytes of a zip file that can be uploaded to Codabench in practice."""


def build(root: Path, weights: Path | None = None, settings: Mapping[str, Any] | None = None) -> tuple[bytes, int]:
    """Return the zip file of the project in ``root`` and the number of files in it.

    The weights are those of ``root`` or of another folder, with other settings if any are given.

    Names are sorted; time stamps, permissions and compression are fixed.

    Raises:
        UsageError: If a file is missing or differs from the manifest, or the zip file is too large.
        SageError: If a setting has no such name or value.
    """
    from harness.packing import MANIFEST, bundle_files

    files = bundle_files(root, weights)
    changed = {MANIFEST.as_posix(): with_settings(files[MANIFEST.as_posix()], settings)} if settings else {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, path in tqdm(files.items(), desc="packing", unit="file", leave=False, disable=None):
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.create_system = UNIX
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, changed.get(name) or path.read_bytes(), zipfile.ZIP_DEFLATED, LEVEL)
    data = buffer.getvalue()
    if len(data) > LARGEST:
        name, path = max(files.items(), key=lambda item: item[1].stat().st_size)
        msg = f"the zip file has {len(data)} bytes, more than the {LARGEST} that can be uploaded to Codabench; the "
        msg += f"largest file is {name} ({path.stat().st_size} bytes): build tables with fewer bins, or give other "
        msg += "--weights"
        raise UsageError(msg)
    return data, len(files)


def with_settings(manifest: Path, settings: Mapping[str, Any]) -> bytes:
    """Return the manifest of a weights folder with other settings of the measurement, signed.

    Raises:
        SageError: If the weights are not in order, or a setting has no such name or value.
    """
    from sage.errors import SettingsError
    from sage.files.bundle import read_bundle
    from sage.files.manifest import signed
    from sage.files.settings import read_settings

    read_bundle(manifest.parent)
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["settings"] |= settings
    try:
        read_settings(manifest, content["settings"])
    except SettingsError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        msg = f"--set {json.dumps(settings)} cannot be used: {error!r}; "
        msg += "sage.files.settings tells what the settings are"
        raise SettingsError(msg) from error
    return json_bytes(signed(content))


def setting(text: str) -> tuple[str, Any]:
    """Return name and value of NAME=VALUE."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError as error:
        msg = f"{text!r} is not NAME=VALUE with a value in JSON ({error}); write text as '{name}=\"...\"'"
        raise argparse.ArgumentTypeError(msg) from error


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    options = parser("make_submission", __doc__, EXAMPLE)
    options.set_defaults(output_is="file")
    options.add_argument("--root", type=Path, default=ROOT, help="checkout to pack (default: this one)")
    options.add_argument("--weights", type=Path, help="weights folder to pack (default: that of the checkout)")
    options.add_argument(
        "--set",
        dest="settings",
        action="append",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="setting of the measurement in the zip, e.g. simulation_uncertainty=false; the value is JSON; repeatable",
    )
    options.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="zip file (default: %(default)s)")
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Write the zip file and print what it is."""
    data, files = build(given.root, given.weights, dict(given.settings))
    write_bytes(given.output, data)
    print(f"written {given.output}")
    print(f"size    {len(data)} bytes")
    print(f"sha256  {hashlib.sha256(data).hexdigest()}")
    print(f"files   {files}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
