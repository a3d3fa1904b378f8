"""What the decisions read from Pythia's records of an event: momenta, recoil, the angle of the taus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pythia8mc

from training.simulation.tau_decays import z_right_fraction

PAIR_SIZE = 8
"""Size of the record of a hard process that makes one boson, which decays to two particles."""
BOSON = 5
"""Place of the boson in Z events of Pythia."""
Z_CODE = 221
"""q qbar -> Z, the only process whose angles are used for the polarisation."""
LIGHT = (11, 13, 22)
"""Codes of what taus radiate that turns with them; what is coloured is bound to the rest of the event."""
QUIET_PT = 40.0
QUIET_SUM = 80.0
"""Events with less recoil have few entries at large pt of the boson or with two hard jets, GeV."""


def momentum(particle: pythia8mc.Particle | pythia8mc.Vec4) -> tuple[float, float, float, float]:
    """Return (px, py, pz, e) in GeV."""
    return particle.px(), particle.py(), particle.pz(), particle.e()


def momenta_of(particles: Sequence[pythia8mc.Particle | pythia8mc.Vec4]) -> np.ndarray:
    """Return four-momenta (px, py, pz, e) in GeV, shape (n, 4)."""
    return np.array([momentum(p) for p in particles]).reshape(-1, 4)


def right_fraction(process: pythia8mc.Event, tau: pythia8mc.Particle) -> float:
    """Probability of a right-handed tau- in q qbar -> Z -> tau tau, from the hard process."""
    boson = process[5]
    # The incoming partons move along the beam, so this boost does not turn the quark's direction.
    gamma, velocity = boson.e() / boson.m(), boson.pz() / boson.e()
    pz = gamma * (tau.pz() - velocity * tau.e())
    cosine = pz / np.sqrt(pz**2 + tau.pT() ** 2)
    first_is_quark = process[3].id() > 0
    return z_right_fraction(process[3].idAbs(), cosine if first_is_quark else -cosine)


def is_quiet(event: pythia8mc.Event, leptons: list[pythia8mc.Particle]) -> bool:
    """Tell whether leptons and partons recoil little against each other."""
    px, py = sum(p.px() for p in leptons), sum(p.py() for p in leptons)
    if px**2 + py**2 > QUIET_PT**2:
        return False
    partons = (p for p in (event[i] for i in range(5, event.size())) if p.isFinal() and p.isParton())
    return bool(sum(p.pT() for p in partons) < QUIET_SUM)


@dataclass(frozen=True)
class Pair:
    """A pair of taus from one boson after the shower, and the other leptons of the event.

    Args:
        code: Pythia's process code.
        turns: Four-momenta in GeV of tau-, tau+ and what they radiated, shape (m, 4); of the tau- before that, and of
            their parent in the hard process and after the shower, shape (4,) each: what ``turning.turned`` wants.
        radiation_codes: PDG codes of what was radiated, shape (m - 2,).
        quark: PDG code of the parton along +z that made the Z, 0 for another parent.
        right: Negative where the pair may be turned, else the probability that its tau- is right-handed as it is.
        fixed: Four-momenta of other prompt taus, shape (t - 2, 4).
        charges: Of all taus, -1 or 1, those of the pair first, shape (t,).
        leptons: Four-momenta of other electrons and muons, shape (l, 4).
    """

    code: int
    turns: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    radiation_codes: np.ndarray
    quark: int
    right: float
    fixed: np.ndarray
    charges: np.ndarray
    leptons: np.ndarray


def read_pair(hard: pythia8mc.Event, event: pythia8mc.Event, code: int) -> Pair:
    """Read the pair of taus of an H or Z.

    Args:
        hard: Pythia's record of the hard process.
        event: Its record after the shower.
        code: Its process code.
    """
    place = BOSON if hard.size() == PAIR_SIZE else _parent_of_taus(hard)
    last = event[place].iBotCopyId()
    first = event[last].daughter1()
    found = _final_products(event, last)
    taus = [next(p for p in found if p.id() == code) for code in (15, -15)]
    radiation = [p for p in found if p.idAbs() in LIGHT]
    quark, right = hard[3].id() if code == Z_CODE else 0, -1.0
    if len(found) > len(taus) + len(radiation):
        minus = hard[place + 1] if hard[place + 1].id() == 15 else hard[place + 2]
        right = right_fraction(hard, minus) if code == Z_CODE else 0.5
    minus = event[first] if event[first].id() == 15 else event[event[last].daughter2()]
    others = [] if hard.size() == PAIR_SIZE else _other_leptons(event, found)
    more = [p for p in others if p.idAbs() == 15]
    direction, before, after = (np.array(momentum(p)) for p in (minus, hard[place], event[last]))
    return Pair(
        code,
        (momenta_of([*taus, *radiation]), direction, before, after),
        np.array([p.id() for p in radiation], dtype=np.int64),
        quark,
        right,
        momenta_of(more),
        np.array([-1, 1, *(-1 if p.id() > 0 else 1 for p in more)], dtype=np.int64),
        momenta_of([p for p in others if p.idAbs() != 15]),
    )


def _final_products(event: pythia8mc.Event, parent: int) -> list[pythia8mc.Particle]:
    """Final particles that come from one, in the order of the record."""
    waiting, found = [parent], {}
    while waiting:
        place = waiting.pop()
        particle = event[place]
        if particle.isFinal():
            found[place] = particle
        else:
            waiting += particle.daughterList()
    return [found[place] for place in sorted(found)]


def _parent_of_taus(hard: pythia8mc.Event) -> int:
    return next(i for i in range(3, hard.size()) if hard[i].idAbs() == 25 and hard[hard[i].daughter1()].idAbs() == 15)


def _other_leptons(event: pythia8mc.Event, products: list[pythia8mc.Particle]) -> list[pythia8mc.Particle]:
    """Final electrons, muons and taus that are not among some products."""
    seen = {p.index() for p in products}
    places = (i for i in range(BOSON, event.size()) if event[i].idAbs() in (11, 13, 15) and i not in seen)
    return [event[i] for i in places if event[i].isFinal()]
