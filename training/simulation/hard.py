"""What the decisions read from Pythia's records of an event: momenta, recoil, the angle of the taus."""

from __future__ import annotations

import numpy as np
import pythia8mc

from training.simulation.tau_decays import z_right_fraction

QUIET_PT = 40.0
QUIET_SUM = 80.0
"""Events with less recoil have few entries at large pt of the boson or with two hard jets, GeV."""


def momentum(particle: pythia8mc.Particle | pythia8mc.Vec4) -> tuple[float, float, float, float]:
    """Return (px, py, pz, e) in GeV."""
    return particle.px(), particle.py(), particle.pz(), particle.e()


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
