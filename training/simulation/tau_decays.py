"""Tau decays, vectorised: V-A leptons and a library of hadronic decays of fixed spin.

Pythia's own spin-correlated decays cost more than a shower without multiparton interactions, and one showered event
needs several of them. So Pythia leaves taus alone and they decay here. A decay is kept in the rest frame of a tau-
whose spin points along +z. Every other case follows from it: a rotation by pi turns the spin, CP (a reflection of all
momenta) makes a tau+, a random azimuth about the spin costs nothing, and a boost along the flight direction makes
the spin a helicity. Spins transverse to the flight direction are taken as random.

Helicities are those at leading order (``z_helicity``, ``PARITY_PAIR``); branching ratios are those of the Particle
Data Group (Phys. Rev. D 110, 030001, tau branching fractions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.simulation.compilation import compiled
from training.simulation.origin import library_path
from workshop.files import read_arrays, write_arrays

TAU_MASS = 1.77686
"""GeV."""
LEPTON_MASSES = np.array([0.000510999, 0.1056584])
"""Electron and muon, GeV."""
LEPTON_CODES = np.array([11, 13])
BRANCHING_E = 0.1782
BRANCHING_MU = 0.1739
BRANCHING_LEPTON = BRANCHING_E + BRANCHING_MU
BRANCHING_HADRON = 1.0 - BRANCHING_LEPTON

SIN2_THETA_W = 0.2315
"""Effective weak mixing angle, also the one Pythia decays the Z with (StandardModel:sin2thetaWbar)."""

ELECTRON, MUON, HADRONIC = 0, 1, 2

LIBRARY_SIZE = 40_000
LIBRARY_SEED = 20240907
LIBRARY_FILE = "tau_decays.npz"


def couplings(charge: float, isospin: float) -> tuple[float, float]:
    """Left- and right-handed coupling of a fermion to the Z, up to a common factor."""
    return isospin - charge * SIN2_THETA_W, -charge * SIN2_THETA_W


TAU_COUPLINGS = couplings(-1.0, -0.5)
UP_COUPLINGS = couplings(2.0 / 3.0, 0.5)
DOWN_COUPLINGS = couplings(-1.0 / 3.0, -0.5)
Z_RIGHT_FRACTION = TAU_COUPLINGS[1] ** 2 / (TAU_COUPLINGS[0] ** 2 + TAU_COUPLINGS[1] ** 2)
"""Fraction of right-handed tau- in Z decays, averaged over angles."""


def z_right_fraction(quark: int, cosine: float) -> float:
    """Probability that the tau- of q qbar -> Z -> tau tau is right-handed, at leading order and without photon.

    Args:
        quark: PDG code of the incoming quark, 1 to 5.
        cosine: Cosine of the angle between quark and tau- in the rest frame of the Z.
    """
    left, right = UP_COUPLINGS if quark % 2 == 0 else DOWN_COUPLINGS
    tau_left, tau_right = TAU_COUPLINGS
    same, opposite = (1.0 + cosine) ** 2, (1.0 - cosine) ** 2
    right_handed = tau_right**2 * (right**2 * same + left**2 * opposite)
    left_handed = tau_left**2 * (left**2 * same + right**2 * opposite)
    return right_handed / (right_handed + left_handed)


@compiled
def lepton_at_rest(kind: int, draws: np.ndarray) -> tuple[float, float, float, float]:
    """Momentum of the charged lepton of a tau- decay, spin along +z, in the rest frame of the tau.

    The V-A spectrum ``x^2 ((3 - 2x) + (1 - 2x) cos(theta))`` with x the energy over its maximum; the lepton's mass
    enters the momentum only.

    Args:
        kind: ``ELECTRON`` or ``MUON``.
        draws: Three numbers from (0, 1).

    Returns:
        px, py, pz, E in GeV.
    """
    place = draws[0] ** (1.0 / 3.0) * (len(X_TABLE) - 1)
    cell = min(int(place), len(X_TABLE) - 2)
    x = X_TABLE[cell] + (place - cell) * (X_TABLE[cell + 1] - X_TABLE[cell])
    slope = (1.0 - 2.0 * x) / (3.0 - 2.0 * x)
    # Inverse of the cumulative distribution of (1 + slope c) / 2, in the form that is stable at slope 0.
    root = math.sqrt(max(1.0 - slope * (2.0 - slope) + 4.0 * slope * draws[1], 0.0))
    cosine = min(max((4.0 * draws[1] - 2.0 + slope) / (1.0 + root), -1.0), 1.0)
    mass = LEPTON_MASSES[kind]
    energy = max(x * (TAU_MASS**2 + mass**2) / (2.0 * TAU_MASS), mass)
    momentum = math.sqrt(energy**2 - mass**2)
    across = momentum * math.sqrt(1.0 - cosine**2)
    angle = 2.0 * math.pi * draws[2]
    return across * math.cos(angle), across * math.sin(angle), momentum * cosine, energy


def _x_table(size: int) -> np.ndarray:
    """Solution x of 2 x^3 - x^4 = t^3 for t from 0 to 1; smooth, where the solution for t itself is not."""
    grid = np.linspace(0.0, 1.0, 64 * size)
    return np.interp(np.linspace(0.0, 1.0, size), (2.0 * grid**3 - grid**4) ** (1.0 / 3.0), grid)


X_TABLE = _x_table(4097)
"""Quantiles of the energy of leptonic decays, against the cubic root of the probability."""


@compiled
def to_lab(
    rest: tuple[float, float, float, float], tau: np.ndarray, charge: int, helicity: int, azimuth: float
) -> tuple[float, float, float, float]:
    """Take a four-momentum from the frame of the library to the laboratory.

    Args:
        rest: px, py, pz, E in GeV in the rest frame of a tau- with spin along +z.
        tau: Four-momentum of the tau, shape (4,), GeV.
        charge: Its charge, -1 or 1.
        helicity: Its helicity, -1 or 1.
        azimuth: Rotation about the flight direction in radians.

    Returns:
        px, py, pz, E in GeV.
    """
    # CP reflects all momenta of a tau+; a rotation by pi about x turns the spin.
    x0, y0, z0 = -charge * rest[0], -charge * helicity * rest[1], -charge * helicity * rest[2]
    x = x0 * math.cos(azimuth) - y0 * math.sin(azimuth)
    y = x0 * math.sin(azimuth) + y0 * math.cos(azimuth)
    momentum = math.sqrt(tau[0] ** 2 + tau[1] ** 2 + tau[2] ** 2)
    mass = math.sqrt(max(tau[3] ** 2 - momentum**2, 1e-12))
    z = (tau[3] * z0 + momentum * rest[3]) / mass
    energy = (tau[3] * rest[3] + momentum * z0) / mass
    transverse = math.hypot(tau[0], tau[1])
    c, s = (tau[0] / transverse, tau[1] / transverse) if transverse > 0.0 else (1.0, 0.0)
    cosine, sine = (tau[2] / momentum, transverse / momentum) if momentum > 0.0 else (1.0, 0.0)
    # x goes along growing polar angle, y along growing azimuth, z along the flight.
    along = cosine * x + sine * z
    return c * along - s * y, s * along + c * y, cosine * z - sine * x, energy


@compiled
def _visible(
    kinds: np.ndarray,
    rows: np.ndarray,
    azimuths: np.ndarray,
    draws: np.ndarray,
    taus: np.ndarray,
    charges: np.ndarray,
    helicities: np.ndarray,
    library: np.ndarray,
) -> np.ndarray:
    """Visible four-momenta (n, 4) in the laboratory of n decays, drawing leptonic ones and looking up others."""
    out = np.empty((len(kinds), 4))
    for i in range(len(kinds)):
        if kinds[i] == HADRONIC:
            v = library[rows[i]]
            rest = (v[0], v[1], v[2], v[3])
        else:
            rest = lepton_at_rest(kinds[i], draws[i])
        out[i] = to_lab(rest, taus[i], charges[i], helicities[i], azimuths[i])
    return out


@compiled
def _all_to_lab(
    rest: np.ndarray,
    owner: np.ndarray,
    taus: np.ndarray,
    charges: np.ndarray,
    helicities: np.ndarray,
    azimuths: np.ndarray,
) -> np.ndarray:
    """Four-momenta (m, 4) in the laboratory of products (m, 4) of the decays ``owner`` (m,)."""
    out = np.empty(rest.shape)
    for i in range(len(owner)):
        of = owner[i]
        momentum = (rest[i, 0], rest[i, 1], rest[i, 2], rest[i, 3])
        out[i] = to_lab(momentum, taus[of], charges[of], helicities[of], azimuths[of])
    return out


@dataclass(frozen=True)
class Decays:
    """Decays of taus.

    Args:
        kinds: ``ELECTRON``, ``MUON`` or ``HADRONIC``, shape (n,), int64.
        rows: Decay in the library, shape (n,); meaningless for leptonic ones.
        azimuths: Rotation about the flight direction in radians, shape (n,).
        visible: Four-momentum of all products but neutrinos in the laboratory, shape (n, 4), GeV.
    """

    kinds: np.ndarray
    rows: np.ndarray
    azimuths: np.ndarray
    visible: np.ndarray

    def take(self, rows: np.ndarray) -> Decays:
        """Return some of the decays."""
        return Decays(self.kinds[rows], self.rows[rows], self.azimuths[rows], self.visible[rows])


@dataclass(frozen=True)
class TauLibrary:
    """Hadronic decays of a tau- at rest with spin along +z; neutrinos are left out.

    Args:
        pdg: Codes of the visible products of all decays, shape (m,), int32.
        momenta: Their four-momenta, shape (m, 4), GeV.
        offsets: Where each decay's products start, shape (n + 1,), int64.
        visible: Sum of the products, shape (n, 4), GeV.
        prongs: Number of charged products, shape (n,), int8.
    """

    pdg: np.ndarray
    momenta: np.ndarray
    offsets: np.ndarray
    visible: np.ndarray
    prongs: np.ndarray

    def __len__(self) -> int:
        return len(self.prongs)

    def draw(
        self,
        kinds: np.ndarray,
        taus: np.ndarray,
        charges: np.ndarray,
        helicities: np.ndarray,
        rng: np.random.Generator,
    ) -> Decays:
        """Draw decays of given kinds.

        Args:
            kinds: ``ELECTRON``, ``MUON`` or ``HADRONIC``, shape (n,).
            taus: Four-momenta in the laboratory, shape (n, 4), GeV.
            charges: -1 or 1, shape (n,).
            helicities: -1 or 1, shape (n,).
            rng: Source of random numbers.
        """
        rows = rng.integers(len(self), size=len(kinds))
        draws = rng.random((len(kinds), 4))
        azimuths = 2.0 * np.pi * draws[:, 3]
        visible = _visible(kinds, rows, azimuths, draws, taus, charges, helicities, self.visible)
        return Decays(kinds, rows, azimuths, visible)

    def products(
        self, decays: Decays, taus: np.ndarray, charges: np.ndarray, helicities: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Visible products of n decays.

        Args:
            decays: The decays, shape (n,).
            taus: Four-momenta in the laboratory, shape (n, 4), GeV.
            charges: -1 or 1, shape (n,).
            helicities: -1 or 1, shape (n,).

        Returns:
            For each product the decay it comes from (m,), its PDG code (m,) and four-momentum (m, 4), decay by decay.
        """
        hadronic = decays.kinds == HADRONIC
        counts = np.where(hadronic, np.diff(self.offsets)[decays.rows], 1)
        owner = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        source = np.where(hadronic, self.offsets[decays.rows], 0)[owner] + within
        # The library holds a tau-; its products change sign with it where they have an antiparticle.
        codes = np.where(np.isin(self.pdg[source], SELF_CONJUGATE), 1, -charges[owner]) * self.pdg[source]
        momenta = _all_to_lab(self.momenta[source], owner, taus, charges, helicities, decays.azimuths)
        leptons = ~hadronic[owner]
        codes[leptons] = -charges[owner][leptons] * LEPTON_CODES[decays.kinds[owner][leptons]]
        momenta[leptons] = decays.visible[owner][leptons]
        return owner, codes, momenta


