"""Charged particles: their way through the field, their tracks' efficiency and resolution."""

from __future__ import annotations

import math

import numpy as np

from training.simulation.card import Card, Magnet, Steps, Tracker
from training.simulation.compilation import compiled
from training.simulation.draws import log_normal, uniform

Vector = tuple[float, float, float]

HADRON, ELECTRON, MUON = 0, 11, 13
"""Kinds of tracks; leptons carry their PDG code."""

CURVATURE = 0.299792458
"""A charge e in B tesla turns with a radius of pt / (CURVATURE B) metres, pt in GeV."""


@compiled
def delta_phi(first: float, second: float) -> float:
    """Difference of two azimuths in [-pi, pi]."""
    difference = first - second
    return difference - 2.0 * math.pi * round(difference / (2.0 * math.pi))


@compiled
def kind_of(pdg: int) -> int:
    """Kind of track that a charged particle makes."""
    code = abs(pdg)
    return code if code in (ELECTRON, MUON) else HADRON


@compiled
def step_value(steps: Steps, eta: float, pt: float) -> float:
    """Value of the first row (limit of |eta|, limit of pt, value) with |eta| <= and pt > its limit, else 0."""
    for i in range(len(steps)):
        if abs(eta) <= steps[i, 0] and pt > steps[i, 1]:
            value: float = steps[i, 2]
            return value
    return 0.0


@compiled
def track_resolution(steps: Steps, eta: float, pt: float) -> float:
    """Relative resolution min(1, sqrt(a^2 + (b pt)^2)) of a track's pt; 0 outside of all steps."""
    for i in range(len(steps)):
        if abs(eta) <= steps[i, 0] and pt > steps[i, 1]:
            return min(1.0, math.hypot(steps[i, 2], steps[i, 3] * pt))
    return 0.0


@compiled
def tracker_of(card: Card, kind: int) -> Tracker:
    """Tracker's numbers for a kind of track."""
    if kind == ELECTRON:
        return card.electron_tracks
    return card.muon_tracks if kind == MUON else card.hadron_tracks


@compiled
def fly_straight(magnet: Magnet, momentum: Vector, place: Vector) -> Vector:
    """Place where a straight line leaves the cylinder.

    The way k (in units of the momentum) to the barrel solves |(x, y) + k (px, py)| = radius, that to the end plate
    z + k pz = +-half_length; the shorter one counts.

    Args:
        magnet: The cylinder.
        momentum: Momentum (px, py, pz) in GeV.
        place: Place of production (x, y, z) in m, inside the cylinder.

    Returns:
        (x, y, z) in m.
    """
    px, py, pz = momentum
    x, y, z = place
    pt2 = px * px + py * py
    cross = px * y - py * x
    k = (math.sqrt(pt2 * magnet.radius**2 - cross * cross) - px * x - py * y) / pt2
    if pz != 0.0:
        k = min(k, (math.copysign(magnet.half_length, pz) - z) / pz)
    return x + px * k, y + py * k, z + pz * k


@compiled
def fly_helix(magnet: Magnet, charge: float, momentum: Vector, place: Vector) -> tuple[float, float, float, float]:
    r"""Place where a helix leaves the cylinder, and the direction at its closest approach to the beam.

    With the signed radius r = pt / (0.2998 q B) and the azimuth f of the momentum at production, the axis is at
    (x + r sin f, y - r cos f). After turning by an angle a >= 0 the azimuth is f - sign(r) a and z has moved by
    \|r\| a pz / pt. The barrel is met an angle arccos((r^2 + c^2 - radius^2) / (2 \|r\| c)) after the closest
    approach, c being the distance of the axis from the beam, and never if c + \|r\| < radius.

    Args:
        magnet: The cylinder and the field.
        charge: Charge in units of the positron's.
        momentum: Momentum (px, py, pz) in GeV.
        place: Place of production (x, y, z) in m, inside the cylinder.

    Returns:
        x, y, z in m and the azimuth of the momentum at the closest approach.
    """
    px, py, pz = momentum
    x, y, z = place
    pt = math.hypot(px, py)
    azimuth = math.atan2(py, px)
    r = pt / (CURVATURE * charge * magnet.field)
    sign = math.copysign(1.0, r)
    x_axis, y_axis = x + r * math.sin(azimuth), y - r * math.cos(azimuth)
    c = math.hypot(x_axis, y_axis)
    # Of the closest and the farthest point, half a turn apart, the card's program takes the one nearer in time.
    closest = sign * (azimuth + math.atan2(x_axis, y_axis))
    closest -= math.pi * round(closest / math.pi)
    turn = 1.0e9  # a particle that flies exactly across the beam never reaches an end plate
    if pz != 0.0:
        turn = (math.copysign(magnet.half_length, pz) - z) * pt / (pz * abs(r))
    if c + abs(r) >= magnet.radius:
        cosine = (r * r + c * c - magnet.radius**2) / (2.0 * abs(r) * c)
        turn = min(turn, closest + math.acos(min(1.0, max(-1.0, cosine))))
    end = azimuth - sign * turn
    x_end, y_end = x_axis - r * math.sin(end), y_axis + r * math.cos(end)
    return x_end, y_end, z + abs(r) * turn * pz / pt, azimuth - sign * closest


@compiled
def find_tracks(tracks: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Draw which tracks are found, and their measured pt: log-normal around the true one.

    Args:
        tracks: Tracks, ``towers.TRACK``, shape (n,).
        state: Stream of random numbers.

    Returns:
        The tracks found, their pt being the measured one.
    """
    found, n = np.empty_like(tracks), 0
    for i in range(len(tracks)):
        if uniform(state) <= tracks[i].efficiency:
            found[n] = tracks[i]
            found[n].pt = log_normal(tracks[i].pt, tracks[i].resolution * tracks[i].pt, state)
            n += 1
    return found[:n]


@compiled
def energy_of(track: np.record) -> float:
    """Energy of a track in GeV, from pt, eta and mass."""
    return math.sqrt((track.pt * math.cosh(track.eta)) ** 2 + track.mass**2)
