"""Toys at the level of counts: drawn from the templates, fitted like data.

A toy's true nuisances are those that the challenge draws with the toy's seed, so a toy and a pseudo-experiment of the
same seed share them. Its counts are Poisson around the templates' expectation. With simulation uncertainty, the truth
is not the templates themselves: each process and bin is off by one factor, the same at all nuisance points, drawn with
the relative variance of its simulated yield.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.pseudo_experiments import draw_nuisances
from harness.settings import LARGEST_SEED, MU_RANGE
from sage.binned.statistic import BinnedLikelihood, with_counts
from sage.challenge.nuisances import CHALLENGE, NAMES
from sage.errors import FitError
from sage.files.bundle import Bundle
from sage.fit.interval import Interval
from sage.fit.newton import fit
from sage.measurement import fit_interval, likelihood_of
from studies.faults import FAULTS, faulty_likelihood, faulty_templates
from studies.likelihoods import SIMULATION, check_values, nuisances_of, open_weights, weights_hash, yields_at
from workshop.errors import UsageError

OK, FLAGGED, FAILED = "ok", "flagged", "failed"
NOMINAL = (1.0, 1.0, 0.0)


@dataclass(frozen=True)
class ToySettings:
    """What decides the toys; travels to worker processes.

    Args:
        weights: Weights folder.
        seed: Toy number i has the seed ``seed + i``.
        mus: True signal strengths, taken in turn; None draws them uniformly from ``mu_range``.
        mu_range: See ``mus``.
        systematics: Nuisances that are drawn; the others are nominal.
        simulation: One of ``SIMULATION``.
        fault: What is wrong with the fit, one of ``FAULTS``; None for nothing.
        fixed: Nuisances that have the same physical value in all toys, drawn or not; the fit does not know it.
    """

    weights: Path
    seed: int
    mus: tuple[float, ...] | None = None
    mu_range: tuple[float, float] = MU_RANGE
    systematics: tuple[str, ...] = NAMES
    simulation: str = "none"
    fault: str | None = None
    fixed: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.simulation not in SIMULATION:
            msg = f"simulation is {self.simulation!r}; choose one of {', '.join(SIMULATION)}"
            raise UsageError(msg)
        if self.fault is not None and self.fault not in FAULTS:
            msg = f"no fault is called {self.fault!r}; choose one of {', '.join(FAULTS)}"
            raise UsageError(msg)
        if not 0 <= self.seed <= LARGEST_SEED:
            msg = f"seed is {self.seed}; it must lie in 0 to {LARGEST_SEED}"
            raise UsageError(msg)
        check_values(dict(self.fixed), CHALLENGE)

    def identity(self) -> dict[str, Any]:
        """Return what decides the rows, as plain values."""
        identity = {
            "format": 1,
            "level": "counts",
            "weights": weights_hash(self.weights),
            "seed": self.seed,
            "mus": self.mus,
            "mu_range": None if self.mus else self.mu_range,
            "systematics": self.systematics,
            "simulation": self.simulation,
            "fault": self.fault,
        }
        # Left out where there is none, so that runs from before this existed can be continued.
        return identity | ({"fixed": dict(sorted(self.fixed))} if self.fixed else {})


def run_toys(settings: ToySettings, numbers: range) -> pd.DataFrame:
    """Draw and fit the toys with the given numbers; one row each, see ``toy_row``."""
    bundle, empty = _prepared(settings)
    rows = []
    for number in numbers:
        truth = draw_truth(settings, number)
        counts = draw_counts(bundle, truth, settings, number)
        rows.append(toy_row(bundle, with_counts(empty, counts), truth, number))
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Truth:
    """True signal strength and physical values of the nuisances."""

    mu: float
    alphas: dict[str, float]


def draw_truth(settings: ToySettings, number: int) -> Truth:
    """Draw the truth of a toy; what is switched off is nominal. Fixing a nuisance does not change what is drawn."""
    drawn = draw_nuisances(settings.seed + number, settings.systematics)
    alphas = {name: 1.0 if alpha is None else float(alpha) for name, alpha in drawn.items()}
    alphas |= dict(settings.fixed)
    if settings.mus is not None:
        return Truth(settings.mus[number % len(settings.mus)], alphas)
    return Truth(float(_rng(settings, number, 0).uniform(*settings.mu_range)), alphas)


def draw_counts(bundle: Bundle, truth: Truth, settings: ToySettings, number: int) -> np.ndarray:
    """Draw the counts of a toy, shape (n_bins,)."""
    yields = yields_at(bundle, truth.mu, truth.alphas)
    if settings.simulation in ("both", "toys"):
        nominal = bundle.templates.terms(NOMINAL)[0]
        yields *= template_factors(nominal, bundle.variances, _rng(settings, number, 1))
    counts: np.ndarray = _rng(settings, number, 2).poisson(yields.sum(axis=0)).astype(np.float64)
    return counts


def template_factors(yields: np.ndarray, variances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw true over simulated yield of each process and bin: gamma-distributed with mean 1, so never negative.

    Args:
        yields: Simulated yields, any shape.
        variances: Their variances; 0 gives the factor 1.
        rng: Random numbers.
    """
    relative = np.divide(variances, yields**2, out=np.zeros(yields.shape), where=yields > 0)
    known = relative > 0
    shape = 1.0 / np.where(known, relative, 1.0)
    return np.where(known, rng.gamma(shape) / shape, 1.0)


