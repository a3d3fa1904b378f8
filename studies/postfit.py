"""One pseudo-experiment in detail: the data against the expectation before and after the fit, region by region.

Before the fit means mu = 1 and every nuisance parameter at the centre of its constraint, with the constraints' widths
as uncertainties; after it, the parameters and the covariance of the fit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.pseudo_experiments import draw_nuisances, make_pseudo_data
from harness.test_set import EventFile
from sage.binned.counting import Noise
from sage.binned.regions import Region, RegionSet
from sage.binned.response import Point
from sage.binned.statistic import BinnedLikelihood
from sage.binned.tables import default_axes
from sage.challenge.frame import read_test_set
from sage.challenge.nuisances import PROCESSES, variant
from sage.files.bundle import Bundle, read_bundle
from sage.fit.interval import Interval
from sage.measurement import count_events, fit_interval, likelihood_of
from sage.network.classifier import NetworkClassifier
from sage.network.parameters import check_networks
from training.counting import Counter, count_nodes
from workshop.numbers import with_error

PROBABILITY_EDGES = tuple(np.linspace(0.0, 1.0, 51).round(6).tolist())


@dataclass(frozen=True)
class Expectation:
    """Expected events.

    Args:
        processes: By process and bin, shape (4, n_bins).
        variations: Change of the sum over processes by each independent standard deviation, shape (k, n_bins).
    """

    processes: np.ndarray
    variations: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Sum over processes, shape (n_bins,)."""
        return np.asarray(self.processes.sum(axis=0))

    @property
    def sigma(self) -> np.ndarray:
        """Standard deviation of the total of each bin, shape (n_bins,)."""
        return np.asarray(np.sqrt((self.variations**2).sum(axis=0)))

    def integral(self, place: slice) -> tuple[float, float]:
        """Return the total of some bins and its standard deviation, correlations included."""
        sigma = np.sqrt((self.variations[:, place].sum(axis=1) ** 2).sum())
        return float(self.total[place].sum()), float(sigma)


@dataclass(frozen=True)
class PostFit:
    """A fitted pseudo-experiment.

    Args:
        bundle: Templates and regions.
        mu: True signal strength.
        seed: Seed of the pseudo-experiment.
        truth: True physical value of each nuisance; None for a rate that is switched off.
        observed: Observed events, shape (n_bins,).
        interval: The fit and its limits.
        before: Expectation before the fit.
        after: Expectation after it.
    """

    bundle: Bundle
    mu: float
    seed: int
    truth: dict[str, float | None]
    observed: np.ndarray
    interval: Interval
    before: Expectation
    after: Expectation


def postfit(weights: Path, data: Path, test_size: float, mu: float, seed: int, systematics: Collection[str]) -> PostFit:
    """Draw a pseudo-experiment as the challenge does, and fit it.

    Args:
        weights: Weights folder.
        data: Folder of the events file.
        test_size: Fraction of the rows from which events are drawn.
        mu: True signal strength.
        seed: Seed of the pseudo-experiment.
        systematics: Names of the uncertainties that are switched on.
    """
    bundle = read_bundle(weights)
    check_networks(bundle.network, bundle.normalisation.inputs)
    truth = draw_nuisances(seed, systematics)
    test_set = make_pseudo_data(EventFile(data, test_size).load_test_set(), mu, truth, seed)
    events, event_weights, _ = read_test_set(test_set)
    classifier = NetworkClassifier(bundle.network, bundle.normalisation)
    observed = count_events(events, bundle.regions, classifier, event_weights)
    likelihood = likelihood_of(observed, bundle)
    interval = fit_interval(likelihood, bundle.settings)
    start = np.concatenate([[1.0], likelihood.centres])
    widths = np.array([0.0, *(nuisance.width for nuisance in likelihood.nuisances)])
    before = expectation(likelihood, start, np.diag(widths**2))
    after = expectation(likelihood, interval.fit.parameters, interval.fit.covariance)
    return PostFit(bundle, mu, seed, truth, observed, interval, before, after)


def expectation(likelihood: BinnedLikelihood, parameters: np.ndarray, covariance: np.ndarray) -> Expectation:
    """Return the expected events at (mu, nu...) and how they vary with a covariance of these.

    Each eigenvector of the covariance is one independent variation, taken as half of the difference between one
    standard deviation up and down; for an expectation linear in the parameters that is error propagation.
    """
    variances, directions = np.linalg.eigh(covariance)
    steps = np.sqrt(np.maximum(variances, 0.0)) * directions
    variations = [
        (likelihood.expected(parameters + step) - likelihood.expected(parameters - step)) / 2 for step in steps.T
    ]
    return Expectation(likelihood.rates.by_process(parameters), np.array(variations))


