"""Pictures of all 28 features of simulated events beside reference events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sage.challenge.shifts import UNDEFINED
from training.simulation.comparison import FEATURES, Sample
from workshop.labels import PROCESS_LABELS
from workshop.plots import drawn, new_figure

COLUMNS = 4
N_BINS = 20
FEW = 500
"""Samples up to this size are drawn as points."""
COUNTED = "PRI_n_jets"
RATIO_RANGE = 0.5
"""Ratios are shown from 1 minus to 1 plus this."""
COLOURS = ("#1f6fb2", "#e07b39", "#6ba292")
BLACK, GREY, GREEN = "#222222", "#cccccc", "#2a8f4f"
LABELS = {
    "PRI_lep_pt": r"lepton $p_T$ [GeV]",
    "PRI_lep_eta": r"lepton $\eta$",
    "PRI_lep_phi": r"lepton $\phi$",
    "PRI_had_pt": r"hadronic tau $p_T$ [GeV]",
    "PRI_had_eta": r"hadronic tau $\eta$",
    "PRI_had_phi": r"hadronic tau $\phi$",
    "PRI_jet_leading_pt": r"leading jet $p_T$ [GeV]",
    "PRI_jet_leading_eta": r"leading jet $\eta$",
    "PRI_jet_leading_phi": r"leading jet $\phi$",
    "PRI_jet_subleading_pt": r"second jet $p_T$ [GeV]",
    "PRI_jet_subleading_eta": r"second jet $\eta$",
    "PRI_jet_subleading_phi": r"second jet $\phi$",
    "PRI_n_jets": "number of jets",
    "PRI_jet_all_pt": r"sum of jet $p_T$ [GeV]",
    "PRI_met": r"missing $p_T$ [GeV]",
    "PRI_met_phi": r"missing $p_T$, $\phi$",
    "DER_mass_transverse_met_lep": r"$m_T$(lepton, missing $p_T$) [GeV]",
    "DER_mass_vis": r"visible mass [GeV]",
    "DER_pt_h": r"$p_T$ of the Higgs candidate [GeV]",
    "DER_deltaeta_jet_jet": r"$|\Delta\eta|$ of the jets",
    "DER_mass_jet_jet": r"mass of the jets [GeV]",
    "DER_prodeta_jet_jet": r"$\eta_1\eta_2$ of the jets",
    "DER_deltar_had_lep": r"$\Delta R$(lepton, tau)",
    "DER_pt_tot": r"$p_T$ of everything [GeV]",
    "DER_sum_pt": r"sum of all $p_T$ [GeV]",
    "DER_pt_ratio_lep_had": r"lepton $p_T$ / tau $p_T$",
    "DER_met_phi_centrality": r"$\phi$ centrality of missing $p_T$",
    "DER_lep_eta_centrality": r"$\eta$ centrality of the lepton",
}
"""Axis labels of the features."""


@drawn
def draw_features(samples: Mapping[str, Sample], process: str) -> Any:
    """Draw every feature after the selection, and below it the ratio to the last sample, which is the reference.

    Fractions are of all events, so that a wrong number of jets shows in every jet quantity; events in which a feature
    does not exist are left out of its panel.

    Args:
        samples: Samples by the name they are shown with.
        process: Name of the process.
    """
    selected = {name: sample.selected() for name, sample in samples.items()}
    reference = list(selected)[-1]
    rows = -(-len(FEATURES) // COLUMNS)
    heights = [2.4, 1.0, 0.35] * rows
    figure, panels = new_figure(13.5, 2.6 * rows, 3 * rows, COLUMNS, gridspec_kw={"height_ratios": heights})
    for number, feature in enumerate(FEATURES):
        row, column = divmod(number, COLUMNS)
        upper, lower, spacer = panels[3 * row : 3 * row + 3, column]
        spacer.remove()
        found = {name: _values(part, feature) for name, part in selected.items()}
        _draw_feature(upper, lower, found, reference, _edges(found[reference][0], feature == COUNTED))
        lower.set_xlabel(LABELS[feature], fontsize=9)
        if column == 0:
            upper.set_ylabel("fraction / bin", fontsize=9)
            lower.set_ylabel("ratio", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(samples), frameon=False, fontsize=11)
    figure.suptitle(
        f"{PROCESS_LABELS[process]}, after the selection", x=0.01, ha="left", fontsize=14, fontweight="bold"
    )
    return figure


def _values(sample: Sample, feature: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a feature where it exists, and each event's share of the whole sample."""
    values = np.nan_to_num(sample.columns[feature], nan=UNDEFINED)
    exists = values != UNDEFINED
    return values[exists], (sample.weights / sample.weights.sum())[exists]


def _edges(values: np.ndarray, counted: bool) -> np.ndarray:
    """Return the edges of the bins, which leave out the outermost values."""
    low, high = np.quantile(values, [0.002, 0.99])
    edges: np.ndarray = np.arange(low - 0.5, high + 1.0) if counted else np.linspace(low, high, N_BINS + 1)
    return edges


def _draw_feature(
    upper: Any, lower: Any, found: Mapping[str, tuple[np.ndarray, np.ndarray]], reference: str, edges: np.ndarray
) -> None:
    colours = iter(COLOURS)
    centres = (edges[1:] + edges[:-1]) / 2
    expected, uncertainty = _histogram(*found[reference], edges)
    for name, (values, shares) in found.items():
        counts, errors = _histogram(values, shares, edges)
        ratio, ratio_error = _divided(counts, expected), _divided(errors, expected)
        if name == reference:
            upper.stairs(counts, edges, color=BLACK, lw=1.2, label=name)
            relative = _divided(uncertainty, expected)
            lower.stairs(1 + relative, edges, baseline=1 - relative, fill=True, color=GREY)
            lower.axhline(1.0, color=BLACK, lw=0.8)
        elif len(values) <= FEW:
            style = {"fmt": "o", "ms": 3, "lw": 0.9, "color": GREEN}
            filled = counts > 0
            upper.errorbar(centres[filled], counts[filled], errors[filled], label=name, **style)
            lower.errorbar(centres[filled], ratio[filled], ratio_error[filled], **style)
        else:
            colour = next(colours, COLOURS[-1])
            upper.stairs(counts, edges, color=colour, lw=1.2, label=name)
            lower.errorbar(centres, ratio, ratio_error, fmt="none", lw=1.1, color=colour)
            lower.stairs(ratio, edges, color=colour, lw=0.9)
    upper.set_ylim(0.0, None)
    for axes in (upper, lower):
        axes.set_xlim(edges[0], edges[-1])
        axes.tick_params(labelsize=8)
    upper.tick_params(labelbottom=False)
    lower.set_ylim(1 - RATIO_RANGE, 1 + RATIO_RANGE)


def _histogram(values: np.ndarray, shares: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.histogram(values, edges, weights=shares)[0]
    return counts, np.sqrt(np.histogram(values, edges, weights=shares**2)[0])


def _divided(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(values, by, out=np.full(len(by), np.nan), where=by > 0)
    return ratio
