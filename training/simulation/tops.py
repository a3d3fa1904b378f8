"""Decisions of aimed simulation inside Pythia for top quarks, where leptons and jets have many origins.

Two looks at an event: at the leptons, taus, neutrinos and quarks of the hard process, which decide whether it is
showered, and at sets of tau decays and jets of partons after the shower, which decide whether it is hadronised and
what is simulated. Both ask ``candidates`` how far rows of such events would move mu_hat. Where there is no hadronic tau
any jet may be mistaken for one, where most of the variance comes from: then all jets are asked about.
"""

from __future__ import annotations

import math

import numpy as np
import pythia8mc

from training.simulation.aim import JET_PT, drop_near
from training.simulation.aimed import Aimed, choose_sets
from training.simulation.candidates import FEATURES, fill_features, load_candidates
from training.simulation.compilation import compiled
from training.simulation.decisions import Choice
from training.simulation.hard import momenta_of, momentum
from training.simulation.promise import SINH_ETA_MAX, hard_promise
from training.simulation.records import NEUTRINOS
from training.simulation.tau_decays import HADRONIC
from training.simulation.vectors import pt_of

MISTAKEN = 6
"""Leading jets of an event that may be mistaken for taus."""
VISIBLE, LEPTONIC = 0.55, 0.4
"""Mean parts of a tau's momentum in its visible hadronic decay and in a lepton."""
HARD_POWER, HARD_SCALE, HARD_FLOOR = 0.8, 1.2, 0.2
"""A hard process is showered in proportion to a power of its importance, which tells less than after the shower."""
SEVERAL = 2.0
"""How much more those with a tau and another lepton deserve: a row needs no mistake."""
KINDS = {
    **dict.fromkeys((11, 13), "lepton"),
    15: "tau",
    **dict.fromkeys(NEUTRINOS, "neutrino"),
    **dict.fromkeys((1, 2, 3, 4, 5, 21), "quark"),
}
"""What the particles of a hard process are, by the absolute values of their PDG codes."""
FourMomentum = tuple[float, float, float, float]


class AimedTops(Aimed):
    """The decisions inside Pythia with an aim, for top quarks."""

    def _judge(self, process: pythia8mc.Event) -> float:
        """Return what the hard process promises and deserves."""
        found: dict[str, list[FourMomentum]] = {kind: [] for kind in ("lepton", "tau", "neutrino", "quark")}
        for i in range(5, process.size()):
            particle = process[i]
            kind = KINDS.get(particle.idAbs())
            if kind and particle.status() > 0:
                found[kind].append(momentum(particle))
        promise = hard_promise(self._process.keep, _sides(found["lepton"]), _sides(found["tau"]))
        n_leptons, n_taus = len(found["lepton"]), len(found["tau"])
        if n_leptons + n_taus == 0:
            return promise
        leptons, taus, neutrinos, quarks = (np.array(group).reshape(-1, 4) for group in found.values())
        importance = load_candidates()(hard_features(leptons, taus, neutrinos.sum(axis=0), quarks))
        deserved = HARD_SCALE * math.sqrt(float(importance @ importance)) ** HARD_POWER
        several = SEVERAL if n_taus and n_leptons + n_taus > 1 else 1.0
        return float(min(1.0, promise * max(HARD_FLOOR, deserved) * several))

    def _importance(
        self,
        event: pythia8mc.Event,
        prompt: list[pythia8mc.Particle],
        taus: np.ndarray,
        kinds: np.ndarray,
        visible: np.ndarray,
    ) -> np.ndarray:
        """Return the importance of k sets of decays, shape (k,)."""
        leptons = momenta_of([p for p in prompt if p.idAbs() in (11, 13)])
        missing = momenta_of([p for p in prompt if p.idAbs() in NEUTRINOS]).sum(axis=0)
        jets = drop_near(self._parton_jets(event), taus, leptons)
        features, owners = set_features(leptons, taus, kinds, visible, missing, jets)
        importance = np.sqrt(np.bincount(owners, load_candidates()(features) ** 2, minlength=len(kinds)))
        return np.clip(importance**self._aim.power, self._aim.floor, self._aim.ceiling)

    def _choose(self, deserts: np.ndarray) -> Choice | None:
        return choose_sets(deserts, self._effort.boost, self._promise, self._aim, self._rng)


def _sides(momenta: list[FourMomentum]) -> list[tuple[float, float]]:
    """Return pt and |eta| of four-momenta."""
    transverse = [math.hypot(p[0], p[1]) for p in momenta]
    return [(pt, abs(math.asinh(p[2] / max(pt, 1e-9)))) for pt, p in zip(transverse, momenta, strict=True)]


