"""Each module of the detector against its formula, a slow twin or fastjet."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("numba", reason="the simulation's requirements are not installed")
pytest.importorskip("fastjet", reason="the simulation's requirements are not installed")

import fastjet

from tests.detector_toys import batch_of, toy_events
from training.simulation.calorimeter import energy_flow, energy_resolution, measure_towers
from training.simulation.card import ATLAS
from training.simulation.detector import deposits
from training.simulation.draws import log_normal, normal, stream, uniform
from training.simulation.jets import anti_kt, energy_scale
from training.simulation.objects import count_tracks, isolation_sum, match_tau, tag_probability
from training.simulation.towers import NO_TOWER, TRACK, ecal_fraction, tower_at, tower_edges
from training.simulation.tracking import HADRON, MUON, find_tracks, fly_helix, fly_straight

RADIUS, HALF_LENGTH = ATLAS.magnet.radius, ATLAS.magnet.half_length


def test_uniform_and_normal_follow_their_distributions() -> None:
    state = stream(3, 1)
    assert stats.kstest([uniform(state) for _ in range(20_000)], "uniform").pvalue > 1e-3
    assert stats.kstest([normal(state) for _ in range(20_000)], "norm").pvalue > 1e-3


def test_streams_of_seeds_and_purposes_differ() -> None:
    first = {uniform(stream(seed, purpose)) for seed in range(100) for purpose in range(4)}
    assert len(first) == 400


def test_log_normal_has_the_mean_and_width_asked_for() -> None:
    state = stream(5, 1)
    draws = np.array([log_normal(10.0, 4.0, state) for _ in range(40_000)])
    assert draws.mean() == pytest.approx(10.0, abs=4 * 4.0 / 200)
    assert draws.std() == pytest.approx(4.0, rel=0.05)
    assert log_normal(0.0, 4.0, state) == 0.0


@pytest.mark.parametrize("charge", [1.0, -1.0])
@pytest.mark.parametrize("pt", [0.4, 1.0, 30.0])
def test_helix_from_the_centre_is_a_circle(charge: float, pt: float) -> None:
    phi, pz = 0.7, 0.3 * pt
    x, y, z, direction = fly_helix(ATLAS.magnet, charge, (pt * math.cos(phi), pt * math.sin(phi), pz), (0.0, 0.0, 0.0))
    r = pt / (0.299792458 * 2.0)  # metres
    half = math.asin(RADIUS / (2 * r))
    assert math.hypot(x, y) == pytest.approx(RADIUS)
    assert math.remainder(math.atan2(y, x) - (phi - charge * half), 2 * math.pi) == pytest.approx(0.0, abs=1e-9)
    assert z == pytest.approx(r * 2 * half * pz / pt)
    assert math.remainder(direction - phi, 2 * math.pi) == pytest.approx(0.0, abs=1e-9)


def test_slow_helix_ends_at_the_end_plate() -> None:
    x, y, z, _ = fly_helix(ATLAS.magnet, 1.0, (0.2, 0.0, -0.1), (0.0, 0.0, 0.0))
    assert z == pytest.approx(-HALF_LENGTH)
    assert math.hypot(x, y) < RADIUS


@pytest.mark.parametrize("charge", [0.0, 1.0, -1.0])
def test_displaced_flight_agrees_with_small_steps(charge: float) -> None:
    """Slow twin: step along the momentum, turning it by the field, until the cylinder ends."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        pt, phi, pz = rng.uniform(0.6, 5), rng.uniform(-3, 3), rng.normal(0, 3)
        start = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), rng.uniform(-1, 1)
        momentum = pt * math.cos(phi), pt * math.sin(phi), pz
        end = (
            fly_helix(ATLAS.magnet, charge, momentum, start) if charge else fly_straight(ATLAS.magnet, momentum, start)
        )
        step, (x, y, z) = 2e-4, start
        while math.hypot(x, y) < RADIUS and abs(z) < HALF_LENGTH:
            turned = phi - 0.5 * step * 0.299792458 * 2.0 * charge / pt
            x, y, z = x + step * math.cos(turned), y + step * math.sin(turned), z + step * pz / pt
            phi -= step * 0.299792458 * 2.0 * charge / pt
        assert end[:3] == pytest.approx((x, y, z), abs=5e-3)


