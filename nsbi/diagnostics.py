"""Whether learned ratios can be trusted: closure, a second classifier, calibration, normalisation, Asimov minima."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsbi.fitting import best_fit
from nsbi.likelihood import MixtureLikelihood, unbinned
from nsbi.mixture import Mixture
from sage.errors import InputError

CALIBRATION_BINS = 20


@dataclass(frozen=True)
class Closure:
    """One observable of the target and of the reweighted reference.

    Args:
        edges: Of the bins, shape (B + 1,).
        target: Fractions of the target, shape (B,).
        reweighted: Of the reweighted reference.
        reference: Of the reference as it is.
        error: Of the difference of the first two.
        chi2: Per bin, between the first two.
    """

    edges: np.ndarray
    target: np.ndarray
    reweighted: np.ndarray
    reference: np.ndarray
    error: np.ndarray
    chi2: float


def closure(target: np.ndarray, reference: np.ndarray, weights: np.ndarray, bins: int = 20) -> Closure:
    """Compare an observable, shape (n,) of the target and (m,) of the reference with weights (m,), in target quantiles.

    Raises:
        InputError: If a bin of the target has no event of the reference: no ratio can make it.
    """
    edges = np.unique(np.quantile(target, np.linspace(0, 1, bins + 1)))
    inner = edges[1:-1]
    index, other = np.searchsorted(inner, target, side="right"), np.searchsorted(inner, reference, side="right")
    number = len(edges) - 1
    ours = np.bincount(index, minlength=number) / len(target)
    plain = np.bincount(other, minlength=number) / len(reference)
    if not plain.all():
        msg = f"{(plain == 0).sum()} of {number} bins of the target hold no event of the reference; widen the reference"
        raise InputError(msg)
    theirs = np.bincount(other, weights, number) / weights.sum()
    squares = np.bincount(other, weights**2, number) / weights.sum() ** 2
    variance = ours / len(target) + squares
    chi2 = float(np.mean((ours - theirs) ** 2 / variance))
    return Closure(edges, ours, theirs, plain, np.sqrt(variance), chi2)


def unsupported(events: np.ndarray, reference: np.ndarray, bins: int = 20) -> float:
    """Return the fraction of events that lie, in some feature, in a bin without an event of the reference.

    There networks extrapolate: a likelihood of such events is to be refused.

    Args:
        events: Shape (n, F); bins hold equally many of them, in each feature.
        reference: Shape (m, F).
        bins: Their number.
    """
    alone = np.zeros(len(events), dtype=bool)
    for ours, theirs in zip(events.T, reference.T, strict=True):
        inner = np.unique(np.quantile(ours, np.linspace(0, 1, bins + 1)))[1:-1]
        counts = np.bincount(np.searchsorted(inner, theirs, side="right"), minlength=len(inner) + 1)
        alone |= counts[np.searchsorted(inner, ours, side="right")] == 0
    return float(alone.mean())


def two_sample_auc(target: np.ndarray, reference: np.ndarray, weights: np.ndarray, seed: int = 1) -> float:
    """Return the AUC of gradient boosted trees that try to tell the target from the reweighted reference; 0.5 is best.

    Args:
        target: Features, shape (n, F); one half trains, the other is judged.
        reference: Features, shape (m, F).
        weights: Of the reference, shape (m,), not negative.
        seed: Of the split and the trees.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    x = np.concatenate([target, reference])
    label = np.concatenate([np.ones(len(target)), np.zeros(len(reference))])
    w = np.concatenate([np.full(len(target), 1 / len(target)), weights / weights.sum()]) * len(x) / 2
    half = rng.random(len(x)) < 0.5
    trees = HistGradientBoostingClassifier(max_iter=60, random_state=seed)
    trees.fit(x[half], label[half], sample_weight=w[half])
    scores = trees.predict_proba(x[~half])[:, 1]
    return float(roc_auc_score(label[~half], scores, sample_weight=w[~half]))


@dataclass(frozen=True)
class Calibration:
    """Fraction of target events where a ratio predicts one, shape (B,) each, with binomial errors."""

    predicted: np.ndarray
    found: np.ndarray
    error: np.ndarray


def calibration(target: np.ndarray, reference: np.ndarray, bins: int = CALIBRATION_BINS) -> Calibration:
    """Compare r / (1 + r) with the fraction of target events; ratios at target (n,) and reference events (m,)."""
    predicted = np.concatenate([target, reference])
    predicted = predicted / (1 + predicted)
    weight = np.concatenate([np.full(len(target), 1 / len(target)), np.full(len(reference), 1 / len(reference))])
    own = np.arange(len(predicted)) < len(target)
    index = np.searchsorted(np.quantile(predicted, np.linspace(0, 1, bins + 1))[1:-1], predicted, side="right")
    total = np.bincount(index, weight, bins)
    found = np.bincount(index, weight * own, bins) / total
    mean = np.bincount(index, weight * predicted, bins) / total
    ours, theirs = (np.maximum(np.bincount(index[which], minlength=bins), 1) for which in (own, ~own))
    return Calibration(mean, found, np.maximum(found * (1 - found), 1e-6) * np.sqrt(1 / ours + 1 / theirs))


def normalisation(ratios: np.ndarray, yields: np.ndarray) -> np.ndarray:
    """Return the integral of r p_ref, which should be 1, of each process, shape (J,).

    Args:
        ratios: nu_j p_j / p_ref at events of the reference, shape (N, J).
        yields: nu_j, shape (J,).
    """
    return np.asarray(ratios.mean(axis=0) / yields)


def asimov_scan(
    mixture: Mixture, ratios: np.ndarray, yields: np.ndarray, weights: Sequence[np.ndarray]
) -> list[tuple[float, float]]:
    """Return mu_hat and its parabolic error for expected data, given as weights of the same events, at several mu."""
    found = []
    for each in weights:
        best = best_fit(MixtureLikelihood(mixture, (unbinned(ratios, yields, each),)))
        found.append((mixture.mu(best.mu), abs(2 * best.mu if mixture.rooted else 1.0) * best.sigma_mu))
    return found


def least_density(mixture: Mixture, ratios: np.ndarray, mus: np.ndarray) -> float:
    """Return the least density at any event and any of the signal strengths, divided by its reference."""
    return float(min((ratios @ mixture.at_mu(float(mu))[0]).min() for mu in mus))
