"""Networks that give density ratios: one per process against a reference, or all at once and positive at every mu.

Ratios are of densities in events, nu_j p_j / p_ref, of the processes S, I, B and one ``rest`` that does not depend on
mu. The reference is a mixture of equal parts of S, B and the rest, so every ratio of theirs is bounded.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from sage.errors import SettingsError

PROCESSES = ("S", "I", "B", "rest")
PAIRWISE = ("S", "SBI 1", "SBI 0", "rest")
"""Samples that have a classifier each where the networks are not one."""
LARGEST_LOG = 12.0
"""Ratios beyond its exponential are clamped."""
FLAGGED_FRACTION = 1e-3
"""Of clamped events, above which ratios are not to be trusted."""
MARGIN = 1e-6
"""Of the interference below its bound."""
CHUNK = 65_536


@dataclass(frozen=True)
class Yields:
    """Expected events; ``interference`` may be negative, ``rest`` 0 if there is none."""

    signal: float
    interference: float
    background: float
    rest: float

    def __post_init__(self) -> None:
        if not (self.signal > 0 and self.background > 0 and self.rest >= 0):
            msg = f"yields {self} are not above 0; signal and background each need a sample"
            raise SettingsError(msg)

    def gluons(self, mu: float) -> float:
        """Return the yield of signal, interference and background at mu."""
        return mu * self.signal + math.sqrt(mu) * self.interference + self.background

    def array(self) -> np.ndarray:
        """Return S, I, B, rest, shape (4,)."""
        return np.array([self.signal, self.interference, self.background, self.rest])


class Perceptron(nn.Module):
    """A perceptron on standardised features."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor, outputs: int, width: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        sizes = [len(mean), *([width] * layers)]
        hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.stack = nn.Sequential(*hidden)
        self.last = nn.Linear(width, outputs)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last layer reads, shape (N, width)."""
        shifted = (x - cast("torch.Tensor", self.mean)) / cast("torch.Tensor", self.scale)
        return cast("torch.Tensor", self.stack(shifted))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs at features, shape (N, outputs)."""
        return cast("torch.Tensor", self.last(self.hidden(x)))


