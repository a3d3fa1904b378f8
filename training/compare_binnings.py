"""Expected precision of the signal strength for several region sets and binnings of one trained network.

    python -m training.compare_binnings --data data --weights weights --output build/binnings

Every simulated event of the chosen part is evaluated once per nuisance point, and all candidates are filled from that
evaluation. The expected interval is that of Asimov counts at mu = 1 and all nuisances at their centres. Edges that are
chosen on the events they are judged with look better than they are: the events are also halved, by showered event where
that is known, and each half is judged with the edges of its own and with those of the other half.

Writes ``binnings.json`` and ``binnings.txt``.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sage.bundle import read_bundle
from sage.engine import Engine
from sage.graph import Normalisation, jets_present, normalise, raw_inputs
from sage.interval import measure_interval
from sage.likelihood import MU, Likelihood
from sage.nuisances import CHALLENGE, PROCESSES
from sage.regions import REGION_SETS, RegionSet, bin_numbers, quantities, region_set
from sage.response import Response, fit_response
from sage.shifts import Columns, select, shift
from training.binning import BACKGROUND_ROWS, BinningRule, choose_edges
from training.build_tables import read_network, read_shares, shares_of
from training.dataset import Events, EventsFile
from training.files import write_bytes, write_json
from training.nodes import NOMINAL, Point, choose_points
from training.train import REPORT_FILE

log = logging.getLogger(__name__)

BLOCK = 32768
CENTRE = np.array([1.0, *np.zeros(len(CHALLENGE))])
"""mu = 1 and all nuisances at the centres of their constraints."""
HALVES = (0, 1)
LEAST_EXPECTED = 1e-12
"""Bound on the expectation of a bin, against division by 0."""
STEP = 1e-3
"""Step in mu and nu of numerical derivatives."""
MIN_COUNT = 10.0
PUBLISHED = ("seed", "disjoint")
"""Region sets whose rule asks for events of each background."""
RATES = [MU, *(1 + i for i, nuisance in enumerate(CHALLENGE) if nuisance.kind == "norm")]


@dataclass(frozen=True)
class Candidate:
    """A region set with the way its bins are made."""

    region_set: str
    uniform_bins: int
    rule: BinningRule

    @property
    def name(self) -> str:
        """Its name in the table."""
        return f"{self.region_set}, {self.uniform_bins}, {self.rule.min_effective:g}"


def candidates(min_effective: list[float], uniform_bins: list[int], only: list[str] | None = None) -> list[Candidate]:
    """Return what is compared: all combinations of region set and settings.

    Args:
        min_effective: Effective background entries a bin must have.
        uniform_bins: Bins to start from.
        only: Names of region sets; all if None.
    """
    return [
        Candidate(name, uniform, BinningRule(MIN_COUNT, effective, each=name in PUBLISHED))
        for name, uniform, effective in product(only or REGION_SETS, uniform_bins, min_effective)
    ]


@dataclass(frozen=True)
class Filled:
    """A candidate with edges, and what was counted in its bins.

    Arguments:
        regions: Regions with their edges.
        counts: Sums of weights per point and half, shape (k, 2, 4, n_bins).
        moved: Sums of squared weights of the events that are in another bin than at the nominal point, same shape.
        variances: Variance of the nominal counts per half, shape (2, 4, n_bins).
    """

    regions: RegionSet
    counts: np.ndarray
    moved: np.ndarray
    variances: np.ndarray


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the network on simulated events at nuisance points."""

    engine: Engine
    normalisation: Normalisation

    def __call__(self, columns: Columns, point: Point, rng: np.random.Generator) -> tuple[dict[str, Any], np.ndarray]:
        """Return what regions are made of for the m selected events, and their row numbers, shape (m,)."""
        pieces, kept = [], []
        for start in range(0, len(columns["PRI_met"]), BLOCK):
            block = {name: column[start : start + BLOCK] for name, column in columns.items()}
            size = len(block["PRI_met"])
            noise = (rng.standard_normal(size), rng.standard_normal(size)) if point[2] > 0 else None
            selected, rows = select(shift(block, *point, noise=noise))
            selected = {name: column.astype(np.float32) for name, column in selected.items()}
            values, defined, derived = raw_inputs(selected)
            inputs = normalise(values, defined, self.normalisation)
            probabilities = self.engine.probabilities(inputs, jets_present(selected))
            pieces.append(quantities(selected, derived, probabilities))
            kept.append(start + rows)
        joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        return joined, np.concatenate(kept)


