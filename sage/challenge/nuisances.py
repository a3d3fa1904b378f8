"""The one table of processes and nuisance parameters that everything reads.

Each systematic uncertainty is a nuisance parameter ``nu`` with a unit-Gaussian constraint and a map ``nu -> alpha``
to the physical quantity: an energy scale, a noise width in GeV or a rate factor. Three variants exist:

``challenge``
    The distributions the pseudo-experiments are drawn from (arXiv:2410.02867, section 3 and the challenge's
    ingestion program): clipped normals, and a clipped lognormal for the soft missing energy.
``published``
    The maps of the SAGE talks (arXiv:2509.00672): exponential rate factors and ``exp(nu) - 1`` for the soft term.
``gollum``
    Those of the published unbinned method (arXiv:2505.05544 and its submission): powers of the rate factors, and for
    the soft term half a Gaussian in GeV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sage.errors import SettingsError

PROCESSES = ("htautau", "ztautau", "ttbar", "diboson")
"""Process names as the data files spell them, in the order of the network's classes and of the tables."""

SIGNAL = "htautau"
BACKGROUNDS = PROCESSES[1:]


@dataclass(frozen=True)
class Linear:
    """``alpha = centre + width * nu``; with ``nu ~ N(0, 1)`` alpha is ``Normal(centre, width)``."""

    centre: float
    width: float

    def __call__(self, nu: float) -> tuple[float, float, float]:
        """Return alpha with its first and second derivative in nu."""
        return self.centre + self.width * nu, self.width, 0.0

    def inverse(self, alpha: float) -> float:
        """Return the nu that maps to ``alpha``."""
        return (alpha - self.centre) / self.width


@dataclass(frozen=True)
class Exponential:
    """``alpha = exp(width * nu) + offset``; with ``nu ~ N(0, 1)`` and offset 0 alpha is ``LogNormal(0, width)``."""

    width: float
    offset: float = 0.0

    def __call__(self, nu: float) -> tuple[float, float, float]:
        """Return alpha with its first and second derivative in nu."""
        value = math.exp(self.width * nu)
        return value + self.offset, self.width * value, self.width**2 * value

    def inverse(self, alpha: float) -> float:
        """Return the nu that maps to ``alpha``; minus infinity where alpha is out of reach from below."""
        value = alpha - self.offset
        return math.log(value) / self.width if value > 0 else -math.inf


@dataclass(frozen=True)
class Nuisance:
    """One systematic uncertainty.

    Args:
        name: The challenge's name for it; also the name of its switch in the harness.
        kind: ``shape`` moves events between bins (an axis of the yield tables), ``norm`` scales whole processes.
        to_alpha: The map nu -> alpha.
        clip: Range of alpha; alpha is clipped to it.
        nu_range: Range of nu the fit explores. Where alpha is clipped the likelihood is flat, so nothing lies beyond.
        nominal: Alpha of an experiment in which this uncertainty is switched off.
        scales: Processes whose expected rate is multiplied by alpha.
        width: Standard deviation of the Gaussian constraint on nu.
        unit: Unit of alpha; empty for a factor.
        starts: Distances from the centre of the constraint at which further descents of a fit begin.
    """

    name: str
    kind: Literal["shape", "norm"]
    to_alpha: Linear | Exponential
    clip: tuple[float, float]
    nu_range: tuple[float, float] = (-5.0, 5.0)
    nominal: float = 1.0
    scales: tuple[str, ...] = ()
    width: float = 1.0
    unit: str = ""
    starts: tuple[float, ...] = ()

    def alpha(self, nu: float) -> tuple[float, float, float]:
        """Return clipped alpha with its first and second derivative in nu (0 where it is clipped)."""
        value, first, second = self.to_alpha(nu)
        low, high = self.clip
        if value < low:
            return low, 0.0, 0.0
        if value > high:
            return high, 0.0, 0.0
        return value, first, second

    def nu(self, alpha: float) -> float:
        """Return the nu that maps to ``alpha``, clipped to the range of the fit."""
        low, high = self.nu_range
        return min(max(self.to_alpha.inverse(alpha), low), high)


