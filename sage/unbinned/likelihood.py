r"""The extended likelihood of single events in some regions, and sums of likelihoods.

    nll(mu, nu) = sum_r [ lambda_r(mu, nu) - N_r - sum over events of w ln R_r ] + constraints,
    R_r = sum_p c_rp(mu, nu) g_p(x) exp(A_p(x) . v(nu)),    c_rp = lambda_rp / Z_rp

``lambda`` are the expected events of a region, as in bins. ``Z_rp(nu)`` is the sum over simulated nominal events of
``w g_p exp(A_p . v)``, so that the expectation of ``R_r`` over these is ``lambda_r``, whatever the surrogates are: what
the published method interpolates on a grid (arXiv:2505.05544) is exact here up to the fit of ln Z
(``sage.unbinned.norms``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np

from sage.challenge.nuisances import Nuisance
from sage.fit.objective import Constrained, Constraint, Counted, Evaluation, Objective, Totals
from sage.rates import Rates
from sage.unbinned.response import Basis
from sage.unbinned.statistic import EventKernel, Events, EventSums, densities, event_sums


@dataclass(frozen=True)
class UnbinnedLikelihood:
    """An ``Objective`` of events.

    Args:
        rates: Expected events, regions in place of bins.
        factors: c, with the templates of ``sage.unbinned.norms.Factors``.
        basis: The monomials v.
        events: Coefficients of the events of each region.
        centres: Centres of the constraints, shape (n_nuisances,).
        kernel: Adds up natively; None for numpy.
    """

    rates: Rates
    factors: Rates
    basis: Basis
    events: tuple[Events, ...]
    centres: np.ndarray
    kernel: EventKernel | None = None

    degrees = None

    @property
    def nuisances(self) -> tuple[Nuisance, ...]:
        """The nuisance table."""
        return self.rates.nuisances

    @property
    def kinks(self) -> tuple[np.ndarray, ...]:
        """For each nuisance the values of nu at which the slope may jump."""
        return self.rates.kinks

    def centred(self, centres: np.ndarray) -> UnbinnedLikelihood:
        """Return the likelihood with other centres of the constraints."""
        return replace(self, centres=centres)

    def totals(self, parameters: np.ndarray) -> Totals:
        """Return the total number of events at (mu, nu...)."""
        at = self.rates.expand(parameters)
        observed = sum(events.observed for events in self.events)
        return Totals(observed, float(at.rate.sum()), at.first.sum(axis=1), 0.0)

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (mu, nu...); infinite where an event has no positive density."""
        terms, factors = self.coefficients(parameters)
        kernel = self.kernel
        if kernel is None:
            none = np.zeros((0, len(terms)))
            logs = [event_sums(events, c, terms, none).value for events, c in zip(self.events, factors, strict=True)]
        else:
            logs = [kernel.value(events, c, terms) for events, c in zip(self.events, factors, strict=True)]
        return self._total(self.rates.expected(parameters), logs) + self._constraint(parameters)[0]

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value, gradient, Hessian and Fisher information at (mu, nu...)."""
        at, of_factors = self.rates.expand(parameters), self.factors.expand(parameters)
        terms, slopes, curvatures = self._terms(parameters)
        factors, firsts = self._by_region(of_factors.rate), self._by_region(of_factors.first)
        sums = [self._sums(events, c, terms, slopes) for events, c in zip(self.events, factors, strict=True)]

        ones = np.ones(len(at.rate))
        gradient = at.first @ ones
        hessian = at.second(ones) - of_factors.second(np.concatenate([each.shares for each in sums]))
        fisher = np.zeros_like(hessian)
        moved = self._moved
        for each, c, first in zip(sums, factors, firsts, strict=True):
            along = each.terms @ slopes.T
            gradient -= first @ each.shares + moved @ (c @ along)
            crossed = first @ each.crossed @ moved.T
            outer = first @ each.products @ first.T + crossed + crossed.T + moved @ each.changes @ moved.T
            mixed = first @ along @ moved.T
            bent = each.squares + curvatures @ (c @ each.terms)
            hessian += outer - mixed - mixed.T - moved @ bent @ moved.T
            fisher += outer
        pull, pull_gradient = self._constraint(parameters)
        value = self._total(at.rate, [each.value for each in sums]) + pull
        constraint = self._constraint.hessian
        return Evaluation(value, gradient + pull_gradient, hessian + constraint, fisher + constraint)

    def densities(self, parameters: np.ndarray) -> list[np.ndarray]:
        """Return R of the events of each region at (mu, nu...), those that fill up the last block included."""
        terms, factors = self.coefficients(parameters)
        return [densities(events, c, terms) for events, c in zip(self.events, factors, strict=True)]

    def coefficients(self, parameters: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return v at (mu, nu...), shape (C,), and the factors c of the processes in each region, shape (P,) each."""
        return self._terms(parameters)[0], self._by_region(self.factors.expected(parameters))

    def outside(self, parameters: np.ndarray) -> float:
        """Return the share of the events, by weight, whose response is beyond the range of exponents at (mu, nu...)."""
        factors = self._by_region(self.factors.expected(parameters))
        terms, slopes, _ = self._terms(parameters)
        sums = [self._sums(events, c, terms, slopes) for events, c in zip(self.events, factors, strict=True)]
        total = sum(events.observed for events in self.events)
        return sum(each.outside for each in sums) / total if total > 0 else 0.0

    def _sums(self, events: Events, factors: np.ndarray, terms: np.ndarray, slopes: np.ndarray) -> EventSums:
        add_up = event_sums if self.kernel is None else self.kernel.sums
        return add_up(events, factors, terms, slopes)

    def _total(self, rates: np.ndarray, logs: Sequence[float]) -> float:
        """Return the negative log-likelihood of the events, without constraints."""
        parts = zip(rates.tolist(), self.events, logs, strict=True)
        return float(sum(rate - events.observed - log for rate, events, log in parts))

    @cached_property
    def _constraint(self) -> Constraint:
        return Constraint(self.nuisances, self.centres)

    def _by_region(self, values: np.ndarray) -> list[np.ndarray]:
        """Cut an array whose last axis holds the processes of all regions."""
        n = len(self.events)
        parts = values.reshape(*values.shape[:-1], n, values.shape[-1] // n)
        return [parts[..., r, :] for r in range(n)]

    def _terms(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the monomials and their derivatives in nu, shapes (C,), (K, C) and (K, K, C)."""
        maps = [self.nuisances[i - 1].alpha(float(parameters[i])) for i in self.shapes]
        values, first, second = self.basis.expand([alpha for alpha, _, _ in maps])
        slope, bend = (np.array([each[order] for each in maps]) for order in (1, 2))
        curvatures = second * slope[:, None, None] * slope[None, :, None]
        each = range(len(maps))
        curvatures[each, each] += bend[:, None] * first
        return values, slope[:, None] * first, curvatures

    @cached_property
    def shapes(self) -> list[int]:
        """Places of the shape nuisances among (mu, nu...), in the order of the basis."""
        names = [nuisance.name for nuisance in self.nuisances]
        return [1 + names.index(name) for name in self.basis.nuisances]

    @cached_property
    def _moved(self) -> np.ndarray:
        """Which of (mu, nu...) each shape nuisance is, shape (1 + n_nuisances, K), of 0 and 1."""
        return np.eye(1 + len(self.nuisances))[:, self.shapes]


@dataclass(frozen=True)
class SumLikelihood:
    """The likelihood of independent data: all parts have the same nuisances and constraints, which count once.

    Args:
        parts: At least one.
    """

    parts: tuple[Objective, ...]

    @property
    def nuisances(self) -> Sequence[Constrained]:
        """The nuisance table."""
        return self.parts[0].nuisances

    @property
    def centres(self) -> np.ndarray:
        """Centres of the constraints, shape (n_nuisances,)."""
        return self.parts[0].centres

    @property
    def kinks(self) -> list[np.ndarray]:
        """For each nuisance the values of nu at which the slope of a part may jump."""
        return [reduce(np.union1d, each) for each in zip(*(part.kinks for part in self.parts), strict=True)]

    @property
    def degrees(self) -> int | None:
        """Degrees of freedom of twice the minimum; None unless all parts are saturated statistics."""
        found = [part.degrees if isinstance(part, Counted) else None for part in self.parts]
        known = [degrees for degrees in found if degrees is not None]
        return sum(known) + len(known) - 1 if len(known) == len(found) else None

    def centred(self, centres: np.ndarray) -> SumLikelihood:
        """Return the likelihood with other centres of the constraints."""
        return SumLikelihood(tuple(part.centred(centres) for part in self.parts))

    def totals(self, parameters: np.ndarray) -> Totals:
        """Return the total number of events at (mu, nu...)."""
        found = [part.totals(parameters) for part in self.parts if isinstance(part, Counted)]
        return Totals(
            sum(each.observed for each in found),
            sum(each.expected for each in found),
            np.sum([each.slopes for each in found], axis=0),
            sum(each.variance for each in found),
        )

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (mu, nu...)."""
        doubled = (len(self.parts) - 1) * self._constraint(parameters)[0]
        return sum(part.value(parameters) for part in self.parts) - doubled

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value and derivatives at (mu, nu...)."""
        found = [part.evaluate(parameters) for part in self.parts]
        more = len(found) - 1
        pull, pull_gradient = self._constraint(parameters)
        constraint = self._constraint.hessian
        gradient, hessian, fisher = (
            np.sum([getattr(each, name) for each in found], axis=0) for name in ("gradient", "hessian", "fisher")
        )
        return Evaluation(
            sum(each.value for each in found) - more * pull,
            gradient - more * pull_gradient,
            hessian - more * constraint,
            fisher - more * constraint,
        )

    @cached_property
    def _constraint(self) -> Constraint:
        return Constraint(self.nuisances, self.centres)
