"""Nuisances and processes that are added to surrogates: closed forms of Gaussians, and the commands."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from sage.binned.response import POWERS, Response
from sage.challenge.nuisances import CHALLENGE
from sage.fit.interval import measure_interval
from sage.network.graph import INPUT_SETS, Normalisation
from sage.network.perceptron import Perceptron
from sage.rates import Rates, pairs_of, signal_times_mu
from sage.surrogates import Observed
from sage.unbinned.likelihood import UnbinnedLikelihood
from sage.unbinned.norms import NORM_BASIS
from sage.unbinned.ratios import UNBINNED, network_name, own_parameters
from sage.unbinned.refined import RefinedFactors, RefinedTemplates, extended
from sage.unbinned.response import EXACT
from sage.unbinned.statistic import kernel, pack
from scripts import refine_surrogates as program
from studies.refined import expected_errors, observe, read_refined
from tests.conftest import ROOT
from tests.events import small_data
from tests.test_unbinned import GAUSSIAN_MEANS, GAUSSIAN_YIELDS, gaussian_ratios, without_shapes
from training.events import Events
from training.refined import AddedNuisance, AddedProcess, Refinements
from training.refined_rates import RATE_POINTS, factor_norms, factor_rates, fit_rates
from training.refining import scale_lepton, train_factor, train_share
from training.surrogates import SurrogateConfig, named
from training.variations import Copies, Variation

SHIFTED = 0.25
"""Of the means of the Gaussians, by one standard deviation of the added nuisance."""
ADDED = AddedNuisance("shift", 0.01, (0.96, 1.04))
FIFTH = AddedProcess("fifth", 0.2)
FIFTH_MEAN, FIFTH_YIELD = 1.5, 120.0
CONSTANTS = Normalisation(np.zeros(1), np.ones(1), next(iter(INPUT_SETS.values())))
CONFIG = SurrogateConfig(width=16, epochs=24, batch_size=2048, learning_rate=0.01, weight_decay=0.0)


def gaussian_events(means: np.ndarray, yields: np.ndarray, n: int, seed: int) -> Events:
    """Events of Gaussians of unit width, n of each, that stand for the yields."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(mean, 1.0, n) for mean in means])
    weights = np.repeat(yields / n, n)
    return Events({"x": x}, weights, np.zeros(len(x), np.int64), np.arange(len(x)))


def place(events: Events, points: np.ndarray | None, rng: object, constants: object) -> Copies:
    """All events in the first region, moved by the added nuisance."""
    nu = 0.0 if points is None else (points[:, 0] - 1.0) / ADDED.width
    x = (events.columns["x"] + SHIFTED * nu).astype(np.float32)
    return Copies(x[:, None], np.zeros(len(x), np.int64), factors=np.ones(len(x)))


def perceptron(networks: dict[str, dict[str, np.ndarray]]) -> Perceptron:
    region = UNBINNED[0]
    return Perceptron(own_parameters(named("p", networks), network_name(region, "p", "")))


def gaussian_observed(x: np.ndarray, weights: np.ndarray, factors: dict[int, Perceptron]) -> Observed:
    """What is kept of events in the first region; factors that are not given are closed forms."""
    shares, response = gaussian_ratios(x)
    closed = np.zeros((len(x), 4, 2))
    closed[:, :, 0] = SHIFTED * (x[:, None] - GAUSSIAN_MEANS)
    closed[:, :, 1] = -0.5 * SHIFTED**2
    for p, network in factors.items():
        closed[:, p] = network(x[:, None].astype(np.float32))
    whole = np.concatenate([response, closed], axis=2)
    empty = np.zeros((0, *whole.shape[1:]))
    return Observed(
        np.zeros(0), (shares, *[np.zeros((0, 4))] * 2), (whole, empty, empty), (weights, *[np.zeros(0)] * 2), ()
    )


