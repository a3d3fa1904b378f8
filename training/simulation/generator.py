"""Pythia driver: showered events with sets of tau decays, and the count of everything tried.

Which events are showered and hadronised and which sets of decays are simulated is decided inside Pythia
(``decisions``, ``aimed``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import awkward as ak
import numpy as np
import pythia8mc

from training.simulation.aimed import AimedPairs
from training.simulation.decisions import PAIR_PROCESSES, Decisions, Effort, Kept
from training.simulation.event import EventBatch
from training.simulation.heavy_flavour import TauBias
from training.simulation.processes import COMMON_SETTINGS, Process
from training.simulation.records import Rows, TauRows, event_batch, final_particles
from training.simulation.tau_decays import HADRONIC, Decays, TauLibrary, draw_kinds
from training.simulation.tops import AimedTops

TAU_LIFETIME = 0.08703
"""Speed of light times the mean life in mm (Particle Data Group)."""
HEAVY_FLAVOUR_POLARISATION = -0.7
"""Of tau- from b -> c tau nu, about -0.7 (Falk, Ligeti, Neubert, Nir, Phys. Lett. B 326 (1994) 145)."""


def make_decisions(process: Process, effort: Effort, library: TauLibrary, rng: np.random.Generator) -> Decisions:
    """Return the decisions for a process: aimed where the effort says so and there is a way to."""
    if effort.aim and process.name in PAIR_PROCESSES:
        return AimedPairs(process, effort, effort.aim, library, rng)
    if effort.aim and process.name == "ttbar":
        return AimedTops(process, effort, effort.aim, library, rng)
    return Decisions(process, effort, library, rng)


@dataclass(frozen=True)
class Showered:
    """Some hadronised events with the sets of tau decays to simulate.

    Args:
        recoil: All particles but products of prompt taus, n events.
        decays: Products of prompt taus, one event per set, p sets.
        parents: Which of the n events each set belongs to, rising, shape (p,), int64.
        weights: Inverse of the probability that the set got here, shape (p,).
        usual: What that inverse is for a set of full promise and mean importance, shape (p,).
        promises: What the sets promise, whatever the aim, shape (p,).
        codes: Pythia's process code of each of the n events, int64.
        features: What the sets' importance is told from, shape (p, f); f is 0 where there is no aim.
    """

    recoil: EventBatch
    decays: EventBatch
    parents: np.ndarray
    weights: np.ndarray
    usual: np.ndarray
    promises: np.ndarray
    codes: np.ndarray
    features: np.ndarray


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
        self._decisions = make_decisions(process, effort, library, self._rng)
        self._pythia.setUserHooksPtr(self._decisions)
        if not self._pythia.init():
            msg = f"Pythia does not start for {process.name}; run it with 'Print:quiet = off' to see why"
            raise RuntimeError(msg)
        self._decisions.pythia = self._pythia
        self._bias = TauBias(self._pythia.particleData, process.tau_bias) if process.tau_bias != 1.0 else None

    @property
    def tried(self) -> dict[int, int]:
        """Events of the hard process so far, by process code."""
        return self._decisions.tried()

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
        replaced = np.isin(momenta[:, 0], np.concatenate([event.replaced for event in kept]))
        late = np.flatnonzero(is_tau & ~replaced)
        late_products, late_taus = self._late_decays(codes[late], momenta[late], places[late], owner[late])
        rest = ~(is_tau | replaced)
        others = (owner[rest], codes[rest], momenta[rest], places[rest])
        data = self._pythia.particleData
        passes = [len(event.weights) for event in kept]
        parents = np.repeat(np.arange(len(kept)), passes)
        products, taus = self._prompt_decays(kept)
        weights = np.concatenate([event.weights for event in kept])
        if self._bias is not None:
            weights = weights * self._bias.weights(record)[parents]
        return Showered(
            event_batch(len(kept), [others, late_products], late_taus, data),
            event_batch(len(parents), [products, _radiation(kept)], taus, data),
            parents,
            weights,
            np.repeat([event.usual for event in kept], passes),
            np.concatenate([event.promises for event in kept]),
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
        counts = [len(event.charges) for event in kept for _ in event.weights]
        owner = np.repeat(np.arange(len(counts)), counts)
        taus = np.concatenate([event.taus.reshape(-1, 4) for event in kept])
        charges = np.concatenate([np.tile(event.charges, len(event.weights)) for event in kept])
        helicities = np.concatenate([event.helicities.ravel() for event in kept])
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


def _radiation(kept: list[Kept]) -> Rows:
    """What the sets bring along beside taus, as rows of particles; the event of each is its set."""
    counts = [len(event.radiation_codes) for event in kept for _ in event.weights]
    momenta = np.concatenate([event.radiation.reshape(-1, 4) for event in kept])
    codes = np.concatenate([np.tile(event.radiation_codes, len(event.weights)) for event in kept])
    return np.repeat(np.arange(len(counts)), counts), codes, momenta, np.zeros((len(momenta), 3))
