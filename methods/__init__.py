"""Submissions to compare SAGE with or to start from; ``python -m scripts.make_method`` builds them.

A method is a folder here. Its ``build.py`` makes the weights from events: a docstring whose first line tells what the
method is, and ``build``, which takes a ``methods.building.Build``. Its ``model.py`` becomes that of the submission,
beside a copy of the package ``sage`` and the weights; without one, SAGE's own is taken. Whatever the methods here do
not say themselves is SAGE's: events, regions, templates, likelihood and interval.
"""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def summaries() -> dict[str, str]:
    """Return all methods, which are the folders with a ``build.py``: one line about each by name."""
    modules = {path.parent.name: path for path in sorted(FOLDER.glob("*/build.py"))}
    # Read, not imported: a build may need packages that the others do not.
    texts = {name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for name, path in modules.items()}
    return {name: (text or "").partition("\n")[0] for name, text in texts.items()}
