"""Thresholds of the profile likelihood from toys, for intervals that cover at every mu (Neyman construction).

An interval that holds all mu with a rise below the 68.27 % quantile of rise(mu_true) among toys made at that mu covers
exactly, averaged over the nuisances' priors (arXiv:physics/9711021, with the profile likelihood ratio for ordering).
Where the asymptotic formula holds the quantile is 1/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.scores import ONE_SIGMA
from sage.fit.interval import RISE
from studies.analysis import Fraction, by_mu, fraction
from studies.neyman import quantile
from studies.toys import FAILED
from workshop.numbers import with_error

MU_GRID = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""Signal strengths of the thresholds; beyond the challenge's range, as limits lie beyond it."""
EXTENSION = 30.0
STEPS = 4001
"""Reach, in parabolic widths, and number of points of the search for corrected limits."""


@dataclass(frozen=True)
class Thresholds:
    """Rise of the profiled negative log-likelihood at the limits, as a function of mu.

    Args:
        mu: Signal strengths, increasing, shape (n,).
        delta_nll: Thresholds, shape (n,); linear in between, constant beyond the ends.
        error: Standard errors of the thresholds.
        toys: Toys behind each.
    """

    mu: np.ndarray
    delta_nll: np.ndarray
    error: np.ndarray
    toys: np.ndarray

    def at(self, mu: np.ndarray | pd.Series) -> np.ndarray:
        """Return the thresholds at any mu."""
        return np.asarray(np.interp(mu, self.mu, self.delta_nll))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "confidence": ONE_SIGMA,
            "asymptotic": RISE,
            "mu": self.mu.tolist(),
            "delta_nll": self.delta_nll.tolist(),
            "error": self.error.tolist(),
            "toys": self.toys.tolist(),
        }


def thresholds_from(frame: pd.DataFrame) -> Thresholds:
    """Derive thresholds from toys made at a few signal strengths; a failed toy counts as an infinite rise."""
    rows = []
    for mu, part in frame.groupby("mu"):
        rise = np.sort(part["rise"].where(part["status"] != FAILED, math.inf).to_numpy())
        error = 0.5 * (quantile(rise, ONE_SIGMA, +1) - quantile(rise, ONE_SIGMA, -1))
        rows.append((float(mu), quantile(rise, ONE_SIGMA), error, len(rise)))
    columns = np.array(rows).T
    return Thresholds(columns[0], columns[1], columns[2], columns[3].astype(int))


@dataclass(frozen=True)
class Comparison:
    """Coverage and mean interval at one mu, with a rise of 1/2 and with corrected thresholds."""

    mu: float
    coverage: Fraction
    corrected_coverage: Fraction
    interval: float
    corrected_interval: float


def compare(frame: pd.DataFrame, thresholds: Thresholds) -> list[Comparison]:
    """Compare both kinds of interval on toys that the thresholds have not seen; the last entry is of all toys.

    Coverage is exact: an interval holds the true mu if the rise there is below the threshold. The corrected width
    comes from parabolas through the limits, to which the profile is close.
    """
    parts = [*by_mu(frame), frame]
    found = []
    for part in parts:
        good = part[part["status"] != FAILED]
        covers = int((good["rise"] <= RISE).sum())
        corrected = int((good["rise"] <= thresholds.at(good["mu"])).sum())
        found.append(
            Comparison(
                mu=float(part["mu"].mean()),
                coverage=fraction(covers, len(part)),
                corrected_coverage=fraction(corrected, len(part)),
                interval=float((good["p84"] - good["p16"]).mean()),
                corrected_interval=float(np.mean(corrected_widths(good, thresholds))),
            )
        )
    return found


def corrected_widths(frame: pd.DataFrame, thresholds: Thresholds) -> np.ndarray:
    """Return the widths of corrected intervals, shape (n,), with the profile taken as two half parabolas."""
    widths = np.empty(len(frame))
    reach = np.linspace(0.0, math.sqrt(EXTENSION), STEPS)
    columns = (frame[name].to_numpy() for name in ("mu_hat", "p16", "p84"))
    for i, (mu_hat, p16, p84) in enumerate(zip(*columns, strict=True)):
        widths[i] = sum(_reach(mu_hat, half, reach, thresholds) for half in (p16 - mu_hat, p84 - mu_hat))
    return widths


def as_text(thresholds: Thresholds, comparisons: list[Comparison]) -> str:
    """Return thresholds and their effect as text for people."""
    lines = ["thresholds of the rise (asymptotic: 0.5)"]
    for mu, value, error, toys in zip(
        thresholds.mu, thresholds.delta_nll, thresholds.error, thresholds.toys, strict=True
    ):
        lines.append(f"  mu {mu:5.2f}: {with_error(value, error)}  ({toys} toys)")
    lines += [
        "",
        "on toys that did not make the thresholds (the last line: all)",
        f"{'mu':>6} {'toys':>6} {'coverage':>9} {'corrected':>11} {'interval':>9} {'corrected':>11}",
    ]
    for entry in comparisons:
        lines.append(
            f"{entry.mu:6.3f} {entry.coverage.n:6d} {entry.coverage.value:9.4f} {entry.corrected_coverage.value:11.4f}"
            f" {entry.interval:9.4f} {entry.corrected_interval:11.4f}"
        )
    return "\n".join(lines)


def _reach(mu_hat: float, half: float, steps: np.ndarray, thresholds: Thresholds) -> float:
    """Return how far a parabola that rises by 1/2 at ``mu_hat + half`` stays below the threshold."""
    inside = RISE * steps**2 <= thresholds.at(mu_hat + half * steps)
    last = len(steps) - 1 - int(inside[::-1].argmax()) if inside.any() else 0
    return abs(half) * float(steps[last])
