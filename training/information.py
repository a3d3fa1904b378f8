"""How much the scores of classifiers tell about mu, all nuisances fixed, in a way that noise cannot flatter.

In bins of a score with S signal and B background events expected, the Fisher information on mu at mu = 1 is the sum of
S^2 / (S + B). Filled with simulated events it comes out too large: the finer the bins, the more, and most of all if the
bins were chosen on the same events. So the events are halved, by showered event. One half chooses the edges and the
weights h = S / (S + B) of the bins, the other gives the yields, and the information in the weighted sum of counts,

    (sum of h S)^2 / sum of h^2 (S + B),

is that of a measurement one could make: a lower bound of what the score holds. The variance of the simulated S is taken
from the numerator. Errors, also those of ratios, come from Poisson weights of the showered events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from sage.binned.counting import parent_variances
from training.sampling import uniform

HALF, RESAMPLE = 8, 9
"""Purposes of random numbers, see ``training.sampling.uniform``."""
BINS = 50
"""Quantiles of the signal from which merging starts."""
LEAST_EFFECTIVE = 8.0
"""Effective number of simulated background events that a bin must have."""


@dataclass(frozen=True)
class Sample:
    """Selected events that trained none of the classifiers.

    Args:
        weights: Expected events, shape (n,).
        signal: Whether it is signal, shape (n,).
        showers: Number of the showered event, shape (n,), int64.
        regions: Name -> whether an event is in it, shape (n,); no event is in two.
    """

    weights: np.ndarray
    signal: np.ndarray
    showers: np.ndarray
    regions: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Information:
    """Information on mu.

    Args:
        value: The estimate.
        resampled: The same for each resampling of the showered events, shape (k,).
    """

    value: float
    resampled: np.ndarray

    @property
    def error(self) -> float:
        """Standard deviation of the estimate."""
        return float(self.resampled.std())

    def over(self, other: Information) -> tuple[float, float]:
        """Return the ratio to another estimate from the same events, and its error."""
        return self.value / other.value, float((self.resampled / other.resampled).std())

    def __add__(self, other: Information) -> Information:
        return Information(self.value + other.value, self.resampled + other.resampled)


def information(sample: Sample, score: np.ndarray, seed: int, resamplings: int = 40) -> dict[str, Information]:
    """Estimate the information in a score, for each region.

    Args:
        sample: The events.
        score: Any function that rises with the likelihood ratio of signal and background, shape (n,), finite.
        seed: Seed of halves and resamplings; equal ones make estimates comparable.
        resamplings: Their number k.

    Returns:
        By name of the region; 0 where one half of it has no signal or no background.
    """
    found, showers = np.unique(sample.showers, return_inverse=True)
    half = (uniform(found, seed, HALF) < 0.5)[showers]
    factors = np.random.default_rng([seed, RESAMPLE]).poisson(1.0, (resamplings, len(found))).astype(np.float32)
    out = {}
    for name, mask in tqdm(sample.regions.items(), desc="information", disable=None):
        rows = np.flatnonzero(mask)
        inside = Sample(sample.weights[rows], sample.signal[rows], showers[rows], {})
        first, second = (_one_way(inside, score[rows], half[rows] == side, factors) for side in (True, False))
        both = first + second
        out[name] = Information(both.value / 2, both.resampled / 2)
    return out


def _one_way(sample: Sample, score: np.ndarray, chooses: np.ndarray, factors: np.ndarray) -> Information:
    """Choose edges with some of the events, shape (n,), and take the yields from the others."""
    kinds = [sample.signal & chooses, ~sample.signal & chooses, sample.signal & ~chooses, ~sample.signal & ~chooses]
    totals = [sample.weights[kind].sum() for kind in kinds]
    if not min(totals) > 0.0:
        return Information(0.0, np.zeros(len(factors)))
    edges = choose_edges(score, sample, *kinds[:2])
    bins = np.searchsorted(edges, score, side="right")
    n = len(edges) + 1

    def yields(kind: int, factor: np.ndarray | None = None) -> np.ndarray:
        """Return the events of a kind in each bin, scaled to what both halves expect of it."""
        rows = kinds[kind]
        weights = sample.weights[rows] * ((totals[kind % 2] + totals[kind % 2 + 2]) / totals[kind])
        if factor is not None:
            weights = weights * factor[sample.showers[rows]]
        return np.bincount(bins[rows], weights, minlength=n)

    def of(signal: np.ndarray, background: np.ndarray, noise: float = 0.0) -> float:
        denominator = (h**2 * (signal + background)).sum()
        return float(((h * signal).sum() ** 2 - noise) / denominator) if denominator > 0.0 else 0.0

    signal, both = yields(0), yields(0) + yields(1)
    h = np.divide(signal, both, out=np.zeros(n), where=both > 0.0)
    scale = (totals[0] + totals[2]) / totals[2]
    squares = parent_variances(sample.showers[kinds[2]], bins[kinds[2]], scale * sample.weights[kinds[2]], n)
    return Information(
        of(yields(2), yields(3), (h**2 * squares).sum()),
        np.array([of(yields(2, factor), yields(3, factor)) for factor in factors]),
    )


def choose_edges(score: np.ndarray, sample: Sample, signal: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return inner edges, quantiles of the signal, merged downwards until bins have enough background.

    Args:
        score: Shape (n,).
        sample: The events.
        signal: Which signal events to use, shape (n,), boolean.
        background: Likewise.
    """
    order = np.argsort(score[signal], kind="stable")
    share = np.cumsum(sample.weights[signal][order])
    edges = np.unique(np.interp(np.arange(1, BINS) / BINS * share[-1], share, score[signal][order]))
    bins, n = np.searchsorted(edges, score[background], side="right"), len(edges) + 1
    weights = sample.weights[background]
    total = np.bincount(bins, weights, minlength=n)
    squares = parent_variances(sample.showers[background], bins, weights, n)
    kept: list[float] = []
    sum_total = sum_squares = 0.0
    for i in range(n - 1, 0, -1):
        sum_total += total[i]
        sum_squares += squares[i]
        if sum_squares > 0.0 and sum_total**2 >= LEAST_EFFECTIVE * sum_squares:
            kept.append(edges[i - 1])
            sum_total = sum_squares = 0.0
    return np.array(kept[::-1])
