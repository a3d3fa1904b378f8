"""Coefficients and edges of the efficient score on a toy whose scores are known in closed form."""

from dataclasses import replace

import numpy as np
import pytest

from sage.binned.regions import PROPORTIONS, bin_numbers, region_set
from sage.binned.score import EfficientScore
from sage.challenge.nuisances import CHALLENGE, NAMES, PROCESSES
from sage.errors import SettingsError
from training.config import DEFAULT_CONFIG, TablesConfig, read_config
from training.efficient import add_up, choose_score, least_loss, point_of, starting_edges, weights_of

YIELDS = np.array([500.0, 20_000.0, 3000.0, 300.0])
MEANS = np.array([2.0, 0.0, 0.5, 1.0])
SHIFT = 6.0
"""Means of x move by this times tes - 1: 0.06 widths of the Gaussians for one width of the prior."""
SIDE = 10.0
"""The same for y."""
SEED = 2
N = 60_000


def toy(noise=0.0, seed=1, n_rows=N, with_shapes=True):
    """Gaussians of unit width in x, one for each process, and in y, the same for all, both moved by tes.

    So y tells nothing but tes. jes and soft_met do nothing. The "network" knows the densities exactly, and the score
    of tes up to some noise that no event explains.
    """
    rng = np.random.default_rng(seed)
    classes = np.arange(n_rows) % len(PROCESSES)
    z, y0 = rng.normal(size=n_rows) + MEANS[classes], rng.normal(size=n_rows)
    fuzz = rng.normal(0.0, noise, n_rows) if noise else np.zeros(n_rows)
    weights = (YIELDS / np.bincount(classes))[classes]

    def quantities(x, y):
        densities = np.exp(-0.5 * (x[:, None] - MEANS) ** 2)
        p = densities * PROPORTIONS
        p /= p.sum(axis=1, keepdims=True)
        out = {f"p_{name}": p[:, i] for i, name in enumerate(PROCESSES)}
        if with_shapes:
            g = densities * YIELDS
            shift = SHIFT * (g * (x[:, None] - MEANS)).sum(axis=1) / g.sum(axis=1) + SIDE * y
            out |= {"s_tes": 0.01 * shift + fuzz, "s_jes": fuzz[::-1] * 0.5, "s_soft_met": np.zeros(len(x))}
        return out

    def blocks(point):
        values = quantities(z + SHIFT * (point[0] - 1.0), y0 + SIDE * (point[0] - 1.0))
        for start in range(0, n_rows, 25_000):
            rows = slice(start, start + 25_000)
            part = {name: value[rows] for name, value in values.items()}
            yield part, weights[rows], classes[rows], np.arange(n_rows)[rows]

    return blocks


BARE = region_set("score")


def exact_information():
    """I of mu and the six nuisances by integration over x; y adds to that of tes alone."""
    x = np.linspace(-8.0, 10.0, 20_001)
    f = np.exp(-0.5 * (x[:, None] - MEANS) ** 2) / np.sqrt(2 * np.pi) * YIELDS
    total = f.sum(axis=1)
    g = f / total[:, None]
    zero = np.zeros(len(x))
    by_name = {
        "tes": SHIFT * 0.01 * (g * (x[:, None] - MEANS)).sum(axis=1),
        "jes": zero,
        "soft_met": zero,
        "ttbar_scale": 0.02 * g[:, 2],
        "diboson_scale": 0.25 * g[:, 3],
        "bkg_scale": 0.001 * g[:, 1:].sum(axis=1),
    }
    s = np.stack([g[:, 0], *(by_name[name] for name in NAMES)])
    out = (s * total) @ s.T * (x[1] - x[0])
    out[1, 1] += (SIDE * 0.01) ** 2 * YIELDS.sum()
    return out


def profiled_variance(information):
    return np.linalg.inv(information + np.diag([0.0, *np.ones(len(NAMES))]))[0, 0]


