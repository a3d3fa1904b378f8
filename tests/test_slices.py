"""Slices of a process: together they are the whole, each with the part of the cross-section it has."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pythia8mc", reason="the simulation needs requirements-simulation.txt")
pytest.importorskip("awkward", reason="the simulation needs requirements-simulation.txt")
pytest.importorskip("numba", reason="the simulation needs requirements-simulation.txt")

import pythia8mc

from training.simulation.aim import AIMS
from training.simulation.processes import (
    COMMON_SETTINGS,
    HEAVY_Z,
    HEAVY_Z_FRACTION,
    LIGHT_Z,
    OTHER_H,
    OTHER_H_CROSS_SECTIONS,
    TABLE,
    VBF_H,
    VBF_H_CROSS_SECTIONS,
    WHOLE,
    Slice,
)
from training.simulation.production import Production, Simulation, split_events

EDGE = 100.0
"""Mass in GeV between the slices of Z."""


def masses(part: Slice, n_events: int, seed: int) -> np.ndarray:
    """Masses in GeV of Z from the hard process alone."""
    pythia = pythia8mc.Pythia("", False)
    settings = ("PartonLevel:all = off", "HadronLevel:all = off", "Random:setSeed = on", f"Random:seed = {seed}")
    for line in (*COMMON_SETTINGS, *TABLE["ztautau"].settings, *part.settings, *settings):
        assert pythia.readString(line)
    pythia.init()
    out = np.empty(n_events)
    for i in range(n_events):
        assert pythia.next()
        out[i] = pythia.infoPython().mHat()
    return out


def test_the_heavy_fraction_is_that_of_the_whole():
    n_events = 60_000
    fraction = np.mean(masses(WHOLE, n_events, 5) > EDGE)
    assert fraction == pytest.approx(HEAVY_Z_FRACTION, abs=4 * (HEAVY_Z_FRACTION / n_events) ** 0.5)


def test_slices_meet_at_the_edge_and_have_the_masses_of_the_whole():
    whole, light, heavy = masses(WHOLE, 60_000, 6), masses(LIGHT_Z, 3000, 7), masses(HEAVY_Z, 3000, 8)
    assert light.max() < EDGE < heavy.min()
    above = whole[whole > EDGE]
    error = np.hypot(above.std() / len(above) ** 0.5, heavy.std() / len(heavy) ** 0.5)
    assert abs(np.log(heavy).mean() - np.log(above).mean()) < 4 * error / EDGE


def test_cross_sections_of_slices_add_up():
    found = TABLE["ztautau"].cross_sections
    assert found[LIGHT_Z.code(221)] + found[HEAVY_Z.code(221)] == pytest.approx(found[221], rel=1e-12)
    assert WHOLE.code(221) == 221
    assert HEAVY_Z.code(np.array([221, 221])).tolist() == [HEAVY_Z.code(221)] * 2


@pytest.mark.parametrize("process", ["htautau", "ztautau"])
def test_slices_of_a_process_are_all_of_it(process):
    found = TABLE[process]
    assert sum(part.share for part in found.slices) == pytest.approx(1.0)
    whole = {code: value for code, value in found.cross_sections.items() if code < 1000}
    sliced = {code: value for code, value in found.cross_sections.items() if code > 1000}
    assert {code // 10 for code in sliced} == set(whole)
    assert {code % 10 for code in sliced} == {part.number for part in found.slices}
    assert sum(sliced.values()) == pytest.approx(sum(whole.values()))


@pytest.mark.parametrize(("process", "aim"), [("ztautau", None), ("htautau", None), ("ttbar", AIMS["signal"])])
def test_what_is_not_sliced_is_made_whole(process, aim):
    seed = np.random.SeedSequence(4)
    assert split_events(TABLE[process], aim, 30, seed) == [(WHOLE, 30, seed)]


@pytest.mark.parametrize("process", ["htautau", "ztautau"])
@pytest.mark.parametrize("n_events", [1, 2, 30, 1500])
def test_every_slice_is_made(process, n_events):
    found = split_events(TABLE[process], AIMS["signal"], n_events, np.random.SeedSequence(4))
    assert tuple(part for part, _, _ in found) == TABLE[process].slices
    assert min(count for _, count, _ in found) >= 1
    assert abs(sum(count for _, count, _ in found) - n_events) <= 1
    assert len({seed.spawn_key for _, _, seed in found}) == 2


def test_a_shard_says_which_slice_its_rows_are_from(libraries):
    aimed = Simulation(Production("fast", 5, 60, aim="signal"), libraries).shard("ztautau", 0)
    codes = [LIGHT_Z.code(221), HEAVY_Z.code(221)]
    assert sorted(aimed.tried) == codes
    assert np.unique(aimed.codes).tolist() == codes
    assert (np.diff(aimed.parents) >= 0).all()
    n_light = round(LIGHT_Z.share * 60)
    assert (aimed.parents[aimed.codes == codes[0]] < n_light).all()
    assert (aimed.parents[aimed.codes == codes[1]] >= n_light).all()
    plain = Simulation(Production("fast", 5, 60), libraries).shard("ztautau", 0)
    assert sorted(plain.tried) == [221]


def test_h_by_fusion_of_vector_bosons_is_made_apart(libraries):
    aimed = Simulation(Production("fast", 5, 60, aim="signal"), libraries).shard("htautau", 0)
    fusion = {VBF_H.code(code) for code in VBF_H_CROSS_SECTIONS}
    others = {OTHER_H.code(code) for code in OTHER_H_CROSS_SECTIONS}
    assert set(aimed.tried) <= fusion | others
    assert fusion <= set(aimed.tried)
    assert OTHER_H.code(902) in aimed.tried
