"""What simulated events are worth: their effective weight for mu, process by process.

The effective weight w is the variance of mu_hat from the events over that from the data's statistics, as in ``pools``,
for one process with the others taken as exact: sum over showered events of (sum over rows of weight (g - mean g))^2,
over the statistical variance. It falls as one over the number of showered events, so w times rows, and w times the
time spent, do not depend on how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sage.challenge.nuisances import PROCESSES, SIGNAL
from sage.files.bundle import Bundle, read_bundle
from sage.files.manifest import MANIFEST
from sage.network.classifier import NetworkClassifier
from studies.pools import bins_at, nominal_bins, sensitivities
from training.events import Events

SIGNAL_SHARE = 0.5
"""The bins with the largest g that hold this share of the signal are signal-like."""
POINTS = ((0.98, 1.0, 0.0), (1.02, 1.0, 0.0), (1.0, 0.98, 0.0), (1.0, 1.02, 0.0), (1.0, 1.0, 3.0))
"""Points (tes, jes, soft_met) from which rows may come to matter."""


@dataclass(frozen=True)
class Worth:
    """What the events of one process are worth.

    Args:
        rows: Their number.
        w: Effective weight.
        error: Its standard deviation, by fluctuations of the number of each showered event.
        ideal: Effective weight that as many independent rows would have, were each one's weight ideal.
        largest: Largest row weight in signal-like bins, 0 where there is none.
    """

    rows: int
    w: float
    error: float
    ideal: float
    largest: float


def gain_of(weights: Path) -> np.ndarray | None:
    """Return d mu_hat / d n in each bin of a weights folder, shape (n_bins,); None for a folder of a network alone."""
    return Sensitivity(read_bundle(weights)).gain if (weights / MANIFEST).exists() else None


class Sensitivity:
    """How much an event in each bin moves mu_hat, by a weights folder with its tables taken as exact.

    Args:
        bundle: Content of the weights folder.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = replace(bundle, settings={**bundle.settings, "simulation_uncertainty": False})
        self._classifier = NetworkClassifier(bundle.network, bundle.normalisation, threads=1)
        self.gain, self.variance = sensitivities(self._bundle)
        signal = bundle.response.nominal[PROCESSES.index(SIGNAL)]
        order = np.argsort(-self.gain)
        self.signal_like = np.zeros(len(self.gain) + 1, dtype=bool)
        """Whether a bin is signal-like, the last entry (of no bin) is not; shape (n_bins + 1,)."""
        self.signal_like[order[: 1 + np.searchsorted(np.cumsum(signal[order]), SIGNAL_SHARE * signal.sum())]] = True

    def bins(self, events: Events) -> np.ndarray:
        """Return each event's bin at the nominal point, shape (n,), -1 for none."""
        return nominal_bins(self._bundle, self._classifier, events)

    def bins_of(self, region: str) -> np.ndarray:
        """Return the numbers of the bins of a region, none where there is no such region."""
        names = [found.name for found in self._bundle.regions.regions for _ in found.edges[1:]]
        return np.flatnonzero(np.array(names) == region)

    def at(self, bins: np.ndarray) -> np.ndarray:
        """Return d mu_hat / d n in each bin, shape (n,), 0 in none."""
        found: np.ndarray = np.append(self.gain, 0.0)[bins]
        return found

    def importance(self, events: Events, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return how far a unit of weight of each event moves mu_hat, shape (n,), and its nominal bin, shape (n,).

        The first is the root mean square of |g - mean g| at the nominal point and of its largest value at ``POINTS``.

        Args:
            events: The events.
            seed: Decides the noise of the missing momentum.
        """
        noise = np.random.default_rng(seed).standard_normal((2, len(events)))
        bins = self.bins(events)
        mean = np.zeros(len(PROCESSES))
        for number in np.unique(events.classes):
            here = events.classes == number
            mean[number] = np.average(self.at(bins[here]), weights=events.weights[here])
        nominal = np.abs(self.at(bins) - mean[events.classes])
        moved = np.zeros(len(events))
        for point in POINTS:
            found = bins_at(point, noise, self._bundle, self._classifier, events)
            np.maximum(moved, np.abs(self.at(found) - mean[events.classes]), out=moved)
        return np.sqrt(0.5 * (nominal**2 + moved**2)), bins

    def measure(self, events: Events, bins: np.ndarray | None = None) -> dict[str, Worth]:
        """Return what the events of each process are worth that has any.

        Args:
            events: Events with weights that add up to the expected number of each process.
            bins: Their bins, where these are known.
        """
        bins = self.bins(events) if bins is None else bins
        found = {}
        for number, name in enumerate(PROCESSES):
            here = np.flatnonzero(events.classes == number)
            if len(here):
                found[name] = self._worth(events.weights[here], bins[here], events.keys[here])
        return found

    def _worth(self, weights: np.ndarray, bins: np.ndarray, parents: np.ndarray) -> Worth:
        gain = self.at(bins)
        moves = weights * (gain - np.average(gain, weights=weights))
        squares = np.bincount(np.unique(parents, return_inverse=True)[1], moves) ** 2
        return Worth(
            rows=len(weights),
            w=float(squares.sum() / self.variance),
            error=float(np.sqrt((squares**2).sum()) / self.variance),
            ideal=float(np.abs(moves).sum() ** 2 / len(moves) / self.variance),
            largest=float(weights[self.signal_like[bins]].max(initial=0.0)),
        )