SELF_CONJUGATE = (22, 111, 130, 310)


def draw_kinds(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw kinds of n decays with their branching ratios, shape (n,), int64."""
    return np.searchsorted([BRANCHING_E, BRANCHING_LEPTON], rng.random(n), side="right")


def draw_pairs(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw kinds of the decays of n tau pairs of which at least one is leptonic, shape (n, 2), int64."""
    # The first is leptonic whatever the second is, or only the second is.
    first = rng.random(n) < BRANCHING_LEPTON / PAIR_FRACTION
    lepton = np.where(rng.random(n) < BRANCHING_E / BRANCHING_LEPTON, ELECTRON, MUON)
    return np.stack([np.where(first, lepton, HADRONIC), np.where(first, draw_kinds(n, rng), lepton)], axis=-1)


PAIR_FRACTION = 1.0 - BRANCHING_HADRON**2
"""Fraction of tau pairs with at least one leptonic decay, which ``draw_pairs`` draws from."""


def make_library(size: int = LIBRARY_SIZE, seed: int = LIBRARY_SEED) -> TauLibrary:
    """Let Pythia decay tau- of helicity +1 to hadrons (about 1 ms each)."""
    import pythia8mc
    from tqdm import trange

    pythia = pythia8mc.Pythia("", False)
    settings = ("Print:quiet = on", "ProcessLevel:all = off", "Random:setSeed = on", f"Random:seed = {seed}")
    for line in (*settings, "15:offIfAny = 11 13"):
        pythia.readString(line)
    pythia.init()
    mass = pythia.particleData.m0(15)
    energy = 100.0 * mass
    momentum = np.sqrt(energy**2 - mass**2)
    codes: list[int] = []
    momenta: list[tuple[float, float, float, float]] = []
    charged: list[bool] = []
    counts: list[int] = []
    for _ in trange(size, desc="tau decays", disable=None):
        pythia.event.reset()
        pythia.event.append(15, 1, 0, 0, 0.0, 0.0, momentum, energy, mass)
        pythia.event.back().pol(1.0)
        while not pythia.next():
            pass
        particles = [pythia.event[i] for i in range(pythia.event.size())]
        final = [particle for particle in particles if particle.isFinal() and particle.idAbs() not in (12, 14, 16)]
        codes.extend(particle.id() for particle in final)
        momenta.extend((particle.px(), particle.py(), particle.pz(), particle.e()) for particle in final)
        charged.extend(particle.isCharged() for particle in final)
        counts.append(len(final))
    lab = np.array(momenta)
    gamma, boost = energy / mass, momentum / mass
    rest = lab.copy()
    rest[:, 2] = gamma * lab[:, 2] - boost * lab[:, 3]
    rest[:, 3] = gamma * lab[:, 3] - boost * lab[:, 2]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return TauLibrary(
        np.array(codes, dtype=np.int32),
        rest,
        offsets,
        np.add.reduceat(rest, offsets[:-1]),
        np.add.reduceat(np.array(charged, dtype=np.int8), offsets[:-1]),
    )


def load_library(folder: Path, size: int = LIBRARY_SIZE) -> TauLibrary:
    """Read the library from ``folder``, making it first where it is absent, of another size or of other code."""
    path = library_path(folder, size, LIBRARY_FILE, "tau_decays")
    if not path.exists():
        write_arrays(path, vars(make_library(size)))
    return TauLibrary(**read_arrays(path))
