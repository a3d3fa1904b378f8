"""Virtual environments that hold the packages of the challenge's image and none of the project's own."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ENVIRONMENTS = ROOT / "build" / "environments"
PINS = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)

IMAGE = tuple(f"{name}=={PINS[name]}" for name in ("numpy", "pandas", "pyarrow", "matplotlib", "requests", "torch"))
"""What the official programs and a submission import, in this project's versions: others round differently."""
OLDEST = ("numpy==1.26.4", "pandas==2.2.3", "pyarrow", "matplotlib", "requests")
"""The oldest numpy and pandas that are supported, for Python 3.10, and no torch."""


def environment(packages, interpreter=sys.executable):
    """Return the interpreter of an environment with these packages; it is made once and kept.

    Skips the test where there is no package index.
    """
    version = subprocess.run([interpreter, "-VV"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256("\n".join([version, *packages]).encode()).hexdigest()[:12]
    folder = ENVIRONMENTS / digest
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([interpreter, "-m", "venv", folder], check=True, capture_output=True)
        install = [python, "-m", "pip", "install", "--quiet", *packages]
        if subprocess.run(install, capture_output=True, check=False).returncode != 0:
            shutil.rmtree(folder)
            pytest.skip(f"no package index to install {', '.join(packages)} from")
        complete.touch()
    return python


def python_3_10():
    """Return an interpreter that runs; a version manager's stand-in may be on the path and refuse."""
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob("3.10.*/bin/python3.10")
    for candidate in (shutil.which("python3.10"), *map(str, managed)):
        if candidate and subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip("no Python 3.10 on this machine")
    return None