def test_an_added_nuisance_is_learnt_and_found_again():
    variation = Variation(ADDED.basis.terms, lambda rng, n: 1.0 + 0.02 * rng.standard_normal((n, 1)).clip(-2, 2), place)
    networks = {}
    for p in (1, 2):
        events = gaussian_events(GAUSSIAN_MEANS[[p]], GAUSSIAN_YIELDS[[p]], 40_000, p)
        networks[p] = perceptron(train_factor(events, CONSTANTS, CONFIG, p, variation))
        x = events.columns["x"]
        found = networks[p](x[:, None].astype(np.float32))
        assert np.sqrt(((found[:, 0] - SHIFTED * (x - GAUSSIAN_MEANS[p])) ** 2).mean()) < 0.02
        assert np.sqrt(((found[:, 1] + 0.5 * SHIFTED**2) ** 2).mean()) < 0.02

    # Norms from one set of nominal events, the fit on others: at mu = 2 and 1.2 widths of the added nuisance.
    added = Refinements((ADDED,))
    nominal = gaussian_events(GAUSSIAN_MEANS, GAUSSIAN_YIELDS, 8_000, 3)
    observed = gaussian_observed(nominal.columns["x"], nominal.weights, networks)
    norms = factor_norms(added, 0, observed, range(4), seed=1)[:, :1]
    coefficients = np.zeros((4, 1, len(added.basis.powers)))
    yields = Response(GAUSSIAN_YIELDS[:, None], np.zeros((4, 1, len(POWERS))))
    rates = RefinedTemplates(yields.terms, added.basis, coefficients.copy(), np.zeros((0, 1)))
    coefficients[:, :, added.monomials(0)] = -norms
    factors = RefinedFactors(
        RefinedTemplates(without_shapes(yields).by_region, added.basis, coefficients, np.zeros((0, 1)))
    )
    nuisances = (*CHALLENGE, ADDED.nuisance)
    data = gaussian_events(GAUSSIAN_MEANS + 1.2 * SHIFTED, GAUSSIAN_YIELDS * (2, 1, 1, 1), 30_000, 4)
    seen = gaussian_observed(data.columns["x"], data.weights, networks)
    events = (pack(seen.shares[0], seen.responses[0], data.weights),)
    of = UnbinnedLikelihood(
        *(Rates(rates, nuisances), Rates(factors, nuisances), added.response, events),
        *(np.array([*np.zeros(6), 1.2]), kernel()),
    )
    interval = measure_interval(of)
    sigmas = np.sqrt(np.diag(interval.fit.covariance))
    assert interval.fit.mu == pytest.approx(2.0, abs=0.3 * sigmas[0])
    # tes moves the means as well, so the sum is what the data tell.
    moved = 0.2 * interval.fit.parameters[1] + SHIFTED * interval.fit.parameters[7]
    assert moved == pytest.approx(1.2 * SHIFTED, abs=0.02)
    assert sigmas[7] < 1.0


def test_an_added_process_is_learnt_and_found_again():
    mixture = gaussian_events(GAUSSIAN_MEANS, GAUSSIAN_YIELDS, 100_000, 5)
    fifth = gaussian_events(np.array([FIFTH_MEAN]), np.array([FIFTH_YIELD]), 200_000, 6)
    config = replace(CONFIG, epochs=12, batch_size=4096)
    network = perceptron(train_share(mixture, fifth, CONSTANTS, config, 4, place))

    def learnt(x: np.ndarray) -> np.ndarray:
        return np.exp(network(x[:, None].astype(np.float32))[:, 0].astype(float))

    x = mixture.columns["x"]
    total = np.exp(-0.5 * (x[:, None] - GAUSSIAN_MEANS) ** 2) @ GAUSSIAN_YIELDS
    true = np.exp(-0.5 * (x - FIFTH_MEAN) ** 2) * FIFTH_YIELD / total
    integral = mixture.weights @ learnt(x)
    assert integral == pytest.approx(FIFTH_YIELD, rel=0.02)
    # Shares as the likelihood takes them, in ten groups, of which five hold nine tenths of the process.
    for number, rows in enumerate(np.array_split(np.argsort(-true), 10)):
        w = mixture.weights[rows]
        found = w @ learnt(x[rows]) * FIFTH_YIELD / integral
        assert found == pytest.approx(w @ true[rows], rel=0.02 if number < 5 else 0.1)

    added = Refinements(processes=(FIFTH,))
    nuisances = (*CHALLENGE, *FIFTH.nuisances)
    yields = Response(GAUSSIAN_YIELDS[:, None], np.zeros((4, 1, len(POWERS))))
    none = np.zeros((5, 1, len(added.basis.powers)))
    rates = RefinedTemplates(yields.terms, added.basis, none, np.array([[FIFTH_YIELD]]))
    of_region = RefinedTemplates(
        without_shapes(yields).by_region, added.basis, none, np.array([[FIFTH_YIELD / integral]])
    )
    data = gaussian_events(
        np.append(GAUSSIAN_MEANS, FIFTH_MEAN), np.append(GAUSSIAN_YIELDS * (2, 1, 1, 1), 1.1 * FIFTH_YIELD), 30_000, 7
    )
    x = data.columns["x"]
    shares, response = gaussian_ratios(x)
    shares = np.column_stack([shares, learnt(x)])
    response = np.concatenate([response, np.zeros((len(x), 1, 9))], axis=1)
    composition = partial(signal_times_mu, n_processes=5)
    of = UnbinnedLikelihood(
        *(
            Rates(templates, nuisances, composition=composition, processes=added.names)
            for templates in (rates, RefinedFactors(of_region))
        ),
        *(EXACT, (pack(shares, response, data.weights),), np.array([*np.zeros(6), 0.5]), kernel()),
    )
    interval = measure_interval(of)
    sigmas = np.sqrt(np.diag(interval.fit.covariance))
    assert interval.fit.mu == pytest.approx(2.0, abs=0.2 * sigmas[0])
    assert interval.fit.parameters[7] == pytest.approx(0.5, abs=0.2 * sigmas[7])
    # Without it the excess goes into mu.
    held = np.array([0.0, *np.zeros(7)])
    assert of.totals(held).expected == pytest.approx(GAUSSIAN_YIELDS[1:].sum() + FIFTH_YIELD)


