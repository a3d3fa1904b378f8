"""Particles of events as arrays: what the generation hands to the detector.

A batch holds the particles of all its events one after the other; ``offsets[i]:offsets[i + 1]`` are those of event
``i``. So one compiled call handles many events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from sage.errors import InputError

Columns = TypeVar("Columns", bound=Any)
"""A dataclass whose fields are arrays of equal length."""


@dataclass(frozen=True)
class Particles:
    """Stable particles (Pythia's ``isFinal``), each array of shape (n,).

    Args:
        pdg: PDG code, int32.
        px: Momentum in GeV, float64; likewise ``py``, ``pz`` and the energy ``e``.
        vx: Place of production in mm, float64; likewise ``vy``, ``vz``.
        charge: Electric charge in units of the positron's, int8.
    """

    pdg: np.ndarray
    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    e: np.ndarray
    vx: np.ndarray
    vy: np.ndarray
    vz: np.ndarray
    charge: np.ndarray

    def __len__(self) -> int:
        return len(self.pdg)


@dataclass(frozen=True)
class Taus:
    """True taus that decay to hadrons, each array of shape (n,).

    Args:
        px: Visible momentum in GeV, float64: the sum of all decay products but the tau neutrino; likewise ``py``,
            ``pz`` and the energy ``e``.
        pt: Transverse momentum of the tau itself in GeV, float64, just before its decay.
        eta: Pseudorapidity of the tau itself, float64.
        charge: Charge of the tau, int8.
        prongs: Number of charged decay products, int8.
    """

    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    e: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    charge: np.ndarray
    prongs: np.ndarray

    def __len__(self) -> int:
        return len(self.px)


INTEGER_COLUMNS = {"pdg": np.int32, "charge": np.int8, "prongs": np.int8}
"""Types of the columns of particles and taus that are not float64."""


@dataclass(frozen=True)
class EventBatch:
    """Particles and hadronic taus of n events.

    Args:
        particles: Stable particles of all events.
        offsets: Where each event's particles start, shape (n + 1,), int64; the last entry is their number.
        taus: Hadronic taus of all events, also those from decays of hadrons.
        tau_offsets: Where each event's taus start, shape (n + 1,), int64.

    Raises:
        InputError: If the offsets do not fit the arrays.
    """

    particles: Particles
    offsets: np.ndarray
    taus: Taus
    tau_offsets: np.ndarray

    def __post_init__(self) -> None:
        for name, offsets, size in (
            ("offsets", self.offsets, len(self.particles)),
            ("tau_offsets", self.tau_offsets, len(self.taus)),
        ):
            check_offsets(name, offsets, size)
        if len(self.offsets) != len(self.tau_offsets):
            msg = (
                f"offsets are of {len(self.offsets) - 1} events, tau_offsets of {len(self.tau_offsets) - 1}; "
                "give both for every event, also where there is no tau"
            )
            raise InputError(msg)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_events(cls, events: Sequence[tuple[Particles, Taus]]) -> EventBatch:
        """Put single events one after the other."""
        particles, taus = [event[0] for event in events], [event[1] for event in events]
        return cls(_joined(particles, Particles), _offsets(particles), _joined(taus, Taus), _offsets(taus))

    def take(self, events: np.ndarray) -> EventBatch:
        """Return the given events, in that order; an event may appear several times."""
        rows, offsets = gather(self.offsets, events)
        tau_rows, tau_offsets = gather(self.tau_offsets, events)
        return EventBatch(take_rows(self.particles, rows), offsets, take_rows(self.taus, tau_rows), tau_offsets)


def check_offsets(name: str, offsets: np.ndarray, size: int) -> None:
    """Raise InputError unless offsets start at 0, never fall and end at ``size``."""
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != size or np.any(np.diff(offsets) < 0):
        msg = f"{name} must rise from 0 to the number of rows, {size} (got {offsets}); sum the counts of the events"
        raise InputError(msg)


def gather(offsets: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and new offsets of some events of a batch.

    Args:
        offsets: Offsets of the batch, shape (n + 1,).
        events: Wanted events, shape (m,), in any order and as often as wanted.

    Returns:
        Row numbers and offsets, shape (m + 1,), both int64.
    """
    counts = np.diff(offsets)[events]
    new = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = np.repeat(offsets[:-1][events] - new[:-1], counts) + np.arange(new[-1])
    return rows, new


def take_rows(columns: Columns, rows: np.ndarray) -> Columns:
    """Return the given rows of a dataclass of arrays."""
    chosen: Columns = type(columns)(*(getattr(columns, field.name)[rows] for field in fields(columns)))
    return chosen


def join_rows(parts: Sequence[Columns]) -> Columns:
    """Put dataclasses of arrays one after the other; there must be at least one."""
    names = [field.name for field in fields(parts[0])]
    joined: Columns = type(parts[0])(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    return joined


def _joined(parts: Sequence[Columns], kind: type[Columns]) -> Columns:
    """Join and give each column its type; of no parts make empty columns."""
    columns = {}
    for field in fields(kind):
        dtype = INTEGER_COLUMNS.get(field.name, np.float64)
        columns[field.name] = np.concatenate([np.zeros(0, dtype), *(getattr(part, field.name) for part in parts)])
        columns[field.name] = columns[field.name].astype(dtype)
    joined: Columns = kind(**columns)
    return joined


def _offsets(parts: Sequence[Particles] | Sequence[Taus]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
