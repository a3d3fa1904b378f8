"""The published unbinned method's own networks behind this project's likelihood (arXiv:2505.05544).

``studies.original_files`` reads them from a checkout. Regions, rates, shares and interval are those of the published
variant (``sage.unbinned.published``): three unbinned regions and three bins, of which two are cut in the class
probabilities of a fourth classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sage.binned.regions import bin_numbers, quantities
from sage.binned.statistic import binned_likelihood
from sage.challenge.features import DERIVED, Derived
from sage.challenge.nuisances import GOLLUM, PROCESSES
from sage.challenge.shifts import PRIMARIES, Columns
from sage.fit.interval import Interval
from sage.fit.slice import slice_interval
from sage.rates import N_TERMS, Rates
from sage.unbinned.likelihood import SumLikelihood, UnbinnedLikelihood
from sage.unbinned.published import SplineTemplates, published_factors
from sage.unbinned.ratios import KINEMATIC, PUBLISHED_MARK, UNBINNED, read_calibrations
from sage.unbinned.refined import RefinedTemplates
from sage.unbinned.response import PUBLISHED
from sage.unbinned.statistic import kernel, pack
from studies.original_files import TAGGER

TTBAR_CUT, DIBOSON_CUT = 0.4, 0.5
"""Class probabilities of the two control regions."""


class OriginalSurrogates:
    """The exported networks.

    Args:
        arrays: What ``studies.original_files.export`` returns.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        yields = np.stack([arrays[f"{region}/yields"] for region in UNBINNED], axis=1)
        self._calibrations = read_calibrations({**arrays, PUBLISHED_MARK: np.ones(1)}, yields)

    def coefficients(self, features: np.ndarray, region: str) -> tuple[np.ndarray, np.ndarray]:
        """Return shares (n, 4) and response (n, 4, 9) of events of an unbinned region.

        Args:
            features: Primary, then derived ones, shape (n, 28), float64.
            region: One of ``UNBINNED``.
        """
        probabilities = _softmax(self._network(f"{region}/share", features))
        response = np.zeros((len(features), len(PROCESSES), len(PUBLISHED.powers)))
        for p, process in enumerate(PROCESSES):
            name = f"{region}/{process}"
            response[:, p, self._arrays[f"{name}/terms"]] = self._network(name, features)
        return self._calibrations[region](probabilities), response

    def likelihood(self, columns: Columns, weights: np.ndarray) -> SumLikelihood:
        """Return the likelihood of selected events.

        Args:
            columns: Primary columns, shape (n,), float32.
            weights: Shape (n,).
        """
        derived = Derived(columns)
        values = quantities(columns, derived, np.zeros((len(weights), len(PROCESSES))))
        rows = [found for found, _ in bin_numbers(KINEMATIC, values)]
        everything = [*(columns[name] for name in PRIMARIES), *(derived[name] for name in DERIVED)]

        def features(inside: np.ndarray) -> np.ndarray:
            return np.stack([column[inside] for column in everything], axis=1).astype(np.float64)

        *unbinned, low_pt, high_mt = rows
        parts = [self.coefficients(features(own), name) for own, name in zip(unbinned, UNBINNED, strict=True)]
        events = tuple(pack(*part, weights[own]) for part, own in zip(parts, unbinned, strict=True))
        tagged = _softmax(self._network(f"{TAGGER}/share", features(high_mt)))
        is_ttbar = tagged[:, PROCESSES.index("ttbar")] >= TTBAR_CUT
        is_diboson = ~is_ttbar & (tagged[:, PROCESSES.index("diboson")] >= DIBOSON_CUT)
        counts = [weights[own].sum() for own in (low_pt, high_mt[is_ttbar], high_mt[is_diboson])]
        return self.of_events(events, np.array(counts, dtype=np.float64))

    def of_events(self, events: Any, counts: np.ndarray) -> SumLikelihood:
        """Return the likelihood of packed events of the unbinned regions and counts of the three bins."""
        factors = Rates(published_factors(self._arrays), GOLLUM)
        rates = Rates(SplineTemplates(self._arrays["rate_coefficients"]), GOLLUM)
        of_bins = np.zeros((N_TERMS, *self._arrays["bins/yields"].shape))
        of_bins[0] = self._arrays["bins/yields"]
        bins = RefinedTemplates(
            lambda _: of_bins, PUBLISHED, self._arrays["bins/responses"], np.zeros((0, len(counts)))
        )
        unbinned = UnbinnedLikelihood(rates, factors, PUBLISHED, events, np.zeros(len(GOLLUM)), kernel())
        return SumLikelihood((unbinned, binned_likelihood(Rates(bins, GOLLUM), counts)))

    def interval(self, columns: Columns, weights: np.ndarray) -> Interval:
        """Return the published interval of selected events; arguments as for ``likelihood``."""
        return slice_interval(self.likelihood(columns, weights))

    def _network(self, name: str, features: np.ndarray) -> np.ndarray:
        """Evaluate a network of rectified linear units, shape (n, n_out)."""
        scale = np.sqrt(self._arrays[f"{name}/variance"])
        values = ((features - self._arrays[f"{name}/mean"]) / scale).astype(np.float32)
        layer = 0
        while f"{name}/{layer}.weight" in self._arrays:
            values = np.maximum(values, 0.0) if layer else values
            values = values @ self._arrays[f"{name}/{layer}.weight"] + self._arrays[f"{name}/{layer}.bias"]
            layer += 1
        out: np.ndarray = values
        return out


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    out: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return out