def toy_row(bundle: Bundle, likelihood: BinnedLikelihood, truth: Truth, number: int) -> dict[str, Any]:
    """Fit one toy.

    Returns:
        ``number``, ``mu``; ``mu_hat``, ``sigma_mu`` (parabolic), ``p16``, ``p84``; ``true_NAME``, ``fit_NAME`` and
        ``sigma_NAME`` of each nuisance, in nu; ``nll`` at the minimum; ``rise``, that of the profiled nll at the true
        mu above it; ``degrees`` of freedom of 2 nll; ``status`` and ``flags``. Numbers are NaN if the fit failed.
    """
    nuisances = nuisances_of(bundle)
    true_nus = np.array([nuisance.nu(truth.alphas[nuisance.name]) for nuisance in nuisances])
    row: dict[str, Any] = {"number": number, "mu": truth.mu}
    row |= {f"true_{nuisance.name}": nu for nuisance, nu in zip(nuisances, true_nus.tolist(), strict=True)}
    try:
        interval = fit_interval(likelihood, bundle.settings)
        rise = rise_at(likelihood, interval, truth.mu, true_nus)
        estimate = _estimates(interval)
        status = FLAGGED if interval.flags else OK
        flags = "; ".join(interval.flags)
    except (FitError, ArithmeticError, ValueError) as error:  # numpy's LinAlgError is a ValueError
        rise, estimate, status, flags = np.nan, np.full((5 + 2 * len(nuisances)), np.nan), FAILED, repr(error)
    mu_hat, sigma_mu, p16, p84, nll = estimate[:5].tolist()
    row |= {"mu_hat": mu_hat, "sigma_mu": sigma_mu, "p16": p16, "p84": p84, "nll": nll, "rise": rise}
    for i, nuisance in enumerate(nuisances):
        row |= {f"fit_{nuisance.name}": estimate[5 + i], f"sigma_{nuisance.name}": estimate[5 + len(nuisances) + i]}
    # Per bin one count, and one constraint for each nuisance; mu and the nuisances are fitted.
    return row | {"degrees": len(likelihood.statistic.counts) - 1, "status": status, "flags": flags}


def rise_at(likelihood: BinnedLikelihood, interval: Interval, mu: float, nus: np.ndarray) -> float:
    """Return the rise of the profiled negative log-likelihood at ``mu`` above its minimum.

    Profiled from the fitted and from other nuisances ``nus``, as there may be two valleys; the lower one counts.
    """
    best = interval.fit
    starts = (best.parameters[1:], nus)
    values = [fit(likelihood, np.concatenate([[mu], start]), fixed_mu=mu).value for start in starts]
    return min(values) - best.value


@functools.lru_cache(maxsize=2)
def _prepared(settings: ToySettings) -> tuple[Bundle, BinnedLikelihood]:
    """Return what the toys are drawn from, and the likelihood that fits them, without counts."""
    bundle = open_weights(settings.weights)
    fitted = replace(
        bundle, settings={**bundle.settings, "simulation_uncertainty": settings.simulation in ("both", "fit")}
    )
    likelihood = likelihood_of(np.zeros(bundle.regions.n_bins), faulty_templates(fitted, settings.fault))
    if settings.simulation in ("both", "fit") and not likelihood.statistic.variance.any():
        msg = (
            f"{settings.weights}: the likelihood of these weights has no simulation uncertainty; use --simulation none"
        )
        raise UsageError(msg)
    return bundle, faulty_likelihood(likelihood, settings.fault)


def _estimates(interval: Interval) -> np.ndarray:
    best = interval.fit
    sigmas = np.sqrt(np.maximum(np.diag(best.covariance)[1:], 0.0))
    return np.concatenate(
        [[best.mu, best.sigma_mu, interval.low, interval.high, best.value], best.parameters[1:], sigmas]
    )


def _rng(settings: ToySettings, number: int, purpose: int) -> np.random.Generator:
    """Return random numbers that depend on the toy and what they are for, and on nothing else."""
    return np.random.default_rng([settings.seed, number, purpose])
