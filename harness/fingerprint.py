"""What identifies a submission: its files as they were before anything of it ran.

A submission may write into its own folder. What it has written or changed by the time of the first finished
pseudo-experiment is the run's own, and does not count when the run is continued.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from harness.packing import MANIFEST, bundle_files
from workshop.files import sha256, write_json

SUBMISSION_FILE = "submission.json"
"""Tells in a run's folder by which files its submission is known again."""


def snapshot(folder: Path, without: Path | None = None) -> dict[str, str]:
    """Return the sha256 of a submission's files by name.

    Where weights/manifest.json shows a SAGE submission only the files that go into its zip count, so that a checkout
    and the zip made from it have the same fingerprint. Elsewhere all files count except hidden ones and byte code.

    Args:
        folder: Folder of the submission.
        without: A folder to leave out, because the run writes to it.

    Raises:
        UsageError: If a SAGE submission is not complete.
    """
    if (folder / MANIFEST).is_file():
        files = bundle_files(folder)
    else:
        files = {}
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            if path.is_file() and not hidden and not (without and path.is_relative_to(without)):
                files["/".join(parts)] = path
    return {name: sha256(path) for name, path in files.items()}


def fingerprint(folder: Path, without: Path | None = None) -> str:
    """Return a hash over names and contents of a submission's files; see ``snapshot``."""
    return _hash(snapshot(folder, without))


def remember(fingerprint: str, before: Mapping[str, str], after: Mapping[str, str], output: Path) -> None:
    """Write down by which files a submission is known again.

    Args:
        fingerprint: Its fingerprint in the run's identity.
        before: Its files before anything of it ran.
        after: Its files when the first pseudo-experiment was finished.
        output: Folder of the run.
    """
    kept = {name: content for name, content in before.items() if after.get(name) == content}
    write_json(output / SUBMISSION_FILE, {"submission": fingerprint, "kept": _hash(kept), "files": list(kept)})


def recognise(files: Mapping[str, str], output: Path) -> str:
    """Return the fingerprint that a submission with these files has in the run of a folder, if that is this one's."""
    try:
        known = json.loads((output / SUBMISSION_FILE).read_text(encoding="utf-8"))
        kept = {name: files[name] for name in known["files"]}
        return str(known["submission"]) if _hash(kept) == known["kept"] else _hash(files)
    except (OSError, ValueError, KeyError, TypeError):
        return _hash(files)


def _hash(files: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
