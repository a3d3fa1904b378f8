"""Pictures inside a page: as images, in which a browser runs no script and loads nothing from elsewhere."""

from __future__ import annotations

import base64
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from workshop.errors import UsageError
from workshop.plots import image


def svg_of(figure: Any) -> bytes:
    """Return a matplotlib figure as SVG; the same figure gives the same bytes."""
    return image(figure, "svg")


def inline(content: bytes, name: str, title: str) -> str:
    """Return an SVG file as an element for a page.

    Args:
        content: The file.
        name: What to call it if it cannot be used.
        title: What it shows, for those who do not see it.

    Raises:
        UsageError: If it is not SVG.
    """
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        msg = f"picture {name!r} is not SVG ({error}); make it again"
        raise UsageError(msg) from error
    tag = root.tag.rpartition("}")[2]
    if tag != "svg" or "viewBox" not in root.attrib:
        msg = f"picture {name!r} is a <{tag}>, not an SVG with a viewBox; make it again"
        raise UsageError(msg)
    data = base64.b64encode(content).decode("ascii")
    return str(Markup('<img src="data:image/svg+xml;base64,{}" alt="{}">').format(data, title))
