"""Decisions of aimed simulation inside Pythia, for pairs of taus from one H or Z.

Few calls from Pythia, as these cost most: Z events are looked at when the shower has got down to ``QUIET_PT``, where
those that recoil little are thinned out, and all that go on at the end of the shower. There many sets are drawn, each
with new directions of the taus (``turning``) and decays of its own, the event is hadronised with the probability that
their promise and importance (``aim``) deserve, and as many sets are simulated as make all weights alike.
"""

from __future__ import annotations

import math

import numpy as np
import pythia8mc

from training.simulation.aim import JET_PT, QUIET_PT, Aim, drop_near, load_importance, set_features
from training.simulation.decisions import Choice, Decisions, Effort, Kept
from training.simulation.hard import BOSON, momenta_of, read_pair
from training.simulation.processes import Process
from training.simulation.promise import decay_promise
from training.simulation.sets import PAIR_DRAWS, TAU_DRAWS, draw_sets
from training.simulation.tau_decays import PAIR_FRACTION, Decays, TauLibrary

PROMISE_POWER = 0.5
"""Of the promise of sets of decays: rows of little promise that are selected all the same must not be heavy."""
LAST_STAGE = 3
"""Stages of Pythia's shower up to this one come before the boson decays."""


def choose_sets(deserts: np.ndarray, boost: float, promise: float, aim: Aim, rng: np.random.Generator) -> Choice | None:
    """Decide whether to hadronise an event, and choose as many of its sets of decays as make all weights alike.

    Args:
        deserts: Promise times importance of the sets, shape (k,).
        boost: How many sets of full promise and mean importance are worth one event.
        promise: Fraction of such events that get here.
        aim: What to aim at.
        rng: Source of random numbers.
    """
    mean = float(deserts.mean())
    # How many sets of full promise and mean importance the event is worth.
    worth = boost * mean / promise
    probability = min(1.0, worth)
    if rng.random() >= probability:
        return None
    n_passes = min(max(aim.least, math.ceil(aim.per_worth * worth)), aim.passes)
    # Evenly spaced in the sum of deserts, so that sets are taken as often as they deserve, give or take one.
    points = (rng.random() + np.arange(n_passes)) * (mean * len(deserts) / n_passes)
    chosen = np.minimum(np.searchsorted(np.cumsum(deserts), points, side="right"), len(deserts) - 1)
    return Choice(chosen, mean / (deserts[chosen] * probability * promise * n_passes), 1.0 / boost)


class Aimed(Decisions):
    """The decisions inside Pythia with an aim, what all of them share.

    Args:
        process: The process.
        effort: How much is drawn per event.
        aim: What to aim at.
        library: Hadronic tau decays.
        rng: Source of random numbers.
    """

    def __init__(
        self, process: Process, effort: Effort, aim: Aim, library: TauLibrary, rng: np.random.Generator
    ) -> None:
        super().__init__(process, effort, library, rng)
        self._aim = aim
        # anti-kt, R = 0.4, |eta| < 5, all but neutrinos.
        self._jets = pythia8mc.SlowJet(-1, 0.4, JET_PT, 5.0, 2)

    def _parton_jets(self, event: pythia8mc.Event) -> np.ndarray:
        """Return the jets of partons, falling in pt, four-momenta in GeV, shape (j, 4)."""
        self._jets.analyze(event)
        return momenta_of([self._jets.p(i) for i in range(self._jets.sizeJet())])


class AimedPairs(Aimed):
    """The decisions inside Pythia with an aim, for the processes of ``PAIR_PROCESSES``."""

    @property
    def _thins_out(self) -> bool:
        """Whether events with little recoil are thinned out."""
        return self._process.name == "ztautau"

    def tried(self) -> dict[int, int]:
        """Return the events of the hard process so far, by code; Pythia has counted them."""
        info = self.pythia.infoPython()
        return {int(code): int(info.nSelected(code)) for code in info.codesHard() if info.nSelected(code)}

    def canVetoProcessLevel(self) -> bool:  # noqa: N802
        """Pythia's switch: the directions of the taus in the hard process decide nothing here."""
        return False

    def canVetoPT(self) -> bool:  # noqa: N802
        """Pythia's switch for the methods below."""
        return self._thins_out

    def scaleVetoPT(self) -> float:  # noqa: N802
        """Where the shower is halted, GeV."""
        return QUIET_PT

    def doVetoPT(self, stage: int, event: pythia8mc.Event) -> bool:  # noqa: N802
        """Decide whether a Z event with this much recoil is showered to the end."""
        if stage > LAST_STAGE:
            return False
        boson = event[event[BOSON].iBotCopyId()]
        # Set, not multiplied: Pythia repeats a shower that fails.
        self._promise = self._aim.keep(boson.pT(), boson.m())
        return bool(self._rng.random() >= self._promise)

    def doVetoPartonLevel(self, event: pythia8mc.Event) -> bool:  # noqa: N802
        """Draw sets of tau decays, decide whether to hadronise the event and choose the sets to simulate."""
        rng, effort, aim = self._rng, self._effort, self._aim
        info = self.pythia.infoPython()
        pair = read_pair(self.pythia.process, event, int(info.code()))
        n_taus, leptons = len(pair.charges), pair.leptons
        # A pair without any lepton is not selected: leptons from heavy quarks are rare where no W or Z is around.
        forced = n_taus == 2 and len(leptons) == 0
        draws = rng.random((effort.sets, PAIR_DRAWS + n_taus * TAU_DRAWS))
        library = self._library.visible
        sets, taus, helicities, kinds, rows, decays = draw_sets(
            draws, pair.quark, pair.right, pair.turns, pair.fixed, pair.charges, forced, library
        )
        jets = drop_near(self._parton_jets(event), pair.turns[0][:2], leptons)
        features = set_features(taus, leptons, kinds, decays[..., 1:], jets)
        importance = np.clip(load_importance()(features) ** aim.power, aim.floor, aim.ceiling)
        promises = decay_promise(self._keep, leptons, kinds, decays[..., 1:]) ** PROMISE_POWER
        boost = effort.boost * (aim.boost if self._thins_out else 1.0)
        choice = choose_sets(promises * importance, boost, self._promise, aim, rng)
        if choice is None:
            return True
        chosen = choice.sets
        fraction = PAIR_FRACTION if forced else 1.0
        key = float(info.x1())
        self.kept[key] = Kept(
            key=key,
            code=pair.code,
            replaced=np.concatenate([pair.turns[0][:, 0], pair.fixed[:, 0]]),
            taus=taus[chosen],
            charges=pair.charges,
            helicities=helicities[chosen],
            decays=Decays(
                kinds[chosen].ravel(),
                rows[chosen].ravel(),
                decays[chosen, :, 0].ravel(),
                decays[chosen, :, 1:].reshape(-1, 4),
            ),
            weights=fraction * choice.weights,
            usual=fraction * choice.usual,
            promises=promises[chosen],
            radiation=sets[chosen, 2:],
            radiation_codes=pair.radiation_codes,
            features=features[chosen],
        )
        return False
