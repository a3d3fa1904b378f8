"""Pseudo-experiments, bit-equal to the official ingestion program's (arXiv:2410.02867, section 3).

HiggsML's own ``generate_pseudo_exp_data`` is not used: it draws the two energy scales ten times too narrow. Its
lower-level functions are the same code as the official program's.
"""

from __future__ import annotations

import functools
import importlib
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from sage.challenge.nuisances import CHALLENGE, Linear
from workshop.errors import UsageError


def draw_nuisances(seed: int, systematics: Collection[str]) -> dict[str, float | None]:
    """Draw the nuisance parameters of a pseudo-experiment.

    Args:
        seed: Seed of the pseudo-experiment.
        systematics: Names of the uncertainties that are switched on.

    Returns:
        Physical value by name, in the order of the table; ``np.float64`` where drawn. What is switched off has its
        nominal value (1, 1 and 0 GeV) if it is a shape and None if it is a rate.
    """
    random = np.random.RandomState(seed)
    values: dict[str, float | None] = {}
    for nuisance in CHALLENGE:
        if nuisance.name not in systematics:
            # None is not the same as 1: bkg_scale reaches ttbar and diboson only through their own scales.
            values[nuisance.name] = nuisance.nominal if nuisance.kind == "shape" else None
            continue
        if isinstance(nuisance.to_alpha, Linear):
            value = random.normal(loc=nuisance.to_alpha.centre, scale=nuisance.to_alpha.width)
        else:
            value = random.lognormal(mean=0.0, sigma=nuisance.to_alpha.width) + nuisance.to_alpha.offset
        # np.clip returns np.float64, which turns the Poisson means of float32 weights into float64: it matters.
        values[nuisance.name] = np.clip(value, *nuisance.clip)
    return values


def make_pseudo_data(
    test_set: Mapping[str, pd.DataFrame], mu: float, nuisances: Mapping[str, float | None], seed: int
) -> dict[str, Any]:
    """Make the data of a pseudo-experiment.

    Args:
        test_set: Frames by process in the official order, as ``EventFile.load_test_set`` returns them; not changed.
        mu: True signal strength.
        nuisances: Physical values as ``draw_nuisances`` returns them.
        seed: Seed of the pseudo-experiment.

    Returns:
        ``data``, a frame of n events with the 28 float32 features, and ``weights``, n ones.

    Raises:
        UsageError: If HiggsML is not installed.
    """
    program = higgsml()
    rates = {name: nuisances[name] for name in ("ttbar_scale", "diboson_scale", "bkg_scale")}
    with quiet_pandas():
        events = program.get_bootstrapped_dataset(test_set, mu=mu, seed=seed, **rates)
        data: dict[str, Any] = program.get_systematics_dataset(
            events, tes=nuisances["tes"], jes=nuisances["jes"], soft_met=nuisances["soft_met"]
        )
    return data


@functools.cache
def higgsml() -> ModuleType:
    """Import ``HiggsML.systematics`` and what it uses, without their side effect on logging.

    HiggsML calls ``logging.basicConfig`` at level INFO when imported, which would print every library's INFO messages.
    It does nothing if the root logger has a handler, so one is lent to it for the time of the import.
    """
    root = logging.getLogger()
    guard = logging.NullHandler()
    root.addHandler(guard)
    try:
        importlib.import_module("HiggsML.derived_quantities")
        return importlib.import_module("HiggsML.systematics")
    except ImportError as error:
        msg = f"HiggsML cannot be imported ({error}); install it with: python -m pip install HiggsML==0.1.5"
        raise UsageError(msg) from error
    finally:
        root.removeHandler(guard)


@contextmanager
def quiet_pandas() -> Iterator[None]:
    """Silence what pandas has to say about the style of HiggsML's code, and nothing else."""
    with warnings.catch_warnings():
        categories: list[type[Warning]] = [DeprecationWarning, FutureWarning]
        if hasattr(pd.errors, "SettingWithCopyWarning"):  # pandas 2
            categories.append(pd.errors.SettingWithCopyWarning)
        for category in categories:
            warnings.filterwarnings("ignore", category=category, module=r"HiggsML\.")
        yield
