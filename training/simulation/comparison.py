"""Statistics that tell two samples of events apart: yields, responses, features, a classifier, independence of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from sage.challenge.features import DERIVED, derived
from sage.challenge.shifts import PRIMARIES, Columns, select, shift
from training.simulation.published import REGIONS, RESPONSES, SHIFTS, published_yield

FEATURES = (*PRIMARIES, *DERIVED)
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 0.15, 0.1
"""Of a response: 15 % of it or 0.1 percentage points, whichever is larger."""
KS_95 = 1.358
"""95 % quantile of the Kolmogorov distribution."""
FOLDS = 5
TREES = {"max_iter": 150, "max_leaf_nodes": 15, "learning_rate": 0.06, "random_state": 1}


@dataclass(frozen=True)
class Sample:
    """Events of one process, before the official selection.

    Args:
        columns: The 16 primaries, each of shape (n,).
        weights: Weights, shape (n,).
        parents: Showered event of each row, shape (n,); rows of one are not independent.
    """

    columns: Columns
    weights: np.ndarray
    parents: np.ndarray

    def selected(self, tes: float = 1.0, jes: float = 1.0) -> Sample:
        """Move events to a nuisance point, apply the official selection and add the derived features."""
        columns, rows = select(shift(self.columns, tes, jes))
        return Sample({**columns, **derived(columns)}, self.weights[rows], self.parents[rows])

    def take(self, rows: np.ndarray) -> Sample:
        """Return some of the events."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Sample(columns, self.weights[rows], self.parents[rows])


