"""Step 7: the binned Poisson likelihood with Gaussian constraints, with gradient and Hessian in closed form.

    lambda_b(mu, nu) = sum_p r_p(mu, nu) T_pb(tes, jes, soft_met)
    nll(mu, nu)      = sum_b [lambda_b - n_b + n_b log(n_b / lambda_b)] + sum_k (nu_k - c_k)^2 / (2 w_k^2)

``r`` is mu for the signal and the product of the rate nuisances for a background, ``T`` the interpolated table
(arXiv:2509.00672, likelihood). The saturated term is subtracted, so numbers stay small and the value is half of the
saturated goodness-of-fit statistic. One convention everywhere: this is -ln L, a 68 % interval is a rise of 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from sage.nuisances import PROCESSES, SIGNAL, Nuisance
from sage.tables import MIXED, YieldTables

MU = 0
"""Position of the signal strength in a parameter vector; the nuisances follow in the order of their table."""

NO_EVENTS = 1e-100
"""Sums of weights up to this are no events: their logarithm would overflow, their term is 0 either way."""


@dataclass(frozen=True)
class Evaluation:
    """The likelihood at one point.

    Arguments:
        value: Negative log-likelihood, relative to the saturated model; infinite where a bin expects nothing but
            holds events, or expects less than nothing.
        gradient: First derivatives, shape (1 + n_nuisances,).
        hessian: Second derivatives, square.
        fisher: Expected second derivatives (events replaced by their expectation); positive semi-definite.
    """

    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    fisher: np.ndarray


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of one set of counts.

    Arguments:
        tables: Yield tables.
        nuisances: The nuisance table; shape nuisances in the order of the table's axes.
        counts: Observed events per bin, shape (n_bins,).
        has_signal: Whether each bin expects signal, shape (n_bins,).
        centres: Centres of the constraints (what auxiliary measurements gave), shape (n_nuisances,); 0 by default.
    """

    tables: YieldTables
    nuisances: tuple[Nuisance, ...]
    counts: np.ndarray
    has_signal: np.ndarray
    centres: np.ndarray = field(default_factory=lambda: np.zeros(6))

    def expected(self, parameters: np.ndarray) -> np.ndarray:
        """Return the expected events per bin at (mu, nu...), shape (n_bins,)."""
        return self._expectation(parameters)[0]

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (mu, nu...); infinite outside its domain."""
        return self._value(self.expected(parameters), parameters)

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value, gradient, Hessian and Fisher information at (mu, nu...)."""
        rate, first, second = self._expectation(parameters)
        safe = np.where(rate > 0, rate, 1.0)
        ratio = np.where(rate > 0, self.counts / safe, 0.0)
        widths = np.array([1.0 / nuisance.width**2 for nuisance in self.nuisances])
        pull = (parameters[1:] - self.centres) * widths
        constraint = np.diag(np.concatenate([[0.0], widths]))
        gradient = first @ (1.0 - ratio) + np.concatenate([[0.0], pull])
        observed = (first * (ratio / safe)) @ first.T + second @ (1.0 - ratio) + constraint
        fisher = (first * np.where(rate > 0, 1.0 / safe, 0.0)) @ first.T + constraint
        return Evaluation(self._value(rate, parameters), gradient, observed, fisher)

    def _value(self, rate: np.ndarray, parameters: np.ndarray) -> float:
        if not (rate >= 0).all() or ((rate == 0) & (self.counts > NO_EVENTS)).any():
            return math.inf
        excess = rate - self.counts
        filled = self.counts > NO_EVENTS
        n = self.counts[filled]
        # Bin by bin and with log1p: the sums of rates and of counts are large and nearly equal.
        poisson = excess[~filled].sum() + (excess[filled] - n * np.log1p(excess[filled] / n)).sum()
        pulls = [
            (nu - centre) / nuisance.width
            for nu, centre, nuisance in zip(parameters[1:], self.centres, self.nuisances, strict=True)
        ]
        return float(poisson + 0.5 * sum(pull * pull for pull in pulls))

    def _expectation(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rate (B,), its first (K, B) and its second derivatives (K, K, B)."""
        mu = parameters[MU]
        alphas = [nuisance.alpha(nu) for nuisance, nu in zip(self.nuisances, parameters[1:], strict=True)]
        shapes = [i for i, nuisance in enumerate(self.nuisances) if nuisance.kind == "shape"]
        norms = [i for i, nuisance in enumerate(self.nuisances) if nuisance.kind == "norm"]
        point = (alphas[shapes[0]][0], alphas[shapes[1]][0], alphas[shapes[2]][0])
        terms = self.tables.interpolate(point)
        terms[:, PROCESSES.index(SIGNAL)] *= self.has_signal
        yields, slopes, mixed = terms[0], terms[1:4], terms[4:]

        factor, factor_1, factor_2 = self._rate_factors(mu, alphas, norms)
        size = len(parameters)
        first = np.zeros((size, yields.shape[1]))
        second = np.zeros((size, size, yields.shape[1]))
        signal = PROCESSES.index(SIGNAL)
        first[MU] = yields[signal]
        for axis, i in enumerate(shapes):
            _, d_alpha, d2_alpha = alphas[i]
            along = factor @ slopes[axis]
            first[1 + i] = d_alpha * along
            second[1 + i, 1 + i] = d2_alpha * along
            second[MU, 1 + i] = d_alpha * slopes[axis][signal]
            for k, j in enumerate(norms):
                second[1 + i, 1 + j] = d_alpha * (factor_1[k] @ slopes[axis])
        for (axis_a, axis_b), term in zip(MIXED, mixed, strict=True):
            i, j = shapes[axis_a], shapes[axis_b]
            second[1 + i, 1 + j] = alphas[i][1] * alphas[j][1] * (factor @ term)
        for k, i in enumerate(norms):
            first[1 + i] = factor_1[k] @ yields
            for m in range(k, len(norms)):
                second[1 + i, 1 + norms[m]] = factor_2[k, m] @ yields
        upper = np.triu_indices(size, 1)
        second[upper[1], upper[0]] = second[upper]
        return factor @ yields, first, second

    def _rate_factors(
        self, mu: float, alphas: list[tuple[float, float, float]], norms: list[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each process's factor (P,), its derivatives in the rate nuisances (N, P) and (N, N, P)."""
        scaled = np.array([[process in self.nuisances[i].scales for process in PROCESSES] for i in norms])
        value, slope, curve = (
            np.where(scaled, np.array([alphas[i][order] for i in norms])[:, None], float(order == 0))
            for order in range(3)
        )
        base = np.where(np.array(PROCESSES) == SIGNAL, mu, 1.0)
        first = np.empty((len(norms), len(PROCESSES)))
        second = np.empty((len(norms), len(norms), len(PROCESSES)))
        for k in range(len(norms)):
            # Replaced rather than divided out: a factor may be 0.
            swapped = value.copy()
            swapped[k] = slope[k]
            first[k] = base * swapped.prod(axis=0)
            for m in range(len(norms)):
                twice = swapped.copy()
                twice[m] = curve[m] if m == k else slope[m]
                second[k, m] = base * twice.prod(axis=0)
        return base * value.prod(axis=0), first, second
