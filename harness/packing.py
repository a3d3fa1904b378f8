"""The files that make up a SAGE submission: what goes into the zip, and nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from sage.files.manifest import signed
from workshop.errors import UsageError

MANIFEST = Path("weights", "manifest.json")


def package_files(root: Path) -> dict[str, Path]:
    """Return the files of the package ``sage`` in a checkout: path by name in the zip."""
    paths = [path for pattern in ("*.py", "*.so") for path in (root / "sage").rglob(pattern) if path.is_file()]
    return {path.relative_to(root).as_posix(): path for path in sorted(paths)}


def bundle_files(root: Path, weights: Path | None = None) -> dict[str, Path]:
    """Return the files of the submission in ``root``: model.py, the package ``sage`` and the weights.

    Args:
        root: A checkout of the project, or an unpacked submission.
        weights: Folder of the weights; the one in ``root`` if absent.

    Returns:
        Path by name in the zip, sorted by name.

    Raises:
        UsageError: If model.py, the package, the manifest or a file of the manifest is missing, or the manifest or
            a file that it lists differs from its sha256.
    """
    files = {"model.py": root / "model.py", **package_files(root)}
    for name, path in files.items():
        if not path.is_file():
            msg = f"{path} is missing; {name} is part of every submission, so run this in a checkout of the project"
            raise UsageError(msg)
    if "sage/__init__.py" not in files:
        msg = f"{root / 'sage'} is not a package; run this in a checkout of the project"
        raise UsageError(msg)
    folder = root / "weights" if weights is None else weights
    files[MANIFEST.as_posix()] = folder / MANIFEST.name
    for name, expected in _read_manifest(folder / MANIFEST.name).items():
        path = folder / name
        if not path.is_file():
            msg = f"{path} is missing, but {MANIFEST} lists it; train the model again or fetch the weights"
            raise UsageError(msg)
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
        if actual != expected:
            msg = f"{path} has sha256 {actual}, but {MANIFEST} says {expected}; the file and the manifest belong to "
            msg += "different trainings: write both again"
            raise UsageError(msg)
        files[f"weights/{name}"] = path
    return dict(sorted(files.items()))


def _read_manifest(path: Path) -> dict[str, str]:
    """Return the sha256 of each weights file."""
    if not path.is_file():
        msg = f"{path} is missing; train the model first, or fetch the weights"
        raise UsageError(msg)
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
        hashes = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        changed = "sha256" in manifest and signed(manifest) != manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path}: not a manifest ({error!r}); expected an object 'files' that gives each file's 'sha256'"
        raise UsageError(msg) from error
    if changed:
        msg = f"{path}: differs from the sha256 that it states; fetch the weights again, and choose settings by "
        msg += "python -m scripts.make_submission --set"
        raise UsageError(msg)
    for name in hashes:
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
            msg = f"{path}: file name {name!r} leads out of the folder; list files below {path.parent} only"
            raise UsageError(msg)
    if not hashes:
        msg = f"{path}: lists no files; a submission needs its trained weights"
        raise UsageError(msg)
    return hashes
