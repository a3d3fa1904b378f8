"""The final phase, rehearsed: what each submission scores, how right it is in every set, and where it is not, why.

An answer is off for three reasons. The pool of events that all pseudo-experiments repeat is finite, and so are the
events behind a submission's tables: both move mu_hat by the same amount in all pseudo-experiments of a set. What a
submission makes of the whole pool (``harness.pool_point``) is that amount, without any fluctuation of the data; how
large it should be follows from the events (``studies.table_check``). What is left is the method's own: the bias less
the amount, and the coverage of intervals that are moved back by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from harness.experiment import Record
from harness.pool_point import PoolPoint, read_answers
from harness.scores import ONE_SIGMA, quantiles_score
from sage.challenge.nuisances import CHALLENGE, NAMES
from studies import compare
from studies.analysis import Check, Fraction, Pull, binomial_error, flat_band, fraction, plain, pull_of

BINS = 5
"""Bins of equal content in mu and in each true nuisance."""
SET_ERRORS = 3.5
"""Binomial errors within which the coverage of each of ten sets should lie."""
ERRORS = 4.0
"""Standard errors within which other numbers should lie."""
SMALLEST_P = 1e-3
"""Of a coverage that is flat in a bin's variable, for each variable."""
SHIFTS = ((1.01, 1.0, 1.0), (0.99, 1.0, 1.0), (1.0, 1.01, 1.0), (1.0, 0.99, 1.0), (1.0, 1.0, 0.1), (1.0, 1.0, 4.0))
"""Points (tes, jes, soft_met) at which the pool is looked at besides, with mu = 1."""
SECONDS = "predict_seconds"


@dataclass(frozen=True)
class Answers:
    """Answers of a submission.

    Args:
        sets: Set of each pseudo-experiment, shape (n,).
        mu: True signal strength.
        mu_hat: Estimate.
        p16: Lower limit.
        p84: Upper limit.
        half: delta_mu_hat.
        nuisances: True physical values by name; of those that were drawn.
    """

    sets: np.ndarray
    mu: np.ndarray
    mu_hat: np.ndarray
    p16: np.ndarray
    p84: np.ndarray
    half: np.ndarray
    nuisances: dict[str, np.ndarray]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Answers:
        """Return those of records."""
        mu_hat, p16, p84, half = (
            np.array([r.answer[key] for r in records]) for key in ("mu_hat", "p16", "p84", "delta_mu_hat")
        )
        drawn = [name for name in NAMES if all(r.nuisances.get(name) is not None for r in records)]
        true = {name: np.array([r.nuisances[name] for r in records], dtype=np.float64) for name in drawn}
        varied = {name: values for name, values in true.items() if np.ptp(values) > 0}
        sets, mu = np.array([r.set for r in records]), np.array([r.mu for r in records])
        return cls(sets, mu, mu_hat, p16, p84, half, varied)

    def moved(self, shift: np.ndarray) -> Answers:
        """Return the answers less a shift of each, shape (n,)."""
        ends = (self.mu_hat - shift, self.p16 - shift, self.p84 - shift)
        return Answers(self.sets, self.mu, *ends, self.half, self.nuisances)

    def covered(self) -> np.ndarray:
        """Return which intervals hold the true mu."""
        return np.asarray((self.p16 <= self.mu) & (self.mu <= self.p84))

    def coverage(self, rows: np.ndarray) -> Fraction:
        """Return the coverage of some."""
        return fraction(int(self.covered()[rows].sum()), int(rows.sum()))

    def pull(self, rows: np.ndarray) -> Pull:
        """Return mean and width of the pulls of some."""
        return pull_of((self.mu_hat - self.mu)[rows] / self.half[rows])


def points_of(mus: Sequence[float]) -> list[PoolPoint]:
    """Return where the whole pool is looked at: at each set's mu, and at mu = 1 and other nuisances."""
    return [*(PoolPoint(mu) for mu in mus), *(PoolPoint(1.0, *shift) for shift in SHIFTS)]


