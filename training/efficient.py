"""Coefficients and starting edges of the efficient score, from simulated events that trained no network.

What a network has learnt is not the score but a function t(x) near it. So nothing here takes a mean of ``t t^T`` for
the information, which noise in t would flatter. The sums T of the seven functions over all events of an experiment have

    V_kl = variance of T: sum over events of w t_k t_l,        J_kl = d<T_l> / d theta_k,

J from the same events moved by a nuisance, not from t: a function that is only noise has variance and no derivative.
The estimate of mu from ``a T``, nuisances at their priors, has the variance

    (a V a + sum over nuisances k of (J_k a)^2) / (J_mu a)^2,    smallest for    a = (V + J_nu^T J_nu)^-1 J_mu.

Divided by its first component a gives s* = s_mu - c s. Of exact scores J = V = I, the information matrix, and then
``c = (I_nunu + 1)^-1 I_numu``. In the products of two J the factors come from different halves of the showered events,
so that their fluctuations, too, do not count as an effect; ``sigma_other_half`` is the error with a from one half and V
and J of the other.

Any edges give right counts. Those to start from lose least information: within bins the variance of s* is lost, and
that is least where the density of edges follows the cube root of that of the events (Panter and Dite, 1951).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sage.binned.counting import NOMINAL
from sage.binned.regions import RegionSet, bin_numbers, ratios, reweighted
from sage.binned.response import Point
from sage.binned.score import EFFICIENT_SCORE, EfficientScore
from sage.challenge.nuisances import CHALLENGE, NAMES, PROCESSES, SIGNAL
from sage.errors import SettingsError
from training.sampling import uniform

Block = tuple[Mapping[str, Any], np.ndarray, np.ndarray, np.ndarray]
"""What regions are made of, weights, classes and keys of showered events of some selected events, shape (n,) each."""
Blocks = Callable[[Point], Iterator[Block]]
"""Gives all events at a nuisance point, with the same noise at all points."""

SIDES = (-1.0, 1.0)
"""Displacements in nu whose difference is a derivative: the mean over the width of the prior."""
LEAST_ROWS = 20
"""Simulated rows from which a density is taken."""
RIDGE = 1e-4
"""Added to a covariance in units of its diagonal, as if a score were off by 1 % of its width: no large differences."""
HALF = 7
"""Purpose of the random number that halves the events; see ``training.sampling.uniform``."""


@dataclass(frozen=True)
class Sums:
    """Expectation and covariance of the sums T, for each half of the events scaled to the whole.

    Args:
        derivatives: J, shape (2, 7, S): by mu and nuisances, of the S scores that there are.
        variances: V, shape (2, S, S).
        present: Numbers of these scores among the seven, shape (S,).
    """

    derivatives: np.ndarray
    variances: np.ndarray
    present: np.ndarray

    def coefficients(self) -> np.ndarray | None:
        """Return c of the six nuisances, 0 for those without a score, shape (6,); None if the events do not tell."""
        first, second = self.derivatives
        crossed = first[1:].T @ second[1:]
        a = weights_of((first + second)[0] / 2, self.variances.mean(axis=0), (crossed + crossed.T) / 2)
        if a is None:
            whole = self.derivatives.mean(axis=0)[1:]
            a = weights_of((first + second)[0] / 2, self.variances.mean(axis=0), whole.T @ whole)
        if a is None or not a[0] > 0.0:
            return None
        out = np.zeros(len(CHALLENGE))
        out[self.present[1:] - 1] = -a[1:] / a[0]
        return out

    def fidelity(self) -> dict[str, float]:
        """Return J_kk / V_kk of each score by name: 1 of an exact one, less of one with noise or too sure of itself."""
        j, v = self.derivatives.mean(axis=0), self.variances.mean(axis=0)
        names = ("mu", *NAMES)
        return {names[k]: float(j[k, i] / v[i, i]) for i, k in enumerate(self.present.tolist()) if v[i, i] > 0.0}

    def sigma(self, coefficients: np.ndarray, half: int | None = None) -> float:
        """Return the error on mu from the sum of s* over all events, judged by one half of the events or by all."""
        a = np.array([1.0, *-coefficients])[self.present]
        halves = (0, 1) if half is None else (half, half)
        first, second = (self.derivatives[number] @ a for number in halves)
        variance = a @ self.variances[list(halves)].mean(axis=0) @ a
        # What two halves do not agree on is not there.
        systematic = np.maximum(first[1:] * second[1:], 0.0).sum()
        return float(np.sqrt(variance + systematic) * 2.0 / abs(first[0] + second[0]))


def weights_of(slope: np.ndarray, variance: np.ndarray, systematic: np.ndarray) -> np.ndarray | None:
    """Return a that estimates mu best; None if noise left no positive definite covariance.

    Args:
        slope: d<T> / d mu, shape (S,).
        variance: Covariance of T in one experiment, shape (S, S).
        systematic: Its covariance from the nuisances at their priors, shape (S, S).

    Returns:
        Shape (S,); 0 for a score that is 0 everywhere.
    """
    width = np.sqrt(np.diagonal(variance))
    some = np.flatnonzero(width > 0.0)
    width = width[some]
    out = np.zeros(len(slope))
    # In units of the widths, which are of very different size; the ridge decides where two scores are the same.
    covariance = (variance + systematic)[np.ix_(some, some)] / np.outer(width, width) + RIDGE * np.eye(len(some))
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    out[some] = np.linalg.solve(factor.T, np.linalg.solve(factor, slope[some] / width)) / width
    return out


def point_of(nus: tuple[float, ...]) -> Point:
    """Return (tes, jes, soft_met) of nuisance parameters of shape (6,)."""
    shapes = [n.alpha(nu)[0] for n, nu in zip(CHALLENGE, nus, strict=True) if n.kind == "shape"]
    return shapes[0], shapes[1], shapes[2]


def add_up(regions: RegionSet, score: EfficientScore, blocks: Blocks, seed: int) -> Sums:
    """Evaluate the scores at the reference point and at its neighbours.

    Args:
        regions: Says to which proportions the class probabilities refer.
        score: The reference point; its coefficients do not matter.
        blocks: The events.
        seed: Seed of the halves.
    """
    rates = np.array(score.rates())

    def sums(point: Point) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return sums of t by half and process, those of its products by half, and which scores there are."""
        first, second, present = np.zeros(()), np.zeros(()), np.zeros(0, dtype=np.int64)
        for values, weights, classes, keys in blocks(point):
            found = score.scores(ratios(regions, values), values)
            present = np.array([i for i, column in enumerate(found) if column is not None])
            t = np.stack([np.asarray(found[i], dtype=np.float64) for i in present], axis=1)
            weights = np.where(np.isfinite(t).all(axis=1), weights, 0.0)
            t = np.nan_to_num(t, posinf=0.0, neginf=0.0)
            cell = (uniform(keys, seed, HALF) < 0.5) * len(PROCESSES) + classes
            by_cell = (np.arange(2 * len(PROCESSES))[:, None] == cell) * weights
            first = first + (by_cell @ t).reshape(2, len(PROCESSES), -1)
            by_half = (by_cell * np.tile(rates, 2)[:, None]).reshape(2, len(PROCESSES), -1).sum(axis=1)
            second = second + np.einsum("hn,ni,nj->hij", by_half, t, t, optimize=True)
        # Each half stands for the whole.
        return 2.0 * first, 2.0 * second, present

    middle, variances, present = sums(point_of(score.nus))
    derivatives = [middle[:, PROCESSES.index(SIGNAL)]]
    for k, nuisance in enumerate(CHALLENGE):
        ends = [tuple(nu + side * (i == k) for i, nu in enumerate(score.nus)) for side in SIDES]
        if nuisance.kind == "shape":
            low, high = (np.einsum("p,hps->hs", rates, sums(point_of(end))[0]) for end in ends)
        else:
            low, high = (np.einsum("p,hps->hs", np.array(replace(score, nus=end).rates()), middle) for end in ends)
        derivatives.append((high - low) / (SIDES[1] - SIDES[0]))
    return Sums(np.stack(derivatives, axis=1), variances, present)


