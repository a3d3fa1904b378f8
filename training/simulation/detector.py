"""The detector: from particles to reconstructed leptons, jets and missing momentum.

``detect`` is the whole of it. It is made of two steps, and the first adds up: ``deposits`` finds where particles hit
the calorimeters and sums their true energies per tower, ``overlay`` adds the deposits of two sets of events (say, tau
decay products on an underlying event), ``measure`` draws the detector's response. What comes out of an event depends
on its content and its own seed alone, not on the other events of the batch:

    fixed = deposits(recoil).take(np.repeat(np.arange(n), passes))
    reco = measure(overlay(fixed, deposits(decays)), seeds)
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from sage.errors import InputError
from training.simulation.calorimeter import energy_flow, measure_towers
from training.simulation.card import ATLAS, Card
from training.simulation.compilation import compiled
from training.simulation.draws import OBJECTS, TAGS, TOWERS, TRACKS, stream, uniform
from training.simulation.event import EventBatch
from training.simulation.jets import NO_JET, anti_kt, energy_scale
from training.simulation.objects import (
    NO_TAU,
    NOT_IN_FLOW,
    count_tracks,
    direction,
    identify,
    match_tau,
    tag_probability,
)
from training.simulation.reco import JET, LEPTON, Jets, Leptons, RecoBatch
from training.simulation.selection import NO_LEPTON, pick_lepton
from training.simulation.towers import LAYER_BIT, NO_TOWER, Deposits, bisect, deposits, overlay
from training.simulation.tracking import ELECTRON, HADRON, MUON, energy_of, find_tracks

__all__ = ["Deposits", "Jets", "Leptons", "RecoBatch", "deposits", "detect", "measure", "overlay"]

Rows = TypeVar("Rows", bound=Any)


def detect(batch: EventBatch, seeds: np.ndarray, *, only_selectable: bool = False, card: Card = ATLAS) -> RecoBatch:
    """Reconstruct events; see ``measure`` for the arguments."""
    return measure(deposits(batch, card), seeds, only_selectable=only_selectable, card=card)


def measure(deposits: Deposits, seeds: np.ndarray, *, only_selectable: bool = False, card: Card = ATLAS) -> RecoBatch:
    """Draw the response of the detector to deposits.

    Args:
        deposits: Towers and tracks of n events.
        seeds: One seed per event, shape (n,), uint64; equal event and seed give an equal result.
        only_selectable: Leave out the jets of events that the selection drops for their leptons; all else is equal.
        card: The detector; the one that made the deposits.

    Returns:
        The reconstructed events, in the order of the deposits.

    Raises:
        InputError: If there is not one seed per event.
    """
    if seeds.shape != (len(deposits),) or seeds.dtype != np.uint64:
        msg = f"seeds are {seeds.dtype} of shape {seeds.shape}; give one uint64 for each of the {len(deposits)} events"
        raise InputError(msg)
    taus = deposits.taus
    visible_pt = np.hypot(taus.px, taus.py)
    tau_rows = np.stack([np.arcsinh(taus.pz / visible_pt), np.arctan2(taus.py, taus.px), taus.pt, taus.eta])
    leptons, lepton_offsets, jets, jet_offsets, met, met_phi, sum_et = _measure_all(
        card,
        (deposits.towers, deposits.energies, deposits.tower_offsets),
        (deposits.tracks, deposits.track_offsets),
        (tau_rows, deposits.tau_offsets),
        seeds,
        only_selectable,
    )
    return RecoBatch(
        _columns(Leptons, leptons), lepton_offsets, _columns(Jets, jets), jet_offsets, met, met_phi, sum_et
    )


def _columns(kind: type[Rows], rows: np.ndarray) -> Rows:
    """Turn rows into columns of the same names."""
    columns: Rows = kind(**{field.name: np.ascontiguousarray(rows[field.name]) for field in fields(kind)})
    return columns


@compiled
def find_leptons(
    card: Card,
    towers: np.ndarray,
    calorimeter: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    tracks: np.ndarray,
    state: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Electrons, muons and photons: energy flow, efficiency, isolation, and no electron in a photon's tower.

    Args:
        card: The detector.
        towers: Numbers of the towers, shape (n,).
        calorimeter: Their measured energies, resolutions and directions, as ``measure_towers`` returns them.
        tracks: Tracks found, TRACK, shape (m,).
        state: Stream of random numbers.

    Returns:
        Leptons, LEPTON, shape (k,), and which towers and which tracks no jet may hold because they belong to a
        photon, an electron or a muon, shapes (n,) and (m,), bool.
    """
    measured, sigmas, etas, phis = calorimeter
    neutral, scales = energy_flow(card, towers, measured, sigmas, tracks)
    flow, places, n = np.empty((3, len(tracks) + len(towers))), np.empty(len(towers), np.int64), 0
    for track in tracks:
        if track.kind == HADRON:
            flow[0, n], flow[1, n], flow[2, n] = track.pt * _scale_of(track, towers, scales), track.eta, track.phi
            n += 1
    for i in range(len(towers)):
        if neutral[i] > 0.0:
            flow[0, n], flow[1, n], flow[2, n] = neutral[i] / math.cosh(etas[i]), etas[i], phis[i]
            places[i] = n
            n += 1
    flow = flow[:, :n]

    by_photon, taken = np.zeros(len(towers), np.bool_), np.zeros(len(towers), np.bool_)
    taken_tracks = np.zeros(len(tracks), np.bool_)
    for i in range(len(towers)):
        if neutral[i] > 0.0 and towers[i] >> LAYER_BIT == 0:
            photon = (flow[0, places[i]], etas[i], phis[i], etas[i])
            by_photon[i] = identify(card.photon, card.isolation, photon, places[i], flow, state)
            taken[i] = by_photon[i]
    leptons, n = np.empty(len(tracks), LEPTON), 0
    for i in range(len(tracks)):
        track = tracks[i]
        if track.kind == HADRON:
            continue
        lepton = card.electron if track.kind == ELECTRON else card.muon
        pt = track.pt * _scale_of(track, towers, scales)
        candidate = (pt, track.eta, track.phi, track.calorimeter_eta)
        if not identify(lepton, card.isolation, candidate, NOT_IN_FLOW, flow, state):
            continue
        if track.kind == ELECTRON:
            tower = bisect(towers, track.tower, len(towers))
            if by_photon[tower]:
                continue
            taken[tower] = True
        else:
            taken_tracks[i] = True
        leptons[n].pt, leptons[n].eta, leptons[n].phi = pt, track.eta, track.phi
        leptons[n].charge, leptons[n].is_muon = track.charge, track.kind == MUON
        n += 1
    return leptons[:n], taken, taken_tracks