VALLEYS = (-2.0, 0.0, 1.2)
"""Starts in soft_met: its effect is quadratic near 0, so the likelihood can have two valleys."""

CHALLENGE = (
    Nuisance("tes", "shape", Linear(1.0, 0.01), clip=(0.9, 1.1)),
    Nuisance("jes", "shape", Linear(1.0, 0.01), clip=(0.9, 1.1)),
    Nuisance(
        "soft_met",
        "shape",
        Exponential(1.0),
        clip=(0.0, 5.0),
        nu_range=(-5.0, math.log(5.0)),
        nominal=0.0,
        unit="GeV",
        starts=VALLEYS,
    ),
    Nuisance("ttbar_scale", "norm", Linear(1.0, 0.02), clip=(0.8, 1.2), scales=("ttbar",)),
    Nuisance("diboson_scale", "norm", Linear(1.0, 0.25), clip=(0.0, 2.0), scales=("diboson",), nu_range=(-4.0, 4.0)),
    Nuisance("bkg_scale", "norm", Linear(1.0, 0.001), clip=(0.99, 1.01), scales=BACKGROUNDS),
)

PUBLISHED = (
    Nuisance("tes", "shape", Linear(1.0, 0.01), clip=(0.9, 1.1)),
    Nuisance("jes", "shape", Linear(1.0, 0.01), clip=(0.9, 1.1)),
    Nuisance(
        "soft_met",
        "shape",
        Exponential(1.0, offset=-1.0),
        clip=(0.0, 5.0),
        nu_range=(math.log(1.001), math.log(6.0)),
        nominal=0.0,
        unit="GeV",
        starts=VALLEYS,
    ),
    Nuisance("ttbar_scale", "norm", Exponential(0.02), clip=(0.0, math.inf), scales=("ttbar",)),
    Nuisance("diboson_scale", "norm", Exponential(0.25), clip=(0.0, math.inf), scales=("diboson",)),
    Nuisance("bkg_scale", "norm", Exponential(0.001), clip=(0.0, math.inf), scales=BACKGROUNDS),
)

WIDE = (-10.0, 10.0)
GOLLUM = (
    Nuisance("tes", "shape", Linear(1.0, 0.01), clip=(0.9, 1.1), nu_range=WIDE),
    Nuisance("jes", "shape", Linear(1.0, 0.01), clip=(0.9, 1.1), nu_range=WIDE),
    Nuisance(
        "soft_met",
        "shape",
        Linear(0.0, 1.0),
        clip=(0.0, 5.0),
        nu_range=(0.0, 5.0),
        nominal=0.0,
        unit="GeV",
        starts=(0.0, 1.0),
    ),
    Nuisance(
        "ttbar_scale", "norm", Exponential(math.log(1.02)), clip=(0.0, math.inf), scales=("ttbar",), nu_range=WIDE
    ),
    Nuisance(
        "diboson_scale",
        "norm",
        Exponential(math.log(1.25)),
        clip=(0.0, math.inf),
        scales=("diboson",),
        nu_range=(-4.0, 4.0),
    ),
    Nuisance(
        "bkg_scale", "norm", Exponential(math.log(1.001)), clip=(0.0, math.inf), scales=BACKGROUNDS, nu_range=WIDE
    ),
)

VARIANTS: dict[str, tuple[Nuisance, ...]] = {"challenge": CHALLENGE, "published": PUBLISHED, "gollum": GOLLUM}
NAMES = tuple(nuisance.name for nuisance in CHALLENGE)
SHAPE_NAMES = tuple(nuisance.name for nuisance in CHALLENGE if nuisance.kind == "shape")


def variant(name: str) -> tuple[Nuisance, ...]:
    """Return the nuisance table called ``name``.

    Raises:
        SettingsError: If there is no such variant.
    """
    if name not in VARIANTS:
        msg = f"no nuisance variant {name!r}; choose one of {', '.join(sorted(VARIANTS))}"
        raise SettingsError(msg)
    return VARIANTS[name]
