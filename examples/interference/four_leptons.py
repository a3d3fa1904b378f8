"""g g -> (H*) -> Z Z -> 4 leptons with continuum and q q -> Z Z: amplitudes in closed form, so the ratio is exact.

An event is (m, cos theta*, cos theta_1, cos theta_2, Phi, pt, y). Five processes: the signal S, its interference I
with the continuum, the continuum B in a state of spin 0, one of spin 2 and q q -> Z Z. At mu the density is
mu S + sqrt(mu) I + B + the others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np

from examples.interference import amplitudes as helicity
from sage.errors import SettingsError

FEATURES = ("m4l", "cos_theta_star", "cos_theta_1", "cos_theta_2", "phi", "pt4l", "y4l")
PROCESSES = ("S", "I", "B", "spin2", "qqZZ")
GLUONS = slice(0, 3)
LOW, HIGH = 220.0, 1000.0
"""Range of m4l that is selected, GeV."""
SIGNAL_YIELD, SPIN2_YIELD, QUARK_YIELD = 30.0, 100.0, 1400.0
SIGNAL_INTEGRAL, SPIN2_INTEGRAL, QUARK_INTEGRAL = 10199.2, 39.918, 323.94
"""Of the densities below without their factors."""
GLUON_SCALE, QUARK_SCALE = 40.0, 28.0
"""Of the distributions of pt, GeV."""
GLUON_SHAPE, QUARK_SHAPE = 1.4, 1.1
GLUON_WIDTH, QUARK_WIDTH = 0.95, 1.25
"""Of the distributions of y."""
PEAK = 0.95
"""cos(theta*) of q q -> Z Z: (1 + c^2) / (1 - PEAK^2 c^2)."""
LARGEST_COSINE = 0.9999
"""Of theta* where a rapidity is computed."""
SPIN2_HELICITIES, QUARK_HELICITIES = (0.0, 0.0, 1.0), (0.15, 0.10, 0.75)

NUISANCES = ("gg_rate", "box_rate", "qq_shape", "lepton_scale", "pt_scale", "luminosity")
"""K factors of gg and of the continuum amplitude alone, qqZZ, lepton energy, pt of gg, luminosity."""


def check_nuisances(alphas: Mapping[str, float]) -> None:
    """Refuse names of no nuisance parameter.

    Raises:
        SettingsError: If there is one.
    """
    unknown = sorted(set(alphas) - set(NUISANCES))
    if unknown:
        msg = f"no nuisance is called {unknown[0]!r}; choose some of {', '.join(NUISANCES)}"
        raise SettingsError(msg)


def factors(m: np.ndarray, alphas: Mapping[str, float]) -> np.ndarray:
    """Return what nuisances multiply each process by at true masses, shape (5, N)."""
    rates = np.full((len(PROCESSES), len(m)), math.exp(0.017 * alphas.get("luminosity", 0.0)))
    rates[GLUONS] *= np.exp(alphas.get("gg_rate", 0.0) * (0.10 + 0.05 * np.log(m / 300)))
    box = alphas.get("box_rate", 0.0)
    rates[1] *= math.exp(0.05 * box)
    rates[2] *= math.exp(0.10 * box)
    rates[4] *= np.exp(-0.05 * alphas.get("qq_shape", 0.0) * m / 300)
    return rates


def scales(m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the dependence on mass of spin 0, spin 2 and q q -> Z Z, normalised to their yields, shape (N,) each."""
    beta = helicity.velocity(m)
    gluons = (m / LOW) ** -5 * beta
    spin0 = SIGNAL_YIELD / SIGNAL_INTEGRAL * gluons
    return spin0, SPIN2_YIELD / SPIN2_INTEGRAL * gluons, QUARK_YIELD / QUARK_INTEGRAL * (m / LOW) ** -4 * beta