def test_exact_scores_give_the_textbook_coefficients():
    information = exact_information()
    textbook = np.linalg.solve(information[1:, 1:] + np.eye(len(NAMES)), information[1:, 0])
    mu, nus = TablesConfig().reference_point()
    found, promised = choose_score(BARE, toy(), mu, nus, SEED)
    c = np.array(found.score.coefficients)
    assert found.score.needs == ("s_tes",)
    for k, name in enumerate(NAMES):
        # Scores of the rates are nearly sums of each other here, so only what they amount to is defined.
        if name in ("tes", "jes", "soft_met"):
            assert c[k] == pytest.approx(textbook[k], rel=0.15)
    exact = profiled_variance(information) ** 0.5
    assert promised["sigma"] == pytest.approx(exact, rel=0.03)
    assert promised["sigma_other_half"] == pytest.approx(exact, rel=0.04)
    assert promised["sigma_signal_share"] > 1.3 * exact
    np.testing.assert_allclose(found.score.yields, YIELDS)
    assert promised["fidelity"] == pytest.approx(dict.fromkeys(promised["fidelity"], 1.0), rel=0.05)
    assert promised["fidelity"].keys() == {"mu", *NAMES} - {"jes", "soft_met"}


def test_formula_is_the_one_of_the_information_matrix():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(7, 30))
    information = root @ root.T
    a = weights_of(information[0], information, information[1:].T @ information[1:])
    expected = np.linalg.solve(information[1:, 1:] + np.eye(6), information[1:, 0])
    np.testing.assert_allclose(-a[1:] / a[0], expected, atol=1e-3)
    assert weights_of(information[0], information, -2.0 * information) is None


def test_noise_is_shrunk_and_not_taken_for_knowledge():
    """A score with noise as large as itself gets less weight, and the promise is that of other events."""
    mu, nus = TablesConfig().reference_point()
    clean, exact = choose_score(BARE, toy(), mu, nus, SEED)
    noisy, promised = choose_score(BARE, toy(noise=0.12), mu, nus, SEED)
    assert 0.3 < noisy.score.coefficients[0] / clean.score.coefficients[0] < 0.9
    assert exact["sigma"] < 0.99 * promised["sigma"]
    assert promised["fidelity"]["tes"] < 0.6
    # Judged by events that chose nothing: the same formula on another sample.
    fresh = add_up(BARE, noisy.score, toy(noise=0.12, seed=9), SEED)
    assert fresh.sigma(np.array(noisy.score.coefficients)) == pytest.approx(promised["sigma"], rel=0.05)
    # The mean of s s^T takes the noise for information.
    flattered = fresh.variances.mean(axis=0)
    constraint = np.diag([0.0, *np.ones(len(flattered) - 1)])
    assert np.linalg.inv(flattered + constraint)[0, 0] ** 0.5 < 0.95 * promised["sigma"]


def histogram_errors(regions, blocks):
    """Statistical and total error on mu of the histogram, all derivatives counted."""
    _, nus = TablesConfig().reference_point()

    def count(point):
        out = np.zeros((len(PROCESSES), regions.n_bins))
        for values, weights, classes, _ in blocks(point):
            for rows, bins in bin_numbers(regions, values):
                np.add.at(out, (classes[rows], bins), weights[rows])
        return out

    nominal = count(point_of(nus))
    slopes = [nominal[0]]
    for k, nuisance in enumerate(CHALLENGE):
        if nuisance.kind == "shape":
            low, high = (count(point_of(tuple(side * (i == k) for i in range(6)))) for side in (-1, 1))
            slopes.append((high - low).sum(axis=0) / 2)
        else:
            scaled = [PROCESSES.index(process) for process in nuisance.scales]
            slopes.append(nuisance.alpha(0.0)[1] * nominal[scaled].sum(axis=0))
    slopes = np.stack(slopes)
    information = slopes / nominal.sum(axis=0) @ slopes.T
    return information[0, 0] ** -0.5, profiled_variance(information) ** 0.5


