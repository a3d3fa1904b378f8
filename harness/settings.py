"""What a run consists of: sets of pseudo-experiments, their seeds and true signal strengths, the switches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from sage.challenge.nuisances import NAMES
from workshop.errors import UsageError

MU_RANGE = (0.1, 3.0)
DEFAULT_SEED = 31415
LARGEST_SEED = 2**32 - 1
LARGEST_MU = 100.0
"""Pseudo-data of a larger signal does not fit into memory."""


@dataclass(frozen=True)
class Job:
    """One pseudo-experiment."""

    set: int
    index: int
    seed: int
    mu: float


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        sets: Number of sets; all pseudo-experiments of a set share the true signal strength.
        experiments: Pseudo-experiments per set.
        seed: Initial seed.
        systematics: Names of the systematic uncertainties that are switched on.
        mus: True signal strength of each set.
        random_mu: Whether ``mus`` is the official random draw.
    """

    sets: int
    experiments: int
    seed: int
    systematics: tuple[str, ...]
    mus: tuple[float, ...]
    random_mu: bool

    def jobs(self) -> list[Job]:
        """Return all pseudo-experiments in the official, shuffled order."""
        pairs = list(product(range(self.sets), range(self.experiments)))
        np.random.RandomState(self.seed).shuffle(pairs)
        return [
            Job(number, index, number * self.experiments + index + self.seed, self.mus[number])
            for number, index in pairs
        ]

    def as_official(self) -> dict[str, Any]:
        """Return the content of the official ``test_settings.json``."""
        return {
            "systematics": {name: name in self.systematics for name in NAMES},
            "num_pseudo_experiments": self.experiments,
            "num_of_sets": self.sets,
            "ground_truth_mus": list(self.mus),
            "random_mu": self.random_mu,
        }


def make_settings(
    sets: int,
    experiments: int,
    seed: int = DEFAULT_SEED,
    systematics: Iterable[str] = NAMES,
    mus: Sequence[float] | None = None,
) -> Settings:
    """Return checked settings.

    Args:
        sets: Number of sets.
        experiments: Pseudo-experiments per set.
        seed: Initial seed; pseudo-experiment t of set s uses ``seed + s * experiments + t``.
        systematics: Uncertainties to switch on.
        mus: True signal strength of each set; None draws them uniformly from [0.1, 3] as the official program does.

    Raises:
        UsageError: If a number is out of range, a name unknown, or there is not one signal strength per set.
    """
    for name, value in (("sets", sets), ("experiments", experiments)):
        if not 1 <= value <= LARGEST_SEED:
            msg = f"{name} is {value}, but must be at least 1 and at most {LARGEST_SEED}"
            raise UsageError(msg)
    # Up to 6 is added for the Poisson draw of the last process.
    if seed < 0 or seed + sets * experiments + 6 > LARGEST_SEED:
        msg = f"seed is {seed}, but every pseudo-experiment's seed must lie in 0 to {LARGEST_SEED}"
        raise UsageError(msg)
    chosen = set(systematics)
    unknown = sorted(chosen.difference(NAMES))
    if unknown:
        msg = f"no systematic uncertainty is called {unknown[0]!r}; choose from {', '.join(NAMES)}"
        raise UsageError(msg)
    if mus is None:
        true_mus = np.random.RandomState(seed).uniform(*MU_RANGE, sets).tolist()
    else:
        true_mus = [float(mu) for mu in mus]
        if len(true_mus) != sets:
            msg = f"{len(true_mus)} ground-truth mus for {sets} sets; give one for each set"
            raise UsageError(msg)
        for mu in true_mus:
            if not (math.isfinite(mu) and 0 <= mu <= LARGEST_MU):
                msg = f"ground-truth mu {mu} is not possible; a signal strength is a finite number of at least 0"
                msg += f" and at most {LARGEST_MU:g}"
                raise UsageError(msg)
    on = tuple(name for name in NAMES if name in chosen)
    return Settings(sets, experiments, seed, on, tuple(true_mus), random_mu=mus is None)
