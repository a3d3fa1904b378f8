"""Aimed simulation: same expectation as without, bounded weights, an identity of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("pythia8mc", reason="the simulation needs requirements-simulation.txt")
pytest.importorskip("awkward", reason="the simulation needs requirements-simulation.txt")
pytest.importorskip("numba", reason="the simulation needs requirements-simulation.txt")

from sage.errors import InputError
from scripts.simulate import main
from tests.ending import exit_code
from training.simulation.aim import AIMS, FEATURES, drop_near, find_aim, load_importance, set_features
from training.simulation.decisions import Effort
from training.simulation.generator import Generator
from training.simulation.output import event_weights
from training.simulation.processes import TABLE
from training.simulation.production import Production, Simulation
from training.simulation.promise import hard_promise, pair_promise
from training.simulation.shards import identity
from training.simulation.tau_decays import ELECTRON, HADRONIC, PAIR_FRACTION, load_library
from training.simulation.underlying import NO_INTERACTIONS


def sums_of(process, aim, libraries, n_events, seed):
    """Weighted sums per tried event over the sets of decays, with their errors by showered events."""
    effort = Effort(sets=16, passes=2, boost=2.0, aim=aim)
    made = Generator(TABLE[process], effort, load_library(libraries), np.random.SeedSequence(seed), NO_INTERACTIONS)
    totals = []
    for part in made.batches(n_events):
        taus = part.decays.taus
        owner = np.repeat(np.arange(len(part.weights)), np.diff(part.decays.tau_offsets))
        pt = np.zeros(len(part.weights))
        np.maximum.at(pt, owner, np.hypot(taus.px, taus.py))
        px, py = (
            np.add.reduceat(np.append(getattr(part.decays.particles, name), 0.0), part.decays.offsets[:-1])
            for name in ("px", "py")
        )
        sets = np.stack([np.ones(len(pt)), pt > 20, pt > 40, np.hypot(px, py) > 40, np.hypot(px, py) > 80], axis=1)
        out = np.zeros((len(part.codes), sets.shape[1]))
        np.add.at(out, part.parents, sets * part.weights[:, None])
        totals.append(out)
    tried = sum(made.tried.values())
    totals = np.concatenate(totals)
    return totals.sum(axis=0) / tried, np.sqrt((totals**2).sum(axis=0)) / tried


@pytest.mark.slow
@pytest.mark.parametrize("process", ["ztautau", "htautau", "ttbar"])
def test_the_aim_keeps_the_expectation(process, libraries):
    plain, plain_error = sums_of(process, None, libraries, 700, 2)
    aimed, aimed_error = sums_of(process, AIMS["signal"], libraries, 700, 3)
    assert (plain > 0).all()
    assert (np.abs(plain - aimed) < 4 * np.hypot(plain_error, aimed_error)).all()


def test_weights_of_sets_are_bounded_by_the_floor(libraries):
    aim = AIMS["signal"]
    effort = Effort(sets=16, passes=2, boost=2.0, aim=aim)
    made = Generator(TABLE["ztautau"], effort, load_library(libraries), np.random.SeedSequence(5), NO_INTERACTIONS)
    parts = list(made.batches(200))
    features = np.concatenate([part.features for part in parts])
    importance = np.clip(load_importance()(features), aim.floor, aim.ceiling)
    level = np.concatenate([part.weights * part.promises for part in parts]) * importance
    most = PAIR_FRACTION / (effort.boost * aim.boost * aim.least)
    # Events that deserve more passes than there may be, or were thinned out before that was known, weigh more.
    assert np.mean(level > 1.001 * most) < 0.15
    assert level.max() < 20.0 * most


def test_features_tell_boosted_pairs_and_jets():
    taus = np.array([[60.0, 0.0, 0.0, 60.03], [40.0, 30.0, 0.0, 50.03]])
    visible = np.array([[[30.0, 0.0, 0.0, 30.0], [20.0, 15.0, 0.0, 25.0]]])
    kinds = np.array([[HADRONIC, ELECTRON]])
    jets = np.array([[-80.0, 0.0, 300.0, 310.5], [-20.0, -30.0, -200.0, 203.3]])
    one = set_features(taus[None], np.zeros((0, 4)), kinds, visible, jets)
    assert one.shape == (1, FEATURES)
    assert one[0, 0] == pytest.approx(np.log1p(np.hypot(100.0, 30.0) / 30.0))
    assert one[0, 3] == pytest.approx(np.log1p(25.0 / 30.0))
    assert one[0, 4] == pytest.approx(np.log1p(1.0))
    assert one[0, 6] == 1.0
    assert one[0, 8] > np.log1p(4.0)
    without = set_features(taus[None], np.zeros((0, 4)), kinds, visible, jets[:0])
    assert (without[0, 7:11] == 0).all()
    assert (without[0, :6] == one[0, :6]).all()
    assert len(drop_near(np.concatenate([jets, taus]), taus, np.zeros((0, 4)))) == 2


def test_quiet_events_are_thinned_out_and_the_others_are_not():
    aim = AIMS["signal"]
    assert aim.keep(0.0, 91.0) == aim.quiet
    recoils = [aim.keep(recoil, 91.0) for recoil in (0.0, 30.0, 60.0, 120.0, 500.0)]
    assert recoils == sorted(recoils)
    assert recoils[-1] == 1.0
    assert aim.keep(0.0, 91.0) < aim.keep(0.0, 110.0) <= 1.0


@pytest.mark.slow
def test_an_aim_is_part_of_what_a_production_is(libraries, tmp_path, capsys):
    plain, aimed = Production("fast", 1, 15), Production("fast", 1, 15, aim="signal")
    assert "aim" not in identity(plain)
    assert identity(aimed)["aim"]["name"] == "signal"
    assert len(identity(aimed)["aim"]["table"]) == 64
    command = ["--output", str(tmp_path / "x"), "--cache", str(libraries), "--process", "ztautau", "--events", "15"]
    command += ["--shard-events", "15", "--seed", "3"]
    assert main([*command, "--aim", "signal"]) == 0
    found = json.loads(next((tmp_path / "x").glob("*metadata.json")).read_text())
    assert found["simulation"]["aim"] == identity(aimed)["aim"]
    assert main(command) == 2
    assert "choose another --output" in capsys.readouterr().err


def test_an_unknown_aim_is_refused(tmp_path, capsys):
    command = ["--output", str(tmp_path / "x"), "--seed", "1", "--events", "5", "--aim", "moon"]
    assert exit_code(main, command) == 2
    assert "choose from" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="no aim"):
        find_aim("Signal")


def test_the_promise_of_a_pair_is_that_of_two_taus():
    rng = np.random.default_rng(8)
    for process in ("ztautau", "htautau"):
        keep = TABLE[process].keep
        for pt, eta, other_pt, other_eta in rng.uniform(0, [60, 5, 60, 5], (300, 4)):
            assert pair_promise(keep, pt, eta, other_pt, other_eta) == hard_promise(
                keep, [], [(pt, eta), (other_pt, other_eta)]
            )


@pytest.mark.slow
@pytest.mark.parametrize("process", ["ztautau", "htautau", "ttbar"])
def test_selected_rows_agree_with_those_made_without_aim(process, libraries):
    """Yields before normalisation and means of the primaries, within errors by showered events."""
    found = []
    for aim, seed in (("off", 11), ("signal", 12)):
        shard = Simulation(Production("fast", seed, 4000, aim=aim), libraries).shard(process, 0)
        weights = event_weights(TABLE[process], shard, shard.tried)
        jets = shard.values[:, 12]
        columns = [np.ones(len(weights)), jets == 0, jets == 1, jets >= 2, *shard.values[:, [0, 3, 13, 14]].T]
        sums = np.array([np.bincount(shard.parents, weights * column) for column in columns])
        found.append((sums.sum(axis=1), np.sqrt((sums**2).sum(axis=1))))
    (plain, plain_error), (aimed, aimed_error) = found
    assert (np.abs(plain - aimed) < 4 * np.hypot(plain_error, aimed_error)).all()
