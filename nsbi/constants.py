"""Constants of the processes: what training leaves of a bias of t is taken away with events that are not kept.

With errors d of ln p(x|mu), t of the expected data is off by -2 times the integral of p(x|1) (d(mu) - d(1)), to first
order twice

    nu(1) [integral of p(x|mu) q(x|1) / q(x|mu) - 1],    q learned, p and q in events,

which simulated events at mu estimate well: the ratio is close to 1, so their sum hardly fluctuates. A factor for each
process brings it to 0 at several mu at once, and leaves the mixture what it is. Events are needed in larger numbers
than for the training, but each only once and for one evaluation of the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nsbi.mixture import Mixture
from sage.errors import InputError, SettingsError

NORMALISATION_ERROR = 0.01
"""Of a process, relative, that its training leaves: t fixes one combination of the factors to no more than a tenth."""
STEPS = 30
LEAST_STEP = 1e-6
"""Most steps of the fit, and the size of a logarithm's change that ends it."""
ROWS = 500_000
"""Events at a time, so that memory stays bounded."""

Bounded = Callable[[np.ndarray], np.ndarray]
"""Takes ratios, shape (n, J), to the nearest whose densities are positive."""
Part = tuple[np.ndarray, float]
"""Ratios at simulated events, shape (n, J), and the expected events that they stand for."""


@dataclass(frozen=True)
class Constants:
    """Factors of the processes' ratios, and what they are fitted to.

    Args:
        factors: Shape (J,); a common one cancels, and leaves the yield at mu = 1 what it is.
        mus: Signal strengths of the events, shape (n,).
        before: Estimated bias of t there without the factors.
        after: With them.
        errors: Of both, from the number of events.
    """

    factors: np.ndarray
    mus: np.ndarray
    before: np.ndarray
    after: np.ndarray
    errors: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {name: value.tolist() for name, value in asdict(self).items()}


def fit_constants(
    mixture: Mixture,
    yields: np.ndarray,
    events: Mapping[float, Sequence[Part]],
    bounded: Bounded = np.asarray,
) -> Constants:
    """Fit the factors of all processes, but for a common one.

    Args:
        mixture: How the processes depend on mu.
        yields: nu_j, shape (J,).
        events: Simulated ones by signal strength, in parts that add up to the expected data there; 1 says nothing.
        bounded: What keeps the densities of scaled ratios positive, as ``JointNetwork.bounded``.

    Raises:
        SettingsError: If there are none at another signal strength than 1, or parts do not add up to the expectation.
        InputError: If the density of an event is not positive there or at 1.
    """
    mus = [mu for mu in events if mu != 1]
    if not mus:
        msg = f"events at mu {list(events)} say nothing of t, which is 0 at 1; simulate at others"
        raise SettingsError(msg)
    one = mixture.coefficients(mixture.strength(1.0))[0]
    for mu in mus:
        mixture.check(yields, sum(expected for _, expected in events[mu]), mu)

    def biases(logarithms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the bias of t at each mu, its derivatives in the factors' logarithms, and its error."""
        found = [bias(mixture, yields, np.exp(logarithms), mu, events[mu], bounded) for mu in mus]
        return (
            np.array([b for b, _, _ in found]),
            np.array([s for _, s, _ in found]),
            np.array([e for _, _, e in found]),
        )

    def distances(found: np.ndarray, logarithms: np.ndarray) -> np.ndarray:
        return np.concatenate([found / errors, logarithms / NORMALISATION_ERROR])

    logarithms = np.zeros(len(yields))
    before, slopes, errors = biases(logarithms)
    after, unit = before, np.eye(len(yields)) / NORMALISATION_ERROR
    for _ in range(STEPS):
        # Of Gauss and Newton: what is fitted is almost linear in the logarithms.
        now = distances(after, logarithms)
        step = np.linalg.lstsq(np.concatenate([slopes / errors[:, None], unit]), now)[0]
        trial = biases(logarithms - step)
        while (distances(trial[0], logarithms - step) ** 2).sum() > (now**2).sum() and abs(step).max() > LEAST_STEP:
            step = step / 2
            trial = biases(logarithms - step)
        if abs(step).max() <= LEAST_STEP:
            break
        logarithms, after, slopes = logarithms - step, *trial[:2]
    # A common factor cancels; this one leaves the yield at 1 what it is.
    factors = np.exp(logarithms) * (yields @ one) / (yields * np.exp(logarithms) @ one)
    return Constants(factors, np.array(mus), before, after, errors)


def bias(
    mixture: Mixture,
    yields: np.ndarray,
    factors: np.ndarray,
    mu: float,
    parts: Sequence[Part],
    bounded: Bounded = np.asarray,
) -> tuple[float, np.ndarray, float]:
    """Return the estimated bias of t(mu), its derivatives in the factors' logarithms, shape (J,), and its error.

    Args:
        mixture: How the processes depend on mu.
        yields: nu_j, shape (J,).
        factors: Of the ratios, shape (J,).
        mu: Signal strength.
        parts: Simulated events at mu.
        bounded: As for ``fit_constants``; derivatives leave it out.

    Raises:
        InputError: If a density is not positive.
    """
    here, one = mixture.coefficients(mixture.strength(mu))[0], mixture.coefficients(mixture.strength(1.0))[0]
    total, slopes, variance = 0.0, np.zeros(len(yields)), 0.0
    for ratios, expected in parts:
        sums = np.zeros(2)
        for first in range(0, len(ratios), ROWS):
            scaled = bounded(ratios[first : first + ROWS] * factors)
            above, below = scaled @ one, scaled @ here
            if not (above.min() > 0 and below.min() > 0):
                msg = f"a density at mu = {mu:g} or 1 is not positive; use a network that keeps it positive"
                raise InputError(msg)
            quotient = above / below
            sums += quotient.sum(), (quotient**2).sum()
            slopes += expected / len(ratios) * (scaled.T @ (1 / below) * one - scaled.T @ (quotient / below) * here)
        mean, square = sums / len(ratios)
        total += expected * mean
        variance += expected**2 * max(square - mean**2, 0.0) / len(ratios)
    return 2 * (total - float(yields @ one)), 2 * slopes, 2 * float(np.sqrt(variance))
