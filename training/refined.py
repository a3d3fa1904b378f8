r"""Surrogates with nuisances and processes that were added to them; see ``training.refining``, which makes them.

Everything is kept by name: ``PROCESS`` for a process's response to the first three shape nuisances,
``PROCESS+NUISANCE`` for its factor from an added one, ``PROCESS+share`` for its density. Each has networks, region by
region, and

    rate           coefficients of the logarithm of the expected events of each bin, shape (B, number of monomials)
    norm           those of the integral over the nominal density in each region, shape (R, number of monomials)
    nominal, sums  of an added process: its expected events (B,), and the integral at the nominal point (R,)

all in the monomials of ``Refinements.basis``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product

import numpy as np

from sage.binned.statistic import BinnedLikelihood, binned_likelihood
from sage.challenge.nuisances import PROCESSES, Linear, Nuisance, variant
from sage.challenge.shifts import Columns
from sage.errors import WeightsError
from sage.files.bundle import Bundle
from sage.network.classifier import Classifier
from sage.network.perceptron import Perceptron
from sage.rates import Rates, signal_times_mu
from sage.surrogates import Observed, Surrogates, bins_of
from sage.unbinned.likelihood import SumLikelihood, UnbinnedLikelihood
from sage.unbinned.norms import DEGREE, NORM_BASIS, Factors
from sage.unbinned.ratios import UNBINNED, network_name, of_rows, own_parameters
from sage.unbinned.refined import RefinedFactors, RefinedTemplates, extended
from sage.unbinned.response import EXACT, Basis, Coordinate
from sage.unbinned.statistic import kernel, pack

ORDER = ((1,), (2,))
"""Powers of an added nuisance in its factor."""
LARGEST_LOG = 15.0
"""Bound on the logarithm of an added process's density over the others'."""


@dataclass(frozen=True)
class AddedNuisance:
    """A nuisance alpha around 1 that was added.

    Args:
        name: Its name.
        width: Standard deviation of its constraint.
        ends: Range of alpha.
    """

    name: str
    width: float
    ends: tuple[float, float]

    @property
    def basis(self) -> Basis:
        """The monomials of its factor, in widths from 1."""
        return Basis(self.name, (Coordinate(self.name, 1.0, self.width, self.ends),), ORDER)

    @property
    def nuisance(self) -> Nuisance:
        """The nuisance parameter."""
        return Nuisance(self.name, "shape", Linear(1.0, self.width), clip=self.ends)


@dataclass(frozen=True)
class AddedProcess:
    """A process that was added.

    Args:
        name: Its name.
        rate_width: Standard deviation of its rate relative to the expectation; 0 for a rate that is known.
    """

    name: str
    rate_width: float = 0.0

    @property
    def nuisances(self) -> tuple[Nuisance, ...]:
        """The nuisance parameter of its rate, if it has one."""
        if self.rate_width == 0.0:
            return ()
        clip = (0.0, 1.0 + 5.0 * self.rate_width)
        return (Nuisance(f"{self.name}_scale", "norm", Linear(1.0, self.rate_width), clip, scales=(self.name,)),)


@dataclass(frozen=True)
class Refinements:
    """What was added, in this order.

    Args:
        nuisances: Nuisances.
        processes: Processes.
    """

    nuisances: tuple[AddedNuisance, ...] = ()
    processes: tuple[AddedProcess, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all processes."""
        return (*PROCESSES, *(process.name for process in self.processes))

    @property
    def response(self) -> Basis:
        """Monomials of the events' response."""
        return extended(EXACT, [nuisance.basis for nuisance in self.nuisances])

    @cached_property
    def basis(self) -> Basis:
        """Monomials of rates and norms: those of ``NORM_BASIS``, then of each nuisance with all that came before it."""
        n = len(self.nuisances)
        powers = [(*own, *(0,) * n) for own in NORM_BASIS.powers]
        coordinates = list(NORM_BASIS.coordinates)
        for k, each in enumerate(self.nuisances):
            unit = max(abs(end - 1.0) for end in each.ends)
            coordinates.append(Coordinate(each.name, 1.0, unit, each.ends))
            powers += [(*own, *(0,) * (n - k - 1)) for own in mixed_powers(len(coordinates))]
        return Basis("refined", tuple(coordinates), tuple(powers))

    def monomials(self, number: int) -> slice:
        """Return the places of the monomials of a nuisance among all; -1 for those of the first three."""
        sizes = [len(NORM_BASIS.powers), *(len(mixed_powers(4 + k)) for k in range(len(self.nuisances)))]
        stops = np.cumsum(sizes).tolist()
        return slice(stops[number + 1] - sizes[number + 1], stops[number + 1])


