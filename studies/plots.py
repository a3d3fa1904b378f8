"""What the pictures of all studies share: figures without a display, labels, colours, files that do not change."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from workshop.files import write_bytes

LUMINOSITY = r"10 fb$^{-1}$ (13 TeV)"
MU = r"signal strength $\mu$"
MU_HAT = r"$\hat\mu$"
BLUE, RED, GREY, BLACK = "#1f6fb2", "#d1495b", "#8d8d8d", "#222222"
ONE_SIGMA, TWO_SIGMA = "#7fc97f", "#ffe066"
"""The customary green and yellow of the 1 and 2 sigma bands."""
PROCESS_COLOURS = {"htautau": "#d1495b", "ztautau": "#e9c46a", "ttbar": "#7b8cde", "diboson": "#6ba292"}
PROCESS_LABELS = {"htautau": r"$H\to\tau\tau$", "ztautau": r"$Z\to\tau\tau$", "ttbar": r"$t\bar t$", "diboson": "VV"}
NUISANCE_LABELS = {
    "tes": r"$\tau$ energy scale",
    "jes": "jet energy scale",
    "soft_met": "soft MET",
    "ttbar_scale": r"$t\bar t$ rate",
    "diboson_scale": "VV rate",
    "bkg_scale": "background rate",
}
DPI = 130


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **subplots: Any) -> tuple[Any, Any]:
    """Return a figure that needs no display, and its panels.

    Arguments:
        width: Inches.
        height: Inches.
        rows: Rows of panels.
        columns: Columns of panels.
        subplots: Further arguments of matplotlib's ``Figure.subplots``.

    Returns:
        Figure and axes; the axes are an array of shape (rows, columns), or one object if there is one panel.
    """
    # Imported here because it takes a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, axes[0, 0] if rows == columns == 1 else axes


def label(axes: Any, text: str = "SAGE") -> None:
    """Write what is shown above the left end of a panel, luminosity and energy above the right end."""
    axes.set_title(text, loc="left", fontsize=10, fontweight="bold")
    axes.set_title(LUMINOSITY, loc="right", fontsize=9)


def bands(axes: Any, *, vertical: bool = True, centre: float = 0.0, width: float = 1.0) -> None:
    """Draw the 1 sigma (green) and 2 sigma (yellow) bands behind everything else.

    Arguments:
        axes: Panel.
        vertical: Bands of x (True) or of y.
        centre: Middle of the bands.
        width: One sigma.
    """
    span = axes.axvspan if vertical else axes.axhspan
    line = axes.axvline if vertical else axes.axhline
    for size, colour in ((2, TWO_SIGMA), (1, ONE_SIGMA)):
        span(centre - size * width, centre + size * width, color=colour, lw=0, zorder=0)
    line(centre, color=BLACK, lw=0.8, zorder=1)


def save(figure: Any, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes.

    Arguments:
        figure: The figure.
        stem: Path without an ending.

    Returns:
        The files.
    """
    import matplotlib as mpl

    paths = []
    # Without the salt, names inside an SVG are random.
    with mpl.rc_context({"svg.hashsalt": "sage"}):
        for kind, options in (("png", {"dpi": DPI}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, **options)
            path = stem.with_name(f"{stem.name}.{kind}")
            write_bytes(path, buffer.getvalue())
            paths.append(path)
    return paths
