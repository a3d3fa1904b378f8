"""Di-tau quantities against closed forms, numeric integration, exact symmetries and the masses of simulated H and Z."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import quad

from sage.challenge import ditau as module
from sage.challenge.ditau import (
    AT_H,
    AT_Z,
    DITAU,
    H_MASS,
    LARGEST_COLLINEAR,
    LIKELIHOOD_FLOOR,
    MASSES,
    MET_CONSTANT,
    MET_JETS,
    Z_MASS,
    ditau,
    find_pair,
    likelihood,
)
from sage.challenge.features import derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES, select, shift
from scripts import fit_met
from tests.events import DATA, DATA_FILE, columns_of, mixed_frame, moved, odd_frame
from training.events import Events
from training.met_resolution import fit_resolution

MASS_MEAN, COLLINEAR = "ditau_mass_mean", "ditau_mass_collinear"


def toy_events(n, mass=H_MASS, seed=1, smear=False):
    """Decay resonances to collinear neutrinos; returns columns (float64) and the visible fractions."""
    rng = np.random.default_rng(seed)
    pt, phi, eta = rng.exponential(60.0, n), rng.uniform(-math.pi, math.pi, n), rng.normal(0.0, 1.0, n)
    boost = np.stack([pt * np.cos(phi), pt * np.sin(phi), np.hypot(pt, mass) * np.sinh(eta)])
    cos, azimuth = rng.uniform(-1, 1, n), rng.uniform(-math.pi, math.pi, n)
    sin = np.sqrt(1 - cos**2)
    rest = mass / 2 * np.stack([sin * np.cos(azimuth), sin * np.sin(azimuth), cos])
    energy = np.sqrt(mass**2 + (boost**2).sum(axis=0))
    along = (rest * boost).sum(axis=0) / (mass * (energy + mass)) + 0.5
    taus = np.stack([rest + along * boost, boost - rest - along * boost])
    # The inverse of the cumulative spectrum, 5/3 x - x^3 + x^4 / 3, on a grid.
    grid = np.linspace(0, 1, 2001)
    x_l = np.interp(rng.uniform(size=n), 5 / 3 * grid - grid**3 + grid**4 / 3, grid)
    x_h = rng.uniform(0.0, 1.0, n)
    met = (1 - x_l) * taus[0, :2] + (1 - x_h) * taus[1, :2]
    jets = rng.exponential(60.0, n) * (rng.uniform(size=n) < 0.6)
    if smear:
        met = met + np.sqrt(MET_CONSTANT**2 + MET_JETS**2 * jets) * rng.standard_normal((2, n))
    out = {name: np.full(n, -25.0) for name in PRIMARIES}
    for name, vector in (("lep", x_l * taus[0]), ("had", x_h * taus[1])):
        out[f"PRI_{name}_pt"] = np.hypot(vector[0], vector[1])
        out[f"PRI_{name}_eta"] = np.arcsinh(vector[2] / out[f"PRI_{name}_pt"])
        out[f"PRI_{name}_phi"] = np.arctan2(vector[1], vector[0])
    out["PRI_met"], out["PRI_met_phi"] = np.hypot(*met), np.arctan2(met[1], met[0])
    out["PRI_jet_all_pt"], out["PRI_n_jets"] = jets, (jets > 0).astype(np.float64)
    keep = (out["PRI_lep_pt"] > 20) & (out["PRI_had_pt"] > 26) & (np.abs(out["PRI_lep_eta"]) < 4)
    keep &= np.abs(out["PRI_had_eta"]) < 4
    return {name: column[keep] for name, column in out.items()}, x_l[keep], x_h[keep]


def vector(columns, name, i):
    pt = columns["PRI_met" if name == "met" else f"PRI_{name}_pt"][i]
    phi = columns[f"PRI_{name}_phi"][i]
    return np.array([pt * math.cos(phi), pt * math.sin(phi)], dtype=np.float64)


def literal_likelihood(columns, i, mass):
    """The formula of the docstring, with vectors in x and y and adaptive integration over log(x_l)."""
    lep, had, met = (vector(columns, name, i) for name in ("lep", "had", "met"))
    visible = math.sqrt(
        2
        * columns["PRI_lep_pt"][i]
        * columns["PRI_had_pt"][i]
        * (
            math.cosh(columns["PRI_lep_eta"][i] - columns["PRI_had_eta"][i])
            - math.cos(columns["PRI_lep_phi"][i] - columns["PRI_had_phi"][i])
        )
    )
    if visible >= mass:
        return 0.0
    r = (visible / mass) ** 2
    variance = MET_CONSTANT**2 + MET_JETS**2 * columns["PRI_jet_all_pt"][i]

    def integrand(log_x):
        x = math.exp(log_x)
        rest = met - (1 / x - 1) * lep - (x / r - 1) * had
        return (5 / 3 - 3 * x**2 + 4 / 3 * x**3) * math.exp(-float(rest @ rest) / (2 * variance))

    edges = np.linspace(math.log(r), 0.0, 25)
    integral = sum(quad(integrand, a, b, epsabs=0, epsrel=1e-9)[0] for a, b in pairwise(edges))
    return 2 / mass * r / (2 * math.pi * variance) * integral


@pytest.fixture(scope="module")
def drawn():
    """Events of each process, drawn in proportion to their weights."""
    frame = pd.read_parquet(DATA / DATA_FILE)
    rng = np.random.default_rng(1)
    out = {}
    for process in PROCESSES:
        part = frame[frame["detailed_labels"] == process]
        weights = part["weights"].to_numpy(np.float64)
        chosen = part.iloc[rng.choice(len(part), 8000, p=weights / weights.sum())]
        out[process] = select(shift(columns_of(chosen)))[0]
    return out


def test_masses_hold_z_and_h():
    assert len(MASSES) == 15
    assert MASSES[AT_Z] == pytest.approx(Z_MASS, rel=1e-12)
    assert MASSES[AT_H] == pytest.approx(H_MASS, rel=1e-12)
    assert np.allclose(np.diff(np.log(MASSES)), module.MASS_STEP)


@pytest.mark.parametrize("process", ["htautau", "ztautau", "ttbar"])
def test_likelihood_is_that_of_adaptive_integration(drawn, process):
    columns = {name: column[:40].astype(np.float64) for name, column in drawn[process].items()}
    compared = 0
    for mass in (MASSES[1], Z_MASS, H_MASS, MASSES[-2]):
        found = likelihood(find_pair(columns), mass)
        for i in range(40):
            expected = literal_likelihood(columns, i, mass)
            # Nodes and window are good to a hundredth at worst, mostly to 1e-4; below the floor nobody looks.
            assert found[i] == pytest.approx(expected, rel=0.01, abs=1e-3 * LIKELIHOOD_FLOOR)
            compared += expected > LIKELIHOOD_FLOOR
    assert compared > 40


def test_more_nodes_and_a_wider_window_change_nothing(drawn, monkeypatch):
    pair = find_pair({name: np.concatenate([drawn[p][name] for p in PROCESSES]) for name in PRIMARIES})
    found = np.array([likelihood(pair, mass) for mass in MASSES]) + LIKELIHOOD_FLOOR
    nodes, weights = np.polynomial.legendre.leggauss(120)
    monkeypatch.setattr(module, "NODES", nodes[60:].tolist())
    monkeypatch.setattr(module, "NODE_WEIGHTS", weights[60:].tolist())
    monkeypatch.setattr(module, "WINDOW", 9.0)
    difference = np.abs(
        np.log(np.array([likelihood(pair, mass) for mass in MASSES]) + LIKELIHOOD_FLOOR) - np.log(found)
    )
    assert np.sqrt((difference**2).mean()) < 1e-3
    assert np.quantile(difference, 0.999) < 0.01
    assert difference.max() < 0.06


def test_likelihood_is_normalised_in_met():
    """Its integral over MET is that of the spectrum of the fractions: nothing of the resolution is left."""
    columns, *_ = toy_events(300)
    few = {name: column[:3] for name, column in columns.items()}
    r = (find_pair(few).mass / H_MASS) ** 2
    assert (r < 1).all()
    x = np.exp(np.linspace(0, 1, 4001) * np.log(r)[:, None])
    spectrum = 5 / 3 - 3 * x**2 + 4 / 3 * x**3
    expected = 2 / H_MASS * r * -np.log(r) * np.trapezoid(spectrum, dx=1 / 4000, axis=1)
    axis = np.arange(-700.0, 700.0, 4.0)
    x, y = (part.ravel() for part in np.meshgrid(axis, axis))
    for i in range(3):
        many = {name: np.full(x.shape, column[i]) for name, column in few.items()}
        many["PRI_met"], many["PRI_met_phi"] = np.hypot(x, y), np.arctan2(y, x)
        assert likelihood(find_pair(many), H_MASS).sum() * 16.0 == pytest.approx(expected[i], rel=0.01)


def test_collinear_solution_is_exact_for_collinear_neutrinos():
    columns, x_l, x_h = toy_events(4000)
    found = ditau(columns)
    open_angle = np.abs(np.sin(columns["PRI_lep_phi"] - columns["PRI_had_phi"])) > 0.2
    assert open_angle.sum() > 300
    for name, expected in (("ditau_x_lep", x_l), ("ditau_x_had", x_h), (COLLINEAR, np.full(len(x_l), H_MASS))):
        np.testing.assert_allclose(found[name][open_angle], expected[open_angle], rtol=2e-3, err_msg=name)


def test_unphysical_solutions_go_on_smoothly():
    columns, *_ = toy_events(50)
    one = {name: np.full(4001, column[0]) for name, column in columns.items()}
    one["PRI_met"], one["PRI_met_phi"] = np.full(4001, 30.0), np.linspace(-math.pi, math.pi, 4001)
    found = ditau(one)
    for name in ("ditau_x_lep", "ditau_x_had"):
        assert (found[name] > 0).all()
        assert (found[name] < 2).all()
        assert found[name].min() < 1 < found[name].max()
        assert np.abs(np.diff(found[name])).max() < 0.02
    one["PRI_met"] = np.zeros(4001)
    assert (ditau(one)["ditau_x_lep"] == 1).all()
    assert ditau(one)[COLLINEAR][0] == pytest.approx(derived(one)["DER_mass_vis"][0], rel=1e-9)


def test_transverse_quantities_are_those_of_vectors(drawn):
    columns = {name: column.astype(np.float64) for name, column in drawn["ttbar"].items()}
    found = ditau(columns)
    for i in range(60):
        lep, had, met = (vector(columns, name, i) for name in ("lep", "had", "met"))
        size = np.linalg.norm

        def mt2(a, b, size=size):
            return 2 * (size(a) * size(b) - a @ b)

        bisector = lep / size(lep) + had / size(had)
        bisector /= size(bisector)
        expected = {
            "ditau_mass_transverse_met_had": math.sqrt(max(mt2(had, met), 0.0)),
            "ditau_mass_transverse_total": math.sqrt(mt2(lep, had) + mt2(lep, met) + mt2(had, met)),
            "ditau_met_bisector": met @ bisector,
            "ditau_vis_bisector": (lep + had) @ bisector,
        }
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(value, rel=1e-6, abs=1e-3), name


@pytest.mark.parametrize("symmetry", ["rotation", "mirror in phi", "mirror in eta"])
def test_symmetries_are_exact(drawn, symmetry):
    columns = {name: column.astype(np.float64) for name, column in drawn["htautau"].items()}
    # Exactly back to back there is no bisector.
    between = np.abs(columns["PRI_lep_phi"] - columns["PRI_had_phi"])
    keep = np.abs(between - math.pi) > 1e-3
    columns = {name: column[keep] for name, column in columns.items()}
    expected, found = ditau(columns), ditau(moved(columns, symmetry))
    for name in DITAU:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-7, err_msg=name)


def extreme_frame():
    """Return events with each column in turn at the edges of what float32 holds."""
    base = columns_of(odd_frame().iloc[[0]])
    rows = []
    for name in PRIMARIES:
        for value in (0.0, -25.0, 1e-30, 1e6, -1e6, 3e38, -3e38):
            rows.append({key: float(column[0]) for key, column in base.items()} | {name: value})
    return pd.DataFrame(rows, dtype=np.float32)


@pytest.mark.parametrize("frame", [odd_frame, mixed_frame, extreme_frame])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_finite_for_whatever_is_finite(frame, kind):
    columns = {name: column.astype(np.float32) for name, column in columns_of(frame()).items()}
    if kind == "torch":
        found = {
            name: column.numpy() for name, column in ditau({n: torch.from_numpy(c) for n, c in columns.items()}).items()
        }
    else:
        with np.errstate(all="raise", under="ignore"):
            found = ditau(columns)
    assert tuple(found) == DITAU
    for name, column in found.items():
        assert column.shape == columns["PRI_met"].shape
        assert np.isfinite(column).all(), name
    assert (found[COLLINEAR] <= LARGEST_COLLINEAR).all()
    assert (found["ditau_log_likelihood"] >= math.log(LIKELIHOOD_FLOOR) - 1e-3).all()
    assert (found[MASS_MEAN] >= MASSES[0]).all()
    assert (found[MASS_MEAN] <= MASSES[-1]).all()


def test_a_visible_mass_above_a_mass_leaves_the_floor(drawn):
    columns = drawn["ttbar"]
    heavy = find_pair(columns).mass > H_MASS
    assert heavy.any()
    found = ditau(columns)["ditau_log_likelihood"]
    np.testing.assert_allclose(found[heavy], math.log(LIKELIHOOD_FLOOR), rtol=1e-12)


def test_tensors_agree_with_numpy_and_broadcast(drawn):
    columns = {name: column[:2000].astype(np.float32) for name, column in drawn["ztautau"].items()}
    expected = ditau(columns)
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    found = ditau(tensors | {"PRI_met": tensors["PRI_met"] * torch.tensor([[1.0], [1.3]])})
    for name in DITAU:
        assert found[name].dtype == torch.float32
        # What does not depend on MET has no axis of points.
        error = np.abs(found[name].expand(2, 2000)[0].numpy() - expected[name])
        assert np.quantile(error, 0.99) < 1e-5 * expected[name].std(), name
        assert error.max() < 1e-3 * expected[name].std(), name
    again = ditau({name: column * 1.3 if name == "PRI_met" else column for name, column in tensors.items()})
    for name in DITAU:
        torch.testing.assert_close(found[name].expand(2, 2000)[1], again[name], rtol=1e-5, atol=1e-4)


def test_masses_of_simulated_h_and_z(drawn):
    found = {process: ditau(drawn[process]) for process in ("htautau", "ztautau")}
    # Near back to back MET says little: medians and resolutions are told where the angle is open and both a > 0.
    expected = {"htautau": {COLLINEAR: (H_MASS, 4.0), MASS_MEAN: (H_MASS, 6.0)}}
    expected |= {"ztautau": {COLLINEAR: (Z_MASS, 8.0), MASS_MEAN: (Z_MASS, 14.0)}}
    for process, quantities in expected.items():
        values, columns = found[process], drawn[process]
        chosen = (values["ditau_x_lep"] < 1) & (values["ditau_x_had"] < 1)
        chosen &= np.abs(np.sin(columns["PRI_lep_phi"] - columns["PRI_had_phi"])) > 0.5
        assert chosen.sum() > 800
        for name, (mass, tolerance) in quantities.items():
            low, median, high = np.percentile(values[name][chosen], (16, 50, 84))
            assert median == pytest.approx(mass, abs=tolerance), (process, name)
            assert (high - low) / 2 < 25.0, (process, name)
    means = {process: np.median(found[process][MASS_MEAN]) for process in found}
    assert means["htautau"] == pytest.approx(137.0, abs=4.0)
    assert means["ztautau"] == pytest.approx(117.0, abs=4.0)
    ratio = {process: np.median(found[process]["ditau_log_ratio"]) for process in found}
    assert ratio["htautau"] > 1.0
    assert ratio["ztautau"] < -0.3


def test_resolution_is_found_in_toys():
    columns, *_ = toy_events(40_000, smear=True)
    heavy = toy_events(40_000, mass=Z_MASS, seed=2, smear=True)[0]
    n, m = len(columns["PRI_met"]), len(heavy["PRI_met"])
    both = {name: np.concatenate([columns[name], heavy[name]]).astype(np.float32) for name in PRIMARIES}
    classes = np.repeat([PROCESSES.index("htautau"), PROCESSES.index("ztautau")], [n, m])
    found = fit_resolution(Events(both, np.ones(n + m), classes, np.arange(n + m)), 6000, 3)
    assert found.constant == pytest.approx(MET_CONSTANT, rel=0.05)
    assert found.jets == pytest.approx(MET_JETS, rel=0.05)
    assert 0 < found.errors[0] < 0.2
    assert 0 < found.errors[1] < 0.1


def test_fit_met_prints_what_is_in_use(tmp_path, capsys):
    assert fit_met.main(["--data", str(DATA), "--rows", "4000", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    constant, jets = (float(line.split()[1]) for line in out.splitlines()[1:3])
    assert constant == pytest.approx(MET_CONSTANT, rel=0.05)
    assert jets == pytest.approx(MET_JETS, rel=0.1)
    assert json.loads((tmp_path / "met.json").read_text())["constant"] == pytest.approx(constant, abs=1e-3)
