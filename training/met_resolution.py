"""Fit the resolution of MET that the di-tau likelihood supposes, with simulated events whose mass is known.

The likelihood of ``sage.challenge.ditau`` at the true mass is, but for factors without the resolution, the density of
MET given the visible momenta, so its product over H (125 GeV) and Z (91.2 GeV) has its maximum at the resolution that
describes their MET. No true neutrinos are needed. The floor of the likelihood keeps outliers from deciding. As the
likelihood knows no spectrum of the resonance's momentum, the result is the width that serves it best.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sage.challenge.ditau import (
    H_MASS,
    LIKELIHOOD_FLOOR,
    MET_CONSTANT,
    MET_JETS,
    Z_MASS,
    Pair,
    find_pair,
    likelihood,
)
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select, shift
from sage.errors import InputError
from training.events import Events, EventsFile

TRUE_MASSES = {"htautau": H_MASS, "ztautau": Z_MASS}


class Resolution(NamedTuple):
    """A fitted resolution, sigma^2 = constant^2 + jets^2 * summed pt of all jets.

    Args:
        constant: In events without jets, GeV.
        jets: Per square root of the summed pt, sqrt(GeV).
        errors: Statistical errors of both.
        minimum: Of minus the logarithm of the likelihood.
    """

    constant: float
    jets: float
    errors: tuple[float, float]
    minimum: float


def read_resonances(folder: Path) -> Events:
    """Read the H and Z events of a folder.

    Raises:
        InputError: If the folder cannot be read, or one of them is missing.
    """
    wanted = [PROCESSES.index(process) for process in TRUE_MASSES]
    file = EventsFile(folder, 0.0)
    events = file.read(file.rows("all"), keep=lambda piece: np.isin(piece.classes, wanted))
    for process, number in zip(TRUE_MASSES, wanted, strict=True):
        if not (events.classes == number).any():
            msg = f"{file.path}: holds no {process}; give events of both {' and '.join(TRUE_MASSES)}"
            raise InputError(msg)
    return events


def fit_resolution(events: Events, rows: int, seed: int) -> Resolution:
    """Fit the resolution of MET to H and Z.

    Args:
        events: Simulated events with H and Z among them; others are not used.
        rows: Events of each process, drawn in proportion to their weights.
        seed: Seed of the draw.
    """
    from scipy.optimize import minimize

    rng = np.random.default_rng(seed)
    samples: list[tuple[Pair, np.ndarray, float]] = []
    for process, mass in TRUE_MASSES.items():
        candidates = np.flatnonzero(events.classes == PROCESSES.index(process))
        weights = events.weights[candidates]
        drawn = events.take(rng.choice(candidates, rows, p=weights / weights.sum()))
        columns, _ = select(shift(drawn.columns))
        pair = find_pair(columns)
        # A visible mass above the true one has no likelihood, whatever the resolution.
        possible = pair.mass < mass
        pt = np.maximum(columns["PRI_jet_all_pt"].astype(np.float64), 0.0)[possible]
        samples.append((Pair(*(column[possible] for column in pair)), pt, mass))

    def nll(parameters: np.ndarray) -> float:
        constant, jets = parameters
        total = 0.0
        for pair, pt, mass in samples:
            values = likelihood(pair._replace(sigma=np.sqrt(constant**2 + jets**2 * pt)), mass)
            total -= float(np.log(values + LIKELIHOOD_FLOOR).sum())
        return total

    options = {"xatol": 1e-3, "fatol": 1e-2}
    best = minimize(nll, (MET_CONSTANT, MET_JETS), method="Nelder-Mead", options=options)
    constant, jets = np.abs(best.x)
    return Resolution(float(constant), float(jets), _errors(nll, np.abs(best.x)), float(best.fun))


def _errors(nll: Callable[[np.ndarray], float], best: np.ndarray) -> tuple[float, float]:
    """Return the square roots of the diagonal of the inverse matrix of second differences."""
    steps = np.diag(0.02 * best)
    hessian = np.empty((2, 2))
    for i, first in enumerate(steps):
        for j, second in enumerate(steps):
            corners = nll(best + first + second) - nll(best + first - second)
            corners += nll(best - first - second) - nll(best - first + second)
            hessian[i, j] = corners / (4 * first[i] * second[j])
    deviations = np.sqrt(np.diag(np.linalg.inv(hessian)))
    return float(deviations[0]), float(deviations[1])
