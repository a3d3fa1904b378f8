"""Step 2: from primary quantities to the 12 derived ones of the challenge and the nine angular distances SAGE adds.

The derived quantities follow the challenge's definitions (arXiv:2410.02867, appendix A) in its order of operations
and in the dtype of the columns, because in float32 an invariant mass depends on both. Momenta and masses in GeV.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sage.challenge.shifts import UNDEFINED, Columns, namespace

DERIVED = (
    "DER_mass_transverse_met_lep",
    "DER_mass_vis",
    "DER_pt_h",
    "DER_deltaeta_jet_jet",
    "DER_mass_jet_jet",
    "DER_prodeta_jet_jet",
    "DER_deltar_had_lep",
    "DER_pt_tot",
    "DER_sum_pt",
    "DER_pt_ratio_lep_had",
    "DER_met_phi_centrality",
    "DER_lep_eta_centrality",
)

ANGULAR_PAIRS = (
    ("had", "jet_leading"),
    ("had", "jet_subleading"),
    ("lep", "jet_leading"),
    ("lep", "jet_subleading"),
    ("jet_leading", "jet_subleading"),
    ("had", "met"),
    ("lep", "met"),
    ("jet_leading", "met"),
    ("jet_subleading", "met"),
)
"""Object pairs whose angular distance the challenge's files do not hold; columns are named ``dr_A_B``."""

EPSILON = 1e-4
"""Displacement (radians, or units of squared pseudorapidity) by which the challenge moves off a singular point."""


def derived(events: Mapping[str, Any]) -> Columns:
    """Compute the 12 derived quantities.

    Args:
        events: The 16 primary columns of selected events (numpy or torch), any shape.

    Returns:
        Columns ``DER_*`` of the same shape; jet-pair quantities are -25 where there are fewer than two jets. The
        visible mass is NaN where rounding makes its square negative, as in the reference.
    """
    with np.errstate(all="ignore"):
        return _derived(events)


class Derived(Mapping[str, Any]):
    """The derived columns of events; computed when one is asked for that is not there yet.

    Args:
        events: See ``derived``.
    """

    def __init__(self, events: Mapping[str, Any]) -> None:
        self._events = events
        self._columns: Columns = {}

    def give(self, columns: Mapping[str, Any]) -> None:
        """Take columns that are known already."""
        self._columns.update(columns)

    def __getitem__(self, name: str) -> Any:
        if name not in self._columns and name in DERIVED:
            self._columns = derived(self._events) | self._columns
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(DERIVED)

    def __len__(self) -> int:
        return len(DERIVED)


def angular_distances(events: Mapping[str, Any]) -> Columns:
    """Compute ``dR = sqrt(d_eta^2 + d_phi^2)`` for the pairs of ``ANGULAR_PAIRS``; the pseudorapidity of MET is 0.

    Args:
        events: The 16 primary columns (numpy or torch), any shape.

    Returns:
        Columns ``dr_A_B`` of the same shape; meaningless where one of the two objects does not exist.
    """
    out: Columns = {}
    xp = namespace(events["PRI_met"])
    with np.errstate(all="ignore"):
        for first, second in ANGULAR_PAIRS:
            eta = events[f"PRI_{first}_eta"]
            d_eta = eta if second == "met" else eta - events[f"PRI_{second}_eta"]
            d_phi = _wrap(xp, events[f"PRI_{first}_phi"] - events[f"PRI_{second}_phi"])
            out[f"dr_{first}_{second}"] = xp.sqrt(d_eta**2 + d_phi**2)
    return out


