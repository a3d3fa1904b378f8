"""Derived quantities against the challenge's program, and against the textbook formulas event by event."""

import math

import numpy as np
import pytest
import torch

from sage.challenge.features import ANGULAR_PAIRS, DERIVED, angular_distances, derived
from sage.challenge.shifts import select, shift, thresholds
from tests.events import columns_of, embedded_frame, mixed_frame, odd_frame, official
from tests.test_shifts import POINTS


@pytest.fixture(scope="module")
def frame():
    return mixed_frame()


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_derived_are_those_of_the_challenge(frame, point):
    expected, _ = official(frame, *point)
    events, _ = select(shift(columns_of(frame), *point))
    found = derived(events)
    assert tuple(found) == DERIVED
    for name in DERIVED:
        reference = expected[name].to_numpy().astype(np.float64)
        tolerance = np.maximum(1e-5 * np.abs(reference), 0.02)
        both = np.isfinite(reference)
        np.testing.assert_array_equal(np.isfinite(found[name]), both, err_msg=name)
        worst = np.abs(found[name][both] - reference[both]) - tolerance[both]
        assert worst.max() <= 0.0, (name, worst.max())


def dr(eta1, phi1, eta2, phi2):
    d_phi = abs(phi1 - phi2) % (2 * math.pi)
    return math.hypot(eta1 - eta2, min(d_phi, 2 * math.pi - d_phi))


def momentum(pt, eta, phi):
    return pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)


def mass(*objects):
    """Invariant mass of massless objects (pt, eta, phi)."""
    p = [momentum(*item) for item in objects]
    energy = sum(math.hypot(*v) for v in p)
    total = [sum(part) for part in zip(*p, strict=True)]
    return math.sqrt(max(energy**2 - sum(part**2 for part in total), 0.0))


def pt_sum(*objects):
    p = [momentum(*item) for item in objects]
    return math.hypot(sum(v[0] for v in p), sum(v[1] for v in p))


def event_twin(e):
    """All derived quantities of one event, from the formulas of the challenge's paper."""
    lep, had, jet1, jet2 = (
        tuple(e[f"PRI_{name}_{part}"] for part in ("pt", "eta", "phi"))
        for name in ("lep", "had", "jet_leading", "jet_subleading")
    )
    met = (e["PRI_met"], 0.0, e["PRI_met_phi"])
    n = e["PRI_n_jets"]
    jets = [jet for jet, least in ((jet1, 1), (jet2, 2)) if n >= least]
    phi_l, phi_h, phi_m = lep[2], had[2], met[2]
    a = math.sin(phi_m - phi_l) * math.copysign(1.0, math.sin(phi_h - phi_l))
    b = math.sin(phi_h - phi_m) * math.copysign(1.0, math.sin(phi_h - phi_l))
    out = {
        "DER_mass_transverse_met_lep": math.sqrt(max((lep[0] + met[0]) ** 2 - pt_sum(lep, met) ** 2, 0.0)),
        "DER_mass_vis": mass(lep, had),
        "DER_pt_h": pt_sum(lep, had, met),
        "DER_deltar_had_lep": dr(had[1], had[2], lep[1], lep[2]),
        "DER_pt_tot": pt_sum(lep, had, met, *jets),
        "DER_sum_pt": lep[0] + had[0] + e["PRI_jet_all_pt"],
        "DER_pt_ratio_lep_had": lep[0] / had[0],
        "DER_met_phi_centrality": (a + b) / math.hypot(a, b),
        "DER_deltaeta_jet_jet": -25.0,
        "DER_mass_jet_jet": -25.0,
        "DER_prodeta_jet_jet": -25.0,
        "DER_lep_eta_centrality": -25.0,
    }
    if n >= 2:
        out["DER_deltaeta_jet_jet"] = abs(jet1[1] - jet2[1])
        out["DER_mass_jet_jet"] = mass(jet1, jet2)
        out["DER_prodeta_jet_jet"] = jet1[1] * jet2[1]
        gap = jet1[1] - jet2[1]
        out["DER_lep_eta_centrality"] = math.exp(-4 / gap**2 * (lep[1] - (jet1[1] + jet2[1]) / 2) ** 2)
    return out


def test_derived_against_the_loop_over_events():
    frame = embedded_frame(400)
    events, _ = select(shift(columns_of(frame), 1.01, 0.98))
    order = np.argsort(-events["PRI_n_jets"], kind="stable")
    some = np.concatenate([order[:25], order[-25:]])
    found = derived(events)
    for i in some:
        expected = event_twin({name: float(column[i]) for name, column in events.items()})
        for name in DERIVED:
            # float32 loses digits where large momenta cancel.
            assert float(found[name][i]) == pytest.approx(expected[name], rel=2e-4, abs=0.02), (i, name)


def test_angular_distances_against_the_loop_over_events():
    columns = columns_of(embedded_frame(400))
    rows = np.flatnonzero(columns["PRI_n_jets"] >= 2)[:50]
    found = angular_distances(columns)
    assert len(rows) == 50
    assert tuple(found) == tuple(f"dr_{a}_{b}" for a, b in ANGULAR_PAIRS)
    assert len(ANGULAR_PAIRS) == 9
    for i in rows:
        for first, second in ANGULAR_PAIRS:
            eta2 = 0.0 if second == "met" else float(columns[f"PRI_{second}_eta"][i])
            phi1, phi2 = (float(columns[f"PRI_{name}_phi"][i]) for name in (first, second))
            expected = dr(float(columns[f"PRI_{first}_eta"][i]), phi1, eta2, phi2)
            assert float(found[f"dr_{first}_{second}"][i]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_angle_differences_wrap():
    columns = columns_of(odd_frame().iloc[[0]])
    columns["PRI_had_phi"], columns["PRI_met_phi"] = np.float32([3.1]), np.float32([-3.1])
    columns["PRI_had_eta"] = np.float32([0.0])
    assert angular_distances(columns)["dr_had_met"][0] == pytest.approx(2 * math.pi - 6.2, abs=1e-5)


def test_tensors_agree_with_numpy(frame):
    events, _ = select(shift(columns_of(frame), 0.98, 1.01, 2.0))
    events = {name: column.astype(np.float32) for name, column in events.items()}
    tensors = {name: torch.from_numpy(column) for name, column in events.items()}
    for function in (derived, angular_distances):
        expected, found = function(events), function(tensors)
        for name, column in expected.items():
            finite = np.isfinite(column)
            np.testing.assert_allclose(found[name].numpy()[finite], column[finite], rtol=1e-4, atol=0.05, err_msg=name)


def test_tensors_broadcast_over_points(frame):
    columns = {name: torch.from_numpy(column) for name, column in columns_of(frame).items()}
    tes = torch.tensor([[0.97], [1.0], [1.03]])
    found = derived(thresholds(shift(columns, tes, 1.0, 0.0))[0])
    for k in range(3):
        single = derived(thresholds(shift(columns, tes[k], 1.0, 0.0))[0])
        for name in DERIVED:
            torch.testing.assert_close(
                found[name].expand(3, -1)[k], single[name].expand(1, -1)[0], rtol=1e-5, atol=1e-3, equal_nan=True
            )
