"""Step 2, continued: what the two taus and the missing transverse momentum say about a resonance of two taus.

The organisers' derived quantities stop at the visible mass. These ten use that MET comes from the neutrinos of the two
taus, which are nearly collinear with what is visible of them. Everything is written in the axes that the two visible
momenta define in the transverse plane: b along the bisector of lepton and tau, d across it, towards the lepton. With
half the angle between them, alpha, visible momenta are pt_l (cos, sin) and pt_h (cos, -sin). Nothing else of the
directions matters, so rotations in phi and mirrors in phi and eta are exact symmetries.

numpy arrays are computed in float64; torch tensors in their own dtype, but for the angles. ``native/ditau.h`` is the
float32 twin in the kernel, which ``sage.network.ditau`` calls with the constants of this module. Momenta and masses in
GeV. Results are finite for any finite input: momenta are taken as at most ``LARGEST``, a lepton or tau as at least
``SMALLEST``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sage.challenge.shifts import Columns, namespace

DITAU = (
    "ditau_x_lep",
    "ditau_x_had",
    "ditau_mass_collinear",
    "ditau_log_ratio",
    "ditau_log_likelihood",
    "ditau_mass_mean",
    "ditau_mass_transverse_met_had",
    "ditau_mass_transverse_total",
    "ditau_met_bisector",
    "ditau_vis_bisector",
)

MET_CONSTANT, MET_JETS = 9.63, 1.30
"""Resolution of each MET component: sigma^2 = MET_CONSTANT^2 + MET_JETS^2 * summed pt of all jets, GeV and sqrt(GeV).