class Filler:
    """Counts one candidate's events point by point.

    Args:
        regions: Regions with their edges.
        events: The events.
        halves: Half of each event, shape (n,).
        n_points: Number of points.
    """

    def __init__(self, regions: RegionSet, events: Events, halves: np.ndarray, n_points: int) -> None:
        self.regions = regions
        self._weights = events.weights
        self._first_cell = (halves * len(PROCESSES) + events.classes) * regions.n_bins
        self._keys = events.keys
        self._shape = (len(HALVES), len(PROCESSES), regions.n_bins)
        self._counts, self._moved = np.zeros((2, n_points, *self._shape))
        self._nominal = np.zeros((0, 0), dtype=np.int16)
        self._variances = np.zeros(self._shape)

    def add(self, k: int, values: dict[str, Any], kept: np.ndarray, part: float) -> None:
        """Count the events at point k; the nominal point is number 0 and comes first."""
        found = bin_numbers(self.regions, values)
        bins = np.full((1 if self.regions.exclusive else len(found), len(self._weights)), -1, dtype=np.int16)
        for region, (rows, numbers) in enumerate(found):
            bins[0 if self.regions.exclusive else region, kept[rows]] = numbers
        if k == 0:
            self._nominal = bins
            self._variances = sum(map(self._variance, bins), start=self._variances)
        for before, after in zip(self._nominal, bins, strict=True):
            self._counts[k] += part * self._total(after, self._weights)
            changed = self._weights**2 * (before != after)
            self._moved[k] += part * (self._total(before, changed) + self._total(after, changed))

    def result(self) -> Filled:
        """Return what was counted."""
        return Filled(self.regions, self._counts, self._moved, self._variances)

    def _total(self, bins: np.ndarray, weights: np.ndarray) -> np.ndarray:
        taken = np.flatnonzero((bins >= 0) & (weights > 0))
        cells = self._first_cell[taken] + bins[taken]
        return np.bincount(cells, weights[taken], minlength=math.prod(self._shape)).reshape(self._shape)

    def _variance(self, bins: np.ndarray) -> np.ndarray:
        """Sum squared weights, after those of one showered event in one cell are summed."""
        taken = np.flatnonzero(bins >= 0)
        cells = self._first_cell[taken] + bins[taken]
        _, number = np.unique(self._keys[taken], return_inverse=True)
        n_cells = math.prod(self._shape)
        pairs, which = np.unique(number * n_cells + cells, return_inverse=True)
        sums = np.bincount(which, self._weights[taken])
        return np.bincount(pairs % n_cells, sums**2, minlength=n_cells).reshape(self._shape)


def expected_precision(
    counts: np.ndarray, moved: np.ndarray, variances: np.ndarray, regions: RegionSet, points: list[Point]
) -> dict[str, float]:
    """Fit the response of the counts and return the expected standard deviations of the signal strength.

    Args:
        counts: Sums of weights, shape (k, 4, n_bins).
        moved: Variances of their differences from the nominal ones, same shape.
        variances: Variances of the nominal counts, shape (4, n_bins).
        regions: The regions.
        points: The k points.

    Returns:
        ``statistical``: all nuisances fixed; ``rates``: shape nuisances fixed; ``sigma``: half of the expected
        interval; ``sigma_simulation``: the same with the uncertainty of the simulation; ``seconds`` per interval.
    """
    response = _response(counts, moved, points)
    out = {}
    for name, given in (("sigma", None), ("sigma_simulation", variances)):
        likelihood = _likelihood(response, regions, given)
        start = time.perf_counter()
        interval = measure_interval(likelihood)
        seconds = time.perf_counter() - start
        out[name] = (interval.high - interval.low) / 2
        if given is None:
            fisher = likelihood.evaluate(CENTRE).fisher
            out["statistical"] = fisher[MU, MU] ** -0.5
            out["rates"] = float(np.linalg.inv(fisher[np.ix_(RATES, RATES)])[0, 0] ** 0.5)
            out["seconds"] = seconds
    return out


