"""The interval of the published unbinned method, faults included (arXiv:2505.05544 and its submission).

A setting for comparisons. The likelihood is scanned in mu with the nuisances held at their best fit, so it is a slice
and no profile; the factor 1.045 makes up for that on average over the challenge's range of mu. Its minimiser was told
1/2 for a function -2 ln L, so the deviation that decides the range of the scan, and is the limit where nothing is
crossed, is too small by the square root of 2. Limits beyond the challenge's range of mu move to just outside of it,
even past the best fit or the other limit; the original then gives them in reversed order, which scores the same.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from sage.fit.interval import RISE, Interval
from sage.fit.newton import fit_global
from sage.fit.objective import MU, Objective

FACTOR = 1.045
POINTS = 21
DEVIATIONS, LEAST_REACH = 3.0, 0.5
"""Reach of the scan either way: so many deviations, at least so much in mu."""
RANGE = (0.1, 3.0)
BEYOND = (0.09, 3.01)
"""Where limits outside of ``RANGE`` are put."""
MU_RANGE = (0.0, math.inf)


def slice_interval(objective: Objective) -> Interval:
    """Return the signal strength and the limits of the slice.

    Args:
        objective: What to minimise.
    """
    best = fit_global(objective, MU_RANGE)
    delta = best.sigma_mu / math.sqrt(2.0)
    reach = max(DEVIATIONS * delta, LEAST_REACH)
    # The original's range of points leaves out the last.
    mus = np.linspace(best.mu - reach, best.mu + reach, POINTS, endpoint=False)
    rises = []
    for mu in mus.tolist():
        at = best.parameters.copy()
        at[MU] = mu
        rises.append(objective.value(at) - best.value)
    low = _crossing(mus, np.array(rises), best.mu, -1)
    high = _crossing(mus, np.array(rises), best.mu, +1)
    flags = () if best.converged else ("fit_not_converged",)
    low = best.mu - FACTOR * (delta if low is None else best.mu - low)
    high = best.mu + FACTOR * (delta if high is None else high - best.mu)
    low = BEYOND[0] if low < RANGE[0] else low
    high = BEYOND[1] if high > RANGE[1] else high
    return Interval(best, min(low, high), max(low, high), flags)


def _crossing(mus: np.ndarray, rises: np.ndarray, mu_hat: float, side: int) -> float | None:
    """Return where the linear interpolation of the rise crosses its level on one side; None if nowhere."""
    own = np.flatnonzero(side * (mus - mu_hat) >= 0)[:: 1 if side > 0 else -1]
    for inner, outer in pairwise(own.tolist()):
        if rises[inner] < RISE <= rises[outer] < math.inf:
            share = (RISE - rises[inner]) / (rises[outer] - rises[inner])
            return float(mus[inner] + share * (mus[outer] - mus[inner]))
    return None
