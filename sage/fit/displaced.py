r"""A likelihood whose minimum may be off by more than its data tell: errors of known covariance as nuisance parameters.

An error of what the likelihood is made of moves the parameters by d, of covariance S. One nuisance eta ~ N(0, 1) for
each independent source takes it into the profile:

    f(mu, nu, eta) = f_0(mu + m . eta, nu) + |eta|^2 / 2,    m = sqrt(S_mu,mu)

Of a density R of events this is R exp(u eta) to first order, with u = m d ln R / d mu and the total rate along with it.
The nuisance parameters are free in the profile, so what they are moved by makes no difference to it: they are those of
f_0. ``marginal`` moves them back; with f_0 a parabola of covariance C, that of (mu, nu) is C + S exactly, however large
S is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sage.fit.newton import FitResult
from sage.fit.objective import MU, Constrained, Counted, Evaluation, Objective, Totals, Wrapped


@dataclass(frozen=True)
class Displacement:
    """A source of errors; its nuisance parameter eta.

    Args:
        name: Its name.
        covariance: S, shape (1 + n_nuisances,) twice.
        nu_range: Range of eta that the fit explores.
    """

    name: str
    covariance: np.ndarray
    nu_range: tuple[float, float] = (-5.0, 5.0)
    width = 1.0
    starts = ()

    @property
    def move(self) -> np.ndarray:
        """Displacement of (mu, nu...) by one standard deviation of mu's, those of nu that go with it; shape (n,)."""
        sigma = np.sqrt(self.covariance[MU, MU])
        out: np.ndarray = self.covariance[:, MU] / sigma if sigma > 0 else np.zeros(len(self.covariance))
        return out


@dataclass(frozen=True)
class Displaced(Wrapped):
    """An objective with nuisance parameters of displacements behind its own.

    Args:
        displacements: The sources.
        etas: Centres of their constraints, shape (number of sources,).
    """

    displacements: tuple[Displacement, ...]
    etas: np.ndarray

    @property
    def nuisances(self) -> Sequence[Constrained]:
        """The nuisance parameters."""
        return (*self.objective.nuisances, *self.displacements)

    @property
    def centres(self) -> np.ndarray:
        """Centres of the constraints."""
        return np.concatenate([self.objective.centres, self.etas])

    @property
    def kinks(self) -> Sequence[np.ndarray]:
        """For each nuisance parameter the values of nu at which the slope may jump."""
        return (*self.objective.kinks, *(np.array([]) for _ in self.displacements))

    @property
    def degrees(self) -> int | None:
        """Degrees of freedom of twice the minimum; each eta has a constraint of its own."""
        return self.objective.degrees if isinstance(self.objective, Counted) else None

    def centred(self, centres: np.ndarray) -> Displaced:
        """Return the objective with other centres of the constraints."""
        inner = self.objective.centred(centres[: -len(self.etas)])
        return replace(self, objective=inner, etas=centres[-len(self.etas) :])

    def inner(self, parameters: np.ndarray) -> np.ndarray:
        """Return where the objective without displacements is looked at for (mu, nu..., eta...)."""
        at: np.ndarray = self._slopes @ parameters
        return at

    def totals(self, parameters: np.ndarray) -> Totals:
        """Return the total number of events at (mu, nu..., eta...)."""
        assert isinstance(self.objective, Counted)
        found = self.objective.totals(self.inner(parameters))
        return replace(found, slopes=found.slopes @ self._slopes)

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (mu, nu..., eta...)."""
        return self.objective.value(self.inner(parameters)) + self._penalty(parameters)

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value and derivatives at (mu, nu..., eta...)."""
        found, slopes = self.objective.evaluate(self.inner(parameters)), self._slopes
        gradient = found.gradient @ slopes
        gradient[-len(self.etas) :] += parameters[-len(self.etas) :] - self.etas
        hessian, fisher = (slopes.T @ matrix @ slopes + self._constraint for matrix in (found.hessian, found.fisher))
        return Evaluation(found.value + self._penalty(parameters), gradient, hessian, fisher)

    def marginal(self, fit: FitResult) -> FitResult:
        """Return a minimum as one of (mu, nu...) alone: what the displacements add is in their covariance.

        A parameter that is fixed or at a bound keeps a variance of 0.
        """
        n = len(fit.parameters) - len(self.etas)
        free = np.diag(fit.covariance)[:n] > 0
        back = np.eye(n, len(fit.parameters))
        covariance, parameters = np.zeros((n, n)), fit.parameters[:n].copy()
        for j, source in enumerate(self.displacements):
            move = source.move
            back[1:, n + j] = -move[1:]
            parameters[1:] -= move[1:] * fit.parameters[n + j]
            covariance += source.covariance - np.outer(move, move)
        covariance += back @ fit.covariance @ back.T
        return replace(fit, parameters=parameters, covariance=covariance * np.outer(free, free))

    @cached_property
    def _slopes(self) -> np.ndarray:
        """Derivatives of ``inner``, shape (1 + n_nuisances, 1 + n_nuisances + number of sources)."""
        n = len(self.objective.centres) + 1
        out = np.eye(n, n + len(self.etas))
        out[MU, n:] = [source.move[MU] for source in self.displacements]
        return out

    @cached_property
    def _constraint(self) -> np.ndarray:
        """Second derivatives of the constraints of eta."""
        n = len(self.centres) + 1
        return np.diag(np.arange(n) >= n - len(self.etas)).astype(np.float64)

    def _penalty(self, parameters: np.ndarray) -> float:
        pulls = parameters[-len(self.etas) :] - self.etas
        return float(0.5 * pulls @ pulls)


def displaced(objective: Objective, displacements: Sequence[Displacement]) -> Objective:
    """Return the objective with displacements; itself without any that moves mu."""
    moving = tuple(source for source in displacements if source.covariance[MU, MU] > 0)
    return Displaced(objective, moving, np.zeros(len(moving))) if moving else objective
