"""The study of a problem with interference: simulate, train, check, fit, belt. Each part is kept in a folder.

Learned ratios stand beside the exact ones everywhere. Systematic variations are the problem's own closed forms; a user
without one trains a classifier for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from examples.interference.clock import Clock
from examples.interference.constants import with_constants
from examples.interference.oracle import MIXTURE, Oracle, coefficients, draw_oracle
from examples.interference.problems import Problem, problem_of, simulated
from nsbi import diagnostics
from nsbi.constants import Constants
from nsbi.fitting import Impact, Spurious, best_fit, impacts
from nsbi.interpolation import interpolation
from nsbi.likelihood import Deviation, MixtureLikelihood, Rows, unbinned
from nsbi.networks import FLAGGED_FRACTION, Ensemble
from nsbi.train import REFERENCE, Samples, TrainingSettings, train_ensemble
from workshop.jobs import process_pool

MUS = (0.0, 0.25, 0.5, 1.5, 2.0, 3.0, 4.0)
REST_SHARE = 0.5
"""Of the simulated events that are of the processes without mu."""
LARGEST_BIAS = 4.0
"""Of t with the constants, in its errors, above which it is flagged."""
SCAN = np.linspace(0.0, 2.2, 45) ** 2
"""Signal strengths of curves, to 4.84."""


@dataclass(frozen=True)
class StudySettings:
    """How large a study is.

    Args:
        problem: One of ``PROBLEMS``.
        events: Simulated events for the training, all samples together.
        members: Networks of the ensemble.
        constants: Events after the training that the constants of the processes are fitted to.
        oracle: Events for checks with the exact ratio.
        belt: Points of the belt.
        toys: Toys at each, and for the coverage.
        seed: Of everything random.
        training: How networks are trained.
        workers: Processes; results do not depend on it.
    """

    problem: str
    events: int
    members: int
    constants: int
    oracle: int
    belt: int
    toys: int
    seed: int
    training: TrainingSettings
    workers: int = 1

    def identity(self) -> dict[str, Any]:
        """Return what decides the networks besides the seed, as JSON values."""
        training = {**asdict(self.training), "mus": list(self.training.mus)}
        return {"events": self.events, "members": self.members, "training": training}


@dataclass(frozen=True)
class Learned:
    """What the networks say: the problem, its samples, the ensemble, and ratios at the oracle's events.

    ``ratios`` are of the mean, shape (N, 4), ``each`` of the members, (M, N, 4), both with their constants.
    """

    problem: Problem
    samples: Mapping[str, np.ndarray]
    ensemble: Ensemble
    oracle: Oracle
    ratios: np.ndarray
    each: np.ndarray

    def expected_t(self, mu: float, ratios: np.ndarray | None = None) -> float:
        """Return t of the expected data with the learned ratio; the oracle takes away the noise of its events."""
        learned = self.ratios if ratios is None else ratios
        tested = (learned @ coefficients(mu)) / (learned @ coefficients(1.0))
        exact = (self.oracle.densities @ coefficients(mu)) / (self.oracle.densities @ coefficients(1.0))
        difference = np.log(np.maximum(tested, 1e-300)) - np.log(exact)
        return self.oracle.expected_t(mu) - 2 * float(self.oracle.weights @ difference)


def sample_sizes(names: Sequence[str], events: int) -> dict[str, int]:
    """Return how many events of each sample to simulate.

    N training events that stand for nu expected ones let t fluctuate by about 2 sqrt(t nu / N), so the rest, which has
    ten times the yield of all others, has half of the events; the other half resolves how S, I and B differ.
    """
    alone = {"rest": REST_SHARE} if "rest" in names else {}
    other = (1 - sum(alone.values())) / (len(names) - len(alone))
    return {name: max(1, round(events * alone.get(name, other))) for name in names}


def learn(settings: StudySettings, folder: Path, clock: Clock) -> tuple[Learned, Constants]:
    """Simulate and train, or take what the folder has; return also what the constants are fitted to."""
    problem = problem_of(settings.problem)
    names = ["S", *(f"SBI {mu:g}" for mu in settings.training.mus), "rest"]
    if not problem.yields().rest:
        names.remove("rest")
    sizes = sample_sizes(names, settings.events)
    requests = [(folder / "events", name, sizes[name], settings.seed) for name in names]
    with process_pool(settings.workers) as pool:
        for request in requests:
            pool.submit(request, simulate, problem, *request, clock)
        for _ in pool.finished():
            pass
    samples = {name: simulated(problem, *request) for name, request in zip(names, requests, strict=True)}
    with clock("simulation for checks"):
        oracle = draw_oracle(problem, np.random.default_rng(settings.seed + 1), settings.oracle)
    inputs: Samples = {name: problem.inputs(x) for name, x in samples.items()}
    networks = folder / f"networks_{settings.training.kind}"
    trained = train_ensemble(
        networks, inputs, problem.yields(), settings.training, settings.members, settings.workers, clock
    )
    ensemble, constants = with_constants(
        *(problem, trained, settings.constants, settings.seed, networks / "constants.json", settings.identity()),
        *(settings.workers, clock),
    )
    read = problem.inputs(oracle.events)
    learned = Learned(problem, samples, ensemble, oracle, ensemble.ratios(read), ensemble.each(read))
    return learned, constants


def simulate(problem: Problem, folder: Path, name: str, n: int, seed: int, clock: Clock) -> None:
    """Write a sample as ``simulated`` does, for which another process need not send it."""
    with clock(f"simulation {name}"):
        simulated(problem, folder, name, n, seed)


def check(
    learned: Learned, constants: Constants, seed: int
) -> tuple[dict[str, Any], dict[str, list[diagnostics.Closure]], Any]:
    """Return the diagnostics as JSON values, the closures by target, and the calibration of S."""
    problem, yields = learned.problem, learned.problem.yields()
    fresh = np.random.default_rng((seed, 99))
    names = [name for name in REFERENCE if name in learned.samples]
    # Events that no network has seen.
    n = min(100_000, len(learned.samples["S"]))
    reference = np.concatenate([problem.sample(fresh, n, name) for name in names])
    targets = {name: problem.sample(fresh, n, name) for name in ("S", "SBI 1", "rest") if name in learned.samples}
    at_reference = learned.ensemble.ratios(problem.inputs(reference))
    clamped = learned.ensemble.clamped
    factors = {"S": (np.array([1.0, 0, 0, 0]), yields.signal), "rest": (np.array([0, 0, 0, 1.0]), yields.rest)}
    factors["SBI 1"] = (np.array([1.0, 1, 1, 0]), yields.gluons(1.0))
    closures: dict[str, list[diagnostics.Closure]] = {}
    found: dict[str, Any] = {"clamped": clamped, "auc": {}, "chi2": {}}
    found["normalisation"] = {}
    everything = problem.sample(fresh, n, "total 1")
    found["unsupported"] = diagnostics.unsupported(problem.inputs(everything), problem.inputs(reference))
    for name, target in targets.items():
        factor, total = factors[name]
        weights = np.maximum(at_reference @ factor / total, 0.0)
        pairs = zip(target.T, reference.T, strict=True)
        closures[name] = [diagnostics.closure(ours, theirs, weights) for ours, theirs in pairs]
        found["chi2"][name] = {f: c.chi2 for f, c in zip(problem.features, closures[name], strict=True)}
        found["auc"][name] = diagnostics.two_sample_auc(problem.inputs(target), problem.inputs(reference), weights)
        error = float(weights.std() / np.sqrt(len(weights)))
        found["normalisation"][name] = {"value": float(weights.mean()), "error": error}
    at_target = learned.ensemble.ratios(problem.inputs(targets["S"]))
    curve = diagnostics.calibration(at_target[:, 0] / yields.signal, at_reference[:, 0] / yields.signal)
    found["least_density"] = diagnostics.least_density(MIXTURE, learned.ratios, np.linspace(0, 6, 25))
    truth = learned.oracle.densities @ coefficients(1.0)
    asimov = [learned.oracle.weights * (learned.oracle.densities @ coefficients(mu)) / truth for mu in MUS]
    scan = diagnostics.asimov_scan(MIXTURE, learned.ratios, yields.array(), asimov)
    exact = diagnostics.asimov_scan(MIXTURE, learned.oracle.densities, yields.array(), asimov)
    found["asimov"] = [
        {"mu": mu, "learned": ours[0], "exact": theirs[0], "parabolic_error": theirs[1]}
        for mu, ours, theirs in zip(MUS, scan, exact, strict=True)
    ]
    bias = float(np.abs(constants.after / constants.errors).max())
    found["flags"] = flags(clamped, found["unsupported"], found["least_density"], bias)
    return found, closures, curve


def flags(clamped: float, unsupported: float, least_density: float, bias: float) -> list[str]:
    """Return why ratios are not to be trusted, one sentence each; the bias is one of t in its errors."""
    found = []
    if not abs(bias) < LARGEST_BIAS:
        found.append(f"t is biased by {bias:.1f} times its error in spite of the constants: train longer")
    if clamped > FLAGGED_FRACTION:
        found.append(f"{clamped:.2%} of the ratios are beyond e^12 or e^-12 and were clamped: train longer")
    if unsupported > FLAGGED_FRACTION:
        found.append(f"{unsupported:.2%} of the events lie where the reference has none: leave that region out")
    if not least_density > 0:
        found.append(f"a density is {least_density:.3g} of its reference: train one joint network")
    return found


def expected_curves(learned: Learned, mus: Sequence[float]) -> dict[str, list[float]]:
    """Return t of the expected data at mu = 1 by analysis."""
    oracle = learned.oracle
    first = oracle.events[:, 0]
    score = np.log(oracle.densities[:, 0] / oracle.densities.sum(axis=1))
    columns = {"rate": (first, 1), learned.problem.features[0]: (first, 20), "ln(S/SBI)": (score, 30)}
    found = {name: oracle.binned_t(mus, observable, bins) for name, (observable, bins) in columns.items()}
    bare = learned.ratios / learned.ensemble.constants
    found["without constants"] = [learned.expected_t(mu, bare) for mu in mus]
    return found | {
        "exact": [oracle.expected_t(mu) for mu in mus],
        "learned": [learned.expected_t(mu) for mu in mus],
    }


def spread(learned: Learned) -> np.ndarray:
    """Return the networks' spread of s as a polynomial of s, from expected data at several mu; 0 for one network."""
    if len(learned.each) < 2:
        return np.zeros(3)
    truth = learned.oracle.densities @ coefficients(1.0)
    yields, rows = learned.problem.yields().array(), []
    # At mu = 0 estimates pile up at the end of the range.
    positive = [mu for mu in MUS if mu > 0]
    for mu in positive:
        weights = learned.oracle.weights * (learned.oracle.densities @ coefficients(mu)) / truth
        fits = [best_fit(MixtureLikelihood(MIXTURE, (unbinned(each, yields, weights),))).mu for each in learned.each]
        # Not divided by the root of their number: a member's bootstrap is as far from the events that were simulated
        # as these are from the truth, and averaging removes the first distance alone.
        rows.append(np.std(fits, ddof=1))
    coefficients_of_s = np.polynomial.Polynomial.fit(np.sqrt(positive), rows, 2).convert().coef
    # Trailing zeros are cut off.
    return np.pad(coefficients_of_s, (0, 3 - len(coefficients_of_s)))