def mixed_powers(n: int) -> list[tuple[int, ...]]:
    """Return the exponents of n coordinates with one of the last at least; noise acts by even powers only."""
    return [
        powers
        for powers in product(range(DEGREE + 1), repeat=n)
        if sum(powers) <= DEGREE and powers[2] != 1 and powers[-1] > 0
    ]


class Refined:
    """Surrogates of a bundle with what was added to them.

    Args:
        bundle: Content of the weights folder of an unbinned method.
        added: What was added.
        arrays: Its arrays; may hold others.

    Raises:
        WeightsError: If an array is missing or the surrogates are none that can be refined.
    """

    def __init__(self, bundle: Bundle, added: Refinements, arrays: Mapping[str, np.ndarray]) -> None:
        self.surrogates, self.bundle, self.added = Surrogates(bundle), bundle, added
        if self.surrogates.networks.basis != EXACT:
            msg = f"surrogates have the terms {self.surrogates.networks.basis.name!r}; only those with the terms "
            msg += f"{EXACT.name!r} can be refined: train others"
            raise WeightsError(msg)
        self._arrays = arrays
        self._networks = {
            (region, name): Perceptron(own)
            for region in UNBINNED
            for name in self._parts
            if (own := own_parameters(arrays, network_name(region, name, "")))
        }
        missing = [key for key in product(UNBINNED, self._parts) if key not in self._networks]
        if missing:
            msg = f"{missing[0][1]} has no network in {missing[0][0]}; refine the surrogates again"
            raise WeightsError(msg)

    @property
    def _parts(self) -> list[str]:
        """Names of what has networks of its own."""
        processes = [process.name for process in self.added.processes]
        pairs = product(self.added.names, self.added.nuisances)
        return [*processes, *map(share_name, processes), *(response_name(p, n.name) for p, n in pairs)]

    def coefficients(
        self, inputs: np.ndarray, region: str, shares: np.ndarray, response: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return shares and response of n events with those of what was added.

        Args:
            inputs: Normalised inputs, shape (n, number of inputs), float32.
            region: Where they are.
            shares: g of the processes that were there at first, shape (n, 4).
            response: Their A, shape (n, 4, 9).

        Returns:
            Shapes (n, P) and (n, P, C).
        """
        names = [process.name for process in self.added.processes]
        logs = [self._networks[region, share_name(name)](inputs) for name in names]
        ratios = [np.exp(np.clip(each.astype(np.float64), -LARGEST_LOG, LARGEST_LOG)) for each in logs]
        more = [self._networks[region, name](inputs)[:, None] for name in names]
        parts = [np.concatenate([response, *more], axis=1)]
        for nuisance in self.added.nuisances:
            own = [self._networks[region, response_name(name, nuisance.name)](inputs) for name in self.added.names]
            parts.append(np.stack(own, axis=1))
        return np.concatenate([shares, *ratios], axis=1), np.concatenate(parts, axis=2)

    def look(self, columns: Columns, classifier: Classifier, weights: np.ndarray) -> Observed:
        """Count events and find the coefficients of those in unbinned regions; as ``Surrogates.look``."""
        found = self.surrogates.look(columns, self.bundle.regions, classifier, weights)
        pairs = []
        for r, region in enumerate(UNBINNED):
            inputs = self.surrogates.networks.inputs(of_rows(columns, found.rows[r]))
            pairs.append(self.coefficients(inputs, region, found.shares[r], found.responses[r]))
        shares, responses = zip(*pairs, strict=True)
        return replace(found, shares=shares, responses=responses)

    def likelihood(self, observed: Observed) -> SumLikelihood:
        """Return the likelihood of what was observed; nuisances that were added come last."""
        parts = zip(observed.shares, observed.responses, observed.weights, strict=True)
        events = tuple(pack(*each) for each in parts)
        factors = replace(self._rates(self._unbinned_places), templates=self._factors)
        unbinned = UnbinnedLikelihood(
            *(self._rates(self._unbinned_places), factors, self.added.response, events),
            *(np.zeros(len(factors.nuisances)), kernel()),
        )
        return SumLikelihood((unbinned, self.binned(observed.counts)))

    def binned(self, counts: np.ndarray) -> BinnedLikelihood:
        """Return the likelihood of counts, shape (n_bins,), in the regions that are binned, with exact templates."""
        places = np.setdiff1d(np.arange(self.bundle.regions.n_bins), self._unbinned_places)
        rates = replace(self._rates(places), has_signal=self.bundle.regions.has_signal[places])
        return binned_likelihood(rates, counts[places])

    @property
    def nuisances(self) -> tuple[Nuisance, ...]:
        """The nuisance table: the measurement's, then those that were added."""
        more = [nuisance.nuisance for nuisance in self.added.nuisances]
        rates = [nuisance for process in self.added.processes for nuisance in process.nuisances]
        return (*variant(self.bundle.settings["nuisances"]), *more, *rates)

    @property
    def _unbinned_places(self) -> np.ndarray:
        return np.array([self.bundle.regions.slices[name].start for name in UNBINNED])

    def _rates(self, places: np.ndarray) -> Rates:
        base = bins_of(self.bundle.response, places.tolist())
        coefficients = self._collected("rate", self.bundle.regions.n_bins)[:, places]
        added = [self._arrays[array_name(process.name, "nominal")][places] for process in self.added.processes]
        templates = RefinedTemplates(
            base.terms, self.added.basis, coefficients, np.reshape(added, (len(added), len(places)))
        )
        composition = partial(signal_times_mu, n_processes=len(self.added.names))
        return Rates(templates, self.nuisances, composition=composition, processes=self.added.names)

    @cached_property
    def _factors(self) -> RefinedFactors:
        places = self._unbinned_places
        base = self.surrogates.templates(self.bundle)[1]
        assert isinstance(base, Factors)
        rates = self._collected("rate", self.bundle.regions.n_bins)[:, places]
        names = [process.name for process in self.added.processes]
        nominal = np.reshape([self._arrays[array_name(name, "nominal")][places] for name in names], (-1, len(places)))
        sums = np.reshape([self._arrays[array_name(name, "sums")] for name in names], (-1, len(places)))
        added = np.divide(nominal, sums, out=np.zeros(nominal.shape), where=sums > 0)
        coefficients = rates - self._collected("norm", len(places))
        return RefinedFactors(RefinedTemplates(base.by_region, self.added.basis, coefficients, added))

    def _collected(self, kind: str, n_bins: int) -> np.ndarray:
        """Return the coefficients of all processes and monomials, shape (P, n_bins, M)."""
        out = np.zeros((len(self.added.names), n_bins, len(self.added.basis.powers)))
        for p, name in enumerate(self.added.names):
            if p >= len(PROCESSES):
                out[p, :, self.added.monomials(-1)] = self._arrays[array_name(name, kind)]
            for k, nuisance in enumerate(self.added.nuisances):
                out[p, :, self.added.monomials(k)] = self._arrays[array_name(response_name(name, nuisance.name), kind)]
        return out


def response_name(process: str, nuisance: str) -> str:
    """Return the name of a process's factor from an added nuisance."""
    return f"{process}+{nuisance}"


def share_name(process: str) -> str:
    """Return the name of the density of an added process."""
    return f"{process}+share"


def array_name(name: str, kind: str) -> str:
    """Return the name of an array of what was added; see the head of the module."""
    return f"refined/{name}/{kind}"
