"""Figures: made without a display, inside fixed settings, and written so that the same figure gives the same bytes.

Nothing of the user's matplotlibrc, nor what a submission set in this process, reaches a figure that is made and saved
here, as matplotlib reads its settings at both moments.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from workshop.files import write_bytes

DPI = 130
T = TypeVar("T")


@contextmanager
def fixed_settings() -> Iterator[None]:
    """Draw with matplotlib's own defaults; afterwards the settings are as before."""
    import matplotlib as mpl  # takes a second

    # The backend is left alone: figures here have their canvas, and a change of it could open a display.
    defaults = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    with warnings.catch_warnings(), mpl.rc_context():
        warnings.simplefilter("ignore", mpl.MatplotlibDeprecationWarning)
        mpl.rcParams.update(defaults)
        # Names inside an SVG are random without the salt.
        mpl.rcParams["svg.hashsalt"] = "sage"
        yield


def drawn(draw: Callable[..., T]) -> Callable[..., T]:
    """Let a function draw inside the fixed settings."""

    @functools.wraps(draw)
    def inside(*args: Any, **options: Any) -> T:
        with fixed_settings():
            return draw(*args, **options)

    return inside


@drawn
def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **subplots: Any) -> tuple[Any, Any]:
    """Return a figure that needs no display, and its panels.

    Args:
        width: Inches.
        height: Inches.
        rows: Rows of panels.
        columns: Columns of panels.
        subplots: Further arguments of matplotlib's ``Figure.subplots``.

    Returns:
        Figure and axes; the axes are an array of shape (rows, columns), or one object if there is one panel.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, axes[0, 0] if rows == columns == 1 else axes


@drawn
def image(figure: Any, kind: str) -> bytes:
    """Return a figure as ``png`` or ``svg``; the same figure gives the same bytes."""
    options: dict[str, Any] = {"dpi": DPI} if kind == "png" else {"metadata": {"Date": None}}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def save(figure: Any, stem: Path, kinds: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """Write a figure.

    Args:
        figure: The figure.
        stem: Path without an ending.
        kinds: Endings of the files.

    Returns:
        The files.
    """
    paths = []
    for kind in kinds:
        path = stem.with_name(f"{stem.name}.{kind}")
        write_bytes(path, image(figure, kind))
        paths.append(path)
    return paths
