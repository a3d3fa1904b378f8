"""Response networks and calibration against closed forms; what an unbinned method observes and expects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sage.challenge.nuisances import PROCESSES
from sage.errors import SettingsError, WeightsError
from sage.files.bundle import read_bundle
from sage.fit.interval import measure_interval
from sage.fit.objective import MU
from sage.network.classifier import NetworkClassifier
from sage.network.dense import Perceptron
from sage.surrogates import Surrogates
from sage.unbinned.calibration import RegionEvents, calibrate, isotonic
from sage.unbinned.ratios import UNBINNED, Calibration
from sage.unbinned.response import EXACT
from scripts import train_surrogates as program
from studies.unbinned import read_nature
from tests.conftest import ROOT
from tests.events import small_data
from training.surrogates import SurrogateConfig, draw_points, pair_loss, train_surrogates
from workshop.errors import UsageError


def test_the_loss_learns_the_response_of_a_gaussian():
    """A Gaussian in two dimensions moved by t d: the density ratio is exp(t d.x - t^2 d^2 / 2)."""
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    d = np.array([0.3, -0.15])
    model = Perceptron((2, 16, 2))
    steps = 700
    optimiser = torch.optim.Adam(model.parameters())
    x = rng.standard_normal((200_000, 2)).astype(np.float32)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / steps)) / 2
        rows = rng.integers(len(x), size=4096)
        t = 2.0 * rng.standard_normal(4096)
        terms = np.tile(np.stack([t, t**2], axis=1), (2, 1)).astype(np.float32)
        inputs = np.concatenate([x[rows], x[rows] + t[:, None] * d]).astype(np.float32)
        signs = np.repeat(np.array([1.0, -1.0], np.float32), 4096)
        batch = [torch.from_numpy(part) for part in (inputs, terms, signs, np.ones(8192, np.float32))]
        optimiser.zero_grad()
        (pair_loss(model, *batch) / 4096).backward()
        optimiser.step()
    with torch.inference_mode():
        found = model(torch.from_numpy(x)).numpy()
    assert np.sqrt(((found[:, 0] - x @ d) ** 2).mean()) < 0.02
    assert np.sqrt(((found[:, 1] + 0.5 * d @ d) ** 2).mean()) < 0.02


def test_points_are_drawn_where_the_tables_are():
    points = draw_points(np.random.default_rng(2), 20_000)
    assert points.min(axis=0) == pytest.approx([0.96, 0.96, 0.0], abs=1e-3)
    assert points.max(axis=0) == pytest.approx([1.04, 1.04, 5.0], abs=3e-3)
    assert points[:, 0].std() == pytest.approx(0.0176, abs=3e-4)  # a normal of width 0.02 cut at two widths
    assert np.log1p(points[:, 2]).mean() == pytest.approx(np.log(6) / 2, abs=0.01)


def test_isotonic_regression_is_that_of_scikit_learn():
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(3)
    share = rng.random(2000)
    own = rng.random(2000) < share**2
    weights = rng.uniform(0.5, 2.0, 2000)
    x, y = isotonic(share, own, weights, bins=100_000)
    expected = IsotonicRegression().fit(share, own, sample_weight=weights).predict(share)
    np.testing.assert_allclose(y, np.unique(expected.round(12)), atol=1e-9)
    np.testing.assert_allclose(np.interp(x, x, y), np.interp(x, np.sort(share), np.sort(expected)), atol=1e-9)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    total = weights @ np.interp(share, *isotonic(share, own, weights))
    assert total == pytest.approx(weights @ own, rel=0.01)
    np.testing.assert_array_equal(isotonic(share, np.zeros(2000, bool), weights), [[0, 1], [0, 1]])


def test_calibration_makes_shares_right_that_were_too_sure():
    rng = np.random.default_rng(4)
    n = 60_000
    true = rng.dirichlet([0.5, 4.0, 2.0, 0.5], n)
    classes = (rng.random(n)[:, None] > true.cumsum(axis=1)).sum(axis=1).clip(max=3)
    ratios = true**1.5
    events = RegionEvents(ratios, np.zeros((n, 4, 9), np.float32), np.ones(n), classes)
    made = calibrate(events)
    shares = made(ratios)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    before = Calibration(events.yields)(ratios)

    def worst(shares: np.ndarray, p: int) -> float:
        groups = np.array_split(np.argsort(shares[:, p]), 10)[5:]
        return max(abs(shares[rows, p].sum() / (classes[rows] == p).sum() - 1) for rows in groups)

    for p in range(4):
        assert worst(shares, p) < 0.05
        assert worst(shares, p) < worst(before, p)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Response networks of a few thousand events, after two epochs."""
    folder = tmp_path_factory.mktemp("surrogates")
    (folder / "data").mkdir()
    data = small_data(folder / "data", 4000)
    config = SurrogateConfig(seed=5, width=8, epochs=2, batch_size=256)
    report = train_surrogates(config, data, ROOT / "weights", folder / "out")
    return data, config, folder / "out", report


