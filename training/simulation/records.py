"""From Pythia's event records to the arrays of the detector."""

from __future__ import annotations

from collections.abc import Sequence

import awkward as ak
import numpy as np
import pythia8mc

from training.simulation.event import EventBatch, Particles, Taus

NEUTRINOS = (12, 14, 16)

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Particles: event (n,), PDG code (n,), four-momentum in GeV (n, 4) and place of production in mm (n, 3)."""

TauRows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Hadronic taus: event, visible four-momentum in GeV (n, 4), pt in GeV, pseudorapidity, charge and prongs."""

NO_TAUS: TauRows = (
    np.zeros(0, np.int64),
    np.zeros((0, 4)),
    np.zeros(0),
    np.zeros(0),
    np.zeros(0, np.int8),
    np.zeros(0, np.int8),
)


def final_particles(record: ak.Array) -> Rows:
    """Final particles but neutrinos of the events of ``Pythia.nextBatch``, event by event."""
    # The few columns that are wanted, from the buffers: awkward's own selection would copy all of the record.
    events = ak.to_layout(record.prt)
    offsets, columns = events.offsets.data, events.content
    codes = columns["id"].data
    rows = np.flatnonzero((columns["status"].data > 0) & ~np.isin(np.abs(codes), NEUTRINOS))
    momenta = np.stack([columns["p"][name].data[rows] for name in ("px", "py", "pz", "e")], axis=-1)
    # Particles made at the origin have no place of production.
    places, made = np.zeros((len(rows), 3)), columns["vProd"]
    index = made.index.data[rows]
    away = index >= 0
    for axis, name in enumerate(("px", "py", "pz")):
        places[away, axis] = made.content[name].data[index[away]]
    return np.searchsorted(offsets, rows, side="right") - 1, codes[rows], momenta, places


def event_batch(n_events: int, parts: Sequence[Rows], taus: TauRows, data: pythia8mc.ParticleData) -> EventBatch:
    """Sort rows by event and put them into a batch.

    Args:
        n_events: Number of events.
        parts: Particles, in any order.
        taus: Hadronic taus, in any order.
        data: Where charges are looked up.
    """
    owner, codes, momenta, places = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(owner, kind="stable")
    kinds, which = np.unique(codes[order], return_inverse=True)
    charges = np.array([round(data.charge(int(kind))) for kind in kinds], dtype=np.int8)
    px, py, pz, e = _columns(momenta[order])
    vx, vy, vz = _columns(places[order])
    particles = Particles(codes[order].astype(np.int32), px, py, pz, e, vx, vy, vz, charges[which])
    tau_owner, visible, pt, eta, charge, prongs = taus
    by_event = np.argsort(tau_owner, kind="stable")
    px, py, pz, e = _columns(visible[by_event])
    true_taus = Taus(
        px,
        py,
        pz,
        e,
        pt[by_event],
        eta[by_event],
        charge[by_event].astype(np.int8),
        prongs[by_event].astype(np.int8),
    )
    return EventBatch(particles, _offsets(owner, n_events), true_taus, _offsets(tau_owner, n_events))


def _columns(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.T)


def _offsets(owner: np.ndarray, n_events: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n_events))]).astype(np.int64)