def test_refined_templates_are_products():
    rng = np.random.default_rng(8)
    added = Refinements((ADDED, replace(ADDED, name="second")), (FIFTH,))
    base = Response(rng.uniform(1, 9, (4, 3)), rng.normal(0, 0.01, (4, 3, len(POWERS))))
    coefficients = rng.normal(0, 0.02, (5, 3, len(added.basis.powers)))
    coefficients[:4, :, : len(NORM_BASIS.powers)] = 0.0
    nominal = rng.uniform(1, 9, (1, 3))
    templates = RefinedTemplates(base.terms, added.basis, coefficients, nominal)
    point = np.array([1.012, 0.994, 1.4, 1.007, 0.99])
    found = templates.terms(tuple(point))
    growth = np.exp(coefficients @ added.basis.terms(point[None])[0])
    np.testing.assert_allclose(found[0], np.concatenate([base.terms(tuple(point[:3]))[0], nominal]) * growth)
    steps = np.array([1e-5, 1e-5, 1e-4, 1e-5, 1e-5])
    pairs = pairs_of(5)
    assert found.shape == (1 + 5 + len(pairs), 5, 3)
    for axis in range(5):
        up, down = (templates.terms(tuple(point + sign * steps * np.eye(5)[axis])) for sign in (1, -1))
        numeric = (up - down) / (2 * steps[axis])
        np.testing.assert_allclose(found[1 + axis], numeric[0], rtol=1e-5, atol=1e-5)
        for row, pair in enumerate(pairs, start=6):
            if axis == pair[1]:
                np.testing.assert_allclose(found[row], numeric[1 + pair[0]], rtol=1e-4, atol=1e-3)
    assert not templates.terms((1.2, 1.0, 0.0, 1.0, 1.0))[1].any()
    assert [len(axis) for axis in templates.axes] == [2] * 5


def test_bases_are_extended_by_monomials_of_their_own():
    basis = extended(EXACT, [ADDED.basis])
    assert basis.powers[:9] == tuple((*powers, 0) for powers in EXACT.powers)
    assert basis.powers[9:] == ((0, 0, 0, 1), (0, 0, 0, 2))
    assert basis.nuisances == ("tes", "jes", "soft_met", "shift")


def test_rates_of_few_events_stay_near_nothing():
    nus = np.array([0.0, *RATE_POINTS])
    growth = np.exp(0.05 * nus - 0.004 * nus**2)
    counts = np.stack([1000 * growth, 0.001 * np.exp(nus), np.zeros(len(nus))], axis=1)
    squares = np.outer(np.abs(nus), [0.01, 1.0, 0.0])
    found = fit_rates(nus, counts, squares)
    np.testing.assert_allclose(found[0], [0.05, -0.004], rtol=1e-3)
    assert (np.abs(found[1]) < 0.02).all()
    assert not found[2].any()
    added = Refinements((ADDED,))
    rates = factor_rates(added, 0, counts, squares)
    terms = added.basis.terms(np.array([[1.0, 1.0, 0.0, 1.02]]))[0, added.monomials(0)]
    assert rates[0] @ terms == pytest.approx(0.05 * 2 - 0.004 * 4, rel=1e-3)


