"""From events to the coefficients of the unbinned likelihood: shares of the processes and their responses.

Shares come from class probabilities, brought to the expected events of the region and calibrated; responses from one
perceptron for each process and region. Regions are those of ``five``, told apart without class probabilities: in the
first three the likelihood is unbinned (arXiv:2505.05544).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sage.binned.regions import REGION_SETS, RegionSet, bin_numbers, quantities, ratios
from sage.challenge.features import Derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import Columns
from sage.errors import EngineError, WeightsError
from sage.network.classifier import Classifier, NetworkClassifier
from sage.network.graph import INPUT_SETS, Normalisation
from sage.network.inputs import network_inputs
from sage.network.library import LIBRARY, load
from sage.network.library_hash import SHA256
from sage.network.perceptron import NAME, Perceptron, shapes, widths_of
from sage.unbinned.response import EXACT, PUBLISHED, QUADRATIC, Basis

UNBINNED = ("lowMT_VBF", "highMT_VBF", "lowMT_noVBF_highPtH")
"""Regions whose events are not binned: the first three of ``five``."""

KINEMATIC = RegionSet(
    "kinematic", tuple(replace(region, observable="m_vis") for region in REGION_SETS["five"].regions), exclusive=True
)
"""The regions with one bin each, which no class probability decides."""

LEAST_SHARE = 1e-6
PUBLISHED_MARK = "published"
"""Array that is there where shares and rates are those of the published method, see ``sage.unbinned.published``."""
QUADRATIC_MARK = "quadratic"
"""Array that is there where the terms are those of the published method."""


MAP = "/calibration."
"""Part of the names of the arrays of a map."""


def network_name(region: str, process: str, parameter: str) -> str:
    """Return the name of a parameter of a response network among the arrays of a file."""
    return f"{region}/{process}/{NAME}.{parameter}"


def rate_name(region: str, process: str) -> str:
    """Return the name of the coefficients of a rate among the arrays of a file of the published variant."""
    return f"{region}/{process}/rate_response"


def map_name(region: str, process: str, stage: int, axis: str) -> str:
    """Return the name of one axis of a map of calibration among the arrays of a file."""
    return f"{region}/{process}{MAP}{stage}.{axis}"


def is_map(name: str) -> bool:
    """Tell whether an array of a file is an axis of a map of calibration."""
    return MAP in name


@dataclass(frozen=True)
class Calibration:
    """Monotone maps of the shares of one region; after each stage shares are normalised again.

    Args:
        yields: Expected events of the processes in the region, shape (P,).
        stages: For each stage and process, increasing shares and what they are mapped to; linear in between.
        keeps_signal: Whether only the backgrounds' shares are scaled, as the published method does.
    """

    yields: np.ndarray
    stages: tuple[tuple[tuple[np.ndarray, np.ndarray], ...], ...] = ()
    keeps_signal: bool = False

    def __call__(self, ratios: np.ndarray) -> np.ndarray:
        """Return the shares of n events.

        Args:
            ratios: Densities of the processes relative to a mixture of all, shape (n, P).

        Returns:
            Shape (n, P), float64, at least ``LEAST_SHARE``; rows sum to 1.
        """
        # One process after the other in memory, so that sums over them are sums of whole columns.
        shares = normalised(ratios.astype(np.float64, order="F") * self.yields)
        for maps in self.stages:
            mapped = np.array([np.interp(shares[:, p], *maps[p]) for p in range(len(maps))]).T
            if self.keeps_signal:
                signal = np.clip(mapped[:, :1], LEAST_SHARE, 1.0 - LEAST_SHARE)
                others = np.maximum(mapped[:, 1:], LEAST_SHARE)
                shares = np.hstack([signal, (1.0 - signal) * others / others.sum(axis=1, keepdims=True)])
            else:
                shares = normalised(mapped)
        return shares


def normalised(shares: np.ndarray) -> np.ndarray:
    """Return shares (n, P) whose rows sum to 1, none below ``LEAST_SHARE`` of the sum before."""
    total = shares.sum(axis=1, keepdims=True)
    safe = np.where(total > 0, shares / np.where(total > 0, total, 1.0), 1.0 / shares.shape[1])
    safe = np.maximum(safe, LEAST_SHARE)
    out: np.ndarray = safe / safe.sum(axis=1, keepdims=True)
    return out


class ResponseNetworks:
    """The response networks of all processes and regions.

    Args:
        arrays: ``mean`` and ``std`` of the inputs, and parameters named as ``network_name`` does.

    Raises:
        WeightsError: If a network is missing or its layers do not fit.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.basis: Basis = QUADRATIC if QUADRATIC_MARK in arrays else EXACT
        if PUBLISHED_MARK in arrays:
            self.basis = PUBLISHED
        found = [inputs for inputs in INPUT_SETS.values() if len(inputs.columns) == len(arrays["mean"])]
        if not found:
            msg = f"response networks have {len(arrays['mean'])} inputs, which is no choice of inputs of this code"
            raise WeightsError(msg)
        self.constants = Normalisation(arrays["mean"], arrays["std"], found[0])
        try:
            library = load(LIBRARY, SHA256)
        except EngineError:
            library = None
        self._networks = {}
        for region in UNBINNED:
            for process in PROCESSES:
                own = own_parameters(arrays, network_name(region, process, ""))
                self._check(own, region, process)
                self._networks[region, process] = Perceptron(own, library=library)

    def _check(self, own: Mapping[str, np.ndarray], region: str, process: str) -> None:
        widths = widths_of(own)
        sizes = (len(self.constants.mean), *(widths or ()), len(self.basis.powers))
        if widths is None or {name: array.shape for name, array in own.items()} != shapes(sizes):
            msg = f"the response network of {process} in {region} is missing or its layers do not fit"
            raise WeightsError(msg)

    def inputs(self, columns: Columns) -> np.ndarray:
        """Return the normalised inputs of n selected events, shape (n, number of inputs), float32."""
        return network_inputs(columns, Derived(columns), self.constants)[0]

    def __call__(self, values: np.ndarray, region: str) -> np.ndarray:
        """Return A of n events of a region.

        Args:
            values: What ``inputs`` returns.
            region: One of ``UNBINNED``.

        Returns:
            Shape (n, P, C), float32.
        """
        return np.stack([self.of_inputs(values, region, process) for process in PROCESSES], axis=1)

    def of_inputs(self, values: np.ndarray, region: str, process: str) -> np.ndarray:
        """Return A of one process, shape (n, C), float32, of normalised inputs (n, number of inputs)."""
        return self._networks[region, process](values)


