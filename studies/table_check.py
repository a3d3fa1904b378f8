"""The nominal tables against events that did not make them, and against the published yields.

Compared are the yields of all bins together, of each region, and of the last bins of each region, where it is most
like the signal; the bins of each region by chi squared; and what the difference does to mu, to first order:
sum_b g_b (sample - tables)_b, g_b = d mu_hat / d n_b. Errors are by showered parents, for a known total of each
process. Tables that do not tell theirs get the errors of independent bins, which are too small for whole regions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from sage.challenge.nuisances import PROCESSES
from sage.files.bundle import Bundle
from sage.measurement import likelihood_of
from sage.rates import SIGNAL_ROW
from studies.likelihoods import open_weights
from training.correlations import places, sensitivities, variances_along
from training.counting import ByParents, Counter
from training.simulation.parts import Piece, check_sources
from training.simulation.processes import TABLE
from training.simulation.published import FIVE, YIELDS
from workshop.errors import UsageError

CHECK_FILE = "check.json"
BEYOND = 3.0
"""Standard deviations from which on a difference is warned of."""
LEAST_EVENTS = 25.0
"""Effective showered events that a place, or a bin, must have in the sample; with fewer its error means nothing."""


def check_tables(weights: Path, piece: Piece) -> dict[str, Any]:
    """Compare the tables of a weights folder with events.

    Args:
        weights: The weights folder.
        piece: The events; processes of which there are none are left out.

    Returns:
        JSON values: ``data``, ``yields``, ``chi2`` and ``mu`` (lists of comparisons), the number of ``comparisons``
        and those ``beyond`` as text.

    Raises:
        UsageError: If the tables were made from these events.
        sage.errors.SageError: If weights or events cannot be read.
    """
    bundle = open_weights(weights)
    _check_independent(bundle, piece)
    counter = Counter(piece.folder, piece.table_fraction, piece.part, bundle.network, bundle.normalisation)
    sample = normalised(counter.by_parents(bundle.regions))
    known = bundle.origin.get("tables", {}).get("errors") is not None
    compared = {
        "yields": compare_yields(bundle, sample),
        "chi2": compare_bins(bundle, sample),
        "mu": compare_mu(bundle, sample),
    }
    everything = [entry for entries in compared.values() for entry in entries]
    return {
        "data": {"folder": piece.folder.name, "part": piece.part, "sha256": piece.hash},
        "tables_errors": "by showered events" if known else "of bins taken as independent, too small for regions",
        **compared,
        "comparisons": len(everything),
        "beyond": [text for entry in everything for text in beyond(entry)],
    }


def _check_independent(bundle: Bundle, piece: Piece) -> None:
    made_from = bundle.origin["tables"]["data"] if "tables" in bundle.origin else {}
    if made_from.get("sha256") == piece.hash:
        msg = f"{piece}: the tables were made from this file; check them with other events"
        raise UsageError(msg)
    for part in made_from.get("added", []):
        events, made = (part["production"][name] for name in ("events", "simulation"))
        sources = [{"sha256": "", "rows": [0, 0], "seed": made and made["seed"], "processes": [*part["processes"]]}]
        check_sources(part["folder"], events["sources"] if events else sources, str(piece), piece.sources())


def normalised(sums: ByParents) -> ByParents:
    """Scale each process to its expected total."""
    expected = np.array([TABLE[name].expected for name in PROCESSES])
    factors = np.divide(expected, sums.totals, out=np.zeros(len(PROCESSES)), where=sums.totals > 0)
    return ByParents(
        sums.rows,
        sums.totals * factors,
        sums.yields * factors[:, None],
        sums.covariances * factors[:, None, None] ** 2,
    )


def compare_yields(bundle: Bundle, sample: ByParents) -> list[dict[str, Any]]:
    """Compare the yields of each of the ``places``."""
    tables, stated = bundle.response.nominal, bundle.origin.get("tables", {}).get("errors")
    out = []
    for place, bins in places(bundle.regions).items():
        inside = np.zeros_like(tables)
        inside[:, bins] = 1.0
        errors = np.sqrt(variances_along(inside, sample))
        for p in np.flatnonzero(sample.rows).tolist():
            process = PROCESSES[p]
            own = math.sqrt(bundle.variances[p, bins].sum()) if stated is None else stated[place][process]
            value, other = float(tables[p, bins].sum()), float(sample.yields[p, bins].sum())
            published = YIELDS[FIVE[place]][p] if bundle.regions.name == "five" and place in FIVE else None
            if other**2 <= LEAST_EVENTS * float(errors[p]) ** 2:
                continue
            out.append(
                {
                    "place": place,
                    "process": process,
                    "tables": value,
                    "tables_error": own,
                    "sample": other,
                    "sample_error": float(errors[p]),
                    "pull": _pull(value - other, math.hypot(own, float(errors[p]))),
                    "published": published,
                    "published_pull": None if published is None else _pull(value - published, own),
                }
            )
    return out


def compare_bins(bundle: Bundle, sample: ByParents) -> list[dict[str, Any]]:
    """Compare the bins of each region by chi squared, with the sample's covariance and the variances of the tables."""
    out = []
    for name, place in bundle.regions.slices.items():
        for p in np.flatnonzero(sample.rows).tolist():
            bins = np.arange(bundle.regions.n_bins)[place]
            covariance = normalised_covariance(sample, p)
            yields = sample.yields[p]
            bins = bins[yields[bins] ** 2 > LEAST_EVENTS * np.diagonal(covariance)[bins]]
            if not len(bins):
                continue
            both = covariance[np.ix_(bins, bins)] + np.diag(bundle.variances[p, bins])
            difference = bundle.response.nominal[p, bins] - yields[bins]
            chi2 = float(difference @ np.linalg.solve(both, difference))
            out.append(
                {
                    "place": name,
                    "process": PROCESSES[p],
                    "chi2": chi2,
                    "bins": len(bins),
                    "p_value": float(stats.chi2.sf(chi2, len(bins))),
                    "pull": float(stats.norm.isf(max(stats.chi2.sf(chi2, len(bins)), 1e-300))),
                }
            )
    return out


