"""Leptons and photons: identification, isolation; jets: counting of tracks, tau tags."""

from __future__ import annotations

import math

import numpy as np

from training.simulation.card import Isolation, Lepton, TauTagger
from training.simulation.compilation import compiled
from training.simulation.draws import uniform
from training.simulation.tracking import delta_phi, step_value

NO_TAU = -1
"""Tau of a jet that matches none."""

NOT_IN_FLOW = -1
"""Place of a candidate that is not among the energy-flow objects."""


@compiled
def distance2(eta: float, phi: float, other_eta: float, other_phi: float) -> float:
    """Squared distance in pseudorapidity and azimuth."""
    return (eta - other_eta) ** 2 + delta_phi(phi, other_phi) ** 2


@compiled
def isolation_sum(isolation: Isolation, eta: float, phi: float, itself: int, flow: np.ndarray) -> float:
    """Sum the pt, in GeV, of the objects in the cone around a candidate, without the candidate.

    Args:
        isolation: Size of the cone and smallest pt.
        eta: Pseudorapidity of the candidate.
        phi: Azimuth of the candidate.
        itself: Place of the candidate among the objects, NOT_IN_FLOW if it is not one of them.
        flow: Energy-flow objects, rows pt in GeV, eta, phi, shape (3, n).
    """
    total = 0.0
    for i in range(flow.shape[1]):
        # Most objects are far away; the first comparison spares them the distance.
        if abs(flow[1, i] - eta) <= isolation.radius and i != itself and flow[0, i] >= isolation.pt_min:
            inside = distance2(eta, phi, flow[1, i], flow[2, i]) <= isolation.radius**2
            total += flow[0, i] if inside else 0.0
    return total


@compiled
def identify(
    lepton: Lepton,
    isolation: Isolation,
    candidate: tuple[float, float, float, float],
    itself: int,
    flow: np.ndarray,
    state: np.ndarray,
) -> bool:
    """Whether a candidate is identified and isolated: the sum of pt in its cone is <= ratio_max times its own pt.

    Args:
        lepton: Efficiency and largest ratio.
        isolation: Size of the cone and smallest pt.
        candidate: pt in GeV, eta, phi and pseudorapidity at the calorimeter, which the efficiency depends on.
        itself: Place of the candidate among the energy-flow objects, NOT_IN_FLOW if it is not one of them.
        flow: Energy-flow objects but for electrons and muons, rows pt in GeV, eta, phi, shape (3, n).
        state: Stream of random numbers.
    """
    pt, eta, phi, calorimeter_eta = candidate
    efficiency = step_value(lepton.efficiency, calorimeter_eta, pt)
    if efficiency == 0.0 or uniform(state) > efficiency:
        return False
    return isolation_sum(isolation, eta, phi, itself, flow) <= lepton.ratio_max * pt


@compiled
def count_tracks(tagger: TauTagger, eta: float, phi: float, tracks: np.ndarray) -> tuple[int, int]:
    """Count the tracks in the tagger's cone around a jet and sum their charges.

    Args:
        tagger: Size of the cone and smallest pt.
        eta: Pseudorapidity of the jet.
        phi: Azimuth of the jet.
        tracks: Tracks found, ``towers.TRACK``, shape (n,).
    """
    count, charge = 0, 0
    for track in tracks:
        near = distance2(eta, phi, track.eta, track.phi) <= tagger.track_radius**2
        if near and track.pt >= tagger.track_pt_min:
            count += 1
            charge += track.charge
    return count, charge


@compiled
def match_tau(tagger: TauTagger, eta: float, phi: float, taus: np.ndarray) -> int:
    """Find the true tau whose visible momentum is nearest to a jet.

    Args:
        tagger: Largest distance, and which taus count.
        eta: Pseudorapidity of the jet.
        phi: Azimuth of the jet.
        taus: Rows visible eta and phi, pt in GeV and eta of the tau itself, shape (4, n).

    Returns:
        Place of the tau, NO_TAU if none counts within the distance.
    """
    nearest, nearest2 = NO_TAU, tagger.tau_radius**2
    for i in range(taus.shape[1]):
        d2 = distance2(eta, phi, taus[0, i], taus[1, i])
        if taus[2, i] > tagger.tau_pt_min and abs(taus[3, i]) <= tagger.tau_eta_max and d2 <= nearest2:
            nearest, nearest2 = i, d2
    return nearest


@compiled
def tag_probability(tagger: TauTagger, is_tau: bool, n_tracks: int) -> float:
    """Probability that a jet is tagged, from its number of tracks (two stands for two or more)."""
    return tagger.efficiency[min(n_tracks, 2)] if is_tau else tagger.mistag[min(n_tracks, 2)]


@compiled
def direction(px: float, py: float, pz: float) -> tuple[float, float, float]:
    """Transverse momentum, pseudorapidity and azimuth in (-pi, pi]."""
    pt = math.hypot(px, py)
    return pt, math.asinh(pz / pt), math.atan2(py, px)