def test_tracks_are_found_and_smeared_as_the_card_says() -> None:
    n = 40_000
    for pdg, eta, pt, efficiency, sigma in (
        (211, 0.3, 20.0, 0.95, math.hypot(0.06, 0.026)),
        (211, 2.0, 0.8, 0.60, math.hypot(0.25, 3.1e-3 * 0.8)),
        (11, 1.0, 120.0, 0.99, math.hypot(0.05, 0.204)),
        (13, 2.2, 40.0, 0.98, math.hypot(0.025, 0.014)),
    ):
        tracks = deposits(batch_of([(pdg, 1, pt, eta, 0.0, 0.1)])).tracks
        found = find_tracks(np.repeat(tracks, n), stream(1, 1))
        assert len(found) == pytest.approx(n * efficiency, abs=4 * math.sqrt(n * efficiency * (1 - efficiency)))
        assert found["pt"].mean() == pytest.approx(pt, rel=4 * sigma / math.sqrt(n))
        assert found["pt"].std() == pytest.approx(sigma * pt, rel=0.04)


def test_no_tracks_outside_of_the_tracker() -> None:
    rows = [(211, 1, 5.0, 2.7, 0.0, 0.14), (13, -1, 50.0, -2.6, 1.0, 0.1), (211, 1, 0.09, 0.0, 0.0, 0.14)]
    assert len(deposits(batch_of(rows)).tracks) == 0


def test_segmentation_of_the_card() -> None:
    ecal, hcal = ATLAS.ecal, ATLAS.hcal
    assert (ecal.eta_edges[0], ecal.eta_edges[-1]) == (-5.0, 5.0)
    assert (hcal.eta_edges[0], hcal.eta_edges[-1]) == (-4.9, 4.9)
    fine = np.abs(ecal.eta_edges) < 2.95
    np.testing.assert_allclose(np.diff(ecal.eta_edges[fine]), 0.0174)
    assert set(ecal.n_phi[fine]) == {360}
    assert set(ecal.n_phi[~fine & (np.abs(ecal.eta_edges) > 2.96)]) == {36}
    # Lists of 10 and 20 degrees overlap in the card; the upper edge decides.
    rows = dict(zip(hcal.eta_edges.round(3).tolist(), hcal.n_phi.tolist(), strict=True))
    assert (rows[-3.3], rows[-3.2], rows[-3.0], rows[-2.6], rows[-2.5]) == (18, 36, 18, 18, 36)
    assert (rows[2.6], rows[2.8], rows[3.2], rows[3.3], rows[3.5]) == (36, 18, 18, 36, 18)


def test_towers_hold_what_hits_them_and_are_closed_above() -> None:
    rng = np.random.default_rng(2)
    for layer, calorimeter in ((0, ATLAS.ecal), (1, ATLAS.hcal)):
        for eta, phi in zip(rng.uniform(-4.8, 4.8, 300), rng.uniform(-math.pi, math.pi, 300), strict=True):
            low, high, left, right = tower_edges(ATLAS, tower_at(layer, calorimeter, eta, phi))
            assert low < eta <= high
            assert left - 1e-12 < phi <= right + 1e-12
        for row in range(1, len(calorimeter.eta_edges)):
            edge = calorimeter.eta_edges[row]
            assert tower_edges(ATLAS, tower_at(layer, calorimeter, edge, 0.01))[1] == edge
        assert tower_at(layer, calorimeter, calorimeter.eta_edges[0], 0.0) == NO_TOWER
        assert tower_at(layer, calorimeter, 5.01, 0.0) == NO_TOWER
        assert tower_at(layer, calorimeter, 0.05, math.pi) != NO_TOWER


