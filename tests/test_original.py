"""The published networks behind our likelihood: against the published formulae, and against the original itself.

With SAGE_GOLLUM, the folder of a checkout of HephyAnalysisSW/GOLLUM (d9f5db3), its networks are read; with
SAGE_GOLLUM_PYTHON as well, an interpreter with what it needs (tensorflow, tf_keras, scikit-learn, scipy, iminuit,
pandas, h5py, PyYAML, xgboost or an empty module of that name), it answers itself.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from iminuit import Minuit
from scipy.interpolate import RegularGridInterpolator

from sage.challenge.features import DERIVED, derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.fit.interval import measure_interval
from sage.fit.slice import slice_interval
from sage.unbinned.published import GRID, SHAPE, spline_coefficients
from sage.unbinned.ratios import UNBINNED, map_name, rate_name
from sage.unbinned.statistic import pack
from scripts import original_surrogates as program
from studies.original import OriginalSurrogates
from studies.original_files import BINS, Record, export, read_checkpoint, read_pickle
from tests.events import DATA, drawn_frame
from workshop.errors import UsageError

CHECKOUT, INTERPRETER = os.environ.get("SAGE_GOLLUM"), os.environ.get("SAGE_GOLLUM_PYTHON")
with_checkout = pytest.mark.skipif(CHECKOUT is None, reason="SAGE_GOLLUM names no checkout of the original")
CLOSE = 0.02
"""How near in mu the answers are."""
ORIGINAL = """
import json, os, sys
checkout, source, target = sys.argv[1:]
sys.path[:0] = [checkout, checkout + "/Workflow"]
os.chdir(checkout)
import numpy as np, pandas as pd
from model import Model
frame = pd.DataFrame(np.load(source))
answer = Model().predict({"data": frame, "weights": np.ones(len(frame))})
json.dump({name: float(value) for name, value in answer.items()}, open(target, "w"))
"""


def published_q(events, arrays, counts):
    """The published function -2 ln L, written out from its formulae in numpy; events: (g, A, w) of each region."""
    splines = [
        [RegularGridInterpolator(GRID, arrays["rates"][p, r], method="quintic") for p in range(4)] for r in range(3)
    ]

    def q(mu, bkg, tt, vv, tes, jes, met):
        v = np.array([tes, jes, met, tes**2, jes**2, met**2, tes * jes, tes * met, jes * met])
        f = np.array([mu, 1.001**bkg, 1.001**bkg * 1.02**tt, 1.001**bkg * 1.25**vv])
        total = bkg**2 + tt**2 + vv**2 + tes**2 + jes**2 + met**2
        for r, (g, a, w) in enumerate(events):
            growth = np.exp(np.array([arrays[rate_name(UNBINNED[r], p)] @ v for p in PROCESSES]) + a @ v)
            rate = sum(f[p] * float(splines[r][p]((tes, jes, met))) for p in range(4))
            total += 2 * (rate - arrays["rates"][:, r, 10, 10, 0].sum()) - 2 * w @ np.log((f * g * growth).sum(axis=1))
        grown = arrays["bins/yields"] * np.exp(arrays["bins/responses"] @ v)
        at, start = f @ grown, arrays["bins/yields"].sum(axis=0)
        return total + (2 * (at - start) - 2 * counts * np.log(at / start)).sum()

    return q


def minuit_mu(q) -> float:
    """The minimum, with the published limits."""
    minuit = Minuit(q, mu=1.0, bkg=0.0, tt=0.0, vv=0.0, tes=0.0, jes=0.0, met=0.5)
    minuit.errordef = 1.0
    for name, ends in {"mu": (0, None), "vv": (-4, 4), "met": (0, 5), "tes": (-10, 10), "jes": (-10, 10)}.items():
        minuit.limits[name] = ends
    minuit.migrad()
    return float(minuit.values["mu"])


def test_the_likelihood_is_the_published_function():
    rng = np.random.default_rng(1)
    arrays = {"bins/responses": rng.normal(0, 0.01, (4, 3, 9)), "bins/yields": rng.uniform(50, 500, (4, 3))}
    t, j, m = np.meshgrid(*GRID, indexing="ij")
    v = np.stack([t, j, m, t**2, j**2, m**2, t * j, t * m, j * m])
    size = np.array([0.02, 0.02, 0.02, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3])
    responses = size * rng.normal(size=(4, 3, 9))
    yields = np.array([300.0, 4000.0, 2000.0, 200.0])[:, None] * rng.uniform(0.5, 1.5, (4, 3))
    arrays["rates"] = yields[..., None, None, None] * np.exp(np.tensordot(responses, v, 1))
    arrays["rate_coefficients"] = spline_coefficients(arrays["rates"])
    assert arrays["rates"].shape == (4, 3, *SHAPE)
    for r, region in enumerate(UNBINNED):
        arrays[f"{region}/yields"] = yields[:, r]
        for p, process in enumerate(PROCESSES):
            arrays[rate_name(region, process)] = responses[p, r]
            arrays |= {map_name(region, process, 0, axis): np.array([0.0, 1.0]) for axis in "xy"}
    events = []
    for r in range(3):
        # Each event is of a process with a density that rises with it, so that mu can be measured.
        g = rng.dirichlet([1, 8, 5, 1], 6000)
        g *= yields[:, r] / yields[:, r].sum() / g.mean(axis=0)
        g /= g.sum(axis=1, keepdims=True)
        events.append((g, size * rng.normal(size=(6000, 4, 9)), np.full(6000, yields[:, r].sum() / 6000)))
    counts = rng.poisson(arrays["bins/yields"].sum(axis=0)).astype(float)
    q = published_q(events, arrays, counts)
    of = OriginalSurrogates(arrays).of_events(tuple(pack(*each) for each in events), counts)

    # Half of q, up to a constant; ours are mu, tes, jes, soft_met, tt, VV and bkg.
    points = [np.array([1.0, *np.zeros(6)]), np.array([1.4, 0.5, -0.7, 0.8, 0.3, -0.2, 0.4])]
    rises = [of.value(at) - of.value(points[0]) for at in points]
    mu, tes, jes, met, tt, vv, bkg = points[1]
    expected = (q(mu, bkg, tt, vv, tes, jes, met) - q(1, *np.zeros(6))) / 2
    assert rises[1] == pytest.approx(expected, abs=2e-3 * abs(expected) + 0.05)
    found = measure_interval(of).fit
    assert found.mu == pytest.approx(minuit_mu(q), abs=CLOSE * found.sigma_mu)


def test_pickles_execute_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    import pickle

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"array": np.arange(3.0), "object": Evil()}))
    found = read_pickle(path)
    assert not (tmp_path / "made").exists()
    assert isinstance(found["object"], Record)
    np.testing.assert_array_equal(found["array"], [0, 1, 2])
    path.write_bytes(b"\x80\x04nonsense")
    with pytest.raises(UsageError, match="take a checkout"):
        read_pickle(path)


def test_what_is_no_checkout_is_refused(tmp_path, capsys):
    with pytest.raises(UsageError, match="holds no checkpoint"):
        read_checkpoint(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "1"\n', encoding="utf-8")
    (tmp_path / "1.index").write_bytes(b"\xff" * 60)
    (tmp_path / "1.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(UsageError, match="holds no checkpoint"):
        read_checkpoint(tmp_path)
    given = ["--checkout", str(tmp_path), "--data", str(DATA), "--output", str(tmp_path / "out")]
    assert program.main(given) == 2
    assert "d9f5db3" in capsys.readouterr().err


@pytest.fixture(scope="module")
def exported():
    """Arrays of the checkout."""
    return export(Path(CHECKOUT or ""))


@pytest.fixture(scope="module")
def columns():
    """A pseudo-experiment of the embedded events."""
    frame = drawn_frame(950_000, seed=3)
    return {name: frame[name].to_numpy(np.float32) for name in PRIMARIES}


@with_checkout
def test_the_checkout_is_read(exported):
    assert exported["lowMT_VBF/share/0.weight"].shape == (28, 64)
    assert exported["lowMT_noVBF_highPtH/ttbar/2.weight"].shape == (128, 3)
    np.testing.assert_array_equal(exported["lowMT_noVBF_highPtH/ttbar/terms"], [0, 1, 2])
    # The published yields, and the rates at the nominal point, which are their sum.
    np.testing.assert_allclose(exported["lowMT_VBF/yields"], [225.8, 41280.4, 15425.9, 313.4], atol=0.06)
    assert exported["bins/yields"].shape == (4, len(BINS))


@with_checkout
def test_published_networks_measure_as_the_published_function_does(exported, columns):
    surrogates = OriginalSurrogates(exported)
    weights = np.ones(len(columns["PRI_met"]))
    of = surrogates.likelihood(columns, weights)
    events = []
    for packed in of.parts[0].events:
        rows = packed.blocks.swapaxes(0, 1).reshape(41, -1).astype(float)[:, : int(packed.observed)]
        events.append((rows[1:5].T, np.moveaxis(rows[5:].reshape(4, 9, -1), 2, 0), rows[0]))
    of_rates = of.parts[0].rates.templates
    nus = [(axis, unit, origin) for axis, unit, origin in zip(GRID, (0.01, 0.01, 1.0), (1.0, 1.0, 0.0), strict=True)]
    points = np.stack(np.meshgrid(*(o + u * a for a, u, o in nus), indexing="ij"), axis=-1).reshape(-1, 3)
    rates = np.moveaxis([of_rates.terms(tuple(point))[0] for point in points.tolist()], 0, -1)
    q = published_q(events, {**exported, "rates": rates.reshape(4, 3, *SHAPE)}, of.parts[1].statistic.counts)
    assert slice_interval(of).fit.mu == pytest.approx(minuit_mu(q), abs=CLOSE)


@with_checkout
@pytest.mark.skipif(INTERPRETER is None, reason="SAGE_GOLLUM_PYTHON names no interpreter with TensorFlow")
def test_the_original_answers_the_same(exported, columns, tmp_path):
    found = OriginalSurrogates(exported).interval(columns, np.ones(len(columns["PRI_met"])))
    features = {**columns, **derived(columns)}
    np.save(tmp_path / "data.npy", np.stack([features[name] for name in (*PRIMARIES, *DERIVED)], axis=1))
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": ""}
    given = [CHECKOUT, str(tmp_path / "data.npy"), str(tmp_path / "answer.json")]
    subprocess.run([INTERPRETER, "-c", ORIGINAL, *given], check=True, env=environment, capture_output=True)
    answer = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    print(found.fit.mu, found.low, found.high, answer)
    assert found.fit.mu == pytest.approx(answer["mu_hat"], abs=CLOSE)
    assert (found.low, found.high) == pytest.approx((answer["p16"], answer["p84"]), abs=CLOSE)
