"""Decisions inside Pythia: which events to shower and to hadronise, and which sets of tau decays to simulate.

Decisions are taken as early as possible: after the hard process an event is showered with the probability its leptons
and taus promise (``promise.hard_promise``), after the shower several sets of tau decays are drawn, and the event is
hadronised with the probability they promise; some of the sets are then simulated, drawn in proportion to their
promise. Weights are the inverse of all those probabilities, and every event of the hard process counts as tried.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pythia8mc

from training.simulation.aim import FEATURES, Aim
from training.simulation.hard import BOSON, PAIR_SIZE, Z_CODE, is_quiet, momenta_of, right_fraction
from training.simulation.processes import Process
from training.simulation.promise import decay_promise, hard_promise, pair_promise
from training.simulation.records import NEUTRINOS
from training.simulation.tau_decays import PAIR_FRACTION, Z_RIGHT_FRACTION, Decays, TauLibrary, draw_kinds, draw_pairs

PAIR_PROCESSES = ("htautau", "ztautau")
LEPTONS = frozenset((11, 13, 15, *NEUTRINOS))


@dataclass(frozen=True)
class Effort:
    """How much is drawn per event.

    Args:
        sets: Sets of tau decays drawn per showered event.
        passes: Sets that are simulated.
        boost: Factor on the probability to hadronise an event, up to 1: how many times more often than its decays
            promise. Events that would exceed 1 get a larger weight instead.
        quiet: Fraction of events with little recoil that are kept (importance sampling, 1 for none).
        aim: Aim at what moves mu, None for none; of no effect on boson pairs.
    """

    sets: int
    passes: int
    boost: float
    quiet: float = 1.0
    aim: Aim | None = None


@dataclass(frozen=True)
class Kept:
    """What the decisions remember of an event, with p sets of decays of t taus to simulate.

    Args:
        key: Momentum fraction of the first parton, which tells events apart.
        code: Pythia's process code.
        replaced: px in GeV of the particles of Pythia's record that the sets stand in for, shape (r,).
        taus: Four-momenta of prompt taus in each set, shape (p, t, 4), GeV.
        charges: Their charges, shape (t,).
        helicities: Their helicities in each set, shape (p, t).
        decays: Their decays, set by set, p times t.
        weights: Weights of the sets, shape (p,).
        usual: Weight of a set of full promise and, where there is an aim, mean importance; rows of much smaller weight
            are thinned out.
        promises: What the sets promise, whatever the aim, shape (p,).
        radiation: Four-momenta of what else comes from the taus' parent, by set, shape (p, m, 4), GeV.
        radiation_codes: Its PDG codes, shape (m,).
        features: What the sets' importance is told from, shape (p, f).
    """

    key: float
    code: int
    replaced: np.ndarray
    taus: np.ndarray
    charges: np.ndarray
    helicities: np.ndarray
    decays: Decays
    weights: np.ndarray
    usual: float
    promises: np.ndarray
    radiation: np.ndarray
    radiation_codes: np.ndarray
    features: np.ndarray


class Choice(NamedTuple):
    """Sets of tau decays to simulate of those drawn for an event.

    Args:
        sets: Their numbers, shape (p,); one may appear several times.
        weights: Inverse of the probability that they were chosen, shape (p,).
        usual: As in ``Kept``.
    """

    sets: np.ndarray
    weights: np.ndarray
    usual: float


class Decisions(pythia8mc.UserHooks):  # type: ignore[misc]
    """The decisions inside Pythia without aim.

    Args:
        process: The process.
        effort: How much is drawn per event.
        library: Hadronic tau decays.
        rng: Source of random numbers.
    """

    def __init__(self, process: Process, effort: Effort, library: TauLibrary, rng: np.random.Generator) -> None:
        super().__init__()
        self.kept: dict[float, Kept] = {}
        self.pythia: pythia8mc.Pythia = None
        self._tried: Counter[int] = Counter()
        self._process, self._effort, self._library, self._rng = process, effort, library, rng
        self._keep = tuple(process.keep)
        self._code, self._key, self._promise, self._right = 0, 0.0, 1.0, Z_RIGHT_FRACTION

    def tried(self) -> dict[int, int]:
        """Return the events of the hard process so far, by code."""
        return dict(self._tried)

    def canVetoProcessLevel(self) -> bool:  # noqa: N802
        """Pythia's switch for the method below."""
        return True

    def doVetoProcessLevel(self, process: pythia8mc.Event) -> bool:  # noqa: N802
        """Count the event and decide whether to shower it."""
        info = self.pythia.infoPython()
        self._code = int(info.code())
        self._tried[self._code] += 1
        self._promise = self._judge(process)
        if self._rng.random() >= self._promise:
            return True
        self._key = float(info.x1())
        return False

    def _judge(self, process: pythia8mc.Event) -> float:
        """Return what the hard process promises; calls into Pythia cost most, so a lone boson's pair makes few."""
        if process.size() == PAIR_SIZE:
            one, other = process[BOSON + 1], process[BOSON + 2]
            if one.idAbs() == 15 and other.idAbs() == 15:
                return pair_promise(self._process.keep, one.pT(), abs(one.eta()), other.pT(), abs(other.eta()))
        final = [p for p in (process[i] for i in range(5, process.size())) if p.status() > 0]
        leptons = [(p.pT(), abs(p.eta())) for p in final if p.idAbs() in (11, 13)]
        taus = [(p.pT(), abs(p.eta())) for p in final if p.idAbs() == 15]
        return hard_promise(self._process.keep, leptons, taus)

    def canVetoPartonLevel(self) -> bool:  # noqa: N802
        """Pythia's switch for the method below."""
        return True

    def doVetoPartonLevel(self, event: pythia8mc.Event) -> bool:  # noqa: N802
        """Draw tau decays, decide whether to hadronise the event and choose the decays to simulate."""
        rng, effort = self._rng, self._effort
        prompt = [p for p in event if p.idAbs() in LEPTONS and p.isFinal()]
        found = [p for p in prompt if p.idAbs() not in NEUTRINOS]
        leptons = momenta_of([p for p in found if p.idAbs() != 15])
        tau_list = [p for p in found if p.idAbs() == 15]
        quiet = effort.quiet if effort.quiet < 1.0 and is_quiet(event, found) else 1.0
        if rng.random() >= quiet:
            return True
        taus = momenta_of(tau_list)
        charges = np.array([-1 if p.id() > 0 else 1 for p in tau_list], dtype=np.int64)
        if self._code == Z_CODE:
            hard = self.pythia.process
            self._right = right_fraction(hard, hard[BOSON + 1] if hard[BOSON + 1].id() == 15 else hard[BOSON + 2])
        helicities = self._helicities(event, tau_list)

        n_sets, n_taus = effort.sets if tau_list else 1, len(tau_list)
        # A pair without any lepton is not selected: leptons from heavy quarks are rare where no W or Z is around.
        forced = self._process.name in PAIR_PROCESSES and n_taus == 2 and len(leptons) == 0
        kinds = draw_pairs(n_sets, rng) if forced else draw_kinds(n_sets * n_taus, rng).reshape(n_sets, n_taus)
        each = np.tile(np.arange(n_taus), n_sets)
        decays = self._library.draw(kinds.ravel(), taus[each], charges[each], helicities[each], rng)
        visible = decays.visible.reshape(n_sets, n_taus, 4)
        promises = decay_promise(self._keep, leptons, kinds, visible)
        choice = self._choose(promises * self._importance(event, prompt, taus, kinds, visible))
        if choice is None:
            return True
        chosen, n_passes = choice.sets, len(choice.sets)
        fraction = PAIR_FRACTION if forced else 1.0
        self.kept[self._key] = Kept(
            key=self._key,
            code=self._code,
            replaced=taus[:, 0],
            taus=np.tile(taus, (n_passes, 1, 1)),
            charges=charges,
            helicities=np.tile(helicities, (n_passes, 1)),
            decays=decays.take((chosen[:, None] * n_taus + np.arange(n_taus)).ravel()),
            weights=fraction / quiet * choice.weights,
            usual=choice.usual / quiet,
            promises=promises[chosen],
            radiation=np.zeros((n_passes, 0, 4)),
            radiation_codes=np.zeros(0, np.int64),
            features=np.zeros((n_passes, FEATURES)),
        )
        return False

    def _importance(
        self,
        event: pythia8mc.Event,
        prompt: list[pythia8mc.Particle],
        taus: np.ndarray,
        kinds: np.ndarray,
        visible: np.ndarray,
    ) -> np.ndarray:
        """Return the importance of k sets of decays, shape (k,): 1, as nothing is aimed at.

        Args:
            event: Pythia's record of the event after the shower.
            prompt: Its leptons and neutrinos.
            taus: Four-momenta of the taus among them, shape (t, 4), GeV.
            kinds: Kinds of their decays, shape (k, t).
            visible: Four-momenta of their visible products, shape (k, t, 4).
        """
        return np.ones(len(kinds))

    def _choose(self, deserts: np.ndarray) -> Choice | None:
        """Decide whether to hadronise an event, by what its sets deserve, shape (k,), and draw those to simulate."""
        effort, mean = self._effort, float(deserts.mean())
        probability = min(1.0, effort.boost * mean / self._promise)
        if self._rng.random() >= probability:
            return None
        n_passes = min(effort.passes, len(deserts))
        chosen = self._rng.choice(len(deserts), n_passes, p=deserts / (mean * len(deserts)))
        weights = mean / (deserts[chosen] * probability * self._promise * n_passes)
        return Choice(chosen, weights, 1.0 / (effort.boost * effort.passes))

    def _helicities(self, event: pythia8mc.Event, taus: list[pythia8mc.Particle]) -> np.ndarray:
        """Draw helicities of prompt taus from what they come from, -1 or 1, shape (t,)."""
        out = np.empty(len(taus), dtype=np.int64)
        drawn: dict[int, int] = {}
        for i, tau in enumerate(taus):
            mother = event[tau.iTopCopyId()].mother1()
            boson = event[mother].idAbs()
            minus = tau.id() > 0
            if mother not in drawn:
                right = {25: 0.5, 24: 0.0, 23: self._right}.get(boson, 0.5)
                drawn[mother] = 1 if self._rng.random() < right else -1
            # A scalar gives equal helicities, a vector opposite ones.
            out[i] = drawn[mother] if minus or boson == 25 else -drawn[mother]
        return out