def unbiased_information(filled: Filled, points: list[Point]) -> np.ndarray:
    """Return the Fisher information on (mu, nu...) without the bias of finite simulation.

    Fluctuations of the simulated slopes add to the information, the more the finer the bins. Here each product of
    slopes takes one factor from each half of the events, and these are independent. Positive only on average.

    Args:
        filled: Counts in both halves.
        points: The nuisance points.

    Returns:
        Shape (1 + n_nuisances, 1 + n_nuisances), constraints included.
    """
    total = filled.counts[0].sum(axis=(0, 2))
    slopes = []
    for half in HALVES:
        scale = (total / filled.counts[0, half].sum(axis=1))[:, None]
        response = _response(filled.counts[:, half] * scale, filled.moved[:, half] * scale**2, points)
        slopes.append(_slopes(response, filled.regions))
    whole = _response(filled.counts.sum(axis=1), filled.moved.sum(axis=1), points)
    expected = _likelihood(whole, filled.regions).counts
    crossed = slopes[0] / np.maximum(expected, LEAST_EXPECTED) @ slopes[1].T
    information: np.ndarray = (crossed + crossed.T) / 2 + np.diag([0.0, *np.ones(len(CHALLENGE))])
    return information


def profiled(information: np.ndarray) -> float | None:
    """Return the standard deviation of mu with the nuisances profiled; None if the matrix is not positive definite."""
    try:
        np.linalg.cholesky(information)
    except np.linalg.LinAlgError:
        return None
    return float(np.linalg.inv(information)[MU, MU] ** 0.5)


def _response(counts: np.ndarray, moved: np.ndarray, points: list[Point]) -> Response:
    flat = fit_response(
        np.array(points), counts.reshape(len(points), -1), moved.reshape(len(points), -1), counts[0].ravel()
    )
    return Response(counts[0], flat.coefficients.reshape(*counts.shape[1:], -1))


def _likelihood(response: Response, regions: RegionSet, variances: np.ndarray | None = None) -> Likelihood:
    """Return the likelihood of Asimov counts."""
    empty = Likelihood(response, CHALLENGE, np.zeros(regions.n_bins), regions.has_signal)
    return replace(empty, counts=empty.expected(CENTRE), variances=variances)


def _slopes(response: Response, regions: RegionSet) -> np.ndarray:
    """Return the derivatives of the expected counts at the centre, shape (1 + n_nuisances, n_bins)."""
    likelihood = _likelihood(response, regions)
    steps = STEP * np.eye(len(CENTRE))
    return np.stack([likelihood.expected(CENTRE + step) - likelihood.expected(CENTRE - step) for step in steps]) / (
        2 * STEP
    )


def judge(all_edges: Filled, half_edges: list[Filled], points: list[Point]) -> dict[str, Any]:
    """Return what the table shows of one candidate.

    Args:
        all_edges: Counts with the edges chosen on all events.
        half_edges: Counts with the edges chosen on each half.
        points: The nuisance points.
    """
    counts, regions = all_edges.counts.sum(axis=1), all_edges.regions
    variances = all_edges.variances.sum(axis=0)
    background = counts[0][BACKGROUND_ROWS].sum(axis=0)
    squares = np.maximum(variances[BACKGROUND_ROWS].sum(axis=0), LEAST_EXPECTED)
    out: dict[str, Any] = {
        "bins": regions.n_bins,
        "bins_of_regions": {region.name: region.n_bins for region in regions.regions},
        "least_background": float(background.min()),
        "least_effective": float((background**2 / squares).min()),
    }
    out |= expected_precision(counts, all_edges.moved.sum(axis=1), variances, regions, points)
    total = counts[0].sum(axis=1)
    out["sigma_unbiased"] = profiled(unbiased_information(all_edges, points))
    own, other = [], []
    for chosen, filled in enumerate(half_edges):
        for half in HALVES:
            scale = (total / filled.counts[0, half].sum(axis=1))[:, None]
            found = expected_precision(
                filled.counts[:, half] * scale,
                filled.moved[:, half] * scale**2,
                filled.variances[half] * scale**2,
                filled.regions,
                points,
            )
            (own if chosen == half else other).append(found)
    for name in ("statistical", "sigma"):
        same, crossed = (float(np.mean([found[name] for found in group])) for group in (own, other))
        out[f"{name}_own_half"], out[f"{name}_other_half"] = same, crossed
    return out


