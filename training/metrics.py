"""How well class probabilities separate, how true they are, and how far they move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the area under the ROC curve: the probability that a positive event scores above a negative one.

    Args:
        scores: Shape (n,); equal scores count half.
        positive: Shape (n,), boolean.
        weights: Shape (n,), not negative.

    Returns:
        The area; None if one of the two kinds is missing.
    """
    _, place = np.unique(scores, return_inverse=True)
    up = np.bincount(place, weights * positive)
    down = np.bincount(place, weights * ~positive, minlength=len(up))
    if not (up.sum() > 0.0 and down.sum() > 0.0):
        return None
    below = np.cumsum(down) - down
    return float((up * (below + down / 2)).sum() / (up.sum() * down.sum()))


def log_loss(probabilities: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted mean of -ln p of the true class; probabilities (n, 4), classes and weights (n,)."""
    chosen = probabilities[np.arange(len(classes)), classes].astype(np.float64)
    return float(-(weights * np.log(np.maximum(chosen, 1e-12))).sum() / weights.sum())


@dataclass(frozen=True)
class Reliability:
    """Predicted and observed frequency of a class.

    Args:
        predicted: Mean prediction in each bin that has events, shape (b,).
        observed: Weighted fraction of the class there.
        error: Its standard error, from the squares of the weights.
        slope: Of the straight line fitted to the points; 1 if the probabilities are true.
        slope_error: Its standard error.
    """

    predicted: np.ndarray
    observed: np.ndarray
    error: np.ndarray
    slope: float
    slope_error: float


def reliability(prediction: np.ndarray, truth: np.ndarray, weights: np.ndarray, n_bins: int = 20) -> Reliability:
    """Compare a predicted probability with the fraction of events that have the property.

    Args:
        prediction: Shape (n,), from 0 to 1.
        truth: Shape (n,), boolean.
        weights: Shape (n,).
        n_bins: Bins of equal width.
    """
    bins = np.minimum((prediction * n_bins).astype(np.int64), n_bins - 1)
    total = np.bincount(bins, weights, minlength=n_bins)
    filled = np.bincount(bins, minlength=n_bins) >= 20
    with np.errstate(invalid="ignore", divide="ignore"):
        predicted = np.bincount(bins, weights * prediction, minlength=n_bins) / total
        observed = np.bincount(bins, weights * truth, minlength=n_bins) / total
        # Of the expected fraction rather than the observed one, which is 0 in some bins.
        spread = (truth - predicted[bins]) ** 2
        error = np.sqrt(np.bincount(bins, weights**2 * spread, minlength=n_bins)) / total
    predicted, observed, error = predicted[filled], observed[filled], error[filled]
    precision = 1.0 / error**2
    centre = (precision * predicted).sum() / precision.sum()
    lever = precision * (predicted - centre)
    scale = (lever * (predicted - centre)).sum()
    slope = (lever * observed).sum() / scale
    return Reliability(predicted, observed, error, float(slope), float(scale**-0.5))


def ks_distance(first: np.ndarray, first_weights: np.ndarray, second: np.ndarray, second_weights: np.ndarray) -> float:
    """Return the largest difference of two weighted cumulative distributions (Kolmogorov, Smirnov)."""
    values = np.concatenate([first, second])
    steps = np.concatenate([first_weights / first_weights.sum(), -second_weights / second_weights.sum()])
    order = np.argsort(values, kind="stable")
    ends = np.append(np.diff(values[order]) > 0, True)
    return float(np.abs(np.cumsum(steps[order])[ends]).max())
