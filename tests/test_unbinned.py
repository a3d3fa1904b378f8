"""The unbinned likelihood: kernel against numpy, derivatives against mpmath, and what bins and closed forms know."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import numpy as np
import pytest

from sage.binned.response import POWERS, Response
from sage.binned.statistic import binned_likelihood
from sage.challenge.nuisances import CHALLENGE
from sage.errors import EngineError
from sage.fit.interval import measure_interval
from sage.fit.ladder import climb, total_interval
from sage.network.library import INSTRUCTION_SETS
from sage.rates import Rates
from sage.unbinned.likelihood import SumLikelihood, UnbinnedLikelihood
from sage.unbinned.norms import EVENTS, NORM_BASIS, POINTS, Factors, fit_norms, norm_points, norm_sums
from sage.unbinned.response import BASES, EXACT
from sage.unbinned.statistic import EventKernel, densities, event_sums, kernel, pack
from studies.impacts import breakdown_by_auxiliary_data, impacts

YIELDS = np.array([[60.0, 20.0], [9000.0, 300.0], [800.0, 2500.0], [50.0, 40.0]])
"""Of four processes in two regions."""
POINT = np.array([1.3, 0.4, -0.7, -0.3, 0.5, -0.2, 0.8])


def yields_response(seed: int = 1, scale: float = 0.01) -> Response:
    rng = np.random.default_rng(seed)
    return Response(YIELDS, rng.normal(0, scale, (*YIELDS.shape, len(POWERS))) / (1 + POWERS.sum(axis=1)) ** 2)


def without_shapes(yields: Response) -> Factors:
    return Factors(yields, yields.nominal, np.zeros((*yields.nominal.shape, len(NORM_BASIS.powers))))


def random_events(n: int, seed: int, strength: float = 0.03, weights: np.ndarray | None = None, n_terms: int = 9):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([0.5, 5, 3, 0.5], n).clip(1e-6)
    return shares, strength * rng.standard_normal((n, 4, n_terms)), weights


def likelihood(basis=EXACT, n=300, native=True, strength=0.03) -> UnbinnedLikelihood:
    yields = yields_response()
    events = tuple(pack(*random_events(n, seed, strength)) for seed in (3, 4))
    bent = np.random.default_rng(2).normal(0, 0.01, (4, 2, len(NORM_BASIS.powers)))
    factors = Rates(Factors(yields, 1.1 * YIELDS, bent), CHALLENGE)
    return UnbinnedLikelihood(
        Rates(yields, CHALLENGE), factors, basis, events, np.zeros(6), kernel() if native else None
    )


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize(
    ("p", "k", "c", "n"), [(4, 3, 9, 1000), (4, 3, 9, 65), (1, 0, 0, 7), (8, 8, 32, 200), (5, 4, 14, 0)]
)
def test_the_kernel_is_numpy(instruction_set, p, k, c, n):
    try:
        native = EventKernel(instruction_set)
    except EngineError as error:
        pytest.skip(str(error))
    rng = np.random.default_rng(n)
    events = pack(rng.dirichlet(np.ones(p), n), rng.normal(0, 0.5, (n, p, c)), rng.uniform(0, 2, n))
    factors, terms, slopes = rng.uniform(0.5, 2, p), rng.normal(size=c), rng.normal(size=(k, c))
    expected, found = event_sums(events, factors, terms, slopes), native.sums(events, factors, terms, slopes)
    for name, value in vars(expected).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-11, atol=1e-11, err_msg=name)
    assert native.value(events, factors, terms) == pytest.approx(expected.value, rel=1e-12, abs=1e-12)


def test_wrong_sizes_never_reach_the_library():
    native = EventKernel()
    events = pack(*random_events(10, 1))
    for factors, terms, slopes in ((3, 9, 9), (4, 8, 9), (4, 9, 8)):
        with pytest.raises(ValueError, match="do not belong to events of 4 processes and 9 terms"):
            native.sums(events, np.ones(factors), np.ones(terms), np.ones((3, slopes)))
    with pytest.raises(EngineError, match="status 1"):
        native.sums(events, np.ones(4), np.ones(9), np.ones((9, 9)))


def exact_value(of: UnbinnedLikelihood, parameters) -> mpmath.mpf:
    """The likelihood in 30 digits, written out from its definition."""
    mu, *nus = parameters
    t, j, s, tt, vv, bkg = nus
    soft = mpmath.exp(s)
    m = mpmath.log(1 + soft)
    if of.basis.name == "exact":
        v = (t, j, t**2, t * j, j**2, m**2, m**3, t * m**2, j * m**2)
    else:
        v = (t, j, soft, t**2, j**2, soft**2, t * j, t * soft, j * soft)
    rate = 1 + mpmath.mpf("0.001") * bkg
    scales = (mu, rate, rate * (1 + mpmath.mpf("0.02") * tt), rate * (1 + mpmath.mpf("0.25") * vv))
    powers = [t**a * j**b * m**c for a, b, c in POWERS.tolist()]

    def grown(response: Response, p: int, b: int) -> mpmath.mpf:
        return response.nominal[p, b] * mpmath.exp(mpmath.fdot(response.coefficients[p, b].tolist(), powers))

    norm_terms = [(t / 4) ** a * (j / 4) ** b * m**c for a, b, c in NORM_BASIS.powers]

    def factor(p: int, r: int) -> mpmath.mpf:
        norm = mpmath.exp(mpmath.fdot(of.factors.templates.norm_coefficients[p, r].tolist(), norm_terms))
        return grown(of.rates.templates, p, r) / (of.factors.templates.norms[p, r] * norm)

    total = sum(mpmath.mpf(nu) ** 2 for nu in nus) / 2
    for r, events in enumerate(of.events):
        total += sum(f * grown(of.rates.templates, p, r) for p, f in enumerate(scales)) - events.observed
        factors = [f * factor(p, r) for p, f in enumerate(scales)]
        rows = events.blocks.swapaxes(0, 1).reshape(41, -1).astype(float)
        for event in rows.T.tolist():
            if event[0]:
                parts = (
                    c * event[1 + p] * mpmath.exp(mpmath.fdot(event[5 + 9 * p : 14 + 9 * p], v))
                    for p, c in enumerate(factors)
                )
                total -= event[0] * mpmath.log(sum(parts))
    return total


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
@pytest.mark.parametrize("native", [True, False])
def test_value_gradient_and_hessian_against_mpmath(basis, native):
    of = likelihood(basis, n=6, native=native)
    found = of.evaluate(POINT)
    with mpmath.workdps(30):
        step = mpmath.mpf("1e-8")
        at = [mpmath.mpf(float(x)) for x in POINT]

        def moved(*by: tuple[int, int]) -> mpmath.mpf:
            there = list(at)
            for i, sign in by:
                there[i] += sign * step
            return exact_value(of, there)

        assert found.value == pytest.approx(float(exact_value(of, at)), rel=1e-12)
        gradient = [float((moved((i, 1)) - moved((i, -1))) / (2 * step)) for i in range(7)]
        np.testing.assert_allclose(found.gradient, gradient, rtol=1e-9, atol=1e-9)
        for i in range(7):
            for k in range(i, 7):
                corners = [a * b * moved((i, a), (k, b)) for a in (1, -1) for b in (1, -1)]
                second = float(sum(corners) / (4 * step**2))
                assert found.hessian[i, k] == pytest.approx(second, rel=1e-6, abs=1e-6), (i, k)
    np.testing.assert_allclose(found.hessian, found.hessian.T, rtol=1e-12)
    assert of.value(POINT) == pytest.approx(found.value, rel=1e-13)


def test_the_fisher_information_is_the_expected_hessian():
    """Over events with the weights of the model itself, of which the Hessian's other part averages out."""
    rng = np.random.default_rng(5)
    n = 200_000
    shares, response, _ = random_events(n, 6, 0.02)
    weights = rng.uniform(0, 1, n)
    nominal = (weights[:, None] * shares).sum(axis=0)
    yields = Response(nominal[:, None], np.zeros((4, 1, len(POWERS))))
    factors = Rates(without_shapes(yields), CHALLENGE)
    # Without shapes: the norms of the response are those of the nominal point.
    events = (pack(shares, 0.0 * response, weights),)
    of = UnbinnedLikelihood(Rates(yields, CHALLENGE), factors, EXACT, events, np.zeros(6), kernel())
    at = of.evaluate(np.array([1.0, *np.zeros(6)]))
    np.testing.assert_allclose(at.hessian, at.fisher, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(at.gradient, 0.0, atol=0.1)
    assert np.linalg.eigvalsh(of.evaluate(POINT).fisher).min() > 0.0


def test_norms_are_exact_where_a_fit_goes():
    """Of a process whose response is a Gaussian number times each term, the mean of exp(A . v) is known."""
    rng = np.random.default_rng(14)
    spread = np.array([0.1, 0.1, 0.01, 0.01, 0.01, 0.02, 0.01, 0.02, 0.02])

    def norms(points: np.ndarray) -> np.ndarray:
        terms = EXACT.terms(points)
        return 50.0 * np.exp(0.5 * ((spread * terms) ** 2).sum(axis=1) + terms @ (0.3 * spread))[:, None, None]

    points = norm_points()
    np.testing.assert_array_equal(points[0], [1.0, 1.0, 0.0])
    coefficients = fit_norms(points, norms(points))
    unseen = np.column_stack([1 + 0.02 * rng.uniform(-1, 1, (200, 2)), rng.uniform(0, 4, 200)])
    found = 50.0 * np.exp(NORM_BASIS.terms(unseen) @ coefficients[0, 0])
    np.testing.assert_allclose(found, norms(unseen)[:, 0, 0], rtol=3e-4)
    none = np.zeros((len(points), 1, 1))
    np.testing.assert_array_equal(fit_norms(points, none), 0.0)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_norm_sums_are_those_of_one_point_after_the_other(dtype, rtol):
    rng = np.random.default_rng(16)
    weighted = rng.random((3, EVENTS + 7, 4))
    response = rng.normal(0, 0.1, (EVENTS + 7, 4, 9)).astype(np.float32)
    terms = rng.standard_normal((POINTS + 5, 9)).astype(dtype)
    found = norm_sums(lambda rows: weighted[:, rows], response, terms)
    for at, v in zip(found.swapaxes(0, 1), terms.astype(float), strict=True):
        np.testing.assert_allclose(at, (weighted * np.exp(response @ v)).sum(axis=1), rtol=rtol)
    none = norm_sums(lambda rows: weighted[:, :0][:, rows], response[:0], terms)
    np.testing.assert_array_equal(none, np.zeros(found.shape))


def test_norm_sums_are_those_of_the_density_where_responses_explode():
    shares, response, _ = random_events(300, 17, 40.0)
    weights = np.random.default_rng(19).random(300)
    terms = np.random.default_rng(18).standard_normal((3, 9))
    assert np.abs(response @ terms.T).max() > 100.0
    found = norm_sums(lambda rows: (weights[rows, None] * shares[rows])[None], response, terms.astype(np.float32))[0]
    events, factors = pack(shares, response, weights), np.array([1.5, 1.0, 0.7, 2.0])
    for v, norms in zip(terms, found, strict=True):
        assert weights @ densities(events, factors, v)[: len(weights)] == pytest.approx(factors @ norms, rel=1e-3)


def test_a_sum_of_norms_may_be_given_up():
    def late() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        norm_sums(lambda rows: np.ones((1, 5, 4))[:, rows], np.zeros((5, 4, 9)), np.zeros((2, 9)), late)


def in_bins(counts: np.ndarray, templates: Response) -> tuple[UnbinnedLikelihood, SumLikelihood]:
    """Give events that are the bins of a histogram, in one region; and the histogram as one bin each with its total."""
    nominal = templates.nominal
    total = Response(nominal.sum(axis=1, keepdims=True), np.zeros((4, 1, len(POWERS))))
    events = pack((nominal / nominal.sum(axis=0)).T, np.zeros((nominal.shape[1], 4, 9)), counts)
    factors = Rates(without_shapes(total), CHALLENGE)
    unbinned = UnbinnedLikelihood(Rates(total, CHALLENGE), factors, EXACT, (events,), np.zeros(6), kernel())
    return unbinned, binned_likelihood(Rates(templates, CHALLENGE), counts)


def test_with_a_response_that_is_the_same_everywhere_bins_give_the_same_fit():
    rng = np.random.default_rng(7)
    nominal = rng.gamma(2.0, [[8.0], [300.0], [80.0], [10.0]], (4, 12))
    templates = Response(nominal, np.zeros((4, 12, len(POWERS))))
    counts = rng.poisson(nominal.sum(axis=0)).astype(float)
    unbinned, binned = in_bins(counts, templates)
    values = [of.value(np.array([2.0, *np.zeros(6)])) - of.value(POINT) for of in (unbinned, binned)]
    assert values[0] == pytest.approx(values[1], abs=2e-4)  # coefficients are float32
    found, expected = measure_interval(unbinned), measure_interval(binned)
    assert not found.flags
    np.testing.assert_allclose(found.fit.parameters, expected.fit.parameters, atol=1e-5)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], atol=1e-5)


