"""Pictures of ``training.evaluate``: reliability curves, and how far the signal probability moves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES
from workshop.files import write_bytes
from workshop.plots import drawn, image, new_figure

COLOURS = {"averaged": "#1f6fb2", "nominal": "#d1495b", "boosting": "#3a7d44", "perceptron": "#8a6fb0"}


@drawn
def draw_reliability(results: Mapping[str, Any], path: Path) -> None:
    """Draw observed minus predicted frequency against the prediction, a panel for each process."""
    figure, axes = new_figure(9.0, 6.4, rows=2, columns=2, sharex=True)
    panels = axes.ravel()
    for panel, process in zip(panels, PROCESSES, strict=True):
        panel.axhline(0.0, color="#999999", lw=1)
        for name, result in results.items():
            curve = result["reliability"][process]
            predicted, observed = np.array(curve["predicted"]), np.array(curve["observed"])
            label = f"{name}: slope {curve['slope']:.3f} ± {curve['slope_error']:.3f}"
            panel.errorbar(
                predicted, observed - predicted, curve["error"], fmt="o-", ms=3, lw=1, color=COLOURS[name], label=label
            )
        panel.set_title(process, fontsize=10)
        panel.legend(fontsize=7, frameon=False)
        panel.tick_params(labelsize=8)
    figure.supxlabel("predicted probability", fontsize=10)
    figure.supylabel("observed frequency - predicted probability", fontsize=10)
    write_bytes(path, image(figure, "png"))


@drawn
def draw_shifts(results: Mapping[str, Any], path: Path) -> None:
    """Draw the relative change of the signal-like yields at each point, a panel for each process."""
    figure, axes = new_figure(9.0, 6.4, rows=2, columns=2, sharex=True)
    panels = axes.ravel()
    width = 0.8 / len(results)
    for panel, process in zip(panels, PROCESSES, strict=True):
        panel.axhline(0.0, color="#999999", lw=1)
        for i, (name, result) in enumerate(results.items()):
            points = list(result["shifts"])
            change = [100.0 * result["shifts"][point][process]["signal_like_yield"] for point in points]
            panel.bar(np.arange(len(points)) + (i - 1) * width, change, width, color=COLOURS[name], label=name)
            panel.set_xticks(range(len(points)), points, rotation=30, fontsize=8)
        panel.set_title(process, fontsize=10)
        panel.tick_params(labelsize=8)
    panels[0].legend(fontsize=8, frameon=False)
    figure.supylabel("change of the yield in the signal-like bin (%)", fontsize=10)
    write_bytes(path, image(figure, "png"))
