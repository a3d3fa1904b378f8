"""Pictures that may stand inside a page: drawing alone, nothing from elsewhere, colours of the page's theme."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

from studies.plots import BLACK, BLUE, GREY, ONE_SIGMA, RED, TWO_SIGMA
from workshop.errors import UsageError

ELEMENTS = {"svg", "g", "defs", "path", "use", "clipPath", "rect", "image", "circle", "line", "polyline", "polygon"}
ATTRIBUTES = {"id", "d", "style", "transform", "clip-path", "x", "y", "width", "height", "viewBox", "href", "points"}
ATTRIBUTES |= {"cx", "cy", "r", "x1", "x2", "y1", "y2", "preserveAspectRatio"}
THEME = {
    "#ffffff": "var(--paper)",
    "#000000": "currentColor",
    BLACK: "currentColor",
    BLUE: "var(--blue)",
    RED: "var(--red)",
    GREY: "var(--grey)",
    "#808080": "var(--grey)",
    "#cccccc": "var(--line)",
    "#eeeeee": "var(--shade)",
    ONE_SIGMA: "var(--one-sigma)",
    TWO_SIGMA: "var(--two-sigma)",
}
"""Colours of the studies' pictures, and the style sheet's for the same purpose."""
LOCAL_LINK = re.compile(r"#[\w-]+|data:image/png;base64,[A-Za-z0-9+/=\s]+")
OUTSIDE = re.compile(r"url\((?!#)|expression|@import|\\", re.IGNORECASE)


def svg_of(figure: Any) -> bytes:
    """Return a matplotlib figure as SVG; the same figure gives the same bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "sage"}):  # names inside are random without it
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def inline(content: bytes, name: str, title: str) -> str:
    """Return an SVG file as an element for a page.

    Whatever is not drawing is left out: scripts, handlers, links, metadata. Names get a prefix, because they must be
    unique in a page.

    Arguments:
        content: The file.
        name: The prefix.
        title: What it shows, for those who do not see it.

    Raises:
        UsageError: If it is not SVG.
    """
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        msg = f"picture {name!r} is not SVG ({error}); make it again"
        raise UsageError(msg) from error
    if _local(root.tag) != "svg" or "viewBox" not in root.attrib:
        msg = f"picture {name!r} is a <{_local(root.tag)}>, not an SVG with a viewBox; make it again"
        raise UsageError(msg)
    out = _cleaned(root, name)
    for key in ("width", "height"):
        out.attrib.pop(key, None)
    out.attrib |= {"role": "img", "aria-label": title}
    return ElementTree.tostring(out, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _cleaned(element: ElementTree.Element, prefix: str) -> ElementTree.Element:
    out = ElementTree.Element(_local(element.tag))
    for key, value in element.attrib.items():
        kept = _attribute(_local(key), value, prefix)
        if kept is not None:
            out.set(_local(key), kept)
    out.extend(_cleaned(child, prefix) for child in element if _local(str(child.tag)) in ELEMENTS)
    return out


def _attribute(name: str, value: str, prefix: str) -> str | None:
    """Return what an attribute becomes; None leaves it out."""
    if name not in ATTRIBUTES or OUTSIDE.search(value):
        return None
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        if not LOCAL_LINK.fullmatch(value):
            return None
        return f"#{prefix}-{value[1:]}" if value.startswith("#") else value
    value = value.replace("url(#", f"url(#{prefix}-")
    if name == "style":
        value = re.sub(r"#[0-9a-fA-F]{6}\b", lambda found: THEME.get(found[0].lower(), found[0]), value)
    return value
