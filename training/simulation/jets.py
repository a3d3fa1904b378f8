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

COLUMNS, ROWS = 10, 18
"""Tiles in azimuth and in rapidity, in which neighbours are looked for; those at the ends hold all beyond."""
TILE = 2.0 * math.pi / COLUMNS
"""Their width: neighbours within a smaller radius are in the same tile or next to it."""
BLOCK = 16
"""Distances are compared in blocks of so many."""


def _tiles_beside() -> np.ndarray:
    """Each tile and those next to it, shape (n_tiles, 9), NONE where the rows end."""
    beside = np.full((ROWS * COLUMNS, 9), NONE)
    for tile in range(len(beside)):
        rows = [row for row in range(tile // COLUMNS - 1, tile // COLUMNS + 2) if 0 <= row < ROWS]
        found = [row * COLUMNS + (tile + step) % COLUMNS for row in rows for step in (-1, 0, 1)]
        beside[tile, : len(found)] = found
    return beside


BESIDE = _tiles_beside()


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
    (arXiv:hep-ph/0512210), so neighbours are kept and updated. They are looked for in tiles, as in
    fastjet's N2Tiled (arXiv:1111.6097), since few objects are near each other.

    Args:
        momenta: Rows px, py, pz, E in GeV, shape (4, n); no pt may be 0.
        radius: R, in rapidity and azimuth, at most ``TILE``.
        pt_min: Smallest pt of a jet in GeV.

    Returns:
        Momenta of the jets in no particular order, shape (4, k), and the jet of each input, shape (n,), NO_JET if it
        is in none.

    Raises:
        ValueError: If the radius is larger than a tile.
    """
    if radius > TILE:
        msg = "the radius is larger than a tile; make COLUMNS smaller"
        raise ValueError(msg)
    size, radius2 = momenta.shape[1], radius * radius
    p = momenta.copy()
    rap, phi, weight, d = np.empty(size), np.empty(size), np.empty(size), np.full(size + BLOCK, np.inf)
    near, near2 = np.full(size, NONE), np.full(size, radius2)
    # Objects of a tile are a list: its first one, and what follows each.
    tiles, first, following = np.empty(size, np.int64), np.full(len(BESIDE), NONE), np.empty(size, np.int64)
    for i in range(size):
        _locate(p, i, rap, phi, weight)
        tiles[i] = _tile(rap[i], phi[i])
        for tile in BESIDE[tiles[i]]:
            j = first[tile] if tile != NONE else NONE
            while j != NONE:
                d2 = _distance2(rap, phi, i, j)
                if d2 < near2[i]:
                    near[i], near2[i] = j, d2
                if d2 < near2[j]:
                    near[j], near2[j] = i, d2
                j = following[j]
        following[i], first[tiles[i]] = first[tiles[i]], i
    for i in range(size):
        d[i] = _clustering_distance(i, weight, near, near2)
    least = np.array([d[start : start + BLOCK].min() for start in range(0, size, BLOCK)])
    parents, jets, n_jets = np.full(size, NONE), np.empty(size, np.int64), 0
    around, seen, stale = np.empty(27, np.int64), np.full(len(BESIDE), NONE), np.zeros(len(least), np.bool_)
    for step in range(size):
        block = 0
        for k in range(1, len(least)):
            if least[k] < least[block]:
                block = k
        gone = block * BLOCK
        while d[gone] != least[block]:
            gone += 1
        partner = near[gone]
        d[gone] = np.inf
        stale[block] = True
        _leave(gone, tiles[gone], first, following)
        if partner == NONE:
            # Nothing is within the radius, so it is nobody's neighbour either.
            jets[n_jets] = gone
            n_jets += 1
        else:
            parents[gone] = partner
            for k in range(4):
                p[k, partner] += p[k, gone]
            # What was near either of them, and what their sum is near to.
            n_around = _add_tiles(tiles[gone], step, seen, around, 0)
            n_around = _add_tiles(tiles[partner], step, seen, around, n_around)
            _leave(partner, tiles[partner], first, following)
            _locate(p, partner, rap, phi, weight)
            tile = _tile(rap[partner], phi[partner])
            n_around = _add_tiles(tile, step, seen, around, n_around)
            tiles[partner], following[partner], first[tile] = tile, first[tile], partner
            for k in range(n_around):
                i = first[around[k]]
                while i != NONE:
                    d2 = _distance2(rap, phi, i, partner)
                    renewed = i == partner or near[i] == gone or near[i] == partner
                    if renewed:
                        near[i], near2[i] = _nearest(i, tiles[i], radius2, rap, phi, first, following)
                    elif d2 < near2[i]:
                        near[i], near2[i], renewed = partner, d2, True
                    if renewed:
                        d[i] = _clustering_distance(i, weight, near, near2)
                        stale[i // BLOCK] = True
                    i = following[i]
        for k in range(len(least)):
            if stale[k]:
                least[k], stale[k] = d[k * BLOCK : (k + 1) * BLOCK].min(), False
    return _collect(p, parents, jets[:n_jets], pt_min)


@compiled
def _tile(rap: float, phi: float) -> int:
    """Number of the tile of a place."""
    row = int(min(max(math.floor(rap / TILE) + ROWS // 2, 0), ROWS - 1))
    return row * COLUMNS + min(int((phi + math.pi) / TILE), COLUMNS - 1)


@compiled
def _add_tiles(tile: int, step: int, seen: np.ndarray, around: np.ndarray, n: int) -> int:
    """Append a tile and those next to it to a list of n, unless they are in it at this step; the new length."""
    for other in BESIDE[tile]:
        if other != NONE and seen[other] != step:
            seen[other], around[n] = step, other
            n += 1
    return n


@compiled
def _leave(i: int, tile: int, first: np.ndarray, following: np.ndarray) -> None:
    """Take an object out of the list of its tile."""
    if first[tile] == i:
        first[tile] = following[i]
        return
    j = first[tile]
    while following[j] != i:
        j = following[j]
    following[j] = following[i]


@compiled
def _nearest(
    i: int,
    tile: int,
    radius2: float,
    rap: np.ndarray,
    phi: np.ndarray,
    first: np.ndarray,
    following: np.ndarray,
) -> tuple[int, float]:
    """Nearest neighbour of an object within the radius and its squared distance; NONE and radius2 if there is none."""
    nearest, nearest2 = NONE, radius2
    for other in BESIDE[tile]:
        j = first[other] if other != NONE else NONE
        while j != NONE:
            distance2 = _distance2(rap, phi, i, j)
            if distance2 < nearest2 and j != i:
                nearest, nearest2 = j, distance2
            j = following[j]
    return nearest, nearest2


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
