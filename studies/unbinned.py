r"""What an unbinned method expects, and toys of it, from the simulated events of its own weights.

The sample of nominal events, each with its weight w and the density R at a truth relative to that of the sample, stands
for nature: the Asimov data set has the weights w R, a toy Poisson numbers of each event with these means. Both are what
the likelihood supposes, so they tell its statistics and not the surrogates' faults. A toy's true nuisances are those of
the challenge (``studies.toys``); counts of the binned regions are drawn from the templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sage.binned.statistic import BinnedLikelihood, asimov, with_counts, with_exact_templates
from sage.files.bundle import Bundle
from sage.fit.objective import Objective
from sage.likelihood import Likelihood
from sage.measurement import fit_interval
from sage.network.classifier import Classifier
from sage.surrogates import Observed, Surrogates, binned_part
from sage.unbinned.likelihood import SumLikelihood, UnbinnedLikelihood
from sage.unbinned.statistic import pack
from studies.impacts import frozen
from studies.likelihoods import nuisances_of
from studies.toys import ToySettings, draw_truth
from training.events import EventsFile
from training.surrogate_calibration import observe_tables


@dataclass(frozen=True)
class Nature:
    """Simulated nominal events with their coefficients.

    Args:
        surrogates: The surrogates of the weights.
        bundle: The weights.
        observed: The events.
    """

    surrogates: Surrogates
    bundle: Bundle
    observed: Observed

    def densities(self, parameters: np.ndarray) -> list[np.ndarray]:
        """Return R of the events of each unbinned region at (mu, nu...)."""
        pairs = zip(self._whole.densities(parameters), self.observed.weights, strict=True)
        return [found[: len(own)] for found, own in pairs]

    def asimov(self, parameters: np.ndarray) -> SumLikelihood:
        """Return the likelihood of the Asimov data set at (mu, nu...), without the surrogates' errors."""
        pairs = zip(self.observed.weights, self.densities(parameters), strict=True)
        weights = [own * density for own, density in pairs]
        binned = asimov(self._binned, parameters)
        return SumLikelihood((self._with_weights(weights).centred(parameters[1:]), binned))

    def toy(self, parameters: np.ndarray, rng: np.random.Generator) -> Objective:
        """Return the likelihood of a toy at (mu, nu...).

        Data and auxiliary measurements, which are at 0, are displaced as far as the surrogates' errors displace what
        is measured, if the settings allow for them.
        """
        at, aims = parameters.copy(), np.zeros(len(parameters))
        if self.bundle.settings["surrogate_uncertainty"]:
            for source in self.surrogates.displacements:
                aims += rng.multivariate_normal(np.zeros(len(at)), source.covariance)
        at += aims
        pairs = zip(self.observed.weights, self.densities(at), strict=True)
        drawn = [rng.poisson(own * np.maximum(density, 0.0)).astype(float) for own, density in pairs]
        counts = rng.poisson(np.maximum(self._binned.expected(at), 0.0)).astype(float)
        both = SumLikelihood((self._with_weights(drawn), with_counts(self._binned, counts))).centred(aims[1:])
        return self.surrogates.with_errors(both, self.bundle)

    def _with_weights(self, weights: list[np.ndarray]) -> UnbinnedLikelihood:
        """Return the likelihood of the events with other weights; those without any are left out."""
        kept = [np.flatnonzero(each) for each in weights]
        parts = zip(self.observed.shares, self.observed.responses, weights, kept, strict=True)
        events = tuple(pack(g[rows], a[rows], own[rows]) for g, a, own, rows in parts)
        return replace(self._whole, events=events)

    @cached_property
    def _whole(self) -> UnbinnedLikelihood:
        """The likelihood of all events; what does not depend on their weights is made once."""
        parts = zip(self.observed.shares, self.observed.responses, self.observed.weights, strict=True)
        return self.surrogates.unbinned(tuple(pack(*each) for each in parts), self.bundle)

    @cached_property
    def _binned(self) -> BinnedLikelihood:
        return binned_part(self.observed.counts, self.bundle)


def read_nature(bundle: Bundle, data: Path, table_fraction: float, classifier: Classifier) -> Nature:
    """Read the simulated events of a method's weights.

    Args:
        bundle: The weights.
        data: Folder of the events file.
        table_fraction: Fraction of its rows, the first ones, that made the weights.
        classifier: Gives the class probabilities.
    """
    surrogates = Surrogates(bundle)
    file = EventsFile(data, table_fraction)
    observed = observe_tables(file, lambda columns, w: surrogates.look(columns, bundle.regions, classifier, w))
    return Nature(surrogates, bundle, observed)


def toy_row(nature: Nature, settings: ToySettings, number: int) -> dict[str, Any]:
    """Draw and fit one toy.

    Returns:
        ``number``, ``mu``, ``mu_hat``, ``p16``, ``p84``, ``covered``, ``pull`` in parabolic deviations, and ``flags``.
    """
    truth = draw_truth(settings, number)
    nuisances = nuisances_of(nature.bundle)
    nus = [nuisance.nu(truth.alphas[nuisance.name]) for nuisance in nuisances]
    rng = np.random.default_rng([settings.seed, number])
    interval = fit_interval(nature.toy(np.array([truth.mu, *nus]), rng), nature.bundle.settings)
    best = interval.fit
    return {
        "number": number,
        "mu": truth.mu,
        "mu_hat": best.mu,
        "p16": interval.low,
        "p84": interval.high,
        "covered": bool(interval.low <= truth.mu <= interval.high),
        "pull": (best.mu - truth.mu) / best.sigma_mu,
        "flags": "; ".join(interval.flags),
    }


def expected(nature: Nature) -> dict[str, dict[str, float]]:
    """Return the distances to both limits at mu = 1 and nuisances at their centres.

    Of all, with the surrogates' errors and the binned templates' simulation uncertainty; without the first, and without
    either; with all nuisances held as well; and of the unbinned and the binned regions alone, with exact templates.
    """
    truth = np.array([1.0, *np.zeros(len(nuisances_of(nature.bundle)))])
    whole = nature.asimov(truth)
    unbinned, binned = whole.parts
    assert isinstance(binned, Likelihood)
    exact = SumLikelihood((unbinned, with_exact_templates(binned)))
    names = [nuisance.name for nuisance in whole.nuisances]
    objectives: dict[str, Objective] = {
        "all": nature.surrogates.with_errors(whole, nature.bundle),
        "exact surrogates": whole,
        "exact templates": exact,
        "statistical": frozen(exact, truth, names),
        "unbinned regions": unbinned,
        "binned regions": exact.parts[1],
    }
    found = {}
    for name, objective in objectives.items():
        interval = fit_interval(objective, nature.bundle.settings)
        mu = interval.fit.mu
        found[name] = {"mu_hat": mu, "down": mu - interval.low, "up": interval.high - mu}
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return coverage, pull and interval of toys with their errors, by true mu."""
    out = {}
    for mu in sorted({row["mu"] for row in rows}):
        own = [row for row in rows if row["mu"] == mu]
        n = len(own)
        covered = float(np.mean([row["covered"] for row in own]))
        pulls = np.array([row["pull"] for row in own])
        out[f"{mu:g}"] = {
            "toys": n,
            "coverage": covered,
            "coverage_error": float(np.sqrt(max(covered * (1 - covered), 1 / n) / n)),
            "pull": float(pulls.mean()),
            "pull_error": float(pulls.std() / np.sqrt(n)),
            "pull_width": float(pulls.std()),
            "interval": float(np.mean([row["p84"] - row["p16"] for row in own])),
            "flagged": sum(bool(row["flags"]) for row in own),
        }
    return out
