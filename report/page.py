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

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(run: Run, sections: Sequence[Section], version: str) -> str:
    """Return the page.

    Every text is escaped; pictures come from ``report.svg``, as images, in which no script runs.

    Args:
        run: The run.
        sections: What to show.
        version: Version of the project.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup
    style = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    template = environment.get_template("page.html")
    return template.render(run=run, numbers=key_numbers(run), sections=sections, version=version, style=style)


def as_json(run: Run, sections: Sequence[Section]) -> dict[str, Any]:
    """Return what the page shows, without the pictures, as JSON values."""
    shown = []
    for section in sections:
        blocks = [
            {key: value for key, value in dataclasses.asdict(block).items() if key not in ("svg", "wide", "folded")}
            for block in section.blocks
        ]
        shown.append({"name": section.name, "title": section.title, "text": section.text, "blocks": blocks})
    numbers = [{"name": name, "value": value, "meaning": meaning} for name, value, meaning in key_numbers(run)]
    return {"name": run.name, "label": run.label, "numbers": numbers, "sections": shown}
