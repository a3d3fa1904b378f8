"""Likelihoods of made-up templates."""

from __future__ import annotations

from dataclasses import replace

from sage.binned.statistic import BinnedLikelihood, binned_likelihood
from sage.rates import Rates


def likelihood_from(templates, nuisances, counts, has_signal=None, centres=None, variances=None) -> BinnedLikelihood:
    return binned_likelihood(Rates(templates, tuple(nuisances), has_signal), counts, variances, centres)


def with_variances(likelihood, variances) -> BinnedLikelihood:
    """Return the likelihood with other variances of the simulated yields, shape (4, n_bins); None for exact ones."""
    again = binned_likelihood(likelihood.rates, likelihood.statistic.counts, variances)
    return replace(likelihood, statistic=again.statistic)
