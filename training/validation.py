"""How near the fitted yields are to direct counts at nuisance points that the fit has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sage.binned.response import Point
from sage.rates import Templates

STATISTICAL_SHARE = 0.1
"""A bin may be off by this share of the statistical error of one data set ..."""
SIMULATION_ERRORS = 2.0
"""... or by so many Monte Carlo errors, whichever is more."""
REQUIRED_WITHIN = 0.99
"""Share of bins and points that must be within that; all must be within three times that."""


def validate(templates: Templates, points: Sequence[Point], counts: np.ndarray, moved: np.ndarray) -> dict[str, Any]:
    """Compare templates with direct counts.

    Args:
        templates: What the fit would use.
        points: The k points.
        counts: Direct counts, shape (k, P, B).
        moved: Variance of their difference to the nominal counts, shape (k, P, B).

    Returns:
        Plain values: shares of bins x points ``within`` the tolerance and three times it, whether that ``passed``,
        the ``largest`` deviation in tolerances with its bin and point, root mean square deviations in statistical
        errors and in Monte Carlo errors.
    """
    expected = np.array([templates.terms(point)[0].sum(axis=0) for point in points])
    total, error = counts.sum(axis=1), np.sqrt(moved.sum(axis=1))
    statistical = np.sqrt(np.maximum(total, 1.0))
    difference = np.abs(expected - total)
    ratio = difference / np.maximum(STATISTICAL_SHARE * statistical, SIMULATION_ERRORS * error)
    point, where = np.unravel_index(int(ratio.argmax()), ratio.shape)
    within, within_three = float((ratio <= 1).mean()), float((ratio <= 3).mean())
    simulated = (difference / np.maximum(error, 1e-9))[error > 0]
    return {
        "points": len(points),
        "bins": total.shape[1],
        "within": round(within, 5),
        "within_three_times": round(within_three, 5),
        "passed": within >= REQUIRED_WITHIN and within_three == 1.0,
        "largest": round(float(ratio.max()), 3),
        "largest_bin": int(where),
        "largest_point": list(points[int(point)]),
        "rms_statistical_errors": round(_rms(difference / statistical), 5),
        "rms_monte_carlo_errors": round(_rms(simulated), 5),
        "median_monte_carlo_error_in_statistical_errors": round(float(np.median(error / statistical)), 5),
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0
