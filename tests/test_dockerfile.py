"""The steps of the Dockerfile, carried out in a clean Debian: no container engine is needed.

Needs root, debootstrap and a package index. The stand-in for the base image has the same Debian and Python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

BASE, RELEASE = "python:3.11-slim-bookworm", "bookworm"
PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
SMALL = {"DEMO_SETS": "1", "DEMO_EXPERIMENTS": "2"}


def instructions() -> list[tuple[str, str]]:
    """Return keyword and argument of each step, continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(keyword, " ".join(argument.split())) for keyword, _, argument in steps]


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    """A clean root folder that reaches the host's package index."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    root = tmp_path_factory.mktemp("debian") / "root"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, root]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"debootstrap cannot fetch {RELEASE}")
    # How this machine reaches the index: name server, certificates, folders of packages.
    for path in map(Path, ("/etc/resolv.conf", os.environ.get("PIP_CERT", ""))):
        if path.is_file():
            shutil.copyfile(path, root / path.relative_to("/"))
    mounted = [Path("/proc"), Path("/dev"), *map(Path, os.environ.get("PIP_FIND_LINKS", "").split())]
    for path in mounted:
        (root / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", path, root / path.relative_to("/")], check=True)
    yield root
    for path in mounted:
        subprocess.run(["umount", root / path.relative_to("/")], check=True)
    shutil.rmtree(root)


def run(root, folder, command, **variables):
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", "LC_ALL": "C.UTF-8", **kept}
    done = subprocess.run(
        ["chroot", root, "/bin/sh", "-c", f"cd {folder} && {command}"],
        env=env | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def copy(root, folder, argument):
    """Copy what git tracks, which is what the ignore file leaves, or a single file."""
    source, target = argument.split()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in tracked.stdout.split("\0") if name] if source == "." else [source]
    for name in names:
        path = root / folder.lstrip("/") / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path)


def test_the_image_is_built_and_runs_the_demonstration(debian):
    folder, variables, printed = "/", {}, ""
    for keyword, argument in instructions():
        if keyword == "FROM":
            assert argument == BASE
        elif keyword == "ARG":
            name, _, value = argument.partition("=")
            variables[name] = value.strip('"')
        elif keyword == "WORKDIR":
            folder = argument
            (debian / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif keyword == "COPY":
            copy(debian, folder, argument)
        elif keyword == "RUN":
            run(debian, folder, argument, **variables)
        else:
            assert keyword == "CMD"
            printed = run(debian, folder, " ".join(json.loads(argument)), **SMALL)
    assert "pip install" not in printed, "the image was built without what the demonstration needs"
    assert printed.rstrip().endswith("Open results/demo/report.html")
    assert (debian / folder.lstrip("/") / "results/demo/report.html").stat().st_size > 100_000
