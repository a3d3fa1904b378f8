"""How far finite simulation moves mu: tables from one pool of simulated events, pseudo-data from another.

Events are split by showered parent, because rows of one parent are alike. In each pair, pool A makes the tables and
pool B the expectation of the data; both are normalised to the known yield of each process. To first order mu_hat moves
by g_b = d mu_hat / d n_b per event in bin b, so a pool moves it with the variance

    sum over parents of (sum over its rows of w (g_b - mean of g over the process))^2,

the mean because the normalisation is exact. Over the variance of mu_hat by the data's statistics, sum_b g_b^2 lambda_b,
this is the pool's effective weight; in units of the statistical error, mu_hat moves by about sqrt(w_A + w_B).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from sage.binned.counting import BLOCK, NOMINAL, Noise, Sample, choose_points, count_points, find_bins
from sage.binned.response import Point, Response, fit_response
from sage.binned.statistic import BinnedLikelihood, with_counts
from sage.challenge.nuisances import NAMES, PROCESSES
from sage.files.bundle import Bundle
from sage.fit.interval import measure_interval
from sage.fit.newton import FitResult
from sage.fit.objective import MU
from sage.measurement import fit_interval, likelihood_of
from sage.network.classifier import Classifier, NetworkClassifier
from studies.analysis import pull_of
from studies.likelihoods import asimov_likelihood, parameters_at, yields_at
from studies.toys import FAILED, ToySettings, Truth, draw_truth, toy_row
from training.events import Events, EventsFile
from workshop.errors import UsageError

PARENTS_FILE = "parents.parquet"
STEP = 1e-4
"""Step of the numerical derivatives of the expected counts, in mu and nu."""
LARGEST_RATIO = 1.5
"""By what factor the spread of the shifts may differ from the prediction."""


@dataclass(frozen=True)
class Pools:
    """Simulated events by pool.

    Args:
        counts: Sums of weights at each nuisance point, shape (k, n_pools, 4, n_bins), normalised per process.
        moved: Sums of squared weights of events that changed bin against the nominal point, same shape.
        points: The k nuisance points, the nominal one first.
        bins: Bin of each event at the nominal point, -1 for none, shape (n,).
        pool: Pool of each event, shape (n,).
        weights: Weights normalised per pool and process, shape (n,).
        classes: Process of each event, shape (n,).
        parents: Showered parent of each event, shape (n,).
    """

    counts: np.ndarray
    moved: np.ndarray
    points: list[Point]
    bins: np.ndarray
    pool: np.ndarray
    weights: np.ndarray
    classes: np.ndarray
    parents: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Tables from one pool, pseudo-data from another.

    Args:
        shift: mu_hat - 1 of the Asimov data of pool B under the tables of pool A.
        sigma: Uncertainty of mu of that fit, half of the interval.
        weights: Effective weights of pools A and B.
        predicted: Standard deviation of the shift that they give.
        converged: Whether the fit converged without a flag.
        pull_mean: Mean pull of the toys, nuisances drawn from the priors; NaN without toys.
        pull_width: Its width.
        coverage: Of the toys.
        predicted_coverage: Coverage of a Gaussian estimate that is off by ``shift``.
    """

    shift: float
    sigma: float
    weights: tuple[float, float]
    predicted: float
    converged: bool
    pull_mean: float = math.nan
    pull_width: float = math.nan
    coverage: float = math.nan
    predicted_coverage: float = math.nan


def read_events(folder: Path, table_fraction: float) -> tuple[Events, np.ndarray]:
    """Read the events from which tables are built, and the showered parent of each.

    Args:
        folder: Folder with the events file, its metadata and parents.parquet.
        table_fraction: Fraction of the rows that are the table part.

    Raises:
        UsageError: If there are no parents.
    """
    path = folder / PARENTS_FILE
    if not path.is_file():
        msg = f"{path} is missing; pools are split by showered parent, so use events of python -m scripts.simulate"
        raise UsageError(msg)
    file = EventsFile(folder, table_fraction)
    rows = file.rows("tables")
    parents = pq.read_table(path)["parent"].to_numpy()
    if len(parents) != file.total_rows:
        msg = f"{path}: {len(parents)} rows for {file.total_rows} events; use the file that came with the events"
        raise UsageError(msg)
    return file.read(rows), parents[rows.start : rows.stop]


