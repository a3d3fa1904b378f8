"""Helicity amplitudes of g g -> (H*) -> Z Z -> 4 leptons at leading order, as functions of what is measured.

The masses, couplings and phases are of the size of the standard model's; what matters is that the signal, a triangle
of top quarks and the Higgs propagator, and the continuum interfere destructively, more so at high mass, with another
sign between the longitudinal and the transverse helicities. Z bosons have their pole mass.
"""

from __future__ import annotations

import math

import numpy as np

MZ, MH, WIDTH, MT = 91.19, 125.1, 0.0041, 173.0
"""GeV."""
RHO = 0.9
"""Peaking of the continuum in cos(theta*): its amplitude is (1 - RHO^2 cos^2)^-1/2."""
COUPLINGS = (0.5756, 0.4244)
"""Parts of left- and right-handed leptons."""
NORM = 9 / (8 * math.pi)
HELICITIES = (1, 0, -1)


def velocity(m: np.ndarray) -> np.ndarray:
    """Return the velocity of the Z bosons, 0 below their threshold; masses in GeV."""
    return np.sqrt(np.clip(1 - 4 * MZ**2 / m**2, 0.0, None))


def loop(m: np.ndarray) -> np.ndarray:
    """Return the amplitude of the top triangle, complex, at masses in GeV."""
    tau = 4 * MT**2 / m**2
    root = np.sqrt(np.clip(1 - tau, 1e-300, None))
    below = np.arcsin(1 / np.sqrt(np.maximum(tau, 1.0))) ** 2
    above = -0.25 * (np.log((1 + root) / (1 - root)) - 1j * math.pi) ** 2
    return np.asarray(1.5 * tau * (1 + (1 - tau) * np.where(tau >= 1, below, above)))


def signal(m: np.ndarray) -> np.ndarray:
    """Return the signal's amplitudes of helicities +, 0, -, complex, shape (3, N)."""
    s, triangle = m**2, loop(m)
    higgs = triangle * s / (s - MH**2 + 1j * MH * WIDTH)
    return np.stack([-higgs, higgs * (s - 2 * MZ**2) / (2 * MZ**2), -higgs])


def continuum(m: np.ndarray) -> np.ndarray:
    """Return the continuum's amplitudes of helicities +, 0, - at cos(theta*) = 0, complex, shape (3, N)."""
    s = m**2
    transverse = np.full(m.shape, 15 * np.exp(0.9j))
    longitudinal = -loop(m) * (s / (2 * MZ**2)) * s / (s + 400.0**2) - 2 * np.exp(0.5j)
    return np.stack([transverse, longitudinal, transverse])


def peaking(c: np.ndarray) -> np.ndarray:
    """Return the factor of the continuum's amplitude at cos(theta*)."""
    return np.asarray(1 / np.sqrt(1 - RHO**2 * c**2))


def decay(z: np.ndarray) -> np.ndarray:
    """Return the amplitudes of a decay into left- and right-handed leptons, helicities +, 0, -, shape (2, 3, N)."""
    down, up, across = (1 - z) / 2, (1 + z) / 2, np.sqrt(np.clip(1 - z**2, 0.0, None) / 2)
    return np.stack([np.stack([down, across, up]), np.stack([up, -across, down])])


def interference(left: np.ndarray, right: np.ndarray, c1: np.ndarray, c2: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Return |L|^2, 2 Re(L* R) and |R|^2 of two amplitudes, summed over the leptons' helicities, shape (3, N).

    Args:
        left: Amplitudes L of helicities +, 0, -, shape (3, N).
        right: Amplitudes R, likewise.
        c1: Cosine of the polar angle of the first decay, shape (N,).
        c2: Of the second.
        phi: Angle between the planes of decay.
    """
    first, second = decay(c1), decay(c2)
    phase = np.exp(1j * phi)
    turned = np.stack([phase, np.ones_like(phase), phase.conj()])
    ours, theirs = left * turned, right * turned
    total = np.zeros((3, len(phi)))
    for i, g1 in enumerate(COUPLINGS):
        for j, g2 in enumerate(COUPLINGS):
            both = first[i] * second[j]
            one, two = (ours * both).sum(axis=0), (theirs * both).sum(axis=0)
            total += g1 * g2 * np.stack([np.abs(one) ** 2, 2 * (one.conj() * two).real, np.abs(two) ** 2])
    return NORM * total


def incoherent(c1: np.ndarray, c2: np.ndarray) -> np.ndarray:
    """Return the rate of decays of helicities ++, 00 and -- without interference, shape (3, N)."""
    first, second = decay_rates(c1), decay_rates(c2)
    rate: np.ndarray = NORM * first * second
    return rate


def decay_rates(z: np.ndarray) -> np.ndarray:
    """Return the rates of one decay by helicity +, 0, -, summed over leptons, shape (3, N)."""
    rates: np.ndarray = np.einsum("s,shn->hn", np.array(COUPLINGS), decay(z) ** 2)
    return rates


def polarised(c1: np.ndarray, c2: np.ndarray, equal: float, longitudinal: float, opposite: float) -> np.ndarray:
    """Return the angular density of Z pairs with fractions of equal, longitudinal and opposite helicities, (N,)."""
    p1, o1, m1 = decay_rates(c1)
    p2, o2, m2 = decay_rates(c2)
    equals, opposites = (p1 * p2 + m1 * m2) / 2, (p1 * m2 + m1 * p2) / 2
    return np.asarray(NORM * (equal * equals + longitudinal * o1 * o2 + opposite * opposites))