def test_the_lepton_scale_moves_met_along():
    columns = {"PRI_lep_pt": [40.0], "PRI_lep_phi": [0.0], "PRI_met": [30.0], "PRI_met_phi": [np.pi / 2]}
    moved = scale_lepton({name: np.array(value, np.float32) for name, value in columns.items()}, np.array([1.1]))
    assert moved["PRI_lep_pt"][0] == pytest.approx(44.0)
    x, y = (moved["PRI_met"] * turn(moved["PRI_met_phi"]) for turn in (np.cos, np.sin))
    assert (x[0], y[0]) == pytest.approx((-4.0, 30.0), abs=1e-5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the unbinned method made of few events, with the events."""
    from methods.building import Build, build
    from tests.test_methods import CONFIG
    from training.surrogates import train_surrogates

    folder = tmp_path_factory.mktemp("refining")
    for name in ("data", "build"):
        (folder / name).mkdir()
    data = small_data(folder / "data", 6000)
    config = SurrogateConfig(seed=5, width=8, epochs=1, batch_size=256)
    train_surrogates(config, data, ROOT / "weights", folder / "build" / "surrogates")
    build(
        "gollum", Build(replace(CONFIG, table_fraction=1.0), data, ROOT / "weights", folder / "made", folder / "build")
    )
    return data, folder / "made" / "weights", folder


def test_two_commands_leave_what_was_there(weights, capsys):
    data, made, folder = weights
    before = dict(np.load(made / "surrogates.npz"))
    common = ["--weights", str(made), "--data", str(data), "--width", "8", "--epochs", "1"]
    first, second = folder / "first", folder / "second"
    assert program.main(["nuisance", "lepton_scale", *common, "--output", str(first)]) == 0
    more = ["--events", f"fifth={data}", "--rate-width", "0.2", "--refined", str(first), "--output", str(second)]
    assert program.main(["process", "fifth", *common, *more]) == 0
    assert "with what was added: error of mu = 1 is 0." in capsys.readouterr().out

    after = dict(np.load(first / "refined.npz"))
    last = dict(np.load(second / "refined.npz"))
    for old, new in ((before, after), (after, last)):
        assert len(new) > len(old)
        for name, array in old.items():
            assert new[name].dtype == array.dtype
            assert new[name].tobytes() == array.tobytes()

    # Pieces that were trained are not trained again.
    times = {path: path.stat().st_mtime_ns for path in (second / "pieces").iterdir()}
    assert len(times) == 3
    (second / "refined.npz").unlink()
    assert program.main(["process", "fifth", *common, *more]) == 0
    assert times == {path: path.stat().st_mtime_ns for path in (second / "pieces").iterdir()}
    assert dict(np.load(second / "refined.npz")).keys() == last.keys()

    refined, _ = read_refined(made, second)
    assert [nuisance.name for nuisance in refined.nuisances[6:]] == ["lepton_scale", "fifth_scale"]
    observed = observe(refined, data, 0.5)
    of = refined.likelihood(observed).parts[0]

    def sums(*at: float) -> np.ndarray:
        found = of.densities(np.array(at))
        return np.array([w @ r[: len(w)] for w, r in zip(observed.weights, found, strict=True)])

    # The sum of w R grows with the added nuisance as expected events do, and the added process has its part of it.
    for nus in ([0, 0, -5, 0, 0, 0], [0.5, -0.5, 0, 0, 0, 0]):
        points = [np.array([1.0, *nus, lepton, 0.0]) for lepton in (0, -1.5, 2)]
        found = [of.rates.expected(at) / sums(*at) for at in points]
        np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=2e-3)
        part = [of.rates.expected(np.array([1.0, *nus, 1.0, rate])) for rate in (1, 0)]
        np.testing.assert_allclose(sums(1.0, *nus, 1.0, 1) - sums(1.0, *nus, 1.0, 0), part[0] - part[1], rtol=2e-3)
    errors = expected_errors(refined, observed)
    assert errors["with what was added"] > errors["its nuisances held"]


def test_nothing_added_changes_nothing(weights):
    data, made, _ = weights
    refined, arrays = read_refined(made, None)
    observed = observe(refined, data, 1.0)
    assert arrays.keys() == refined.bundle.surrogates.keys()
    at = np.array([1.3, 0.5, -0.4, 0.2, 0.3, -0.6, 1.0])
    expected = refined.surrogates.likelihood(observed, refined.bundle).parts[0].evaluate(at)
    found = refined.likelihood(observed).parts[0].evaluate(at)
    for name, value in vars(expected).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_wrong_input_ends_with_one_line(weights, tmp_path, capsys):
    data, made, _ = weights
    common = ["--weights", str(made), "--data", str(data), "--output", str(tmp_path / "out")]
    for kind, name, more, message in (
        ("nuisance", "tes", [], "choose one of lepton_scale"),
        ("process", "fifth", [], "give them with --events fifth=FOLDER"),
        ("process", "ttbar", ["--events", f"ttbar={data}"], "choose another than"),
        ("nuisance", "lepton_scale", ["--refined", str(tmp_path)], "refine_surrogates has finished"),
    ):
        assert program.main([kind, name, *common, *more]) == 2
        assert message in capsys.readouterr().err