def gaussians(n: int, seed: int):
    """Events of a Gaussian signal on a Gaussian background whose mean moves by tes: x, shares and response.

    A mean moved by d changes the density by exp(d x - d^2 / 2) for unit width, which the basis holds exactly.
    """
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(1.0, 1.0, n // 10), rng.normal(0.0, 1.0, n - n // 10)])
    return x, *gaussian_ratios(x)


MOVED = 0.2
GAUSSIAN_MEANS = np.array([1.0, 0.0, -1.0, 0.5])
GAUSSIAN_YIELDS = np.array([100.0, 700.0, 150.0, 50.0])


def gaussian_ratios(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    densities = np.exp(-0.5 * (x[:, None] - GAUSSIAN_MEANS) ** 2) * GAUSSIAN_YIELDS
    response = np.zeros((len(x), 4, 9))
    response[:, :, 0] = MOVED * (x[:, None] - GAUSSIAN_MEANS)
    response[:, :, 2] = -0.5 * MOVED**2
    return densities / densities.sum(axis=1, keepdims=True), response


def gaussian_likelihood(x: np.ndarray, weights: np.ndarray | None = None) -> UnbinnedLikelihood:
    yields = Response(GAUSSIAN_YIELDS[:, None], np.zeros((4, 1, len(POWERS))))
    factors = Rates(without_shapes(yields), CHALLENGE)
    events = (pack(*gaussian_ratios(x), weights),)
    return UnbinnedLikelihood(Rates(yields, CHALLENGE), factors, EXACT, events, np.zeros(6), kernel())


def test_fine_bins_of_the_density_reproduce_the_likelihood():
    """The events of a data set, once one by one and once as counts in fine bins of x with integrated densities."""
    rng = np.random.default_rng(8)
    x = np.concatenate(
        [rng.normal(mean, 1.0, rng.poisson(n)) for mean, n in zip(GAUSSIAN_MEANS, GAUSSIAN_YIELDS, strict=True)]
    )
    unbinned = gaussian_likelihood(x)
    edges = np.linspace(-6.0, 7.0, 40001)
    middles = 0.5 * (edges[1:] + edges[:-1])
    counts = np.histogram(x, edges)[0]

    def binned(parameters: np.ndarray) -> float:
        mu, tes, _, _, tt, vv, bkg = parameters
        scales = np.array([mu, 1, 1 + 0.02 * tt, 1 + 0.25 * vv]) * np.array([1, *[1 + 0.001 * bkg] * 3])
        means = GAUSSIAN_MEANS + MOVED * tes
        density = np.exp(-0.5 * (middles[:, None] - means) ** 2) / np.sqrt(2 * np.pi) * GAUSSIAN_YIELDS
        rate = density @ scales * np.diff(edges)
        return float(rate.sum() - counts @ np.log(rate) + 0.5 * (parameters[1:] ** 2).sum())

    points = [np.array([1.0, *np.zeros(6)])]
    points += [np.array([mu, tes, 0, 0, 0.5, -0.3, 1.0]) for mu in (0.0, 2.0) for tes in (-1.0, 1.5)]
    rises = np.array([[of(point) - of(points[0]) for point in points[1:]] for of in (unbinned.value, binned)])
    np.testing.assert_allclose(rises[0], rises[1], atol=5e-3)


def test_order_does_not_matter():
    rng = np.random.default_rng(9)
    x = rng.normal(size=3001)
    order = rng.permutation(len(x))
    found = [gaussian_likelihood(each).evaluate(POINT) for each in (x, x[order])]
    assert found[0].value == pytest.approx(found[1].value, rel=1e-12)
    np.testing.assert_allclose(found[0].gradient, found[1].gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[0].hessian, found[1].hessian, rtol=1e-9, atol=1e-9)


def test_weights_are_events_seen_so_often():
    x = np.random.default_rng(10).normal(size=100)
    twice = gaussian_likelihood(np.concatenate([x, x])).evaluate(POINT)
    weighted = gaussian_likelihood(x, np.full(100, 2.0)).evaluate(POINT)
    assert twice.value == pytest.approx(weighted.value, rel=1e-12)
    np.testing.assert_allclose(twice.hessian, weighted.hessian, rtol=1e-11)


def test_a_region_without_events_keeps_its_expectation():
    of = gaussian_likelihood(np.zeros(0))
    assert of.value(np.array([2.0, *np.zeros(6)])) == pytest.approx(GAUSSIAN_YIELDS.sum() + GAUSSIAN_YIELDS[0])
    assert of.evaluate(np.array([1.0, *np.zeros(6)])).gradient[0] == pytest.approx(GAUSSIAN_YIELDS[0])
    assert of.outside(POINT) == 0.0


@pytest.mark.parametrize("native", [True, False])
def test_densities_below_zero_and_exponents_out_of_range(native):
    x = np.random.default_rng(11).normal(size=200)
    of = replace(gaussian_likelihood(x), kernel=kernel() if native else None)
    assert of.value(np.array([-50.0, *np.zeros(6)])) == np.inf
    assert of.evaluate(np.array([-50.0, *np.zeros(6)])).value == np.inf
    assert of.outside(POINT) == 0.0
    shares, response = gaussian_ratios(x)
    response[:20] *= 1000.0
    wild = replace(of, events=(pack(shares, response),))
    assert wild.outside(POINT) == pytest.approx(0.1)
    assert np.isfinite(wild.evaluate(POINT).hessian).all()


def test_fit_ladder_impacts_and_auxiliary_data_run_unchanged():
    rng = np.random.default_rng(12)
    x = np.concatenate(
        [rng.normal(mean, 1.0, rng.poisson(n)) for mean, n in zip(GAUSSIAN_MEANS, GAUSSIAN_YIELDS, strict=True)]
    )
    of = gaussian_likelihood(x)
    interval = climb(of)
    assert not interval.flags
    best = interval.fit
    for limit in (interval.low, interval.high):
        at = best.parameters.copy()
        at[0] = limit
        assert of.value(at) - best.value > 0.5
    assert len(impacts(of, best)) == 6
    parts = breakdown_by_auxiliary_data(of, best)
    assert np.hypot.reduce(list(parts.values())) == pytest.approx(best.sigma_mu, rel=0.02)
    counted = total_interval(of, None, None)
    assert counted.fit.mu == pytest.approx(1.0 + (len(x) - GAUSSIAN_YIELDS.sum()) / GAUSSIAN_YIELDS[0])


def test_a_sum_counts_its_constraints_once():
    rng = np.random.default_rng(13)
    x = rng.normal(size=900)
    unbinned = gaussian_likelihood(x)
    templates = yields_response()
    binned = binned_likelihood(Rates(templates, CHALLENGE), rng.poisson(YIELDS.sum(axis=0)).astype(float))
    both = SumLikelihood((unbinned, binned))
    found, parts = both.evaluate(POINT), [part.evaluate(POINT) for part in both.parts]
    assert found.value == pytest.approx(sum(p.value for p in parts) - 0.5 * (POINT[1:] ** 2).sum())
    assert both.value(POINT) == pytest.approx(found.value)
    np.testing.assert_allclose(found.gradient, sum(p.gradient for p in parts) - [0, *POINT[1:]])
    np.testing.assert_allclose(found.hessian, sum(p.hessian for p in parts) - np.diag([0, *[1.0] * 6]))
    np.testing.assert_allclose(found.fisher, sum(p.fisher for p in parts) - np.diag([0, *[1.0] * 6]))
    assert both.degrees is None
    assert SumLikelihood((binned, binned)).degrees == 3
    assert both.totals(POINT).observed == pytest.approx(900 + binned.statistic.counts.sum())
    moved = both.centred(np.full(6, 0.3))
    np.testing.assert_array_equal(moved.parts[1].centres, 0.3)
    interval = measure_interval(both)
    assert interval.fit.sigma_mu < measure_interval(unbinned).fit.sigma_mu


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 2.0, 3.0])
def test_intervals_of_gaussian_toys_cover(mu):
    """With densities that are known exactly; the true mean and rates are drawn with each toy."""
    n_toys = 1000
    rng = np.random.default_rng(int(100 * mu))
    covered = 0
    for _ in range(n_toys):
        tes, tt, vv, bkg = rng.standard_normal(4)
        scales = np.array([mu, *(1 + 0.001 * bkg) * np.array([1.0, 1 + 0.02 * tt, max(1 + 0.25 * vv, 0.0)])])
        numbers = rng.poisson(scales * GAUSSIAN_YIELDS)
        means = GAUSSIAN_MEANS + MOVED * tes
        x = np.concatenate([rng.normal(mean, 1.0, n) for mean, n in zip(means, numbers, strict=True)])
        interval = measure_interval(gaussian_likelihood(x))
        covered += interval.low <= mu <= interval.high
    share = covered / n_toys
    print(f"mu {mu}: {share:.4f} of {n_toys} toys covered")
    assert share == pytest.approx(0.6827, abs=3 * np.sqrt(0.6827 * 0.3173 / n_toys) + 0.015)
