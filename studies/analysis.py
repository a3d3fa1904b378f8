"""The analysis of toys, the same for counts and whole pseudo-experiments: pulls, coverage, p-values, failures.

Input is a frame with the columns of ``studies.toys.toy_row``. Everything comes with its statistical error, and with
checks: numbers that must lie within bounds, which are four standard errors, or the stated tolerance if that is more.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from harness.scores import ONE_SIGMA, quantiles_score
from studies.toys import FAILED
from workshop.errors import UsageError
from workshop.numbers import without_numbers

FEW_MUS = 20
"""Up to so many different true mus are grouped by value; more are grouped in ``MU_GROUPS`` equal ranges."""
MU_GROUPS = 10

ERRORS = 4.0
PULL_MEAN, PULL_WIDTH, COVERAGE, COVERAGE_AT_MU, DISTANCE = 0.05, 0.04, 0.008, 0.03, 0.01
"""Tolerances of the checks: intervals and p-values are asymptotic formulae, which many toys would refute."""
SMALLEST_P = 1e-3
LATER_STEP, LATER_STEPS = "fit_by_", 1e-3
"""Beginning of the flag of a fit that needed a later step of ``sage.fit.ladder``, and the share allowed of these."""
SOUND_LATER_STEPS, FALSE_ALARM = 1e-4, 1e-4
"""Few toys may have as many as a share of so little exceeds with this probability: one of 80, 3 of 1000."""
UNPULLED = "soft_met"
"""Its likelihood is far from Gaussian and often ends at a bound: pulls mean little, coverage does."""


@dataclass(frozen=True)
class Fraction:
    """A binomial fraction k of n with its 68.27 % Clopper-Pearson interval."""

    k: int
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pull:
    """Mean and width of a pull with their standard errors, from n toys."""

    n: int
    mean: float
    mean_error: float
    width: float
    width_error: float


@dataclass(frozen=True)
class Group:
    """Toys with the same or similar true mu.

    Args:
        mu: Mean true mu.
        coverage: How many intervals hold the true mu.
        interval: Mean width of the interval.
        interval_error: Its standard error.
        bias: Mean of mu_hat - mu.
        bias_error: Its standard error.
        rms: Root mean square of mu_hat - mu.
        pull: Pull of mu.
    """

    mu: float
    coverage: Fraction
    interval: float
    interval_error: float
    bias: float
    bias_error: float
    rms: float
    pull: Pull


@dataclass(frozen=True)
class Uniformity:
    """Kolmogorov-Smirnov test of p-values that should be uniform: distance, p-value and number."""

    n: int
    distance: float
    p_value: float


@dataclass(frozen=True)
class Check:
    """A number that must lie from ``low`` to ``high``."""

    name: str
    value: float
    low: float
    high: float
    ok: bool


@dataclass(frozen=True)
class Analysis:
    """What a set of toys shows.

    Args:
        toys: Number of toys.
        failed: Those without an answer; they count as not covering, and in nothing else.
        flagged: Those with an answer and a flag.
        later_steps: Those whose fit needed a later step of the ladder or failed.
        flags: How often each flag was raised.
        coverage: Of all toys.
        band: The coverages that the challenge does not penalise at this number.
        interval: Mean width of the interval.
        score: The challenge's quantiles score of all toys.
        rms: Root mean square of mu_hat - mu.
        slope: Of the straight line fitted to mu_hat against mu; NaN if there is one mu only.
        groups: By true mu.
        pulls: Of mu and the nuisances, soft_met excepted.
        at_bound: Fraction of toys in which a nuisance has no standard deviation, by name; they have no pull.
        soft_met: Coverage of nu_hat +- sigma.
        test_statistic: p-values of -2 ln lambda(mu_true) under chi2 with one degree of freedom.
        goodness_of_fit: p-values of the saturated statistic, 2 nll, under chi2.
        checks: The bounds.
    """

    toys: int
    failed: int
    flagged: int
    later_steps: int
    flags: dict[str, int]
    coverage: Fraction
    band: tuple[float, float]
    interval: float
    score: float
    rms: float
    slope: float
    groups: list[Group]
    pulls: dict[str, Pull]
    at_bound: dict[str, float]
    soft_met: Fraction
    test_statistic: Uniformity
    goodness_of_fit: Uniformity
    checks: list[Check]

    @property
    def alarms(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.ok]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is not finite becomes None."""
        content: dict[str, Any] = plain(asdict(self) | {"alarms": [check.name for check in self.alarms]})
        return content


