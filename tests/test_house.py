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

OFFLINE = {
    *("workshop", "training", "harness", "methods", "studies", "report", "scripts", "benchmarks", "native"),
    *("nsbi", "examples"),
}
MAY_IMPORT = {
    "sage.errors": set(),
    "sage.child": {"sage.errors"},
    "sage.challenge": {"sage.errors"},
    "sage.network": {"sage.challenge", "sage.errors"},
    "sage.fit": {"sage.errors"},
    "sage.rates": {"sage.challenge", "sage.fit"},
    "sage.flows": {"sage.challenge", "sage.errors", "sage.fit", "sage.network", "sage.rates"},
    "sage.likelihood": {"sage.challenge", "sage.fit", "sage.rates"},
    "sage.binned": {"sage.challenge", "sage.errors", "sage.likelihood", "sage.network", "sage.rates"},
    "sage.unbinned": {
        *("sage.binned", "sage.challenge", "sage.errors", "sage.fit", "sage.likelihood", "sage.network", "sage.rates"),
    },
    "sage.files": {"sage.binned", "sage.challenge", "sage.errors", "sage.network", "sage.rates"},
    "sage.measurement": {
        "sage.binned",
        "sage.challenge",
        "sage.errors",
        "sage.files",
        "sage.fit",
        "sage.network",
        "sage.rates",
    },
    "sage.rebuilding": {"sage.binned", "sage.challenge", "sage.child", "sage.errors", "sage.files", "sage.network"},
    "sage.surrogates": {
        *("sage.binned", "sage.challenge", "sage.errors", "sage.files", "sage.fit", "sage.measurement", "sage.network"),
        *("sage.rates", "sage.unbinned"),
    },
    "sage.recalibration": {
        *("sage.binned", "sage.challenge", "sage.errors", "sage.files", "sage.network", "sage.surrogates"),
        "sage.unbinned",
    },
    "sage.submission": {"sage.challenge", "sage.errors", "sage.files", "sage.measurement", "sage.network"},
    "model": {"sage"},
    "workshop": {"sage.errors"},
    "training": {"sage", "workshop"},
    "harness": {"sage", "workshop"},
    "native": {"sage"},
    "methods": {"sage", "workshop", "training", "harness"},
    "nsbi": {"sage.errors", "sage.fit", "workshop"},
    "examples": {"sage.errors", "sage.fit", "workshop", "nsbi", "studies"},
    "studies": {"sage", "workshop", "training", "harness"},
    "report": {"sage", "workshop", "harness", "studies"},
    "benchmarks": {"sage", "workshop", "training", "studies", "model"},
    "scripts": {"sage", *OFFLINE} - {"scripts", "benchmarks"},
}
"""What each package may import besides itself; inside ``sage`` each sub-package and module, elsewhere each folder."""


def module_of(path: Path) -> str:
    """Return the dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """Return the key of ``MAY_IMPORT`` that a module belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "sage" and len(parts) > 1 else parts[0]


FILES = [
    ROOT / "model.py",
    *(path for name in ("sage", *sorted(OFFLINE)) for path in sorted((ROOT / name).rglob("*.py"))),
]
MODULES = {module_of(path): path for path in FILES}


def imports(path: Path, at_start: bool = False) -> set[str]:
    """Return the modules that a file imports anywhere, or as soon as it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and at_start]
    late = {id(inner) for function in functions for inner in ast.walk(function)}
    names = set()
    for node in ast.walk(tree):
        if id(node) in late:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & MODULES.keys()) or {node.module}
    return names


def imported(path: Path, at_start: bool = False) -> set[str]:
    """Return the top-level packages a file imports."""
    return {name.partition(".")[0] for name in imports(path, at_start)}


@pytest.mark.parametrize("path", BUNDLE, ids=module_of)
def test_the_bundle_imports_numpy_torch_and_the_standard_library_only(path):
    allowed = {"sage", "numpy", "torch"} | set(sys.stdlib_module_names)
    assert imported(path, at_start=True) <= allowed
    assert imported(path) <= allowed | OPTIONAL.get(path.name, set())


@pytest.mark.parametrize("module", list(MODULES))
def test_imports_have_one_direction(module):
    package = package_of(module)
    if package == "sage":  # says what it holds and imports nothing
        assert not imports(MODULES[module]) & MODULES.keys()
        return
    for name in imports(MODULES[module]) & MODULES.keys():
        target = package_of(name)
        allowed = MAY_IMPORT[package] | {package}
        assert target in allowed or target.partition(".")[0] in allowed, f"{module} imports {name}"


def test_no_module_waits_for_itself():
    """Modules in an order in which each comes after those it imports when it is imported itself."""
    waiting = {name: imports(path, at_start=True) & MODULES.keys() - {name} for name, path in MODULES.items()}
    while ready := [name for name, needed in waiting.items() if not needed]:
        for name in ready:
            del waiting[name]
        waiting = {name: needed.difference(ready) for name, needed in waiting.items()}
    assert not waiting


def test_no_module_of_the_bundle_hides_another():
    """Codabench puts every folder of the submission on the search path, behind its own programs."""
    names = {part for path in BUNDLE for part in path.relative_to(ROOT).with_suffix("").parts[1:]} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)
    assert not names & OFFICIAL_MODULES


@pytest.mark.parametrize("folder", ["sage", *sorted(OFFLINE)])
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
