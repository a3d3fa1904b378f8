"""The nuisance table against the distributions of the challenge and of the sources."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sage.challenge.nuisances import CHALLENGE, NAMES, PROCESSES, PUBLISHED, VARIANTS, variant

OFFICIAL = {
    "tes": (1.0, 0.01, 0.9, 1.1),
    "jes": (1.0, 0.01, 0.9, 1.1),
    "ttbar_scale": (1.0, 0.02, 0.8, 1.2),
    "diboson_scale": (1.0, 0.25, 0.0, 2.0),
    "bkg_scale": (1.0, 0.001, 0.99, 1.01),
}


def test_the_order_is_the_order_in_which_the_challenge_draws():
    assert NAMES == ("tes", "jes", "soft_met", "ttbar_scale", "diboson_scale", "bkg_scale")
    assert tuple(nuisance.name for nuisance in PUBLISHED) == NAMES


@pytest.mark.parametrize("nuisance", CHALLENGE, ids=lambda nuisance: nuisance.name)
def test_a_unit_normal_nu_gives_the_official_distribution(nuisance):
    nu = np.random.default_rng(5).normal(size=20_000)
    alpha = np.array([nuisance.alpha(value)[0] for value in nu])
    if nuisance.name == "soft_met":
        assert np.median(alpha) == pytest.approx(1.0, abs=0.03)
        assert np.std(np.log(alpha[alpha < 5.0])) < 1.0
        assert np.mean(alpha == 5.0) == pytest.approx(0.0538, abs=0.006)
        return
    centre, width, low, high = OFFICIAL[nuisance.name]
    assert nuisance.clip == (low, high)
    assert alpha.mean() == pytest.approx(centre, abs=4 * width / math.sqrt(len(nu)))
    assert alpha.std() == pytest.approx(width, rel=0.03)


@pytest.mark.parametrize("name", VARIANTS)
def test_derivatives_and_inverse(name):
    for nuisance in variant(name):
        for nu in (-1.7, -0.2, 0.3, 1.1):
            if not nuisance.nu_range[0] < nu < nuisance.nu_range[1]:
                continue
            h = 1e-4
            value, first, second = nuisance.alpha(nu)
            up, down = nuisance.alpha(nu + h), nuisance.alpha(nu - h)
            assert first == pytest.approx((up[0] - down[0]) / (2 * h), rel=1e-6)
            assert second == pytest.approx((up[1] - down[1]) / (2 * h), rel=1e-6, abs=1e-9)
            assert nuisance.nu(value) == pytest.approx(nu, abs=1e-9)


def test_published_maps_are_the_literal_ones():
    point = {nuisance.name: nuisance.alpha(0.5)[0] for nuisance in PUBLISHED}
    assert point["soft_met"] == pytest.approx(math.exp(0.5) - 1)
    assert point["ttbar_scale"] == pytest.approx(math.exp(0.02 * 0.5))
    assert point["diboson_scale"] == pytest.approx(math.exp(0.25 * 0.5))
    assert point["bkg_scale"] == pytest.approx(math.exp(0.001 * 0.5))
    soft_met = PUBLISHED[2]
    assert soft_met.nu_range == (math.log(1.001), math.log(6.0))


def test_only_the_right_processes_are_scaled():
    scaled = {nuisance.name: nuisance.scales for nuisance in CHALLENGE if nuisance.kind == "norm"}
    assert scaled == {
        "ttbar_scale": ("ttbar",),
        "diboson_scale": ("diboson",),
        "bkg_scale": tuple(name for name in PROCESSES if name != "htautau"),
    }


def test_unknown_variant_says_which_exist():
    with pytest.raises(ValueError, match="challenge, gollum, published"):
        variant("official")
