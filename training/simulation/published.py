"""What the public data set yields after the official selection, and how the yields respond to the energy scales.

Published with the GOLLUM analysis (arXiv:2505.05544) for the full public data set. Processes are in the order H, Z, tt,
VV; responses are changes of a region's yield in percent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sage.challenge.nuisances import PROCESSES

HIGH_MT = 70.0
LEADING_PT, SUBLEADING_PT = 50.0, 30.0
HIGH_PT_H = 100.0


def _two_jets(events: Mapping[str, Any]) -> Any:
    return (events["PRI_jet_leading_pt"] > LEADING_PT) & (events["PRI_jet_subleading_pt"] > SUBLEADING_PT)


def _high_mt(events: Mapping[str, Any]) -> Any:
    return events["DER_mass_transverse_met_lep"] >= HIGH_MT


def _high_pt(events: Mapping[str, Any]) -> Any:
    return events["DER_pt_h"] >= HIGH_PT_H


REGIONS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "inclusive": lambda events: np.ones(len(events["PRI_met"]), dtype=bool),
    "low MT, two jets": lambda events: ~_high_mt(events) & _two_jets(events),
    "high MT, two jets": lambda events: _high_mt(events) & _two_jets(events),
    "low MT, high pt_H": lambda events: ~_high_mt(events) & ~_two_jets(events) & _high_pt(events),
    "low MT, low pt_H": lambda events: ~_high_mt(events) & ~_two_jets(events) & ~_high_pt(events),
    "high MT, other": lambda events: _high_mt(events) & ~_two_jets(events),
}
"""Masks of selected events with derived features."""

YIELDS = {
    "inclusive": (965.97, 901137.5, 41283.4, 3433.6),
    "low MT, two jets": (225.83, 41280.4, 15425.9, 313.4),
    "high MT, two jets": (14.68, 721.7, 16768.6, 193.2),
    "low MT, high pt_H": (56.98, 17379.8, 674.6, 79.1),
    "low MT, low pt_H": (642.46, 837928.7, 3360.1, 1438.5),
    "high MT, other": (26.02, 3826.9, 5054.3, 1409.4),
}

FIVE = {
    "all": "inclusive",
    "lowMT_VBF": "low MT, two jets",
    "highMT_VBF": "high MT, two jets",
    "lowMT_noVBF_highPtH": "low MT, high pt_H",
    "lowMT_noVBF_lowPtH": "low MT, low pt_H",
    "highMT_noVBF": "high MT, other",
}
"""What the regions of the set ``five`` are called here."""

SHIFTS = tuple((name, scale) for name in ("tes", "jes") for scale in (0.99, 1.01, 0.97, 1.03))

RESPONSES = {
    ("low MT, two jets", "htautau"): (-0.61, 0.59, -1.88, 1.74, -1.31, 1.29, -3.97, 3.83),
    ("low MT, two jets", "ztautau"): (-1.00, 0.98, -3.03, 2.89, -2.19, 2.22, -6.53, 6.67),
    ("low MT, two jets", "ttbar"): (-0.89, 0.88, -2.68, 2.59, -0.72, 0.70, -2.29, 2.01),
    ("low MT, high pt_H", "htautau"): (-0.54, 0.53, -1.67, 1.55, -0.26, 0.24, -0.85, 0.63),
    ("low MT, high pt_H", "ztautau"): (-0.71, 0.70, -2.17, 2.06, -1.31, 1.27, -3.97, 3.78),
    ("low MT, high pt_H", "ttbar"): (-0.71, 0.87, -2.31, 2.17, 0.43, -0.22, 0.80, -0.93),
    ("high MT, two jets", "htautau"): (0.23, -0.17, 0.79, -0.37, -0.82, 0.97, -2.01, 3.30),
    ("high MT, two jets", "ttbar"): (-0.63, 0.60, -1.91, 1.85, -0.66, 0.64, -2.00, 1.90),
    ("low MT, low pt_H", "htautau"): (-0.65, 0.63, -2.01, 1.85, 0.49, -0.48, 1.46, -1.44),
    ("low MT, low pt_H", "ztautau"): (-1.27, 1.23, -3.89, 3.63, 0.13, -0.14, 0.40, -0.41),
    ("low MT, low pt_H", "ttbar"): (-0.85, 0.81, -2.58, 2.48, 2.86, -2.81, 8.97, -8.16),
    ("low MT, low pt_H", "diboson"): (-1.40, 1.46, -4.27, 4.20, 0.40, -0.39, 1.23, -1.23),
}
"""In the order of ``SHIFTS``."""


def published_yield(region: str, process: str) -> float:
    """Expected events at 10/fb of a process in a region."""
    return YIELDS[region][PROCESSES.index(process)]
