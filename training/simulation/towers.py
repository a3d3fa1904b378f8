"""What the particles of an event deposit, before any resolution.

True energies per tower add up, and so do lists of tracks: ``overlay`` puts the deposits of two sets of events on top
of each other. An underlying event or a recoil can so be used many times while only the decay products change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sage.errors import InputError
from training.simulation.card import ATLAS, ECAL_ONLY, INVISIBLE, SHARED, SHARED_ECAL_FRACTION, Calorimeter, Card
from training.simulation.compilation import compiled
from training.simulation.event import EventBatch, Taus, check_offsets, gather, join_rows, take_rows
from training.simulation.tracking import (
    ELECTRON,
    HADRON,
    fly_helix,
    fly_straight,
    kind_of,
    step_value,
    track_resolution,
    tracker_of,
)

MM = 1.0e-3
"""Millimetre in metres."""

PT_MIN = math.sqrt(1.0e-9)
"""Particles below this pt in GeV are dropped; Delphes' ParticlePropagator."""

LAYER_BIT, ETA_BIT = 20, 10
"""A tower's number is layer << 20 | row in eta << 10 | bin in phi, layer 0 being ECAL and 1 HCAL."""

NO_TOWER = -1
"""Tower of what no tower measures."""


TRACK = np.dtype(
    [
        ("pt", np.float64),  # true transverse momentum in GeV
        ("eta", np.float64),  # pseudorapidity of the momentum
        ("phi", np.float64),  # azimuth of the momentum at the closest approach to the beam
        ("mass", np.float64),  # GeV
        ("calorimeter_eta", np.float64),  # pseudorapidity of the place where it enters the calorimeter
        ("efficiency", np.float64),  # probability to be found
        ("resolution", np.float64),  # relative resolution of pt
        ("charge", np.int64),
        ("kind", np.int64),  # HADRON, ELECTRON or MUON
        ("tower", np.int64),  # number of the tower that measures its energy, NO_TOWER for muons
    ]
)
"""A charged particle that the tracker may see."""


@dataclass(frozen=True)
class Deposits:
    """True energies per tower, tracks and taus of n events.

    Args:
        towers: Numbers of the towers hit, rising within an event, int32.
        energies: Their true energies in GeV, float64.
        tower_offsets: Where each event's towers start, shape (n + 1,), int64.
        tracks: Tracks of all events, TRACK.
        track_offsets: Where each event's tracks start, shape (n + 1,), int64.
        taus: True hadronic taus of all events.
        tau_offsets: Where each event's taus start, shape (n + 1,), int64.
    """

    towers: np.ndarray
    energies: np.ndarray
    tower_offsets: np.ndarray
    tracks: np.ndarray
    track_offsets: np.ndarray
    taus: Taus
    tau_offsets: np.ndarray

    def __post_init__(self) -> None:
        check_offsets("tower_offsets", self.tower_offsets, len(self.towers))
        check_offsets("track_offsets", self.track_offsets, len(self.tracks))
        check_offsets("tau_offsets", self.tau_offsets, len(self.taus))

    def __len__(self) -> int:
        return len(self.tower_offsets) - 1

    def take(self, events: np.ndarray) -> Deposits:
        """Return the given events, in that order; an event may appear several times."""
        towers, tower_offsets = gather(self.tower_offsets, events)
        tracks, track_offsets = gather(self.track_offsets, events)
        taus, tau_offsets = gather(self.tau_offsets, events)
        return Deposits(
            self.towers[towers],
            self.energies[towers],
            tower_offsets,
            self.tracks[tracks],
            track_offsets,
            take_rows(self.taus, taus),
            tau_offsets,
        )


def deposits(batch: EventBatch, card: Card = ATLAS) -> Deposits:
    """Let particles fly to the calorimeters and sum their energies per tower."""
    p = batch.particles
    columns = (p.pdg, p.px, p.py, p.pz, p.e, p.vx, p.vy, p.vz, p.charge)
    towers, energies, tower_offsets, tracks, track_offsets = _deposit_all(card, batch.offsets, columns)
    return Deposits(towers, energies, tower_offsets, tracks, track_offsets, batch.taus, batch.tau_offsets)


