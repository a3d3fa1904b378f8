"""Random choices that belong to an event, not to its place in a batch.

A hash of the event's key (its showered event, or its row) and of the purpose takes the place of a random generator:
rows of one showered event are chosen together, and the order in which events are read does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.events import Events

HELD_OUT, BOOTSTRAP, THINNING = range(3)
"""What a choice is for."""

LARGEST_COUNT = 12
"""Poisson(1) exceeds it once in 10^10 draws."""


def uniform(keys: np.ndarray, *purpose: int) -> np.ndarray:
    """Return one number in [0, 1) for each key, shape (n,); equal keys and purposes give equal numbers."""
    state = np.uint64(np.random.SeedSequence(purpose).generate_state(1, np.uint64)[0])
    mixed = keys.astype(np.uint64) ^ state
    # The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014); products wrap around.
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def poisson(keys: np.ndarray, *purpose: int) -> np.ndarray:
    """Return a Poisson(1) count for each key, shape (n,), int64: how often a bootstrap draws it."""
    counts = np.arange(LARGEST_COUNT)
    factorials = np.cumprod(np.maximum(counts, 1), dtype=np.float64)
    return np.searchsorted(np.cumsum(np.exp(-1.0) / factorials), uniform(keys, *purpose), side="right")


@dataclass(frozen=True)
class HeldOut:
    """Splits training rows into those the optimiser sees and those that choose the best epoch.

    Args:
        seed: Seed of the split.
        fraction: Share of the showered events that is held out.
    """

    seed: int
    fraction: float

    def __call__(self, events: Events) -> np.ndarray:
        """Return which events are held out, shape (n,), boolean."""
        return uniform(events.keys, self.seed, HELD_OUT) < self.fraction

    def others(self, events: Events) -> np.ndarray:
        """Return which events are not held out."""
        return ~self(events)


@dataclass(frozen=True)
class Thinning:
    """Keeps part of the training events of each class, others in each epoch.

    Args:
        held_out: Events that are never kept.
        fractions: Share of each class that is kept, shape (4,).
        purpose: Seed, network and epoch.
    """

    held_out: HeldOut
    fractions: np.ndarray
    purpose: tuple[int, ...]

    def __call__(self, events: Events) -> np.ndarray:
        """Return which events are kept, shape (n,), boolean."""
        kept: np.ndarray = uniform(events.keys, THINNING, *self.purpose) < self.fractions[events.classes]
        kept &= self.held_out.others(events)
        return kept