def analyse(frame: pd.DataFrame) -> Analysis:
    """Analyse toys; see ``Analysis``.

    Raises:
        UsageError: If none of them was fitted.
    """
    good = frame[frame["status"] != FAILED]
    if not len(good):
        reasons = "; ".join(sorted(set(frame["flags"].astype(str))))
        msg = f"none of {len(frame)} toys was fitted ({reasons}); check that --weights and --data belong together"
        raise UsageError(msg)
    names = [name.removeprefix("fit_") for name in frame.columns if name.startswith("fit_")]
    coverage = fraction(int(covered(good).sum()), len(frame))
    width = good["p84"] - good["p16"]
    pulls = {"mu": pull_of(mu_pulls(good))}
    pulls |= {name: pull_of(nuisance_pulls(good, name)) for name in names if name != UNPULLED}
    flags = Counter(without_numbers(flag) for text in frame["flags"] for flag in str(text).split("; ") if flag)
    inside = (good[f"fit_{UNPULLED}"] - good[f"true_{UNPULLED}"]).abs() <= good[f"sigma_{UNPULLED}"]
    later = frame["flags"].str.contains(LATER_STEP, regex=False) | (frame["status"] == FAILED)
    groups = [_group(part) for part in by_mu(frame)]
    statistic = uniformity(stats.chi2.sf(2 * good["rise"].clip(lower=0), 1))
    fitted = uniformity(stats.chi2.sf(2 * good["nll"].clip(lower=0), good["degrees"]))
    checks = [
        *_pull_checks(pulls),
        _around("coverage", coverage.value, ONE_SIGMA, max(ERRORS * binomial_error(len(frame)), COVERAGE)),
        *(
            _around(
                f"coverage at mu = {group.mu:.3g}",
                group.coverage.value,
                ONE_SIGMA,
                max(ERRORS * binomial_error(group.coverage.n), COVERAGE_AT_MU),
            )
            for group in groups
        ),
        _uniform_check("p-values of -2 ln lambda(mu)", statistic),
        _uniform_check("p-values of the goodness of fit", fitted),
        _later_check(int(later.sum()), len(frame)),
    ]
    return Analysis(
        toys=len(frame),
        failed=len(frame) - len(good),
        flagged=int((good["flags"] != "").sum()),
        later_steps=int(later.sum()),
        flags=dict(sorted(flags.items())),
        coverage=coverage,
        band=flat_band(len(frame)),
        interval=float(width.mean()),
        score=quantiles_score(float(width.mean()), coverage.value, len(frame)),
        rms=_rms(good["mu_hat"] - good["mu"]),
        slope=float(np.polyfit(good["mu"], good["mu_hat"], 1)[0]) if good["mu"].nunique() > 1 else math.nan,
        groups=groups,
        pulls=pulls,
        at_bound={name: float((good[f"sigma_{name}"] == 0).mean()) for name in names},
        soft_met=fraction(int(inside.sum()), len(good)),
        test_statistic=statistic,
        goodness_of_fit=fitted,
        checks=checks,
    )


def covered(frame: pd.DataFrame) -> pd.Series:
    """Return which intervals hold the true mu; ends belong to them, as in the official scores."""
    return (frame["p16"] <= frame["mu"]) & (frame["mu"] <= frame["p84"])


def mu_pulls(frame: pd.DataFrame) -> np.ndarray:
    """Return (mu_hat - mu) over half of the interval."""
    pulls: np.ndarray = ((frame["mu_hat"] - frame["mu"]) / ((frame["p84"] - frame["p16"]) / 2)).to_numpy()
    return pulls