@compiled
def _scale_of(track: np.record, towers: np.ndarray, scales: np.ndarray) -> float:
    """Scale that energy flow gives a track."""
    return 1.0 if track.tower == NO_TOWER else scales[bisect(towers, track.tower, len(towers))]


@compiled
def jet_inputs(
    measured: np.ndarray,
    etas: np.ndarray,
    phis: np.ndarray,
    taken: np.ndarray,
    tracks: np.ndarray,
    taken_tracks: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Four-momenta of what jets and missing momentum are made of: towers, massless, and muons.

    Args:
        measured: Energies of the towers in GeV, shape (n,); those with 0 are left out.
        etas: Pseudorapidities of the towers, shape (n,).
        phis: Azimuths of the towers, shape (n,).
        taken: Which towers no jet may hold, shape (n,).
        tracks: Tracks found, TRACK, shape (m,); only muons count.
        taken_tracks: Which tracks no jet may hold, shape (m,).

    Returns:
        Rows px, py, pz, E in GeV, shape (4, k), and which of them no jet may hold, shape (k,).
    """
    size, n = len(measured) + len(tracks), 0
    momenta, forbidden = np.empty((4, size)), np.zeros(size, np.bool_)
    for i in range(len(measured)):
        if measured[i] > 0.0:
            _set_momentum(momenta, n, measured[i] / math.cosh(etas[i]), etas[i], phis[i], measured[i])
            forbidden[n] = taken[i]
            n += 1
    for i in range(len(tracks)):
        if tracks[i].kind == MUON:
            _set_momentum(momenta, n, tracks[i].pt, tracks[i].eta, tracks[i].phi, energy_of(tracks[i]))
            forbidden[n] = taken_tracks[i]
            n += 1
    return momenta[:, :n], forbidden[:n]


@compiled
def _set_momentum(momenta: np.ndarray, i: int, pt: float, eta: float, phi: float, e: float) -> None:
    """Set column i of rows px, py, pz, E."""
    momenta[0, i], momenta[1, i], momenta[2, i] = pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)
    momenta[3, i] = e


@compiled
def find_jets(
    card: Card, momenta: np.ndarray, forbidden: np.ndarray, tracks: np.ndarray, taus: np.ndarray, state: np.ndarray
) -> np.ndarray:
    """Jets: clustering, energy scale, tau tag; jets that hold a lepton or photon are dropped.

    Args:
        card: The detector.
        momenta: Towers and muons, rows px, py, pz, E in GeV, shape (4, n).
        forbidden: Which of them no jet may hold, shape (n,).
        tracks: Tracks found, TRACK, shape (m,).
        taus: True taus, rows as in ``match_tau``, shape (4, l).
        state: Stream of random numbers.

    Returns:
        Jets, JET, shape (k,), in order of falling pt.
    """
    raw, owners = anti_kt(momenta, card.jets.radius, card.jets.pt_min)
    held = np.zeros(raw.shape[1], np.bool_)
    for i in range(len(owners)):
        if forbidden[i] and owners[i] != NO_JET:
            held[owners[i]] = True
    jets, n = np.empty(raw.shape[1], JET), 0
    for i in range(raw.shape[1]):
        if held[i]:
            continue
        raw_pt, eta, phi = direction(raw[0, i], raw[1, i], raw[2, i])
        pt, place = raw_pt * energy_scale(card.jets, raw_pt, eta), n
        while place > 0 and jets[place - 1].pt < pt:
            jets[place] = jets[place - 1]
            place -= 1
        jet = jets[place]
        jet.pt, jet.eta, jet.phi, jet.raw_pt = pt, eta, phi, raw_pt
        jet.n_tracks, jet.charge = count_tracks(card.taus, eta, phi, tracks)
        jet.tau = match_tau(card.taus, eta, phi, taus)
        jet.tag_probability = tag_probability(card.taus, jet.tau != NO_TAU, jet.n_tracks)
        n += 1
    for i in range(n):
        jets[i].tagged = uniform(state) <= jets[i].tag_probability
    return jets[:n]


@compiled
def _append(buffer: np.ndarray, n: int, rows: np.ndarray) -> np.ndarray:
    """Write rows behind the first n ones of a buffer, into a larger copy if it is full."""
    if n + len(rows) > len(buffer):
        larger = np.empty(2 * (n + len(rows)), buffer.dtype)
        larger[:n] = buffer[:n]
        buffer = larger
    buffer[n : n + len(rows)] = rows
    return buffer


@compiled
def _measure_all(
    card: Card,
    hits: tuple[np.ndarray, np.ndarray, np.ndarray],
    charged: tuple[np.ndarray, np.ndarray],
    taus: tuple[np.ndarray, np.ndarray],
    seeds: np.ndarray,
    only_selectable: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measure event by event; arguments and results as in ``measure``, leptons and jets as rows."""
    all_towers, all_energies, tower_offsets = hits
    all_tracks, track_offsets = charged
    all_taus, tau_offsets = taus
    n = len(seeds)
    leptons, lepton_offsets = np.empty(2 * n, LEPTON), np.zeros(n + 1, np.int64)
    jets, jet_offsets = np.empty(3 * n, JET), np.zeros(n + 1, np.int64)
    met, met_phi, sum_et = np.empty(n), np.empty(n), np.zeros(n)
    for event in range(n):
        seed = seeds[event]
        towers = all_towers[tower_offsets[event] : tower_offsets[event + 1]]
        energies = all_energies[tower_offsets[event] : tower_offsets[event + 1]]
        tracks = find_tracks(all_tracks[track_offsets[event] : track_offsets[event + 1]], stream(seed, TRACKS))
        calorimeter = measure_towers(card, towers, energies, stream(seed, TOWERS))
        found, taken, taken_tracks = find_leptons(card, towers, calorimeter, tracks, stream(seed, OBJECTS))
        leptons = _append(leptons, lepton_offsets[event], found)
        lepton_offsets[event + 1] = lepton_offsets[event] + len(found)

        measured, _, etas, phis = calorimeter
        momenta, forbidden = jet_inputs(measured, etas, phis, taken, tracks, taken_tracks)
        px, py = 0.0, 0.0
        for i in range(len(forbidden)):
            px, py = px + momenta[0, i], py + momenta[1, i]
            sum_et[event] += math.hypot(momenta[0, i], momenta[1, i])
        met[event], met_phi[event] = math.hypot(px, py), math.atan2(-py, -px)
        jet_offsets[event + 1] = jet_offsets[event]
        if only_selectable and pick_lepton(found) == NO_LEPTON:
            continue
        event_taus = all_taus[:, tau_offsets[event] : tau_offsets[event + 1]]
        event_jets = find_jets(card, momenta, forbidden, tracks, event_taus, stream(seed, TAGS))
        for i in range(len(event_jets)):
            if event_jets[i].tau != NO_TAU:
                event_jets[i].tau += tau_offsets[event]
        jets = _append(jets, jet_offsets[event], event_jets)
        jet_offsets[event + 1] += len(event_jets)
    return leptons[: lepton_offsets[n]], lepton_offsets, jets[: jet_offsets[n]], jet_offsets, met, met_phi, sum_et