@compiled
def hard_features(leptons: np.ndarray, taus: np.ndarray, neutrinos: np.ndarray, partons: np.ndarray) -> np.ndarray:
    """What the importance of candidates of a hard process is told from, with the mean decay of each tau.

    Args:
        leptons: Four-momenta of electrons and muons, shape (l, 4), GeV.
        taus: Of taus, shape (t, 4); at least one lepton or tau.
        neutrinos: Sum of those of neutrinos, shape (4,).
        partons: Of quarks and gluons, shape (q, 4).

    Returns:
        Shape (m, FEATURES), a row for each candidate.
    """
    leptons, taus = falling(leptons), falling(taus)
    lepton, tau, missing = np.zeros(4), np.zeros(4), neutrinos.copy()
    first = 0
    if len(leptons) > 0:
        lepton[:] = leptons[0]
    else:
        lepton[:], first = LEPTONIC * taus[0], 1
        missing += (1.0 - LEPTONIC) * taus[0]
    if len(taus) > first:
        tau[:] = VISIBLE * taus[first]
        missing += (1.0 - VISIBLE) * taus[first]
    elif len(leptons) > 1:
        missing += leptons[1]  # a second lepton has to be lost
    out = np.empty((MISTAKEN, FEATURES))
    n = fill_candidates(out, 0, lepton, tau, missing, falling(partons))
    return out[:n]


@compiled
def set_features(
    leptons: np.ndarray,
    taus: np.ndarray,
    kinds: np.ndarray,
    visible: np.ndarray,
    neutrinos: np.ndarray,
    jets: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """What the importance of candidates of k sets of tau decays is told from.

    Args:
        leptons: Four-momenta of electrons and muons, shape (l, 4), GeV.
        taus: Of taus, shape (t, 4).
        kinds: Kinds of their decays, shape (k, t).
        visible: Four-momenta of their visible products, shape (k, t, 4).
        neutrinos: Sum of those of the event's neutrinos, shape (4,).
        jets: Of jets of partons, falling in pt, shape (j, 4).

    Returns:
        Shape (m, FEATURES), and the set of each candidate, shape (m,); none of a set without any lepton.
    """
    out, owners, n = np.empty((MISTAKEN * len(kinds), FEATURES)), np.empty(MISTAKEN * len(kinds), np.int64), 0
    for i in range(len(kinds)):
        lepton, tau, missing = np.zeros(4), np.zeros(4), neutrinos.copy()
        for p in leptons:
            if pt_of(p) > pt_of(lepton):
                lepton[:] = p
        for j in range(kinds.shape[1]):
            p = visible[i, j]
            missing += taus[j] - p
            if kinds[i, j] == HADRONIC and pt_of(p) > pt_of(tau):
                tau[:] = p
            elif kinds[i, j] != HADRONIC and pt_of(p) > pt_of(lepton):
                lepton[:] = p
        first = n
        if pt_of(lepton) > 0.0:
            n = fill_candidates(out, n, lepton, tau, missing, jets)
        owners[first:n] = i
    return out[:n], owners[:n]


@compiled
def fill_candidates(
    out: np.ndarray, n: int, lepton: np.ndarray, tau: np.ndarray, missing: np.ndarray, jets: np.ndarray
) -> int:
    """Fill features of the tau, or where its pt is 0 of each jet that may be mistaken for one, from row n on.

    Returns:
        The row after the last one filled.
    """
    if pt_of(tau) > 0.0:
        _fill(out[n], lepton, tau, missing, jets, -1)
        return n + 1
    for j in range(min(len(jets), MISTAKEN)):
        pt = pt_of(jets[j])
        if pt > JET_PT and abs(jets[j, 2]) < SINH_ETA_MAX * pt:
            _fill(out[n], lepton, jets[j], missing, jets, j)
            n += 1
    return n


@compiled
def _fill(
    row: np.ndarray, lepton: np.ndarray, tau: np.ndarray, missing: np.ndarray, jets: np.ndarray, tagged: int
) -> None:
    """Fill the features of one candidate; the jet with the number of the tagged one is the tau."""
    first, second, n_jets, sum_pt = np.zeros(4), np.zeros(4), 0, 0.0
    for j in range(len(jets)):
        if j != tagged and pt_of(jets[j]) > JET_PT:
            if n_jets == 0:
                first[:] = jets[j]
            elif n_jets == 1:
                second[:] = jets[j]
            n_jets += 1
            sum_pt += pt_of(jets[j])
    fill_features(row, lepton, tau, missing, (first, second), n_jets, sum_pt)


@compiled
def falling(momenta: np.ndarray) -> np.ndarray:
    """Return four-momenta, shape (n, 4), in order of falling pt."""
    return momenta[np.argsort(-(momenta[:, 0] ** 2 + momenta[:, 1] ** 2))]
