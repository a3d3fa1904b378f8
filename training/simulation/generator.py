"""Pythia driver: showered events with sets of tau decays, and the count of everything tried.

Decisions are taken inside Pythia, as early as possible: after the hard process an event is showered with the
probability its leptons and taus promise (``promise.hard_promise``), after the shower several sets of tau decays are
drawn, and the event is hadronised with the probability they promise; some of the sets are then simulated, drawn in
proportion to their promise. Weights are the inverse of all those probabilities, and every event of the hard process
counts as tried.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields

import awkward as ak
import numpy as np
import pythia8mc

from training.simulation.aim import JET_PT, QUIET_PT, Aim, drop_near, load_importance, set_features
from training.simulation.event import EventBatch
from training.simulation.hard import is_quiet, momentum, right_fraction
from training.simulation.heavy_flavour import TauBias
from training.simulation.processes import COMMON_SETTINGS, Process
from training.simulation.promise import decay_promise, hard_promise, pair_promise
from training.simulation.records import Rows, TauRows, event_batch, final_particles
from training.simulation.tau_decays import (
    HADRONIC,
    PAIR_FRACTION,
    Z_RIGHT_FRACTION,
    Decays,
    TauLibrary,
    draw_kinds,
    draw_pairs,
)

TAU_LIFETIME = 0.08703
"""Speed of light times the mean life in mm (Particle Data Group)."""
HEAVY_FLAVOUR_POLARISATION = -0.7
"""Of tau- from b -> c tau nu, about -0.7 (Falk, Ligeti, Neubert, Nir, Phys. Lett. B 326 (1994) 145)."""
PAIR_PROCESSES = ("htautau", "ztautau")
PROMISE_POWER = 0.5
"""Of the promise of sets of decays in aimed simulation."""
LAST_STAGE = 3
"""Stages of Pythia's shower up to this one come before the boson decays."""
PAIR_SIZE = 8
"""Size of the record of a hard process that makes one boson, which decays to two particles."""
BOSON = 5
"""Place of the boson in Z events of Pythia."""
Z_CODE = 221
"""q qbar -> Z, the only process whose angles are used for the polarisation."""


@dataclass(frozen=True)
class Effort:
    """How much is drawn per event.

    Args:
        sets: Sets of tau decays drawn per showered event.
        passes: Sets that are simulated.
        boost: Factor on the probability to hadronise an event, up to 1: how many times more often than its decays
            promise. Events that would exceed 1 get a larger weight instead.
        quiet: Fraction of events with little recoil that are kept (importance sampling, 1 for none).
        aim: Aim at what moves mu, None for none; of no effect but for pairs of taus from Z and H.
    """

    sets: int
    passes: int
    boost: float
    quiet: float = 1.0
    aim: Aim | None = None


@dataclass(frozen=True)
class Showered:
    """Some hadronised events with the sets of tau decays to simulate.

    Args:
        recoil: All particles but products of prompt taus, n events.
        decays: Products of prompt taus, one event per set, p sets.
        parents: Which of the n events each set belongs to, rising, shape (p,), int64.
        weights: Inverse of the probability that the set got here, shape (p,).
        usual: What that inverse is for a set of full promise, shape (p,).
        codes: Pythia's process code of each of the n events, int64.
        features: What the sets' importance is told from, shape (p, f); f is 0 where there is no aim.
    """

    recoil: EventBatch
    decays: EventBatch
    parents: np.ndarray
    weights: np.ndarray
    usual: np.ndarray
    codes: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Kept:
    """What the decisions remember of an event.

    Args:
        key: Momentum fraction of the first parton, which tells events apart.
        code: Pythia's process code.
        taus: Four-momenta of prompt taus, shape (t, 4), GeV.
        charges: Their charges, shape (t,).
        helicities: Their helicities, shape (t,).
        decays: Sets of decays to simulate, set by set, p times t.
        weights: Weights of the sets, shape (p,).
        usual: What they would be for sets of full promise, shape (p,).
        features: What the sets' importance is told from, shape (p, f).
    """

    key: float
    code: int
    taus: np.ndarray
    charges: np.ndarray
    helicities: np.ndarray
    decays: Decays
    weights: np.ndarray
    usual: np.ndarray
    features: np.ndarray