def assign_pools(parents: np.ndarray, n_pools: int, seed: int) -> np.ndarray:
    """Return a pool for each event, shape (n,); each parent goes to a random one, with all its rows."""
    _, number = np.unique(parents, return_inverse=True)
    return np.random.default_rng([seed, n_pools]).integers(0, n_pools, int(number.max()) + 1)[number]


def normalise(weights: np.ndarray, classes: np.ndarray, pool: np.ndarray, n_pools: int) -> np.ndarray:
    """Scale weights so that each process has the same sum in every pool as in all of them together.

    Raises:
        UsageError: If a pool has no event of a process.
    """
    cell = pool * len(PROCESSES) + classes
    sums = np.bincount(cell, weights, minlength=n_pools * len(PROCESSES)).reshape(n_pools, -1)
    if not (sums > 0).all():
        msg = f"{len(weights)} events do not fill {n_pools} pools; simulate more or ask for fewer pairs"
        raise UsageError(msg)
    scaled: np.ndarray = weights * (sums.sum(axis=0) / sums).ravel()[cell]
    return scaled


def count_pools(bundle: Bundle, events: Events, parents: np.ndarray, n_pools: int, nodes: int, seed: int) -> Pools:
    """Count all pools at the points at which a response is fitted; each event is evaluated once for all pools.

    Raises:
        UsageError: If a pool is empty in some bin.
    """
    pool = assign_pools(parents, n_pools, seed)
    weights = normalise(events.weights, events.classes, pool, n_pools)
    points = choose_points(nodes, seed)
    classifier = NetworkClassifier(bundle.network, bundle.normalisation, threads=1)
    nominal = nominal_bins(bundle, classifier, events)
    filled = np.zeros((n_pools, bundle.regions.n_bins + 1), dtype=bool)
    filled[pool, nominal] = True  # the last column takes those that are in no bin
    empty = np.argwhere(~filled[:, :-1])
    if len(empty):
        msg = f"pool {empty[0][0]} has no event in bin {empty[0][1]}; simulate more or ask for fewer pairs"
        raise UsageError(msg)

    # One count for all pools: each class is one process of one pool.
    classes = pool * len(PROCESSES) + events.classes
    sample = Sample(events.columns, weights, classes, np.arange(len(events)))
    found = count_points(sample, points, bundle.regions, classifier, Noise(seed), n_classes=n_pools * len(PROCESSES))
    shape = (len(points), n_pools, len(PROCESSES), bundle.regions.n_bins)
    counts, moved = (found[name].reshape(shape) for name in ("counts", "moved"))
    return Pools(counts, moved, points, nominal, pool, weights, events.classes, parents)


def bundle_of_pool(bundle: Bundle, pools: Pools, number: int) -> Bundle:
    """Return the bundle with the smooth tables of one pool, taken as exact."""
    counts, moved = pools.counts[:, number], pools.moved[:, number]
    flat = len(pools.points), -1
    points = np.array(pools.points)
    fitted = fit_response(points, counts.reshape(flat), moved.reshape(flat), counts[0].ravel())
    response = Response(counts[0], fitted.coefficients.reshape(*counts[0].shape, -1))
    settings = {**bundle.settings, "templates": "smooth", "simulation_uncertainty": False}
    return replace(bundle, response=response, settings=settings)


def study_pairs(bundle: Bundle, pools: Pools, toys: int, seed: int, weights: Path) -> Iterator[Pair]:
    """Fit each pair's pseudo-data, and toys around them.

    Args:
        bundle: Network and regions; its tables give the sensitivities that predict the shifts.
        pools: Counts of 2 K pools.
        toys: Toys per pair; 0 for none.
        seed: Toy number i of each pair has the truth of seed + i.
        weights: Folder of the bundle.

    Yields:
        K pairs.
    """
    sensitivity, statistical = sensitivities(bundle)
    each = [effective_weight(pools, number, sensitivity, statistical) for number in range(pools.counts.shape[1])]
    for number in range(0, len(each), 2):
        made, drawn = (bundle_of_pool(bundle, pools, pool) for pool in (number, number + 1))
        interval = fit_interval(_nominal_data(made, pools.counts[0, number + 1]), bundle.settings)
        both = (each[number], each[number + 1])
        pair = Pair(
            shift=interval.fit.mu - 1.0,
            sigma=(interval.high - interval.low) / 2,
            weights=both,
            predicted=math.sqrt(sum(both) * statistical),
            converged=interval.fit.converged and not interval.flags,
        )
        yield _with_toys(pair, made, drawn, ToySettings(weights, seed, mus=(1.0,)), toys) if toys else pair


