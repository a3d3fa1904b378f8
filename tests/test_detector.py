"""The whole detector: closure, efficiencies, overlaps, and that events depend on nothing but themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba", reason="the simulation's requirements are not installed")

import numba

from sage.errors import InputError
from tests.detector_toys import assert_equal, batch_of, perfect_card, seeds, toy_events
from training.simulation.compilation import compiled
from training.simulation.detector import deposits, detect, measure, overlay
from training.simulation.event import EventBatch
from training.simulation.selection import select, select_candidates


def test_missing_momentum_closes_without_smearing() -> None:
    rng = np.random.default_rng(8)
    rows = [(22, 0, rng.exponential(5), rng.uniform(-2.9, 2.9), rng.uniform(-3.14, 3.14), 0.0) for _ in range(100)]
    rows += [(13, -1, 30.0, 1.0, 0.5, 0.106), (14, 0, 40.0, 0.0, 2.0, 0.0)]
    batch = batch_of(rows)
    reco = detect(batch, seeds(1), card=perfect_card())
    visible = batch.particles.pdg != 14
    # A tower of the electromagnetic layer is a degree wide: that is what is left.
    assert reco.met[0] * math.cos(reco.met_phi[0]) == pytest.approx(-batch.particles.px[visible].sum(), abs=1.0)
    assert reco.met[0] * math.sin(reco.met_phi[0]) == pytest.approx(-batch.particles.py[visible].sum(), abs=1.0)
    expected = np.hypot(batch.particles.px, batch.particles.py)[visible].sum()
    assert reco.sum_et[0] == pytest.approx(expected, rel=0.01)


def test_lone_leptons_have_the_efficiency_of_the_card() -> None:
    n = 20_000
    for pdg, eta, efficiency in ((11, 1.0, 0.95 * 0.95), (13, 1.0, 0.99 * 0.95), (13, 2.0, 0.98 * 0.85)):
        single = deposits(batch_of([(pdg, -1, 40.0, eta, 0.0, 0.0)]))
        reco = measure(single.take(np.zeros(n, np.int64)), seeds(n))
        error = math.sqrt(n * efficiency * (1 - efficiency))
        # An electron whose tower has a significant excess over the track is lost to isolation: up to 3 %.
        lost = 0.03 * n if pdg == 11 else 0.0
        assert n * efficiency - lost - 4 * error < len(reco.leptons) < n * efficiency + 4 * error
        assert (reco.leptons.is_muon == (pdg == 13)).all()
        assert set(reco.leptons.charge.tolist()) == {-1}


def test_overlap_removal() -> None:
    """Isolated leptons and photons remove the jet they are in; a muon that is not isolated stays in its jet."""
    neutron = (2112, 0, 60.0, 1.05, 0.0, 0.94)
    events = ([(11, -1, 50.0, 1.0, 0.0, 0.0)], [(22, 0, 50.0, 1.0, 0.0, 0.0)], [(13, -1, 50.0, 1.0, 0.0, 0.1)])
    n = 400
    for event in events:
        alone = measure(deposits(batch_of(event)).take(np.zeros(n, np.int64)), seeds(n))
        kept = np.diff(alone.lepton_offsets) > 0 if event[0][0] != 22 else np.diff(alone.jet_offsets) == 0
        assert 0.8 < kept.mean() < 1.0
        if event[0][0] != 22:
            # Found, it is no jet; else its tower, or nothing if it was a muon the tracker missed, is one.
            assert np.diff(alone.jet_offsets)[kept].sum() == 0
        crowded = measure(deposits(batch_of([*event, neutron])).take(np.zeros(n, np.int64)), seeds(n))
        assert len(crowded.leptons) == 0
        assert (np.diff(crowded.jet_offsets) > 0).mean() > 0.99


def test_events_depend_on_nothing_but_themselves() -> None:
    batch = toy_events(12)
    whole = detect(batch, seeds(12))
    order = np.array([5, 0, 11, 5])
    part = detect(batch.take(order), seeds(12)[order])
    for here, there in enumerate(order):
        np.testing.assert_array_equal(part.met[here], whole.met[there])
        for name in ("pt", "eta", "tag_probability", "tagged"):
            ours = getattr(part.jets, name)[part.jet_offsets[here] : part.jet_offsets[here + 1]]
            theirs = getattr(whole.jets, name)[whole.jet_offsets[there] : whole.jet_offsets[there + 1]]
            np.testing.assert_array_equal(ours, theirs)
    assert_equal(detect(batch, seeds(12)), whole)
    assert not np.array_equal(detect(batch, seeds(12, start=1)).met, whole.met)


def test_overlay_is_the_same_as_both_at_once() -> None:
    first, second = toy_events(6, seed=1), toy_events(6, seed=2)
    events = []
    for i in range(6):
        pair = [batch.take(np.array([i])) for batch in (first, second)]
        joined = [
            type(columns)(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(columns)))
            for columns, parts in (
                (pair[0].particles, [part.particles for part in pair]),
                (pair[0].taus, [part.taus for part in pair]),
            )
        ]
        events.append(tuple(joined))
    together, added = deposits(EventBatch.from_events(events)), overlay(deposits(first), deposits(second))
    np.testing.assert_allclose(added.energies, together.energies, rtol=1e-12)
    np.testing.assert_array_equal(added.towers, together.towers)
    np.testing.assert_array_equal(added.tracks, together.tracks)
    np.testing.assert_allclose(measure(added, seeds(6)).met, measure(together, seeds(6)).met, rtol=1e-9)
    assert_equal(added.take(np.arange(6)), added)


def test_leaving_out_events_that_fail_changes_nothing_else() -> None:
    batch = toy_events(60)
    whole, quick = detect(batch, seeds(60)), detect(batch, seeds(60), only_selectable=True)
    assert len(quick.jets) < len(whole.jets)
    assert_equal(quick.leptons, whole.leptons)
    for name, column in select_candidates(whole).columns.items():
        np.testing.assert_array_equal(select_candidates(quick).columns[name], column)


def test_tags_are_drawn_with_their_probability() -> None:
    single = deposits(toy_events(1))
    n = 20_000
    reco = measure(single.take(np.zeros(n, np.int64)), seeds(n))
    expected, variance = reco.jets.tag_probability, reco.jets.tag_probability * (1 - reco.jets.tag_probability)
    assert reco.jets.tagged.sum() == pytest.approx(expected.sum(), abs=4 * math.sqrt(variance.sum()))
    rows, weighted = select(reco), select_candidates(reco)
    assert len(rows) == pytest.approx(weighted.probability.sum(), abs=4 * math.sqrt(len(rows)))
    assert (rows.probability == 1.0).all()
    assert (np.diff(rows.events) > 0).all()


def test_bad_input_is_refused() -> None:
    batch = toy_events(2)
    with pytest.raises(InputError, match="one uint64 for each of the 2"):
        detect(batch, np.arange(2))
    with pytest.raises(InputError, match="cannot overlay 2 events on 1"):
        overlay(deposits(batch), deposits(batch.take(np.array([0]))))
    with pytest.raises(InputError, match="offsets must rise from 0"):
        EventBatch(batch.particles, batch.offsets - 1, batch.taus, batch.tau_offsets)
    with pytest.raises(InputError, match="tau_offsets of 1"):
        EventBatch(batch.particles, batch.offsets, batch.taus, batch.tau_offsets[[0, -1]])


def test_no_events() -> None:
    empty = EventBatch.from_events([])
    assert len(select(detect(empty, seeds(0)))) == 0


def test_compiling_leaves_the_users_cache_folder_alone() -> None:
    before = numba.config.CACHE_DIR
    assert compiled(square)(3) == 9
    assert before == numba.config.CACHE_DIR


def square(x: int) -> int:
    return x * x