def _derived(events: Mapping[str, Any]) -> Columns:
    xp = namespace(events["PRI_met"])
    n_jets = events["PRI_n_jets"]
    pair = n_jets >= 2
    no_pair = UNDEFINED * (n_jets < 2)
    lep_pt, lep_eta, lep_phi = (events[f"PRI_lep_{part}"] for part in ("pt", "eta", "phi"))
    had_pt, had_eta, had_phi = (events[f"PRI_had_{part}"] for part in ("pt", "eta", "phi"))
    met, met_phi = events["PRI_met"], events["PRI_met_phi"]
    eta1, eta2 = events["PRI_jet_leading_eta"], events["PRI_jet_subleading_eta"]

    had = _momentum(xp, had_pt, had_eta, had_phi)
    lep = _momentum(xp, lep_pt, lep_eta, lep_phi)
    met_x, met_y = met * xp.cos(met_phi), met * xp.sin(met_phi)
    jet1 = [c * (n_jets >= 1) for c in _momentum(xp, events["PRI_jet_leading_pt"], eta1, events["PRI_jet_leading_phi"])]
    jet2 = [c * pair for c in _momentum(xp, events["PRI_jet_subleading_pt"], eta2, events["PRI_jet_subleading_phi"])]

    out: Columns = {}
    mt2 = (met + lep_pt) ** 2 - (met_x + lep[0]) ** 2 - (met_y + lep[1]) ** 2
    out["DER_mass_transverse_met_lep"] = xp.sqrt(mt2 * (mt2 >= 0))
    out["DER_mass_vis"] = xp.sqrt(
        (lep[3] + had[3]) ** 2 - (lep[0] + had[0]) ** 2 - (lep[1] + had[1]) ** 2 - (lep[2] + had[2]) ** 2
    )
    out["DER_pt_h"] = xp.sqrt((had[0] + lep[0] + met_x) ** 2 + (had[1] + lep[1] + met_y) ** 2)
    out["DER_deltaeta_jet_jet"] = xp.abs(eta2 - eta1) * pair + no_pair
    mjj2 = (jet1[3] + jet2[3]) ** 2 - (jet1[0] + jet2[0]) ** 2 - (jet1[1] + jet2[1]) ** 2 - (jet1[2] + jet2[2]) ** 2
    out["DER_mass_jet_jet"] = xp.sqrt(mjj2 * (mjj2 >= 0)) * pair + no_pair
    out["DER_prodeta_jet_jet"] = eta1 * eta2 * pair + no_pair
    out["DER_deltar_had_lep"] = xp.sqrt((lep_eta - had_eta) ** 2 + xp.abs(_wrap(xp, lep_phi - had_phi)) ** 2)
    out["DER_pt_tot"] = xp.sqrt(
        (had[0] + lep[0] + met_x + jet1[0] + jet2[0]) ** 2 + (had[1] + lep[1] + met_y + jet1[1] + jet2[1]) ** 2
    )
    out["DER_sum_pt"] = had_pt + lep_pt + events["PRI_jet_all_pt"]
    out["DER_pt_ratio_lep_had"] = lep_pt / had_pt
    out["DER_met_phi_centrality"] = _met_phi_centrality(xp, met_phi, lep_phi, had_phi)

    gap2, middle = (eta1 - eta2) ** 2, (eta1 + eta2) / 2
    gap2 = xp.where(gap2 == 0.0, gap2 + EPSILON, gap2)
    out["DER_lep_eta_centrality"] = xp.exp(-4 / gap2 * (lep_eta - middle) ** 2) * pair + no_pair
    return out


def _momentum(xp: Any, pt: Any, eta: Any, phi: Any) -> tuple[Any, Any, Any, Any]:
    """Return px, py, pz and |p|."""
    return pt * xp.cos(phi), pt * xp.sin(phi), pt * xp.sinh(eta), pt * xp.cosh(eta)


def _wrap(xp: Any, angle: Any) -> Any:
    """Bring an angle difference into [-pi, pi)."""
    return xp.remainder(angle + 3 * math.pi, 2 * math.pi) - math.pi


def _met_phi_centrality(xp: Any, met_phi: Any, lep_phi: Any, had_phi: Any) -> Any:
    """Return (A + B) / sqrt(A^2 + B^2): sqrt(2) where MET points midway between lepton and tau, less elsewhere."""

    def components(lepton: Any) -> tuple[Any, Any]:
        side = xp.sign(xp.sin(had_phi - lepton))
        return xp.sin(met_phi - lepton) * side, xp.sin(had_phi - met_phi) * side

    a, b = components(lep_phi)
    singular = xp.sqrt(a**2 + b**2) == 0
    if bool(singular.any()):
        a_moved, b_moved = components(lep_phi + EPSILON)
        a, b = xp.where(singular, a_moved, a), xp.where(singular, b_moved, b)
    norm = xp.sqrt(a**2 + b**2)
    return (a + b) / (norm + (norm == 0)) * (norm != 0) + UNDEFINED * (norm == 0)
