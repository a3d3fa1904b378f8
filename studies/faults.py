"""Faults to put into a fit on purpose, to see that a study notices them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sage.binned.response import Response
from sage.binned.statistic import BinnedLikelihood
from sage.challenge.nuisances import PROCESSES
from sage.files.bundle import Bundle

TES_CONSTRAINT, TEMPLATE_SHIFT, DROPPED_PROCESS = "tes-constraint", "template-shift", "dropped-process"
FAULTS = {
    TES_CONSTRAINT: "the constraint on tes is ten times too narrow",
    TEMPLATE_SHIFT: "the Z template is 1 % too high",
    DROPPED_PROCESS: "the fit knows of no dibosons",
}
NARROW = 0.1
SHIFT = 1.01


def faulty_templates(bundle: Bundle, fault: str | None) -> Bundle:
    """Return the bundle with the templates of a faulty fit."""
    if fault == TEMPLATE_SHIFT:
        return scale_process(bundle, "ztautau", SHIFT)
    if fault == DROPPED_PROCESS:
        return scale_process(bundle, "diboson", 0.0)
    return bundle


def faulty_likelihood(likelihood: BinnedLikelihood, fault: str | None) -> BinnedLikelihood:
    """Return the likelihood with the constraints of a faulty fit."""
    if fault != TES_CONSTRAINT:
        return likelihood
    nuisances = tuple(
        replace(nuisance, width=NARROW * nuisance.width) if nuisance.name == "tes" else nuisance
        for nuisance in likelihood.nuisances
    )
    return replace(likelihood, rates=replace(likelihood.rates, nuisances=nuisances))


def scale_process(bundle: Bundle, process: str, factor: float) -> Bundle:
    """Return the bundle with the expected yields of one process multiplied."""
    factors = np.ones((len(PROCESSES), 1))
    factors[PROCESSES.index(process)] = factor
    response = Response(bundle.response.nominal * factors, bundle.response.coefficients)
    tables = None if bundle.tables is None else replace(bundle.tables, yields=bundle.tables.yields * factors)
    return replace(bundle, response=response, tables=tables, variances=bundle.variances * factors**2)
