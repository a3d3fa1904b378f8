"""Time of the fit: the signal strength and both limits, toys drawn from the bundle's own expectation.

    python -m benchmarks.fit --toys 200 --bins 1 200 --output results/benchmarks

A bundle's bins are split evenly where more are asked for. Times are of this process, one thread. Also counts the toys
in which the first step of the ladder did not do. --recipe times the published recipe beside it. Writes ``fit.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import describe, machine
from sage.binned.response import Response
from sage.binned.statistic import BinnedLikelihood, Counts, with_counts
from sage.challenge.nuisances import Nuisance
from sage.files.bundle import read_bundle
from sage.fit.ladder import climb
from sage.fit.published import published_interval
from sage.measurement import likelihood_of
from sage.submission import WEIGHTS

MU = (0.1, 3.0)
ANNEALING_ITERATIONS = 20
"""Of each global search of the published recipe, which leaves them at a thousand."""


def split(likelihood: BinnedLikelihood, n_bins: int) -> BinnedLikelihood:
    """Divide the bins of a smooth likelihood until there are at least ``n_bins``."""
    response = likelihood.rates.templates
    if not isinstance(response, Response):
        msg = f"only a smooth response can be split, these templates are {type(response).__name__}"
        raise TypeError(msg)
    times = -(-n_bins // response.nominal.shape[1])
    rates = likelihood.rates
    templates = Response(np.repeat(response.nominal / times, times, axis=1), response.coefficients.repeat(times, 1))
    has_signal = None if rates.has_signal is None else rates.has_signal.repeat(times)
    variance = (likelihood.statistic.variance / times).repeat(times)
    return replace(
        likelihood,
        rates=replace(rates, templates=templates, has_signal=has_signal),
        statistic=Counts(np.zeros(len(variance)), variance),
    )


def draw(rng: np.random.Generator, nuisances: tuple[Nuisance, ...]) -> np.ndarray:
    """Draw (mu, nu...) from the challenge's distributions."""
    return np.array([rng.uniform(*MU), *(np.clip(rng.normal(), *nuisance.nu_range) for nuisance in nuisances)])


def time_fits(bare: BinnedLikelihood, toys: int, seed: int) -> dict[str, Any]:
    """Fit toys; return times in milliseconds and what the ladder flagged."""
    rng = np.random.default_rng(seed)
    flags: list[str] = []
    times, pulls, widths, covered = [], [], [], 0
    for _ in range(toys):
        truth = draw(rng, bare.nuisances)
        counts = rng.poisson(bare.expected(truth)).astype(float)
        clock = time.process_time()
        interval = climb(with_counts(bare, counts))
        times.append(1e3 * (time.process_time() - clock))
        flags.extend(interval.flags[:1])
        pulls.append((interval.fit.mu - truth[0]) / interval.fit.sigma_mu)
        widths.append(interval.high - interval.low)
        covered += interval.low <= truth[0] <= interval.high
    return {
        "bins": len(bare.statistic.counts),
        "toys": toys,
        "median_ms": float(np.median(times)),
        "p99_ms": float(np.quantile(times, 0.99)),
        "flags": {flag: flags.count(flag) for flag in sorted(set(flags))},
        "beyond_first_step": sum(flag.startswith("fit_by") for flag in flags) / toys,
        "pull_mean": float(np.mean(pulls)),
        "pull_width": float(np.std(pulls)),
        "mean_width": float(np.mean(widths)),
        "coverage": covered / toys,
    }


def time_recipe(bare: BinnedLikelihood, toys: int, seed: int) -> dict[str, Any]:
    """Fit toys by the published recipe as well; return how many times as long it takes."""
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(toys):
        likelihood = with_counts(bare, rng.poisson(bare.expected(draw(rng, bare.nuisances))).astype(float))
        clock = time.process_time()
        climb(likelihood)
        between = time.process_time()
        published_interval(likelihood, annealing_iterations=ANNEALING_ITERATIONS)
        ratios.append((time.process_time() - between) / (between - clock))
    return {"toys": toys, "annealing_iterations": ANNEALING_ITERATIONS, "median": float(np.median(ratios))}


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=200)
    parser.add_argument(
        "--bins", type=int, nargs="+", default=[1, 150, 250], help="fewest bins; 1 for the bundle's own"
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--nuisances", help="variant; default: the bundle's")
    parser.add_argument("--simulation-uncertainty", action="store_true")
    parser.add_argument("--recipe", type=int, default=0, metavar="TOYS", help="times the published recipe on so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    arguments = parser.parse_args()

    bundle = read_bundle(arguments.weights)
    settings = bundle.settings | {"templates": "smooth", "simulation_uncertainty": arguments.simulation_uncertainty}
    if arguments.nuisances is not None:
        settings["nuisances"] = arguments.nuisances
    bundle = replace(bundle, settings=settings)
    bare = likelihood_of(np.zeros(bundle.regions.n_bins), bundle)
    report: dict[str, Any] = {"settings": settings, "seed": arguments.seed, "before": machine(), "fits": []}
    print(describe(report["before"]))
    for n_bins in arguments.bins:
        found = time_fits(split(bare, n_bins), arguments.toys, arguments.seed)
        report["fits"].append(found)
        print("{bins:5d} bins, median {median_ms:.2f} ms, p99 {p99_ms:.2f} ms".format(**found))
        print("      beyond the first step {beyond_first_step:.2g}; flags {flags}".format(**found))
        print("      pull of mu {pull_mean:+.3f}, width {pull_width:.3f}".format(**found))
        print("      coverage {coverage:.3f}, interval {mean_width:.3f}".format(**found))
    if arguments.recipe:
        report["recipe"] = time_recipe(bare, arguments.recipe, arguments.seed)
        print(
            "published recipe, annealing cut to {annealing_iterations} iterations, {toys} toys: {median:.0f} times as "
            "long (median)".format(**report["recipe"])
        )
    report["after"] = machine()
    print(describe(report["after"]))
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "fit.json").write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