def test_training_goes_on_and_refuses_other_settings(trained):
    data, config, folder, report = trained
    content = (folder / "response_networks.npz").read_bytes()
    times = {name: (folder / f"{name}.npz").stat().st_mtime_ns for name in PROCESSES}
    (folder / "diboson.npz").unlink()
    again = train_surrogates(config, data, ROOT / "weights", folder)
    assert (folder / "response_networks.npz").read_bytes() == content
    assert times["ztautau"] == (folder / "ztautau.npz").stat().st_mtime_ns
    assert again["processes"]["diboson"]["losses"] == report["processes"]["diboson"]["losses"]
    with pytest.raises(UsageError, match="epochs"):
        train_surrogates(replace(config, epochs=3), data, ROOT / "weights", folder)
    with pytest.raises(SettingsError, match="choose one of exact, quadratic"):
        SurrogateConfig(basis="cubic")


def test_wrong_input_ends_with_one_line(tmp_path, capsys):
    assert program.main(["--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.fixture(scope="module")
def nature(trained, tmp_path_factory):
    """Weights of the method made of those networks, with the events they were made of."""
    from methods.building import Build, build
    from tests.test_methods import CONFIG

    data, _, networks, _ = trained
    folder = tmp_path_factory.mktemp("gollum")
    (folder / "build").mkdir()
    networks.rename(folder / "build" / "surrogates")
    config = replace(CONFIG, table_fraction=1.0)
    bundle = build("gollum", Build(config, data, ROOT / "weights", folder / "made", folder / "build"))
    classifier = NetworkClassifier(bundle.network, bundle.normalisation, threads=1)
    return read_nature(bundle, data, 1.0, classifier)


def test_norms_give_the_expected_events_at_every_point(nature):
    for nus in ([0, 0, -5, 0, 0, 0], [1, -1, 0, 1, 1, 1], [-1.5, 0.5, 1, 0, 0, 0]):
        at = np.array([1.5, *nus], dtype=float)
        expected = nature.surrogates.unbinned(nature.toy(at, np.random.default_rng(1)).parts[0].events, nature.bundle)
        sums = [w @ density for w, density in zip(nature.observed.weights, nature.densities(at), strict=True)]
        np.testing.assert_allclose(sums, expected.rates.expected(at), rtol=2e-3)


def test_asimov_data_give_back_the_truth(nature):
    truth = np.array([1.4, *np.zeros(6)])
    interval = measure_interval(nature.asimov(truth))
    assert not interval.flags
    deviations = (interval.fit.parameters - truth) / np.sqrt(np.diag(interval.fit.covariance))
    # The norms of so few events at so few points are fitted to a few per mille.
    np.testing.assert_allclose(deviations, 0.0, atol=0.2)
    assert abs(deviations[MU]) < 0.02
    assert interval.low < truth[MU] < interval.high


def test_regions_that_are_binned_keep_more_than_one_bin(nature):
    bins = {region.name: region.n_bins for region in nature.bundle.regions.regions}
    assert all((bins[name] == 1) == (name in UNBINNED) for name in bins), bins
    assert not any(name.startswith("p_") for region in nature.bundle.regions.regions for name, *_ in region.cuts)


def test_weights_without_surrogates_are_refused(nature):
    for change in ("norms", "yields", "mean"):
        arrays = {name: array for name, array in nature.bundle.surrogates.items() if name != change}
        with pytest.raises(WeightsError, match=f"{change} is missing"):
            Surrogates(replace(nature.bundle, surrogates=arrays))
    with pytest.raises(WeightsError, match="yields is missing"):
        Surrogates(read_bundle(ROOT / "weights"))
    assert Surrogates(nature.bundle).networks.basis == EXACT