def overlay(first: Deposits, second: Deposits) -> Deposits:
    """Add two sets of events: event i of the result is event i of both together.

    Raises:
        InputError: If the numbers of events differ.
    """
    if len(first) != len(second):
        msg = f"cannot overlay {len(first)} events on {len(second)}; repeat events with `take` until both agree"
        raise InputError(msg)
    towers, energies, tower_offsets = _merge_all(
        first.towers, first.energies, first.tower_offsets, second.towers, second.energies, second.tower_offsets
    )
    tracks, track_offsets = _join_all(first.tracks, first.track_offsets, second.tracks, second.track_offsets)
    tau_rows, tau_offsets = interleave(first.tau_offsets, second.tau_offsets)
    taus = take_rows(join_rows([first.taus, second.taus]), tau_rows)
    return Deposits(towers, energies, tower_offsets, tracks, track_offsets, taus, tau_offsets)


def interleave(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order that puts event by event the rows of two lists, stored one after the other, together.

    Args:
        first: Offsets of the first list, shape (n + 1,).
        second: Offsets of the second list, shape (n + 1,).

    Returns:
        Row numbers in the joined list and offsets, shape (n + 1,), both int64.
    """
    both = np.concatenate([first[:-1], [first[-1]], second[1:] + first[-1]])
    n_events = len(first) - 1
    order = np.arange(2 * n_events).reshape(2, n_events).T.ravel()
    rows, offsets = gather(both, order)
    return rows, offsets[::2]


@compiled
def bisect(values: np.ndarray, value: float, size: int) -> int:
    """Place of the first of the leading ``size`` rising values that is not below a value; ``size`` if all are."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def tower_at(layer: int, calorimeter: Calorimeter, eta: float, phi: float) -> int:
    """Number of the tower at a place; NO_TOWER outside of the calorimeter.

    Towers are open at their lower and closed at their upper edge, as in Delphes' SimpleCalorimeter.
    """
    row = bisect(calorimeter.eta_edges, eta, len(calorimeter.eta_edges))
    if row == 0 or row == len(calorimeter.eta_edges):
        return NO_TOWER
    n_phi = calorimeter.n_phi[row]
    column = min(max(math.ceil((phi + math.pi) / (2.0 * math.pi) * n_phi) - 1, 0), n_phi - 1)
    tower: int = (layer << LAYER_BIT) | (row << ETA_BIT) | column
    return tower


@compiled
def tower_edges(card: Card, tower: int) -> tuple[float, float, float, float]:
    """Lower and upper edge of a tower in pseudorapidity, then in azimuth."""
    row, column = (tower >> ETA_BIT) & ((1 << ETA_BIT) - 1), tower & ((1 << ETA_BIT) - 1)
    calorimeter = card.hcal if tower >> LAYER_BIT else card.ecal
    width = 2.0 * math.pi / calorimeter.n_phi[row]
    edges = calorimeter.eta_edges
    return edges[row - 1], edges[row], column * width - math.pi, (column + 1) * width - math.pi


@compiled
def ecal_fraction(pdg: int) -> float:
    """Part of a particle's energy in the electromagnetic layer, the rest being in the hadronic; -1 if all is lost."""
    code = abs(pdg)
    if code in ECAL_ONLY:
        return 1.0
    if code in INVISIBLE:
        return -1.0
    return SHARED_ECAL_FRACTION if code in SHARED else 0.0


@compiled
def add_hit(towers: np.ndarray, energies: np.ndarray, n: int, tower: int, energy: float) -> int:
    """Add energy to a tower in a list that is in order of tower numbers.

    Args:
        towers: Numbers of the towers, the first n of which are set.
        energies: Their energies in GeV.
        n: Number of towers so far.
        tower: Number of the tower, NO_TOWER for none.
        energy: Energy in GeV; nothing happens if it is 0.

    Returns:
        The new number of towers.
    """
    if tower == NO_TOWER or energy == 0.0:
        return n
    place = bisect(towers, tower, n)
    if place == n or towers[place] != tower:
        for i in range(n, place, -1):
            towers[i], energies[i] = towers[i - 1], energies[i - 1]
        towers[place], energies[place] = tower, 0.0
        n += 1
    energies[place] += energy
    return n


@compiled
def _deposit_all(
    card: Card, offsets: np.ndarray, columns: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Towers and tracks of all events, from the columns of ``Particles``; results in the order of ``Deposits``."""
    pdg, px, py, pz, e, vx, vy, vz, charge = columns
    n = len(pdg)
    towers, energies, tracks = np.empty(2 * n, np.int32), np.empty(2 * n), np.empty(n, TRACK)
    tower_offsets, track_offsets = np.zeros_like(offsets), np.zeros_like(offsets)
    n_tracks = 0
    for event in range(len(offsets) - 1):
        start, n_towers = tower_offsets[event], 0
        for i in range(offsets[event], offsets[event + 1]):
            fraction = ecal_fraction(pdg[i])
            pt = math.hypot(px[i], py[i])
            x, y, z = vx[i] * MM, vy[i] * MM, vz[i] * MM
            outside = math.hypot(x, y) > card.magnet.radius or abs(z) > card.magnet.half_length
            if (fraction < 0.0 and charge[i] == 0) or pt < PT_MIN or outside:
                continue
            azimuth = 0.0
            if charge[i] == 0:
                x, y, z = fly_straight(card.magnet, (px[i], py[i], pz[i]), (x, y, z))
            else:
                x, y, z, azimuth = fly_helix(card.magnet, float(charge[i]), (px[i], py[i], pz[i]), (x, y, z))
            eta, phi = math.asinh(z / math.hypot(x, y)), math.atan2(y, x)
            in_ecal, in_hcal = tower_at(0, card.ecal, eta, phi), tower_at(1, card.hcal, eta, phi)
            if fraction >= 0.0:
                hits, sums = towers[start:], energies[start:]
                n_towers = add_hit(hits, sums, n_towers, in_ecal, e[i] * fraction)
                n_towers = add_hit(hits, sums, n_towers, in_hcal, e[i] * (1.0 - fraction))
            if charge[i] == 0:
                continue
            kind = kind_of(pdg[i])
            tracker = tracker_of(card, kind)
            efficiency = step_value(tracker.efficiency, eta, pt)
            if efficiency > 0.0:
                track = tracks[n_tracks]
                track.pt, track.eta, track.phi = pt, math.asinh(pz[i] / pt), azimuth
                track.mass = math.sqrt(max(0.0, e[i] ** 2 - pt**2 - pz[i] ** 2))
                track.calorimeter_eta, track.efficiency = eta, efficiency
                track.resolution = track_resolution(tracker.resolution, eta, pt)
                track.charge, track.kind = charge[i], kind
                track.tower = in_hcal
                if kind != HADRON:
                    track.tower = in_ecal if kind == ELECTRON else NO_TOWER
                n_tracks += 1
        tower_offsets[event + 1], track_offsets[event + 1] = start + n_towers, n_tracks
    end = tower_offsets[-1]
    return towers[:end].copy(), energies[:end].copy(), tower_offsets, tracks[:n_tracks].copy(), track_offsets


@compiled
def _merge_all(
    towers: np.ndarray,
    energies: np.ndarray,
    offsets: np.ndarray,
    more_towers: np.ndarray,
    more_energies: np.ndarray,
    more_offsets: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the sorted towers of two sets of events, event by event."""
    out_towers = np.empty(len(towers) + len(more_towers), np.int32)
    out_energies = np.empty(len(towers) + len(more_towers))
    out_offsets = np.zeros_like(offsets)
    n = 0
    for event in range(len(offsets) - 1):
        i, j = offsets[event], more_offsets[event]
        while i < offsets[event + 1] or j < more_offsets[event + 1]:
            tower, energy = np.int32(0), 0.0
            left = i < offsets[event + 1] and (j == more_offsets[event + 1] or towers[i] <= more_towers[j])
            right = j < more_offsets[event + 1] and (i == offsets[event + 1] or more_towers[j] <= towers[i])
            if left:
                tower, energy, i = towers[i], energies[i], i + 1
            if right:
                tower, energy, j = more_towers[j], energy + more_energies[j], j + 1
            out_towers[n], out_energies[n] = tower, energy
            n += 1
        out_offsets[event + 1] = n
    return out_towers[:n].copy(), out_energies[:n].copy(), out_offsets


@compiled
def _join_all(
    rows: np.ndarray, offsets: np.ndarray, more_rows: np.ndarray, more_offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put the rows of two sets of events together, event by event."""
    out, n = np.empty(len(rows) + len(more_rows), rows.dtype), 0
    out_offsets = np.zeros_like(offsets)
    for event in range(len(offsets) - 1):
        for row in rows[offsets[event] : offsets[event + 1]]:
            out[n] = row
            n += 1
        for row in more_rows[more_offsets[event] : more_offsets[event + 1]]:
            out[n] = row
            n += 1
        out_offsets[event + 1] = n
    return out, out_offsets
