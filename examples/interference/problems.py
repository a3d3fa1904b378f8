"""The two problems behind one face: samples by name, what networks read, exact densities of S, I, B and the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from examples.interference import PROBLEM_NAMES, four_leptons, sampling
from examples.interference.gaussian import GaussianAmplitudes
from nsbi.networks import Yields
from sage.errors import InputError, SettingsError
from workshop.files import write_frame


class Problem(Protocol):
    """What the study needs of a problem."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of events."""

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Names of the nuisance parameters."""

    def yields(self, nuisance: str = "", alpha: float = 0.0) -> Yields:
        """Return expected events, one nuisance parameter moved."""

    def sample(self, rng: np.random.Generator, n: int, name: str) -> np.ndarray:
        """Draw a sample: ``S``, ``SBI mu``, ``rest``, or ``total mu``, which is all of them."""

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Return what networks read, float32."""

    def exact(self, x: np.ndarray, nuisance: str = "", alpha: float = 0.0) -> np.ndarray:
        """Return the densities of S, I, B, rest at events, shape (N, 4), one nuisance parameter moved."""


@dataclass(frozen=True)
class Gaussian:
    """``examples.interference.gaussian``, in three dimensions; nothing but S, I and B."""

    problem: GaussianAmplitudes = field(default_factory=lambda: GaussianAmplitudes(3))
    features: tuple[str, ...] = ("x1", "x2", "x3")
    nuisances: tuple[str, ...] = ("position",)

    def yields(self, nuisance: str = "", alpha: float = 0.0) -> Yields:
        """Return expected events; no nuisance changes them."""
        signal, interference, background = self.problem.yields.tolist()
        return Yields(signal, interference, background, 0.0)

    def sample(self, rng: np.random.Generator, n: int, name: str) -> np.ndarray:
        """Draw a sample by name."""
        if name == "S":
            return rng.normal(size=(n, self.problem.dimension))
        return self.problem.sample(rng, n, float(name.partition(" ")[2]))

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Return the events themselves."""
        return x.astype(np.float32)

    def exact(self, x: np.ndarray, nuisance: str = "", alpha: float = 0.0) -> np.ndarray:
        """Return the densities of S, I, B and 0, shape (N, 4)."""
        return np.column_stack([self.problem.components(x, alpha), np.zeros(len(x))])


@dataclass(frozen=True)
class FourLeptons:
    """``examples.interference.four_leptons``; spin 2 and q q -> Z Z are the rest."""

    features: tuple[str, ...] = four_leptons.FEATURES
    nuisances: tuple[str, ...] = four_leptons.NUISANCES

    def yields(self, nuisance: str = "", alpha: float = 0.0) -> Yields:
        """Return expected events, one nuisance parameter moved."""
        s, i, b, *others = four_leptons.yields({nuisance: alpha} if nuisance else None).tolist()
        return Yields(s, i, b, sum(others))

    def sample(self, rng: np.random.Generator, n: int, name: str) -> np.ndarray:
        """Draw a sample by name."""
        process, _, mu = name.partition(" ")
        if process == "total":
            return sampling.sample_total(rng, n, float(mu))
        if name == "rest":
            first = rng.binomial(n, four_leptons.SPIN2_YIELD / (four_leptons.SPIN2_YIELD + four_leptons.QUARK_YIELD))
            parts = [sampling.sample(rng, first, "spin2"), sampling.sample(rng, n - first, "qqZZ")]
            return np.asarray(rng.permutation(np.concatenate(parts)))
        return sampling.sample(rng, n, process, float(mu or 1))

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Return functions of the events without long tails."""
        return four_leptons.inputs(x)

    def exact(self, x: np.ndarray, nuisance: str = "", alpha: float = 0.0) -> np.ndarray:
        """Return the densities of S, I, B and the rest, shape (N, 4)."""
        each = four_leptons.components(x, {nuisance: alpha} if nuisance else None)
        return np.column_stack([each[:, :3], each[:, 3:].sum(axis=1)])


PROBLEMS: dict[str, Problem] = dict(zip(PROBLEM_NAMES, (Gaussian(), FourLeptons()), strict=True))


def problem_of(name: str) -> Problem:
    """Return a problem by name.

    Raises:
        SettingsError: If there is none.
    """
    if name not in PROBLEMS:
        msg = f"no problem is called {name!r}; choose one of {', '.join(PROBLEMS)}"
        raise SettingsError(msg)
    return PROBLEMS[name]


def simulated(problem: Problem, folder: Path, name: str, n: int, seed: int) -> np.ndarray:
    """Return a sample, from its Parquet file if there is one, else drawn and written there, float32.

    Raises:
        InputError: If the file is damaged or holds another sample.
    """
    path = folder / f"{name.replace(' ', '_')}_{n}_{seed}.parquet"
    if not path.exists():
        rng = np.random.default_rng((seed, *name.encode()))
        write_frame(path, pd.DataFrame(problem.sample(rng, n, name).astype(np.float32), columns=list(problem.features)))
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        msg = f"{path}: damaged ({error}); remove it to simulate it again"
        raise InputError(msg) from error
    if list(frame.columns) != list(problem.features) or len(frame) != n:
        msg = f"{path}: {len(frame)} events of {list(frame.columns)}, not {n}; remove it to simulate it again"
        raise InputError(msg)
    values: np.ndarray = frame.to_numpy(dtype=np.float64, copy=True)
    return values
