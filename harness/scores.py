"""The challenge's scores (arXiv:2410.02867, section 4), equal to the official scoring program's to 1e-12."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.results import RunResults, SetResult

ONE_SIGMA = 0.6827
EPSILON = 1e-3
BOOTSTRAPS = 1000
BOOTSTRAP_SEED = 42

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class SetScores:
    """Scores of one set; the averages of its pseudo-experiments."""

    mu: float
    experiments: int
    rmse: float
    mae: float
    interval: float
    coverage: float
    quantiles_score: float


@dataclass(frozen=True)
class Bootstrap:
    """Scores over resampled sets, shape (n_bootstraps,) each; the final ranking is by their means."""

    interval: Array
    coverage: Array
    quantiles_score: Array


@dataclass(frozen=True)
class Scores:
    """Scores of a run.

    Attributes:
        rmse: Mean over the sets of the RMSE score.
        mae: Mean over the sets of the MAE score.
        interval: Mean interval width over all pseudo-experiments.
        coverage: Fraction of all pseudo-experiments whose interval holds the true signal strength.
        quantiles_score: The score of the leaderboard.
        experiments: Number of pseudo-experiments.
        sets: Scores by set.
        bootstrap: Scores of the final phase.
    """

    rmse: float
    mae: float
    interval: float
    coverage: float
    quantiles_score: float
    experiments: int
    sets: tuple[SetScores, ...]
    bootstrap: Bootstrap


def pulls(results: RunResults) -> Array:
    """Return (mu_hat - mu) / delta_mu_hat of all pseudo-experiments, shape (n,); a width of 0 gives infinity.

    Not an official score. Their mean is 0 and their width 1 where intervals are right; width above 1: too narrow.
    """
    with np.errstate(all="ignore"):
        parts = [(np.asarray(result.mu_hats) - result.mu) / np.asarray(result.delta_mu_hats) for result in results.sets]
    return np.concatenate(parts)


def coverage_penalty(coverage: float, experiments: int) -> float:
    r"""Return the penalty f for a coverage c measured with n pseudo-experiments.

    With :math:`s = \sqrt{p (1 - p) / n}`, p = 0.6827: f = 1 for c within :math:`p \pm 2 s`,
    :math:`1 + |(c - (p - 2 s)) / s|^4` below and :math:`1 + |(c - (p + 2 s)) / s|^3` above.
    arXiv:2410.02867, section 4; evaluated in the order of the official program, since the edges are sharp.
    """
    sigma = math.sqrt((1 - ONE_SIGMA) * ONE_SIGMA * experiments) / experiments
    low, high = ONE_SIGMA - 2 * sigma, ONE_SIGMA + 2 * sigma
    if coverage < low:
        return 1 + abs((coverage - low) / sigma) ** 4
    if coverage > high:
        return 1 + abs((coverage - high) / sigma) ** 3
    return 1.0


def quantiles_score(interval: float, coverage: float, experiments: int) -> float:
    r"""Return :math:`-\ln((w + 0.001) f(c, n))` for mean width w and coverage c of n pseudo-experiments.

    arXiv:2410.02867, section 4; larger is better.
    """
    return -math.log((interval + EPSILON) * coverage_penalty(coverage, experiments))


def rmse_score(mu: float, mu_hat: Array, delta_mu_hat: Array) -> float:
    r"""Return the mean of :math:`\sqrt{d^2 + (d^2 - \delta^2)^2}`, :math:`d = \hat\mu - \mu` (arXiv:2410.02867)."""
    squared = (mu_hat - mu) ** 2
    return float(np.mean(np.sqrt(squared + (squared - delta_mu_hat**2) ** 2)))


def mae_score(mu: float, mu_hat: Array, delta_mu_hat: Array) -> float:
    r"""Return the mean of :math:`|d| + ||d| - \delta|`, :math:`d = \hat\mu - \mu` (arXiv:2410.02867)."""
    distance = np.abs(mu_hat - mu)
    return float(np.mean(distance + np.abs(distance - delta_mu_hat)))


def mean_interval(p16: Array, p84: Array) -> float:
    """Return the mean of ``|p84 - p16|``: swapped ends still have a width, though they never cover."""
    return float(np.mean(np.abs(p84 - p16)))


def mean_coverage(mu: float | Array, p16: Array, p84: Array) -> float:
    """Return the fraction of intervals with ``p16 <= mu <= p84``."""
    return float(np.mean((mu >= p16) & (mu <= p84)))


def score_results(results: RunResults, n_bootstraps: int = BOOTSTRAPS) -> Scores:
    """Compute all scores of a run.

    Args:
        results: At least one set.
        n_bootstraps: How often the sets are resampled; 1000 in the final phase.
    """
    sets = tuple(_score_set(result) for result in results.sets)
    mu = np.concatenate([np.full(len(result.p16), result.mu) for result in results.sets])
    p16 = np.concatenate([np.asarray(result.p16, float) for result in results.sets])
    p84 = np.concatenate([np.asarray(result.p84, float) for result in results.sets])
    interval, coverage = mean_interval(p16, p84), mean_coverage(mu, p16, p84)
    return Scores(
        rmse=float(np.mean([score.rmse for score in sets])),
        mae=float(np.mean([score.mae for score in sets])),
        interval=interval,
        coverage=coverage,
        quantiles_score=quantiles_score(interval, coverage, len(mu)),
        experiments=len(mu),
        sets=sets,
        bootstrap=bootstrap_scores(sets, n_bootstraps),
    )


def _score_set(result: SetResult) -> SetScores:
    mu_hat, delta = np.asarray(result.mu_hats, float), np.asarray(result.delta_mu_hats, float)
    p16, p84 = np.asarray(result.p16, float), np.asarray(result.p84, float)
    interval, coverage = mean_interval(p16, p84), mean_coverage(result.mu, p16, p84)
    return SetScores(
        mu=result.mu,
        experiments=len(mu_hat),
        rmse=rmse_score(result.mu, mu_hat, delta),
        mae=mae_score(result.mu, mu_hat, delta),
        interval=interval,
        coverage=coverage,
        quantiles_score=quantiles_score(interval, coverage, len(mu_hat)),
    )


def bootstrap_scores(sets: Sequence[SetScores], n_bootstraps: int = BOOTSTRAPS) -> Bootstrap:
    """Score resampled sets, as the final phase does.

    Bootstrap i draws as many sets as there are, with replacement and seed 42 + i, averages their coverages and widths
    with equal weight, and computes the quantiles score with the sum of their sizes.

    Args:
        sets: Scores by set.
        n_bootstraps: Number of bootstraps.
    """
    intervals = np.array([score.interval for score in sets])
    coverages = np.array([score.coverage for score in sets])
    sizes = np.array([score.experiments for score in sets])
    picks = np.array(
        [np.random.RandomState(BOOTSTRAP_SEED + i).choice(len(sets), size=len(sets)) for i in range(n_bootstraps)]
    )
    interval, coverage, size = intervals[picks].mean(axis=1), coverages[picks].mean(axis=1), sizes[picks].sum(axis=1)
    score = [
        quantiles_score(*values) for values in zip(interval.tolist(), coverage.tolist(), size.tolist(), strict=True)
    ]
    return Bootstrap(interval, coverage, np.array(score))
