"""Step 10: from one pseudo-experiment's data frame to its answer.

``measure`` never raises for bad input: what cannot be measured gets a fixed, finite answer with the reason in its
flags, because one exception ends the whole run of a submission.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from sage.binned.counting import BLOCK, quantities_of
from sage.binned.regions import RegionSet, counts
from sage.binned.statistic import BinnedLikelihood, binned_likelihood
from sage.challenge.frame import read_test_set
from sage.challenge.nuisances import variant
from sage.challenge.shifts import Columns
from sage.errors import InputError, SageError, TimeLimitError
from sage.files.bundle import Bundle
from sage.fit.deadline import NEVER, Deadline, Timed
from sage.fit.interval import Interval
from sage.fit.ladder import climb
from sage.fit.misfit import misfit_scale, widened, worst_value
from sage.fit.objective import Objective
from sage.fit.posterior import posterior_interval
from sage.fit.published import published_interval
from sage.fit.slice import slice_interval
from sage.network.classifier import Classifier
from sage.rates import Rates

logger = logging.getLogger(__name__)

FALLBACK_MU, FALLBACK_HALF_WIDTH = 1.55, 0.99
"""Answer where nothing can be measured: the middle of the published range [0.1, 3] and 68.27 % of it."""

CountsInterval = Callable[[np.ndarray, Bundle, Deadline], Interval]
"""From counts, shape (n_bins,), to an interval of mu whose fit has all six nuisances."""
EventsInterval = Callable[[Columns, Bundle, Classifier, np.ndarray, Deadline], Interval]
"""The same from primary columns and weights of events, shape (n,) each; may raise ``TimeLimitError``."""


@dataclass(frozen=True)
class NuisanceResult:
    """A fitted nuisance parameter: nu, its parabolic standard deviation, and the physical value alpha."""

    nu: float
    sigma: float
    alpha: float


@dataclass(frozen=True)
class Measurement:
    """The answer to one pseudo-experiment and how it came about.

    Args:
        mu_hat: Signal strength.
        p16: Lower 68 % limit.
        p84: Upper 68 % limit.
        status: ``ok``, ``flagged`` (measured, but see the flags) or ``fallback`` (not measured).
        flags: What did not go the normal way.
        nll: Negative log-likelihood at the minimum, relative to the saturated model; None if not measured.
        n_events: Rows of the input.
        counts: Observed events per bin; empty if not measured, or not from counts.
        nuisances: Fitted nuisance parameters by name; empty if not measured.
        mu_range: Bounds on mu that the settings name, if any.
    """

    mu_hat: float
    p16: float
    p84: float
    status: str
    flags: tuple[str, ...] = ()
    nll: float | None = None
    n_events: int = 0
    counts: tuple[float, ...] = ()
    nuisances: dict[str, NuisanceResult] = field(default_factory=dict)
    mu_range: tuple[float, float] | None = None

    @property
    def delta_mu_hat(self) -> float:
        """Half of the interval's width."""
        return (self.p84 - self.p16) / 2

    def answer(self) -> dict[str, float]:
        """Return the dict the challenge asks for: a new one each time, plain floats."""
        return {"mu_hat": self.mu_hat, "delta_mu_hat": self.delta_mu_hat, "p16": self.p16, "p84": self.p84}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        return asdict(self) | {"delta_mu_hat": self.delta_mu_hat, "flags": list(self.flags)}


def measure(
    test_set: Mapping[str, Any], bundle: Bundle, classifier: Classifier, find: EventsInterval | None = None
) -> Measurement:
    """Measure the signal strength in one pseudo-experiment.

    Args:
        test_set: ``{"data": DataFrame, "weights": array}``; the frame is not changed.
        bundle: Tables, regions and settings.
        classifier: Gives the class probabilities that the regions are made for.
        find: Finds the interval; by the profile likelihood of counts if absent.
    """
    n_events = 0
    flags: list[str] = []
    # The published recipe takes minutes by design.
    deadline = Deadline(bundle.settings["time_limit"]) if bundle.settings["profile"] != "published" else NEVER
    try:
        columns, weights, flags = read_test_set(test_set)
        n_events = len(weights)
        if not weights.any():
            return _fallback("no_events", n_events)
        interval = (find or of_counts(profile_interval))(columns, bundle, classifier, weights, deadline)
        return _result(interval, bundle, [*flags, *classifier.flags], n_events)
    except InputError as error:
        return _fallback(f"input: {error}", n_events)
    except TimeLimitError as error:
        return _fallback(f"time_guard: counting stopped, {error}", n_events, flags)
    except Exception as error:
        # The one broad handler of the bundle: an exception here would end the whole submission.
        logger.debug("measurement failed", exc_info=True)
        return _fallback(f"{type(error).__name__}: {error}", n_events, flags)


def measure_counts(observed: np.ndarray, bundle: Bundle, n_events: int = 0) -> Measurement:
    """Measure the signal strength from counts per bin, shape (n_bins,), as ``measure`` does once it has counted.

    Args:
        observed: Sum of weights per bin.
        bundle: Tables, regions and settings.
        n_events: How many events were counted, for the record.
    """
    try:
        return _result(profile_interval(observed, bundle, NEVER), bundle, [], n_events)
    except SageError as error:
        return _fallback(f"{type(error).__name__}: {error}", n_events)