def own_parameters(arrays: Mapping[str, np.ndarray], begin: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin so, by the names of a perceptron's parameters."""
    return {f"{NAME}.{name.removeprefix(begin)}": array for name, array in arrays.items() if name.startswith(begin)}


def read_calibrations(arrays: Mapping[str, np.ndarray], yields: np.ndarray) -> dict[str, Calibration]:
    """Return the calibration of each unbinned region.

    Args:
        arrays: Maps named as ``map_name`` does.
        yields: Expected events for which the maps were made, shape (P, R).
    """
    out = {}
    for r, region in enumerate(UNBINNED):
        stages: list[tuple[tuple[np.ndarray, np.ndarray], ...]] = []
        while map_name(region, PROCESSES[0], len(stages), "x") in arrays:
            names = [[map_name(region, process, len(stages), axis) for axis in "xy"] for process in PROCESSES]
            stages.append(tuple((arrays[x], arrays[y]) for x, y in names))
        out[region] = Calibration(yields[:, r], tuple(stages), PUBLISHED_MARK in arrays)
    return out


@dataclass(frozen=True)
class Inside:
    """Events of one unbinned region.

    Args:
        rows: Which of the events these are, shape (n,); those without numbers for everything are left out.
        densities: Of the processes relative to a mixture of all, shape (n, P).
        inputs: Of the response networks, shape (n, number of inputs), float32.
        response: A, shape (n, P, C), float32.
    """

    rows: np.ndarray
    densities: np.ndarray
    inputs: np.ndarray
    response: np.ndarray

    def defined(self) -> Inside:
        """Return the events that have numbers for everything."""
        n_processes, n_terms = self.response.shape[1:]
        parts = self.densities, self.response.reshape(len(self.rows), n_processes * n_terms)
        if all(np.isfinite(part).all() for part in parts):
            return self
        known = np.logical_and(*(np.isfinite(part).all(axis=1) for part in parts))
        return Inside(self.rows[known], self.densities[known], self.inputs[known], self.response[known])


def look(
    block: Columns, regions: RegionSet, classifier: Classifier, networks: ResponseNetworks
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[Inside]]:
    """Find the bins of some selected events, and what the surrogates say of those in unbinned regions.

    Args:
        block: Their primary columns, shape (n,), float32.
        regions: All regions; their names tell the unbinned ones.
        classifier: Gives the class probabilities.
        networks: Give the response.

    Returns:
        What ``sage.binned.regions.bin_numbers`` does, and the events of each unbinned region.
    """
    names = [region.name for region in regions.regions]
    derived = Derived(block)
    shared = None
    if isinstance(classifier, NetworkClassifier) and classifier.reads(networks.constants):
        shared, jets = network_inputs(block, derived, networks.constants)
        outputs = classifier.outputs_of(shared, jets)
    else:
        outputs = classifier.outputs(block, derived)
    values = quantities(block, derived, outputs)
    found = bin_numbers(regions, values)
    densities = np.array(ratios(regions, values))
    pieces = []
    for name in UNBINNED:
        rows = found[names.index(name)][0]
        # Inputs lie one after the other in memory, as densities do.
        inputs = networks.inputs(of_rows(block, rows)) if shared is None else shared.T.take(rows, axis=1).T
        inside = Inside(rows, densities.take(rows, axis=1).T, inputs, networks(inputs, name))
        pieces.append(inside.defined())
    return found, pieces


def of_rows(values: Mapping[str, Any], rows: slice | np.ndarray) -> dict[str, Any]:
    """Return the given rows of all columns."""
    return {name: column[rows] for name, column in values.items()}
