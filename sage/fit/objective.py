"""What is minimised: the seam between the fit and every likelihood.

One convention everywhere: the value is -ln L, so a 68 % interval is a rise of 0.5. A parameter vector is (mu, nu...):
the parameter of interest first, then the nuisance parameters in the order of their table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

MU = 0
"""Position of the parameter of interest; the nuisances follow in the order of their table."""


@dataclass(frozen=True)
class Evaluation:
    """An objective at one point.

    Args:
        value: Negative log-likelihood; infinite outside its domain.
        gradient: First derivatives, shape (1 + n_nuisances,).
        hessian: Second derivatives, square.
        fisher: Expected second derivatives (to leading order; data at their expectation); positive semi-definite.
    """

    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    fisher: np.ndarray


class Constrained(Protocol):
    """What the fit knows of a nuisance parameter; ``sage.challenge.nuisances.Nuisance`` is one."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def nu_range(self) -> tuple[float, float]:
        """Range of nu that the fit explores; both ends equal hold it there."""

    @property
    def width(self) -> float:
        """Standard deviation of its Gaussian constraint."""

    @property
    def starts(self) -> tuple[float, ...]:
        """Distances from the centre at which further descents begin; empty where there is one valley."""


@dataclass(frozen=True)
class Constraint:
    """The Gaussian constraints of nuisance parameters, sum_k (nu_k - c_k)^2 / (2 w_k^2), as a function of (mu, nu...).

    Args:
        nuisances: The nuisance parameters; their widths are w.
        centres: c, shape (n_nuisances,).
    """

    nuisances: Sequence[Constrained]
    centres: np.ndarray

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log-likelihood of the constraints, and its gradient, shape (1 + n_nuisances,)."""
        pulls = parameters - self._centres
        gradient = self._precisions * pulls
        return 0.5 * float(gradient @ pulls), gradient

    @cached_property
    def hessian(self) -> np.ndarray:
        """Second derivatives, square; also the expected ones."""
        return np.diag(self._precisions)

    @cached_property
    def _centres(self) -> np.ndarray:
        return np.concatenate([[0.0], self.centres])

    @cached_property
    def _precisions(self) -> np.ndarray:
        return np.array([0.0, *(1.0 / nuisance.width**2 for nuisance in self.nuisances)])


class Objective(Protocol):
    """A negative log-likelihood of (mu, nu...) with Gaussian constraints on the nuisance parameters."""

    @property
    def nuisances(self) -> Sequence[Constrained]:
        """The nuisance parameters."""

    @property
    def centres(self) -> np.ndarray:
        """Centres of the constraints (what auxiliary measurements gave), shape (n_nuisances,)."""

    @property
    def kinks(self) -> Sequence[np.ndarray]:
        """For each nuisance parameter the increasing values of nu at which the slope may jump."""

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (mu, nu...); infinite outside its domain."""

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value and derivatives at (mu, nu...)."""

    def centred(self, centres: np.ndarray) -> Objective:
        """Return the objective with other centres of the constraints."""


@dataclass(frozen=True)
class Wrapped:
    """An objective that is another one in all that a subclass does not change.

    Args:
        objective: The other one.
    """

    objective: Objective

    @property
    def nuisances(self) -> Sequence[Constrained]:
        """The nuisance parameters."""
        return self.objective.nuisances

    @property
    def centres(self) -> np.ndarray:
        """Centres of the constraints, shape (n_nuisances,)."""
        return self.objective.centres

    @property
    def kinks(self) -> Sequence[np.ndarray]:
        """For each nuisance parameter the values of nu at which the slope may jump."""
        return self.objective.kinks

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (mu, nu...)."""
        return self.objective.value(parameters)

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value and derivatives at (mu, nu...)."""
        return self.objective.evaluate(parameters)

    def centred(self, centres: np.ndarray) -> Wrapped:
        """Return the objective with other centres of the constraints."""
        return replace(self, objective=self.objective.centred(centres))


@dataclass(frozen=True)
class Totals:
    """Total number of events, observed and expected.

    Args:
        observed: Sum of the observed events.
        expected: Its expectation.
        slopes: Derivatives of the expectation in (mu, nu...), shape (1 + n_nuisances,).
        variance: Variance of the expectation itself, from finite simulation.
    """

    observed: float
    expected: float
    slopes: np.ndarray
    variance: float


@runtime_checkable
class Counted(Protocol):
    """An objective whose data are events that can be counted."""

    @property
    def degrees(self) -> int | None:
        """Degrees of freedom of twice the minimum, if that is a saturated statistic."""

    def totals(self, parameters: np.ndarray) -> Totals:
        """Return the total number of events at (mu, nu...)."""
