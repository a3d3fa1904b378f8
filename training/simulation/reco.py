"""Reconstructed events as arrays: what the detector hands to the selection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEPTON = np.dtype(
    [("pt", np.float64), ("eta", np.float64), ("phi", np.float64), ("charge", np.int64), ("is_muon", np.bool_)]
)
"""One lepton; see ``Leptons``."""

JET = np.dtype(
    [
        ("pt", np.float64),
        ("eta", np.float64),
        ("phi", np.float64),
        ("raw_pt", np.float64),
        ("n_tracks", np.int64),
        ("charge", np.int64),
        ("tau", np.int64),
        ("tag_probability", np.float64),
        ("tagged", np.bool_),
    ]
)
"""One jet; see ``Jets``."""


@dataclass(frozen=True)
class Leptons:
    """Isolated electrons and muons after overlap removal, each array of shape (n,).

    Args:
        pt: Transverse momentum in GeV, float64.
        eta: Pseudorapidity, float64.
        phi: Azimuth, float64.
        charge: Charge, int64.
        is_muon: Whether it is a muon, bool.
    """

    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    charge: np.ndarray
    is_muon: np.ndarray

    def __len__(self) -> int:
        return len(self.pt)


@dataclass(frozen=True)
class Jets:
    """Calibrated jets after overlap removal, in order of falling pt within an event, each array of shape (n,).

    Args:
        pt: Calibrated transverse momentum in GeV, float64.
        eta: Pseudorapidity, float64.
        phi: Azimuth, float64.
        raw_pt: Transverse momentum before calibration in GeV, float64.
        n_tracks: Tracks in the cone of the tau tagger, int64.
        charge: Sum of their charges, int64.
        tau: Row in the batch's taus of the true tau that this jet matches, -1 if none, int64.
        tag_probability: Probability to be tagged as hadronic tau, float64.
        tagged: Whether the event's own seed tags it, bool.
    """

    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    raw_pt: np.ndarray
    n_tracks: np.ndarray
    charge: np.ndarray
    tau: np.ndarray
    tag_probability: np.ndarray
    tagged: np.ndarray

    def __len__(self) -> int:
        return len(self.pt)


@dataclass(frozen=True)
class RecoBatch:
    """Reconstructed events.

    Args:
        leptons: Leptons of all events.
        lepton_offsets: Where each event's leptons start, shape (n + 1,), int64.
        jets: Jets of all events.
        jet_offsets: Where each event's jets start, shape (n + 1,), int64.
        met: Missing transverse momentum in GeV, shape (n,), float64.
        met_phi: Its azimuth, shape (n,), float64.
        sum_et: Scalar sum of the transverse momenta of towers and muons in GeV, shape (n,), float64.
    """

    leptons: Leptons
    lepton_offsets: np.ndarray
    jets: Jets
    jet_offsets: np.ndarray
    met: np.ndarray
    met_phi: np.ndarray
    sum_et: np.ndarray

    def __len__(self) -> int:
        return len(self.met)
