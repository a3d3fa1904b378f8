"""Exact answers of a problem: t of the expected data by importance sampling, and by histograms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.interference.problems import Problem
from nsbi.mixture import interference

MIXTURE = interference(("rest",))


def coefficients(mu: float) -> np.ndarray:
    """Return the factors of S, I, B and the rest at mu, shape (4,)."""
    return MIXTURE.at_mu(mu)[0]


@dataclass(frozen=True)
class Oracle:
    """Events that stand for the expected data at mu = 1.

    Half of them are drawn from the signal: t comes from few events of high mass, which are signal-like.

    Args:
        events: Shape (N, F).
        densities: S, I, B and the rest at them, shape (N, 4).
        weights: With which they make the expected data, shape (N,); they add up to about the expected events.
    """

    events: np.ndarray
    densities: np.ndarray
    weights: np.ndarray

    def expected_t(self, mu: float) -> float:
        """Return t at mu; the sum over events converges fast, as the integrand is positive."""
        ratio = self.densities @ coefficients(mu) / (self.densities @ coefficients(1.0))
        return float(2 * (self.weights * (ratio - 1 - np.log(ratio))).sum())

    def binned_t(self, mus: Sequence[float], observable: np.ndarray, bins: int) -> list[float]:
        """Return t at several mu of a histogram of an observable, shape (N,), in bins of equally many events."""
        inner = self.quantiles(observable, bins)[1:-1]
        index = np.searchsorted(inner, observable, side="right")
        true = self.densities @ coefficients(1.0)
        parts = [np.bincount(index, self.weights * column / true, bins) for column in self.densities.T]
        histogram = np.stack(parts, axis=1)
        kept = histogram[histogram @ coefficients(1.0) > 0]
        expected = kept @ coefficients(1.0)
        tested = [kept @ coefficients(mu) for mu in mus]
        return [float(2 * (each - expected - expected * np.log(each / expected)).sum()) for each in tested]

    def quantiles(self, observable: np.ndarray, bins: int) -> np.ndarray:
        """Return edges between which the expected data have equally many events, shape (bins + 1,)."""
        order = np.argsort(observable)
        cumulated = np.cumsum(self.weights[order])
        at = np.searchsorted(cumulated, np.linspace(0, cumulated[-1], bins + 1)).clip(0, len(order) - 1)
        return np.asarray(observable[order][at])


def draw_oracle(problem: Problem, rng: np.random.Generator, n: int) -> Oracle:
    """Draw n events for the expected data at mu = 1."""
    half = n // 2
    events = np.concatenate([problem.sample(rng, half, "S"), problem.sample(rng, n - half, "total 1")])
    densities, expected = problem.exact(events), problem.yields().array()
    total = densities @ coefficients(1.0)
    drawn = half * densities[:, 0] / expected[0] + (n - half) * total / expected.sum()
    return Oracle(events, densities, total / drawn)