def choose_score(
    bare: RegionSet, blocks: Blocks, mu: float, nus: tuple[float, ...], seed: int
) -> tuple[RegionSet, dict[str, Any]]:
    """Give a region set its efficient score; one that does not use it stays as it is.

    Args:
        bare: The regions.
        blocks: Events that trained no network, weighted to the full expectation at mu = 1.
        mu: Signal strength of the reference point.
        nus: Its nuisance parameters, shape (6,).
        seed: Seed of the halves.

    Returns:
        The regions, and what they promise: ``sigma``, the error on mu from the sum of s* over all events (a histogram
        of s* holds more); ``sigma_other_half``, that with coefficients from other events, None if a half is too small
        for that; ``sigma_signal_share``, that of the sum of s_mu alone; ``fidelity`` of the scores by name, see
        ``Sums.fidelity``.
    """
    if EFFICIENT_SCORE not in bare.names:
        return bare, {}
    yields = np.zeros(len(PROCESSES))
    for _, weights, classes, _ in blocks(point_of(nus)):
        yields += np.bincount(classes, weights, minlength=len(PROCESSES))
    if not yields.min() > 0.0:
        msg = f"no event of {PROCESSES[int(yields.argmin())]} is selected; choose the efficient score from more events"
        raise SettingsError(msg)
    score = EfficientScore(mu, nus, tuple(yields.tolist()))
    sums = add_up(bare, score, blocks, seed)
    c = sums.coefficients()
    if c is None:
        msg = "the events do not tell what the scores are worth; choose the efficient score from more events"
        raise SettingsError(msg)
    halves = [Sums(sums.derivatives[[h, h]], sums.variances[[h, h]], sums.present).coefficients() for h in (0, 1)]
    crossed = [sums.sigma(one, half=1 - h) for h, one in enumerate(halves) if one is not None]
    promised = {
        "sigma": sums.sigma(c),
        "sigma_other_half": float(np.mean(crossed)) if len(crossed) == len(halves) else None,
        "sigma_signal_share": sums.sigma(np.zeros(len(c))),
        "fidelity": sums.fidelity(),
    }
    return replace(bare, score=replace(score, coefficients=tuple(c.tolist()))), promised


