"""The page as HTML: one file, nothing from elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from report.blocks import Section
from report.run import Run, key_numbers
from report.verdict import Verdict

LOOKS = ("svg", "wide", "folded", "ruled")
"""What is left out of the numbers beside a page."""
TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(run: Run, verdict: Verdict, sections: Sequence[Section], version: str) -> str:
    """Return the page.

    Every text is escaped; pictures come from ``report.svg``, as images, in which no script runs.

    Args:
        run: The run.
        verdict: Whether all is well.
        sections: What to show.
        version: Version of the project.
    """
    environment, style = _environment()
    template = environment.get_template("page.html")
    shown = {"run": run, "verdict": verdict, "numbers": key_numbers(run), "sections": sections}
    return template.render(**shown, version=version, style=style)


def render_study(
    title: str,
    kind: str,
    label: str,
    numbers: Sequence[tuple[str, str, str]],
    sections: Sequence[Section],
    version: str,
) -> str:
    """Return the page of a study that is of no run.

    Args:
        title: Its title.
        kind: What kind of study.
        label: One line on what was studied.
        numbers: Name, value and meaning of the key numbers.
        sections: What to show.
        version: Version of the project.
    """
    environment, style = _environment()
    template = environment.get_template("study.html")
    content = {"verdict": None, "title": title, "kind": kind, "label": label, "numbers": numbers, "sections": sections}
    return template.render(**content, version=version, style=style)


def _environment() -> tuple[Environment, Markup]:
    """Return what templates are filled by, and the style sheet."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup
    style = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment, style


def as_json(run: Run, verdict: Verdict, sections: Sequence[Section]) -> dict[str, Any]:
    """Return what the page shows, without the pictures, as JSON values."""
    shown = []
    for section in sections:
        blocks = [
            {key: value for key, value in dataclasses.asdict(block).items() if key not in LOOKS}
            for block in section.blocks
        ]
        shown.append({"name": section.name, "title": section.title, "text": section.text, "blocks": blocks})
    numbers = [{"name": name, "value": value, "meaning": meaning} for name, value, meaning in key_numbers(run)]
    head = {"name": run.name, "label": run.label, "verdict": dataclasses.asdict(verdict)}
    return head | {"numbers": numbers, "sections": shown}
