"""List the programs of this package, one line each."""

from __future__ import annotations

import ast
import sys
from pathlib import Path


def verbs() -> dict[str, str]:
    """Return the first line of each program's docstring by name; a program is a module with a function ``main``."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


if __name__ == "__main__":
    lines = verbs()
    width = max(map(len, lines))
    print("usage: python -m scripts.VERB [options]; each VERB has --help\n")
    for verb, line in lines.items():
        print(f"  {verb:<{width}}  {line}")
    sys.exit(0)
