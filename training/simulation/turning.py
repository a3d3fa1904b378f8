"""New directions of the two taus of a boson, after the shower: many pairs from one showered event.

What a boson decays to has no influence on what it recoils against: Pythia draws the decay in the hard process and
carries it along with the boson. So a showered event stays as likely as it was when its taus are given other directions
from the distribution they were drawn from (``sets.pair_angle``). What the taus radiate turns with them.
"""

from __future__ import annotations

import math

import numpy as np

from training.simulation.compilation import compiled


@compiled
def boost(p: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Boost a four-momentum (px, py, pz, E), shape (4,), by a velocity, shape (3,)."""
    square = velocity[0] ** 2 + velocity[1] ** 2 + velocity[2] ** 2
    gamma = 1.0 / math.sqrt(1.0 - square)
    along = velocity[0] * p[0] + velocity[1] * p[1] + velocity[2] * p[2]
    factor = gamma * gamma / (1.0 + gamma) * along + gamma * p[3]
    out = np.empty(4)
    for i in range(3):
        out[i] = p[i] + factor * velocity[i]
    out[3] = gamma * (p[3] + along)
    return out


@compiled
def carried(p: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Carry a decay product along with its parent as Pythia does (``RotBstMatrix::bst``), shape (4,).

    Args:
        p: Four-momentum of the product, shape (4,).
        before: Of its parent in the hard process.
        after: Of its parent after the shower.
    """
    velocity = (after[:3] - before[:3]) / (before[3] + after[3])
    return boost(p, velocity * (2.0 / (1.0 + (velocity**2).sum())))


@compiled
def turned(
    products: np.ndarray,
    direction: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    cosines: np.ndarray,
    azimuths: np.ndarray,
    spins: np.ndarray,
) -> np.ndarray:
    """Decay products of a boson, turned as a whole so that the tau- gets k new directions, shape (k, m, 4).

    Args:
        products: Four-momenta after the shower, shape (m, 4), GeV; they add up to ``after``.
        direction: Four-momentum of the tau- before it radiates, shape (4,).
        before: Of the boson in the hard process, shape (4,).
        after: Of the boson after the shower, shape (4,).
        cosines: Of the angle between tau- and +z in the rest frame of the boson in the hard process, shape (k,).
        azimuths: Of the tau- there, shape (k,).
        spins: Rotation of everything about the new direction, shape (k,); all in radians.
    """
    out = np.empty((len(cosines), len(products), 4))
    rest = -after[:3] / after[3]
    old = _axes(boost(direction, rest)[:3], 0.0)
    # Along the axes of the old direction; sums by hand, as they are shorter than a call of a library.
    parts = np.empty((len(products), 4))
    for j in range(len(products)):
        p = boost(products[j], rest)
        for axis in range(3):
            parts[j, axis] = p[0] * old[axis, 0] + p[1] * old[axis, 1] + p[2] * old[axis, 2]
        parts[j, 3] = p[3]
    p = np.empty(4)
    for i in range(len(cosines)):
        sine = math.sqrt(max(0.0, 1.0 - cosines[i] ** 2))
        # A light-like vector of the boson's rest frame is enough for a direction.
        light = np.array([sine * math.cos(azimuths[i]), sine * math.sin(azimuths[i]), cosines[i], 1.0])
        hard = boost(light * before[3], before[:3] / before[3])
        new = _axes(boost(carried(hard, before, after), rest)[:3], spins[i])
        for j in range(len(products)):
            for x in range(3):
                p[x] = parts[j, 0] * new[0, x] + parts[j, 1] * new[1, x] + parts[j, 2] * new[2, x]
            p[3] = parts[j, 3]
            out[i, j] = boost(p, -rest)
    return out


@compiled
def _axes(along: np.ndarray, spin: float) -> np.ndarray:
    """Right-handed unit vectors, shape (3, 3), of which the last is ``along`` and the first turned by ``spin``."""
    out = np.empty((3, 3))
    length = math.sqrt((along**2).sum())
    x, y, z = along[0] / length, along[1] / length, along[2] / length
    across = math.hypot(x, y)
    c, s = (x / across, y / across) if across > 0.0 else (1.0, 0.0)
    polar = np.array([c * z, s * z, -across])
    azimuthal = np.array([-s, c, 0.0])
    out[0] = math.cos(spin) * polar + math.sin(spin) * azimuthal
    out[1] = math.cos(spin) * azimuthal - math.sin(spin) * polar
    out[2] = np.array([x, y, z])
    return out
