"""Exact answers of the four-lepton problem: t of the expected data by importance sampling, and by histograms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.interference import four_leptons as problem
from examples.interference.sampling import sample, sample_total


def coefficients(mu: float | np.ndarray) -> np.ndarray:
    """Return the factors of the five processes at mu, shape (..., 5)."""
    mu = np.asarray(mu, dtype=float)
    one = np.ones_like(mu)
    return np.stack([mu, np.sqrt(mu), one, one, one], axis=-1)


@dataclass(frozen=True)
class Oracle:
    """Events that stand for the expected data at mu = 1.

    Half of them are drawn from the signal: t comes from few events of high mass, which are signal-like.

    Args:
        events: Shape (N, 7).
        densities: The five processes at them, shape (N, 5).
        weights: With which they make the expected data, shape (N,); they add up to about the expected events.
    """

    events: np.ndarray
    densities: np.ndarray
    weights: np.ndarray

    def expected_t(self, mu: float) -> float:
        """Return t at mu; the sum over events converges fast, as the integrand is positive."""
        ratio = self.densities @ coefficients(mu) / (self.densities @ coefficients(1.0))
        return float(2 * (self.weights * (ratio - 1 - np.log(ratio))).sum())

    def binned_t(self, mu: float, observable: np.ndarray, edges: np.ndarray) -> float:
        """Return t of a histogram of an observable of the events, shape (N,); outer bins hold what lies beyond."""
        index = np.searchsorted(edges[1:-1], observable, side="right")
        true = self.densities @ coefficients(1.0)
        parts = [np.bincount(index, self.weights * column / true, len(edges) - 1) for column in self.densities.T]
        tested, expected = (np.stack(parts, axis=1) @ coefficients(value) for value in (mu, 1.0))
        kept = expected > 0
        rise = tested[kept] - expected[kept] - expected[kept] * np.log(tested[kept] / expected[kept])
        return float(2 * rise.sum())

    def quantiles(self, observable: np.ndarray, bins: int) -> np.ndarray:
        """Return edges between which the expected data have equally many events, shape (bins + 1,)."""
        order = np.argsort(observable)
        cumulated = np.cumsum(self.weights[order])
        at = np.searchsorted(cumulated, np.linspace(0, cumulated[-1], bins + 1)).clip(0, len(order) - 1)
        return np.asarray(observable[order][at])


def draw_oracle(rng: np.random.Generator, n: int) -> Oracle:
    """Draw n events for the expected data at mu = 1."""
    half = n // 2
    events = np.concatenate([sample(rng, half, "S"), sample_total(rng, n - half)])
    densities, expected = problem.components(events), problem.yields()
    total = densities @ coefficients(1.0)
    drawn = half * densities[:, 0] / expected[0] + (n - half) * total / expected.sum()
    return Oracle(events, densities, total / drawn)