Fitted to simulated H and Z by ``scripts.fit_met``; a term linear in the summed pt describes them worse.
"""

Z_MASS, H_MASS = 91.2, 125.0
MASS_STEP = math.log(H_MASS / Z_MASS) / 3
MASSES = tuple(Z_MASS * math.exp(k * MASS_STEP) for k in range(-3, 12))
"""Masses at which the likelihood is taken, a geometric sequence from 66 to 290 GeV with Z and H among them."""
AT_Z, AT_H = 3, 6

NODES, NODE_WEIGHTS = (part[6:].tolist() for part in np.polynomial.legendre.leggauss(12))
"""The positive half of the Gauss-Legendre nodes on [-1, 1]; the others mirror it."""

WINDOW = 4.0
"""Standard deviations of MET from the best point beyond which the integrand is left out."""

LIKELIHOOD_FLOOR = math.exp(-30.0)
"""Added to every likelihood, in 1/GeV^3: what an outlier is worth. Good events have about exp(-14)."""

ALMOST_PARALLEL = 2e-3
"""Sine or cosine of half the opening angle at which the collinear solution is switched off; phi has 3 decimals."""

LARGEST, SMALLEST, TINY = 1e5, 1.0, 1e-30
LARGEST_COLLINEAR = 1000.0
WIDEST = 1e-3
"""Least sine or cosine used where they only bound the window of integration."""


class Pair(NamedTuple):
    """Lepton, hadronic tau and MET of each event in the axes of the bisector; all of the events' shape.

    Args:
        pt_l: Transverse momentum of the lepton.
        pt_h: Of the hadronic tau.
        cos: Cosine of half the angle between them in the transverse plane, not negative.
        sin: Its sine, not negative.
        mass: Visible mass, at least ``SMALLEST``.
        met: Missing transverse momentum.
        met_b: Its component along the bisector.
        met_d: Its component across, positive towards the lepton.
        sigma: Resolution of each component.
    """

    pt_l: Any
    pt_h: Any
    cos: Any
    sin: Any
    mass: Any
    met: Any
    met_b: Any
    met_d: Any
    sigma: Any


def ditau(events: Mapping[str, Any]) -> Columns:
    """Compute the ten di-tau quantities.

    Args:
        events: The 16 primary columns of selected events (numpy or torch), any shape.

    Returns:
        Columns ``DITAU`` of the same shape, finite wherever the events are.
    """
    pair = find_pair(events)
    x_l, x_h, collinear = collinear_solution(pair)
    log_ratio, log_likelihood, mean = mass_likelihood(pair)
    to_had, total, met_b, vis_b = transverse(pair)
    columns = (x_l, x_h, collinear, log_ratio, log_likelihood, mean, to_had, total, met_b, vis_b)
    return dict(zip(DITAU, columns, strict=True))


def find_pair(events: Mapping[str, Any], met_constant: float = MET_CONSTANT, met_jets: float = MET_JETS) -> Pair:
    """Turn events into the axes of the bisector.

    The visible mass is that of massless objects, m^2 = 2 pt_l pt_h (cosh(d_eta) - cos(d_phi)), written with half
    angles because the difference cancels.

    Args:
        events: The 16 primary columns (numpy or torch), any shape.
        met_constant: Resolution of a MET component in events without jets, GeV.
        met_jets: Resolution per square root of the summed pt of the jets, sqrt(GeV).
    """
    xp = namespace(events["PRI_met"])

    def take(name: str, least: float, largest: float) -> Any:
        return xp.clip(_precise(xp, events[name]), least, largest)

    pt_l, pt_h = (take(f"PRI_{name}_pt", SMALLEST, LARGEST) for name in ("lep", "had"))
    phi_l, phi_h, phi_met = (take(f"PRI_{name}_phi", -2 * math.pi, 2 * math.pi) for name in ("lep", "had", "met"))
    eta_l, eta_h = (take(f"PRI_{name}_eta", -6.0, 6.0) for name in ("lep", "had"))
    met, jets = take("PRI_met", 0.0, LARGEST), take("PRI_jet_all_pt", 0.0, LARGEST)

    between = phi_l - phi_h
    between = between - 2 * math.pi * xp.round(between / (2 * math.pi))
    cos, sin = xp.clip(xp.cos(between / 2), 0.0, None), xp.abs(xp.sin(between / 2))
    angle = phi_met - (phi_h + between / 2)
    across = xp.sin(angle)
    mass = 2 * xp.sqrt(pt_l * pt_h * (xp.sinh((eta_l - eta_h) / 2) ** 2 + sin**2))
    pair = Pair(
        pt_l=pt_l,
        pt_h=pt_h,
        cos=cos,
        sin=sin,
        mass=xp.clip(mass, SMALLEST, None),
        met=met,
        met_b=met * xp.cos(angle),
        met_d=met * xp.where(between < 0, -across, across),
        sigma=xp.sqrt(met_constant**2 + met_jets**2 * jets),
    )
    return pair if xp is np else Pair(*(column.to(events["PRI_met"].dtype) for column in pair))


def _precise(xp: Any, column: Any) -> Any:
    """Return a column in float64 where there is such: back to back, the cosine is all in the last bits of phi."""
    if xp is np:
        return column.astype(np.float64)
    return column if column.device.type == "mps" else column.double()


def collinear_solution(pair: Pair) -> tuple[Any, Any, Any]:
    """Solve MET = a_l p_l + a_h p_h: all neutrinos along the visible momenta (Ellis et al., Nucl. Phys. B 297, 221).

    In the axes of the bisector a_l pt_l and a_h pt_h are (MET_b / cos +- MET_d / sin) / 2. The fractions of the taus'
    momenta that are visible are x = 1 / (1 + a), and m = m_vis / sqrt(x_l x_h).

    Where a solution is unphysical or does not exist the results go on smoothly: x = 1 - a / (1 + |a|) lies between 1
    and 2 for a < 0, 1 / cos becomes cos / (cos^2 + ALMOST_PARALLEL^2), 1 / sin likewise, and the mass has a largest
    value.

    Returns:
        x_l and x_h, in (0, 2), and the collinear mass in GeV, at most ``LARGEST_COLLINEAR``.
    """
    xp = namespace(pair.met)
    along = pair.met_b * pair.cos / (pair.cos**2 + ALMOST_PARALLEL**2)
    across = pair.met_d * pair.sin / (pair.sin**2 + ALMOST_PARALLEL**2)
    a_l, a_h = (along + across) / (2 * pair.pt_l), (along - across) / (2 * pair.pt_h)
    # 1 - a / (1 + |a|) without cancellation.
    x_l, x_h = ((1 + 2 * xp.clip(-a, 0.0, None)) / (1 + xp.abs(a)) for a in (a_l, a_h))
    return x_l, x_h, xp.clip(pair.mass / xp.sqrt(x_l * x_h), None, LARGEST_COLLINEAR)


def likelihood(pair: Pair, mass: float) -> Any:
    """Compute the likelihood of one di-tau mass, without the floor.

    With collinear neutrinos x_l x_h = (m_vis / m)^2 =: r, which leaves one fraction free:

        L(m) = (2 / m) r / (2 pi sigma^2) int dx_l / x_l f(x_l) exp(-|MET - (1/x_l - 1) p_l - (1/x_h - 1) p_h|^2
               / (2 sigma^2)),   x_l from r to 1

    where f(x) = 5/3 - 3 x^2 + 4/3 x^3 is the spectrum of the lepton of an unpolarised tau, the spectrum of the hadronic
    tau is flat, and dx_h = 2 x_h / m dm is the Jacobian (SVfit: Bianchini et al., J. Phys. Conf. Ser. 513, 022035;
    with collinear neutrinos it is known as FastMTT).

    The transverse momenta of the two taus are g E and g / E with g = sqrt(pt_l pt_h) m / m_vis and E from pt_l / g to
    g / pt_h, so the residuals of MET are M_b - g cos (E + 1/E) along the bisector and M_d - g sin (E - 1/E) across it,
    M the sum of MET and visible momenta. In log(E) the integrand is smooth and may be narrow: it is integrated where
    both residuals are compatible with a point that is nearly the best one, ``WINDOW`` standard deviations away from it,
    with 12 Gauss-Legendre nodes.

    Args:
        pair: Events.
        mass: The mass in GeV.

    Returns:
        L in 1/GeV^3, of the events' shape; 0 where the visible mass is larger.
    """
    xp = namespace(pair.met)
    # Everything in units of sigma * sqrt(2).
    unit = 1 / (math.sqrt(2) * pair.sigma)
    g = xp.sqrt(pair.pt_l * pair.pt_h) / pair.mass * mass
    m_b = (pair.met_b + (pair.pt_l + pair.pt_h) * pair.cos) * unit
    m_d = (pair.met_d + (pair.pt_l - pair.pt_h) * pair.sin) * unit
    g_b, g_d = g * pair.cos * unit, g * pair.sin * unit
    to_b, to_d = 0.5 / (g * xp.clip(pair.cos, WIDEST, None) * unit), 0.5 / (g * xp.clip(pair.sin, WIDEST, None) * unit)
    least = pair.pt_l / g
    largest = xp.maximum(g / pair.pt_h, least)

    def misfit(e: Any, inverse: Any) -> Any:
        return (m_b - g_b * (e + inverse)) ** 2 + (m_d - g_d * (e - inverse)) ** 2

    def across(h: Any) -> Any:  # E of E - 1/E = 2 h
        e = xp.abs(h) + xp.sqrt(h**2 + 1)
        return xp.where(h < 0, 1 / e, e)

    def along(c: Any) -> Any:  # E >= 1 of E + 1/E = 2 c
        c = xp.clip(c, 1.0, None)
        return c + xp.sqrt(c**2 - 1)

    best = along(m_b * to_b)
    best = xp.where(m_d < 0, 1 / best, best)
    q: Any = np.inf
    for candidate in (across(m_d * to_d), best, xp.ones_like(best)):
        e = xp.minimum(xp.maximum(candidate, least), largest)
        found = misfit(e, 1 / e)
        q = xp.where(found < q, found, q)
    window = xp.sqrt(q + WINDOW**2 / 2)
    widest = along((m_b + window) * to_b)
    low = xp.maximum(xp.maximum(least, 1 / widest), across((m_d - window) * to_d))
    high = xp.minimum(xp.minimum(largest, widest), across((m_d + window) * to_d))
    half = 0.5 * xp.log(xp.maximum(high / low, xp.ones_like(low)))
    middle = xp.sqrt(low * high)

    total = 0.0
    for node, weight in zip(NODES, NODE_WEIGHTS, strict=True):
        up = xp.exp(half * node)
        for step in (up, 1 / up):
            e = middle * step
            x = least / e
            exponent = xp.clip(q - misfit(e, 1 / e), None, 60.0)
            total = total + weight * (5 / 3 + x**2 * (4 / 3 * x - 3)) * xp.exp(exponent)
    r = (pair.mass / mass) ** 2
    return total * half * (2 / mass) * r / (2 * math.pi * pair.sigma**2) * xp.exp(-q)


def mass_likelihood(pair: Pair) -> tuple[Any, Any, Any]:
    """Compare the likelihoods of the masses in ``MASSES``.

    Returns:
        ln L(H) / L(Z), ln L(H) with L in 1/GeV^3, and the mean of m under L(m) dm, in GeV. ``LIKELIHOOD_FLOOR`` is
        part of each L.
    """
    xp = namespace(pair.met)
    values = [likelihood(pair, mass) + LIKELIHOOD_FLOOR for mass in MASSES]
    weights = mass_weights()
    norm = sum(weight * value for weight, value in zip(weights, values, strict=True))
    first = sum(weight * mass * value for weight, mass, value in zip(weights, MASSES, values, strict=True))
    return xp.log(values[AT_H] / values[AT_Z]), xp.log(values[AT_H]), first / norm


def mass_weights() -> list[float]:
    """Return the weight of each of ``MASSES`` in an integral over m: the trapezoidal rule in log(m), dm = m dlog(m)."""
    return [mass * (0.5 if mass in (MASSES[0], MASSES[-1]) else 1.0) for mass in MASSES]


def transverse(pair: Pair) -> tuple[Any, Any, Any, Any]:
    """Compute transverse masses and projections on the bisector.

    A transverse mass of two massless objects is m_T^2 = 2 pt pt' (1 - cos(d_phi)); the total one is
    m_T^2 = m_T^2(lep, had) + m_T^2(lep, MET) + m_T^2(had, MET) (ATLAS, arXiv:1709.07242). The projections are those of
    CDF (Phys. Rev. Lett. 96, 011802) and CMS: neutrinos of a resonance point along the bisector, those of a W do not.
    Exactly back to back the bisector has either direction.

    Returns:
        m_T(had, MET) and the total one, projections of MET and of the visible momentum; in GeV.
    """
    xp = namespace(pair.met)

    def apart(sin: Any) -> Any:  # |MET| - MET along (cos, sin), without cancellation
        along, across = pair.met_b * pair.cos + pair.met_d * sin, pair.met_b * sin - pair.met_d * pair.cos
        return xp.where(along > 0, across**2 / (pair.met + xp.clip(along, TINY, None)), pair.met - along)

    had2, lep2 = 2 * pair.pt_h * apart(-pair.sin), 2 * pair.pt_l * apart(pair.sin)
    both2 = 4 * pair.pt_l * pair.pt_h * pair.sin**2
    return xp.sqrt(had2), xp.sqrt(had2 + lep2 + both2), pair.met_b, (pair.pt_l + pair.pt_h) * pair.cos