def effective(weights: np.ndarray) -> float:
    """Number of unweighted rows with the same relative error of their sum."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def region_table(sample: Sample, process: str) -> dict[str, Any]:
    """Fractions of the selected yield per region, relative to the published ones, with statistical errors."""
    events = sample.selected()
    table = {}
    for name, mask in REGIONS.items():
        if name == "inclusive":
            continue
        inside = mask(events.columns)
        fraction = float(events.weights[inside].sum() / events.weights.sum())
        published = published_yield(name, process) / published_yield("inclusive", process)
        table[name] = {
            "ratio": fraction / published,
            "error": _fraction_error(events, inside, fraction) / published,
            "inflation": inflation(events, inside),
            "rows": int(inside.sum()),
        }
    return table


def inflation(events: Sample, inside: np.ndarray) -> float:
    """Variance of a fraction of the yield over what it would be if all rows were independent.

    That of a bootstrap over showered events, to first order.
    """
    fraction = events.weights[inside].sum() / events.weights.sum()
    pull = events.weights * (inside - fraction)
    together = np.bincount(np.unique(events.parents, return_inverse=True)[1], weights=pull)
    return float((together**2).sum() / (pull**2).sum())


def response_table(sample: Sample, process: str) -> dict[str, Any]:
    """Responses to the energy scales beside the published ones, in percent, with the error of the difference."""
    nominal = sample.selected()
    shifted = [sample.selected(**{name: value}) for name, value in SHIFTS]
    table = {}
    for (region, of), published in RESPONSES.items():
        if of != process:
            continue
        reference = _sums(nominal, REGIONS[region](nominal.columns))
        rows = []
        for (name, value), events, expected in zip(SHIFTS, shifted, published, strict=True):
            sums = _sums(events, REGIONS[region](events.columns))
            keys = sorted(reference.keys() | sums.keys())
            before = np.array([reference.get(key, 0.0) for key in keys])
            after = np.array([sums.get(key, 0.0) for key in keys])
            change = 100.0 * (after.sum() / before.sum() - 1.0)
            error = 100.0 * float(np.sqrt(((after - before * after.sum() / before.sum()) ** 2).sum()) / before.sum())
            tolerance = max(RELATIVE_TOLERANCE * abs(expected), ABSOLUTE_TOLERANCE)
            rows.append(
                {
                    "shift": f"{name} {value}",
                    "change": float(change),
                    "error": error,
                    "published": expected,
                    "within": bool(abs(change - expected) <= tolerance),
                    "within_errors": bool(abs(change - expected) <= tolerance + error),
                }
            )
        table[region] = rows
    return table


def ks_distance(first: np.ndarray, second: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> float:
    """Largest distance of two weighted cumulative distributions."""
    grid = np.unique(np.concatenate([first, second]))
    return float(np.abs(_cumulative(first, weights[0], grid) - _cumulative(second, weights[1], grid)).max())


def ks_table(sample: Sample, reference: Sample) -> dict[str, Any]:
    """KS distance of each of the 28 features after the selection, with the 95 % range of pure chance."""
    one, two = sample.selected(), reference.selected()
    error = KS_95 * float(np.sqrt(1.0 / effective(one.weights) + 1.0 / effective(two.weights)))
    table: dict[str, Any] = {"chance_95": error}
    for name in FEATURES:
        values = [np.nan_to_num(part.columns[name].astype(np.float64), nan=-25.0) for part in (one, two)]
        table[name] = ks_distance(values[0], values[1], (one.weights, two.weights))
    return table


def classifier_auc(sample: Sample, reference: Sample, seed: int = 1) -> float:
    """AUC of gradient-boosted trees that tell two samples apart, cross-validated; 0.5 if they cannot."""
    one, two = sample.selected(), reference.selected()
    size = min(len(one.weights), 3 * len(two.weights))
    one = one.take(np.sort(np.random.default_rng(seed).permutation(len(one.weights))[:size]))
    x = np.concatenate([_matrix(one.columns), _matrix(two.columns)])
    y = np.repeat([0, 1], [len(one.weights), len(two.weights)])
    weights = np.concatenate([part.weights / part.weights.mean() / len(part.weights) for part in (one, two)]) * len(y)
    groups = np.concatenate([one.parents, two.parents + one.parents.max() + 1])
    scores = np.empty(len(y))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(x, y, groups):
        model = HistGradientBoostingClassifier(**TREES).fit(x[train], y[train], sample_weight=weights[train])
        scores[test] = model.predict_proba(x[test])[:, 1]
    return float(roc_auc_score(y, scores, sample_weight=weights))


def score_inflation(samples: Mapping[str, Sample], signal: str, n_bins: int = 10) -> dict[str, list[float]]:
    """Inflation in bins of a signal score with equal yields, for each process."""
    events = {name: sample.selected() for name, sample in samples.items()}
    x = np.concatenate([_matrix(part.columns) for part in events.values()])
    y = np.concatenate([np.full(len(part.weights), name == signal) for name, part in events.items()])
    weights = np.concatenate([part.weights / part.weights.sum() for part in events.values()]) * len(y)
    model = HistGradientBoostingClassifier(**TREES).fit(x, y, sample_weight=weights)
    out = {}
    for name, part in events.items():
        score = model.predict_proba(_matrix(part.columns))[:, 1]
        bins = np.searchsorted(np.quantile(score, np.linspace(0, 1, n_bins + 1)[1:-1]), score)
        out[name] = [inflation(part, bins == which) for which in range(n_bins)]
    return out


def _matrix(columns: Columns) -> np.ndarray:
    return np.stack([columns[name].astype(np.float32) for name in FEATURES], axis=-1)


def _cumulative(values: np.ndarray, weights: np.ndarray, grid: np.ndarray) -> np.ndarray:
    order = np.argsort(values)
    total = np.concatenate([[0.0], np.cumsum(weights[order], dtype=np.float64)])
    return np.asarray(total[np.searchsorted(values[order], grid, side="right")] / total[-1])


def _fraction_error(events: Sample, inside: np.ndarray, fraction: float) -> float:
    pull = events.weights * (inside - fraction)
    together = np.bincount(np.unique(events.parents, return_inverse=True)[1], weights=pull)
    return float(np.sqrt((together**2).sum()) / events.weights.sum())


def _sums(events: Sample, inside: np.ndarray) -> dict[int, float]:
    """Yield inside a region by showered event."""
    parents, which = np.unique(events.parents[inside], return_inverse=True)
    sums = np.bincount(which, weights=events.weights[inside], minlength=len(parents))
    return dict(zip(parents.tolist(), sums.tolist(), strict=True))