def probability_histograms(
    bundle: Bundle, data: Path, test_size: float, nodes: int, seed: int, folder: Path, workers: int
) -> dict[str, Any]:
    """Histogram all class probabilities at random nodes of the nuisance grid.

    Args:
        bundle: The network.
        data: Folder of the events file.
        test_size: Fraction of the rows that are counted.
        nodes: Number of nodes, drawn from the 17 x 17 x 41 of the yield tables.
        seed: Seed of the nodes and of the soft-MET noise.
        folder: Keeps the counts at each node, so that an interrupted call goes on.
        workers: Processes.

    Returns:
        ``edges``, and ``mean`` and ``std`` over the nodes of the expected events: by output and process, per bin.
    """
    outputs = tuple(Region(name, (), f"p_{name}", edges=PROBABILITY_EDGES) for name in PROCESSES)
    regions = RegionSet("probabilities", outputs, exclusive=False)
    counter = Counter(data, test_size, "tables", bundle.network, bundle.normalisation, Noise(seed, draws=1))
    rng = np.random.default_rng(seed)
    axes = [rng.choice(axis, nodes).round(9).tolist() for axis in default_axes()]
    points: list[Point] = [(tes, jes, soft_met) for tes, jes, soft_met in zip(*axes, strict=True)]
    counts = count_nodes(counter, points, regions, folder, workers)["counts"]
    out: dict[str, Any] = {"edges": list(PROBABILITY_EDGES), "nodes": points, "mean": {}, "std": {}}
    for output, place in regions.slices.items():
        for key, values in (("mean", counts.mean(axis=0)), ("std", counts.std(axis=0))):
            out[key][output] = dict(zip(PROCESSES, values[:, place].tolist(), strict=True))
    return out


def as_dict(result: PostFit) -> dict[str, Any]:
    """Return everything but the class probabilities as plain values, for JSON."""
    fit = result.interval.fit
    regions = {}
    for region in result.bundle.regions.regions:
        place = result.bundle.regions.slices[region.name]
        regions[region.name] = {
            "observable": region.observable,
            "edges": list(region.edges),
            "observed": result.observed[place].tolist(),
        }
        for name, found in (("before", result.before), ("after", result.after)):
            total, sigma = found.integral(place)
            residuals = (result.observed[place] - found.total[place]) ** 2 / np.maximum(found.total[place], 1e-9)
            regions[region.name][name] = {
                "processes": dict(zip(PROCESSES, found.processes[:, place].tolist(), strict=True)),
                "sigma": found.sigma[place].tolist(),
                "integral": total,
                "integral_sigma": sigma,
                "chi2": float(residuals.sum()),
            }
    nuisances = {}
    for i, nuisance in enumerate(variant(result.bundle.settings["nuisances"]), start=1):
        true = result.truth[nuisance.name]
        nuisances[nuisance.name] = {
            "nu": float(fit.parameters[i]),
            "sigma": float(np.sqrt(max(fit.covariance[i, i], 0.0))),
            "alpha": nuisance.alpha(float(fit.parameters[i]))[0],
            "true_alpha": None if true is None else float(true),
            "true_nu": None if true is None else float(nuisance.nu(true)),
        }
    return {
        "mu": result.mu,
        "seed": result.seed,
        "mu_hat": fit.mu,
        "p16": result.interval.low,
        "p84": result.interval.high,
        "flags": list(result.interval.flags),
        "twice_nll": 2 * fit.value,
        "bins": len(result.observed),
        "nuisances": nuisances,
        "regions": regions,
    }


def summary(content: dict[str, Any]) -> str:
    """Return the main numbers of ``as_dict`` as plain text."""
    lines = [
        f"true mu {content['mu']:.3f}, measured {content['mu_hat']:.3f} [{content['p16']:.3f}, {content['p84']:.3f}]",
        f"-2 ln L against the saturated model: {content['twice_nll']:.1f} in {content['bins']} bins",
        "",
        "region    observed       before the fit  chi2 / bins        after the fit  chi2 / bins",
    ]
    for name, region in content["regions"].items():
        line = f"{name:8} {sum(region['observed']):9.0f}"
        for state in ("before", "after"):
            entry = region[state]
            line += f"  {with_error(entry['integral'], entry['integral_sigma']):>19}"
            line += f"  {entry['chi2']:6.1f} / {len(region['observed']):2d}"
        lines.append(line)
    lines += ["", "nuisance        true nu          fitted nu"]
    for name, entry in content["nuisances"].items():
        true = "    off" if entry["true_nu"] is None else f"{entry['true_nu']:7.3f}"
        lines.append(f"{name:14}  {true}  {with_error(entry['nu'], entry['sigma']):>16}")
    return "\n".join(lines)
