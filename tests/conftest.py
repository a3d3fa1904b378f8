"""Fixtures shared by all tests: isolated random states and a small analytic likelihood."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from sage.binned.tables import YieldTables, default_axes
from sage.challenge.nuisances import CHALLENGE, PROCESSES

ROOT = Path(__file__).resolve().parents[1]
DEMO_CONFIG = ROOT / "training" / "configs" / "demo.yaml"
REAL_EVENTS = ROOT / "tests" / "data" / "real_500.parquet"


@pytest.fixture(autouse=True)
def _seeded():
    """Seed every generator and leave the global states as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def analytic_yields(tes: float, jes: float, soft_met: float, n_bins: int) -> np.ndarray:
    """Expected events of four processes, shape (4, n_bins), smooth in all three shape nuisances."""
    x = np.linspace(0.0, 1.0, n_bins)
    falling = {"htautau": 3.0, "ztautau": -4.0, "ttbar": -1.0, "diboson": 0.0}
    total = {"htautau": 966.0, "ztautau": 901137.0, "ttbar": 41283.0, "diboson": 3433.0}
    t, j, m = (tes - 1.0) / 0.01, (jes - 1.0) / 0.01, np.log1p(soft_met)
    out = np.empty((len(PROCESSES), n_bins))
    for p, name in enumerate(PROCESSES):
        shape = np.exp(falling[name] * x)
        response = t * (0.01 + 0.01 * np.cos(3 * x + p)) + j * 0.006 * np.sin(2 * x + p)
        response += m**2 * 0.02 * np.sin(5 * x + p) + 0.0005 * t**2 * np.cos(x + p) + 0.0004 * t * j
        out[p] = total[name] * shape / shape.sum() * np.exp(response)
    return out


@pytest.fixture(scope="session", autouse=True)
def _no_hurry():
    """Stop the clock of the time guard, lest a busy machine changes answers; tests of the guard set their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sage.fit.deadline.clock", lambda: 0.0)
        yield


@pytest.fixture(autouse=True)
def _own_log():
    """Start every test with the project's logger as an import leaves it, whatever a program under test has set up."""
    logger = logging.getLogger("sage")
    logger.handlers[:] = []
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture(scope="session")
def analytic_tables() -> YieldTables:
    """A table of the analytic yields with 40 bins."""
    axes = default_axes()
    grid = [[[analytic_yields(t, j, m, 40) for m in axes[2]] for j in axes[1]] for t in axes[0]]
    return YieldTables(axes, np.array(grid))


@pytest.fixture
def draw_nuisances():
    """Draw nu from the priors, moved into the ranges of the fit, shape (6,)."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        return np.array([np.clip(rng.normal(), *nuisance.nu_range) for nuisance in CHALLENGE])

    return draw


@pytest.fixture(scope="session")
def demo_weights(tmp_path_factory) -> Path:
    """The shipped network with tables of the embedded events in few bins, as the demonstration builds them."""
    from training.config import read_config
    from training.make_weights import make_weights

    build = tmp_path_factory.mktemp("demo")
    config = read_config(DEMO_CONFIG, workers=1)
    make_weights(config, ROOT / "data", build, build / "weights", network=ROOT / "weights")
    return build / "weights"
