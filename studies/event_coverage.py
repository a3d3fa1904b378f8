"""Coverage by true mu in toys of events: points drawn from the priors, at which events are counted anew.

At each nuisance point every simulated event is shifted with noise of its own, selected and classified; the toys there
draw the rates and a Poisson number of copies of every event, which is a Poisson number in every bin. So the templates'
smooth response is tested as well. Toys of one point share it: errors come from the spread of points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from sage.binned.counting import Noise, Sample, count_points, draw_points
from sage.challenge.nuisances import CHALLENGE, PROCESSES
from sage.errors import SageError, SettingsError
from sage.files.bundle import Bundle
from sage.fit.deadline import NEVER
from sage.measurement import CountsInterval
from sage.network.classifier import Classifier
from sage.rates import SIGNAL_ROW
from training.events import Events

COVERAGE_FILE = "coverage.json"
EVERY = 10
"""Points after which there is a result."""
RATES = [nuisance for nuisance in CHALLENGE if nuisance.kind == "norm"]
WANTED, TOLERANCE, WIDTH_TOLERANCE = 0.6827, 0.03, 0.1
"""Of the coverage at each mu, and of the mean width relative to twice the toys' standard deviation."""


def event_coverage(
    events: Events | None,
    bundle: Bundle,
    classifier: Classifier,
    find: Mapping[str, CountsInterval],
    mus: Sequence[float],
    points: int,
    toys: int,
    seed: int,
    each: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Make toys and measure them.

    Args:
        events: Simulated events, as many as expected; None for the yields of the templates.
        bundle: Templates and regions.
        classifier: Gives what the regions are made of.
        find: Finds the interval of counts, by name of the interval; all of the same toys.
        mus: True signal strengths.
        points: Nuisance points, at least 2.
        toys: At each of them and each mu.
        seed: Of points, noise and toys.
        each: Called with the result so far, from time to time and at the end.

    Returns:
        For each interval ``mus``: for each, ``coverage``, ``width``, ``spread`` of mu_hat, ``ratio`` of width and twice
        that, ``bias``, each with its error; ``failed`` toys, and whether the tolerances are met.

    Raises:
        SettingsError: If there are fewer than two points, so no errors.
    """
    if points < 2 or toys < 1:
        msg = f"{points} points with {toys} toys; give at least 2 points, as their spread is the error, and 1 toy"
        raise SettingsError(msg)
    sample = None
    if events is not None:
        sample = Sample(events.columns, events.weights, events.classes, np.arange(len(events)))
    rng = np.random.default_rng(seed)
    found = {name: np.full((len(mus), points, toys, 3), np.nan) for name in find}
    result: dict[str, Any] = {}
    for number, point in enumerate(tqdm(draw_points(points, seed), "points", disable=None)):
        if sample is None:
            yields = bundle.templates.terms(point)[0]
        else:
            noise = Noise(seed + number + 1, draws=1, common=False)
            yields = count_points(sample, [point], bundle.regions, classifier, noise)["counts"][0]
        for i, mu in enumerate(mus):
            for toy in range(toys):
                counts = _drawn(rng, yields, mu)
                for name, one in find.items():
                    found[name][i, number, toy] = _measured(counts, bundle, one)
        if number and (number % EVERY == 0 or number + 1 == points):
            result = {name: summary(mus, one[:, : number + 1]) for name, one in found.items()}
            if each is not None:
                each(result)
    return result


def _drawn(rng: np.random.Generator, yields: np.ndarray, mu: float) -> np.ndarray:
    """Return the counts of one toy, shape (n_bins,)."""
    factors = np.array([mu if process == SIGNAL_ROW else 1.0 for process in range(len(yields))])
    for nuisance in RATES:
        factors[[PROCESSES.index(name) for name in nuisance.scales]] *= nuisance.alpha(rng.normal())[0]
    return np.asarray(rng.poisson(factors @ yields), dtype=np.float64)


def _measured(counts: np.ndarray, bundle: Bundle, find: CountsInterval) -> tuple[float, float, float]:
    """Return mu_hat and the limits of one toy; NaN where the fit fails."""
    try:
        interval = find(counts, bundle, NEVER)
    except SageError:
        return math.nan, math.nan, math.nan
    return interval.fit.mu, interval.low, interval.high


def summary(mus: Sequence[float], found: np.ndarray) -> dict[str, Any]:
    """Return what toys tell; their mu_hat and limits have the shape (len(mus), points, toys, 3)."""
    entries = []
    for mu, of_mu in zip(mus, found, strict=True):
        good = np.isfinite(of_mu).all(axis=2)
        failed = int((~good).sum())
        usable = good.any(axis=1)
        if usable.sum() < 2:
            msg = f"{failed} of {good.size} toys at mu = {mu} failed, so nothing is known there; look at the weights"
            raise SettingsError(msg)
        each, good = of_mu[usable], good[usable]
        mu_hat, low, high = (np.where(good, each[:, :, i], np.nan) for i in range(3))
        covered = np.where(good, (low <= mu) & (mu <= high), np.nan)
        variances = np.nanmean((mu_hat - np.nanmean(mu_hat)) ** 2, axis=1)
        width, error_of_width = _mean(np.nanmean(high - low, axis=1))
        variance, error_of_variance = _mean(variances)
        spread = max(math.sqrt(variance), 1e-12)
        error_of_spread = 0.5 * error_of_variance / spread
        ratio = width / (2.0 * spread)
        error = ratio * math.hypot(error_of_width / width, error_of_spread / spread)
        coverage, error_of_coverage = _mean(np.nanmean(covered, axis=1))
        bias, error_of_bias = _mean(np.nanmean(mu_hat - mu, axis=1))
        entries.append(
            {
                "mu": mu,
                "coverage": {"value": coverage, "error": error_of_coverage},
                "width": {"value": width, "error": error_of_width},
                "spread": {"value": spread, "error": error_of_spread},
                "ratio": {"value": ratio, "error": error},
                "bias": {"value": bias, "error": error_of_bias},
                "failed": failed,
                "met": abs(coverage - WANTED) <= TOLERANCE and abs(ratio - 1.0) <= WIDTH_TOLERANCE,
            }
        )
    return {"points": found.shape[1], "toys": found.shape[2], "mus": entries}


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Return the mean over points and its standard error."""
    return float(np.nanmean(values)), float(np.nanstd(values, ddof=1) / math.sqrt(len(values)))
