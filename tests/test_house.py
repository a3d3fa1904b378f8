"""Rules of the code base: who may import whom, what the bundle must not contain, how long a module may be."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import pytest

from model import Model

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = sorted([ROOT / "model.py", *(ROOT / "sage").rglob("*.py")])
OFFICIAL_MODULES = {"datasets", "systematics", "ingestion", "ingestion_parallel", "derived_quantities", "visualization"}


OPTIONAL = {"ladder.py": {"iminuit"}, "published.py": {"scipy"}}
"""Packages that functions may import where they are installed; nothing is lost in the default settings where not."""


def imported(path: Path, at_start: bool = False) -> set[str]:
    """Return the packages a module imports anywhere, or as soon as it is imported itself."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and at_start
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in late:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", BUNDLE, ids=lambda path: path.name)
def test_the_bundle_imports_numpy_torch_and_the_standard_library_only(path):
    allowed = {"sage", "numpy", "torch"} | set(sys.stdlib_module_names)
    assert imported(path, at_start=True) <= allowed
    assert imported(path) <= allowed | OPTIONAL.get(path.name, set())


def test_no_module_of_the_bundle_hides_another():
    """Codabench puts every folder of the submission on the search path, behind its own programs."""
    names = {path.stem for path in (ROOT / "sage").rglob("*.py")} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)
    assert not names & OFFICIAL_MODULES


@pytest.mark.parametrize(
    "folder", ["sage", "workshop", "harness", "training", "scripts", "benchmarks", "studies", "report"]
)
def test_modules_are_short(folder):
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert not {path.name: length for path, length in lengths.items() if length > 400}


def test_the_interface_of_the_submission_is_frozen():
    """Others build on these names; a change here is a change of version."""
    arguments = ["get_train_set", "systematics", "weights", "nuisances", "mu_range", "rebuilding", "engine", "threads"]
    assert list(inspect.signature(Model).parameters) == [*arguments, "other"]
    assert [name for name in vars(Model) if not name.startswith("_")] == ["fit", "predict"]
    assert list(inspect.signature(Model.predict).parameters) == ["self", "test_set"]
