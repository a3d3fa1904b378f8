"""The precision of mu that a binning promises, from folds of the events that do not flatter each other.

Three things make a binning look better than it is on the events it was made with: edges (and the efficient score)
follow their fluctuations; fluctuations of the yields at nuisance points count as slopes, which fake a constraint, the
more the finer the bins; and the square of a noisy slope is too large on average. So the showered events are put into
three folds. One chooses score and edges. Slopes of the expected counts are taken from the two others, and each product
of two slopes in the Fisher information takes one factor from each; expected counts are those of both. The three
rotations are averaged. Errors come from a bootstrap of blocks of showered events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sage.binned.regions import RegionSet
from sage.binned.response import Point, Response, fit_counts
from sage.binned.statistic import BinnedLikelihood, asimov, binned_likelihood
from sage.challenge.nuisances import CHALLENGE, NAMES
from sage.fit.objective import MU
from sage.rates import Rates
from training.filling import Filled

FOLDS = 3
BLOCKS = 16
"""Blocks of showered events in each fold."""
PARTS = FOLDS * BLOCKS
LEAST_EXPECTED = 1e-12
"""Bound on the expectation of a bin, against division by 0."""
STEP = 1e-3
"""Step in mu and nu of numerical derivatives."""
CENTRE = np.array([1.0, *np.zeros(len(CHALLENGE))])
"""mu = 1 and all nuisances at the centres of their constraints."""
ENDS_OF_MU = (0.1, 3.0)
DISPLACEMENTS = (-2.0, -1.0, 1.0, 2.0)
"""Of each nuisance, in widths of its constraint."""


@dataclass(frozen=True)
class Precision:
    """What is expected of a measurement.

    Args:
        statistical: Standard deviation of mu with all nuisances known; None if noise left no information.
        sigma: The same with the nuisances profiled.
    """

    statistical: float | None
    sigma: float | None


def truths() -> dict[str, np.ndarray]:
    """Return name -> mu and nuisance parameters, shape (7,), of the points at which the precision is given."""
    out = {"centre": CENTRE}
    for mu in ENDS_OF_MU:
        out[f"mu {mu:g}"] = np.array([mu, *CENTRE[1:]])
    for k, name in enumerate(NAMES, start=1):
        for displacement in DISPLACEMENTS:
            out[f"{name} {displacement:+g}"] = CENTRE + displacement * (np.arange(len(CENTRE)) == k)
    return out


def parts_of(showers: np.ndarray, seed: int) -> np.ndarray:
    """Put events into parts, ``BLOCKS`` of them in each fold; equal showers together. Shape (n,)."""
    _, number = np.unique(showers, return_inverse=True)
    part: np.ndarray = np.random.default_rng(seed).integers(PARTS, size=number.max() + 1)[number]
    return part


def fold_of(parts: np.ndarray) -> np.ndarray:
    """Return the fold of each part."""
    return parts // BLOCKS


def crossed(by_fold: Sequence[Filled], points: list[Point], weights: np.ndarray | None = None) -> dict[str, Precision]:
    """Return the precision at ``truths``; see ``information``."""
    constraints = np.diag([0.0, *np.ones(len(CHALLENGE))])
    found = information(by_fold, points, weights)
    return {name: Precision(alone(one), profiled(one + constraints)) for name, one in found.items()}


def information(
    by_fold: Sequence[Filled], points: list[Point], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the Fisher information of the counts at ``truths``, without constraints, positive only on average.

    Args:
        by_fold: Counts of the parts, shape (k, PARTS, 4, n_bins), in the edges that each fold has chosen.
        points: The k nuisance points.
        weights: Factor of each part, shape (PARTS,); 1 each if absent.

    Returns:
        By name, shape (7, 7).
    """
    total = {name: np.zeros((len(CENTRE), len(CENTRE))) for name in truths()}
    for chooser, filled in enumerate(by_fold):
        for name, one in _by_others(filled, chooser, points, np.ones(PARTS) if weights is None else weights):
            total[name] += one / len(by_fold)
    return total


def errors(by_fold: Sequence[Filled], points: list[Point], seed: int, resamplings: int = 20) -> dict[str, Precision]:
    """Return the standard deviations of what ``crossed`` returns, None where resamplings have no precision."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamplings):
        drawn = rng.integers(BLOCKS, size=(FOLDS, BLOCKS)) + BLOCKS * np.arange(FOLDS)[:, None]
        found.append(crossed(by_fold, points, np.bincount(drawn.ravel(), minlength=PARTS).astype(np.float64)))

    def spread(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.std(known)) if len(known) == len(values) else None

    return {
        name: Precision(spread([one[name].statistical for one in found]), spread([one[name].sigma for one in found]))
        for name in truths()
    }


def _by_others(
    filled: Filled, chooser: int, points: list[Point], weights: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the information that the folds find which did not choose the edges."""
    total = filled.counts[0].sum(axis=(0, 2))
    responses = []
    others = [fold for fold in range(FOLDS) if fold != chooser]
    for folds in (others[:1], others[1:], others):
        part = weights * np.isin(fold_of(np.arange(PARTS)), folds)
        counts, moved = (np.einsum("j,kjpb->kpb", part, array) for array in (filled.counts, filled.moved))
        sums = counts[0].sum(axis=1)
        scale = np.divide(total, sums, out=np.zeros_like(total), where=sums > 0)[:, None]
        responses.append(fit_counts(points, counts * scale, moved * scale**2))
    for name, truth in truths().items():
        first, second = (slopes(response, filled.regions, truth) for response in responses[:2])
        expected = np.maximum(likelihood_at(responses[2], filled.regions, truth).statistic.counts, LEAST_EXPECTED)
        product = first / expected @ second.T
        yield name, (product + product.T) / 2


def alone(information: np.ndarray) -> float | None:
    """Return the standard deviation of mu with the nuisances known; None if there is no information on it."""
    return float(information[MU, MU] ** -0.5) if information[MU, MU] > 0.0 else None


def profiled(information: np.ndarray) -> float | None:
    """Return the standard deviation of mu with the nuisances profiled; None if the matrix is not positive definite."""
    try:
        np.linalg.cholesky(information)
    except np.linalg.LinAlgError:
        return None
    return float(np.linalg.inv(information)[MU, MU] ** 0.5)


def likelihood_at(
    response: Response, regions: RegionSet, truth: np.ndarray = CENTRE, variances: np.ndarray | None = None
) -> BinnedLikelihood:
    """Return the likelihood of the counts that are expected at some parameters."""
    rates = Rates(response, CHALLENGE, regions.has_signal)
    return asimov(binned_likelihood(rates, np.zeros(regions.n_bins), variances), truth)


def slopes(response: Response, regions: RegionSet, truth: np.ndarray) -> np.ndarray:
    """Return the derivatives of the expected counts, shape (1 + n_nuisances, n_bins)."""
    likelihood = likelihood_at(response, regions)
    steps = STEP * np.eye(len(truth))
    moved = [likelihood.expected(truth + step) - likelihood.expected(truth - step) for step in steps]
    return np.stack(moved) / (2 * STEP)


def as_numbers(found: Mapping[str, Precision], spreads: Mapping[str, Precision]) -> dict[str, dict[str, float | None]]:
    """Return precisions with their errors as JSON has them."""
    return {
        name: {
            "statistical": one.statistical,
            "statistical_error": spreads[name].statistical,
            "sigma": one.sigma,
            "sigma_error": spreads[name].sigma,
        }
        for name, one in found.items()
    }
