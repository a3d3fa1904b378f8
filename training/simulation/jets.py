"""Anti-kt jets and their energy scale (modules FastJetFinder and JetEnergyScale).

The clustering is compiled here, since handing an event to fastjet and reading constituents back costs several times
what the clustering does; fastjet is the oracle of its tests.
"""

from __future__ import annotations

import math

import numpy as np

from training.simulation.card import JetFinder
from training.simulation.compilation import compiled

NO_JET = -1
"""Owner of an input that no jet holds."""

NONE = -1
"""No neighbour within the radius; nothing merged into."""

FAR_RAPIDITY = 1.0e5
"""Rapidity of a momentum along the beam."""


@compiled
def rapidity(pz: float, e: float, pt2: float) -> float:
    """Rapidity, from the larger light-cone momentum so that nothing cancels: ln((E + |pz|) / m_T), with pz's sign."""
    m2 = max(0.0, (e + pz) * (e - pz) - pt2)
    if pt2 + m2 <= 0.0:
        return math.copysign(FAR_RAPIDITY, pz)
    return math.copysign(math.log((e + abs(pz)) / math.sqrt(pt2 + m2)), pz)


@compiled
def _distance2(rap: np.ndarray, phi: np.ndarray, i: int, j: int) -> float:
    """Squared distance of two objects; azimuths in [-pi, pi]."""
    turn = abs(phi[i] - phi[j])
    squared: float = (rap[i] - rap[j]) ** 2 + min(turn, 2.0 * math.pi - turn) ** 2
    return squared


@compiled
def anti_kt(momenta: np.ndarray, radius: float, pt_min: float) -> tuple[np.ndarray, np.ndarray]:
    """Cluster four-momenta with anti-kt (arXiv:0802.1189) and add them up (E-scheme).

    The pair with the smallest d_ij = min(1 / pt_i^2, 1 / pt_j^2) dR_ij^2 is merged unless some d_i = R^2 / pt_i^2 is
    smaller; then i is a jet. An object can have the smallest distance to its nearest neighbour only
    (arXiv:hep-ph/0512210), so neighbours are kept and updated: n^2 steps for n objects.

    Args:
        momenta: Rows px, py, pz, E in GeV, shape (4, n); no pt may be 0.
        radius: R, in rapidity and azimuth.
        pt_min: Smallest pt of a jet in GeV.

    Returns:
        Momenta of the jets in no particular order, shape (4, k), and the jet of each input, shape (n,), NO_JET if it
        is in none.
    """
    size, radius2 = momenta.shape[1], radius * radius
    p = momenta.copy()
    rap, phi, weight, d = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    near, near2 = np.full(size, NONE), np.full(size, radius2)
    for i in range(size):
        _locate(p, i, rap, phi, weight)
        for j in range(i):
            d2 = _distance2(rap, phi, i, j)
            if d2 < near2[i]:
                near[i], near2[i] = j, d2
            if d2 < near2[j]:
                near[j], near2[j] = i, d2
    for i in range(size):
        d[i] = _clustering_distance(i, weight, near, near2)
    active, parents, jets, n_jets = np.arange(size), np.full(size, NONE), np.empty(size, np.int64), 0
    for n in range(size - 1, -1, -1):  # n objects are left after this step
        best, smallest = 0, np.inf
        for a in range(n + 1):
            distance = d[active[a]]
            if distance < smallest:
                best, smallest = a, distance
        gone = active[best]
        partner = near[gone]
        active[best] = active[n]
        if partner == NONE:
            # Nothing is within the radius, so it is nobody's neighbour either.
            jets[n_jets] = gone
            n_jets += 1
            continue
        parents[gone] = partner
        for k in range(4):
            p[k, partner] += p[k, gone]
        _locate(p, partner, rap, phi, weight)
        for a in range(n):
            i = active[a]
            d2 = _distance2(rap, phi, i, partner)
            if i == partner or near[i] == gone or near[i] == partner:
                near[i], near2[i] = NONE, radius2
                for b in range(n):
                    j = active[b]
                    other2 = _distance2(rap, phi, i, j)
                    if other2 < near2[i] and j != i:
                        near[i], near2[i] = j, other2
                d[i] = _clustering_distance(i, weight, near, near2)
            elif d2 < near2[i]:
                near[i], near2[i] = partner, d2
                d[i] = _clustering_distance(i, weight, near, near2)
    return _collect(p, parents, jets[:n_jets], pt_min)


@compiled
def _locate(p: np.ndarray, i: int, rap: np.ndarray, phi: np.ndarray, weight: np.ndarray) -> None:
    """Set rapidity, azimuth and 1 / pt^2 of an object from its momentum."""
    pt2 = p[0, i] ** 2 + p[1, i] ** 2
    rap[i], phi[i], weight[i] = rapidity(p[2, i], p[3, i], pt2), math.atan2(p[1, i], p[0, i]), 1.0 / pt2


@compiled
def _clustering_distance(i: int, weight: np.ndarray, near: np.ndarray, near2: np.ndarray) -> float:
    """R^2 times the smallest of d_i and the d_ij of object i."""
    distance: float = near2[i] * (weight[i] if near[i] == NONE else min(weight[i], weight[near[i]]))
    return distance


@compiled
def _collect(p: np.ndarray, parents: np.ndarray, jets: np.ndarray, pt_min: float) -> tuple[np.ndarray, np.ndarray]:
    """Keep the hard jets and find the jet of each input through what it was merged into."""
    numbers = np.full(len(parents), NO_JET)
    momenta, n = np.empty((4, len(jets))), 0
    for jet in jets:
        if math.hypot(p[0, jet], p[1, jet]) >= pt_min:
            for k in range(4):
                momenta[k, n] = p[k, jet]
            numbers[jet] = n
            n += 1
    owners = np.empty(len(parents), np.int64)
    for i in range(len(parents)):
        root = i
        while parents[root] != NONE:
            root = parents[root]
        owners[i] = numbers[root]
    return momenta[:, :n], owners


@compiled
def energy_scale(finder: JetFinder, pt: float, eta: float) -> float:
    """Factor sqrt((a - b |eta|)^2 / pt + 1) on a jet's four-momentum, from its pt before calibration in GeV."""
    return math.sqrt((finder.scale_offset - finder.scale_slope * abs(eta)) ** 2 / pt + 1.0)
