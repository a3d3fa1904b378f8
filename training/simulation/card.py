"""Every constant of the detector, in one table.

All numbers are those of the challenge's Delphes card, ``cards/delphes_card_ATLAS_modify.tcl`` of the repository
FAIR-Universe/genHEPdata; each entry names the module of the card it comes from. Where the card says nothing, the
default of Delphes 3.5 is used and named as such. The tables are named tuples, and compiled code takes them as an
argument: a changed constant can then never meet code compiled for the old one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Steps = np.ndarray
"""Rows of numbers that begin with limits; the first row whose limits hold counts, and 0 if none does."""


class Magnet(NamedTuple):
    """Cylinder inside which particles fly to the calorimeters; module ParticlePropagator.

    Args:
        radius: Radius in m.
        half_length: Half of the length in m.
        field: Field along the beam in tesla.
    """

    radius: float
    half_length: float
    field: float


class Tracker(NamedTuple):
    """Tracks of one kind of charged particle; modules *TrackingEfficiency and *MomentumSmearing.

    Args:
        efficiency: Probability to find the track, rows (largest |eta|, pt above in GeV, probability).
        resolution: Relative resolution of pt, sqrt(a^2 + (b pt)^2), rows (largest |eta|, pt above in GeV, a, b).
    """

    efficiency: Steps
    resolution: Steps


class Calorimeter(NamedTuple):
    """One layer of the calorimeter; modules ECal and HCal.

    Args:
        eta_edges: Edges of the towers in pseudorapidity, shape (n,), rising.
        n_phi: Number of towers around the beam in each row, shape (n,); entry i is of the row that ends at edge i.
        resolution: Energy resolution sqrt((a E)^2 + b^2 E + c^2) in GeV, rows (largest |eta|, a, b, c); eta is that
            of the tower's centre.
        energy_min: Smallest measured energy kept, GeV.
        significance_min: Smallest measured energy kept, in units of its resolution.
    """

    eta_edges: np.ndarray
    n_phi: np.ndarray
    resolution: Steps
    energy_min: float
    significance_min: float


class Lepton(NamedTuple):
    """Reconstruction of electrons, muons or photons; modules *Efficiency and *Isolation.

    Args:
        efficiency: Probability to identify one, rows (largest |eta|, pt above in GeV, probability).
        ratio_max: Largest sum of the pt in the cone, divided by the candidate's own.
    """

    efficiency: Steps
    ratio_max: float


class Isolation(NamedTuple):
    """What counts in the isolation cone; modules PhotonIsolation, ElectronIsolation, MuonIsolation (all alike).

    Args:
        radius: Largest distance.
        pt_min: Smallest pt of what is summed, GeV.
    """

    radius: float
    pt_min: float


class JetFinder(NamedTuple):
    """Jets and their scale; modules FastJetFinder and JetEnergyScale.

    Args:
        radius: R of anti-kt.
        pt_min: Smallest pt before calibration, GeV.
        scale_offset: a of the scale sqrt((a - b |eta|)^2 / pt + 1), in sqrt(GeV).
        scale_slope: b of the scale, in sqrt(GeV).
    """

    radius: float
    pt_min: float
    scale_offset: float
    scale_slope: float


class TauTagger(NamedTuple):
    """Track counting; module TauTagging.

    Args:
        track_radius: Size of the cone in which tracks are counted.
        track_pt_min: Smallest pt of a counted track, GeV.
        tau_radius: Largest distance of a true tau's visible momentum.
        tau_pt_min: A true tau counts above this pt, GeV.
        tau_eta_max: A true tau counts up to this |eta|.
        efficiency: Probability to tag a jet with a true tau and (0, 1, 2 or more) tracks.
        mistag: The same for other jets.
    """

    track_radius: float
    track_pt_min: float
    tau_radius: float
    tau_pt_min: float
    tau_eta_max: float
    efficiency: tuple[float, float, float]
    mistag: tuple[float, float, float]


class Card(NamedTuple):
    """The whole detector."""

    magnet: Magnet
    hadron_tracks: Tracker
    electron_tracks: Tracker
    muon_tracks: Tracker
    ecal: Calorimeter
    hcal: Calorimeter
    photon: Lepton
    electron: Lepton
    muon: Lepton
    isolation: Isolation
    jets: JetFinder
    taus: TauTagger


ECAL_ONLY = (11, 22, 111)
"""Particles (|PDG code|) whose whole energy is in the electromagnetic layer; EnergyFraction of ECal and HCal."""

INVISIBLE = (12, 13, 14, 16, 1000022, 1000023, 1000025, 1000035, 1000045)
"""Particles that leave nothing in either layer; EnergyFraction of ECal and HCal."""

SHARED = (310, 3122)
"""Particles that share their energy between the layers; EnergyFraction of ECal and HCal."""

SHARED_ECAL_FRACTION = 0.3
"""Part of the shared energy in the electromagnetic layer; all other particles: all in the hadronic layer."""


def _ecal_segments() -> tuple[np.ndarray, np.ndarray]:
    """Rows of module ECal: 1 degree in phi and 0.0174 in eta up to 2.958, then 10 degrees up to 5."""
    fine = [i * 0.0174 for i in range(-85, 87)]
    fine += [start + i * 0.0174 for start in (-2.958, 1.4964) for i in range(1, 85)]
    forward = [3.125, 3.3, 3.475, 3.65, 3.825, 4.0, 4.175, 4.35, 4.525, 4.7, 5.0]
    coarse = [-eta for eta in forward] + [-2.958, *forward]
    return _rows([(fine, 360), (coarse, 36)])


def _hcal_segments() -> tuple[np.ndarray, np.ndarray]:
    """Rows of module HCal: 10 degrees in phi up to 2.6 (and where the card mixes the two lists), then 20 degrees."""
    ten = [-3.2, *(i / 10 for i in range(-25, 27)), 3.3]
    twenty = [-4.9, -4.7, -4.5, -4.3, -4.1, -3.9, -3.7, -3.5, -3.3, -3.0, -2.8, -2.6]
    twenty += [2.8, 3.0, 3.2, 3.5, 3.7, 3.9, 4.1, 4.3, 4.5, 4.7, 4.9]
    return _rows([(ten, 36), (twenty, 18)])


def _rows(lists: list[tuple[list[float], int]]) -> tuple[np.ndarray, np.ndarray]:
    """Sort edges of all lists together; a row has the phi bins of the list that its upper edge is in."""
    rows = sorted((edge, n_phi) for edges, n_phi in lists for edge in edges)
    return np.array([edge for edge, _ in rows]), np.array([n_phi for _, n_phi in rows], dtype=np.int64)


ATLAS = Card(
    magnet=Magnet(radius=1.15, half_length=3.51, field=2.0),
    hadron_tracks=Tracker(
        efficiency=np.array([(1.5, 1.0, 0.95), (1.5, 0.1, 0.70), (2.5, 1.0, 0.85), (2.5, 0.1, 0.60)]),
        resolution=np.array([(0.5, 0.1, 0.06, 1.3e-3), (1.5, 0.1, 0.10, 1.7e-3), (2.5, 0.1, 0.25, 3.1e-3)]),
    ),
    electron_tracks=Tracker(
        efficiency=np.array(
            [
                (1.5, 100.0, 0.99),
                (1.5, 1.0, 0.95),
                (1.5, 0.1, 0.73),
                (2.5, 100.0, 0.90),
                (2.5, 1.0, 0.83),
                (2.5, 0.1, 0.50),
            ]
        ),
        resolution=np.array([(0.5, 0.1, 0.03, 1.3e-3), (1.5, 0.1, 0.05, 1.7e-3), (2.5, 0.1, 0.15, 3.1e-3)]),
    ),
    muon_tracks=Tracker(
        efficiency=np.array([(1.5, 1.0, 0.99), (1.5, 0.1, 0.75), (2.5, 1.0, 0.98), (2.5, 0.1, 0.70)]),
        resolution=np.array([(0.5, 0.1, 0.01, 1.0e-4), (1.5, 0.1, 0.015, 1.5e-4), (2.5, 0.1, 0.025, 3.5e-4)]),
    ),
    ecal=Calorimeter(
        *_ecal_segments(),
        resolution=np.array([(3.2, 0.0017, 0.101, 0.0), (4.9, 0.0350, 0.285, 0.0)]),
        energy_min=0.5,
        significance_min=2.0,
    ),
    hcal=Calorimeter(
        *_hcal_segments(),
        resolution=np.array([(1.7, 0.0302, 0.5205, 1.59), (3.2, 0.0500, 0.706, 0.0), (4.9, 0.09420, 1.00, 0.0)]),
        energy_min=1.0,
        significance_min=2.0,
    ),
    photon=Lepton(efficiency=np.array([(1.5, 10.0, 0.95), (2.5, 10.0, 0.85)]), ratio_max=0.12),
    electron=Lepton(efficiency=np.array([(1.5, 10.0, 0.95), (2.5, 10.0, 0.85)]), ratio_max=0.12),
    muon=Lepton(efficiency=np.array([(1.5, 10.0, 0.95), (2.7, 10.0, 0.85)]), ratio_max=0.25),
    isolation=Isolation(radius=0.5, pt_min=0.5),
    jets=JetFinder(radius=0.6, pt_min=20.0, scale_offset=3.0, scale_slope=0.2),
    taus=TauTagger(
        track_radius=0.2,
        track_pt_min=1.0,
        tau_radius=0.2,
        tau_pt_min=1.0,
        tau_eta_max=2.5,
        efficiency=(0.0, 0.70, 0.60),
        mistag=(0.0, 0.02, 0.01),
    ),
)
"""The challenge's card."""
