"""Networks for ratios and their diagnostics: what holds by construction, and what a short training must reach."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from examples.interference.belts import belt_and_coverage
from examples.interference.clock import Clock
from examples.interference.oracle import MIXTURE, coefficients, draw_oracle
from examples.interference.problems import problem_of, simulated
from examples.interference.study import Learned, StudySettings, flags, learn, sample_sizes, spread
from nsbi import diagnostics
from nsbi.networks import CHUNK, PAIRWISE, Ensemble, Yields
from nsbi.train import TrainingSettings, cross_entropy, finish, make_network, slices, train, train_ensemble
from sage.errors import InputError, SettingsError
from scripts import interference

PROBLEM = problem_of("gaussian")
YIELDS = PROBLEM.yields()
SMALL = TrainingSettings(width=16, layers=2, steps=8, batch=64)


def samples(n=400, settings=SMALL):
    rng = np.random.default_rng(1)
    names = ["S", *(f"SBI {mu:g}" for mu in settings.mus)]
    return {name: PROBLEM.inputs(PROBLEM.sample(rng, n, name)) for name in names}


@pytest.mark.parametrize("seed", range(4))
def test_the_joint_network_is_nowhere_negative(seed):
    """At random weights, far from any training: what makes it positive is its form."""
    network = make_network(replace(SMALL, seed=seed), YIELDS, samples())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    x = np.random.default_rng(seed).normal(0, 3, (2000, 3)).astype(np.float32)
    ratios = network.ratios(x)
    assert np.ptp(ratios[:, 1]) > 0
    least = [(ratios @ coefficients(mu)).min() for mu in np.linspace(0, 6, 25)]
    assert min(least) > 0


def test_pairwise_networks_may_be_negative():
    x = samples()["S"]
    network = make_network(replace(SMALL, kind="pairwise", seed=3), YIELDS, samples())
    with torch.no_grad():
        for body in network.bodies:
            body.last.weight.mul_(20.0)
    assert diagnostics.least_density(MIXTURE, network.ratios(x), np.linspace(0, 6, 25)) < 0


@pytest.mark.parametrize("kind", ["joint", "pairwise"])
def test_the_loss_is_least_at_the_truth(kind):
    """The logits of a network with exact ratios have the smallest cross entropy: shifting any of them raises it."""
    rng = np.random.default_rng(2)
    n = 40_000
    reference = np.concatenate([PROBLEM.sample(rng, n, name) for name in ("S", "SBI 0")])
    for name, factor in (("S", [1, 0, 0, 0]), ("SBI 2", [2, math.sqrt(2), 1, 0])):
        total = np.array(factor) @ YIELDS.array()
        normal = np.array([[1, 0, 0, 0], [0, 0, 1, 0]]) / YIELDS.array()[[0, 2]][:, None]
        target = PROBLEM.sample(rng, n, name)

        def logit(x, factor=factor, total=total, normal=normal):
            exact = PROBLEM.exact(x)
            return np.log(exact @ factor / total / (exact @ normal.T).mean(axis=1))

        def loss(shift, logit=logit, target=target):
            ours, theirs = logit(target) + shift, logit(reference) + shift
            return np.log1p(np.exp(-ours)).mean() + np.log1p(np.exp(theirs)).mean()

        assert loss(0.0) < min(loss(0.05), loss(-0.05))
    network = make_network(replace(SMALL, kind=kind), YIELDS, samples())
    x = torch.as_tensor(PROBLEM.inputs(reference[:50]))
    densities, logits = network(x), network.logits(x)
    expected = torch.log(densities @ torch.tensor([1.0, 1.0, 1.0, 1.0]) / YIELDS.gluons(1.0))
    torch.testing.assert_close(logits["SBI 1"], expected, rtol=1e-4, atol=1e-4)


def test_training_goes_down_is_reproducible_and_resumes(tmp_path):
    settings = replace(SMALL, steps=60)
    first, last = (
        train(make_network(settings, YIELDS, samples()), samples(), replace(settings, steps=n), 0) for n in (1, 60)
    )
    assert last < first
    ours = train_ensemble(tmp_path, samples(), YIELDS, settings, 2)
    again = train_ensemble(tmp_path, samples(), YIELDS, settings, 3)
    x = samples()["SBI 1"]
    np.testing.assert_array_equal(ours.each(x), again.each(x)[:2])
    each = again.each(x)
    assert not np.array_equal(each[0], each[1])
    np.testing.assert_allclose(again.ratios(x), each.mean(axis=0), rtol=1e-6)
    with pytest.raises(SettingsError, match="other settings"):
        train_ensemble(tmp_path, samples(), YIELDS, replace(settings, steps=61), 1)
    (tmp_path / "network_0.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="remove it"):
        train_ensemble(tmp_path, samples(), YIELDS, settings, 1)


def test_clamped_ratios_are_counted():
    network = make_network(SMALL, YIELDS, samples())
    with torch.no_grad():
        network.bodies[0].last.bias[0] = 30.0
    ratios = network.ratios(samples()["S"])
    assert np.isfinite(ratios).all()
    assert ratios[:, 0].max() <= YIELDS.signal * math.exp(12) * (1 + 1e-6)
    assert network.clamped > 0.2
    assert make_network(SMALL, YIELDS, samples()).ratios(np.zeros((0, 3), dtype=np.float32)).shape == (0, 4)
    x = np.zeros((CHUNK + 5, 3), dtype=np.float32)
    assert len(make_network(SMALL, YIELDS, samples()).ratios(x)) == CHUNK + 5


def test_what_training_refuses():
    for wrong in (
        {"kind": "flow"},
        {"mus": (0.5, 1.0)},
        {"mus": (-1.0, 0.0, 1.0)},
        {"steps": 0},
        {"rate": math.nan},
    ):
        with pytest.raises(SettingsError):
            replace(SMALL, **wrong)
    with pytest.raises(SettingsError, match="above 0"):
        Yields(0.0, 1.0, 1.0, 1.0)
    with pytest.raises(SettingsError, match="0 networks"):
        Ensemble([])
    network = make_network(SMALL, YIELDS, samples())
    for bad in (np.full((5, 3), np.nan, dtype=np.float32), np.zeros((0, 3), dtype=np.float32)):
        with pytest.raises(InputError, match="simulate it again"):
            train(network, {**samples(), "S": bad}, SMALL, 0)


def reweighting(n=20_000):
    """Return events of S, of a reference of equal parts of S and B, and the exact ratio at both."""
    rng = np.random.default_rng(3)
    target = PROBLEM.sample(rng, n, "S")
    reference = np.concatenate([PROBLEM.sample(rng, n, name) for name in ("S", "SBI 0")])
    parts = [PROBLEM.exact(x)[:, [0, 2]] / YIELDS.array()[[0, 2]] for x in (target, reference)]
    return target, reference, *(each[:, 0] / each.mean(axis=1) for each in parts)


def test_diagnostics_pass_the_exact_ratio_and_fail_a_wrong_one():
    target, reference, at_target, right = reweighting()
    assert diagnostics.closure(target[:, 0], reference[:, 0], right).chi2 < 2
    assert diagnostics.closure(target[:, 0], reference[:, 0], right**0.8).chi2 > 4
    assert diagnostics.two_sample_auc(target, reference, right) == pytest.approx(0.5, abs=0.01)
    assert diagnostics.two_sample_auc(target, reference, np.ones(len(reference))) > 0.6
    curve = diagnostics.calibration(at_target, right)
    assert np.mean(((curve.found - curve.predicted) / curve.error) ** 2) < 2
    off = diagnostics.calibration(1.2 * at_target, 1.2 * right)
    assert np.mean(((off.found - off.predicted) / off.error) ** 2) > 10
    integral = diagnostics.normalisation(np.column_stack([right, 2 * right]), np.array([1.0, 1.0]))
    assert integral == pytest.approx([1, 2], rel=0.02)


def test_minima_of_expected_data_are_the_true_ones():
    """With the exact ratio; with one that takes the amplitude for 5 % larger, that much below."""
    oracle = draw_oracle(PROBLEM, np.random.default_rng(6), 60_000)
    truth = oracle.densities @ coefficients(1.0)
    mus = (0.25, 1.0, 2.0, 4.0)
    weights = [oracle.weights * (oracle.densities @ coefficients(mu)) / truth for mu in mus]
    yields = oracle.densities.T @ (oracle.weights / truth)
    found = diagnostics.asimov_scan(MIXTURE, oracle.densities, yields, weights)
    assert [mu for mu, _ in found] == pytest.approx(mus, rel=1e-4)
    assert found[1][1] == pytest.approx(0.2149, rel=0.02)
    larger = np.array([1.05**2, 1.05, 1.0, 1.0])
    found = diagnostics.asimov_scan(MIXTURE, oracle.densities * larger, yields * larger, weights)
    assert [mu * 1.05**2 for mu, _ in found] == pytest.approx(mus, rel=1e-4)


def test_the_spread_of_networks_is_that_of_their_estimates():
    """Members whose s is off by a known amount each, and another minimiser for what they find."""
    oracle = draw_oracle(PROBLEM, np.random.default_rng(7), 20_000)
    shifts = np.array([-0.02, 0.01, 0.0, 0.015])
    signal, between, box, rest = oracle.densities.T
    each = np.stack(
        [np.stack([signal, between + 2 * d * signal, box + d * between + d**2 * signal, rest], 1) for d in shifts]
    )
    network = make_network(SMALL, YIELDS, samples())
    learned = Learned(PROBLEM, samples(), Ensemble([network]), oracle, each.mean(axis=0), each)
    found = np.polynomial.Polynomial(spread(learned))
    truth = oracle.densities @ coefficients(1.0)
    for mu in (0.25, 1.5, 4.0):
        weights = oracle.weights * (oracle.densities @ coefficients(mu)) / truth
        estimates = []
        for member in each:

            def value(s, member=member, weights=weights):
                f = coefficients(s**2)
                return YIELDS.array() @ f - weights @ np.log(member @ f)

            near = (0.8 * math.sqrt(mu), 1.2 * math.sqrt(mu))
            estimates.append(minimize_scalar(value, bounds=near, method="bounded", options={"xatol": 1e-7}).x)
        assert found(math.sqrt(mu)) == pytest.approx(np.std(estimates, ddof=1), rel=0.15)
    np.testing.assert_array_equal(spread(replace(learned, each=each[:1])), np.zeros(3))


def test_most_events_are_of_the_largest_yield():
    sizes = sample_sizes(["S", "SBI 0", "SBI 1", "rest"], 1000)
    assert sizes == {"S": 167, "SBI 0": 167, "SBI 1": 167, "rest": 500}
    assert sample_sizes(["S", "SBI 0"], 1000) == {"S": 500, "SBI 0": 500}


def test_samples_are_seen_equally_often():
    """Whatever their sizes: a larger one has a larger part of each step."""
    drawn = {"S": samples()["S"], "SBI 0": np.tile(samples()["SBI 0"], (5, 1)), "SBI 1": samples()["SBI 1"]}
    settings = replace(SMALL, kind="pairwise", batch=70)
    network = make_network(settings, YIELDS, drawn)
    seen = []
    original = network.outputs
    network.outputs = lambda x: seen.append(len(x)) or original(x)
    train(network, drawn, settings, 0)
    assert set(seen) == {70}


def test_weights_count_events():
    """Those of weight 0 or of opposite weights are not there; negative ones are trained on."""
    drawn, network = samples(), make_network(SMALL, YIELDS, samples())
    other = PROBLEM.inputs(PROBLEM.sample(np.random.default_rng(5), 150, "SBI 2"))

    @torch.no_grad()
    def loss(more, weight):
        sizes = {name: len(x) + len(more) for name, x in drawn.items()}
        x = np.concatenate([np.concatenate([x, more]) for x in drawn.values()])
        own = np.concatenate([np.ones(400), weight])
        weights = torch.as_tensor(np.tile(own / own.mean(), len(drawn)), dtype=torch.float32)
        return float(cross_entropy(network.logits(torch.as_tensor(x)), slices(sizes), weights))

    plain = torch.cat([torch.as_tensor(x) for x in drawn.values()])
    with torch.no_grad():
        without = float(cross_entropy(network.logits(plain), slices({name: len(x) for name, x in drawn.items()})))
    assert loss(other, np.zeros(150)) == pytest.approx(without, rel=1e-5)
    assert loss(np.concatenate([other, other]), np.repeat([0.7, -0.7], 150)) == pytest.approx(without, rel=1e-5)
    assert abs(loss(other, np.ones(150)) - without) > 1e-4
    ones = {name: np.full(len(x), 3.0) for name, x in drawn.items()}
    states = []
    for weights in (None, ones):
        network = make_network(SMALL, YIELDS, drawn)
        train(network, drawn, SMALL, 0, weights)
        states.append(network.ratios(drawn["S"]))
    np.testing.assert_allclose(*states, rtol=1e-3)
    negative = np.random.default_rng(6).choice([1.0, -0.3], 400)
    assert math.isfinite(train(network, drawn, SMALL, 0, {"SBI 0": negative}))
    for bad in (np.ones(399), np.full(400, -1.0), np.full(400, math.nan)):
        with pytest.raises(InputError, match="weights of sample 'S'"):
            train(network, drawn, SMALL, 0, {"S": bad})


@pytest.mark.parametrize("kind", ["joint", "pairwise"])
def test_finishing_ends_at_a_minimum_of_all_events(kind):
    """Its gradient in the last layers vanishes, and the loss falls."""
    drawn = {name: torch.as_tensor(x) for name, x in samples(settings=replace(SMALL, kind=kind)).items()}
    drawn = {name: x for name, x in drawn.items() if kind == "joint" or name in PAIRWISE}
    network = make_network(replace(SMALL, kind=kind), YIELDS, {name: x.numpy() for name, x in drawn.items()})
    rows, x = slices({name: len(values) for name, values in drawn.items()}), torch.cat(list(drawn.values()))
    last = [parameter for body in network.bodies for parameter in body.last.parameters()]

    def state():
        loss = cross_entropy(network.logits(x), rows)
        slopes = torch.autograd.grad(loss, last)
        return float(loss.detach()), math.sqrt(sum(float((slope**2).sum()) for slope in slopes))

    before = state()
    finish(network, drawn)
    after = state()
    assert after[0] < before[0]
    assert after[1] < 0.02 * before[1]


def test_a_run_that_goes_on_knows_how_long_its_steps_took(tmp_path):
    clock = Clock(tmp_path)
    with clock("training network 0"):
        start = time.process_time()
        while time.process_time() < start + 0.05:
            pass
    with clock("training network 1"):
        time.sleep(0.05)
    again = Clock(tmp_path)
    with again("training network 0"):
        pass
    busy, asleep = again.by_step().values()
    assert busy.wall >= busy.processor >= 0.05
    assert asleep.wall >= 0.05 > asleep.processor
    assert again.by_part() == {"training": busy + asleep}


@pytest.mark.slow
def test_the_number_of_workers_changes_no_bit(tmp_path):
    """Neither of the events, nor of the networks, nor of the toys of belt and coverage."""
    x, found = PROBLEM.inputs(PROBLEM.sample(np.random.default_rng(1), 50, "total 1")), []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        settings = StudySettings("gaussian", 2000, 2, 2000, 1000, 3, 8, 1, SMALL, workers)
        learned, _ = learn(settings, folder, Clock(folder / "seconds"))
        belt, covered = belt_and_coverage(learned, settings, folder, Clock(folder / "seconds"))
        found.append((learned.ensemble.each(x), belt.quantiles, np.array(list(covered.values()))))
        steps = Clock(folder / "seconds").by_part()
        assert steps.keys() == {"simulation", "training", "constants", "belt", "coverage"}
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_reference_without_support_is_flagged():
    target = np.linspace(0, 1, 1000)
    both, half = np.stack([target, target[::-1]], axis=1), target < 0.5
    assert diagnostics.unsupported(both, both) == 0
    assert diagnostics.unsupported(both, both[half]) == pytest.approx(0.5, abs=0.05)
    assert diagnostics.unsupported(both, both[:0]) == 1
    hole = abs(target - 0.5) > 0.1
    assert diagnostics.unsupported(both, both[hole]) == pytest.approx(0.2, abs=0.1)
    with pytest.raises(InputError, match="widen the reference"):
        diagnostics.closure(target, target[:300], np.ones(300))


def test_what_is_not_to_be_trusted_is_said():
    assert flags(0.0, 0.0, 1e-9, 0.0) == []
    assert flags(5e-4, 5e-4, 1.0, 3.0) == []
    for values, words in (
        ((2e-3, 0, 1, 0), "clamped"),
        ((0, 0.02, 1, 0), "reference has none"),
        ((0, 0, -1e-3, 0), "joint"),
        ((0, 0, 1, 5.0), "biased"),
    ):
        (found,) = flags(*values)
        assert words in found
    assert len(flags(1, 1, math.nan, math.nan)) == 4


def test_a_damaged_sample_is_refused(tmp_path):
    simulated(PROBLEM, tmp_path, "S", 1000, 1)
    (path,) = tmp_path.glob("*.parquet")
    np.testing.assert_array_equal(
        simulated(PROBLEM, tmp_path, "S", 1000, 1), simulated(PROBLEM, tmp_path, "S", 1000, 1)
    )
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="remove it"):
        simulated(PROBLEM, tmp_path, "S", 1000, 1)
    with pytest.raises(SettingsError, match="choose one of"):
        problem_of("none")


@pytest.mark.slow
@pytest.mark.stat
def test_learned_t_of_the_gaussian_problem():
    """Within 5 % of the exact one; the problem in three dimensions."""
    settings = TrainingSettings(width=64, layers=3, steps=2000)
    rng = np.random.default_rng(1)
    names = ["S", *(f"SBI {mu:g}" for mu in settings.mus)]
    drawn = {name: PROBLEM.inputs(PROBLEM.sample(rng, 300_000, name)) for name in names}
    network = make_network(settings, YIELDS, drawn)
    train(network, drawn, settings, 0)
    oracle = draw_oracle(PROBLEM, rng, 100_000)
    ratios = network.ratios(PROBLEM.inputs(oracle.events))
    learned = Learned(PROBLEM, drawn, Ensemble([network]), oracle, ratios, ratios[None])
    for mu in (0.0, 0.25, 0.5, 2.0, 3.0, 4.0):
        assert learned.expected_t(mu) == pytest.approx(PROBLEM.problem.expected_t(mu), rel=0.05)


@pytest.mark.slow
def test_the_small_study_runs(tmp_path, capsys):
    more = ("--events", "40000", "--steps", "100", "--toys", "30", "--oracle", "20000")
    for problem in ("four_leptons", "gaussian"):
        folder = tmp_path / problem
        argv = ["--problem", problem, "--small", "--members", "2", *more, "--output", str(folder)]
        assert interference.main(argv) == 0
        first = (folder / "interference.json").read_text()
        assert "coverage" in capsys.readouterr().out
        page = (folder / "interference.html").read_text()
        for title in ("Ratio against truth", "Calibration", "Likelihood", "Belt", "Impacts", "Reweighting"):
            assert title in page
        assert '"exact"' in first


@pytest.mark.parametrize("wrong", [["--events", "0"], ["--problem", "three"], ["--kind", "flow"], ["--toys", "-1"]])
def test_the_program_refuses_in_one_line(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        interference.main(["--output", str(tmp_path), *wrong])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