def components(x: np.ndarray, alphas: Mapping[str, float] | None = None) -> np.ndarray:
    """Return the densities of the five processes, in events, at events, shape (N, 5).

    Args:
        x: Events, shape (N, 7), of selected masses.
        alphas: Nuisance parameters by name, in standard deviations.
    """
    given = alphas or {}
    check_nuisances(given)
    stretch = 1 + 0.002 * given.get("lepton_scale", 0.0)
    m, c, c1, c2, phi, pt, y = x.T
    true = m / stretch
    spin0, spin2, quarks = scales(true)
    found = np.empty((5, len(m)))
    box = helicity.continuum(true) * helicity.peaking(c)
    found[GLUONS] = spin0 * helicity.interference(helicity.signal(true), box, c1, c2, phi)
    found[3] = spin2 * 5 / 64 * ((1 + c) ** 4 + (1 - c) ** 4) * helicity.polarised(c1, c2, *SPIN2_HELICITIES)
    found[4] = quarks * (1 + c**2) / (1 - PEAK**2 * c**2) * helicity.polarised(c1, c2, *QUARK_HELICITIES)
    found[:4] *= motion(pt, y, GLUON_SHAPE, GLUON_SCALE * (1 + 0.05 * given.get("pt_scale", 0.0)), GLUON_WIDTH)
    found[4] *= motion(pt, y, QUARK_SHAPE, QUARK_SCALE, QUARK_WIDTH)
    return np.asarray((found * factors(true, given)).T / stretch)


def motion(pt: np.ndarray, y: np.ndarray, shape: float, scale: float, width: float) -> np.ndarray:
    """Return the density in pt and y of the four leptons: a gamma and a normal distribution."""
    gamma = (pt / scale) ** (shape - 1) * np.exp(-pt / scale) / (scale * math.gamma(shape))
    return np.asarray(gamma * np.exp(-0.5 * (y / width) ** 2) / (width * math.sqrt(2 * math.pi)))


@functools.cache
def _masses() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a quadrature over the selected masses; the top threshold is an end of panels."""
    edges = np.concatenate([np.linspace(LOW, 2 * helicity.MT, 9), np.linspace(2 * helicity.MT, HIGH, 25)[1:]])
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (nodes + 1)).ravel(), (half * weights).ravel()


def spectrum(m: np.ndarray) -> np.ndarray:
    """Return the densities of the five processes in mass, shape (5, N): the angles are integrated analytically."""
    spin0, spin2, quarks = scales(m)
    higgs, box = helicity.signal(m), helicity.continuum(m)
    once, twice = 2 * math.asin(helicity.RHO) / helicity.RHO, 2 * math.atanh(helicity.RHO) / helicity.RHO
    rates = [2 * np.abs(higgs) ** 2, once * 2 * (higgs.conj() * box).real, twice * np.abs(box) ** 2]
    quark_angle = -2 / PEAK**2 + (1 + 1 / PEAK**2) * 2 * math.atanh(PEAK) / PEAK
    return np.stack([*(spin0 * rate.sum(axis=0) for rate in rates), spin2, quarks * quark_angle])


def yields(alphas: Mapping[str, float] | None = None) -> np.ndarray:
    """Return the expected events of the five processes, shape (5,); that of I is negative."""
    given = alphas or {}
    check_nuisances(given)
    m, weights = _masses()
    stretch = 1 + 0.002 * given.get("lepton_scale", 0.0)
    true = m / stretch
    return np.asarray((spectrum(true) * factors(true, given)) @ weights / stretch)


def inputs(x: np.ndarray) -> np.ndarray:
    """Return what a network reads of events, float32, shape (N, 15).

    Rapidity of the Z bosons along the beam, angles as products with the sines that make them smooth where a plane of
    decay is not defined, and quantities of motion in which the tails are no longer than exponentials.
    """
    m, c, c1, c2, phi, pt, y = x.T
    across = np.sqrt(np.clip((1 - c1**2) * (1 - c2**2), 0.0, None))
    planes = (across * np.cos(phi), across * np.sin(phi), across**2 * np.cos(2 * phi), across**2 * np.sin(2 * phi))
    rapidity = np.arctanh(np.clip(c, -LARGEST_COSINE, LARGEST_COSINE))
    motion = np.log(pt + 1), pt / GLUON_SCALE, y**2
    return np.stack([np.log(m), rapidity, c**2, c1, c2, c1 * c2, c1**2, c2**2, *planes, *motion], 1).astype(np.float32)
