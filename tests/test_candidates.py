"""The importance of candidates: its features against the challenge's, and what tops, rows and sets make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba", reason="the simulation needs requirements-simulation.txt")
pytest.importorskip("pythia8mc", reason="the simulation needs requirements-simulation.txt")
pytest.importorskip("awkward", reason="the simulation needs requirements-simulation.txt")

from sage.challenge.ditau import LARGEST_COLLINEAR, ditau
from sage.challenge.features import derived
from sage.challenge.shifts import PRIMARIES
from tests.conftest import EVENTS
from training.events import EventsFile
from training.simulation import production as of_production
from training.simulation.aim import AIMS
from training.simulation.candidates import FEATURES, fill_features, load_candidates, row_features
from training.simulation.decisions import Effort
from training.simulation.generator import Generator
from training.simulation.processes import TABLE
from training.simulation.production import Production, Simulation, with_lepton
from training.simulation.tau_decays import ELECTRON, HADRONIC, load_library
from training.simulation.tops import hard_features, set_features
from training.simulation.underlying import NO_INTERACTIONS


@pytest.fixture(scope="module")
def events():
    file = EventsFile(EVENTS, 1.0)
    return file.read(file.rows("tables"))


def test_row_features_are_those_of_the_challenge(events):
    columns = {name: column.astype(np.float64) for name, column in events.columns.items()}
    found = row_features(np.stack([columns[name] for name in PRIMARIES], axis=1))
    assert found.shape == (len(events), FEATURES)
    assert np.isfinite(found).all()
    expected, pairs = derived(columns), ditau(columns)
    two = columns["PRI_n_jets"] >= 2
    close = {"rtol": 1e-3, "atol": 2e-3}
    np.testing.assert_allclose(50.0 * found[:, 3], expected["DER_mass_transverse_met_lep"], **close)
    np.testing.assert_allclose(60.0 * (np.exp(found[:, 5] / 2.0) - 0.1), expected["DER_mass_vis"], **close)
    np.testing.assert_allclose(50.0 * np.expm1(found[:, 6]), expected["DER_pt_h"], **close)
    np.testing.assert_allclose(100.0 * np.expm1(found[two, 13]), expected["DER_mass_jet_jet"][two], **close)
    np.testing.assert_allclose(2.0 * found[two, 14], expected["DER_deltaeta_jet_jet"][two], **close)
    wide = two & (expected["DER_deltaeta_jet_jet"] > 0.1)
    np.testing.assert_allclose(found[wide, 17], expected["DER_lep_eta_centrality"][wide], **close)
    assert (found[~two][:, [13, 14, 17, 18]] == 0).all()
    # Neutrinos' parts a of both sides where both are physical: x = 1 / (1 + a), m = m_vis / sqrt(x_l x_h).
    physical = (found[:, 8] > 0) & (found[:, 9] > 0) & (found[:, 8] < 3) & (found[:, 9] < 3)
    physical &= np.abs(np.sin(columns["PRI_lep_phi"] - columns["PRI_had_phi"])) > 0.3
    assert physical.sum() > 300
    names = list(pairs)
    for feature, name in ((8, names[0]), (9, names[1])):
        np.testing.assert_allclose(1.0 / (1.0 + found[physical, feature]), pairs[name][physical], rtol=0.01)
    collinear = np.minimum(100.0 * (np.exp(found[physical, 10]) - 0.2), LARGEST_COLLINEAR)
    np.testing.assert_allclose(collinear, pairs[names[2]][physical], rtol=0.01)


def test_the_importance_tells_signal_from_the_rest(events):
    values = np.stack([events.columns[name] for name in PRIMARIES], axis=1)
    importance = load_candidates()(row_features(values))
    signal = events.classes == 0
    assert np.average(importance, weights=events.weights) == pytest.approx(1.0, abs=0.2)
    mean = [np.average(importance[part], weights=events.weights[part]) for part in (signal, ~signal)]
    assert mean[0] > 3.0 * mean[1]


def vector(pt, eta, phi):
    return np.array([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)])


def features_of(lepton, tau, missing, jets):
    row = np.zeros(FEATURES)
    two = [*jets, np.zeros(4), np.zeros(4)][:2]
    fill_features(row, lepton, tau, missing, tuple(two), len(jets), float(sum(np.hypot(j[0], j[1]) for j in jets)))
    return row


def test_sets_of_decays_are_asked_with_their_own_lepton_tau_and_neutrinos():
    taus = np.array([vector(60.0, 0.3, 0.1)])
    visible = np.array([[vector(35.0, 0.3, 0.1)], [vector(20.0, 0.3, 0.1)]])
    kinds = np.array([[HADRONIC], [ELECTRON]])
    lepton, neutrinos = vector(30.0, -1.0, 2.0), vector(40.0, 0.0, -2.0)
    jets = np.array([vector(90.0, 2.0, 1.0), vector(50.0, -2.2, -1.0), vector(25.0, 3.5, 0.0)])
    features, owners = set_features(lepton[None], taus, kinds, visible, neutrinos, jets)
    # The decay to hadrons is one candidate; without it each jet in the tracker's reach is.
    assert owners.tolist() == [0, 1, 1]
    missing = neutrinos + taus[0] - visible[:, 0]
    np.testing.assert_allclose(features[0], features_of(lepton, visible[0, 0], missing[0], list(jets)))
    np.testing.assert_allclose(features[1], features_of(lepton, jets[0], missing[1], [jets[1], jets[2]]))
    np.testing.assert_allclose(features[2], features_of(lepton, jets[1], missing[1], [jets[0], jets[2]]))
    nobody, _ = set_features(np.zeros((0, 4)), taus, kinds[:1], visible[:1], neutrinos, jets)
    assert len(nobody) == 0


def test_hard_processes_are_asked_with_mean_decays():
    leptons, taus = np.array([vector(30.0, 0.5, 1.0)]), np.array([vector(50.0, -0.5, -2.0), vector(80.0, 0.0, 0.5)])
    neutrinos, none = vector(40.0, 0.0, -2.0), np.zeros((0, 4))
    quarks = np.array([vector(40.0, 1.0, 2.5), vector(90.0, -1.0, -1.0)])
    falling = list(quarks[::-1])
    with_tau = hard_features(leptons, taus[:1], neutrinos, quarks)
    np.testing.assert_allclose(
        with_tau, [features_of(leptons[0], 0.55 * taus[0], neutrinos + 0.45 * taus[0], falling)], rtol=1e-12
    )
    two_taus = hard_features(none, taus, neutrinos, quarks)
    missing = neutrinos + 0.6 * taus[1] + 0.45 * taus[0]
    np.testing.assert_allclose(two_taus, [features_of(0.4 * taus[1], 0.55 * taus[0], missing, falling)], rtol=1e-12)
    mistaken = hard_features(np.concatenate([leptons, 0.5 * leptons]), none, neutrinos, quarks)
    missing = neutrinos + 0.5 * leptons[0]
    expected = [features_of(leptons[0], falling[i], missing, [falling[1 - i]]) for i in range(2)]
    np.testing.assert_allclose(mistaken, expected, rtol=1e-12)


def test_sets_without_a_lepton_give_no_rows(libraries, monkeypatch):
    made = Generator(
        TABLE["ttbar"],
        Effort(sets=16, passes=2, boost=2.0),
        load_library(libraries),
        np.random.SeedSequence(7),
        NO_INTERACTIONS,
    )
    simulation = Simulation(Production("fast", 7, 100), libraries)
    without, selected = 0, 0
    for showered in made.batches(300):
        lepton = with_lepton(showered)
        without += int((~lepton).sum())
        monkeypatch.setattr(of_production, "with_lepton", lambda given: np.ones(len(given.weights), dtype=bool))
        rows, of, _ = simulation.measure(showered, np.random.default_rng(1))
        selected += len(rows)
        assert lepton[of].all()
    assert without > 30
    assert selected > 30


@pytest.mark.slow
def test_thinning_rows_keeps_their_expectation(libraries, monkeypatch):
    aim, sums = AIMS["signal"], []
    for thinning in (1e-9, 0.4):
        monkeypatch.setitem(AIMS, "signal", replace(aim, thinning=thinning))
        shard = Simulation(Production("fast", 21, 1500, aim="signal"), libraries).shard("ttbar", 0)
        columns = np.stack([np.ones(len(shard)), shard.values[:, 12] >= 2, shard.values[:, 14] > 60])
        sums.append((len(shard), columns @ shard.weights, np.sqrt(columns @ shard.weights**2)))
    (n_all, everything, _), (n_kept, thinned, error) = sums
    assert n_kept < 0.7 * n_all
    assert (np.abs(everything - thinned) < 4.0 * error).all()