def bounds(
    values: dict[str, Any], weights: np.ndarray, shares: tuple[float, ...], classes: np.ndarray
) -> dict[str, float]:
    """Return the precision of an unbinned measurement with the network's own likelihood ratio, shapes fixed.

    The Fisher information in process rates is the mean of products of probabilities under the expected yields
    (Neyman-Pearson, if the network were exact).

    Args:
        values: What ``quantities`` returns.
        weights: Weights of the events, shape (m,).
        shares: Class proportions of the network.
        classes: Processes of the events, shape (m,).
    """
    yields = np.bincount(classes, weights, minlength=len(PROCESSES))
    posterior = np.stack([values[f"p_{name}"] for name in PROCESSES], axis=1).astype(np.float64) * (yields / shares)
    posterior /= posterior.sum(axis=1, keepdims=True)
    effects = [posterior[:, 0]]
    for nuisance in CHALLENGE:
        if nuisance.kind == "norm":
            scaled = [PROCESSES.index(process) for process in nuisance.scales]
            effects.append(nuisance.alpha(0.0)[1] * posterior[:, scaled].sum(axis=1))
    score = np.stack(effects)
    fisher = (score * weights) @ score.T
    constrained = fisher + np.diag([0.0, *np.ones(len(effects) - 1)])
    return {
        "statistical": float(fisher[0, 0] ** -0.5),
        "rates": float(np.linalg.inv(constrained)[0, 0] ** 0.5),
        "signal_found": float((weights * posterior[:, 0]).sum() / yields[0]),
    }


def compare(
    chosen: list[Candidate],
    events: Events,
    evaluate: Evaluator,
    shares: tuple[float, ...],
    points: list[Point],
    noise_draws: int,
    seed: int,
) -> dict[str, Any]:
    """Judge all candidates on the same events.

    Args:
        chosen: The candidates.
        events: The events, weighted to the full expectation.
        evaluate: Evaluates the network.
        shares: Class proportions to which the network's probabilities refer, shape (4,).
        points: Nuisance points, the nominal one first.
        noise_draws: Soft-MET noise vectors averaged over.
        seed: Seed of the halves and of the noise.

    Returns:
        ``candidates``, one entry for each, and ``bounds``.
    """
    _, shower = np.unique(events.keys, return_inverse=True)
    halves = np.random.default_rng(seed).integers(len(HALVES), size=shower.max() + 1)[shower]
    values, kept = evaluate(events.columns, NOMINAL, np.random.default_rng(seed))
    weights, classes = events.weights[kept], events.classes[kept]
    selections = [np.ones(len(kept), dtype=bool), *(halves[kept] == half for half in HALVES)]

    fillers = []
    for candidate in tqdm(chosen, desc="edges", disable=None):
        for selection in selections:
            counter = _Nominal(values, weights, classes, selection)
            bare = region_set(candidate.region_set).for_network(shares)
            regions = choose_edges(bare, candidate.rule, candidate.uniform_bins, counter)
            fillers.append(Filler(regions, events, halves, len(points)))
    for k, point in enumerate(tqdm(points, desc="points", disable=None)):
        draws = noise_draws if point[2] > 0 else 1
        for draw in range(draws):
            here = evaluate(events.columns, point, np.random.default_rng([seed, k, draw])) if k else (values, kept)
            for filler in fillers:
                filler.add(k, *here, 1 / draws)
    entries = []
    for i, candidate in enumerate(tqdm(chosen, desc="fits", disable=None)):
        everything, *by_half = (filler.result() for filler in fillers[3 * i : 3 * i + 3])
        entries.append({"name": candidate.name, **asdict(candidate)} | judge(everything, by_half, points))
    return {"bounds": bounds(values, weights, shares, classes), "candidates": entries}


