"""Fixtures shared by all tests: isolated random states and a small analytic likelihood."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Two test processes share the cores: threads in each of them only get in each other's way. Read when torch loads.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

from sage.binned.tables import YieldTables, default_axes
from sage.challenge.nuisances import CHALLENGE, PROCESSES
from workshop.files import take_lock

ROOT = Path(__file__).resolve().parents[1]
EVENTS = ROOT / "tests" / "data" / "events"
"""Many rows of every process and undistilled weights; the embedded events in ``data/`` are few of H and VV."""
TABLES_CONFIG = ROOT / "tests" / "data" / "tables.yaml"
REAL_EVENTS = ROOT / "tests" / "data" / "real_500.parquet"


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable():
    """Escape lone surrogates, in whatever a test printed, said or was called, as pytest-xdist cannot send them."""
    return printable((yield))


def printable(value: Any) -> Any:
    """Return plain values with every text in UTF-8; what cannot be is escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return type(value)(map(printable, value)) if isinstance(value, list | tuple) else value


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """Return a folder that one of the processes of a test run makes, and all of them read.

    Args:
        factory: Of pytest's temporary folders.
        name: Of the folder; whoever asks for it by this name gets what the first one has made.
        make: Fills an empty folder.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has its own folder in that of the run
        base = base.parent
    folder = base / name
    with (base / f"{name}.lock").open("w") as lock:
        take_lock(lock.fileno())
        if not folder.exists():
            partial = factory.mktemp(name)
            make(partial)
            partial.rename(folder)
    return folder


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
    """The shipped network with tables of the test events in few bins."""
    from training.config import read_config
    from training.make_weights import make_weights

    def make(build: Path) -> None:
        config = read_config(TABLES_CONFIG, workers=1)
        make_weights(config, EVENTS, build, build / "weights", network=ROOT / "weights")

    return made_once(tmp_path_factory, "demo", make) / "weights"


@pytest.fixture(scope="session")
def libraries(tmp_path_factory) -> Path:
    """The simulation's libraries, small ones under the names of the full ones."""
    pytest.importorskip("pythia8mc", reason="the simulation needs requirements-simulation.txt")
    from training.simulation import tau_decays, underlying
    from training.simulation.origin import library_path
    from workshop.files import write_arrays

    def make(folder: Path) -> None:
        taus = library_path(folder, tau_decays.LIBRARY_SIZE, tau_decays.LIBRARY_FILE, "tau_decays")
        write_arrays(taus, vars(tau_decays.make_library(300)))
        underlying.load_underlying(folder, 20)
        small, full = (
            library_path(folder, size, underlying.LIBRARY_FILE, "underlying") for size in (20, underlying.LIBRARY_SIZE)
        )
        small.rename(full)

    return made_once(tmp_path_factory, "libraries", make)
