"""Pairs of taus turned after the shower are distributed as Pythia's own, and stay what they were."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("pythia8mc", reason="the simulation needs requirements-simulation.txt")
pytest.importorskip("numba", reason="the simulation needs requirements-simulation.txt")

import pythia8mc

from training.simulation.hard import Z_CODE, momentum, read_pair, right_fraction
from training.simulation.processes import COMMON_SETTINGS, TABLE
from training.simulation.sets import PAIR_DRAWS, TAU_DRAWS, draw_sets, pair_angle
from training.simulation.tau_decays import BRANCHING_E, BRANCHING_LEPTON, HADRONIC, PAIR_FRACTION, z_right_fraction
from training.simulation.turning import boost, carried, turned
from training.simulation.underlying import NO_INTERACTIONS

LIBRARY = np.array([[0.0, 0.0, 0.3, 0.9], [0.1, -0.2, -0.4, 1.1]])
"""Visible momenta at rest, GeV."""


class Watch(pythia8mc.UserHooks):
    """Reads pairs after the shower and hadronises nothing but the last event."""

    def __init__(self, wanted):
        super().__init__()
        self.pythia, self.wanted, self.seen = None, wanted, []

    def canVetoPartonLevel(self):  # noqa: N802
        return True

    def doVetoPartonLevel(self, event):  # noqa: N802
        hard, code = self.pythia.process, self.pythia.infoPython().code()
        minus = next(hard[i] for i in range(5, hard.size()) if hard[i].id() == 15)
        taus = [np.array(momentum(p)) for p in (hard[minus.mother1()], minus)]
        right = right_fraction(hard, minus) if code == Z_CODE else 0.5
        self.seen.append((read_pair(hard, event, code), *taus, right))
        return len(self.seen) < self.wanted


def showered(name, n, *settings):
    watch, pythia = Watch(n), pythia8mc.Pythia("", False)
    for line in (*COMMON_SETTINGS, *TABLE[name].settings, *NO_INTERACTIONS, "Random:setSeed = on", *settings):
        assert pythia.readString(line)
    pythia.setUserHooksPtr(watch)
    assert pythia.init()
    watch.pythia = pythia
    assert pythia.next()
    return watch.seen


@pytest.fixture(scope="module", params=["ztautau", "htautau"])
def seen(request):
    return request.param, showered(request.param, 4000, "Random:seed = 11")


def angle(tau, parent):
    at_rest = boost(tau, -parent[:3] / parent[3])
    return at_rest[2] / np.linalg.norm(at_rest[:3])


def test_products_are_carried_as_pythia_carries_them(seen):
    for pair, parent, minus, _ in seen[1][:300]:
        np.testing.assert_allclose(carried(minus, parent, pair.turns[3]), pair.turns[1], rtol=0, atol=1e-8)
        if pair.right < 0:
            np.testing.assert_allclose(pair.turns[0].sum(axis=0), pair.turns[3], rtol=1e-8, atol=1e-6)


def test_angles_and_helicities_are_those_of_pythia(seen):
    name, events = seen
    rng = np.random.default_rng(5)
    theirs, ours, right, expected = [], [], [], []
    for pair, parent, minus, chance in events:
        assert (pair.quark != 0) == (name == "ztautau")
        cosine, helicity = pair_angle(pair.quark, *rng.random(2))
        sign = np.sign(pair.quark) if pair.quark else 1
        theirs.append(sign * angle(minus, parent))
        ours.append(sign * cosine)
        right.append(helicity == 1)
        expected.append(chance)
    assert stats.ks_2samp(theirs, ours).pvalue > 1e-3
    error = np.sqrt(0.25 / len(right))
    assert abs(np.mean(right) - np.mean(expected)) < 4 * np.sqrt(2) * error


@pytest.mark.parametrize("quark", [1, -1, 2, -2])
def test_helicity_goes_with_the_angle(quark):
    rng = np.random.default_rng(6)
    drawn = np.array([pair_angle(quark, *rng.random(2)) for _ in range(40_000)])
    for low in np.arange(-1.0, 1.0, 0.25):
        here = (drawn[:, 0] >= low) & (drawn[:, 0] < low + 0.25)
        middle = np.mean(drawn[here, 0])
        expected = z_right_fraction(abs(quark), middle if quark > 0 else -middle)
        assert abs(np.mean(drawn[here, 1] > 0) - expected) < 4.5 * np.sqrt(0.25 / here.sum())
    with_quark = np.abs(drawn[:, 0])
    assert stats.kstest(with_quark, lambda c: (3.0 * c + c**3) / 4.0).pvalue > 1e-3


def test_turned_pairs_look_like_those_of_the_shower(seen):
    rng = np.random.default_rng(7)
    theirs, ours = [], []
    for pair, *_ in seen[1]:
        if pair.right >= 0:
            continue
        cosine, _ = pair_angle(pair.quark, *rng.random(2))
        new = turned(*pair.turns, np.array([cosine]), *(2 * np.pi * rng.random((2, 1))))[0]
        np.testing.assert_allclose(new.sum(axis=0), pair.turns[3], rtol=1e-8, atol=1e-6)
        masses = [p[:, 3] ** 2 - (p[:, :3] ** 2).sum(axis=1) for p in (new, pair.turns[0])]
        np.testing.assert_allclose(*masses, rtol=0, atol=1e-2)
        for found, products in ((theirs, pair.turns[0]), (ours, new)):
            parent = pair.turns[3]
            pt = np.hypot(*products[:2, :2].T)
            along = products[:2, :2] @ parent[:2] / max(1e-9, np.hypot(*parent[:2]))
            apart = products[0, :3] @ products[1, :3] / np.prod(np.linalg.norm(products[:2, :3], axis=1))
            radiated = products[2:, 3].sum()
            found.append([*pt, *along, *np.arcsinh(products[:2, 2] / pt), products[0, 1], apart, radiated])
    for one, other in zip(np.transpose(theirs), np.transpose(ours), strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-4


def test_what_is_coloured_is_not_turned():
    turns = showered("htautau", 30, "Random:seed = 3")[0][0].turns
    draws = np.random.default_rng(8).random((50, PAIR_DRAWS + 2 * TAU_DRAWS))
    charges = np.array([-1, 1])
    products, taus, helicities, *_ = draw_sets(draws, 2, 0.25, turns, np.zeros((0, 4)), charges, True, LIBRARY)
    assert (products == turns[0]).all()
    assert (taus == turns[0][:2]).all()
    assert 0 < np.mean(helicities[:, 0] == 1) < 0.5
    assert (helicities[:, 1] == -helicities[:, 0]).all()


def test_kinds_of_decays_have_their_branching_ratios():
    turns = showered("htautau", 30, "Random:seed = 4")[0][0].turns
    rng = np.random.default_rng(9)
    more = np.array([[0.0, 30.0, 5.0, np.hypot(30.0, 5.4)]])
    for forced, fixed in ((True, np.zeros((0, 4))), (False, more)):
        n_taus = 2 + len(fixed)
        draws = rng.random((20_000, PAIR_DRAWS + n_taus * TAU_DRAWS))
        charges = np.array([-1, 1, -1])[:n_taus]
        _, taus, helicities, kinds, rows, decays = draw_sets(draws, 0, -1.0, turns, fixed, charges, forced, LIBRARY)
        assert taus.shape == (20_000, n_taus, 4)
        assert set(np.unique(helicities)) == {-1, 1}
        assert set(np.unique(rows)) == {0, 1}
        visible = decays[..., 1:]
        assert (visible[..., 3] < taus[..., 3]).all()
        electron = BRANCHING_E * (1.0 / PAIR_FRACTION if forced else 1.0)
        hadronic = (1.0 - BRANCHING_LEPTON) * (BRANCHING_LEPTON / PAIR_FRACTION if forced else 1.0)
        for j in range(n_taus):
            assert np.mean(kinds[:, j] == 0) == pytest.approx(electron, abs=0.016)
            assert np.mean(kinds[:, j] == HADRONIC) == pytest.approx(hadronic, abs=0.016)
        if forced:
            assert not (kinds == HADRONIC).all(axis=1).any()
