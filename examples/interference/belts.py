"""The belt of the learned t, from toys that networks reweight, and its coverage in toys of the exact density."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from examples.interference.clock import Clock
from examples.interference.oracle import MIXTURE, coefficients
from examples.interference.problems import Problem
from examples.interference.study import Learned, StudySettings
from nsbi.fitting import best_fit, t_at
from nsbi.likelihood import MixtureLikelihood, unbinned
from nsbi.networks import Ensemble
from sage.errors import FitError
from studies.neyman import Belt, Resampler, all_toys, make_belt

COVERAGE_MUS = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0)
LARGEST_MU = 5.0
"""End of the belt."""
LARGEST_POOL = 500_000
"""Of simulated events that toys are drawn from."""


class Toys:
    """t of toys with the learned ratio; they are drawn from a pool of simulated events for each signal strength.

    Args:
        yields: Expected events of the processes, shape (4,).
    """

    def __init__(self, yields: np.ndarray) -> None:
        self.yields = yields
        self._pool: tuple[float, np.ndarray, Resampler] | None = None

    def pool(self, mu: float) -> tuple[np.ndarray, np.ndarray]:
        """Return learned ratios of events, shape (N, 4), and with which weights they are the expected data, (N,)."""
        raise NotImplementedError

    def __call__(self, rng: np.random.Generator, mu: float) -> float:
        """Return t(mu) of a toy at mu; NaN where a fit fails."""
        if self._pool is None or self._pool[0] != mu:
            events, weights = self.pool(mu)
            self._pool = mu, events, Resampler.of(weights)
        _, ratios, resampler = self._pool
        likelihood = MixtureLikelihood(MIXTURE, (unbinned(ratios[resampler.draw(rng)], self.yields),))
        try:
            return t_at(likelihood, best_fit(likelihood), mu)
        except FitError:
            return float("nan")


class Reweighted(Toys):
    """Toys of events at mu = 1, which are positive, reweighted with the learned ratio, as a user has them.

    Args:
        yields: Expected events of the processes, shape (4,).
        ratios: Learned, at the events, shape (N, 4).
    """

    def __init__(self, yields: np.ndarray, ratios: np.ndarray) -> None:
        super().__init__(yields)
        self.ratios = ratios

    def pool(self, mu: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the events with weights of their ratios."""
        expected = float(self.yields @ coefficients(1.0)) / len(self.ratios)
        weights = expected * (self.ratios @ coefficients(mu)) / (self.ratios @ coefficients(1.0))
        return self.ratios, np.maximum(weights, 0.0)


class Simulated(Toys):
    """Toys of events that are simulated at each mu anew: what the belt's networks say of them is not used to draw them.

    Args:
        problem: Simulates them.
        ensemble: Learned.
        events: In each pool.
        seed: Of the simulation.
    """

    def __init__(self, problem: Problem, ensemble: Ensemble, events: int, seed: int) -> None:
        super().__init__(problem.yields().array())
        self.problem, self.ensemble, self.events, self.seed = problem, ensemble, events, seed
        self.threads = torch.get_num_threads()

    def pool(self, mu: float) -> tuple[np.ndarray, np.ndarray]:
        """Return new events of equal weights."""
        # Another process has its own number of threads, on which sums depend in the last digits.
        torch.set_num_threads(self.threads)
        name = f"total {mu:g}"
        x = self.problem.sample(np.random.default_rng((self.seed, *name.encode())), self.events, name)
        weight = float(self.yields @ coefficients(mu)) / self.events
        return self.ensemble.ratios(self.problem.inputs(x)), np.full(self.events, weight)


def belt_and_coverage(
    learned: Learned, settings: StudySettings, folder: Path, clock: Clock
) -> tuple[Belt, dict[float, tuple[float, float]]]:
    """Return the belt of the learned t, and its coverage with the error from both samples of toys."""
    problem, yields = learned.problem, learned.problem.yields().array()
    grid = sorted({*COVERAGE_MUS, *(np.linspace(0, np.sqrt(LARGEST_MU), settings.belt) ** 2).tolist()})
    # Toys of other networks are others.
    identity = {**settings.identity(), "constants": settings.constants}
    size = min(LARGEST_POOL, settings.oracle)
    with clock("belt preparation"):
        x = problem.sample(np.random.default_rng((settings.seed, 7)), size, "total 1")
        own = Reweighted(yields, learned.ensemble.ratios(problem.inputs(x)))
    options = (settings.workers, clock)
    belt = make_belt(own, grid, settings.toys, settings.seed, folder / "belt", identity, *options)
    true = Simulated(problem, learned.ensemble, size, settings.seed)
    found = all_toys(
        true, COVERAGE_MUS, settings.toys, settings.seed + 1, folder / "coverage", identity, *options, "coverage"
    )
    covered = {}
    for mu, t in zip(COVERAGE_MUS, found, strict=True):
        inside = float((t <= belt.at(mu)).mean())
        # The quantile of the belt's toys is as far off as a fraction of new ones is.
        covered[mu] = inside, float(np.sqrt(2 * inside * (1 - inside) / settings.toys))
    return belt, covered
