"""The published variant of the unbinned method: splines, points, rates and what a build makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator, make_interp_spline

from sage.challenge.nuisances import PROCESSES, variant
from sage.errors import InputError, SettingsError, WeightsError
from sage.files.bundle import SURROGATES
from sage.fit.interval import measure_interval
from sage.fit.slice import slice_interval
from sage.network.classifier import NetworkClassifier
from sage.rates import PAIRS, Rates
from sage.surrogates import Surrogates
from sage.unbinned.calibration import RegionEvents
from sage.unbinned.published import GRID, ORIGINS, SHAPE, UNITS, SplineTemplates, published_factors, spline_coefficients
from sage.unbinned.ratios import UNBINNED, Calibration, ResponseNetworks, network_name, rate_name
from sage.unbinned.response import PUBLISHED
from studies.unbinned import read_nature
from tests.conftest import ROOT
from tests.events import small_data
from training.events import EventsFile
from training.networks import read_network
from training.surrogate_calibration import check_published_range, with_steady_shapes
from training.surrogates import (
    PUBLISHED_SETTINGS,
    SURROGATES_FILE,
    ResponseTraining,
    SurrogateConfig,
    candidates,
    train_surrogates,
)
from training.variations import FIXED_POINTS, published, rate_responses, with_published_copies
from workshop.files import make_folder, read_arrays, write_arrays


@pytest.fixture(scope="module")
def rates():
    """Smooth rates of one process and one region on the published grid, with those of the other processes 0."""
    t, j, m = np.meshgrid(*GRID, indexing="ij")
    values = np.zeros((len(PROCESSES), len(UNBINNED), *SHAPE))
    values[1, 2] = 1000 * np.exp(0.02 * t - 0.01 * j + 0.03 * m**2 / (1 + m) + 0.001 * t * j)
    return values


def test_splines_are_those_of_scipy(rates):
    templates = SplineTemplates(spline_coefficients(rates))

    def one_by_one(point: np.ndarray) -> float:
        values = rates[1, 2]
        for x, axis in zip(point, GRID, strict=True):
            values = make_interp_spline(axis, values, 5)(x)
        return float(values)

    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(-10, 10, (20, 2)), rng.uniform(0, 5, 20)])
    points = np.concatenate([points, [[0, 0, 0], [10, -10, 5], [-2.5, 3, 2.5]]])
    found = [templates.terms(tuple(point * UNITS + ORIGINS))[0, 1, 2] for point in points]
    np.testing.assert_allclose(found, [one_by_one(point) for point in points], rtol=1e-10)
    # What the published weights hold finds its coefficients by iteration, which stops early.
    whole = RegularGridInterpolator(GRID, rates[1, 2], method="quintic")
    np.testing.assert_allclose(found, whole(points), rtol=2e-4)
    assert not templates.terms((1.0, 1.0, 0.0))[:, 0].any()


def test_derivatives_of_the_splines(rates):
    templates = SplineTemplates(spline_coefficients(rates))
    point = np.array([1.013, 0.988, 1.7])
    found = templates.terms(tuple(point))[:, 1, 2]
    steps = np.diag([1e-5, 1e-5, 1e-3])

    def slopes(at: np.ndarray) -> np.ndarray:
        return templates.terms(tuple(at))[1:4, 1, 2]

    for axis, step in enumerate(steps):
        up, down = (templates.terms(tuple(point + sign * step))[0, 1, 2] for sign in (1, -1))
        assert found[1 + axis] == pytest.approx((up - down) / (2 * step[axis]), rel=1e-6)
    for row, (a, b) in enumerate(PAIRS, start=4):
        numeric = (slopes(point + steps[a]) - slopes(point - steps[a]))[b] / (2 * steps[a, a])
        assert found[row] == pytest.approx(numeric, rel=1e-5)
    outside = templates.terms((1.2, 0.5, 7.0))[:, 1, 2]
    assert outside[0] == pytest.approx(rates[1, 2, -1, 0, -1])
    assert not outside[1:].any()


def test_factors_are_powers_and_exponentials():
    responses = np.random.default_rng(2).normal(0, 0.01, (4, 3, 9))
    arrays = {
        rate_name(region, process): responses[p, r]
        for p, process in enumerate(PROCESSES)
        for r, region in enumerate(UNBINNED)
    }
    factors = Rates(published_factors(arrays), variant("gollum"))
    found = factors.expected(np.array([1.5, 1.0, -2.0, 0.7, 0.5, -1.0, 2.0])).reshape(3, 4)
    t, j, m = 1.0, -2.0, 0.7
    v = np.array([t, j, m, t * t, j * j, m * m, t * j, t * m, j * m])
    scales = np.array([1.5, 1.001**2, 1.001**2 * 1.02**0.5, 1.001**2 / 1.25])
    np.testing.assert_allclose(found, scales * np.exp(responses @ v).T, rtol=1e-12)


def test_the_points_are_thirty_four():
    nus = (FIXED_POINTS - ORIGINS) / UNITS
    assert len(np.unique(nus.round(9), axis=0)) == 34
    near = (np.abs(nus[:, :2]) < 1.5).all(axis=1)
    assert near.sum() == 26
    assert set(nus[near, 2].round()) == {0, 1, 2}
    assert (np.count_nonzero(nus[~near].round(9), axis=1) == 1).all()
    assert sorted(nus[~near].sum(axis=1).round()) == [-3, -3, -2, -2, 2, 2, 3, 3]
    drawn = published(np.zeros((3, 9)), "ztautau").draw(np.random.default_rng(1), 5000)
    assert len(np.unique(drawn, axis=0)) == 34


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Response networks of the published variant, too small and too short, with the events."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "data").mkdir()
    (folder / "build").mkdir()
    data = small_data(folder / "data", 4000)
    config = SurrogateConfig(**{**PUBLISHED_SETTINGS, "width": 8, "epochs": 2})
    report = train_surrogates(config, data, ROOT / "weights", folder / "build" / "surrogates")
    return data, folder / "build", report


def test_moved_events_weigh_as_much_as_nominal_ones(trained):
    file = EventsFile(trained[0], 0.0)
    events = file.read(file.rows("all"), keep=lambda events: (events.classes == 1) & candidates(events.columns))
    responses = rate_responses(events, np.random.default_rng(1))
    variation, rng = published(responses, "ztautau"), np.random.default_rng(2)
    nominal = variation.move(events, None, rng, None)
    before = events.weights @ (nominal.regions == 0)
    for point in ((1.01, 1.0, 0.0), (1.0, 0.97, 0.0)):
        moved = variation.move(events, np.tile(point, (len(events), 1)), rng, None)
        inside = moved.regions == 0
        plain = events.weights[inside].sum() / before
        assert (events.weights * moved.factors)[inside].sum() / before == pytest.approx(1.0, abs=0.02)
        assert abs(plain - 1) > 0.02 or point[1] == 1.0


def test_copies_are_those_of_the_submission(trained):
    arrays = read_arrays(trained[1] / "surrogates" / SURROGATES_FILE)
    copied = {(region, "diboson") for region in UNBINNED} | {("highMT_VBF", "ztautau")}
    marked = {name: np.full_like(array, i) for i, (name, array) in enumerate(arrays.items())}
    found = with_published_copies(marked)
    assert found.keys() == arrays.keys()
    for region in UNBINNED:
        for process in PROCESSES:
            source = "htautau" if (region, process) in copied else process
            pairs = {rate_name(region, process): rate_name(region, source)}
            for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
                pairs[network_name(region, process, name)] = network_name(region, source, name)
            for name, original in pairs.items():
                np.testing.assert_array_equal(found[name], marked[original])


def test_top_pairs_are_linear_in_one_region(trained, monkeypatch):
    file = EventsFile(trained[0], 0.0)
    events = file.read(file.rows("all"), keep=lambda events: (events.classes == 2) & candidates(events.columns))
    variation = published(np.zeros((3, 9)), "ttbar")
    config = SurrogateConfig(**{**PUBLISHED_SETTINGS, "width": 8, "epochs": 1})
    losses = iter(np.linspace(1.0, 0.0, 100))
    monkeypatch.setattr(ResponseTraining, "_loss", lambda *_: next(losses))  # the last epoch is the best
    networks, _ = ResponseTraining(events, read_network(ROOT / "weights")[1], config, 2, variation).networks()
    for region, own in networks.items():
        assert own["2.bias"][:3].all()
        assert own["2.bias"][3:].any() == own["2.weight"][3:].any() == (region != "lowMT_noVBF_highPtH")


def test_a_response_that_explodes_is_refused_before_anything_is_counted(trained, tmp_path):
    from methods.building import Build, build
    from tests.test_methods import CONFIG

    data, folder, _ = trained
    arrays = read_arrays(folder / "surrogates" / SURROGATES_FILE)
    check_published_range(arrays, EventsFile(data, 1.0))
    name = network_name("highMT_VBF", "ttbar", "2.bias")
    arrays[name] = arrays[name] + np.eye(9)[7].astype(np.float32)  # 1 per percent of tes and GeV of soft_met
    write_arrays(make_folder(tmp_path / "build" / "surrogates") / SURROGATES_FILE, arrays)
    this = Build(replace(CONFIG, table_fraction=1.0), data, ROOT / "weights", tmp_path / "made", tmp_path / "build")
    with pytest.raises(InputError, match=r"response of ttbar in highMT_VBF is out of range for 100\.00% .*soft_met 5"):
        build("gollum", this)
    assert not (tmp_path / "build" / "tables").exists()


def test_a_response_that_is_no_shape_is_left_out(trained):
    arrays = read_arrays(trained[1] / "surrogates" / SURROGATES_FILE)
    rng = np.random.default_rng(4)
    n = 4000
    classes = rng.integers(4, size=n)
    slope = rng.normal(0, 0.1, (n, 4))
    response = np.zeros((n, 4, 9), np.float32)
    response[:, :, 0], response[:, :, 3] = slope, -0.5 * 0.1**2  # means of exp(A . v) are 1
    own = RegionEvents(np.ones((n, 4)), response, np.ones(n), classes)
    wild = response.copy()
    wild[np.flatnonzero(classes == 2)[0], 2, 2] = 2.0  # one event, e^10 at 5 GeV
    found, events = with_steady_shapes(arrays, [own, own, replace(own, response=wild)])
    for region, each in zip(UNBINNED, events, strict=True):
        for p, process in enumerate(PROCESSES):
            gone = (region, process) == ("lowMT_noVBF_highPtH", "ttbar")
            assert each.response[:, p].any() != gone
            begin = network_name(region, process, "")
            kept = [np.array_equal(found[name], arrays[name]) for name in arrays if name.startswith(begin)]
            assert all(kept) != gone
    networks = ResponseNetworks(found)
    inputs = rng.standard_normal((9, len(found["mean"]))).astype(np.float32)
    assert not networks.of_inputs(inputs, "lowMT_noVBF_highPtH", "ttbar").any()


def test_weights_of_the_published_variant(trained, tmp_path):
    from methods.building import Build, build
    from tests.test_methods import CONFIG

    data, folder, report = trained
    # Nothing chooses an epoch, so the losses of all are there.
    assert all(len(losses) == 3 for each in report["processes"].values() for losses in each["losses"].values())
    config = replace(CONFIG, table_fraction=1.0)
    bundle = build("gollum", Build(config, data, ROOT / "weights", tmp_path / "made", folder))
    assert (bundle.settings["profile"], bundle.settings["nuisances"]) == ("slice", "gollum")
    assert bundle.surrogates[rate_name(UNBINNED[0], "ztautau")].shape == (9,)
    nature = read_nature(bundle, data, 1.0, NetworkClassifier(bundle.network, bundle.normalisation, threads=1))
    assert nature.surrogates.networks.basis == PUBLISHED

    # On the grid rates are the sums of the density over the events, at 0 those of the shares.
    at = np.array([1.5, 1.0, -0.5, 1.0, 1.0, -1.0, 2.0])
    of = nature.toy(at, np.random.default_rng(1)).parts[0]
    sums = [w @ density for w, density in zip(nature.observed.weights, nature.densities(at), strict=True)]
    np.testing.assert_allclose(of.rates.expected(at), sums, rtol=1e-5)
    shares = nature.observed.shares[0]
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)

    truth = np.array([1.4, *np.zeros(6)])
    interval = measure_interval(nature.asimov(truth))
    assert interval.fit.mu == pytest.approx(1.4, abs=0.02 * interval.fit.sigma_mu)
    assert slice_interval(nature.asimov(truth)).high <= 3.01

    arrays = {name: array for name, array in bundle.surrogates.items() if name != "rate_coefficients"}
    with pytest.raises(WeightsError, match=f"{SURROGATES}: rate_coefficients is missing"):
        Surrogates(replace(bundle, surrogates=arrays))


def test_the_signal_keeps_its_share():
    x, identity = np.array([0.0, 1.0]), (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    maps = ((x, np.array([0.0, 0.5])), identity, identity, identity)
    ratios = np.array([[0.4, 0.3, 0.2, 0.1]])
    found = Calibration(np.ones(4), (maps,), keeps_signal=True)(ratios)[0]
    np.testing.assert_allclose(found, [0.2, 0.4, 0.8 / 3, 0.4 / 3])
    assert Calibration(np.ones(4), (maps,))(ratios)[0, 0] == pytest.approx(0.25)


def test_variants_do_not_mix():
    for settings in ({"variant": "published"}, {"basis": "published"}, {"variant": "original"}):
        with pytest.raises(SettingsError, match="choose one of sage, published"):
            SurrogateConfig(**settings)
