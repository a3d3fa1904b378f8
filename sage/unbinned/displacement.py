r"""How far the surrogates' errors move the parameters, from replicas of what made them.

With the surrogates of a replica k the gradient of the negative log-likelihood does not vanish where it does with the
nominal ones, and to first order the minimum moves:

    d_k = -C s_k,    s_k = gradient with replica k at the minimum,    C = inverse Hessian;    covariance C V C

(V the covariance of s_k). ``s_k`` is the expectation of ``t ln(R_k / R)`` with the scores t = d ln R / d theta. Where
the data are as simulated at the nominal point, R_k = R = 1 whatever the shares and responses are, as shares add up to 1
and the norms are exact: an error of the surrogates costs precision there and moves nothing. So the gradient is taken at
truths drawn from the priors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sage.fit.objective import Objective
from sage.unbinned.likelihood import SumLikelihood, UnbinnedLikelihood
from sage.unbinned.statistic import weighted


@dataclass(frozen=True)
class Asimov:
    """Data that are as the nominal surrogates expect them at a truth.

    Args:
        truth: (mu, nu...).
        weights: Of the events of each region, those that fill up the last block included.
        curvature: Hessian of the negative log-likelihood there, constraints centred at the truth.
        gradient: Of the unbinned part; of all together it vanishes.
    """

    truth: np.ndarray
    weights: tuple[np.ndarray, ...]
    curvature: np.ndarray
    gradient: np.ndarray

    def of(self, likelihood: UnbinnedLikelihood) -> UnbinnedLikelihood:
        """Return a likelihood of the same events with these weights."""
        pairs = zip(likelihood.events, self.weights, strict=True)
        events = tuple(weighted(events, weights) for events, weights in pairs)
        return replace(likelihood, events=events, centres=self.truth[1:])


def asimov_data(nominal: UnbinnedLikelihood, others: Sequence[Objective], truth: np.ndarray) -> Asimov:
    """Return the data expected at a truth.

    Args:
        nominal: Its events, with their weights, are the nominal sample.
        others: What else is measured, at its own Asimov data and centred at the truth.
        truth: (mu, nu...).
    """
    pairs = zip(nominal.events, nominal.densities(truth), strict=True)
    weights = tuple(events.blocks[:, 0].ravel() * density for events, density in pairs)
    data = Asimov(truth, weights, np.empty(0), np.empty(0))
    expected = data.of(nominal)
    curvature = SumLikelihood((expected, *others)).evaluate(truth).hessian
    return replace(data, curvature=curvature, gradient=expected.evaluate(truth).gradient)


def displacements(data: Sequence[Asimov], replicas: Iterable[UnbinnedLikelihood]) -> np.ndarray:
    """Return how far each replica moves the minimum of Asimov data of the nominal surrogates.

    Args:
        data: At T truths.
        replicas: K likelihoods of the same events with coefficients and norms of their own.

    Returns:
        d, shape (T, K, 1 + n_nuisances).
    """
    gradients = np.array(
        [[each.of(replica).evaluate(each.truth).gradient - each.gradient for each in data] for replica in replicas]
    )
    moved = [-np.linalg.solve(each.curvature, gradients[:, t].T).T for t, each in enumerate(data)]
    return np.array(moved)


def covariance(moves: np.ndarray) -> np.ndarray:
    """Return the covariance C V C, unbiased for whatever number of replicas, averaged over truths.

    Args:
        moves: d, shape (T, K, n), K at least 2. The mean over the replicas at each truth is taken off: what the
            nominal surrogates differ by from it is as random as a replica.

    Returns:
        Shape (n, n).
    """
    centred = moves - moves.mean(axis=1, keepdims=True)
    out: np.ndarray = np.einsum("tki,tkj->ij", centred, centred) / (len(moves) * (moves.shape[1] - 1))
    return out
