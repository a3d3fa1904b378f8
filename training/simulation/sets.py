"""Sets of decays of one pair of taus, drawn in one compiled call: directions, helicities, kinds, visible products."""

from __future__ import annotations

import math

import numpy as np

from training.simulation.compilation import compiled
from training.simulation.tau_decays import (
    BRANCHING_E,
    BRANCHING_LEPTON,
    DOWN_COUPLINGS,
    ELECTRON,
    HADRONIC,
    MUON,
    PAIR_FRACTION,
    TAU_COUPLINGS,
    UP_COUPLINGS,
    lepton_at_rest,
    to_lab,
)
from training.simulation.turning import turned

PAIR_DRAWS, TAU_DRAWS = 4, 6
"""Random numbers a set takes for its pair and for each of its taus."""


def _handedness(couplings: tuple[float, float]) -> np.ndarray:
    """Summed probabilities of the four helicities (of tau-, then of the quark, each left then right), shape (4,)."""
    chances = np.outer(np.square(TAU_COUPLINGS), np.square(couplings)).ravel()
    return np.cumsum(chances / chances.sum())


HANDEDNESS = np.stack([_handedness(DOWN_COUPLINGS), _handedness(UP_COUPLINGS)])
"""For quarks of odd and even code."""


@compiled
def pair_angle(quark: int, first: float, second: float) -> tuple[float, int]:
    """Cosine between tau- and +z in the rest frame of the boson, and helicity of the tau-, -1 or 1.

    In q qbar -> Z -> tau tau at leading order, without photon, helicities of quark and tau- go with angles by
    ``(1 + cos)^2`` where both are the same, else by ``(1 - cos)^2``, in proportion to the squared couplings (Particle
    Data Group, review of the electroweak model). A scalar decays uniformly.

    Args:
        quark: PDG code of the parton that moves along +z, negative for an antiquark; 0 for a scalar.
        first: A number from (0, 1).
        second: Another.
    """
    if quark == 0:
        return 2.0 * second - 1.0, 1 if first < 0.5 else -1
    drawn = 0
    while drawn < 3 and first >= HANDEDNESS[1 - quark % 2, drawn]:
        drawn += 1
    right, right_quark = drawn // 2, drawn % 2
    cosine = 2.0 * second ** (1.0 / 3.0) - 1.0
    along = (right == right_quark) == (quark > 0)
    return cosine if along else -cosine, 2 * right - 1


@compiled
def _kind(draw: float) -> int:
    if draw < BRANCHING_E:
        return ELECTRON
    return MUON if draw < BRANCHING_LEPTON else HADRONIC


@compiled
def draw_sets(
    draws: np.ndarray,
    quark: int,
    right: float,
    turns: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    fixed: np.ndarray,
    charges: np.ndarray,
    forced: bool,
    library: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw k sets of decays of a pair of taus and of t - 2 others.

    Args:
        draws: Numbers from (0, 1), shape (k, PAIR_DRAWS + t TAU_DRAWS).
        quark: As for ``pair_angle``.
        right: Negative where the pair is turned, else the probability that its tau- is right-handed as it is.
        turns: Products of the pair's parent, shape (m, 4), the direction of the tau-, and the parent before and after
            the shower, as for ``turned``.
        fixed: Four-momenta of the other taus, shape (t - 2, 4), GeV.
        charges: Of all taus, shape (t,), those of the pair first, tau- before tau+.
        forced: Whether the pair has at least one leptonic decay.
        library: Visible four-momenta of hadronic decays at rest (``TauLibrary.visible``).

    Returns:
        Products of the pair's parent (k, m, 4); and, by set and tau, four-momenta (k, t, 4) and helicities (k, t) of
        the taus, kinds (k, t), rows in the library (k, t), and azimuths and visible four-momenta of their decays
        (k, t, 5).
    """
    n_sets, n_taus = len(draws), len(charges)
    cosines, helicities = np.empty(n_sets), np.empty((n_sets, n_taus), np.int64)
    for i in range(n_sets):
        cosines[i], helicities[i, 0] = pair_angle(quark, draws[i, 0], draws[i, 1])
        if right >= 0.0:
            helicities[i, 0] = 1 if draws[i, 0] < right else -1
        # A scalar gives equal helicities, a vector opposite ones.
        helicities[i, 1] = helicities[i, 0] if quark == 0 else -helicities[i, 0]
    azimuths, spins = 2.0 * math.pi * draws[:, 2], 2.0 * math.pi * draws[:, 3]
    products = turned(turns[0], turns[1], turns[2], turns[3], cosines, azimuths, spins)
    if right >= 0.0:
        for i in range(n_sets):
            products[i] = turns[0]
    taus = np.empty((n_sets, n_taus, 4))
    kinds, rows = np.empty((n_sets, n_taus), np.int64), np.empty((n_sets, n_taus), np.int64)
    decays = np.empty((n_sets, n_taus, 5))
    for i in range(n_sets):
        for j in range(n_taus):
            own = draws[i, PAIR_DRAWS + TAU_DRAWS * j : PAIR_DRAWS + TAU_DRAWS * (j + 1)]
            taus[i, j] = products[i, j] if j < 2 else fixed[j - 2]
            if j >= 2:
                helicities[i, j] = 1 if own[5] < 0.5 else -1
            kinds[i, j] = _kind(own[0])
        if forced:
            # The first is leptonic whatever the second is, or only the second is.
            one, other = draws[i, PAIR_DRAWS + 5], draws[i, PAIR_DRAWS + TAU_DRAWS + 5]
            lepton = ELECTRON if other < BRANCHING_E / BRANCHING_LEPTON else MUON
            if one < BRANCHING_LEPTON / PAIR_FRACTION:
                kinds[i, 0] = lepton
            else:
                kinds[i, 0], kinds[i, 1] = HADRONIC, lepton
        for j in range(n_taus):
            own = draws[i, PAIR_DRAWS + TAU_DRAWS * j : PAIR_DRAWS + TAU_DRAWS * (j + 1)]
            rows[i, j] = min(int(own[1] * len(library)), len(library) - 1)
            azimuth = 2.0 * math.pi * own[4]
            if kinds[i, j] == HADRONIC:
                v = library[rows[i, j]]
                rest = (v[0], v[1], v[2], v[3])
            else:
                rest = lepton_at_rest(kinds[i, j], own[1:4])
            decays[i, j, 0] = azimuth
            seen = to_lab(rest, taus[i, j], charges[j], helicities[i, j], azimuth)
            for x in range(4):
                decays[i, j, 1 + x] = seen[x]
    return products, taus, helicities, kinds, rows, decays
