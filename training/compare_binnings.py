"""Expected precision of the signal strength for several region sets and binnings of one trained network.

Every simulated event of the chosen part is evaluated once per nuisance point, and all candidates are filled from that
evaluation. Two precisions are given: the expected interval of Asimov counts at mu = 1 and all nuisances at their
centres, with edges, slopes and counts from the same events, which flatters; and the one of ``training.crossfit``, from
disjoint folds, with its error, also at other mu and nuisance parameters.

Writes ``binnings.json`` and ``binnings.txt``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from tqdm import tqdm

from sage.binned.counting import NOMINAL
from sage.binned.regions import REGION_SETS, RegionSet, region_set
from sage.binned.response import Point, fit_counts
from sage.binned.score import EFFICIENT_SCORE
from sage.challenge.nuisances import CHALLENGE, PROCESSES
from sage.fit.interval import measure_interval
from sage.fit.objective import MU
from training.binning import BACKGROUND_ROWS, BinningRule, choose_edges
from training.config import TablesConfig
from training.crossfit import (
    CENTRE,
    ENDS_OF_MU,
    FOLDS,
    LEAST_EXPECTED,
    PARTS,
    as_numbers,
    crossed,
    errors,
    fold_of,
    likelihood_at,
    parts_of,
)
from training.efficient import Block, Blocks, choose_score, starting_edges
from training.events import Events
from training.filling import Evaluator, Filled, Filler, NominalCounts

log = logging.getLogger("sage.training.compare_binnings")

MIN_COUNT = 10.0
PUBLISHED = ("published", "disjoint")
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
    response = fit_counts(points, counts, moved)
    out = {}
    for name, given in (("sigma", None), ("sigma_simulation", variances)):
        likelihood = likelihood_at(response, regions, CENTRE, given)
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


def judge(all_edges: Filled, by_fold: list[Filled], points: list[Point], seed: int) -> dict[str, Any]:
    """Return what is reported of one candidate.

    Args:
        all_edges: Counts with the edges chosen on all events.
        by_fold: Counts with the edges chosen on each fold.
        points: The nuisance points.
        seed: Seed of the bootstrap.
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
    return out | {"crossed": as_numbers(crossed(by_fold, points), errors(by_fold, points, seed))}


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
    seed: int,
) -> dict[str, Any]:
    """Judge all candidates on the same events.

    Args:
        chosen: The candidates.
        events: The events, weighted to the full expectation.
        evaluate: Evaluates the network.
        shares: Class proportions to which the network's probabilities refer, shape (4,).
        points: Nuisance points, the nominal one first.
        seed: Seed of the folds.

    Returns:
        ``candidates``, one entry for each, and ``bounds``.
    """
    parts = parts_of(events.keys, seed)
    values, kept = evaluate(events, NOMINAL)
    weights, classes = events.weights[kept], events.classes[kept]
    folds = fold_of(parts)[kept]
    selections = [np.ones(len(kept), dtype=bool), *(folds == fold for fold in range(FOLDS))]

    # The efficient score, too, is chosen on the events that choose the edges.
    blocks = [selected_blocks(evaluate, events, (values, kept), selection) for selection in selections]
    scores: dict[int, RegionSet] = {}
    fillers = []
    for candidate in tqdm(chosen, desc="edges", disable=None):
        for number, selection in enumerate(selections):
            counter = NominalCounts(values, weights, classes, selection)
            bare = region_set(candidate.region_set).for_network(shares)
            if EFFICIENT_SCORE in bare.names:
                if number not in scores:
                    scores[number], _ = choose_score(bare, blocks[number], *TablesConfig().reference_point(), seed)
                bare = replace(bare, score=scores[number].score)
            starts = starting_edges(bare, blocks[number], candidate.uniform_bins)
            regions = choose_edges(bare, candidate.rule, candidate.uniform_bins, counter, starts)
            fillers.append(Filler(regions, events, parts, PARTS, len(points)))
    for k, point in enumerate(tqdm(points, desc="points", disable=None)):
        draws = evaluate.noise.draws if point[2] > 0 else 1
        for draw in range(draws):
            here = evaluate(events, point, draw) if k else (values, kept)
            for filler in fillers:
                filler.add(k, *here, 1 / draws)
    entries = []
    for i, candidate in enumerate(tqdm(chosen, desc="fits", disable=None)):
        n = len(selections)
        everything, *by_fold = (filler.result() for filler in fillers[n * i : n * (i + 1)])
        entries.append({"name": candidate.name, **asdict(candidate)} | judge(everything, by_fold, points, seed))
    return {"bounds": bounds(values, weights, shares, classes), "candidates": entries}


def selected_blocks(
    evaluate: Evaluator, events: Events, nominal: tuple[dict[str, Any], np.ndarray], selection: np.ndarray
) -> Blocks:
    """Give some of the events at nuisance points, weighted as all of them; see ``training.efficient.Blocks``.

    Args:
        evaluate: Evaluates the network.
        events: All events.
        nominal: Their values and row numbers at the nominal point, m events.
        selection: Which of these are given, shape (m,), boolean.
    """
    paired = replace(evaluate, noise=replace(evaluate.noise, common=True))
    nominal_rows = nominal[1]
    # By showered events, so an event that is selected elsewhere alone belongs where its relatives are.
    chosen = np.isin(events.keys, events.keys[nominal_rows[selection]])
    scale = events.weights[nominal_rows].sum() / events.weights[nominal_rows[selection]].sum()

    def blocks(point: Point) -> Iterator[Block]:
        values, kept = nominal if point == NOMINAL else paired(events, point)
        inside = chosen[kept]
        rows = kept[inside]
        values = {name: value[inside] for name, value in values.items()}
        yield values, events.weights[rows] * scale, events.classes[rows], events.keys[rows]

    return blocks


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
        "seconds": "s",
    }
    of_folds = {
        "centre": ("statistical", "statistical_error", "sigma", "sigma_error"),
        **{f"mu {mu:g}": ("sigma",) for mu in ENDS_OF_MU},
    }
    titles = [*columns.values(), "x stat", "+-", "x sigma", "+-", *(f"mu {mu:g}" for mu in ENDS_OF_MU)]
    width = max(len(entry["name"]) for entry in result["candidates"])
    lines = [" " * width + "".join(f"{title:>9}" for title in titles)]
    for entry in result["candidates"]:
        numbers = [entry[key] for key in columns]
        numbers += [entry["crossed"][truth][key] for truth, keys in of_folds.items() for key in keys]
        cells = [f"{number:9.4g}" if number is not None else f"{'-':>9}" for number in numbers]
        lines.append(f"{entry['name']:{width}}" + "".join(cells))
    limit = result["bounds"]
    lines.append(f"unbinned, shapes fixed: stat {limit['statistical']:.4g}, rates {limit['rates']:.4g}")
    lines.append("x: crossed, from disjoint folds of the events")
    return "\n".join(lines) + "\n"
