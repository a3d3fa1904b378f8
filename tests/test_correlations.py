"""The factor that makes up for bins sharing showered events: what it reproduces, and toys that fluctuate by showers."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sage.binned.response import POWERS, Response
from sage.binned.statistic import asimov, binned_likelihood
from sage.challenge.nuisances import PROCESSES, variant
from sage.errors import WeightsError
from sage.files.bundle import VARIANCE_FACTORS, read_bundle
from sage.files.manifest import MANIFEST, signed
from sage.fit.interval import measure_interval
from sage.rates import Rates
from tests.events import FIVE_WEIGHTS, PARENTS_FILE, small_data
from training.build_tables import REPORT, RESPONSE_FILE, build_tables, summary
from training.config import Config, TablesConfig
from training.correlations import sensitivities, variance_factors, variances_along
from training.counting import ByParents, sum_by_parents
from workshop.files import read_arrays, sha256, write_arrays

N_BINS, Z = 12, PROCESSES.index("ztautau")
PARENTS, ROWS, OUTSIDE = 4000, 6, 0.9
NUISANCES = variant("challenge")
SIGNAL = np.where(np.arange(N_BINS) < 6, 1.0, 25.0)
OTHERS = np.array([SIGNAL, np.zeros(N_BINS), np.full(N_BINS, 5.0), np.full(N_BINS, 5.0)])
"""Yields of H, tt and VV, which are known exactly."""


def with_z(z_yields):
    yields = OTHERS.copy()
    yields[Z] = z_yields
    return yields


def rates_of(z_yields):
    yields = with_z(z_yields)
    return Rates(Response(yields, np.zeros((*yields.shape, len(POWERS)))), NUISANCES)


@pytest.fixture(scope="module")
def showers():
    """Bins and weights of Z rows: some of each shower, in the same bin or near it; most showers in none."""
    rng = np.random.default_rng(2)
    centres = rng.integers(0, N_BINS, PARENTS)
    bins = np.clip(centres[:, None] + rng.integers(-2, 3, (PARENTS, ROWS)), 0, N_BINS - 1)
    bins[rng.random(PARENTS) < OUTSIDE] = -1
    return bins, rng.uniform(0.3, 1.2, (PARENTS, ROWS))


def sums_of(showers):
    bins, weights = showers
    parents = np.repeat(np.arange(PARENTS), ROWS)
    found = sum_by_parents(parents, np.zeros(parents.size, int), bins.reshape(1, -1), weights.ravel(), 1, N_BINS)
    covariances = np.zeros((len(PROCESSES), *found.covariances.shape[1:]))
    covariances[Z] = found.covariances[0]
    totals = OTHERS.sum(axis=1)
    totals[Z] = found.totals[0]
    return ByParents(np.full(len(PROCESSES), parents.size), totals, with_z(found.yields[0]), covariances)


def yields_of(showers, times=1.0):
    bins, weights = showers
    weights = weights * np.broadcast_to(times, PARENTS)[:, None]
    # Bin -1 holds what the regions leave out.
    return np.bincount(bins.ravel() + 1, weights.ravel())[1:] * showers[1].sum() / weights.sum()


def test_the_factor_gives_the_variance_of_mu(showers):
    """Against many tables from showers drawn anew, whose shift of mu is fitted."""
    sums, nominal = sums_of(showers), yields_of(showers)
    factors = variance_factors(rates_of(nominal), sums.variances, sums)
    assert (factors[[0, 2, 3]] == 1).all()
    assert factors[Z] > 1.5
    variances = factors[:, None] * sums.variances
    likelihood = binned_likelihood(rates_of(nominal), np.zeros(N_BINS), variances)
    gains = np.tile(sensitivities(likelihood), (len(PROCESSES), 1))
    by_parents = variances_along(gains, sums)
    assert by_parents[Z] == pytest.approx((gains[Z] ** 2 * variances[Z]).sum(), rel=1e-3)
    rng = np.random.default_rng(1)
    expected = asimov(likelihood, np.array([1.0, *np.zeros(len(NUISANCES))])).statistic.counts
    shifts = []
    for _ in range(300):
        table = rates_of(yields_of(showers, rng.poisson(1.0, PARENTS)))
        shifts.append(measure_interval(binned_likelihood(table, expected, variances)).fit.mu - 1.0)
    assert np.std(shifts) == pytest.approx(np.sqrt(by_parents[Z]), rel=0.15)


def test_toys_by_showers_cover_with_the_factor_and_not_without(showers):
    sums, nominal = sums_of(showers), yields_of(showers)
    factors = variance_factors(rates_of(nominal), sums.variances, sums)
    truth = rates_of(nominal)
    rng = np.random.default_rng(3)
    pulls = {"with": [], "without": []}
    for _ in range(400):
        table = rates_of(yields_of(showers, rng.poisson(1.0, PARENTS)))
        counts = rng.poisson(truth.expected(np.array([1.0, *rng.standard_normal(len(NUISANCES))]))).astype(float)
        for name, scale in (("with", factors), ("without", np.ones(len(PROCESSES)))):
            found = measure_interval(binned_likelihood(table, counts, scale[:, None] * sums.variances))
            pulls[name].append((found.fit.mu - 1.0) / ((found.high - found.low) / 2))
    width = {name: np.std(values) for name, values in pulls.items()}
    covered = {name: np.mean(np.abs(values) < 1.0) for name, values in pulls.items()}
    # Four standard errors of 400 toys.
    assert abs(width["with"] - 1.0) < 0.14
    assert abs(covered["with"] - 0.683) < 0.093
    assert width["without"] > 1.2
    assert covered["without"] < 0.683 - 0.07


def test_rows_that_are_alone_need_no_factor_but_for_the_normalisation():
    rng = np.random.default_rng(4)
    bins, weights = rng.integers(0, N_BINS, (4000, 1)), rng.uniform(0.1, 0.2, (4000, 1))
    found = sum_by_parents(np.arange(4000), np.zeros(4000, int), bins.T, weights.ravel(), 1, N_BINS)
    covariances = np.zeros((len(PROCESSES), N_BINS + 1, N_BINS + 1))
    covariances[Z] = found.covariances[0]
    totals = OTHERS.sum(axis=1)
    totals[Z] = weights.sum() * 1e6  # nearly all of the process lies in no bin
    covariances[Z, -1, -1] *= 1e6
    nominal = np.bincount(bins.ravel(), weights.ravel(), minlength=N_BINS)
    sums = ByParents(np.full(len(PROCESSES), 4000), totals, with_z(nominal), covariances)
    assert variance_factors(rates_of(nominal), sums.variances, sums) == pytest.approx(np.ones(4), abs=1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Events of which three neighbours in the file come from one shower, if they are of one process."""
    folder = small_data(tmp_path_factory.mktemp("events"), 1500)
    pq.write_table(pa.table({"parent": np.arange(1500) // 3}), folder / PARENTS_FILE)
    return folder


def test_tables_hold_factors_where_showers_are_known(data, tmp_path):
    config = Config(seed=3, table_fraction=1.0, tables=TablesConfig(min_effective=20.0, nodes=20, noise_draws=1))
    report = build_tables(config, data, FIVE_WEIGHTS, tmp_path / "with")
    factors = read_arrays(tmp_path / "with" / RESPONSE_FILE)[VARIANCE_FACTORS]
    assert (factors != 1.0).any()
    assert report["variance_factors"] == dict(zip(PROCESSES, factors.round(4).tolist(), strict=True))
    assert "variance factor" in summary(report)
    (data / PARENTS_FILE).rename(data / "hidden")
    report = build_tables(config, data, FIVE_WEIGHTS, tmp_path / "without")
    assert VARIANCE_FACTORS not in read_arrays(tmp_path / "without" / RESPONSE_FILE)
    assert json.loads((tmp_path / "without" / REPORT).read_text())["variance_factors"] is None
    assert "variance factor" not in summary(report)


def with_factors(folder, factors):
    """Give a copy of the shipped weights factors."""
    shutil.copytree(FIVE_WEIGHTS, folder)
    arrays = read_arrays(folder / RESPONSE_FILE) | {VARIANCE_FACTORS: np.array(factors)}
    write_arrays(folder / RESPONSE_FILE, arrays)
    manifest = json.loads((folder / MANIFEST).read_text())
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    manifest["files"][RESPONSE_FILE] = {"sha256": sha256(folder / RESPONSE_FILE), "shapes": shapes}
    (folder / MANIFEST).write_text(json.dumps(signed(manifest)))
    return folder


def test_the_bundle_scales_the_variances(tmp_path):
    shipped = read_bundle(FIVE_WEIGHTS)
    found = read_bundle(with_factors(tmp_path / "a", [1.0, 1.5, 2.0, 0.5]))
    np.testing.assert_allclose(found.variances, shipped.variances * np.array([[1.0], [1.5], [2.0], [0.5]]))
    np.testing.assert_array_equal(read_bundle(with_factors(tmp_path / "b", [1.0] * 4)).variances, shipped.variances)


@pytest.mark.parametrize("factors", [[1.0] * 3, [1.0, -0.1, 1.0, 1.0], [1.0, np.nan, 1.0, 1.0], [[1.0] * 4]])
def test_factors_that_cannot_be_are_refused(tmp_path, factors):
    with pytest.raises(WeightsError, match=r"response.npz"):
        read_bundle(with_factors(tmp_path / "weights", factors))