def normalised_covariance(sums: ByParents, process: int) -> np.ndarray:
    """Return the covariance of a process's yields for a known total, shape (B, B)."""
    shares = sums.yields[process] / sums.totals[process]
    project = np.hstack([np.eye(len(shares)), -shares[:, None]])
    covariance: np.ndarray = project @ sums.covariances[process] @ project.T
    return covariance


def compare_mu(bundle: Bundle, sample: ByParents) -> list[dict[str, Any]]:
    """Return how far mu_hat of data like the sample is from 1 under the tables, by process and for all of them."""
    tables = bundle.response.nominal
    gains = np.tile(sensitivities(likelihood_of(np.zeros(bundle.regions.n_bins), bundle)), (len(PROCESSES), 1))
    gains[SIGNAL_ROW] *= bundle.regions.has_signal
    there = sample.rows > 0
    shifts = (gains * (sample.yields - tables)).sum(axis=1)
    errors = np.sqrt(np.stack([(gains**2 * bundle.variances).sum(axis=1), variances_along(gains, sample)]))
    rows = [(name, shifts[p], errors[:, p]) for p, name in enumerate(PROCESSES) if there[p]]
    rows.append(("all", shifts[there].sum(), np.sqrt((errors[:, there] ** 2).sum(axis=1))))
    return [
        {
            "process": name,
            "shift": float(shift),
            "tables_error": float(own),
            "sample_error": float(other),
            "pull": _pull(float(shift), math.hypot(own, other)),
        }
        for name, shift, (own, other) in rows
    ]


def beyond(entry: Mapping[str, Any]) -> list[str]:
    """Return what a comparison warns of."""
    where = f"{entry['process']} in {entry['place']}" if "place" in entry else f"mu by {entry['process']}"
    what = {"pull": "bins against the sample" if "chi2" in entry else "against the sample"}
    what["published_pull"] = "against the published yield"
    return [
        f"{where} {text}: {entry[key]:+.1f} standard deviations"
        for key, text in what.items()
        if entry.get(key) is not None and abs(entry[key]) > BEYOND and not ("chi2" in entry and entry[key] < 0)
    ]


def summary(found: Mapping[str, Any]) -> str:
    """Return a check as text for people."""
    lines = [f"errors of the tables: {found['tables_errors']}"]
    lines += [f"{'':>42} {'tables':>20} {'sample':>20} {'pull':>6} {'published':>10} {'pull':>6}"]
    for entry in found["yields"]:
        published = ""
        if entry["published"] is not None:
            published = f" {entry['published']:10.1f} {entry['published_pull']:+6.1f}"
        lines.append(
            f"{entry['place']:>32} {entry['process']:>9} {entry['tables']:11.1f} +- {entry['tables_error']:5.1f}"
            f" {entry['sample']:11.1f} +- {entry['sample_error']:5.1f} {entry['pull']:+6.1f}{published}"
        )
    for entry in found["chi2"]:
        lines.append(
            f"{entry['place']:>32} {entry['process']:>9} chi2 {entry['chi2']:.1f} in {entry['bins']} bins, "
            f"p = {entry['p_value']:.3g}"
        )
    for entry in found["mu"]:
        error = math.hypot(entry["tables_error"], entry["sample_error"])
        lines.append(f"{'mu':>32} {entry['process']:>9} {entry['shift']:+.3f} +- {error:.3f} {entry['pull']:+.1f}")
    number = len(found["beyond"])
    lines.append(f"{number} of {found['comparisons']} comparisons beyond {BEYOND:g} standard deviations")
    return "\n".join(lines)


def _pull(difference: float, error: float) -> float:
    return difference / error if error > 0 else 0.0
