"""The tutorial runs from its first cell to its last, and is a clean notebook."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
CONTENT = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
LARGEST = 200_000
"""Bytes of outputs."""


def code():
    """Return the code cells as one program."""
    return "\n".join("".join(cell["source"]) for cell in CONTENT["cells"] if cell["cell_type"] == "code")


def test_it_is_a_notebook_of_version_4_5():
    """The keys that nbformat 4.5 asks for, and nothing that depends on who ran it last."""
    assert (CONTENT["nbformat"], CONTENT["nbformat_minor"]) == (4, 5)
    assert set(CONTENT) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    identities = [cell["id"] for cell in CONTENT["cells"]]
    assert len(set(identities)) == len(identities)
    for cell in CONTENT["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        assert set(cell) == (keys | {"execution_count", "outputs"} if cell["cell_type"] == "code" else keys)
        assert all(line.endswith("\n") for line in cell["source"][:-1])
    outputs = [cell["outputs"] for cell in CONTENT["cells"] if cell["cell_type"] == "code"]
    assert len(json.dumps(outputs)) < LARGEST
    compile(code(), str(NOTEBOOK), "exec")


@pytest.mark.slow
def test_it_runs(tmp_path):
    """In a process of its own, from its folder, as a notebook is; what it prints has what its text promises."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code()],
        cwd=NOTEBOOK.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for expected in ("htautau", "tes 0.97", "mean p(H)", "true mu 1.7", "soft_met", "pull", "coverage"):
        assert expected in done.stdout
