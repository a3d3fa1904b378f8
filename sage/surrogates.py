"""The unbinned measurement: from events to a likelihood that is unbinned in some regions and binned in the others.

What it needs besides tables of counts stands in ``surrogates.npz`` of the weights: the response networks, the maps that
calibrate the shares of the processes (``sage.unbinned.ratios``), the ``yields`` these were made for, shape (4, R), and
``norms`` and ``norm_coefficients``, those of Z (``sage.unbinned.norms``). ``displacements.SOURCE``, shape (T, K, 7),
tell how far errors of the surrogates move the parameters (``sage.recalibration``). In the tables an unbinned region is
one bin: its expected events. The published variant has ``rate_coefficients`` and the responses of the rates in place of
norms (``sage.unbinned.published``), which no table enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from sage.binned.counting import BLOCK
from sage.binned.regions import RegionSet
from sage.binned.response import Response
from sage.binned.statistic import BinnedLikelihood, binned_likelihood
from sage.challenge.nuisances import NAMES, PROCESSES, variant
from sage.challenge.shifts import Columns
from sage.errors import WeightsError
from sage.files.bundle import SURROGATES, Bundle
from sage.fit.deadline import NEVER, Deadline
from sage.fit.displaced import Displaced, Displacement, displaced
from sage.fit.interval import Interval
from sage.fit.objective import Objective
from sage.measurement import fit_interval, likelihood_of, rates_of
from sage.network.classifier import Classifier
from sage.rates import Rates, Templates
from sage.unbinned.displacement import covariance
from sage.unbinned.likelihood import SumLikelihood, UnbinnedLikelihood
from sage.unbinned.norms import NORM_BASIS, Factors
from sage.unbinned.published import SHAPE, SplineTemplates, published_factors
from sage.unbinned.ratios import (
    PUBLISHED_MARK,
    UNBINNED,
    ResponseNetworks,
    look,
    of_rows,
    rate_name,
    read_calibrations,
)
from sage.unbinned.response import PUBLISHED
from sage.unbinned.statistic import LARGEST_EXPONENT, Events, kernel, pack

MOST_OUTSIDE = 1e-3
"""Share of the events with a response out of range from which all regions are binned."""
DISPLACEMENTS = "displacements."
"""Begins the names of the arrays of displacements."""
LEAST_LOST = 1e-9
"""Share of the events that is more than rounding."""
CORNERS = tuple(product((0.98, 1.02), (0.98, 1.02), (0.0, 5.0)))
"""Where that is looked for: two standard deviations either way."""


@dataclass(frozen=True)
class Observed:
    """What is kept of some events.

    Args:
        counts: Sums of weights in all bins, shape (n_bins,).
        shares: Of each unbinned region, shape (n, P).
        responses: Shape (n, P, C).
        weights: Shape (n,).
        rows: Which of the events these are, shape (n,).
    """

    counts: np.ndarray
    shares: tuple[np.ndarray, ...]
    responses: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]


class Surrogates:
    """The surrogates of a bundle.

    Args:
        bundle: Content of the weights folder of an unbinned method.

    Raises:
        WeightsError: If it has none, or they do not fit each other.
    """

    def __init__(self, bundle: Bundle) -> None:
        arrays = bundle.surrogates
        shape = len(PROCESSES), len(UNBINNED)
        self._published = PUBLISHED_MARK in arrays
        if self._published:
            shapes = {"yields": shape, "rate_coefficients": (*shape, *SHAPE)}
            shapes |= {rate_name(*names): (len(PUBLISHED.powers),) for names in product(UNBINNED, PROCESSES)}
        else:
            shapes = {"yields": shape, "norms": shape, "norm_coefficients": (*shape, len(NORM_BASIS.powers))}
        inputs = np.shape(bundle.surrogates.get("mean", 0.0)) or ("inputs",)
        for name, expected in (shapes | {"mean": inputs, "std": inputs}).items():
            if name not in arrays or arrays[name].shape != expected:
                msg = f"{SURROGATES}: {name} is missing or not of shape {expected}; build the weights again"
                raise WeightsError(msg)
        self.networks = ResponseNetworks(arrays)
        self.calibrations = read_calibrations(arrays, arrays["yields"].astype(np.float64))
        self._arrays = {name: arrays[name].astype(np.float64) for name in shapes}
        self.displacements = tuple(
            Displacement(f"surrogate_{name.removeprefix(DISPLACEMENTS)}", _covariance(name, moves))
            for name, moves in arrays.items()
            if name.startswith(DISPLACEMENTS)
        )

    def interval(
        self, columns: Columns, bundle: Bundle, classifier: Classifier, weights: np.ndarray, deadline: Deadline = NEVER
    ) -> Interval:
        """Return the interval of some events; see ``sage.measurement.EventsInterval``."""
        objective, flags = self.observe(columns, bundle, classifier, weights, deadline)
        interval = fit_interval(objective, bundle.settings, deadline)
        best = objective.marginal(interval.fit) if isinstance(objective, Displaced) else interval.fit
        return replace(interval, fit=best, flags=(*flags, *interval.flags))

    def observe(
        self, columns: Columns, bundle: Bundle, classifier: Classifier, weights: np.ndarray, deadline: Deadline = NEVER
    ) -> tuple[Objective, tuple[str, ...]]:
        """Return the likelihood of some events, and flags; arguments as for ``interval``."""
        observed = self.look(columns, bundle.regions, classifier, weights, deadline)
        outside = self.outside(observed)
        places = [bundle.regions.slices[name].start for name in UNBINNED]
        lost = observed.counts[places].sum() - sum(float(each.sum()) for each in observed.weights)
        flags = []
        if lost > LEAST_LOST * observed.counts.sum():
            flags.append(f"surrogate_undefined: {lost:.6g} events in unbinned regions have no density and are left out")
        if outside > MOST_OUTSIDE:
            flags.append(f"surrogate_range: the response of {outside:.2%} of the events is out of range, all is binned")
            return likelihood_of(observed.counts, bundle), tuple(flags)
        if outside:
            flags.append(f"surrogate_range: the response of {outside:.3%} of the events is out of range")
        return self.with_errors(self.likelihood(observed, bundle), bundle), tuple(flags)

    def with_errors(self, objective: Objective, bundle: Bundle) -> Objective:
        """Return the objective with nuisance parameters of the surrogates' errors, if the settings want them."""
        return displaced(objective, self.displacements if bundle.settings["surrogate_uncertainty"] else ())

    def look(
        self,
        columns: Columns,
        regions: RegionSet,
        classifier: Classifier,
        weights: np.ndarray,
        deadline: Deadline = NEVER,
    ) -> Observed:
        """Count events and find the coefficients of those in unbinned regions.

        Raises:
            TimeLimitError: If the deadline passes before the last block.
        """

        def part(start: int) -> Observed:
            deadline.check()
            rows = slice(start, start + BLOCK)
            found, pieces = look(of_rows(columns, rows), regions, classifier, self.networks)
            counts = np.zeros(regions.n_bins)
            for inside, bins in found:
                counts += np.bincount(bins, weights[rows][inside], minlength=regions.n_bins)
            kept = [
                (
                    self.calibrations[name](piece.densities),
                    piece.response,
                    weights[rows][piece.rows],
                    start + piece.rows,
                )
                for name, piece in zip(UNBINNED, pieces, strict=True)
            ]
            return Observed(counts, *zip(*kept, strict=True))

        parts = list(classifier.map(part, range(0, len(weights), BLOCK)))
        joined = (
            tuple(np.concatenate([getattr(each, name)[r] for each in parts]) for r in range(len(UNBINNED)))
            for name in ("shares", "responses", "weights", "rows")
        )
        # Added up in the order of the blocks, so that threads do not change the sum of weights.
        return Observed(sum((each.counts for each in parts), start=np.zeros(regions.n_bins)), *joined)

    def outside(self, observed: Observed) -> float:
        """Return the share of the events in unbinned regions whose response leaves the range of exponents somewhere."""
        terms = self.networks.basis.terms(np.array(CORNERS)).astype(np.float32)
        # All processes of an event next to each other, after one product for all events.
        wild = [np.abs(terms @ response.reshape(-1, terms.shape[1]).T).max(axis=0) for response in observed.responses]
        n_processes = len(PROCESSES)
        beyond = [(each.reshape(-1, n_processes) > LARGEST_EXPONENT).any(axis=1) for each in wild]
        n = sum(map(len, beyond))
        return float(sum(each.sum() for each in beyond) / n) if n else 0.0

    def likelihood(self, observed: Observed, bundle: Bundle) -> SumLikelihood:
        """Return the likelihood of what was observed."""
        parts = zip(observed.shares, observed.responses, observed.weights, strict=True)
        events = tuple(pack(*each) for each in parts)
        return SumLikelihood((self.unbinned(events, bundle), binned_part(observed.counts, bundle)))

    def unbinned(self, events: tuple[Events, ...], bundle: Bundle) -> UnbinnedLikelihood:
        """Return the likelihood of the events of the unbinned regions."""
        nuisances = variant(bundle.settings["nuisances"])
        yields, factors = self.templates(bundle)
        return UnbinnedLikelihood(
            *(Rates(yields, nuisances), Rates(factors, nuisances), self.networks.basis, events),
            *(np.zeros(len(nuisances)), kernel()),
        )

    def templates(self, bundle: Bundle) -> tuple[Templates, Templates]:
        """Return the expected events of the unbinned regions and the factors of the processes."""
        if self._published:
            return SplineTemplates(self._arrays["rate_coefficients"]), published_factors(self._arrays)
        yields = bins_of(bundle.response, [bundle.regions.slices[name].start for name in UNBINNED])
        return yields, Factors(yields, self._arrays["norms"], self._arrays["norm_coefficients"])


