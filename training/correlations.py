"""How much the correlation of bins adds to the uncertainty that finite simulation gives mu.

The likelihood knows one independent variance per bin (``sage.binned.statistic``), but rows of one showered event lie
in several bins. To first order mu_hat moves by g_b = d mu_hat / d n_b per event in bin b, so the templates of process p
move it with the variance

    V_p = sum over parents of (sum over their rows of w (g - mean of g over the process))^2,

the mean because each process is normalised to a known total. The likelihood assumes sum_b g_b^2 s_pb^2. The ratio is a
factor on the variances of the process: with it the likelihood states the uncertainty of mu that the simulation leaves.
The g_b depend on the variances, so both are found together.
"""

from __future__ import annotations

import numpy as np

from sage.binned.regions import RegionSet
from sage.binned.statistic import BinnedLikelihood, asimov, binned_likelihood
from sage.challenge.nuisances import PROCESSES
from sage.fit.objective import MU
from sage.rates import SIGNAL_ROW, Rates
from training.counting import ByParents

TOLERANCE = 1e-3
"""Relative change of the factors at which they are found."""
ITERATIONS = 50
MOST_LAST = 5
"""Bins at the upper end of a region, where it is most like the signal, that are looked at together."""
MU_TRUE = 1.0
"""Signal strength at which the factors are found; all nuisances are at the median of their priors."""


def variance_factors(rates: Rates, variances: np.ndarray, sums: ByParents) -> np.ndarray:
    """Return the factors on the variances of the processes, shape (P,); 1 where there is no variance.

    Args:
        rates: The expected events.
        variances: Variances of the simulated yields, shape (P, B).
        sums: Sums over the rows and parents of the simulation, normalised as the yields are.
    """
    factors: np.ndarray = np.ones(len(PROCESSES))
    for _ in range(ITERATIONS):
        likelihood = binned_likelihood(rates, np.zeros(variances.shape[1]), factors[:, None] * variances)
        gains = np.tile(sensitivities(likelihood), (len(PROCESSES), 1))
        if rates.has_signal is not None:
            gains[SIGNAL_ROW] *= rates.has_signal
        assumed = (gains**2 * variances).sum(axis=1)
        true = variances_along(gains, sums)
        before = factors
        factors = np.divide(true, assumed, out=np.ones(len(PROCESSES)), where=assumed > 0)
        if np.allclose(factors, before, rtol=TOLERANCE, atol=0.0):
            break
    return factors


def sensitivities(likelihood: BinnedLikelihood) -> np.ndarray:
    """Return d mu_hat / d n_b at the expected counts of mu = 1 and median nuisances, shape (B,)."""
    parameters = np.concatenate([[MU_TRUE], np.zeros(len(likelihood.nuisances))])
    expected = asimov(likelihood, parameters)
    at = expected.rates.expand(parameters)
    information = expected.statistic.expand(at.rate)[3]
    covariance = np.linalg.inv(expected.evaluate(parameters).fisher)
    gains: np.ndarray = covariance[MU] @ (at.first * information)
    return gains


def variances_along(gains: np.ndarray, sums: ByParents) -> np.ndarray:
    """Return the variance of ``sum_b gains_b n_b`` for each process, normalised to a known total; shape (P,).

    Args:
        gains: Shape (P, B).
        sums: Sums over the rows and parents.
    """
    means = np.divide((gains * sums.yields).sum(axis=1), sums.totals, out=np.zeros(len(gains)), where=sums.totals > 0)
    moves = np.concatenate([gains, -means[:, None]], axis=1)
    variances: np.ndarray = np.einsum("pa,pab,pb->p", moves, sums.covariances, moves)
    return variances


def places(regions: RegionSet) -> dict[str, np.ndarray]:
    """Return the bins of what yields are compared in, by name: all, each region, and the last bins of each."""
    out = {"all": np.arange(regions.n_bins)} if regions.exclusive else {}
    out |= {name: np.arange(regions.n_bins)[place] for name, place in regions.slices.items()}
    for name, place in regions.slices.items():
        last = min(MOST_LAST, (place.stop - place.start) // 3)
        if last:
            out[f"{name}, last {last}"] = np.arange(place.stop - last, place.stop)
    return out


def yield_errors(regions: RegionSet, sums: ByParents) -> dict[str, dict[str, float]]:
    """Return the standard deviation of the yield of each process in each of the ``places``."""
    out = {}
    for name, bins in places(regions).items():
        inside = np.zeros_like(sums.yields)
        inside[:, bins] = 1.0
        out[name] = dict(zip(PROCESSES, np.sqrt(variances_along(inside, sums)).tolist(), strict=True))
    return out