def sensitivities(bundle: Bundle) -> tuple[np.ndarray, float]:
    """Return d mu_hat / d n_b at the nominal Asimov data, shape (n_bins,), and mu's variance from data statistics."""
    likelihood = _nominal(bundle)
    best = measure_interval(likelihood).fit
    rate = likelihood.expected(best.parameters)
    gain = best.covariance[MU] @ derivatives(likelihood, best) / rate
    return gain, float((gain**2 * rate).sum())


def derivatives(likelihood: BinnedLikelihood, best: FitResult) -> np.ndarray:
    """Return the derivatives of the expected counts in (mu, nu...), shape (7, n_bins), by central differences."""
    steps = STEP * np.eye(len(best.parameters))
    return np.array(
        [
            (likelihood.expected(best.parameters + step) - likelihood.expected(best.parameters - step)) / (2 * STEP)
            for step in steps
        ]
    )


def effective_weight(pools: Pools, number: int, sensitivity: np.ndarray, statistical: float) -> float:
    """Return the effective weight of a pool, see the module's formula."""
    inside = pools.pool == number
    weights, classes = pools.weights[inside], pools.classes[inside]
    gain = np.where(pools.bins[inside] >= 0, sensitivity[pools.bins[inside]], 0.0)
    sums = np.bincount(classes, weights, minlength=len(PROCESSES))
    means = np.bincount(classes, weights * gain, minlength=len(PROCESSES)) / sums
    _, parent = np.unique(pools.parents[inside], return_inverse=True)
    by_parent = np.bincount(parent, weights * (gain - means[classes]))
    return float((by_parent**2).sum() / statistical)


@dataclass(frozen=True)
class Summary:
    """All pairs.

    Args:
        pairs: The pairs.
        spread: Root mean square of the shifts, in sigma.
        predicted: Root mean square of the predictions, in sigma.
        ratio: Their ratio.
        ok: Whether the ratio is within ``LARGEST_RATIO`` of 1.
        pull_slope: Of the toys' mean pulls against the shifts in sigma; 1 if they agree, NaN without toys.
        coverage: Mean coverage of the toys.
        predicted_coverage: Mean of the predictions.
    """

    pairs: tuple[Pair, ...]
    spread: float
    predicted: float
    ratio: float
    ok: bool
    pull_slope: float
    coverage: float
    predicted_coverage: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = asdict(self)
        pairs = [{name: _finite(value) for name, value in pair.items()} for pair in plain.pop("pairs")]
        return {name: _finite(value) for name, value in plain.items()} | {"pairs": pairs}


def summarise(pairs: Sequence[Pair]) -> Summary:
    """Compare the shifts with the predictions."""
    shifts = np.array([pair.shift / pair.sigma for pair in pairs])
    predicted = _rms([pair.predicted / pair.sigma for pair in pairs])
    spread = _rms(shifts)
    means = np.array([pair.pull_mean for pair in pairs])
    return Summary(
        pairs=tuple(pairs),
        spread=spread,
        predicted=predicted,
        ratio=spread / predicted,
        ok=1 / LARGEST_RATIO <= spread / predicted <= LARGEST_RATIO,
        pull_slope=float(shifts @ means / (shifts @ shifts)),
        coverage=float(np.mean([pair.coverage for pair in pairs])),
        predicted_coverage=float(np.mean([pair.predicted_coverage for pair in pairs])),
    )


