"""The efficient score of mu, an observable that the nuisances do not move to first order.

With the intensity of events ``lambda(x)``, the score of a parameter is ``s_k(x) = d ln lambda(x) / d theta_k``. Those
of mu and of the rates are shares of processes in ``lambda(x)``, which class probabilities and expected yields give;
those of the shape nuisances are learnt (``training.scores``). The observable is

    s* = s_mu - sum over k of c_k s_k

with the coefficients that make the error on mu smallest (``training.efficient``). It lives here and not in the network
because it depends on expected yields and on a reference point, which no network knows: like cuts and observables it
belongs to the region set. Whatever a network has learnt, bins of s* are counted at the nuisance points as any others,
so a poor score costs precision, not correctness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.challenge.nuisances import CHALLENGE, PROCESSES, SHAPE_NAMES, SIGNAL, Nuisance

SHAPE_SCORES = tuple(f"s_{name}" for name in SHAPE_NAMES)
"""Names of the quantities that a network of scores gives."""

EFFICIENT_SCORE = "efficient_score"
"""Name of the observable."""


@dataclass(frozen=True)
class EfficientScore:
    """What turns class probabilities and scores of the shape nuisances into s*.

    Args:
        mu: Signal strength of the reference point, not negative.
        nus: Nuisance parameters of the reference point, shape (6,), in the order of ``CHALLENGE``.
        yields: Expected events of each process with mu = 1, all rates nominal and the shapes of the reference point,
            shape (4,).
        coefficients: c_k, shape (6,); 0 for what is left as it is.
    """

    mu: float
    nus: tuple[float, ...]
    yields: tuple[float, ...]
    coefficients: tuple[float, ...] = (0.0,) * len(CHALLENGE)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the scores of shape nuisances that enter."""
        pairs = zip(CHALLENGE, self.coefficients, strict=True)
        return tuple(f"s_{nuisance.name}" for nuisance, c in pairs if c != 0.0 and nuisance.kind == "shape")

    def rates(self) -> list[float]:
        """Return the factors on the rates of the processes at the reference point, shape (4,)."""
        factors = dict.fromkeys(PROCESSES, 1.0) | {SIGNAL: self.mu}
        for nuisance, nu in zip(CHALLENGE, self.nus, strict=True):
            for process in nuisance.scales:
                factors[process] *= nuisance.alpha(nu)[0]
        return [factors[process] for process in PROCESSES]

    def scores(self, ratios: Sequence[Any], values: Mapping[str, Any]) -> list[Any]:
        """Return s_mu and the scores of the nuisances that can be had, None for the others.

        Args:
            ratios: Of each process, its density relative to a mixture of all; the mixture does not matter, only the
                factors that the processes have in common, shape (n,) each. Class probabilities divided by the class
                proportions they refer to are such ratios.
            values: ``s_NAME`` of the shape nuisances, in units of the prior's width, at the prior's centre.

        Returns:
            1 + 6 arrays of shape (n,), in the order of ``CHALLENGE`` after mu; derivatives with respect to mu and to
            nuisance parameters.
        """
        rates = self.rates()
        parts = [ratio * (total * rate) for ratio, total, rate in zip(ratios, self.yields, rates, strict=True)]
        whole = sum(parts)
        signal = PROCESSES.index(SIGNAL)
        out = [ratios[signal] * self.yields[signal] / whole]
        for nuisance, nu in zip(CHALLENGE, self.nus, strict=True):
            if nuisance.kind == "shape":
                score = values.get(f"s_{nuisance.name}")
                out.append(None if score is None else score * (slope(nuisance, nu) / slope(nuisance)))
                continue
            alpha, first, _ = nuisance.alpha(nu)
            scaled = sum(parts[PROCESSES.index(process)] for process in nuisance.scales)
            # Where the map ends the rate does not change any more.
            out.append(scaled / whole * (first / alpha if alpha > 0.0 else 0.0))
        return out

    def __call__(self, ratios: Sequence[Any], values: Mapping[str, Any]) -> Any:
        """Return s*, shape (n,); see ``scores``.

        Raises:
            KeyError: If a score that enters is missing.
        """
        out, *scores = self.scores(ratios, {name: values[name] for name in self.needs})
        for score, coefficient in zip(scores, self.coefficients, strict=True):
            if coefficient != 0.0:
                out = out - coefficient * score
        return out


def power(nuisance: Nuisance) -> int:
    """Return the power of the displacement from nominal with which a shape nuisance begins to act.

    What can only grow from nominal, as the width of a noise, acts by its square; a scale acts linearly.
    """
    return 2 if nuisance.nominal == nuisance.clip[0] else 1


def slope(nuisance: Nuisance, nu: float = 0.0) -> float:
    """Return d x / d nu, where ln lambda is linear in x: the displacement from nominal to its ``power``."""
    alpha, first, _ = nuisance.alpha(nu)
    p = power(nuisance)
    return float(p * (alpha - nuisance.nominal) ** (p - 1) * first)


def copies(nuisance: Nuisance, distance: float) -> tuple[float, float, float]:
    """Return two alphas between which the score of a shape nuisance is learnt, and what makes it of their log ratio.

    Args:
        nuisance: The nuisance.
        distance: Distance of the copies from nominal in units of d alpha / d nu at the prior's centre.

    Returns:
        Lower and upper alpha, and f: if ``ln lambda(upper) - ln lambda(lower) = t``, then the score at the prior's
        centre is ``f t``. Of a nuisance that acts by its square the lower one is nominal.
    """
    step = distance * nuisance.alpha(0.0)[1]
    p = power(nuisance)
    lower, upper = nuisance.nominal - (step if p == 1 else 0.0), nuisance.nominal + step
    low, high = nuisance.clip
    if not low <= lower < upper <= high:
        msg = f"{nuisance.name} cannot be moved from {lower:g} to {upper:g}: it ends at {low:g} and {high:g}"
        raise ValueError(msg)
    reach = (upper - nuisance.nominal) ** p - (lower - nuisance.nominal) ** p
    return lower, upper, slope(nuisance) / reach
