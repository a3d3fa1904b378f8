"""The efficient score: formulae against a loop over events, the manifest, and the network of scores."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sage.binned.counting import quantities_of
from sage.binned.regions import counts, quantities, region_set, reweighted
from sage.binned.score import EFFICIENT_SCORE, SHAPE_SCORES, EfficientScore, copies, power, slope
from sage.challenge.features import derived
from sage.challenge.nuisances import CHALLENGE, NAMES, PROCESSES, SHAPE_NAMES
from sage.challenge.shifts import select, shift
from sage.errors import SettingsError, WeightsError
from sage.files.bundle import read_bundle
from sage.files.manifest import describe_regions, read_regions
from sage.network.classifier import NetworkClassifier
from sage.network.dense import ScoreNetwork
from sage.network.graph import normalise, raw_inputs
from sage.network.parameters import SCORES, split, stack
from sage.network.perceptron import Perceptron
from tests.events import FIVE_WEIGHTS, columns_of, embedded_frame

YIELDS = (1015.0, 901137.5, 41283.4, 3433.6)
SHARES = (0.4, 0.1, 0.2, 0.3)
SCORE = EfficientScore(1.4, (0.5, -1.0, 0.3, 0.7, -0.4, 0.2), YIELDS, (0.3, -0.2, 0.5, 1.1, 0.4, 2.0))


def with_score(name, score=SCORE, shares=SHARES, edges=(-1.0, -0.02, 0.0, 0.01, 0.1, 1.0)):
    bare = replace(region_set(name).for_network(shares), score=score)
    return bare.with_edges({region.name: edges for region in bare.regions})


@pytest.fixture(scope="module")
def events():
    frame = embedded_frame(2000)
    return {name: column.astype(np.float32) for name, column in select(shift(columns_of(frame)))[0].items()}


@pytest.fixture(scope="module")
def outputs(events):
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(4), len(events["PRI_met"]))
    return np.concatenate([p, rng.normal(0.0, 0.05, (len(p), len(SHAPE_NAMES)))], axis=1)


def slow_twin(p, shape_scores):
    """s* of one event, all in the open: the reference point of ``SCORE`` written out."""
    tt, vv, background = 1.0 + 0.02 * 0.7, 1.0 + 0.25 * -0.4, 1.0 + 0.001 * 0.2
    rates = (1.4, background, tt * background, vv * background)
    intensity = [YIELDS[i] * rates[i] * p[i] / SHARES[i] for i in range(4)]
    g = [part / sum(intensity) for part in intensity]
    tes, jes, soft_met = shape_scores
    s_mu = g[0] / 1.4
    s_tt, s_vv, s_bkg = 0.02 / tt * g[2], 0.25 / vv * g[3], 0.001 / background * (g[1] + g[2] + g[3])
    # exp(nu) GeV of noise act by their square.
    s_met = soft_met * np.exp(0.3) ** 2
    return s_mu - 0.3 * tes + 0.2 * jes - 0.5 * s_met - 1.1 * s_tt - 0.4 * s_vv - 2.0 * s_bkg


def test_against_the_loop_over_events(events, outputs):
    values = quantities(events, derived(events), outputs)
    found = reweighted(with_score("score"), values)[EFFICIENT_SCORE]
    expected = [slow_twin(row[:4], row[4:]) for row in outputs]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(found))
    binned = counts(with_score("score"), values, weights)
    place = np.searchsorted([-0.02, 0.0, 0.01, 0.1], expected, side="right")
    np.testing.assert_allclose(binned, np.bincount(place, weights, minlength=5))


def test_regions_share_the_observable(events, outputs):
    values = quantities(events, derived(events), outputs)
    five = with_score("score_regions")
    assert [region.name for region in five.regions] == [region.name for region in region_set("five").regions]
    by_region = counts(five, values).reshape(5, -1)
    np.testing.assert_array_equal(by_region.sum(axis=0), counts(with_score("score"), values))
    assert (by_region.sum(axis=1) > 0).all()


def test_network_proportions_do_not_matter(events, outputs):
    moved = outputs.copy()
    moved[:, :4] *= np.array([0.25, 0.25, 0.25, 0.25]) / SHARES
    moved[:, :4] /= moved[:, :4].sum(axis=1, keepdims=True)
    one, other = (
        reweighted(with_score("score", shares=shares), quantities(events, derived(events), p))[EFFICIENT_SCORE]
        for shares, p in ((SHARES, outputs), ((0.25, 0.25, 0.25, 0.25), moved))
    )
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_scores_are_derivatives_of_the_log_intensity():
    """Rate scores against differences; mu = 0 is a reference point as any other."""
    ratios = np.random.default_rng(4).uniform(0.01, 3.0, (4, 50))
    step = 1e-5

    def log_intensity(score):
        return np.log(sum(r * y * f for r, y, f in zip(ratios, YIELDS, score.rates(), strict=True)))

    for mu in (0.0, 1.4):
        score = replace(SCORE, mu=mu)
        found = score.scores(ratios, {})
        up = replace(score, mu=mu + step)
        np.testing.assert_allclose(found[0], (log_intensity(up) - log_intensity(score)) / step, rtol=1e-3, atol=1e-9)
        for k, nuisance in enumerate(CHALLENGE):
            if nuisance.kind == "shape":
                assert found[1 + k] is None
                continue
            up, down = (
                replace(score, nus=tuple(nu + sign * step * (i == k) for i, nu in enumerate(score.nus)))
                for sign in (1, -1)
            )
            difference = (log_intensity(up) - log_intensity(down)) / (2 * step)
            np.testing.assert_allclose(found[1 + k], difference, rtol=1e-5, atol=1e-10)


def test_copies_of_shape_nuisances():
    """Three widths up and down; the noise, which acts by its square, 3 GeV against none."""
    tes, jes, soft_met = (nuisance for nuisance in CHALLENGE if nuisance.kind == "shape")
    for scale in (tes, jes):
        assert copies(scale, 3.0) == pytest.approx((0.97, 1.03, 1 / 6))
    assert copies(soft_met, 3.0) == pytest.approx((0.0, 3.0, 2 / 9))
    assert [power(nuisance) for nuisance in (tes, jes, soft_met)] == [1, 1, 2]
    assert slope(soft_met, 0.5) == pytest.approx(2 * np.exp(1.0))
    for nuisance, alpha in ((tes, 1.02), (soft_met, 2.0)):
        # A log ratio that is c x gives the score c dx/dnu.
        lower, upper, factor = copies(nuisance, 2.0)
        p = power(nuisance)
        ratio = 0.7 * ((upper - nuisance.nominal) ** p - (lower - nuisance.nominal) ** p)
        nu = nuisance.nu(alpha)
        expected = 0.7 * p * (alpha - nuisance.nominal) ** (p - 1) * nuisance.alpha(nu)[1]
        assert factor * ratio * slope(nuisance, nu) / slope(nuisance) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"tes cannot be moved from 0\.8 to 1\.2"):
        copies(tes, 20.0)


def test_manifest_keeps_everything(tmp_path):
    regions = with_score("score")
    entry = json.loads(json.dumps(describe_regions(regions)))
    assert read_regions(tmp_path, entry) == regions
    assert "efficient_score" not in describe_regions(region_set("five"))
    without = {key: value for key, value in entry.items() if key != "efficient_score"}
    with pytest.raises(WeightsError, match="without saying what makes it"):
        read_regions(tmp_path, without)
    with pytest.raises(SettingsError, match="choose it from events first"):
        counts(replace(regions, score=None), {f"p_{name}": np.ones(3) / 4 for name in PROCESSES})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(mu=-1.0), "mu not negative"),
        (lambda e: e.update(mu=float("nan")), "must be finite"),
        (lambda e: e["nuisances"].update(tes=7.0), "within reach"),
        (lambda e: e["yields"].update(ttbar=0.0), "yields positive"),
        (lambda e: e["coefficients"].pop("jes"), "coefficients of the efficient score are of"),
        (lambda e: e["coefficients"].update(jes=float("inf")), "must be finite"),
        (lambda e: e["nuisances"].update(luminosity=0.0), "nuisances of the efficient score are of"),
    ],
)
def test_damaged_entries_are_refused(tmp_path, change, message):
    entry = describe_regions(with_score("score"))
    change(entry["efficient_score"])
    with pytest.raises(WeightsError, match=message):
        read_regions(tmp_path / "manifest.json", entry)


def test_needs():
    assert with_score("score").needs == set(SHAPE_SCORES)
    rates_only = tuple(0.0 if name in SHAPE_NAMES else 1.0 for name in NAMES)
    assert with_score("score", replace(SCORE, coefficients=rates_only)).needs == set()
    assert replace(region_set("five"), score=SCORE).needs == set()


@pytest.fixture(scope="module")
def with_scores():
    """The shipped network with some perceptron of scores."""
    bundle = read_bundle(FIVE_WEIGHTS)
    torch.manual_seed(4)
    network = ScoreNetwork(bundle.normalisation.inputs, (16,))
    scores = {name: value.numpy() for name, value in network.state_dict().items()}
    return bundle, bundle.network | {SCORES + name: value for name, value in scores.items()}, scores


@pytest.mark.parametrize("kind", ["native", "torch"])
def test_perceptron_of_scores(events, with_scores, kind):
    """Scores behind probabilities in the same bits as without them."""
    bundle, both, scores = with_scores
    columns = derived(events)
    alone, found = (
        NetworkClassifier(parameters, bundle.normalisation, kind, 1).outputs(events, columns)
        for parameters in (split(bundle.network)[0], both)
    )
    np.testing.assert_array_equal(found[:, :4], alone)
    values, defined = raw_inputs(events, columns, bundle.normalisation.inputs)
    expected = Perceptron(scores)(normalise(values, defined, bundle.normalisation))
    np.testing.assert_allclose(found[:, 4:], expected, atol=1e-5)
    assert found.shape == (len(alone), 7)
    assert found[:, 4:].std(axis=0).min() > 1e-3


def test_perceptrons_of_scores_are_averaged(events, with_scores):
    bundle, _, scores = with_scores
    doubled = {name: 2.0 * value if name.startswith("perceptron.1") else value for name, value in scores.items()}
    found = []
    for members in ([scores], [scores, doubled]):
        parameters = bundle.network | {SCORES + name: value for name, value in stack(members).items()}
        classifier = NetworkClassifier(parameters, bundle.normalisation, threads=1)
        found.append(classifier.outputs(events, derived(events))[:, 4:])
    np.testing.assert_allclose(found[1], 1.5 * found[0], rtol=1e-5, atol=1e-6)


def test_kernel_and_torch_agree_on_the_observable(events, with_scores):
    bundle, both, _ = with_scores
    native, dense = (
        reweighted(with_score("score"), quantities_of(events, NetworkClassifier(both, bundle.normalisation, kind, 1)))
        for kind in ("native", "torch")
    )
    difference = np.abs(native[EFFICIENT_SCORE] - dense[EFFICIENT_SCORE])
    assert difference.max() < 1e-5
    assert native[EFFICIENT_SCORE].std() > 1e-3
