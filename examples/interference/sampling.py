"""Events of the four-lepton problem: drawn from a sum of products that lies above the density, then accepted.

The amplitude of spin 0 is a sum of up to six terms, three helicities of the signal and three of the continuum, and the
square of a sum of n terms is at most n times the sum of the squares, each of which is a product of one-dimensional
densities. Everything else factorises by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from examples.interference import amplitudes as helicity
from examples.interference import four_leptons as problem
from sage.errors import SettingsError

CHUNK = 200_000
"""Proposals at a time, so that memory stays bounded."""
POINTS = 20_001
"""Of the tables of masses."""


def sample(
    rng: np.random.Generator, n: int, process: str, mu: float = 1.0, alphas: Mapping[str, float] | None = None
) -> np.ndarray:
    """Draw events of one process, shape (n, 7).

    Args:
        rng: Source of random numbers.
        n: Number of events.
        process: ``S`` (the signal alone), ``SBI`` (spin 0 with interference at mu), ``spin2`` or ``qqZZ``.
        mu: Signal strength of ``SBI``; 0 is the continuum alone.
        alphas: Nuisance parameters by name, in standard deviations.

    Raises:
        SettingsError: If mu is negative, or a process or nuisance has no such name.
    """
    if not mu >= 0:
        msg = f"mu is {mu}; amplitudes take its root, give 0 or more"
        raise SettingsError(msg)
    given = alphas or {}
    problem.check_nuisances(given)
    if process in ("S", "SBI"):
        box = math.exp(0.05 * given.get("box_rate", 0.0)) if process == "SBI" else 0.0
        rows = _spin0(rng, n, math.sqrt(mu) if process == "SBI" else 1.0, box, given)
    elif process == "spin2":
        rows = _angles(rng, n, given, 3, problem.SPIN2_HELICITIES)
        rows[:, 1] = rng.choice([-1.0, 1.0], n) * (2 * (rng.random(n)) ** 0.2 - 1)
    elif process == "qqZZ":
        rows = _angles(rng, n, given, 4, problem.QUARK_HELICITIES)
        rows[:, 1] = _quark_angle(rng, n)
    else:
        msg = f"no sample is called {process!r}; choose S, SBI, spin2 or qqZZ"
        raise SettingsError(msg)
    quarks = process == "qqZZ"
    scale = problem.QUARK_SCALE if quarks else problem.GLUON_SCALE * (1 + 0.05 * given.get("pt_scale", 0.0))
    rows[:, 5] = rng.gamma(problem.QUARK_SHAPE if quarks else problem.GLUON_SHAPE, scale, n)
    rows[:, 6] = rng.normal(0.0, problem.QUARK_WIDTH if quarks else problem.GLUON_WIDTH, n)
    rows[:, 0] *= _stretch(given)
    return rows


def _stretch(given: Mapping[str, float]) -> float:
    return 1 + 0.002 * given.get("lepton_scale", 0.0)


class _Masses:
    """Draws true masses from a density, given on a grid over the selected range."""

    def __init__(self, given: Mapping[str, float]) -> None:
        self.grid = np.linspace(problem.LOW, problem.HIGH, POINTS) / _stretch(given)
        self.factors = problem.factors(self.grid, given)

    def draw(self, rng: np.random.Generator, n: int, density: np.ndarray) -> np.ndarray:
        """Return n masses from a density on the grid."""
        cumulated = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
        masses: np.ndarray = np.interp(rng.random(n) * cumulated[-1], cumulated, self.grid)
        return masses


def _spin0(rng: np.random.Generator, n: int, root: float, box: float, given: Mapping[str, float]) -> np.ndarray:
    """Draw events of |root S + box B|^2 without pt and y."""
    masses = _Masses(given)
    spectrum = problem.scales(masses.grid)[0] * masses.factors[0]
    twice = 2 * math.atanh(helicity.RHO) / helicity.RHO
    terms = np.concatenate(
        [
            2 * root**2 * np.abs(helicity.signal(masses.grid)) ** 2,
            twice * box**2 * np.abs(helicity.continuum(masses.grid)) ** 2,
        ]
    )
    densities = spectrum * terms
    chances = densities.sum(axis=1) / densities.sum()
    number = 3 * (int(root > 0) + int(box > 0))
    parts, have = [np.empty((0, 7))], 0
    while have < n:
        counts = rng.multinomial(min(CHUNK, number * 3 * (n - have) + 100), chances)
        m = np.concatenate([masses.draw(rng, count, row) for count, row in zip(counts, densities, strict=True)])
        kind = np.repeat(np.arange(6), counts)
        uniform = 2 * rng.random(len(m)) - 1
        c = np.where(kind < 3, uniform, np.tanh(uniform * math.atanh(helicity.RHO)) / helicity.RHO)
        c1, c2 = (_decays(rng, kind % 3) for _ in range(2))
        phi = math.pi * (2 * rng.random(len(m)) - 1)
        left = root * helicity.signal(m)
        right = box * helicity.continuum(m) * helicity.peaking(c)
        density = helicity.interference(left, right, c1, c2, phi).sum(axis=0)
        above = ((np.abs(left) ** 2 + np.abs(right) ** 2) * helicity.incoherent(c1, c2)).sum(axis=0)
        kept = np.flatnonzero(rng.random(len(m)) * number * above < density)
        # Proposals come ordered by term: without this the last ones would be cut off.
        kept = rng.permutation(kept)[: n - have]
        parts.append(np.column_stack([m, c, c1, c2, phi, np.empty((len(m), 2))])[kept])
        have += len(kept)
    return np.concatenate(parts)


def _decays(rng: np.random.Generator, helicities: np.ndarray) -> np.ndarray:
    """Draw cosines of decays of helicities 0 for +, 1 for 0 and 2 for -."""
    n = len(helicities)
    left = rng.random(n) < helicity.COUPLINGS[0]
    falling = 1 - 2 * np.cbrt(rng.random(n))
    sign = np.where(left == (helicities == 0), 1.0, -1.0)
    return np.where(helicities == 1, 2 * np.median(rng.random((3, n)), axis=0) - 1, sign * falling)


def _angles(
    rng: np.random.Generator, n: int, given: Mapping[str, float], process: int, fractions: tuple[float, float, float]
) -> np.ndarray:
    """Draw masses and decays of a process without interference; the others stay empty."""
    masses = _Masses(given)
    mass_factor = problem.scales(masses.grid)[process - 2] * masses.factors[process]
    equal, longitudinal, _ = fractions
    choice = rng.random(n)
    first = np.where(rng.random(n) < 0.5, 0, 2)
    second = np.where(choice < equal, first, 2 - first)
    middle = (choice >= equal) & (choice < equal + longitudinal)
    rows = np.empty((n, 7))
    rows[:, 0] = masses.draw(rng, n, mass_factor)
    rows[:, 2] = _decays(rng, np.where(middle, 1, first))
    rows[:, 3] = _decays(rng, np.where(middle, 1, second))
    rows[:, 4] = math.pi * (2 * rng.random(n) - 1)
    return rows


def _quark_angle(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw cos(theta*) of q q -> Z Z: 1 + c^2 accepted over 1 / (1 - PEAK^2 c^2)."""
    parts, have = [np.empty(0)], 0
    while have < n:
        size = 2 * (n - have) + 100
        c = np.tanh((2 * rng.random(size) - 1) * math.atanh(problem.PEAK)) / problem.PEAK
        parts.append(c[rng.random(size) * 2 < 1 + c**2][: n - have])
        have += len(parts[-1])
    return np.concatenate(parts)


def sample_total(
    rng: np.random.Generator, n: int, mu: float = 1.0, alphas: Mapping[str, float] | None = None
) -> np.ndarray:
    """Draw events of all processes together at mu, shape (n, 7), in random order."""
    s, i, b, *others = problem.yields(alphas)
    expected = np.array([mu * s + math.sqrt(mu) * i + b, *others])
    counts = rng.multinomial(n, expected / expected.sum())
    names = ("SBI", "spin2", "qqZZ")
    parts = [sample(rng, count, name, mu, alphas) for name, count in zip(names, counts.tolist(), strict=True)]
    return np.asarray(rng.permutation(np.concatenate(parts)))
