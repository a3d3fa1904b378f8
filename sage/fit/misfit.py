"""What a fit that does not describe the data is worth: an interval that grows with the misfit, or none.

Where 2 nll, the saturated statistic, exceeds what chance gives, the templates are off by more than the likelihood
knows. The interval is then widened by the scale factor of the Particle Data Group's averages (Review of Particle
Physics, section "Procedures", S^2 = chi2 / degrees), begun where chance ends so that it sets in continuously:

    S^2 = 1 + max(0, 2 nll - limit) / degrees,     limit = degrees + 5 sqrt(2 degrees)

A side that ends where some bin would expect less than nothing, or that no converged fit has given, says nothing of how
uncertain the signal strength is: it is taken to be no shorter than S times what data as expected at mu = 1 would give.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sage.fit.interval import AT_BOUND, Interval
from sage.fit.objective import MU, Counted, Objective

CHANCE = 5.0
"""Standard deviations of the saturated statistic above its mean that are taken for chance."""
HOPELESS = 100.0
"""Twice the negative log-likelihood per degree of freedom beyond which a minimum tells nothing."""


def degrees(objective: Objective) -> int | None:
    """Return the degrees of freedom of the saturated statistic; None where the value is no such statistic."""
    return objective.degrees if isinstance(objective, Counted) else None


def worst_value(objective: Objective) -> float:
    """Return the value of the objective beyond which a minimum is not accepted."""
    free = degrees(objective)
    return math.inf if free is None else 0.5 * HOPELESS * free


def misfit_scale(interval: Interval, objective: Objective) -> float:
    """Return the factor by which the misfit at an interval's minimum widens it, S above; 1 for none."""
    free, twice = degrees(objective), 2.0 * interval.fit.value
    if free is None:
        return 1.0
    chance = CHANCE * math.sqrt(2.0 * free)
    if not free + chance < twice < math.inf:
        return 1.0
    return math.sqrt(1.0 + (twice - free - chance) / free)


def widened(interval: Interval, objective: Objective, mu_range: tuple[float, float] | None = None) -> Interval:
    """Return an interval, within ``mu_range``, that allows for the misfit at its minimum; a flag tells of it."""
    scale = misfit_scale(interval, objective)
    if scale == 1.0:
        return interval
    mu = interval.fit.mu
    least = 0.0 if interval.fit.converged and AT_BOUND not in interval.flags else expected_sigma(objective)
    flag = f"poor_fit: 2 nll = {2.0 * interval.fit.value:.3g} with {degrees(objective)} degrees of freedom, interval "
    flag += f"widened {scale:.3g} times"
    low, high = mu - scale * max(mu - interval.low, least), mu + scale * max(interval.high - mu, least)
    if mu_range is not None:
        low, high = max(low, mu_range[0]), min(high, mu_range[1])
    return replace(interval, low=low, high=high, flags=(*interval.flags, flag))


def expected_sigma(objective: Objective) -> float:
    """Return the standard deviation of mu that the information at mu = 1 and the nuisances' centres stands for."""
    fisher = objective.evaluate(np.concatenate([[1.0], objective.centres])).fisher
    return math.sqrt(float(np.linalg.inv(fisher)[MU, MU]))
