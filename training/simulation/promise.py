"""How likely an event is to be selected, judged early: from the hard process, then from tau decays.

These numbers decide what is worth simulating. Every event is weighted by the inverse of the probability with which it
was kept, so a bad guess costs statistics, not correctness, as long as it is not zero where events can be selected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from training.simulation.compilation import compiled
from training.simulation.processes import Promise
from training.simulation.tau_decays import HADRONIC

LEPTON_PT = ((17.0, 1.0), (14.0, 0.3), (11.0, 0.05))
"""Fractions by pt in GeV; the selection asks for 20, the resolution of electrons in the endcaps is 15 %."""
TAU_PT = ((20.0, 1.0), (15.0, 0.5), (10.0, 0.15))
"""Fractions by visible pt: probability of a jet above the threshold, measured on the detector."""
ETA_MAX = 2.55
"""Tracker: 2.5, and some room for displaced decays."""
SINH_ETA_MAX = math.sinh(ETA_MAX)
SECOND_LEPTON_PT = 15.0
"""A second lepton above this pt in GeV spoils the event."""
SECOND_LEPTON = 0.35
"""Probability that one of two leptons is lost."""

HARD_LEPTON = (((2.5, 1.0), (2.8, 0.5)), ((17.0, 1.0), (10.0, 0.5)), 0.2)
HARD_TAU = (((2.5, 1.0), (2.8, 0.5), (3.2, 0.3), (4.0, 0.2)), ((30.0, 1.0), (25.0, 0.6), (20.0, 0.3)), 0.1)
"""Fractions by |eta| below and pt in GeV above a limit, and the smallest one.

Before the shower pt and direction are those without recoil, so the steps are wide and nothing is impossible.
"""
HardSteps = tuple[tuple[tuple[float, float], ...], tuple[tuple[float, float], ...], float]


def hard_promise(keep: Promise, leptons: Sequence[tuple[float, float]], taus: Sequence[tuple[float, float]]) -> float:
    """Fraction of such events to shower.

    Args:
        keep: The process's fractions.
        leptons: (pt, |eta|) of electrons and muons of the hard process, one each.
        taus: The same of taus.
    """
    lepton = sorted((_hard_quality(HARD_LEPTON, pt, eta) for pt, eta in leptons), reverse=True)
    tau = sorted((_hard_quality(HARD_TAU, pt, eta) for pt, eta in taus), reverse=True)
    chances = [keep.nothing]
    if tau:
        chances.append(keep.tau * tau[0])
    if lepton and tau:
        chances.append(keep.lepton_and_tau * min(lepton[0], tau[0]))
    if len(tau) > 1:
        chances.append(keep.lepton_and_tau * tau[1])
    if lepton:
        chances.append((keep.lepton if len(lepton) == 1 or lepton[1] < 1.0 else keep.two_leptons) * lepton[0])
    return max(chances)


def pair_promise(keep: Promise, pt: float, eta: float, other_pt: float, other_eta: float) -> float:
    """``hard_promise`` of two taus alone."""
    one, other = _hard_quality(HARD_TAU, pt, eta), _hard_quality(HARD_TAU, other_pt, other_eta)
    low, high = (one, other) if one < other else (other, one)
    return max(keep.nothing, keep.tau * high, keep.lepton_and_tau * low)


@compiled
def decay_promise(keep: tuple[float, ...], leptons: np.ndarray, kinds: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Fraction of such events to simulate, for k sets of tau decays of one event.

    Args:
        keep: The process's fractions, as a plain tuple, which numba takes faster than a named one.
        leptons: Four-momenta of electrons and muons, shape (l, 4), GeV.
        kinds: Kinds of the taus' decays, shape (k, t).
        visible: Four-momenta of their visible products, shape (k, t, 4), GeV.

    Returns:
        Shape (k,).
    """
    n_sets, n_taus = kinds.shape
    n_leptons = len(leptons)
    lepton_and_tau, lepton_alone, tau_alone, nothing, two_leptons = keep
    out = np.empty(n_sets)
    for i in range(n_sets):
        lepton, tau, several = 0.0, 0.0, 0
        for j in range(n_leptons + n_taus):
            p = leptons[j] if j < n_leptons else visible[i, j - n_leptons]
            pt = math.hypot(p[0], p[1])
            if abs(p[2]) >= SINH_ETA_MAX * pt:
                continue
            if j >= n_leptons and kinds[i, j - n_leptons] == HADRONIC:
                tau = max(tau, _step(TAU_PT, pt))
            else:
                lepton = max(lepton, _step(LEPTON_PT, pt))
                several += pt > SECOND_LEPTON_PT
        alone = (two_leptons if several > 1 else lepton_alone) * lepton
        both = (SECOND_LEPTON if several > 1 else 1.0) * lepton * tau * lepton_and_tau
        out[i] = max(both, alone, tau_alone * tau, nothing)
    return out


def _hard_quality(steps: HardSteps, pt: float, eta: float) -> float:
    by_eta, by_pt, smallest = steps
    # Plain loops: this is called for every event that is tried.
    by_angle, by_momentum = smallest, smallest
    for limit, fraction in by_eta:
        if eta < limit:
            by_angle = fraction
            break
    for limit, fraction in by_pt:
        if pt > limit:
            by_momentum = fraction
            break
    return min(by_angle, by_momentum)


@compiled
def _step(steps: tuple[tuple[float, float], ...], value: float) -> float:
    for limit, fraction in steps:
        if value > limit:
            return fraction
    return 0.0
