"""One shard: generation, detector, selection and weights of some events of one process.

``full``
    Every generated event has its own multiparton interactions, one set of tau decays and one detector pass.
``fast``
    The shower runs without multiparton interactions, which cost most of the time; the underlying event comes from a
    library (``underlying``), and every showered event gets several sets of tau decays, each with its own underlying
    event and detector pass.

A row's weight is, up to the cross-section over the number of tried events, the inverse of the probability with which
its event and tau decays were kept, times the probability that the tau tagger chooses its candidate. Rows of small
weight (mis-tags, mostly) are thinned out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from training.simulation.aim import OFF, Aim, find_aim
from training.simulation.candidates import load_candidates, row_features
from training.simulation.decisions import Effort
from training.simulation.detector import deposits, measure, overlay
from training.simulation.event import EventBatch
from training.simulation.generator import Generator, Showered
from training.simulation.processes import TABLE, WHOLE, Process, Slice
from training.simulation.selection import Selected, select_candidates
from training.simulation.tau_decays import TauLibrary, load_library
from training.simulation.underlying import NO_INTERACTIONS, load_underlying

FAINTEST_LEPTON = 8.0
"""Electrons and muons below this pt in GeV are never measured at the 20 GeV that the selection asks for."""
VERSION = 1
"""Version of the simulated events: shards of different versions are not mixed."""


@dataclass(frozen=True)
class Mode:
    """A way to simulate.

    Args:
        name: Name on the command line.
        effort: How much is drawn per event.
        repeats: Detector passes of a set of decays without any hadronic tau; a pass selects few of them, by mis-tags.
        shard_events: Showered events per shard, if nothing else is asked for.
        overlaid: Whether the underlying event comes from the library.
    """

    name: str
    effort: Effort
    repeats: int
    shard_events: int
    overlaid: bool


MODES = {
    mode.name: mode
    for mode in (
        Mode("full", Effort(sets=24, passes=1, boost=4.0), repeats=1, shard_events=2_000, overlaid=False),
        Mode("fast", Effort(sets=64, passes=3, boost=2.5), repeats=3, shard_events=6_000, overlaid=True),
    )
}


def find_mode(name: str) -> Mode:
    """Return a mode by name.

    Raises:
        InputError: If there is no such mode.
    """
    if name not in MODES:
        msg = f"no mode {name!r}; choose one of {', '.join(MODES)}"
        raise InputError(msg)
    return MODES[name]


@dataclass(frozen=True)
class Shard:
    """Selected events of one shard.

    Args:
        values: The 16 primaries in the order of ``PRIMARIES``, shape (n, 16), float32.
        weights: Weights up to the factor ``Process.event_weight`` of the row's code, shape (n,), float64.
        codes: Process code, Pythia's or that of a slice (``Slice.code``), shape (n,), int16.
        parents: Number of the showered event within the shard, shape (n,), int32, rising.
        tried: Events of the hard process by process code.
    """

    values: np.ndarray
    weights: np.ndarray
    codes: np.ndarray
    parents: np.ndarray
    tried: dict[int, int]

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class Production:
    """What decides the content of shards.

    Args:
        mode: Name of the mode.
        seed: Seed of all random numbers.
        shard_events: Showered events per shard.
        z_quiet: Fraction of Z events with little recoil that are kept (importance sampling); weights make up for it.
        version: Version of the simulation.
        aim: Name of what the simulation is aimed at, ``off`` for nothing.
    """

    mode: str
    seed: int
    shard_events: int
    z_quiet: float = 1.0
    version: int = VERSION
    aim: str = OFF


class Simulation:
    """Makes shards; holds what all shards share.

    Args:
        production: What to make.
        cache: Folder of the libraries, which are made there if absent.

    Raises:
        InputError: If there is no such mode.
    """

    def __init__(self, production: Production, cache: Path) -> None:
        self._production = production
        self._mode = find_mode(production.mode)
        self._aim = find_aim(production.aim)
        self._library: TauLibrary = load_library(cache)
        self._underlying = load_underlying(cache) if self._mode.overlaid else None

    def shard(self, process_name: str, index: int) -> Shard:
        """Make shard ``index`` of a process; its content depends on nothing but seed, process, mode and index."""
        process = TABLE[process_name]
        mode, production = self._mode, self._production
        place = (list(TABLE).index(process.name), list(MODES).index(mode.name), index)
        generator_seed, own_seed = np.random.SeedSequence(production.seed, spawn_key=place).spawn(2)
        rng = np.random.default_rng(own_seed)
        extra = NO_INTERACTIONS if mode.overlaid else ()
        quiet = production.z_quiet if process.name == "ztautau" else 1.0
        effort = replace(mode.effort, quiet=quiet, aim=self._aim)
        pieces, first, tried = [], 0, Counter[int]()
        for part, n_events, seed in split_events(process, effort.aim, production.shard_events, generator_seed):
            generator = Generator(process, effort, self._library, seed, (*extra, *part.settings))
            for showered in generator.batches(n_events):
                pieces.append(self._rows(process, showered, first, rng, part))
                first += len(showered.codes)
            tried.update({part.code(code): count for code, count in generator.tried.items()})
        values, weights, codes, parents = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        return Shard(values, weights, codes.astype(np.int16), parents.astype(np.int32), dict(tried))

    def _rows(self, process: Process, showered: Showered, first: int, rng: np.random.Generator, part: Slice) -> Rows:
        rows, of, repeats = self.measure(showered, rng)
        weights = showered.weights[of] / repeats * rows.probability
        values = np.stack([rows.columns[name] for name in PRIMARIES], axis=-1)
        if self._aim is None:
            smallest = process.row_weight * showered.usual[of]
        else:
            importance = load_candidates()(row_features(values))
            smallest = self._aim.thinning * showered.usual[of] / np.clip(importance, self._aim.floor, self._aim.ceiling)
        kept = np.flatnonzero(rng.random(len(rows)) * smallest < weights)
        parents = showered.parents[of[kept]]
        codes = part.code(showered.codes[parents])
        return values[kept], np.maximum(weights, smallest)[kept], codes, parents + first

    def measure(self, showered: Showered, rng: np.random.Generator) -> tuple[Selected, np.ndarray, np.ndarray]:
        """Let sets of decays pass detector and selection.

        Returns:
            The rows, the set of each and the detector passes of that set, both of shape (n,).
        """
        n_taus = np.diff(showered.recoil.tau_offsets)[showered.parents] + np.diff(showered.decays.tau_offsets)
        # An aim makes as many passes as an event deserves.
        repeats = np.where(n_taus == 0, self._mode.repeats if self._aim is None else 1, 1)
        repeats[~with_lepton(showered)] = 0
        sets = np.repeat(np.arange(len(repeats)), repeats)
        everything = overlay(
            deposits(showered.recoil).take(showered.parents[sets]), deposits(showered.decays).take(sets)
        )
        if self._underlying is not None:
            drawn = rng.integers(len(self._underlying), size=len(sets))
            everything = overlay(everything, self._underlying.take(drawn))
        seeds = rng.integers(0, 2**64, len(sets), dtype=np.uint64)
        rows = select_candidates(measure(everything, seeds, only_selectable=True))
        of = sets[rows.events]
        return rows, of, repeats[of]


def with_lepton(showered: Showered) -> np.ndarray:
    """Which sets have an electron or a muon that may pass the selection, shape (p,), bool; without one none does."""

    def found(batch: EventBatch) -> np.ndarray:
        particles = batch.particles
        lepton = np.isin(np.abs(particles.pdg), (11, 13)) & (np.hypot(particles.px, particles.py) > FAINTEST_LEPTON)
        owners = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))[lepton]
        return np.asarray(np.bincount(owners, minlength=len(batch)) > 0)

    return np.asarray(found(showered.recoil)[showered.parents] | found(showered.decays))


def split_events(
    process: Process, aim: Aim | None, n_events: int, seed: np.random.SeedSequence
) -> list[tuple[Slice, int, np.random.SeedSequence]]:
    """Slices of a process to make, with the showered events, at least one, and the seed of each."""
    if aim is None or len(process.slices) == 1:
        return [(WHOLE, n_events, seed)]
    counts = [max(1, round(part.share * n_events)) for part in process.slices]
    return list(zip(process.slices, counts, seed.spawn(len(counts)), strict=True))


Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""The arrays of ``Shard``."""
