"""The fit of contrastive flows: the fraction of signal among the observed events, with two nuisances and no rates.

As in arXiv:2505.08709 and its program,

    E_b = N [f S_b(tes, jes) + (1 - f) B_b(tes, jes)],

N observed events, S and B the shapes of signal and background, each of unit sum. There are constraints on tes and jes
alone; what soft_met and the rates do enters through toys. Unlike there the shapes are the smooth ones of
``sage.binned.response``, and f becomes a signal strength by the expected events instead of f / 0.002.

Two intervals are made of the same toys. ``published`` is theirs: f in [0, 1] and the posterior of ``sage.fit.neyman``.
With ``belt`` f goes below 0 as long as all bins expect events, and the interval is that of ``sage.fit.belt``: where f
ends at 0, all toys that are there have one estimate, and no interval of theirs can cover at each small mu.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sage.challenge.nuisances import CHALLENGE, NAMES, Nuisance
from sage.errors import FitError, WeightsError
from sage.fit.belt import CentralBelt
from sage.fit.interval import Interval
from sage.fit.newton import FitResult, fit
from sage.fit.neyman import GRID, NeymanTable, make_toys
from sage.fit.objective import Evaluation
from sage.rates import SIGNAL_ROW, Rates, Templates

PUBLISHED_FRACTION = 0.002
"""What the published program takes for the fraction of signal at mu = 1."""
FITTED = CHALLENGE[:2]
"""The nuisances of the fit: tes and jes."""
SMALLEST = 1e-9
"""Share of the events that a bin expects at least."""
LEAST_LEFT = 0.1
"""Share of its background that a bin expects at least where f is below 0, with nominal shapes: room for other ones."""
TOY_GRID = (0.0, *GRID, 3.6, 4.0, 4.5)
"""Signal strengths of the toys: limits of the belt lie beyond those of the published toys."""
TABLE_PARTS, BELT_PARTS = ("mu", "mean", "sd"), ("mu", "quantiles")


@dataclass(frozen=True)
class ToyTables:
    """What the fit does in toys.

    Args:
        table: With f in [0, 1], at ``sage.fit.neyman.GRID``: for the published interval.
        belt: With f below 0 as well, at ``TOY_GRID``.
    """

    table: NeymanTable
    belt: CentralBelt


@dataclass(frozen=True)
class Fraction:
    """The negative log-likelihood of (f, nu_tes, nu_jes), relative to that of the counts; an ``Objective``.

    Args:
        templates: Expected yields.
        counts: Observed events, shape (B,), with a positive sum.
        centres: Centres of the constraints, shape (2,).
    """

    templates: Templates
    counts: np.ndarray
    centres: np.ndarray

    @property
    def nuisances(self) -> tuple[Nuisance, ...]:
        """The fitted nuisances."""
        return FITTED

    @property
    def kinks(self) -> Sequence[np.ndarray]:
        """For each nuisance the ends of the templates, where their slope jumps."""
        axes = self.templates.axes[: len(FITTED)]
        return [np.array([n.to_alpha.inverse(a) for a in axis]) for n, axis in zip(FITTED, axes, strict=True)]

    def centred(self, centres: np.ndarray) -> Fraction:
        """Return the objective with other centres of the constraints."""
        return replace(self, centres=centres)

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood."""
        return self.evaluate(parameters).value

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value and derivatives; the Hessian leaves out the curvature of the shapes."""
        f, *nus = parameters.tolist()
        alphas = [nuisance.alpha(nu) for nuisance, nu in zip(FITTED, nus, strict=True)]
        terms = self.templates.terms((alphas[0][0], alphas[1][0], 0.0))[:3]
        signal, background = (_shape(part) for part in (terms[:, SIGNAL_ROW], _without_signal(terms)))
        total = self.counts.sum()
        expected = total * np.maximum(f * signal[0] + (1.0 - f) * background[0], SMALLEST)
        slopes = np.stack([signal[0] - background[0], *(f * signal[1:] + (1.0 - f) * background[1:])]) * total
        slopes[1:] *= np.array([alpha[1] for alpha in alphas])[:, None]
        n, filled = self.counts, self.counts > 0
        logs = n * np.log(np.divide(n, expected, out=np.ones_like(n), where=filled))
        pulls = parameters[1:] - self.centres
        gradient = slopes @ (1.0 - n / expected)
        gradient[1:] += pulls
        constraint = np.diag([0.0, *np.ones(len(FITTED))])
        hessian = (slopes * (n / expected**2)) @ slopes.T + constraint
        fisher = (slopes / expected) @ slopes.T + constraint
        return Evaluation(float((expected - n + logs).sum() + 0.5 * (pulls**2).sum()), gradient, hessian, fisher)


def _without_signal(terms: np.ndarray) -> np.ndarray:
    out: np.ndarray = terms.sum(axis=1) - terms[:, SIGNAL_ROW]
    return out


def _shape(yields: np.ndarray) -> np.ndarray:
    """Return yields and their two first derivatives, shape (3, B), of unit sum."""
    total = yields.sum(axis=1)
    if not total[0] > 0:
        msg = "the templates expect no events of signal or background, so they have no shape"
        raise FitError(msg)
    shape: np.ndarray = yields / total[0]
    shape[1:] -= shape[0] * (total[1:] / total[0])[:, None]
    return shape


def lowest_fraction(templates: Templates) -> float:
    """Return the fraction of signal, below 0, at which the first bin expects ``LEAST_LEFT`` of its background."""
    terms = templates.terms((1.0, 1.0, 0.0))[:3]
    signal, background = _shape(terms[:, SIGNAL_ROW])[0], _shape(_without_signal(terms))[0]
    # Signal and background have unit sum: unless they are equal there are bins with relatively more signal.
    steepest = float(np.max((signal - background) / np.maximum(background, SMALLEST)))
    return -(1.0 - LEAST_LEFT) / max(steepest, SMALLEST)


def fit_fraction(templates: Templates, counts: np.ndarray, *, below_zero: bool = True) -> FitResult:
    """Fit the fraction of signal to counts of shape (B,).

    Args:
        templates: Expected yields.
        counts: Observed events.
        below_zero: Whether the fraction may be as low as ``lowest_fraction``, or 0 at least as published.

    Raises:
        FitError: If there are no events, or no minimum is found.
    """
    if not counts.sum() > 0:
        msg = f"the bins hold {counts.sum():g} events; a fraction needs some"
        raise FitError(msg)
    nominal = templates.terms((1.0, 1.0, 0.0))[0]
    start = np.array([nominal[SIGNAL_ROW].sum() / nominal.sum(), 0.0, 0.0])
    lowest = lowest_fraction(templates) if below_zero else 0.0
    found = fit(Fraction(templates, counts, np.zeros(len(FITTED))), start, mu_range=(lowest, 1.0))
    if not found.converged:
        msg = f"the fit of the fraction of signal did not converge (distance {found.edm:.3g})"
        raise FitError(msg)
    return found


def strength(templates: Templates, fraction: float, *, published: bool = False) -> float:
    """Return the signal strength of a fraction of signal at the nominal point.

    Args:
        templates: Expected yields.
        fraction: Of signal, below 1.
        published: Divide by ``PUBLISHED_FRACTION`` instead.
    """
    if published:
        return fraction / PUBLISHED_FRACTION
    nominal = templates.terms((1.0, 1.0, 0.0))[0].sum(axis=1)
    signal = float(nominal[SIGNAL_ROW])
    return fraction / max(1.0 - fraction, SMALLEST) * (float(nominal.sum()) - signal) / signal


def toy_tables(templates: Templates, toys: int, seed: int, *, published: bool = False) -> ToyTables:
    """Return what the fit does in toys of the templates with all six nuisances drawn from their priors.

    Args:
        templates: Expected yields.
        toys: At each signal strength of ``TOY_GRID``.
        seed: Decides the toys.
        published: See ``strength``; then the rates are nominal as well.
    """
    rates = Rates(templates, CHALLENGE)

    def estimate(rng: np.random.Generator, mu: float) -> float:
        nus = rng.normal(size=len(CHALLENGE))
        drawn = [
            nuisance.nominal if published and nuisance.kind == "norm" else nuisance.alpha(nu)[0]
            for nuisance, nu in zip(CHALLENGE, nus.tolist(), strict=True)
        ]
        counts = rng.poisson(rates.yields(mu, drawn).sum(axis=0)).astype(np.float64)
        try:
            return strength(templates, fit_fraction(templates, counts).mu, published=published)
        except FitError:
            return np.nan

    found = dict(zip(TOY_GRID, make_toys(estimate, TOY_GRID, toys, seed), strict=True))
    # The likelihood has one valley in f, so a minimum below 0 leaves that in [0, 1] at 0, the signal strength 0.
    table = NeymanTable.of(GRID, [np.maximum(found[mu], 0.0) for mu in GRID])
    return ToyTables(table, CentralBelt.of(TOY_GRID, list(found.values())))


def table_arrays(tables: ToyTables) -> dict[str, np.ndarray]:
    """Return the arrays that ``read_tables`` reads."""
    table = {f"neyman/{part}": getattr(tables.table, part) for part in TABLE_PARTS}
    return table | {f"belt/{part}": getattr(tables.belt, part) for part in BELT_PARTS}


def read_tables(arrays: Mapping[str, np.ndarray]) -> ToyTables:
    """Return the tables of toys among arrays by name.

    Raises:
        WeightsError: If it is not there or cannot be used.
    """
    try:
        table = NeymanTable(*(arrays[f"neyman/{part}"].astype(np.float64) for part in TABLE_PARTS))
        belt = CentralBelt(*(arrays[f"belt/{part}"].astype(np.float64) for part in BELT_PARTS))
    except (KeyError, ValueError) as error:
        msg = f"the weights hold no usable table of toys ({error}); build them again"
        raise WeightsError(msg) from error
    return ToyTables(table, belt)


def fraction_interval(
    templates: Templates, counts: np.ndarray, tables: ToyTables, *, interval: str = "belt", published: bool = False
) -> Interval:
    """Return the signal strength of counts and its interval.

    Args:
        templates: Expected yields.
        counts: Observed events, shape (B,).
        tables: What the fit does in toys.
        interval: ``belt``, or ``published`` for the published one with f in [0, 1].
        published: See ``strength``.

    Returns:
        The interval, with all six nuisances: those that are not fitted at 0, with deviation 1.

    Raises:
        FitError: If there are no events, or no minimum is found.
    """
    by_belt = interval == "belt"
    found = fit_fraction(templates, counts, below_zero=by_belt)
    mu, low, high = (tables.belt if by_belt else tables.table).interval(
        strength(templates, found.mu, published=published)
    )
    parameters = np.zeros(1 + len(NAMES))
    parameters[0], parameters[1 : 1 + len(FITTED)] = mu, found.parameters[1:]
    covariance = np.eye(len(parameters))
    covariance[: 1 + len(FITTED), : 1 + len(FITTED)] = found.covariance
    covariance[0], covariance[:, 0] = 0.0, 0.0
    covariance[0, 0] = (0.5 * (high - low)) ** 2
    result = FitResult(parameters, found.value, covariance, found.edm, found.iterations, found.converged)
    return Interval(result, low, high)
