"""Weights folders, as the studies need them: likelihoods at a chosen truth, and expected events by process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sage.binned.statistic import BinnedLikelihood, asimov
from sage.challenge.nuisances import Nuisance, variant
from sage.errors import WeightsError
from sage.files.bundle import Bundle, read_bundle
from sage.files.manifest import MANIFEST
from sage.fit.objective import MU
from sage.measurement import likelihood_of, rates_of
from workshop.errors import UsageError

SIMULATION = ("both", "toys", "fit", "none")
"""Where the finite simulation is allowed for: in the toys' truth and the fit, in one of them, or nowhere."""


def open_weights(folder: Path) -> Bundle:
    """Read a weights folder.

    Raises:
        UsageError: If it is missing or damaged.
    """
    try:
        return read_bundle(folder)
    except WeightsError as error:
        raise UsageError(str(error)) from error


def weights_hash(folder: Path) -> str:
    """Return the sha256 of a weights folder's manifest, which holds those of all other files."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def nuisances_of(bundle: Bundle) -> tuple[Nuisance, ...]:
    """Return the nuisance table that the measurement uses."""
    return variant(bundle.settings["nuisances"])


def parameters_at(bundle: Bundle, mu: float, alphas: Mapping[str, float] | None = None) -> np.ndarray:
    """Return (mu, nu...), shape (7,), for physical values of some nuisances; the others are at nu = 0.

    Args:
        bundle: Content of a weights folder.
        mu: Signal strength.
        alphas: Energy scales, noise width in GeV and rate factors by name.

    Raises:
        UsageError: If a name is unknown or a value out of the nuisance's range.
    """
    given = dict(alphas or {})
    check_values(given, nuisances_of(bundle))
    parameters = np.zeros(1 + len(nuisances_of(bundle)))
    parameters[MU] = mu
    for i, nuisance in enumerate(nuisances_of(bundle), start=1):
        if nuisance.name in given:
            parameters[i] = nuisance.nu(given[nuisance.name])
    return parameters


def check_values(alphas: Mapping[str, float], nuisances: Sequence[Nuisance]) -> None:
    """Check physical values of some nuisances.

    Raises:
        UsageError: If a name is unknown or a value out of the nuisance's range.
    """
    clips = {nuisance.name: nuisance.clip for nuisance in nuisances}
    for name, alpha in alphas.items():
        if name not in clips:
            msg = f"no nuisance is called {name!r}; choose one of {', '.join(clips)}"
            raise UsageError(msg)
        low, high = clips[name]
        if not low <= alpha <= high:
            msg = f"{name} is {alpha}, but lies from {low} to {high} in the challenge; choose a value there"
            raise UsageError(msg)


def asimov_likelihood(bundle: Bundle, parameters: np.ndarray) -> BinnedLikelihood:
    """Return the likelihood of the bundle's Asimov data set at (mu, nu...)."""
    return asimov(likelihood_of(np.zeros(bundle.regions.n_bins), bundle), parameters)


def process_yields(bundle: Bundle, parameters: np.ndarray) -> np.ndarray:
    """Return the expected events of each process and bin at (mu, nu...), shape (4, n_bins)."""
    return rates_of(bundle).by_process(parameters)


def yields_at(bundle: Bundle, mu: float, alphas: Mapping[str, float]) -> np.ndarray:
    """Return the expected events of each process and bin, shape (4, n_bins).

    Args:
        bundle: Content of a weights folder.
        mu: Signal strength.
        alphas: Physical values of all nuisances by name.
    """
    rates = rates_of(bundle)
    return rates.yields(mu, [alphas[nuisance.name] for nuisance in rates.nuisances])
