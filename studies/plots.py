"""What the pictures of all studies share: labels, colours, bands."""

from __future__ import annotations

from typing import Any

LUMINOSITY = r"10 fb$^{-1}$ (13 TeV)"
MU = r"signal strength $\mu$"
MU_HAT = r"$\hat\mu$"
BLUE, RED, GREY, BLACK = "#1f6fb2", "#d1495b", "#8d8d8d", "#222222"
ONE_SIGMA, TWO_SIGMA = "#7fc97f", "#ffe066"
"""The customary green and yellow of the 1 and 2 sigma bands."""
PROCESS_COLOURS = {"htautau": "#d1495b", "ztautau": "#e9c46a", "ttbar": "#7b8cde", "diboson": "#6ba292"}
NUISANCE_LABELS = {
    "tes": r"$\tau$ energy scale (tes)",
    "jes": "jet energy scale (jes)",
    "soft_met": "soft MET (soft_met)",
    "ttbar_scale": r"$t\bar t$ rate (ttbar_scale)",
    "diboson_scale": "VV rate (diboson_scale)",
    "bkg_scale": "background rate (bkg_scale)",
}
"""In words, with the name that tables and settings have."""


def label(axes: Any, text: str = "SAGE") -> None:
    """Write what is shown above the left end of a panel, luminosity and energy above the right end."""
    axes.set_title(text, loc="left", fontsize=10, fontweight="bold")
    axes.set_title(LUMINOSITY, loc="right", fontsize=9)


def bands(axes: Any, *, vertical: bool = True, centre: float = 0.0, width: float = 1.0) -> None:
    """Draw the 1 sigma (green) and 2 sigma (yellow) bands behind everything else.

    Args:
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