def count_events(
    columns: Columns,
    regions: RegionSet,
    classifier: Classifier,
    weights: np.ndarray | None = None,
    deadline: Deadline = NEVER,
) -> np.ndarray:
    """Run features, graph, network and regions block by block; return counts per bin, shape (n_bins,), float64.

    Raises:
        TimeLimitError: If the deadline passes before the last block.
    """

    def count(start: int) -> np.ndarray:
        deadline.check()
        rows = slice(start, start + BLOCK)
        found = quantities_of({name: column[rows] for name, column in columns.items()}, classifier)
        return counts(regions, found, None if weights is None else weights[rows])

    # Added up in the order of the blocks, so that threads do not change the sum of weights.
    return sum(classifier.map(count, range(0, len(columns["PRI_met"]), BLOCK)), start=np.zeros(regions.n_bins))


def of_counts(find: CountsInterval) -> EventsInterval:
    """Return what counts events and finds the interval of their counts."""

    def interval(
        columns: Columns, bundle: Bundle, classifier: Classifier, weights: np.ndarray, deadline: Deadline
    ) -> Interval:
        return find(count_events(columns, bundle.regions, classifier, weights, deadline), bundle, deadline)

    return interval


def profile_interval(observed: np.ndarray, bundle: Bundle, deadline: Deadline) -> Interval:
    """Return the interval of the profile likelihood of counts, shape (n_bins,)."""
    found = fit_interval(likelihood_of(observed, bundle), bundle.settings, deadline)
    return replace(found, counts=tuple(observed.tolist()))


def likelihood_of(observed: np.ndarray, bundle: Bundle) -> BinnedLikelihood:
    """Return the likelihood of observed counts, shape (n_bins,), under the bundle's templates and settings."""
    variances = bundle.variances if bundle.settings["simulation_uncertainty"] else None
    return binned_likelihood(rates_of(bundle), observed, variances)


def rates_of(bundle: Bundle) -> Rates:
    """Return the expected events under the bundle's templates and settings."""
    return Rates(bundle.templates, variant(bundle.settings["nuisances"]), bundle.regions.has_signal)


def fit_interval(objective: Objective, settings: Mapping[str, Any], deadline: Deadline = NEVER) -> Interval:
    """Return the signal strength and its limits as a bundle's settings want them.

    Raises:
        FitError: If every step of ``sage.fit.ladder`` fails.
    """
    if settings["profile"] == "published":
        return published_interval(objective)
    if settings["profile"] == "slice":
        return slice_interval(objective)
    given = settings["thresholds"]
    thresholds = None if given is None else (np.array(given["mu"]), np.array(given["delta_nll"]))
    mu_range, prior = _range(settings, "mu_range"), _range(settings, "flat_prior")
    interval = climb(objective, mu_range, thresholds, deadline, worst_value(objective))
    scale = misfit_scale(interval, objective)
    interval = widened(interval, objective, mu_range)
    if prior is None:
        return interval
    timed = objective if deadline is NEVER else Timed(objective, deadline)
    return posterior_interval(timed, interval, prior, scale)


def _range(settings: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    given = settings[name]
    return None if given is None else (float(given[0]), float(given[1]))


def _result(interval: Interval, bundle: Bundle, flags: list[str], n_events: int) -> Measurement:
    """Turn an interval into an answer, or into the fall-back if it holds no finite numbers."""
    mu_hat, low, high = interval.fit.mu, interval.low, interval.high
    all_flags = (*flags, *interval.flags)
    if not all(math.isfinite(value) for value in (mu_hat, low, high)):
        return _fallback("; ".join(("interval_not_finite", *all_flags)), n_events)
    if low >= high:
        return _fallback("; ".join(("interval_empty", *all_flags)), n_events)
    if bundle.settings["flat_prior"] is None and bundle.settings["profile"] != "slice":
        low, high = min(low, mu_hat), max(high, mu_hat)
    nuisances = {}
    for i, nuisance in enumerate(variant(bundle.settings["nuisances"]), start=1):
        nu = float(interval.fit.parameters[i])
        sigma = math.sqrt(max(float(interval.fit.covariance[i, i]), 0.0))
        nuisances[nuisance.name] = NuisanceResult(nu, sigma, nuisance.alpha(nu)[0])
    return Measurement(
        mu_hat=mu_hat,
        p16=low,
        p84=high,
        status="flagged" if all_flags else "ok",
        flags=all_flags,
        nll=interval.fit.value if math.isfinite(interval.fit.value) else None,
        n_events=n_events,
        counts=interval.counts,
        nuisances=nuisances,
        mu_range=_range(bundle.settings, "mu_range"),
    )


def _fallback(reason: str, n_events: int, flags: Sequence[str] = ()) -> Measurement:
    low, high = FALLBACK_MU - FALLBACK_HALF_WIDTH, FALLBACK_MU + FALLBACK_HALF_WIDTH
    return Measurement(FALLBACK_MU, low, high, "fallback", (reason, *flags), n_events=n_events)
