"""List the programs of this package, one line each."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from scripts.common import run_program

GROUPS = {
    "make": (
        "get_data",
        "simulate",
        "join_events",
        "distill",
        "train",
        "count_events",
        "build_tables",
        "make_weights",
        "train_surrogates",
        "refine_surrogates",
        "make_method",
        "make_submission",
        "convert_weights",
    ),
    "run": ("run_ingestion", "score", "report"),
    "study": (
        "check_tables",
        "check_response",
        "asimov",
        "toys",
        "pools",
        "postfit",
        "compare",
        "rehearse",
        "refit",
        "compare_binnings",
        "interference",
        "unbinned_toys",
        "check_surrogates",
        "original_surrogates",
        "evaluate",
        "compare_networks",
        "ablate_flows",
        "check_flows",
        "event_coverage",
        "compare_simulation",
        "compare_events",
        "fit_met",
    ),
}
"""Programs by what they are for."""


def verbs() -> dict[str, str]:
    """Return the first line of each program's docstring by name; a program is a module with a function ``main``."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the programs by what they are for; those of no group come last."""
    left = list(names)
    found = {group: [name for name in members if name in left] for group, members in GROUPS.items()}
    others = [name for name in left if not any(name in members for members in found.values())]
    return found | ({"other": others} if others else {})


def show(_: argparse.Namespace) -> None:
    """Print the list."""
    lines = verbs()
    width = max(map(len, lines))
    with suppress(BrokenPipeError):  # whoever reads it has seen enough
        print("usage: python -m scripts.VERB [options]; each VERB has --help\n")
        for group, members in grouped(lines).items():
            print(f"{group}:")
            for verb in members:
                print(f"  {verb:<{width}}  {lines[verb]}")


if __name__ == "__main__":
    sys.exit(run_program(show, argparse.Namespace(verbose=False)))