def test_energy_fractions() -> None:
    assert [ecal_fraction(code) for code in (11, -11, 22, 111)] == [1.0] * 4
    assert [ecal_fraction(code) for code in (13, -14, 16, 1000022)] == [-1.0] * 4
    assert [ecal_fraction(code) for code in (310, -3122, 211, 130, 2112)] == [0.3, 0.3, 0.0, 0.0, 0.0]


def test_deposits_agree_with_a_slow_sum() -> None:
    batch = toy_events(3)
    found = deposits(batch)
    p = batch.particles
    for event in range(3):
        expected: dict[int, float] = {}
        for i in range(batch.offsets[event], batch.offsets[event + 1]):
            momentum, fraction = (p.px[i], p.py[i], p.pz[i]), ecal_fraction(p.pdg[i])
            if p.charge[i]:
                x, y, z, _ = fly_helix(ATLAS.magnet, float(p.charge[i]), momentum, (0.0, 0.0, 0.0))
            else:
                x, y, z = fly_straight(ATLAS.magnet, momentum, (0.0, 0.0, 0.0))
            for layer, calorimeter, part in ((0, ATLAS.ecal, fraction), (1, ATLAS.hcal, 1.0 - fraction)):
                tower = tower_at(layer, calorimeter, math.asinh(z / math.hypot(x, y)), math.atan2(y, x))
                if tower != NO_TOWER and fraction >= 0 and part > 0:
                    expected[tower] = expected.get(tower, 0.0) + part * p.e[i]
        rows = slice(found.tower_offsets[event], found.tower_offsets[event + 1])
        assert found.towers[rows].tolist() == sorted(expected)
        np.testing.assert_allclose(found.energies[rows], [expected[tower] for tower in sorted(expected)])


@pytest.mark.parametrize(
    ("layer", "eta", "energy", "sigma"),
    [
        (0, 0.5, 50.0, math.sqrt((0.0017 * 50) ** 2 + 0.101**2 * 50)),
        (0, 4.0, 80.0, math.sqrt((0.035 * 80) ** 2 + 0.285**2 * 80)),
        (1, 0.5, 40.0, math.sqrt((0.0302 * 40) ** 2 + 0.5205**2 * 40 + 1.59**2)),
        (1, 2.2, 60.0, math.sqrt((0.05 * 60) ** 2 + 0.706**2 * 60)),
        (1, 4.0, 90.0, math.sqrt((0.0942 * 90) ** 2 + 90)),
    ],
)
def test_tower_resolution(layer: int, eta: float, energy: float, sigma: float) -> None:
    n = 30_000
    tower = tower_at(layer, ATLAS.hcal if layer else ATLAS.ecal, eta, 0.3)
    measured, _, etas, phis = measure_towers(ATLAS, np.full(n, tower, np.int32), np.full(n, energy), stream(1, 2))
    assert measured.mean() == pytest.approx(energy, abs=4 * sigma / math.sqrt(n))
    assert measured.std() == pytest.approx(sigma, rel=0.04)
    low, high, left, right = tower_edges(ATLAS, tower)
    assert stats.kstest(etas, "uniform", (low, high - low)).pvalue > 1e-3
    assert stats.kstest(phis, "uniform", (left, right - left)).pvalue > 1e-3


def test_soft_towers_are_cut_by_significance_and_energy() -> None:
    for layer, energy_min in ((0, 0.5), (1, 1.0)):
        calorimeter = ATLAS.hcal if layer else ATLAS.ecal
        tower = np.full(20_000, tower_at(layer, calorimeter, 0.5, 0.3), np.int32)
        measured, sigmas, _, _ = measure_towers(ATLAS, tower, np.full(len(tower), 4.0 if layer else 0.5), stream(2, 2))
        kept = measured[measured > 0]
        assert 0 < len(kept) < len(tower)
        assert kept.min() >= energy_min
        assert (kept >= 2 * sigmas[measured > 0]).all()
        # The smallest measured energy kept is where E = 2 sigma(E), above 4 GeV in the hadronic barrel.
        expected = 4.0 if layer else 0.5
        assert kept.min() == pytest.approx(
            max(expected, 2 * energy_resolution(calorimeter.resolution, 0.5, kept.min())), rel=0.1
        )