def rehearsal(
    folder: Path, records: Mapping[str, list[Record]], mus: Sequence[float], origin: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Analyse a rehearsal.

    Args:
        folder: Folder with a sub-folder of results for each submission.
        records: Records by submission, the same pseudo-experiments for all.
        mus: True signal strength of each set.
        origin: For each submission that tells, ``tables_error``, ``sample_error`` and ``shift`` of mu by its tables and
            the pool, as in ``studies.table_check``.

    Returns:
        JSON values that depend on the pseudo-experiments and the submissions alone, and times, which depend on the
        machine as well.
    """
    content = compare.report(folder, records)
    seconds = {}
    for name, entry in content["submissions"].items():
        answers = Answers.of(records[name])
        asked = read_answers(folder / name, points_of(mus))
        shifts = [] if asked is None else [found["mu_hat"] - found["mu"] for found in asked]
        by_set = np.array(shifts[: len(mus)]) if shifts else np.zeros(len(mus))
        entry["sets"] = [set_entry(answers, number, mus[number], by_set[number]) for number in range(len(mus))]
        entry["pool"] = None if asked is None else pool_entry(asked, len(mus), origin.get(name))
        moved = answers.moved(by_set[answers.sets])
        entry["bins"] = {key: bins_of(answers, moved, key) for key in ("mu", *answers.nuisances)}
        entry["moved_back"] = whole(moved) if shifts else None
        entry["checks"] = [asdict(check) for check in checks_of(entry, answers, moved)]
        seconds[name] = _times(records[name], entry)
        entry["official"].pop("ingestion_duration")
    return plain(content | {"band": flat_band(content["experiments"])}), plain(seconds)


def set_entry(answers: Answers, number: int, mu: float, shift: float) -> dict[str, Any]:
    """Return the truth about one set; ``rest`` is what the shift of the whole pool leaves of the bias."""
    rows = answers.sets == number
    n = int(rows.sum())
    coverage, pull = answers.coverage(rows), answers.pull(rows)
    off, width = (answers.mu_hat - answers.mu)[rows], np.abs(answers.p84 - answers.p16)[rows]
    bias, interval = (_mean(values) for values in (off, width))
    return {
        "mu": mu,
        "experiments": n,
        "coverage": asdict(coverage),
        "bias": bias,
        "shift": float(shift),
        "rest": {"value": bias["value"] - float(shift), "error": bias["error"]},
        "pull": asdict(pull),
        "interval": interval,
        "quantiles_score": quantiles_score(interval["value"], coverage.value, n),
        "coverage_moved_back": asdict(answers.moved(np.full(len(answers.mu), shift)).coverage(rows)),
    }


def bins_of(answers: Answers, moved: Answers, key: str) -> dict[str, Any]:
    """Return coverage, pull and interval in bins of equal content of mu or a true nuisance.

    Returns:
        ``bins``, and ``p_coverage`` and ``p_pull``: the probability that what is moved back is as uneven by chance.
    """
    values = answers.mu if key == "mu" else answers.nuisances[key]
    # By rank, so that equal values share a bin.
    place = np.searchsorted(np.sort(values), values) * BINS // len(values)
    bins: list[dict[str, Any]] = []
    for number in np.unique(place):
        rows = place == number
        bins.append(
            {
                "low": float(values[rows].min()),
                "high": float(values[rows].max()),
                "experiments": int(rows.sum()),
                "coverage": asdict(answers.coverage(rows)),
                "coverage_moved_back": asdict(moved.coverage(rows)),
                "pull": asdict(answers.pull(rows)),
                "pull_moved_back": asdict(moved.pull(rows)),
                "interval": _mean(np.abs(answers.p84 - answers.p16)[rows]),
            }
        )
    mean = float(moved.covered().mean())
    counts = np.array([entry["experiments"] for entry in bins])
    coverages = np.array([entry["coverage_moved_back"]["value"] for entry in bins])
    pulls = [entry["pull_moved_back"] for entry in bins]
    return {
        "bins": bins,
        "p_coverage": _flat(coverages, np.sqrt(mean * (1 - mean) / counts)),
        "p_pull": _flat(np.array([p["mean"] for p in pulls]), np.array([p["mean_error"] for p in pulls])),
    }


def pool_entry(asked: Sequence[Mapping[str, Any]], sets: int, origin: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what pool and tables do to mu: found with the whole pool, and expected from their events."""
    nominal = [entry["mu_hat"] - entry["mu"] for entry in asked[:sets]]
    others = [
        {key: entry[key] for key in ("mu", "tes", "jes", "soft_met")} | {"shift": entry["mu_hat"] - entry["mu"]}
        for entry in asked[sets:]
    ]
    return {"shift": float(np.mean(nominal)), "others": others, "expected": None if origin is None else dict(origin)}


def whole(answers: Answers) -> dict[str, Any]:
    """Return coverage, interval, score and pull of all answers."""
    every = np.ones(len(answers.mu), dtype=bool)
    coverage, interval = answers.coverage(every), float(np.abs(answers.p84 - answers.p16).mean())
    score = quantiles_score(interval, coverage.value, len(answers.mu))
    return {"coverage": asdict(coverage), "quantiles_score": score, "pull": asdict(answers.pull(every))}


def checks_of(entry: Mapping[str, Any], answers: Answers, moved: Answers) -> list[Check]:
    """Return the bounds that a submission should keep."""
    n = len(answers.mu)
    every = np.ones(n, dtype=bool)
    fallbacks = (entry["official"]["statuses"] or {}).get("fallback", 0)
    low, high = flat_band(n)
    coverage = answers.coverage(every).value
    found = [
        Check("answers that are fallbacks", fallbacks, 0, 0, fallbacks == 0),
        Check("coverage, no penalty", coverage, low, high, low <= coverage <= high),
    ]
    for number, one in enumerate(entry["sets"]):
        reach = SET_ERRORS * binomial_error(one["experiments"])
        value = one["coverage_moved_back"]["value"]
        name = f"coverage of set {number}, moved back" if entry["pool"] else f"coverage of set {number}"
        found.append(_around(name, value, ONE_SIGMA, reach))
    pull = moved.pull(every)
    found.append(_around("pull mean", pull.mean, 0.0, ERRORS * pull.mean_error))
    expected = (entry["pool"] or {}).get("expected")
    if expected:
        size = math.hypot(expected["tables_error"], expected["sample_error"])
        found.append(_around("shift by pool and tables", entry["pool"]["shift"], 0.0, 3.0 * size))
    for key, bins in entry["bins"].items():
        p_value = bins["p_coverage"]
        found.append(Check(f"coverage even in {key}, p", p_value, SMALLEST_P, 1.0, p_value >= SMALLEST_P))
    return found


def physical(key: str, low: float, high: float) -> str:
    """Return the range of a bin as text."""
    unit = next((nuisance.unit for nuisance in CHALLENGE if nuisance.name == key), "")
    return f"{low:.4g} to {high:.4g}{f' {unit}' if unit else ''}"


def _times(records: Sequence[Record], entry: dict[str, Any]) -> dict[str, Any]:
    """Take the times out of an entry; return them."""
    predict = np.array([record.predict_seconds for record in records])
    made = np.array([record.generation_seconds for record in records])
    found = {"predict": entry["statistics"].pop(SECONDS), "difference": entry["differences"].pop(SECONDS)}
    return found | {"p99": float(np.quantile(predict, 0.99)), "pseudo_data": float(made.mean())}


def _around(name: str, value: float, centre: float, reach: float) -> Check:
    return Check(name, value, centre - reach, centre + reach, bool(abs(value - centre) <= reach))


def _flat(values: np.ndarray, errors: np.ndarray) -> float:
    """Return the chi-squared probability that values agree with their mean; 1 where nothing can be said."""
    usable = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    values, errors = values[usable], errors[usable]
    if len(values) < 2:
        return 1.0
    mean = np.average(values, weights=errors**-2)
    return float(stats.chi2.sf((((values - mean) / errors) ** 2).sum(), len(values) - 1))


def _mean(values: np.ndarray) -> dict[str, float]:
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"value": float(values.mean()), "error": error}
