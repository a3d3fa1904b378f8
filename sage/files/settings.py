"""The settings of a measurement, as the manifest holds them: their names, defaults and checks.

nuisances               variant of the nuisance table
mu_range                bounds on mu, [low, high]; None for none
templates               ``smooth`` for the response, ``grid`` for the tables
simulation_uncertainty  whether the fit takes the templates' variances into account
surrogate_uncertainty   whether an unbinned fit takes the errors of the surrogates into account that its weights hold
profile                 ``newton``, ``published`` for the published recipe, or ``slice`` for that of the unbinned method
flat_prior              range [low, high] of a flat prior on mu: p16 and p84 are the ends of the posterior's central
                        68 % (``sage.fit.posterior``), and mu_hat may lie outside of them; None for the limits of
                        the profile. The challenge draws mu from [0.1, 3]; for ``profile: newton`` alone
toy_interval            interval of a method that makes its own from toys: ``belt``, which covers at every mu, or the
                        ``published`` posterior on [0, 3]
thresholds              rise of the nll at a limit as {"mu": [...], "delta_nll": [...]}; None for 1/2
rebuilding              what ``fit`` does with training events, see ``Rebuilding``
time_limit              seconds within which an answer has to be there, or None (``sage.fit.deadline``); not for
                        ``profile: published``, which takes minutes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sage.challenge.nuisances import VARIANTS
from sage.errors import SettingsError, WeightsError
from sage.files.arrays import LARGEST_VALUE, REMEDY

TEMPLATES = ("smooth", "grid")
PROFILES = ("newton", "published", "slice")
TOY_INTERVALS = ("belt", "published")
MODES = ("auto", "bundled", "rebuild")
DEFAULT_SETTINGS: dict[str, Any] = {
    "mu_range": None,
    "flat_prior": None,
    "templates": "smooth",
    "simulation_uncertainty": False,
    "surrogate_uncertainty": True,
    "profile": "newton",
    "toy_interval": "belt",
    "thresholds": None,
    "rebuilding": {},
    "time_limit": 18.0,
}
"""What a manifest may leave out of its settings."""


@dataclass(frozen=True)
class Rebuilding:
    """How ``fit`` treats the training events.

    Args:
        mode: ``bundled`` never asks for them. ``auto`` adopts tables rebuilt from them if they are good enough (see
            ``largest_weight``), ``rebuild`` whatever their statistics. What cannot be adopted leaves the bundled ones.
        train_size: Fraction of the training part to load. A twentieth of the public data set's is 7.7 million events,
            which leave the tables a fifth of a data set's variance (docs/method.md tells what loading them takes).
        time_budget: Seconds for loading and counting together; rows are left out, or the attempt is, to keep it.
        largest_weight: Largest effective weight of a background event (sum of squared weights over sum of weights:
            the tables' variance in units of that of one data set).
    """

    mode: str = "auto"
    train_size: float = 0.05
    time_budget: float = 1200.0
    largest_weight: float = 0.5

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SettingsError: If the mode has no such name or a number is out of its range.
        """
        if self.mode not in MODES:
            msg = f"no rebuilding mode {self.mode!r}; choose one of {', '.join(MODES)}"
            raise SettingsError(msg)
        if not 0.0 < self.train_size <= 1.0 or not self.time_budget > 0.0 or not self.largest_weight > 0.0:
            msg = f"rebuilding {self}: train_size must be in (0, 1], time_budget and largest_weight positive"
            raise SettingsError(msg)


def read_rebuilding(settings: Mapping[str, Any], changes: str | Mapping[str, Any] | None = None) -> Rebuilding:
    """Return a bundle's rebuilding settings.

    Args:
        settings: The bundle's settings; defaults stand for what they lack.
        changes: A mode, or single settings, which replace the bundle's.

    Raises:
        SettingsError: If a value is out of its range.
        TypeError: If there is no setting of a given name.
    """
    given = {"mode": changes} if isinstance(changes, str) else dict(changes or {})
    return Rebuilding(**{**settings.get("rebuilding", {}), **given})


def check_mu_range(given: Any, name: str = "mu_range") -> None:
    """Check bounds on mu.

    Args:
        given: The value of the setting.
        name: Its name.

    Raises:
        SettingsError: If they are neither None nor two increasing numbers.
    """
    if given is None:
        return
    numbers = isinstance(given, (list, tuple)) and all(type(value) in (int, float) for value in given)
    if not numbers or len(given) != 2 or not -LARGEST_VALUE <= given[0] < given[1] <= LARGEST_VALUE:
        msg = f"{name} is {given!r}; give two increasing numbers, or None for no bounds"
        raise SettingsError(msg)


def read_settings(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Fill up a manifest's settings with their defaults and check them.

    Args:
        path: The manifest, for messages.
        entry: Its settings.

    Raises:
        WeightsError, SettingsError: If there is no such setting or value; the message names it.
        KeyError, TypeError: If the entry is none of settings.
    """
    settings = {**DEFAULT_SETTINGS, **entry}
    unknown = sorted(set(settings) - set(DEFAULT_SETTINGS) - {"nuisances"})
    if unknown:
        msg = f"{path}: unknown setting {unknown[0]!r}; choose one of {sorted(['nuisances', *DEFAULT_SETTINGS])}"
        raise WeightsError(msg)
    for key, allowed, what in (
        ("nuisances", tuple(VARIANTS), "nuisance variant"),
        ("templates", TEMPLATES, "templates"),
        ("profile", PROFILES, "profile"),
        ("toy_interval", TOY_INTERVALS, "toy_interval"),
        ("simulation_uncertainty", (True, False), "simulation_uncertainty"),
        ("surrogate_uncertainty", (True, False), "surrogate_uncertainty"),
    ):
        if settings[key] not in allowed:
            msg = f"{path}: unknown {what} {settings[key]!r}; choose one of {list(allowed)}"
            raise WeightsError(msg)
    for name in ("mu_range", "flat_prior"):
        check_mu_range(settings[name], name)
    if settings["flat_prior"] is not None and settings["profile"] != "newton":
        msg = f"{path}: flat_prior is {settings['flat_prior']!r}, but profile {settings['profile']!r} has limits of "
        msg += "its own; choose profile 'newton', or no flat_prior"
        raise WeightsError(msg)
    limit = settings["time_limit"]
    if limit is not None and not (type(limit) in (int, float) and 0 < limit <= LARGEST_VALUE):
        msg = f"{path}: time_limit is {limit!r}; choose a positive number of seconds, or null for no limit"
        raise WeightsError(msg)
    thresholds = settings["thresholds"]
    if thresholds is not None:
        mu, rise = (np.asarray(thresholds[key], dtype=np.float64) for key in ("mu", "delta_nll"))
        if mu.ndim != 1 or mu.shape != rise.shape or not len(mu) or not ((np.diff(mu) > 0).all() and (rise > 0).all()):
            msg = f"{path}: thresholds must be increasing mu with one positive delta_nll each; {REMEDY}"
            raise WeightsError(msg)
    try:
        read_rebuilding(settings)
    except (ValueError, TypeError) as error:
        msg = f"{path}: setting 'rebuilding': {error}; {REMEDY}"
        raise WeightsError(msg) from error
    return settings