def track_rows(*rows: tuple[float, float, float, int, int, int]) -> np.ndarray:
    """Tracks from (pt, eta, phi, charge, kind, tower), massless, with a resolution of 10 %."""
    tracks = np.zeros(len(rows), TRACK)
    for i, row in enumerate(rows):
        for name, value in zip(("pt", "eta", "phi", "charge", "kind", "tower"), row, strict=True):
            tracks[i][name] = value
    tracks["resolution"] = 0.1
    return tracks


def test_energy_flow_splits_off_a_significant_excess() -> None:
    towers = np.array([tower_at(1, ATLAS.hcal, 0.05, 0.05)], np.int32)
    tracks = track_rows((10.0, 0.0, 0.05, 1, HADRON, int(towers[0])), (5.0, 0.0, 0.05, 1, MUON, NO_TOWER))
    neutral, scales = energy_flow(ATLAS, towers, np.array([20.0]), np.array([2.0]), tracks)
    assert (neutral[0], scales[0]) == (10.0, 1.0)
    # Excess 4 < 2 sqrt(1 + 4): the track gets the weighted mean of 10 +- 1 and 14 +- 2 instead.
    neutral, scales = energy_flow(ATLAS, towers, np.array([14.0]), np.array([2.0]), tracks)
    assert neutral[0] == 0.0
    assert scales[0] == pytest.approx((10.0 / 1 + 14.0 / 4) / (1 + 1 / 4) / 10.0)


def test_isolation_and_track_counting_agree_with_slow_twins() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        flow = np.stack([rng.exponential(1.0, 80), rng.uniform(-1, 1, 80), rng.uniform(-math.pi, math.pi, 80)])
        eta, phi, itself = rng.uniform(-1, 1), rng.uniform(-math.pi, math.pi), int(rng.integers(-1, 80))
        tracks = track_rows(*((*flow[:, i], int(rng.choice([-1, 1])), HADRON, 0) for i in range(80)))
        total, count, charge = 0.0, 0, 0
        for i in range(80):
            distance = math.hypot(flow[1, i] - eta, math.remainder(flow[2, i] - phi, 2 * math.pi))
            if i != itself and flow[0, i] >= 0.5 and distance <= 0.5:
                total += flow[0, i]
            if flow[0, i] >= 1.0 and distance <= 0.2:
                count, charge = count + 1, charge + int(tracks["charge"][i])
        assert isolation_sum(ATLAS.isolation, eta, phi, itself, flow) == pytest.approx(total)
        assert count_tracks(ATLAS.taus, eta, phi, tracks) == (count, charge)


def test_tau_matching_and_tag_probabilities() -> None:
    taus = np.array([[0.0, 0.15, 0.05], [3.1, 3.1, 3.1], [30.0, 30.0, 30.0], [0.0, 0.1, 2.6]])
    assert match_tau(ATLAS.taus, 0.1, 3.1, taus) == 1  # the third is nearer but its tau is beyond |eta| 2.5
    assert match_tau(ATLAS.taus, 0.0, -3.1, taus) == 0
    assert match_tau(ATLAS.taus, 1.0, 3.1, taus) == -1
    assert [tag_probability(ATLAS.taus, True, n) for n in range(4)] == [0.0, 0.7, 0.6, 0.6]
    assert [tag_probability(ATLAS.taus, False, n) for n in range(4)] == [0.0, 0.02, 0.01, 0.01]