class RatioNetwork(nn.Module):
    """What both kinds share: ratios as a tensor, and as clamped numbers for a fit.

    Args:
        yields: Expected events of the processes.
    """

    clamped: float = 0.0
    """Fraction of the ratios that the last ``ratios`` has clamped."""

    def __init__(self, yields: Yields, bodies: tuple[Perceptron, ...]) -> None:
        super().__init__()
        self.yields = yields
        self.bodies = nn.ModuleList(bodies)

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the perceptrons give, shape (N, O)."""
        return torch.cat([body(x) for body in self.bodies], dim=1)

    def logits_of(self, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logarithm of p / p_ref of each sample that is trained on, shape (N,) each."""
        raise NotImplementedError

    def ratios_of(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return nu_j p_j / p_ref of S, I, B, rest, shape (N, 4)."""
        raise NotImplementedError

    def logits(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logarithms at features."""
        return self.logits_of(self.outputs(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the ratios at features."""
        return self.ratios_of(self.outputs(x))

    @torch.no_grad()
    def ratios(self, x: np.ndarray) -> np.ndarray:
        """Return the same for the fit, float64; a logarithm of a density ratio beyond +-12 is clamped and counted."""
        self.eval()
        parts = [self(torch.as_tensor(x[i : i + CHUNK], dtype=torch.float32)).numpy() for i in range(0, len(x), CHUNK)]
        found = np.concatenate(parts).astype(float) if parts else np.empty((0, len(PROCESSES)))
        limits = np.abs(self.yields.array()) * math.exp(LARGEST_LOG)
        beyond = np.abs(found) > limits
        # Interference may be 0 and less; a density is bounded below as well.
        least = limits * np.array([math.exp(-2 * LARGEST_LOG), -1.0, *[math.exp(-2 * LARGEST_LOG)] * 2])
        self.clamped = float((beyond | (found < least)).sum()) / max(1, found.size)
        return self.bounded(np.asarray(np.clip(found, least, limits)))

    def bounded(self, ratios: np.ndarray) -> np.ndarray:
        """Return ratios in which clamping and rounding have broken nothing that the network's form promises."""
        return ratios


class JointNetwork(RatioNetwork):
    """One network for all: |I| <= 2 sqrt(S B) by its form, as amplitudes have it, so no density is ever negative.

    Args:
        yields: Expected events.
        body: A perceptron with four outputs.
        mus: Signal strengths of the samples that it is trained on.
    """

    def __init__(self, yields: Yields, body: Perceptron, mus: tuple[float, ...]) -> None:
        super().__init__(yields, (body,))
        self.mus = mus
        self.start = math.atanh(yields.interference / (2 * math.sqrt(yields.signal * yields.background)))

    def ratios_of(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return nu_j p_j / p_ref of S, I, B, rest, shape (N, 4)."""
        a, b, h, rest = outputs.unbind(dim=1)
        # At outputs 0 every ratio of densities is 1: the training starts from yields that are right.
        s, box = a + math.log(self.yields.signal), b + math.log(self.yields.background)
        between = 2 * torch.exp((s + box) / 2) * torch.tanh(h + self.start)
        return torch.stack([s.exp(), between, box.exp(), rest.exp() * self.yields.rest], dim=1)

    def bounded(self, ratios: np.ndarray) -> np.ndarray:
        """Return ratios with |I| a little below 2 sqrt(S B), so that the density stays above 0."""
        most = (1 - MARGIN) * 2 * np.sqrt(ratios[:, 0] * ratios[:, 2])
        ratios[:, 1] = np.clip(ratios[:, 1], -most, most)
        return ratios

    def logits_of(self, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ln(p / p_ref) of the signal, of S + I + B at each mu, and of the rest."""
        s, between, box, rest = self.ratios_of(outputs).unbind(dim=1)
        found = {"S": torch.log(s / self.yields.signal)}
        if self.yields.rest:
            found["rest"] = torch.log(rest / self.yields.rest)
        for mu in self.mus:
            density = mu * s + math.sqrt(mu) * between + box
            # Cancels to 0 in float32 where S and B nearly annihilate.
            found[f"SBI {mu:g}"] = torch.log(density.clamp_min(1e-12) / self.yields.gluons(mu))
        return found


class PairwiseNetworks(RatioNetwork):
    """A classifier per sample, as ATLAS: S, S + I + B at mu = 1, B and the rest, each against the reference."""

    def logits_of(self, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ln(p / p_ref) of the four samples."""
        return dict(zip(PAIRWISE, outputs.unbind(dim=1), strict=False))

    def ratios_of(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return nu_j p_j / p_ref of S, I, B, rest, shape (N, 4); I is what is left of S + I + B."""
        logits = self.logits_of(outputs)
        s = self.yields.signal * logits["S"].exp()
        box = self.yields.background * logits["SBI 0"].exp()
        total = self.yields.gluons(1.0) * logits["SBI 1"].exp()
        rest = self.yields.rest * logits["rest"].exp() if "rest" in logits else torch.zeros_like(s)
        return torch.stack([s, total - s - box, box, rest], dim=1)


class Ensemble:
    """The mean of several networks; their spread is the error of training and of its data.

    Args:
        members: Networks of the same yields.
        constants: Factors of the mean's ratios, shape (4,) (``nsbi.constants``); 1 if absent.
        each_constants: Those of each member's own, shape (M, 4).
    """

    def __init__(
        self,
        members: list[RatioNetwork],
        constants: np.ndarray | None = None,
        each_constants: np.ndarray | None = None,
    ) -> None:
        if not members:
            msg = "an ensemble of 0 networks gives no ratio; train 1 or more"
            raise SettingsError(msg)
        self.members = members
        self.constants = np.ones(len(PROCESSES)) if constants is None else constants
        self.each_constants = np.ones((len(members), len(PROCESSES))) if each_constants is None else each_constants

    def each(self, x: np.ndarray) -> np.ndarray:
        """Return the ratios of each member, shape (M, N, 4)."""
        pairs = zip(self.members, self.each_constants, strict=True)
        return np.stack([member.bounded(member.ratios(x) * constants) for member, constants in pairs])

    def ratios(self, x: np.ndarray) -> np.ndarray:
        """Return the mean, shape (N, 4); a mean of mixtures that are positive is positive."""
        found = np.zeros((len(x), len(PROCESSES)))
        for member in self.members:
            found += member.ratios(x) / len(self.members)
        return self.members[0].bounded(found * self.constants)

    @property
    def clamped(self) -> float:
        """Fraction of ratios that the last call has clamped."""
        return float(np.mean([member.clamped for member in self.members]))
