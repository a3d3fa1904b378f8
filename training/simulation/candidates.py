"""How far a candidate, one lepton and one tau with all that was reconstructed besides, would move mu_hat.

A perceptron, fitted to events of all processes (``python -m studies.aiming_candidates``), tells the root mean square of
|d mu_hat / d n - its mean| in the neighbourhood of a candidate, where neighbours differ by the resolution of the
missing momentum: so it knows what looks like signal, not the edges of the bins that it was fitted with. It is asked
about rows, which are thinned out by it, and about events whose rows are still to be made (``tops``).
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np

from training.simulation.compilation import compiled
from training.simulation.importance import Importance, read_importance
from training.simulation.vectors import eta_of, mass_of, massless, pt_of, transverse_mass

TABLE_FILE = Path(__file__).with_name("candidates.npz")
FEATURES = 19


@cache
def load_candidates() -> Importance:
    """Read the perceptron that comes with this package; 1 is a mean row of all processes."""
    return read_importance(TABLE_FILE)


@compiled
def fill_features(
    row: np.ndarray,
    lepton: np.ndarray,
    tau: np.ndarray,
    missing: np.ndarray,
    jets: tuple[np.ndarray, np.ndarray],
    n_jets: int,
    sum_pt: float,
) -> None:
    """Fill what the importance of a candidate is told from.

    Args:
        row: Shape (FEATURES,).
        lepton: Four-momentum of the lepton, px, py, pz, E in GeV, shape (4,).
        tau: Of the visible tau.
        missing: Missing momentum px, py in GeV, shape (2,) or longer.
        jets: Four-momenta of the two leading jets; 0 where there is none.
        n_jets: Number of jets.
        sum_pt: Sum of their transverse momenta in GeV.
    """
    lepton_pt, tau_pt, met = pt_of(lepton), pt_of(tau), pt_of(missing)
    pair = lepton + tau
    mass, pair_pt = mass_of(pair), pt_of(pair)
    higgs_pt = math.hypot(pair[0] + missing[0], pair[1] + missing[1])
    whole = math.sqrt(max(0.0, (math.hypot(mass, pair_pt) + met) ** 2 - higgs_pt**2))
    across = lepton[0] * tau[1] - lepton[1] * tau[0]
    across = across if abs(across) > ALIGNED else ALIGNED
    # Neutrinos' part of either side, were they collinear, over its visible part.
    by_lepton = (missing[0] * tau[1] - missing[1] * tau[0]) / across
    by_tau = (lepton[0] * missing[1] - lepton[1] * missing[0]) / across
    collinear = mass * math.sqrt((1.0 + by_lepton) * (1.0 + by_tau)) if min(by_lepton, by_tau) > -1.0 else 0.0
    first, second = jets
    dijet, apart, lepton_between, tau_between = 0.0, 0.0, 0.0, 0.0
    if n_jets > 1:
        one, other = eta_of(first), eta_of(second)
        dijet, apart = mass_of(first + second), abs(one - other)
        middle, width = 0.5 * (one + other), max(apart, 0.1)
        lepton_between = math.exp(-4.0 * ((eta_of(lepton) - middle) / width) ** 2)
        tau_between = math.exp(-4.0 * ((eta_of(tau) - middle) / width) ** 2)
    row[0] = math.log1p(lepton_pt / 30.0)
    row[1] = math.log1p(tau_pt / 30.0)
    row[2] = math.log1p(met / 30.0)
    row[3] = transverse_mass(lepton, missing) / 50.0
    row[4] = transverse_mass(tau, missing) / 50.0
    row[5] = 2.0 * math.log(mass / 60.0 + 0.1)
    row[6] = math.log1p(higgs_pt / 50.0)
    row[7] = math.log(whole / 100.0 + 0.1)
    row[8] = min(max(by_lepton, -1.5), 3.0)
    row[9] = min(max(by_tau, -1.5), 3.0)
    row[10] = math.log(collinear / 100.0 + 0.2)
    row[11] = min(n_jets, 5) - 1.0
    row[12] = math.log1p(pt_of(first) / 30.0)
    row[13] = math.log1p(dijet / 100.0)
    row[14] = 0.5 * apart
    row[15] = math.log1p(sum_pt / 60.0)
    row[16] = math.log1p(pt_of(second) / 30.0)
    row[17] = lepton_between
    row[18] = tau_between


ALIGNED = 1e-6
"""Cross product in GeV^2 below which lepton and tau count as aligned."""


def row_features(values: np.ndarray) -> np.ndarray:
    """What the importance of rows is told from.

    Args:
        values: The primaries in the order of ``PRIMARIES``, shape (n, 16), of any floating type.

    Returns:
        Shape (n, FEATURES).
    """
    return _row_features(np.ascontiguousarray(values, dtype=np.float64))


@compiled
def _row_features(values: np.ndarray) -> np.ndarray:
    out = np.empty((len(values), FEATURES))
    for i in range(len(values)):
        v = values[i]
        jets = [np.zeros(4), np.zeros(4)]
        for j in range(2):
            if v[12] > j:
                jets[j] = massless(v[6 + 3 * j], v[7 + 3 * j], v[8 + 3 * j])
        missing = np.array([v[14] * math.cos(v[15]), v[14] * math.sin(v[15])])
        lepton, tau = massless(v[0], v[1], v[2]), massless(v[3], v[4], v[5])
        fill_features(out[i], lepton, tau, missing, (jets[0], jets[1]), int(v[12]), max(0.0, v[13]))
    return out