def slow_anti_kt(momenta: np.ndarray, radius: float) -> list[tuple[float, frozenset[int]]]:
    """Jets as (pt, inputs), by looking at every pair in every step."""
    jets, left = [], [(p, frozenset([i])) for i, p in enumerate(momenta.T)]
    while left:
        pt = [math.hypot(p[0], p[1]) for p, _ in left]
        rap = [0.5 * math.log((p[3] + p[2]) / (p[3] - p[2])) for p, _ in left]
        phi = [math.atan2(p[1], p[0]) for p, _ in left]
        choices = [(1 / pt[i] ** 2, i, i) for i in range(len(left))]
        for i in range(len(left)):
            for j in range(i):
                d2 = (rap[i] - rap[j]) ** 2 + math.remainder(phi[i] - phi[j], 2 * math.pi) ** 2
                choices.append((min(1 / pt[i] ** 2, 1 / pt[j] ** 2) * d2 / radius**2, i, j))
        _, i, j = min(choices)
        if i == j:
            jets.append((pt[i], left.pop(i)[1]))
        else:
            merged = left[i][0] + left[j][0], left[i][1] | left[j][1]
            left = [*(left[k] for k in range(len(left)) if k not in (i, j)), merged]
    return jets


def random_momenta(rng: np.random.Generator, n: int) -> np.ndarray:
    pt, eta, phi = rng.exponential(3.0, n) + 0.1, rng.uniform(-4.9, 4.9, n), rng.uniform(-math.pi, math.pi, n)
    return np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)])


def test_jets_agree_with_a_slow_twin_and_with_fastjet() -> None:
    rng = np.random.default_rng(6)
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, 0.6)
    for n, pt_min in [(0, 0.0), (1, 0.0)] + [(30, 0.0)] * 10 + [(200, 5.0)] * 10:
        momenta = random_momenta(rng, n)
        jets, owners = anti_kt(momenta, 0.6, pt_min)
        found = {frozenset(np.flatnonzero(owners == k).tolist()): jets[:, k] for k in range(jets.shape[1])}
        if n <= 30:
            slow = slow_anti_kt(momenta, 0.6)
            assert {inputs for _, inputs in slow} == set(found)
        inputs = [fastjet.PseudoJet(*momenta[:, i].tolist()) for i in range(n)]
        for i, pseudo in enumerate(inputs):
            pseudo.set_user_index(i)
        sequence = fastjet.ClusterSequence(inputs, definition)
        expected = sequence.inclusive_jets(pt_min)
        assert len(expected) == len(found)
        for jet in expected:
            ours = found[frozenset(part.user_index() for part in jet.constituents())]
            assert ours == pytest.approx([jet.px(), jet.py(), jet.pz(), jet.E()], rel=1e-12)


def test_jets_beyond_the_last_tiles_and_across_the_seam_agree_with_a_slow_twin() -> None:
    rng = np.random.default_rng(7)
    for spread in (0.3, 1.5, 9.0):
        pt = rng.exponential(5.0, 60) + 0.1
        eta, phi = rng.uniform(-spread, spread, 60) + 5.5, math.pi + rng.uniform(-1.0, 1.0, 60)
        momenta = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)])
        for radius in (0.4, 0.6):
            jets, owners = anti_kt(momenta, radius, 0.0)
            found = {frozenset(np.flatnonzero(owners == k).tolist()) for k in range(jets.shape[1])}
            assert {inputs for _, inputs in slow_anti_kt(momenta, radius)} == found


def test_jets_wider_than_a_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="larger than a tile"):
        anti_kt(random_momenta(np.random.default_rng(8), 3), 0.7, 0.0)


def test_jet_energy_scale() -> None:
    assert energy_scale(ATLAS.jets, 20.0, 0.0) == pytest.approx(math.sqrt(9 / 20 + 1))
    assert energy_scale(ATLAS.jets, 50.0, -2.0) == pytest.approx(math.sqrt(2.6**2 / 50 + 1))
