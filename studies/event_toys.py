"""Toys at the level of events: whole pseudo-experiments through the official functions, brought into the toys' form."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from harness.experiment import Record
from harness.packing import bundle_files
from harness.results import EXPERIMENTS_FILE, read_records
from sage.challenge.nuisances import Nuisance
from sage.files.bundle import Bundle
from sage.fit.interval import RISE
from studies.likelihoods import nuisances_of
from studies.toys import FAILED
from workshop.errors import UsageError
from workshop.files import temporary_folder

FALLBACK = "fallback"


@contextmanager
def submission_of(root: Path, weights: Path) -> Iterator[Path]:
    """Give the checkout ``root`` as a submission with the weights of another folder, for as long as it is needed."""
    with temporary_folder("submission-") as folder:
        for place, path in bundle_files(root).items():
            if not place.startswith("weights/"):
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / place)
        shutil.copytree(weights, folder / "weights")
        yield folder


def frame_of_run(folder: Path, bundle: Bundle) -> pd.DataFrame:
    """Read the pseudo-experiments of a run.

    Args:
        folder: Output folder of ``run_ingestion``, complete or not.
        bundle: The weights that the run used.

    Returns:
        The columns of ``studies.toys.toy_row``, in the order of set and number. ``rise`` at the true mu is taken from
        a parabola through each limit, as the counts are not kept: exact at the limits, so coverage follows from it.

    Raises:
        UsageError: If the folder holds no pseudo-experiment.
    """
    records, _ = read_records(folder / EXPERIMENTS_FILE)
    return frame_of_records(records, bundle, folder)


def frame_of_records(records: Sequence[Record], bundle: Bundle, origin: Path) -> pd.DataFrame:
    """Bring records into the toys' form; see ``frame_of_run``."""
    if not records:
        msg = f"{origin} holds no pseudo-experiment; give the output folder of run_ingestion"
        raise UsageError(msg)
    ordered = sorted(records, key=lambda record: (record.set, record.index))
    nuisances = nuisances_of(bundle)
    degrees = bundle.regions.n_bins - 1
    return pd.DataFrame([_row(number, record, nuisances, degrees) for number, record in enumerate(ordered)])


def parabolic_rise(mu: float, mu_hat: float, p16: float, p84: float) -> float:
    """Return the rise at ``mu`` of parabolas that have risen by 1/2 at the limits."""
    reach = p84 - mu_hat if mu > mu_hat else mu_hat - p16
    if reach <= 0:
        return 0.0 if mu == mu_hat else math.inf
    return RISE * ((mu - mu_hat) / reach) ** 2


def _row(number: int, record: Record, nuisances: Sequence[Nuisance], degrees: int) -> dict[str, Any]:
    result = record.result or {}
    fits = result.get("nuisances", {})
    measured = result.get("status", FALLBACK) != FALLBACK and all(nuisance.name in fits for nuisance in nuisances)
    mu_hat, p16, p84 = (record.answer[name] for name in ("mu_hat", "p16", "p84"))
    row: dict[str, Any] = {"number": number, "mu": record.mu, "mu_hat": mu_hat, "p16": p16, "p84": p84}
    for nuisance in nuisances:
        alpha = record.nuisances.get(nuisance.name)
        row[f"true_{nuisance.name}"] = nuisance.nu(1.0 if alpha is None else alpha)
        fitted = fits[nuisance.name] if measured else {"nu": math.nan, "sigma": math.nan}
        row |= {f"fit_{nuisance.name}": fitted["nu"], f"sigma_{nuisance.name}": fitted["sigma"]}
    return row | {
        "sigma_mu": record.answer["delta_mu_hat"],
        "nll": result.get("nll", math.nan) if measured else math.nan,
        "rise": parabolic_rise(record.mu, mu_hat, p16, p84),
        "degrees": degrees,
        "status": result["status"] if measured else FAILED,
        "flags": "; ".join(result.get("flags", ())),
    }