def binned_part(counts: np.ndarray, bundle: Bundle) -> BinnedLikelihood:
    """Return the likelihood of the counts in the regions that are binned.

    Args:
        counts: Counts in all bins, shape (n_bins,).
        bundle: Tables, regions and settings.
    """
    slices = bundle.regions.slices
    places = [i for name, place in slices.items() if name not in UNBINNED for i in range(place.start, place.stop)]
    rates = rates_of(bundle)
    signal = bundle.regions.has_signal[places]
    variances = bundle.variances[:, places] if bundle.settings["simulation_uncertainty"] else None
    return binned_likelihood(
        Rates(bins_of(bundle.response, places), rates.nuisances, signal), counts[places], variances
    )


def bins_of(response: Response, places: Sequence[int]) -> Response:
    """Return the response of some of the bins."""
    return Response(response.nominal[:, places], response.coefficients[:, places])


def _covariance(name: str, moves: np.ndarray) -> np.ndarray:
    """Return the covariance of displacements of a file.

    Raises:
        WeightsError: If they are none.
    """
    if moves.ndim != 3 or moves.shape[0] < 1 or moves.shape[1] < 2 or moves.shape[2] != 1 + len(NAMES):
        msg = (
            f"{SURROGATES}: {name} has shape {moves.shape}, expected (truths, at least 2 replicas, {1 + len(NAMES)}); "
        )
        msg += "build the weights again"
        raise WeightsError(msg)
    return covariance(moves.astype(np.float64))