def nuisance_pulls(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return (fitted - true) / sigma in nu, of those toys in which sigma is not 0."""
    free = frame[frame[f"sigma_{name}"] > 0]
    pulls: np.ndarray = ((free[f"fit_{name}"] - free[f"true_{name}"]) / free[f"sigma_{name}"]).to_numpy()
    return pulls


def by_mu(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Split toys by true mu: by value, or in equal ranges if there are many."""
    if frame["mu"].nunique() <= FEW_MUS:
        return [part for _, part in frame.groupby("mu")]
    return [part for _, part in frame.groupby(pd.cut(frame["mu"], MU_GROUPS), observed=True)]


def fraction(k: int, n: int) -> Fraction:
    """Return k / n with its 68.27 % Clopper-Pearson interval."""
    tail = (1 - ONE_SIGMA) / 2
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return Fraction(k, n, k / n, low, high)


def pull_of(pulls: np.ndarray) -> Pull:
    """Return mean and width of pulls; NaN where there are fewer than two."""
    n = len(pulls)
    if n < 2:
        return Pull(n, math.nan, math.nan, math.nan, math.nan)
    width = float(pulls.std(ddof=1))
    return Pull(n, float(pulls.mean()), width / math.sqrt(n), width, width / math.sqrt(2 * (n - 1)))


def uniformity(p_values: np.ndarray) -> Uniformity:
    """Test p-values for uniformity (Kolmogorov-Smirnov)."""
    if not len(p_values):
        return Uniformity(0, math.nan, math.nan)
    found = stats.kstest(p_values, "uniform")
    return Uniformity(len(p_values), float(found.statistic), float(found.pvalue))


def binomial_error(n: int) -> float:
    """Return the standard deviation of a coverage of 68.27 % from n toys."""
    return math.sqrt(ONE_SIGMA * (1 - ONE_SIGMA) / n)


def flat_band(n: int) -> tuple[float, float]:
    """Return the range of coverages without penalty at n pseudo-experiments (arXiv:2410.02867, section 4)."""
    reach = 2 * binomial_error(n)
    return max(ONE_SIGMA - reach, 0.0), min(ONE_SIGMA + reach, 1.0)


def _group(part: pd.DataFrame) -> Group:
    good = part[part["status"] != FAILED]
    off, width = good["mu_hat"] - good["mu"], good["p84"] - good["p16"]
    return Group(
        mu=float(part["mu"].mean()),
        coverage=fraction(int(covered(good).sum()), len(part)),
        interval=float(width.mean()),
        interval_error=float(width.sem()),
        bias=float(off.mean()),
        bias_error=float(off.sem()),
        rms=_rms(off),
        pull=pull_of(mu_pulls(good)),
    )


def _pull_checks(pulls: dict[str, Pull]) -> list[Check]:
    checks = []
    for name, pull in pulls.items():
        checks.append(_around(f"pull mean of {name}", pull.mean, 0.0, max(ERRORS / math.sqrt(pull.n or 1), PULL_MEAN)))
        error = ERRORS / math.sqrt(2 * (pull.n or 1))
        checks.append(_around(f"pull width of {name}", pull.width, 1.0, max(error, PULL_WIDTH)))
    return checks


def _around(name: str, value: float, centre: float, reach: float) -> Check:
    # Not (outside), so that NaN is not ok.
    return Check(name, value, centre - reach, centre + reach, bool(abs(value - centre) <= reach))


def _uniform_check(name: str, found: Uniformity) -> Check:
    """With many toys a distance that does not matter gives a p-value of 0, so a small distance is enough."""
    ok = found.p_value > SMALLEST_P or found.distance < DISTANCE
    return Check(name, found.p_value, SMALLEST_P, 1.0, bool(ok))


def _later_check(later: int, n: int) -> Check:
    allowed = max(LATER_STEPS, float(stats.binom.isf(FALSE_ALARM, n, SOUND_LATER_STEPS)) / n)
    return Check("fits not by the first step", later / n, 0.0, allowed, later / n <= allowed)


def _rms(values: pd.Series) -> float:
    return float(np.sqrt((values**2).mean()))


def plain(value: Any) -> Any:
    """Return nested values for JSON: lists for tuples, None for what is not finite."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
