"""Tau decays against analytic spectra, conservation laws and spin correlations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("pythia8mc", reason="the simulation's requirements are not installed")

from training.simulation import tau_decays as td

N = 200_000


@pytest.fixture(scope="module")
def library() -> td.TauLibrary:
    return td.make_library(4000, seed=7)


def lab_taus(n: int, rng: np.random.Generator) -> np.ndarray:
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    momentum = rng.uniform(200.0, 400.0, n)
    return np.column_stack([direction * momentum[:, None], np.hypot(momentum, td.TAU_MASS)])


@pytest.mark.parametrize("charge", [-1, 1])
@pytest.mark.parametrize("helicity", [-1, 1])
def test_leptonic_spectrum(library, charge, helicity):
    rng = np.random.default_rng(3)
    taus = lab_taus(N, rng)
    charges, helicities = np.full(N, charge), np.full(N, helicity)
    decays = library.draw(np.full(N, td.ELECTRON), taus, charges, helicities, rng)
    x = decays.visible[:, 3] / taus[:, 3]
    # A tau+ of helicity h decays as a tau- of helicity -h.
    p = -charge * helicity

    def exact(z):
        # Integral of (1 - z) (5 + 5 z - 4 z^2 + P (1 + z - 8 z^2)) / 3.
        grid = np.linspace(0, 1, 4001)
        density = (1 - grid) * (5 + 5 * grid - 4 * grid**2 + p * (1 + grid - 8 * grid**2)) / 3
        total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
        return np.interp(z, grid, total / total[-1])

    assert stats.kstest(x, exact).pvalue > 1e-3


@pytest.mark.parametrize("charge", [-1, 1])
@pytest.mark.parametrize("helicity", [-1, 1])
def test_pion_spectrum(library, charge, helicity):
    rng = np.random.default_rng(4)
    single = np.flatnonzero((np.diff(library.offsets) == 1) & (np.abs(library.pdg[library.offsets[:-1]]) == 211))
    n = len(single)
    assert n > 400
    taus = lab_taus(n, rng)
    charges, helicities = np.full(n, charge), np.full(n, helicity)
    decays = td.Decays(np.full(n, td.HADRONIC), single, rng.uniform(0, 6.28, n), np.zeros((n, 4)))
    owner, codes, momenta = library.products(decays, taus, charges, helicities)
    assert (owner == np.arange(n)).all()
    assert (codes == 211 * charge).all()
    x = momenta[:, 3] / taus[:, 3]
    p = -charge * helicity
    assert stats.kstest(x, lambda z: z + p * (z**2 - z)).pvalue > 1e-3


def test_products_sum_to_the_visible_momentum_and_keep_the_charge(library):
    rng = np.random.default_rng(5)
    n = 5000
    taus = lab_taus(n, rng)
    charges, helicities = rng.choice([-1, 1], n), rng.choice([-1, 1], n)
    decays = library.draw(td.draw_kinds(n, rng), taus, charges, helicities, rng)
    owner, codes, momenta = library.products(decays, taus, charges, helicities)
    total = np.zeros((n, 4))
    np.add.at(total, owner, momenta)
    np.testing.assert_allclose(total, decays.visible, rtol=1e-9, atol=1e-6)
    charge = np.zeros(n)
    unit = np.where(np.isin(np.abs(codes), (11, 13)), -np.sign(codes), np.sign(codes))
    np.add.at(charge, owner, np.where(np.isin(np.abs(codes), (11, 13, 211, 321, 2212)), unit, 0))
    assert (charge == charges).all()
    invisible = taus - decays.visible
    mass2 = invisible[:, 3] ** 2 - np.sum(invisible[:, :3] ** 2, axis=1)
    assert mass2.min() > -0.05
    assert (mass2[decays.kinds == td.HADRONIC] < 0.05).all()


def test_boost_keeps_masses_and_is_a_rotation_at_rest():
    rng = np.random.default_rng(6)
    taus = lab_taus(1000, rng)
    for tau in taus:
        rest = td.lepton_at_rest(td.MUON, rng.random(3))
        lab = np.array(td.to_lab(rest, tau, -1, 1, rng.uniform(0, 6)))
        dot = lab[3] * tau[3] - lab[:3] @ tau[:3]
        assert abs(dot / td.TAU_MASS / rest[3] - 1) < 1e-6
    still = np.array([0.0, 0.0, 0.0, td.TAU_MASS])
    np.testing.assert_allclose(td.to_lab((0.1, 0.2, 0.3, 1.0), still, -1, 1, 0.0), (0.1, 0.2, 0.3, 1.0))


def test_branching_ratios():
    kinds = td.draw_kinds(N, np.random.default_rng(8))
    for kind, expected in ((td.ELECTRON, 0.1782), (td.MUON, 0.1739), (td.HADRONIC, 0.6479)):
        assert abs((kinds == kind).mean() - expected) < 4 * np.sqrt(expected / N)
    pairs = td.draw_pairs(N, np.random.default_rng(9)) == td.HADRONIC
    assert not pairs.all(axis=1).any()
    mixed = 2 * td.BRANCHING_LEPTON * td.BRANCHING_HADRON / td.PAIR_FRACTION
    assert abs((pairs.sum(axis=1) == 1).mean() - mixed) < 0.005


def test_polarisation_of_the_z():
    # The average over angles is -A_tau; the forward-backward polarisation asymmetry has the sign of the quark's A.
    a_tau = 2 * (1 - 4 * td.SIN2_THETA_W) / (1 + (1 - 4 * td.SIN2_THETA_W) ** 2)
    assert abs((2 * td.Z_RIGHT_FRACTION - 1) + a_tau) < 1e-9
    cosines = np.linspace(-1, 1, 2001)
    for quark in (1, 2):
        fraction = np.array([td.z_right_fraction(quark, c) for c in cosines])
        assert fraction[0] > fraction[-1]
        assert fraction.min() > 0
