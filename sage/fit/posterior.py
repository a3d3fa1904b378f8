"""Another interval: central 68 % of a posterior with a flat prior on a known range of the signal strength.

    posterior(mu) ~ exp(-nll(mu)) for mu in the range, 0 elsewhere,

with the profiled negative log-likelihood in place of the marginal one, which for Gaussian nuisances differs by a
factor that hardly depends on mu. Its ends are the quantiles that a Gaussian has at one standard deviation, so far from
the ends of the range the interval is the profile's. The profile is fitted at a few signal strengths; between them it
is the cubic with the fits' values and slopes, which are exact by the envelope theorem.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sage.errors import TimeLimitError
from sage.fit.interval import RISE, Interval
from sage.fit.newton import fit
from sage.fit.objective import MU, Objective

TAIL = 0.5 * math.erfc(math.sqrt(0.5))
"""Probability beyond either end of the interval."""
REACH = 4.0
"""Distance from the minimum, or the end of the range next to it, that is looked at, in units of the side's width."""
STEP = 1.0
"""Largest distance of the profile fits, in half-widths of the interval."""
FINE = 96
"""Points of the integral for each fit."""


def posterior_interval(
    objective: Objective, interval: Interval, prior: tuple[float, float], scale: float = 1.0
) -> Interval:
    """Return the interval of the posterior; the fit stays, and mu_hat may lie outside of the interval.

    Args:
        objective: What was minimised.
        interval: The interval of its profile.
        prior: Range of the signal strength.
        scale: By what factor the profile's interval was widened for a poor fit.

    Returns:
        The interval; a flag tells if the profile could not be fitted, and parabolas through its limits stand for it.
    """
    middle, width = interval.fit.mu, 0.5 * (interval.high - interval.low)
    nearest = min(max(middle, prior[0]), prior[1])
    low = max(prior[0], nearest - REACH * max(width, middle - interval.low))
    high = min(prior[1], nearest + REACH * max(width, interval.high - middle))
    steps = max(1, math.ceil((high - low) / (STEP * width)))
    mus = np.linspace(low, high, steps + 1)
    fine = np.linspace(low, high, FINE * steps + 1)
    flags = interval.flags
    try:
        values, slopes = _profile(objective, interval, mus)
        nll = _between(mus, values, slopes, fine) / scale**2
    except TimeLimitError:
        nll = np.full(len(fine), math.nan)
    if not np.isfinite(nll).all():
        reach = np.where(fine > middle, interval.high - middle, middle - interval.low)
        nll = RISE * ((fine - middle) / np.maximum(reach, 1e-9 * width)) ** 2
        flags = (*flags, "posterior_from_limits")
    density = np.exp(nll.min() - nll)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    ends = np.interp(np.array([TAIL, 1.0 - TAIL]) * below[-1], below, fine)
    return replace(interval, low=float(ends[0]), high=float(ends[1]), flags=flags)


def _profile(objective: Objective, interval: Interval, mus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the profiled nll and its slope at increasing signal strengths; NaN where a fit does not converge."""
    best = interval.fit
    values, slopes = np.full(len(mus), math.nan), np.full(len(mus), math.nan)
    nearest = int(np.abs(mus - best.mu).argmin())
    variance = best.covariance[MU, MU]
    ridge = best.covariance[:, MU] / variance if variance > 0 else np.zeros(len(best.parameters))
    for order in (range(nearest, len(mus)), range(nearest - 1, -1, -1)):
        at, along = best.parameters, ridge
        for number in order:
            start = at + (mus[number] - at[MU]) * along
            found = fit(objective, start, fixed_mu=float(mus[number]))
            if found.converged:
                values[number] = found.value
                slopes[number] = objective.evaluate(found.parameters).gradient[MU]
            if mus[number] != at[MU]:
                along = (found.parameters - at) / (mus[number] - at[MU])
            at = found.parameters
    return values, slopes


def _between(mus: np.ndarray, values: np.ndarray, slopes: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Return the cubic Hermite interpolation at increasing points from the first to the last of ``mus``."""
    left = np.minimum(np.searchsorted(mus, fine, side="right") - 1, len(mus) - 2)
    step = mus[left + 1] - mus[left]
    t = (fine - mus[left]) / step
    from_values = values[left] * (1 + 2 * t) * (1 - t) ** 2 + values[left + 1] * (3 - 2 * t) * t**2
    from_slopes = slopes[left] * t * (1 - t) ** 2 - slopes[left + 1] * (1 - t) * t**2
    found: np.ndarray = from_values + step * from_slopes
    return found