@dataclass(frozen=True)
class _Nominal:
    """Counts selected events at the nominal point for ``choose_edges``."""

    values: dict[str, Any]
    weights: np.ndarray
    classes: np.ndarray
    selection: np.ndarray

    def __call__(self, regions: RegionSet) -> dict[str, np.ndarray]:
        sums = np.zeros((2, len(PROCESSES) * regions.n_bins))
        # A half stands for the whole, with twice the weights: the rule speaks of expected events.
        scale = self.weights.sum() / self.weights[self.selection].sum()
        for rows, bins in bin_numbers(regions, self.values):
            inside = self.selection[rows]
            cells = (self.classes[rows] * regions.n_bins + bins)[inside]
            weights = self.weights[rows][inside] * scale
            for power in (1, 2):
                sums[power - 1] += np.bincount(cells, weights**power, minlength=sums.shape[1])
        counts, squares = sums.reshape(2, len(PROCESSES), regions.n_bins)
        return {"counts": counts, "squares": squares}


def table(result: dict[str, Any]) -> str:
    """Return the text table of a result of ``compare``."""
    columns = {
        "bins": "bins",
        "least_background": "bkg >=",
        "least_effective": "eff >=",
        "statistical": "stat",
        "rates": "rates",
        "sigma": "sigma",
        "sigma_simulation": "+ sim",
        "sigma_unbiased": "unbiased",
        "statistical_other_half": "stat B",
        "sigma_own_half": "sig A",
        "sigma_other_half": "sig B",
        "seconds": "s",
    }
    width = max(len(entry["name"]) for entry in result["candidates"])
    lines = [" " * width + "".join(f"{title:>9}" for title in columns.values())]
    for entry in result["candidates"]:
        cells = [f"{entry[key]:9.4g}" if entry[key] is not None else f"{'-':>9}" for key in columns]
        lines.append(f"{entry['name']:{width}}" + "".join(cells))
    limit = result["bounds"]
    lines.append(f"unbinned, shapes fixed: stat {limit['statistical']:.4g}, rates {limit['rates']:.4g}")
    return "\n".join(lines) + "\n"


def open_network(folder: Path) -> tuple[dict[str, np.ndarray], Normalisation, tuple[float, ...]]:
    """Read network, feature constants and class proportions from a weights folder or what ``training.train`` wrote."""
    if (folder / REPORT_FILE).exists():
        return *read_network(folder), read_shares(folder)
    bundle = read_bundle(folder)
    return bundle.network, bundle.normalisation, shares_of(bundle.origin["config"])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the events file")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="weights, or what training.train wrote")
    parser.add_argument("--output", type=Path, default=Path("build/binnings"), help="folder for the results")
    parser.add_argument("--part", choices=("test", "train", "all"), default="test", help="events that are counted")
    parser.add_argument("--test-size", type=float, default=0.5, help="fraction of the rows in the test part")
    parser.add_argument("--points", type=int, default=36, help="nuisance points")
    parser.add_argument("--noise-draws", type=int, default=2, help="soft-MET noise vectors averaged over")
    parser.add_argument("--min-effective", type=float, nargs="+", default=[250.0], help="effective background entries")
    parser.add_argument("--uniform-bins", type=int, nargs="+", default=[100], help="bins to start from")
    parser.add_argument("--region-sets", nargs="+", help="only these")
    parser.add_argument("--workers", type=int, default=1, help="threads")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    parameters, normalisation, shares = open_network(arguments.weights)
    file = EventsFile(arguments.data, arguments.test_size)
    events = file.read(file.rows(arguments.part))
    chosen = candidates(arguments.min_effective, arguments.uniform_bins, arguments.region_sets)
    points, _ = choose_points(arguments.points, 0, arguments.seed)
    evaluate = Evaluator(Engine(parameters, threads=arguments.workers), normalisation)
    result = compare(chosen, events, evaluate, shares, points, arguments.noise_draws, arguments.seed)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    write_json(arguments.output / "binnings.json", {"settings": settings, "rows": len(events), **result})
    text = table(result)
    write_bytes(arguments.output / "binnings.txt", text.encode("utf-8"))
    log.info("%s", text)


if __name__ == "__main__":
    main()
