"""Library of underlying events: multiparton interactions and beam remnants without the hard process.

Pythia makes Z -> nu nu with multiparton interactions but without initial-state radiation of the hard system, so that
everything visible belongs to the underlying event, with the amount of activity that goes with a hard collision. What
such an event deposits is laid over events showered without multiparton interactions. Lost in this way are colour
reconnection between the two and their competition for the protons' momentum.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pythia8mc
from tqdm import tqdm

from training.simulation.detector import Deposits, deposits
from training.simulation.event import EventBatch, Particles, Taus
from training.simulation.origin import library_path
from training.simulation.processes import COMMON_SETTINGS
from training.simulation.records import NO_TAUS, Rows, event_batch, final_particles
from workshop.files import read_arrays, write_arrays

NO_INTERACTIONS = ("PartonLevel:MPI = off",)
"""Pythia settings of the events that underlying events are laid over."""

LIBRARY_SIZE = 12_000
LIBRARY_SEED = 20240908
LIBRARY_FILE = "underlying_events.npz"
SETTINGS = ("WeakSingleBoson:ffbar2gmZ = on", "WeakZ0:gmZmode = 2", "23:onMode = off", "23:onIfAny = 12 14 16")
BATCH = 100

ETA_MAX = 5.2
"""The calorimeters end at 5."""


class NoHardRadiation(pythia8mc.UserHooks):  # type: ignore[misc]
    """Vetoes initial-state radiation of the hard system, which is the first one."""

    def canVetoISREmission(self) -> bool:  # noqa: N802
        """Pythia's switch for the method below."""
        return True

    def doVetoISREmission(self, size: int, event: pythia8mc.Event, system: int) -> bool:  # noqa: N802
        """Tell Pythia to undo a branching of the hard system."""
        return system == 0


def make_underlying(size: int = LIBRARY_SIZE, seed: int = LIBRARY_SEED) -> EventBatch:
    """Let Pythia make underlying events, about 8 ms each; particles beyond the calorimeters are left out."""
    pythia = pythia8mc.Pythia("", False)
    for line in (*COMMON_SETTINGS, *SETTINGS, "Random:setSeed = on", f"Random:seed = {seed}"):
        pythia.readString(line)
    hooks = NoHardRadiation()
    pythia.setUserHooksPtr(hooks)
    pythia.init()
    parts: list[Rows] = []
    n_events = 0
    with tqdm(total=size, desc="underlying events", disable=None) as progress:
        while n_events < size:
            record = pythia.nextBatch(min(BATCH, size - n_events))
            owner, codes, momenta, places = final_particles(record)
            near = np.abs(momenta[:, 2]) < np.sinh(ETA_MAX) * np.hypot(momenta[:, 0], momenta[:, 1])
            parts.append((owner[near] + n_events, codes[near], momenta[near], places[near]))
            n_events += len(record)
            progress.update(len(record))
    return event_batch(n_events, parts, NO_TAUS, pythia.particleData)


def load_underlying(folder: Path, size: int = LIBRARY_SIZE) -> Deposits:
    """What underlying events deposit; the library is made first where it is absent, of another size or other code."""
    path = library_path(folder, size, LIBRARY_FILE, "underlying")
    if not path.exists():
        made = make_underlying(size)
        # Single precision halves the file; the detector's resolution is far coarser.
        columns = {name: _narrow(column) for name, column in vars(made.particles).items()}
        write_arrays(path, {**columns, "offsets": made.offsets})
    columns = read_arrays(path)
    offsets = columns.pop("offsets")
    particles = Particles(**{name: _widen(column) for name, column in columns.items()})
    none = np.zeros(0)
    taus = Taus(*[none] * 6, *[none.astype(np.int8)] * 2)
    return deposits(EventBatch(particles, offsets, taus, np.zeros_like(offsets)))


def _narrow(column: np.ndarray) -> np.ndarray:
    return column.astype(np.float32) if column.dtype == np.float64 else column


def _widen(column: np.ndarray) -> np.ndarray:
    return column.astype(np.float64) if column.dtype == np.float32 else column