def as_text(found: Summary) -> str:
    """Return a summary as text for people."""
    lines = [f"{'pair':>4} {'shift':>8} {'sigma':>7} {'shift/sigma':>11} {'predicted':>9} {'w_A':>7} {'w_B':>7}"]
    lines[0] += f" {'pull mean':>9} {'width':>6} {'coverage':>8} {'predicted':>9}"
    for number, pair in enumerate(found.pairs):
        lines.append(
            f"{number:4d} {pair.shift:+8.4f} {pair.sigma:7.4f} {pair.shift / pair.sigma:+11.3f}"
            f" {pair.predicted / pair.sigma:9.3f} {pair.weights[0]:7.3f} {pair.weights[1]:7.3f}"
            f" {pair.pull_mean:+9.3f} {pair.pull_width:6.3f} {pair.coverage:8.3f} {pair.predicted_coverage:9.3f}"
            + ("" if pair.converged else "  flagged")
        )
    verdict = "agree" if found.ok else "disagree"
    lines.append(
        f"spread of the shifts {found.spread:.3f} sigma, predicted {found.predicted:.3f}: ratio {found.ratio:.2f}, "
        f"{verdict} (within a factor {LARGEST_RATIO})"
    )
    if math.isfinite(found.coverage):
        lines.append(
            f"toys: slope of the mean pulls against the shifts {found.pull_slope:.3f}; coverage {found.coverage:.4f}, "
            f"predicted {found.predicted_coverage:.4f}"
        )
    return "\n".join(lines)


def _nominal(bundle: Bundle) -> BinnedLikelihood:
    """Return the Asimov likelihood at mu = 1 and nominal energy scales and MET."""
    return asimov_likelihood(bundle, parameters_at(bundle, 1.0, {"soft_met": NOMINAL[2]}))


def _nominal_data(bundle: Bundle, counts: np.ndarray) -> BinnedLikelihood:
    """Return the likelihood of nominal counts by process, shape (4, n_bins), under a bundle."""
    return with_counts(_nominal(bundle), counts.sum(axis=0))


def _with_toys(pair: Pair, made: Bundle, drawn: Bundle, settings: ToySettings, toys: int) -> Pair:
    """Draw toys from one bundle's expectation and fit them with another's."""
    empty = likelihood_of(np.zeros(made.regions.n_bins), made)
    pulls, covered = [], 0
    for number in range(toys):
        truth: Truth = draw_truth(settings, number)
        rng = np.random.default_rng([settings.seed, number, len(NAMES)])
        counts = rng.poisson(yields_at(drawn, truth.mu, truth.alphas).sum(axis=0)).astype(np.float64)
        row = toy_row(made, with_counts(empty, counts), truth, number)
        if row["status"] != FAILED:
            pulls.append((row["mu_hat"] - truth.mu) / ((row["p84"] - row["p16"]) / 2))
            covered += row["p16"] <= truth.mu <= row["p84"]
    pull, off = pull_of(np.array(pulls)), pair.shift / pair.sigma
    return replace(
        pair,
        pull_mean=pull.mean,
        pull_width=pull.width,
        coverage=covered / toys,
        predicted_coverage=float(stats.norm.cdf(1 - off) - stats.norm.cdf(-1 - off)),
    )


def nominal_bins(bundle: Bundle, classifier: Classifier, events: Events) -> np.ndarray:
    """Return each event's bin at the nominal point, shape (n,), -1 for none; see ``bins_at``."""
    return bins_at(NOMINAL, None, bundle, classifier, events)


def bins_at(
    point: Point, noise: np.ndarray | None, bundle: Bundle, classifier: Classifier, events: Events
) -> np.ndarray:
    """Return each event's bin at a nuisance point, shape (n,), -1 for none.

    Args:
        point: (tes, jes, soft_met).
        noise: Standard normal numbers for the missing momentum, shape (2, n), or None without soft_met.
        bundle: Content of the weights folder whose bins these are.
        classifier: Its network.
        events: The events.

    Raises:
        UsageError: If the regions overlap, so that an event may have several.
    """
    if not bundle.regions.exclusive:
        msg = "the regions of these weights overlap; pools need disjoint ones"
        raise UsageError(msg)
    found = []
    for start in range(0, len(events), BLOCK):
        block = slice(start, start + BLOCK)
        columns = {name: column[block] for name, column in events.columns.items()}
        draws = None if noise is None else (noise[0, block], noise[1, block])
        found.append(find_bins(columns, point, draws, bundle.regions, classifier)[0])
    return np.concatenate(found)


def _rms(values: Sequence[float] | np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