def starting_edges(regions: RegionSet, blocks: Blocks, n_bins: int) -> dict[str, np.ndarray]:
    """Return edges of the efficient score to start merging from, by region that bins it; see the head of the module.

    Args:
        regions: Regions with their efficient score.
        blocks: The events.
        n_bins: Number of bins in each region, fewer if it has few rows.
    """
    found: dict[str, list[np.ndarray]] = {
        region.name: [] for region in regions.regions if region.observable == EFFICIENT_SCORE
    }
    if not found:
        return {}
    for values, weights, _, _ in blocks(NOMINAL):
        observable = np.asarray(reweighted(regions, values)[EFFICIENT_SCORE], dtype=np.float64)
        for region, (rows, _) in zip(regions.regions, bin_numbers(regions, values), strict=True):
            if region.name in found:
                found[region.name].append(np.stack([observable[rows], weights[rows]]))
    out = {}
    for name, parts in found.items():
        observables, all_weights = np.concatenate(parts, axis=1)
        out[name] = least_loss(observables, all_weights, n_bins)
    return out


def least_loss(values: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the edges of at most ``n_bins`` bins whose density is the cube root of that of the events.

    Args:
        values: The observable, shape (n,).
        weights: Weights of the events, not negative, shape (n,).
        n_bins: Number of bins.

    Returns:
        Increasing edges; outermost are the extreme values, or 0 and 1 where there are fewer than two.
    """
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    ends = np.unique(values[np.r_[0 : len(values) : LEAST_ROWS, len(values) - 1]]) if len(values) else values
    if len(ends) < 2:
        return np.array([0.0, 1.0])
    inside = np.histogram(values, ends, weights=weights)[0]
    # Density to the power of 1/3 times width.
    measure = np.concatenate([[0.0], np.cumsum(np.cbrt(inside) * np.cbrt(np.diff(ends)) ** 2)])
    found: np.ndarray = np.unique(np.interp(np.linspace(0.0, measure[-1], n_bins + 1), measure, ends))
    return found
