"""Hash of the code that makes shards and libraries, so that those of other code are not taken for its own."""

from __future__ import annotations

import ast
import hashlib
import logging
from functools import cache
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = "training.simulation."
GENERATOR = "pythia8mc"

log = logging.getLogger("sage.training.simulation.origin")


class _Bare(ast.NodeTransformer):
    """Leaves out docstrings; comments and layout are not in the tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Drop a string that stands alone."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


@cache
def code_hash(module: str) -> str:
    """Return a hash of a module of this package, of those of the package it imports, and of Pythia's version.

    Comments, docstrings and layout do not count.

    Args:
        module: Name of the module within the package.
    """
    trees: dict[str, ast.Module] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in trees:
            trees[name] = ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))
            found = [node.module for node in ast.walk(trees[name]) if isinstance(node, ast.ImportFrom) and node.module]
            waiting += [other.removeprefix(PACKAGE) for other in found if other.startswith(PACKAGE)]
    out = hashlib.sha256(version(GENERATOR).encode())
    for name, tree in sorted(trees.items()):
        out.update(f"\n{name}\n{ast.unparse(_Bare().visit(tree))}".encode())
    return out.hexdigest()


def library_path(folder: Path, size: int, file: str, module: str) -> Path:
    """Return where a library is kept; says so if the folder holds one of other code only.

    Args:
        folder: Folder of the libraries.
        size: Size of the library.
        file: What its name ends with.
        module: Module that makes it.
    """
    path = folder / f"{size}_{code_hash(module)[:12]}_{file}"
    if not path.exists():
        others = sorted(other.name for other in folder.glob(f"{size}_*{file}"))
        if others:
            log.warning("%s: %s is of other code or another Pythia, so it is made anew", folder, ", ".join(others))
    return path
