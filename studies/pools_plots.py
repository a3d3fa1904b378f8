"""Picture of the study of independent pools."""

from __future__ import annotations

from typing import Any

import numpy as np

from studies.plots import BLACK, BLUE, label
from studies.pools import Summary
from workshop.plots import drawn, new_figure


@drawn
def draw(found: Summary) -> Any:
    """Draw the shift of each pair with the predicted spread, and the mean pull of its toys."""
    figure, axes = new_figure(6.0, 1.4 + 0.32 * len(found.pairs))
    y = np.arange(len(found.pairs))
    for size, shade in ((2, 0.12), (1, 0.22)):
        axes.axvspan(-size * found.predicted, size * found.predicted, color=BLUE, alpha=shade, lw=0)
    axes.axvline(0, color=BLACK, lw=0.8)
    axes.plot([pair.shift / pair.sigma for pair in found.pairs], y, "o", color=BLACK, ms=6, label="Asimov shift")
    axes.plot([pair.pull_mean for pair in found.pairs], y, "D", mfc="none", color="#d1495b", label="mean pull of toys")
    axes.set_yticks(y, [f"pair {number}" for number in y])
    axes.set_xlabel(
        r"shift of $\hat\mu$ in units of its uncertainty; bands: predicted 1 and 2 standard deviations", fontsize=8
    )
    axes.legend(frameon=False, fontsize=8)
    label(axes, "SAGE, independent pools")
    return figure
