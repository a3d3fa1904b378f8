"""Constants of the processes: the bias that simulated events show is that of the quadrature, and a fit removes it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from examples.interference.clock import Clock
from examples.interference.constants import with_constants
from examples.interference.gaussian import GaussianAmplitudes
from examples.interference.problems import problem_of
from nsbi import mixture as mixtures
from nsbi.constants import bias, fit_constants
from nsbi.networks import Ensemble
from nsbi.train import TrainingSettings, make_network
from sage.errors import InputError, SettingsError

PROBLEM = GaussianAmplitudes()
MIXTURE = mixtures.interference()
YIELDS = PROBLEM.yields
MUS = (0.0, 0.5, 2.0, 4.0)
WRONG = np.array([1.02, 0.985, 1.0])
"""What the learned processes are, of the exact ones."""


def simulated(n=60_000):
    """Return exact densities at simulated events, by signal strength, as the parts of the expected data."""
    rng = np.random.default_rng(3)
    return {mu: [(PROBLEM.components(PROBLEM.sample(rng, n, mu)), float(YIELDS @ MIXTURE.at_mu(mu)[0]))] for mu in MUS}


def scaled(events, factors):
    return {mu: [(densities * factors, expected) for densities, expected in parts] for mu, parts in events.items()}


def bias_by_quadrature(mu, factors):
    """Return t of the expected data at mu = 1 with scaled densities, minus that with the exact ones."""
    u = np.linspace(-10, 12, 8001)[:, None]
    densities = PROBLEM.components(u)
    one, here = MIXTURE.at_mu(1.0)[0], MIXTURE.at_mu(mu)[0]
    ratio = np.log(
        (densities * factors) @ here / (densities @ here) / ((densities * factors) @ one / (densities @ one))
    )
    return -2 * float((densities @ one) @ ratio * (u[1, 0] - u[0, 0]))


@pytest.mark.parametrize("mu", MUS)
def test_simulated_events_show_the_bias(mu):
    """To first order in the errors: twice as wrong, the difference is four times as large."""
    events = simulated()
    for size, second_order in ((1.0, 0.1), (0.25, 0.02)):
        factors = WRONG**size
        found, _, error = bias(MIXTURE, YIELDS, factors, mu, events[mu])
        true = bias_by_quadrature(mu, factors)
        assert found == pytest.approx(true, abs=4 * error + second_order * abs(true))
    assert abs(bias(MIXTURE, YIELDS, np.ones(3), mu, events[mu])[0]) < 4 * error


def test_derivatives_of_the_bias():
    (part,) = simulated(2000)[2.0]
    slopes = bias(MIXTURE, YIELDS, WRONG, 2.0, [part, part])[1]
    for j, step in enumerate(1e-5 * np.eye(3)):
        up, down = (bias(MIXTURE, YIELDS, WRONG * np.exp(sign * step), 2.0, [part, part])[0] for sign in (1, -1))
        assert slopes[j] == pytest.approx((up - down) / 2e-5, rel=1e-5)
    # A common factor changes nothing.
    assert slopes.sum() == pytest.approx(0, abs=1e-8)


def test_the_error_is_the_spread_of_the_bias():
    densities, expected = simulated(100_000)[0.5][0]
    found = [bias(MIXTURE, YIELDS, WRONG, 0.5, [(part, expected)]) for part in np.split(densities, 200)]
    values, errors = np.array([b for b, _, _ in found]), [e for _, _, e in found]
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.2)


def test_a_fit_undoes_what_is_wrong():
    constants = fit_constants(MIXTURE, YIELDS, scaled(simulated(), WRONG))
    found = constants.factors * WRONG
    assert found[0] / found[2] == pytest.approx(1.0, abs=0.03)
    assert found[1] / found[2] == pytest.approx(1.0, abs=0.03)
    assert YIELDS * constants.factors @ np.ones(3) == pytest.approx(YIELDS.sum())
    assert (abs(constants.before) > 4 * constants.errors).sum() >= 2
    assert (abs(constants.after) < 4 * constants.errors).all()
    for mu, error in zip(constants.mus, constants.errors, strict=True):
        assert bias_by_quadrature(mu, found) == pytest.approx(0, abs=4 * error)


def test_densities_are_kept_positive_during_the_fit():
    """With I at its bound a larger factor of it would make densities negative; what bounds it is told."""
    events = simulated(2000)

    def at_bound(ratios, most=1.0):
        ratios = ratios.copy()
        ratios[:, 1] = np.clip(
            ratios[:, 1], *(sign * most * 2 * np.sqrt(ratios[:, 0] * ratios[:, 2]) for sign in (-1, 1))
        )
        return ratios

    broken = {mu: [(at_bound(d * [1, 50, 1]), expected) for d, expected in parts] for mu, parts in events.items()}
    with pytest.raises(InputError, match="not positive"):
        fit_constants(MIXTURE, YIELDS, scaled(broken, np.array([1.0, 1.01, 1.0])))
    found = fit_constants(MIXTURE, YIELDS, scaled(broken, np.array([1.0, 1.01, 1.0])), lambda r: at_bound(r, 1 - 1e-6))
    assert np.isfinite(found.after).all()


def test_what_is_refused():
    events = simulated(500)
    with pytest.raises(SettingsError, match="say nothing"):
        fit_constants(MIXTURE, YIELDS, {1.0: events[0.0]})
    with pytest.raises(InputError, match="not positive"):
        fit_constants(MIXTURE, YIELDS, scaled(events, np.array([1.0, 3.0, 1.0])))
    with pytest.raises(SettingsError, match="add up"):
        fit_constants(MIXTURE, YIELDS, {mu: [(parts[0][0], 1.1 * parts[0][1])] for mu, parts in events.items()})


SETTINGS = TrainingSettings(width=8, layers=1, steps=1)


def ensemble(members=2):
    problem = problem_of("gaussian")
    drawn = {name: problem.sample(np.random.default_rng(1), 100, name) for name in ("S", "SBI 0")}
    return Ensemble([make_network(replace(SETTINGS, seed=i), problem.yields(), drawn) for i in range(members)])


def test_constants_are_factors_that_keep_the_mixture_positive():
    plain, x = ensemble(), np.random.default_rng(2).normal(size=(500, 3)).astype(np.float32)
    small = np.array([1.1, 0.9, 1.0, 1.0])
    changed = Ensemble(plain.members, small, np.stack([small, np.ones(4)]))
    np.testing.assert_allclose(changed.ratios(x), plain.ratios(x) * small)
    np.testing.assert_allclose(changed.each(x), plain.each(x) * np.stack([small, np.ones(4)])[:, None])
    large = Ensemble(plain.members, np.array([1.0, 50.0, 1.0, 1.0]))
    for mu in np.linspace(0, 6, 25):
        assert (large.ratios(x)[:, :3] @ [mu, math.sqrt(mu), 1.0] > 0).all()


class Silent:
    """A problem that cannot simulate."""

    def yields(self):
        return problem_of("gaussian").yields()


def test_constants_are_kept_and_are_of_their_networks(tmp_path):
    path, clock = tmp_path / "constants.json", Clock(tmp_path / "seconds")
    problem, options = problem_of("gaussian"), (3000, 1, path, {"networks": 1}, 1, clock)
    first, constants = with_constants(problem, ensemble(), *options)
    assert not np.array_equal(*first.each_constants)
    assert set(clock.by_part()) == {"constants"}
    again, same = with_constants(Silent(), ensemble(), *options)
    np.testing.assert_array_equal(first.each_constants, again.each_constants)
    np.testing.assert_array_equal(constants.after, same.after)
    with pytest.raises(AttributeError):
        with_constants(Silent(), ensemble(), 3000, 1, path, {"networks": 2}, 1, clock)
