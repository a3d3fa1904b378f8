"""Four-momenta (px, py, pz, E) in GeV, shape (4,), in compiled code."""

from __future__ import annotations

import math

import numpy as np

from training.simulation.compilation import compiled


@compiled
def pt_of(p: np.ndarray) -> float:
    """Transverse momentum in GeV."""
    return math.hypot(p[0], p[1])


@compiled
def eta_of(p: np.ndarray) -> float:
    """Pseudorapidity."""
    return math.asinh(p[2] / max(1e-9, math.hypot(p[0], p[1])))


@compiled
def mass_of(p: np.ndarray) -> float:
    """Mass in GeV, 0 where rounding makes its square negative."""
    return math.sqrt(max(0.0, p[3] ** 2 - p[0] ** 2 - p[1] ** 2 - p[2] ** 2))


@compiled
def transverse_mass(p: np.ndarray, missing: np.ndarray) -> float:
    """Transverse mass in GeV of a massless particle and missing momentum (px, py, ...)."""
    product = math.hypot(p[0], p[1]) * math.hypot(missing[0], missing[1]) - p[0] * missing[0] - p[1] * missing[1]
    return math.sqrt(max(0.0, 2.0 * product))


@compiled
def massless(pt: float, eta: float, phi: float) -> np.ndarray:
    """Four-momentum of a massless particle."""
    return np.array([pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta), pt * math.cosh(eta)])