def systematics(learned: Learned, events: int = 8_000) -> tuple[list[Impact], dict[str, float]]:
    """Return impacts on mu of the expected data, and the error of s with and without nuisances and training."""
    problem, rng = learned.problem, np.random.default_rng(5)
    chosen = rng.choice(len(learned.oracle.weights), min(events, len(learned.oracle.weights)), replace=False)
    x = learned.oracle.events[chosen]
    weights = learned.oracle.weights[chosen] * (len(learned.oracle.weights) / len(chosen))
    nominal = learned.oracle.densities[chosen]
    ups: list[np.ndarray] = []
    downs: list[np.ndarray] = []
    for name in problem.nuisances:
        for found, sign in ((ups, 1.0), (downs, -1.0)):
            varied = problem.exact(x, name, sign)
            # I changes sign where it is small: there its ratio means nothing, and is bounded.
            ratio = np.ones_like(varied)
            np.divide(varied, nominal, out=ratio, where=np.abs(nominal) > 0)
            found.append(np.clip(ratio, 0.2, 5.0))
    variations = interpolation(np.stack(ups, axis=-1), np.stack(downs, axis=-1))
    truth = nominal @ coefficients(1.0)
    simulation = Rows(nominal * (weights / truth)[:, None], (variations,))
    # The expected data are these events themselves, so that the fit gives mu = 1 back.
    channel = unbinned(learned.ratios[chosen], problem.yields().array(), weights, variations, simulation=simulation)
    exact = unbinned(nominal, problem.yields().array(), weights, variations, simulation=simulation)
    nuisances = tuple(Deviation(name) for name in problem.nuisances)
    likelihood = MixtureLikelihood(MIXTURE, (exact,), nuisances)
    best = best_fit(likelihood)
    ours = MixtureLikelihood(MIXTURE, (channel,), nuisances)
    everything = best_fit(ours, Spurious(ours, spread(learned)))
    plain = MixtureLikelihood(MIXTURE, (replace(exact, observed=Rows(nominal), expected=Rows(simulation.values)),))
    errors = {
        "exact_statistical": best_fit(plain).sigma_mu,
        "exact_all_nuisances": best.sigma_mu,
        "learned_all_nuisances_and_training": everything.sigma_mu,
    }
    return impacts(MIXTURE, likelihood, best), errors