def test_histogram_of_the_efficient_score_loses_nothing_to_profiling():
    """In bins of the signal's share the nuisance costs much, in bins of s* no more than in an unbinned fit."""
    blocks, (mu, nus) = toy(n_rows=200_000), TablesConfig().reference_point()
    score, _ = choose_score(BARE, blocks, mu, nus, SEED)
    plain = replace(score, score=EfficientScore(mu, nus, score.score.yields))
    errors = {}
    for name, regions in (("s*", score), ("s_mu", plain)):
        edges = starting_edges(regions, blocks, 40)["all"]
        assert 30 < len(edges) <= 41
        errors[name] = histogram_errors(regions.with_edges({"all": tuple(edges)}), toy(n_rows=200_000, seed=5))
    limit = profiled_variance(exact_information()) ** 0.5
    # The limit of an unbinned fit, which both would reach with nuisances known; only s* does with them profiled.
    assert errors["s_mu"][0] == pytest.approx(exact_information()[0, 0] ** -0.5, rel=0.02)
    assert errors["s*"][1] == pytest.approx(limit, rel=0.02)
    assert errors["s_mu"][1] > 1.06 * limit


def test_rates_only_where_the_network_has_no_scores():
    mu, nus = TablesConfig().reference_point()
    found, promised = choose_score(BARE, toy(with_shapes=False), mu, nus, SEED)
    assert found.needs == set()
    assert found.score.coefficients[:3] == (0.0, 0.0, 0.0)
    assert found.score.coefficients[NAMES.index("diboson_scale")] != 0.0
    assert promised["sigma"] < promised["sigma_signal_share"]


def test_other_region_sets_stay_as_they_are():
    five = region_set("five")
    assert choose_score(five, toy(), 1.0, (0.0,) * 6, SEED) == (five, {})
    assert starting_edges(five, toy(), 40) == {}


def test_least_loss():
    """Density of edges as the cube root of that of the events: for a Gaussian a Gaussian sqrt 3 as wide."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=200_000)
    edges = least_loss(values, np.full(len(values), 0.1), 100)
    assert len(edges) == 101
    assert edges[0] == values.min()
    assert edges[-1] == values.max()
    middle = edges[(np.abs(edges) < 1.732)]
    assert 0.62 < len(middle) / len(edges) < 0.75
    # Rows with small weights are many rows, not many events.
    rows = np.repeat([0, 1], 100_000)
    halves = np.where(rows == 1, values[:200_000] + 20.0, values[:200_000])
    parted = least_loss(halves, np.where(rows == 1, 1.0, 1.0 / 1000.0), 60)
    assert (parted > 10).sum() > 4 * (parted < 10).sum()
    np.testing.assert_array_equal(least_loss(np.zeros(50), np.ones(50), 10), [0.0, 1.0])
    np.testing.assert_array_equal(least_loss(np.zeros(0), np.ones(0), 10), [0.0, 1.0])


def test_reference_point_is_a_setting(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("tables:\n  region_set: score\n  reference:\n    mu: 2\n    soft_met: 0.4\n")
    assert read_config(path).tables.reference_point() == (2.0, (0.0, 0.0, 0.4, 0.0, 0.0, 0.0))
    assert read_config(DEFAULT_CONFIG).tables.reference_point() == (1.0, (0.0,) * 6)
    assert point_of((0.5, -1.0, 0.0, 0.0, 0.0, 0.0)) == pytest.approx((1.005, 0.99, 1.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{mu: -1}", "mu of the reference point is -1.0"),
        ("{tes: 9}", "tes of the reference point is 9.0"),
        ("{lumi: 0}", "reference names 'lumi'"),
        ("{mu: high}", "must be a mapping of name to number"),
        ("3", "must be a mapping of name to number"),
        ("{mu: .nan}", "mu of the reference point is nan"),
    ],
)
def test_impossible_reference_points_are_refused(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(f"tables:\n  reference: {text}\n")
    with pytest.raises(SettingsError, match=message):
        read_config(path)
