"""The extended likelihood of a mixture, unbinned and binned, as an objective of ``sage.fit``.

Per event -ln L holds nu(s, a) - ln sum_j f_j(s) nu_j r_j(x) prod_k G_jk(a_k) g_jk(x, a_k): a density, reference divided
out, so ratios to any reference give the same t. A histogram is the same sum over bins, with its own expectation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from nsbi.interpolation import Interpolation
from nsbi.mixture import DEGREES, Mixture
from sage.errors import InputError, SettingsError
from sage.fit.objective import Evaluation

ALPHA_RANGE = (-5.0, 5.0)
Coefficients = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Deviation:
    """A nuisance parameter in standard deviations, with a constraint of width 1."""

    name: str
    nu_range: tuple[float, float] = ALPHA_RANGE
    width: float = 1.0
    starts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Densities or yields of J processes at N events or bins.

    Args:
        values: Nominal, shape (N, J).
        factors: What multiplies each value, shape (N, J, K) or (1, J, K), one after the other.
    """

    values: np.ndarray
    factors: tuple[Interpolation, ...] = ()

    def at(self, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return values (N, J) and their first and second logarithmic derivatives, (N or 1, J, K) each."""
        values = self.values
        first: np.ndarray = np.zeros((1, values.shape[1], len(alphas)))
        second = first
        for factor in self.factors:
            f, slope, bend = factor(alphas)
            values = values * f.prod(axis=-1)
            slope, bend = slope / f, bend / f
            first, second = first + slope, second + bend + 2 * first * slope
        return values, first, second

    def expansion(self, coefficients: Coefficients, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray, _Second]:
        """Return the mixture (N,), its gradient (N, 1 + K), and what its second derivatives are made of."""
        f, f1, f2 = coefficients
        values, first, second = self.at(alphas)
        weighted = values * f
        slopes = np.einsum("nj,njk->nk", weighted, np.broadcast_to(first, (len(values), *first.shape[1:])))
        gradient = np.column_stack([values @ f1, slopes])
        return weighted.sum(axis=1), gradient, _Second(values, first, second, f, f1, f2)


@dataclass(frozen=True)
class _Second:
    """Second derivatives of a mixture at rows, as sums over rows only."""

    values: np.ndarray
    first: np.ndarray
    second: np.ndarray
    f: np.ndarray
    f1: np.ndarray
    f2: np.ndarray

    def summed(self, weights: np.ndarray) -> np.ndarray:
        """Return the weighted sum over rows, shape (1 + K, 1 + K)."""
        n_alphas = self.first.shape[-1]
        found = np.empty((1 + n_alphas, 1 + n_alphas))
        weighted = weights[:, None] * self.values
        found[0, 0] = weighted.sum(axis=0) @ self.f2
        if n_alphas:
            if len(self.first) == 1:
                weighted = weighted.sum(axis=0, keepdims=True)
            flat = self.first.reshape(-1, n_alphas)
            found[0, 1:] = found[1:, 0] = (weighted * self.f1).ravel() @ flat
            each = (weighted * self.f).ravel()
            found[1:, 1:] = (flat * each[:, None]).T @ flat
            found[np.arange(1, 1 + n_alphas), np.arange(1, 1 + n_alphas)] = each @ self.second.reshape(-1, n_alphas)
        return found


@dataclass(frozen=True)
class Channel:
    """One region: what is observed, and what is expected in all.

    Args:
        observed: Densities at the events, or yields in the bins.
        weights: How often each was observed: 1 per event, counts of bins, or weights of expected data, shape (N,).
        expected: Rows whose sum is the expected number of events.
    """

    observed: Rows
    weights: np.ndarray
    expected: Rows

    def __post_init__(self) -> None:
        values = self.observed.values
        if self.weights.shape != values.shape[:1] or not np.isfinite(values).all() or not (self.weights >= 0).all():
            msg = (
                f"{values.shape} densities and {self.weights.shape} weights; they must be finite, one weight from 0 up "
                "for each event: leave out events without a density, and reweight a positive sample"
            )
            raise InputError(msg)


def unbinned(
    ratios: np.ndarray,
    yields: np.ndarray,
    weights: np.ndarray | None = None,
    variations: Interpolation | None = None,
    yield_variations: Interpolation | None = None,
    simulation: Rows | None = None,
) -> Channel:
    """Return a region whose events are measured one by one.

    Interpolated densities are normalised at the variations, not in between, where -ln L then gains a curvature of the
    size of the events' number times the square of the effect. ``simulation`` takes the integral of what is
    interpolated instead; without it the expectation is that of arXiv:2412.01600, nu_j G_j.

    Args:
        ratios: nu_j p_j / p_ref at the events, shape (N, J).
        yields: nu_j, shape (J,).
        weights: Of the events; 1 each if absent.
        variations: g, of shape (N, J, K): varied shape divided by nominal.
        yield_variations: G, of shape (1, J, K).
        simulation: Simulated events whose columns add up to the yields, with their own g.
    """
    own = tuple(factor for factor in (yield_variations, variations) if factor is not None)
    shared = own[:1] if yield_variations is not None else ()
    if simulation is None:
        expected = Rows(yields[None], shared)
    else:
        expected = Rows(simulation.values, (*shared, *simulation.factors))
    return Channel(Rows(ratios, own), np.ones(len(ratios)) if weights is None else weights, expected)


def binned(yields: np.ndarray, counts: np.ndarray, variations: Interpolation | None = None) -> Channel:
    """Return a histogram: yields by bin and process, shape (N, J), and counts, (N,); variations (N, J, K)."""
    rows = Rows(yields, () if variations is None else (variations,))
    return Channel(rows, counts, rows)


@dataclass(frozen=True)
class MixtureLikelihood:
    """-ln of the likelihood of (s, a...), s the mixture's parameter; see ``sage.fit.objective.Objective``.

    Args:
        mixture: How the processes depend on s.
        channels: The regions; their likelihoods multiply.
        nuisances: K nuisance parameters.
        centres: Of their constraints, shape (K,); 0 if absent.
    """

    mixture: Mixture
    channels: tuple[Channel, ...]
    nuisances: tuple[Deviation, ...] = ()
    centres: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if len(self.centres) != len(self.nuisances):
            object.__setattr__(self, "centres", np.zeros(len(self.nuisances)))
        for channel in self.channels:
            shape = channel.observed.values.shape
            depths = {factor.log_up.shape[-1] for factor in (*channel.observed.factors, *channel.expected.factors)}
            if shape[1] != len(self.mixture.processes) or not depths <= {len(self.nuisances)}:
                msg = (
                    f"a region has {shape[1]} processes and variations of {sorted(depths)} nuisances, the mixture "
                    f"{len(self.mixture.processes)} and {len(self.nuisances)}; give one column for each"
                )
                raise SettingsError(msg)

    @property
    def kinks(self) -> Sequence[np.ndarray]:
        """None: all is smooth."""
        return [np.array([])] * len(self.nuisances)

    @cached_property
    def _polynomials(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each region's mixture at its events, and in all, as polynomials of s, shapes (N, 3) and (3,)."""
        both = ((channel.observed.values, channel.expected.values.sum(axis=0)) for channel in self.channels)
        return [(values @ self.mixture.polynomials, total @ self.mixture.polynomials) for values, total in both]

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (s, a...); infinite where a density is not positive."""
        s, alphas = float(parameters[0]), parameters[1:]
        total = 0.5 * float(((alphas - self.centres) ** 2).sum())
        if not self.nuisances:
            return total + float(self.scan(np.array([s]))[0])
        f = self.mixture.coefficients(s)[0]
        for channel in self.channels:
            total += _nll(
                channel.observed.at(alphas)[0] @ f, channel.weights, channel.expected.at(alphas)[0].sum(axis=0) @ f
            )
        return total

    def scan(self, s: np.ndarray) -> np.ndarray:
        """Return the negative log-likelihood without its constraints, nuisances nominal, at values of s, shape (n,)."""
        powers = np.asarray(s)[:, None] ** np.arange(DEGREES)
        found = np.zeros(len(s))
        for channel, (each, total) in zip(self.channels, self._polynomials, strict=True):
            found += [_nll(each @ power, channel.weights, power @ total) for power in powers]
        return found

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value and derivatives at (s, a...)."""
        s, alphas = float(parameters[0]), parameters[1:]
        pulls = alphas - self.centres
        value = 0.5 * float(pulls @ pulls)
        gradient = np.concatenate([[0.0], pulls])
        hessian = np.diag(np.concatenate([[0.0], np.ones(len(pulls))]))
        fisher = hessian.copy()
        coefficients = self.mixture.coefficients(s)
        powers = s ** np.arange(DEGREES), np.array([0, 1, 2 * s]), np.array([0, 0, 2.0])
        for channel, (each, total) in zip(self.channels, self._polynomials, strict=True):
            if self.nuisances:
                density, slopes, second = channel.observed.expansion(coefficients, alphas)
                expected, rises, bends = channel.expected.expansion(coefficients, alphas)
                nu, nu_first, nu_second = expected.sum(), rises.sum(axis=0), bends.summed(np.ones(len(expected)))
            else:
                density, slopes = each @ powers[0], (each @ powers[1])[:, None]
                nu, nu_first, nu_second = total @ powers[0], total @ powers[1][:, None], (total @ powers[2])[None, None]
            at = _nll(density, channel.weights, float(nu))
            value += at
            if not math.isfinite(at):
                continue
            share = channel.weights / density
            relative = slopes / density[:, None]
            spread = (relative * channel.weights[:, None]).T @ relative
            curved = second.summed(share) if self.nuisances else (share @ each @ powers[2])[None, None]
            gradient += nu_first - share @ slopes
            hessian += nu_second - curved + spread
            fisher += spread
        return Evaluation(value, gradient, hessian, fisher)

    def centred(self, centres: np.ndarray) -> MixtureLikelihood:
        """Return the likelihood with other centres of the constraints."""
        return replace(self, centres=centres)


def _nll(density: np.ndarray, weights: np.ndarray, expected: float) -> float:
    """Return expected - sum w ln density; infinite where something observed has no positive density."""
    if len(density) and density.min() <= 0 and (density[weights > 0] <= 0).any():
        return math.inf
    seen = density > 0
    if seen.all():
        return float(expected - weights @ np.log(density))
    return float(expected - weights[seen] @ np.log(density[seen]))
