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

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sage.fit.objective import Objective
from sage.unbinned.likelihood import SumLikelihood, UnbinnedLikelihood
from sage.unbinned.statistic import weighted


def asimov_events(of: UnbinnedLikelihood, truth: np.ndarray) -> UnbinnedLikelihood:
    """Return the likelihood of its own events, taken for the nominal sample, with the weights expected at a truth.

    Args:
        of: Its events have the weights of the nominal sample.
        truth: (mu, nu...); the constraints are centred there.
    """
    pairs = zip(of.events, of.densities(truth), strict=True)
    events = tuple(weighted(each, each.blocks[:, 0].ravel() * density) for each, density in pairs)
    return replace(of, events=events, centres=truth[1:])


def displacements(
    nominal: UnbinnedLikelihood, others: Sequence[Objective], replicas: Sequence[UnbinnedLikelihood], truth: np.ndarray
) -> np.ndarray:
    """Return how far each replica moves the minimum of the Asimov data of the nominal surrogates.

    Args:
        nominal: Its events are the nominal sample.
        others: What else is measured, at its Asimov data and centred at the truth.
        replicas: The same events with coefficients and norms of their own.
        truth: (mu, nu...).

    Returns:
        d, shape (K, 1 + n_nuisances).
    """
    expected = asimov_events(nominal, truth)
    curvature = SumLikelihood((expected, *others)).evaluate(truth).hessian
    base = expected.evaluate(truth).gradient
    out = np.empty((len(replicas), len(truth)))
    for row, replica in zip(out, replicas, strict=True):
        pairs = zip(replica.events, expected.events, strict=True)
        events = tuple(weighted(own, like.blocks[:, 0].ravel()) for own, like in pairs)
        row[:] = replace(replica, events=events, centres=truth[1:]).evaluate(truth).gradient - base
    return -np.linalg.solve(curvature, out.T).T


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
