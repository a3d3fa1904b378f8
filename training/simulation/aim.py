"""Aimed simulation: more of what moves mu, less of the rest, with weights that make up for it.

A small perceptron, fitted to a pilot production (``python -m studies.aiming``), tells from the true taus, one set of
their decays and the jets of the shower how far the rows of that set would move mu_hat. In proportion to it sets of
decays are chosen, and an event gets as many of them as it deserves: none with some probability where it deserves
less than one. Z events without recoil are thinned out before the shower is finished. Importances lie between a floor
and a ceiling, so that every region of phase space stays populated and no row is heavier than the floor allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sage.errors import InputError
from training.simulation.candidates import TABLE_FILE as CANDIDATES_FILE
from training.simulation.compilation import compiled
from training.simulation.importance import Importance, file_hash, read_importance
from training.simulation.tau_decays import HADRONIC
from training.simulation.vectors import eta_of, mass_of

TABLE_FILE = Path(__file__).with_name("aim.npz")
JET_PT = 20.0
"""Smallest pt in GeV of the jets of partons."""
FEATURES = 12
QUIET_PT = 30.0
"""Recoil in GeV below which a Z event counts as quiet; the shower is halted there to decide."""


@dataclass(frozen=True)
class Aim:
    """Settings of aimed simulation.

    Args:
        name: Name on the command line.
        quiet: Fraction of Z events without recoil that go on; it rises with the square of the recoil.
        boost: Factor on the effort's boost, for Z.
        floor: Smallest importance of a set of decays; 1 is that of the mean selected one.
        ceiling: Largest importance.
        power: Importances are raised to this power before they are bounded.
        per_worth: Sets that are simulated of an event that is worth one of full promise and mean importance.
        least: Fewest sets of decays of one showered event that are simulated; a pass of the detector costs little.
        passes: Most of them.
        thinning: Weight below which rows of importance 1 are thinned out, relative to that of an event that is kept for
            sure and selected for sure; rows of larger importance are thinned out less.
    """

    name: str
    quiet: float
    boost: float
    floor: float
    ceiling: float
    power: float
    per_worth: float
    least: int
    passes: int
    thinning: float

    def keep(self, recoil: float, mass: float) -> float:
        """Return the fraction of Z events to shower to the end.

        Args:
            recoil: Transverse momentum in GeV of the boson, when the shower has reached ``QUIET_PT``.
            mass: Its mass in GeV.
        """
        heavy = 1.0 + max(0.0, (mass - MASS_START) / MASS_STEP)
        return min(1.0, self.quiet * max(1.0, recoil / QUIET_PT) ** 2 * min(heavy, HEAVIEST))


MASS_START, MASS_STEP, HEAVIEST = 95.0, 5.0, 5.0
"""Above the first (GeV) the fraction of Z events that is kept grows, by itself with each step, up to this factor."""

AIMS = {
    aim.name: aim
    for aim in (
        Aim(
            "signal",
            quiet=0.12,
            boost=0.2,
            floor=0.5,
            ceiling=30.0,
            power=1.0,
            per_worth=3.0,
            least=8,
            passes=48,
            thinning=0.03,
        ),
    )
}
OFF = "off"


def find_aim(name: str) -> Aim | None:
    """Return an aim by name, None for ``off``.

    Raises:
        InputError: If there is no such aim.
    """
    if name != OFF and name not in AIMS:
        msg = f"no aim {name!r}; choose one of {', '.join((OFF, *AIMS))}"
        raise InputError(msg)
    return AIMS.get(name)


def table_hash() -> str:
    """Return the sha256 of the files of both perceptrons."""
    return file_hash(TABLE_FILE, CANDIDATES_FILE)


@cache
def load_importance() -> Importance:
    """Read the perceptron of sets that comes with this package."""
    return read_importance(TABLE_FILE)


@compiled
def set_features(
    taus: np.ndarray, leptons: np.ndarray, kinds: np.ndarray, visible: np.ndarray, jets: np.ndarray
) -> np.ndarray:
    """What the importance of k sets of tau decays is told from, shape (k, FEATURES).

    Args:
        taus: Four-momenta of the taus in each set, shape (k, t, 4), GeV.
        leptons: Of other electrons and muons, shape (l, 4).
        kinds: Kinds of the taus' decays, shape (k, t).
        visible: Four-momenta of their visible products, shape (k, t, 4).
        jets: Four-momenta of jets of partons, falling in pt, shape (j, 4).
    """
    out = np.zeros((len(kinds), FEATURES))
    n_jets, lead, sum_pt, mass_jets, apart = 0, 0.0, 0.0, 0.0, 0.0
    for j in range(len(jets)):
        pt = math.hypot(jets[j, 0], jets[j, 1])
        n_jets += 1
        sum_pt += pt
        if j == 0:
            lead = pt
        if j == 1:
            mass_jets = mass_of(jets[0] + jets[1])
            apart = abs(eta_of(jets[0]) - eta_of(jets[1]))
    for i in range(len(kinds)):
        pair = np.zeros(4)
        for j in range(kinds.shape[1]):
            pair += taus[i, j]
        lepton, tau, met = np.zeros(4), np.zeros(4), pair.copy()
        for j in range(len(leptons)):
            if leptons[j, 0] ** 2 + leptons[j, 1] ** 2 > lepton[0] ** 2 + lepton[1] ** 2:
                lepton = leptons[j].copy()
        for j in range(kinds.shape[1]):
            p = visible[i, j]
            met -= p
            if kinds[i, j] == HADRONIC:
                if p[0] ** 2 + p[1] ** 2 > tau[0] ** 2 + tau[1] ** 2:
                    tau = p.copy()
            elif p[0] ** 2 + p[1] ** 2 > lepton[0] ** 2 + lepton[1] ** 2:
                lepton = p.copy()
        row = out[i]
        lepton_pt, tau_pt, met_pt = (
            math.hypot(lepton[0], lepton[1]),
            math.hypot(tau[0], tau[1]),
            math.hypot(met[0], met[1]),
        )
        row[0] = math.log1p(math.hypot(pair[0], pair[1]) / 30.0)
        row[1] = math.log(mass_of(pair) / 91.0 + 1e-3) * 5.0
        row[2] = math.log(mass_of(lepton + tau) / 60.0 + 0.1) * 2.0
        row[3] = math.log1p(lepton_pt / 30.0)
        row[4] = math.log1p(tau_pt / 30.0)
        row[5] = math.sqrt(max(0.0, 2.0 * (lepton_pt * met_pt - lepton[0] * met[0] - lepton[1] * met[1]))) / 50.0
        row[6] = min(n_jets, 4) - 1.0
        row[7] = math.log1p(lead / 30.0)
        row[8] = math.log1p(mass_jets / 100.0)
        row[9] = 0.5 * apart
        row[10] = math.log1p(sum_pt / 60.0)
        row[11] = 1.0 if tau_pt > 0.0 else 0.0
    return out


@compiled
def drop_near(jets: np.ndarray, taus: np.ndarray, leptons: np.ndarray) -> np.ndarray:
    """Return the jets, shape (j, 4), that are not themselves taus or leptons."""
    far = np.ones(len(jets), dtype=np.bool_)
    for i in range(len(jets)):
        for j in range(len(taus) + len(leptons)):
            p = taus[j] if j < len(taus) else leptons[j - len(taus)]
            across = abs(math.atan2(jets[i, 1], jets[i, 0]) - math.atan2(p[1], p[0]))
            across = min(across, 2.0 * math.pi - across)
            if math.hypot(across, eta_of(jets[i]) - eta_of(p)) < 0.4:
                far[i] = False
    return jets[far]