class Decisions(pythia8mc.UserHooks):  # type: ignore[misc]
    """The decisions inside Pythia; ``tried`` counts events of the hard process by code."""

    def __init__(self, process: Process, effort: Effort, library: TauLibrary, rng: np.random.Generator) -> None:
        super().__init__()
        self.tried: Counter[int] = Counter()
        self.kept: dict[float, Kept] = {}
        self.pythia: pythia8mc.Pythia = None
        self._process, self._effort, self._library, self._rng = process, effort, library, rng
        self._aim = effort.aim if process.name in PAIR_PROCESSES else None
        # anti-kt, R = 0.4, |eta| < 5, all but neutrinos.
        self._jets = pythia8mc.SlowJet(-1, 0.4, JET_PT, 5.0, 2) if self._aim else None
        self._told = load_importance() if self._aim and self._aim.power else _equal
        self._code, self._key, self._right = 0, 0.0, Z_RIGHT_FRACTION
        self._promise = self._hard_promise = 1.0

    def canVetoProcessLevel(self) -> bool:  # noqa: N802
        """Pythia's switch for the method below."""
        return True

    def doVetoProcessLevel(self, process: pythia8mc.Event) -> bool:  # noqa: N802
        """Count the event and decide whether to shower it."""
        info = self.pythia.infoPython()
        self._code = int(info.code())
        self.tried[self._code] += 1
        self._promise = self._hard_promise = self._judge(process)
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

    def canVetoPT(self) -> bool:  # noqa: N802
        """Pythia's switch for the methods below."""
        return self._aim is not None and self._process.name == "ztautau"

    def scaleVetoPT(self) -> float:  # noqa: N802
        """Where the shower is halted, GeV."""
        return QUIET_PT

    def doVetoPT(self, stage: int, event: pythia8mc.Event) -> bool:  # noqa: N802
        """Decide whether a Z event with this much recoil is showered to the end."""
        assert self._aim is not None
        if stage > LAST_STAGE:
            return False
        boson = event[event[BOSON].iBotCopyId()]
        fraction = self._aim.keep(boson.pT(), boson.m())
        # Set, not multiplied: Pythia repeats a shower that fails.
        self._promise = self._hard_promise * fraction
        return bool(self._rng.random() >= fraction)

    def canVetoPartonLevel(self) -> bool:  # noqa: N802
        """Pythia's switch for the method below."""
        return True

    def doVetoPartonLevel(self, event: pythia8mc.Event) -> bool:  # noqa: N802
        """Draw tau decays, decide whether to hadronise the event and choose the decays to simulate."""
        rng, effort = self._rng, self._effort
        places = [i for i in range(5, event.size()) if event[i].idAbs() in (11, 13, 15)]
        found = [p for p in (event[i] for i in places) if p.isFinal()]
        leptons = np.array([momentum(p) for p in found if p.idAbs() != 15]).reshape(-1, 4)
        tau_list = [p for p in found if p.idAbs() == 15]
        quiet = effort.quiet if effort.quiet < 1.0 and is_quiet(event, found) else 1.0
        if rng.random() >= quiet:
            return True
        taus = np.array([momentum(p) for p in tau_list]).reshape(-1, 4)
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
        promises = decay_promise(self._process.keep, leptons, kinds, visible)
        features, importance = self._importance(event, taus, leptons, kinds, visible)
        if self._aim:
            # Rows of little promise that are selected all the same must not be heavy.
            promises = promises**PROMISE_POWER * importance
        mean = float(promises.mean())
        boost = effort.boost * (self._aim.boost if self._aim and self._process.name == "ztautau" else 1.0)
        probability = min(1.0, boost * mean / self._promise)
        if rng.random() >= probability:
            return True
        passes = self._aim.least if self._aim else effort.passes
        n_passes = min(passes, n_sets)
        if self._aim:
            # As many as make all weights the same but for the sets' promise and importance.
            wanted = math.ceil(passes * boost * mean / self._promise)
            n_passes = min(max(n_passes, wanted), self._aim.passes)
        chosen = rng.choice(n_sets, n_passes, p=promises / (mean * n_sets))
        fraction = PAIR_FRACTION if forced else 1.0
        weights = fraction * mean / (promises[chosen] * probability * self._promise * n_passes * quiet)
        usual = np.full(n_passes, 1.0 / (effort.boost * effort.passes * quiet))
        if self._aim:
            usual = weights * promises[chosen] / importance[chosen]
        rows = (chosen[:, None] * n_taus + np.arange(n_taus)).ravel()
        decided = (taus, charges, helicities, decays.take(rows), weights, usual, features[chosen])
        self.kept[self._key] = Kept(self._key, self._code, *decided)
        return False

    def _importance(
        self, event: pythia8mc.Event, taus: np.ndarray, leptons: np.ndarray, kinds: np.ndarray, visible: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return features, shape (k, f), and importance, shape (k,), of k sets of decays; none and 1 if not aimed."""
        if self._aim is None or self._jets is None:
            return np.zeros((len(kinds), 0)), np.ones(len(kinds))
        self._jets.analyze(event)
        found = np.array([momentum(self._jets.p(i)) for i in range(self._jets.sizeJet())]).reshape(-1, 4)
        features = set_features(taus, leptons, kinds, visible, drop_near(found, taus, leptons))
        return features, np.clip(self._told(features) ** self._aim.power, self._aim.floor, self._aim.ceiling)

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


class Generator:
    """Pythia with the challenge's settings for one process.

    Args:
        process: The process.
        effort: How much is drawn per event.
        library: Hadronic tau decays.
        seed: Seed of everything.
        extra: Further Pythia settings.
    """

    def __init__(
        self,
        process: Process,
        effort: Effort,
        library: TauLibrary,
        seed: np.random.SeedSequence,
        extra: tuple[str, ...] = (),
    ) -> None:
        pythia_seed, own_seed = seed.spawn(2)
        self._rng = np.random.default_rng(own_seed)
        self._library = library
        # Pythia takes seeds from 1 to 900 000 000.
        number = int(pythia_seed.generate_state(1)[0]) % 900_000_000 + 1
        self._pythia = pythia8mc.Pythia("", False)
        settings = ("Random:setSeed = on", f"Random:seed = {number}")
        for line in (*COMMON_SETTINGS, *process.settings, *extra, *settings):
            if not self._pythia.readString(line):
                msg = f"Pythia does not know the setting {line!r}; install the pinned version of pythia8mc"
                raise RuntimeError(msg)
        self._decisions = Decisions(process, effort, library, self._rng)
        self._pythia.setUserHooksPtr(self._decisions)
        if not self._pythia.init():
            msg = f"Pythia does not start for {process.name}; run it with 'Print:quiet = off' to see why"
            raise RuntimeError(msg)
        self._decisions.pythia = self._pythia
        self._bias = TauBias(self._pythia.particleData, process.tau_bias) if process.tau_bias != 1.0 else None

    @property
    def tried(self) -> dict[int, int]:
        """Events of the hard process so far, by process code."""
        return dict(self._decisions.tried)

    def batches(self, n_events: int, size: int = 50) -> Iterator[Showered]:
        """Yield hadronised events, ``size`` at a time, ``n_events`` in all."""
        for start in range(0, n_events, size):
            record = self._pythia.nextBatch(min(size, n_events - start))
            yield self._convert(record)
            self._decisions.kept.clear()

    def _convert(self, record: ak.Array) -> Showered:
        kept = [self._decisions.kept[key] for key in ak.to_list(record.info.x1)]
        owner, codes, momenta, places = final_particles(record)
        is_tau = np.abs(codes) == 15
        # Pythia's prompt taus are those the decisions saw; others come from hadrons.
        prompt = np.concatenate([event.taus[:, 0] for event in kept])
        late = np.flatnonzero(is_tau & ~np.isin(momenta[:, 0], prompt))
        late_products, late_taus = self._late_decays(codes[late], momenta[late], places[late], owner[late])
        others = (owner[~is_tau], codes[~is_tau], momenta[~is_tau], places[~is_tau])
        data = self._pythia.particleData
        passes = [len(event.weights) for event in kept]
        parents = np.repeat(np.arange(len(kept)), passes)
        products, taus = self._prompt_decays(kept)
        weights = np.concatenate([event.weights for event in kept])
        if self._bias is not None:
            weights = weights * self._bias.weights(record)[parents]
        return Showered(
            event_batch(len(kept), [others, late_products], late_taus, data),
            event_batch(len(parents), [products], taus, data),
            parents,
            weights,
            np.concatenate([event.usual for event in kept]),
            np.array([event.code for event in kept], dtype=np.int64),
            np.concatenate([event.features for event in kept]),
        )

    def _late_decays(
        self, codes: np.ndarray, taus: np.ndarray, places: np.ndarray, owner: np.ndarray
    ) -> tuple[Rows, TauRows]:
        charges = -np.sign(codes).astype(np.int64)
        right = self._rng.random(len(codes)) < 0.5 * (1.0 + HEAVY_FLAVOUR_POLARISATION)
        helicities = np.where(right, 1, -1) * -charges
        decays = self._library.draw(draw_kinds(len(codes), self._rng), taus, charges, helicities, self._rng)
        return self._rows(decays, taus, charges, helicities, places, owner)

    def _prompt_decays(self, kept: list[Kept]) -> tuple[Rows, TauRows]:
        n_taus = np.array([len(event.taus) for event in kept], dtype=np.int64)
        n_passes = np.array([len(event.weights) for event in kept], dtype=np.int64)
        owner = np.repeat(np.arange(n_passes.sum()), np.repeat(n_taus, n_passes))
        taus, charges, helicities = (
            np.concatenate([np.tile(getattr(e, name), (len(e.weights), *[1] * (getattr(e, name).ndim - 1)))
                            for e in kept])
            for name in ("taus", "charges", "helicities")
        )  # fmt: skip
        decays = Decays(
            *(np.concatenate([getattr(event.decays, field.name) for event in kept]) for field in fields(Decays))
        )
        return self._rows(decays, taus, charges, helicities, np.zeros((len(taus), 3)), owner)

    def _rows(
        self,
        decays: Decays,
        taus: np.ndarray,
        charges: np.ndarray,
        helicities: np.ndarray,
        places: np.ndarray,
        owner: np.ndarray,
    ) -> tuple[Rows, TauRows]:
        """Products of decays as rows of particles, and the hadronic taus among them."""
        mass = np.sqrt(np.maximum(taus[:, 3] ** 2 - np.sum(taus[:, :3] ** 2, axis=1), 1.0))
        flight = self._rng.exponential(TAU_LIFETIME, len(taus)) / mass
        decayed_at = places + taus[:, :3] * flight[:, None]
        of, codes, momenta = self._library.products(decays, taus, charges, helicities)
        hadronic = decays.kinds == HADRONIC
        pt = np.hypot(taus[:, 0], taus[:, 1])
        tau_rows = (
            owner[hadronic],
            decays.visible[hadronic],
            pt[hadronic],
            np.arcsinh(taus[hadronic, 2] / pt[hadronic]),
            charges[hadronic],
            self._library.prongs[decays.rows[hadronic]],
        )
        return (owner[of], codes, momenta, decayed_at[of]), tau_rows


def _equal(features: np.ndarray) -> np.ndarray:
    return np.ones(len(features))
