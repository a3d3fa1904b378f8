"""The selection, on hand-made reconstructed events."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the simulation's requirements are not installed")

from training.simulation.reco import Jets, Leptons, RecoBatch
from training.simulation.selection import select, select_candidates


def reco_of(leptons: list[tuple], jets: list[tuple]) -> RecoBatch:
    """One event: leptons (pt, charge, is_muon), jets (pt, charge, tag probability)."""
    pt, charge, muon = np.array(leptons, dtype=float).reshape(-1, 3).T
    jet_pt, jet_charge, tag = np.array(jets, dtype=float).reshape(-1, 3).T
    zeros, count = np.zeros(len(jet_pt)), np.arange(len(jet_pt))
    return RecoBatch(
        Leptons(pt, pt / 100, pt / 50, charge.astype(int), muon > 0),
        np.array([0, len(pt)]),
        Jets(jet_pt, jet_pt / 100, zeros - 1, jet_pt - 3, count, jet_charge.astype(int), count - 1, tag, tag > 0.5),
        np.array([0, len(jet_pt)]),
        np.array([33.33339]),
        np.array([-1.5]),
        np.array([200.0]),
    )


def test_selection_fills_the_primaries() -> None:
    chosen = select(
        reco_of([(30.0, -1, 1), (14.0, 1, 0)], [(80.0, 0, 0.0), (50.1234, 1, 0.7), (40.0, 1, 0.0), (24.0, 0, 0.0)])
    )
    row = {name.removeprefix("PRI_"): float(column[0]) for name, column in chosen.columns.items()}
    expected = {
        "lep_pt": 30.0, "lep_eta": 0.3, "lep_phi": 0.6, "had_pt": 50.123, "had_eta": 0.501, "had_phi": -1.0,
        "jet_leading_pt": 80.0, "jet_leading_eta": 0.8, "jet_leading_phi": -1.0,
        "jet_subleading_pt": 40.0, "jet_subleading_eta": 0.4, "jet_subleading_phi": -1.0,
        "n_jets": 3.0, "jet_all_pt": 144.0, "met": 33.333, "met_phi": -1.5,
    }  # fmt: skip
    assert row == pytest.approx(expected, rel=1e-6)
    assert (chosen.jets[0], chosen.leptons[0], chosen.events[0]) == (1, 0, 0)


def test_missing_jets_are_undefined() -> None:
    chosen = select(reco_of([(30.0, 1, 0)], [(50.0, -1, 0.7)]))
    names = [f"PRI_jet_{which}_{what}" for which in ("leading", "subleading") for what in ("pt", "eta", "phi")]
    assert [float(chosen.columns[name][0]) for name in names] == [-25.0] * 6
    assert (chosen.columns["PRI_n_jets"][0], chosen.columns["PRI_jet_all_pt"][0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("leptons", "jets"),
    [
        ([], [(50.0, 1, 0.7)]),
        ([(19.9, -1, 1)], [(50.0, 1, 0.7)]),
        ([(30.0, -1, 1), (16.0, 1, 1)], [(50.0, 1, 0.7)]),
        ([(30.0, -1, 1), (16.0, 1, 0)], [(50.0, 1, 0.7)]),
        ([(30.0, -1, 1)], [(50.0, 1, 0.0)]),
        ([(30.0, -1, 1)], [(50.0, -1, 0.7)]),
        ([(30.0, -1, 1)], [(50.0, 2, 0.7)]),
        ([(30.0, -1, 1)], [(50.0, 1, 0.7), (40.0, 1, 0.7)]),
        ([(30.0, -1, 1)], [(19.0, 1, 0.7)]),
    ],
    ids=[
        "no lepton",
        "soft",
        "two muons",
        "both kinds",
        "no tag",
        "same sign",
        "double charge",
        "two tags",
        "soft tag",
    ],
)
def test_events_that_fail(leptons: list[tuple], jets: list[tuple]) -> None:
    assert len(select(reco_of(leptons, jets))) == 0


def test_candidates_carry_the_probability_to_be_the_only_tag() -> None:
    jets = [(80.0, 1, 0.02), (50.0, 1, 0.7), (40.0, -1, 0.6), (30.0, 1, 0.0)]
    chosen = select_candidates(reco_of([(30.0, -1, 1)], jets))
    assert chosen.jets.tolist() == [0, 1]
    assert chosen.probability == pytest.approx([0.02 * 0.3 * 0.4, 0.98 * 0.7 * 0.4])
    assert chosen.columns["PRI_had_pt"].tolist() == [80.0, 50.0]
    assert chosen.columns["PRI_jet_leading_pt"].tolist() == [50.0, 80.0]
