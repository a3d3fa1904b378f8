"""Response networks and calibration against closed forms; what an unbinned method observes and expects."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from sage.binned.counting import Sample
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import select, shift
from sage.errors import InputError, SettingsError, WeightsError
from sage.files.bundle import read_bundle
from sage.files.settings import Rebuilding
from sage.fit.interval import measure_interval
from sage.fit.objective import MU
from sage.network.classifier import NetworkClassifier
from sage.network.dense import Perceptron
from sage.rebuilding import rebuild
from sage.recalibration import recalibrated
from sage.surrogates import Surrogates
from sage.unbinned.calibration import RegionEvents, calibrate, isotonic
from sage.unbinned.ratios import UNBINNED, Calibration, Inside
from sage.unbinned.response import EXACT
from scripts import make_method
from scripts import train_surrogates as program
from studies.toys import ToySettings
from studies.unbinned import expected, read_nature, toy_row
from tests.conftest import ROOT
from tests.events import columns_of, embedded_frame, full_weights, small_data
from training.surrogate_calibration import read_replicas
from training.surrogates import SurrogateConfig, pair_loss, train_surrogates
from training.variations import draw_points
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

    data, settings, networks, _ = trained
    folder = tmp_path_factory.mktemp("gollum")
    (folder / "build").mkdir()
    networks.rename(folder / "build" / "surrogates")
    for number in (1, 2):
        train_surrogates(replace(settings, replica=number), data, ROOT / "weights", folder / "replicas" / str(number))
    config = replace(CONFIG, table_fraction=1.0)
    made = Build(config, data, ROOT / "weights", folder / "made", folder / "build", replicas=folder / "replicas")
    bundle = build("gollum", made)
    classifier = NetworkClassifier(bundle.network, bundle.normalisation, threads=1)
    return read_nature(bundle, data, 1.0, classifier)


def test_norms_give_the_expected_events_at_every_point(nature):
    for nus in ([0, 0, -5, 0, 0, 0], [1, -1, 0, 1, 1, 1], [-1.5, 0.5, 1, 0, 0, 0]):
        at = np.array([1.5, *nus], dtype=float)
        expected = nature.asimov(at).parts[0]
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


def test_errors_of_the_surrogates_widen_the_interval(nature):
    sources = {source.name: source for source in nature.surrogates.displacements}
    assert set(sources) == {"surrogate_calibration", "surrogate_training"}
    truth = np.array([1.0, *np.zeros(6)])
    exact = nature.asimov(truth)
    objective = nature.surrogates.with_errors(exact, nature.bundle)
    assert [each.name for each in objective.nuisances[6:]] == list(sources)
    narrow, wide = (measure_interval(each) for each in (exact, objective))
    added = sum(source.covariance for source in sources.values())
    assert added[MU, MU] > 0.1
    half = (wide.high - wide.low) / 2
    assert half == pytest.approx(np.hypot((narrow.high - narrow.low) / 2, np.sqrt(added[MU, MU])), rel=0.02)
    np.testing.assert_allclose(
        objective.marginal(wide.fit).covariance, narrow.fit.covariance + added, rtol=0.02, atol=1e-3
    )
    without = {**nature.bundle.settings, "surrogate_uncertainty": False}
    assert nature.surrogates.with_errors(exact, replace(nature.bundle, settings=without)) is exact
    found = expected(nature)
    assert found["all"]["up"] > found["exact surrogates"]["up"] > found["exact templates"]["up"]


def test_toys_are_displaced_and_an_answer_tells_all(nature):
    frame = embedded_frame(4000)
    selected, kept = select(shift(columns_of(frame)))
    columns = {name: column.astype(np.float32) for name, column in selected.items()}
    weights = full_weights(len(kept))
    arguments = columns, nature.bundle, NetworkClassifier(nature.bundle.network, nature.bundle.normalisation), weights
    interval = nature.surrogates.interval(*arguments)
    assert interval.fit.parameters.shape == (7,)
    off = {**nature.bundle.settings, "surrogate_uncertainty": False}
    alone = nature.surrogates.interval(columns, replace(nature.bundle, settings=off), *arguments[2:])
    assert interval.high - interval.low > alone.high - alone.low
    assert interval.fit.mu == pytest.approx(alone.fit.mu, abs=1e-4)
    assert (np.diag(interval.fit.covariance) >= np.diag(alone.fit.covariance)).all()
    settings = ToySettings(ROOT / "weights", 3, (1.0,))
    rows = [toy_row(nature, settings, number) for number in range(3)]
    assert all(math.isfinite(row["pull"]) for row in rows)


def test_replicas_have_to_belong_together(trained, nature, tmp_path):
    data, settings, _, _ = trained
    folder = tmp_path / "replicas"
    train_surrogates(replace(settings, replica=1), data, ROOT / "weights", folder / "one")
    with pytest.raises(UsageError, match=r"1 sub-folders hold .* takes 2; train replicas with"):
        read_replicas(folder, folder / "one")
    shutil.copytree(folder / "one", folder / "two")
    with pytest.raises(UsageError, match=r"two: is replica 1, as .*one is; take replicas of different numbers"):
        read_replicas(folder, folder / "one")
    report = json.loads((folder / "two" / "surrogates.json").read_text())
    for config, reason in (({"replica": 2, "epochs": 9}, "another epochs"), ({"replica": 0}, "which is none")):
        changed = {**report, "config": {**report["config"], **config}}
        (folder / "two" / "surrogates.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError, match=reason):
            read_replicas(folder, folder / "one")
    (folder / "two" / "surrogates.json").unlink()
    with pytest.raises(UsageError, match=r"surrogates.json is missing"):
        read_replicas(folder, folder / "one")


def test_other_methods_take_no_replicas(tmp_path, capsys):
    arguments = ["--method", "mass_histogram", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert make_method.main([*arguments, "--replicas", str(tmp_path)]) == 2
    assert "mass_histogram takes no replicas" in capsys.readouterr().err


def test_recalibrated_on_the_same_events_the_surrogates_are_the_same(nature):
    """And on events whose shares are others, they are those of these events."""
    frame = embedded_frame(4000)
    weights = frame["weights"].to_numpy(np.float64)
    classes = np.array([PROCESSES.index(name) for name in frame["detailed_labels"]])
    scaled = weights * (1_051_383.0 / weights.sum())
    sample = Sample(columns_of(frame), scaled, classes, np.arange(len(weights)))
    classifier = NetworkClassifier(nature.bundle.network, nature.bundle.normalisation, threads=1)
    found = recalibrated(nature.bundle, sample, classifier)
    old = nature.bundle.surrogates
    assert set(found) == set(old)
    for name, array in found.items():
        if not name.startswith(("norm_coefficients", "displacements.calibration")):
            np.testing.assert_allclose(array, old[name], rtol=1e-5, atol=1e-12, err_msg=name)
    more = np.where(classes == PROCESSES.index("ttbar"), 1.5, 1.0)
    other = recalibrated(nature.bundle, replace(sample, weights=scaled * more), classifier)
    np.testing.assert_allclose(other["yields"][2], 1.5 * old["yields"][2], rtol=1e-5)
    shares = Surrogates(replace(nature.bundle, surrogates=other)).calibrations[UNBINNED[0]].stages[-1][2][1]
    assert shares.max() > Surrogates(nature.bundle).calibrations[UNBINNED[0]].stages[-1][2][1].max() - 1e-9
    with pytest.raises(TimeoutError, match="recalibrating the surrogates took longer"):
        recalibrated(nature.bundle, sample, classifier, deadline=0.0)
    with pytest.raises(InputError, match="the training events have no diboson in"):
        recalibrated(nature.bundle, sample.take(np.flatnonzero(classes != 3)), classifier)


def test_fit_recalibrates_within_its_time(nature, monkeypatch):
    monkeypatch.setattr("sage.rebuilding.NODES", 20)
    frame = embedded_frame(4000)
    frame = frame.assign(weights=frame["weights"] * (1_051_383.0 / frame["weights"].sum()))
    frame.loc[frame["detailed_labels"] == "ttbar", "weights"] *= 1.5
    classifier = NetworkClassifier(nature.bundle.network, nature.bundle.normalisation, threads=1)
    how = Rebuilding(mode="rebuild", train_size=1.0)
    bundle, report = rebuild(nature.bundle, how, lambda train_size: frame, classifier, recalibrated)
    assert report["adopted"], report
    np.testing.assert_allclose(bundle.surrogates["yields"][2], 1.5 * nature.bundle.surrogates["yields"][2], rtol=1e-3)
    places = [bundle.regions.slices[name].start for name in UNBINNED]
    np.testing.assert_allclose(bundle.response.nominal[:, places], bundle.surrogates["yields"], rtol=1e-3)
    rebuilt = Surrogates(bundle)
    assert len(rebuilt.displacements) == 2
    short, report = rebuild(
        nature.bundle, replace(how, time_budget=0.2), lambda train_size: frame, classifier, recalibrated
    )
    assert not report["adopted"]
    assert short is nature.bundle


@pytest.mark.parametrize("n", [0, 1, 5])
def test_events_without_numbers_are_left_out_of_however_many(n):
    """The last block of a data set may have no event of a region."""
    inside = Inside(
        np.arange(n), np.ones((n, 4)), np.zeros((n, 45), np.float32), np.ones((n, 4, 9), np.float32) * np.arange(9)
    )
    assert len(inside.defined().rows) == n
    if n:
        inside.response[0, 2, 3] = np.nan
        np.testing.assert_array_equal(inside.defined().rows, np.arange(1, n))
