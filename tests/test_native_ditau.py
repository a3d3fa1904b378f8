"""The di-tau quantities of the kernel against their numpy definition, and their independence of place and layout."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from native import build
from sage.challenge.ditau import DITAU, ditau
from sage.challenge.shifts import PRIMARIES, select, shift
from sage.errors import EngineError
from sage.network import ditau as module
from sage.network.ditau import COLUMNS, NativeDitau, write_ditau
from sage.network.native import INSTRUCTION_SETS
from tests.events import DATA, DATA_FILE, columns_of, mixed_frame, odd_frame
from tests.test_ditau import extreme_frame


@pytest.fixture(scope="module")
def columns():
    """Selected embedded events of all processes, in random order."""
    frame = pd.read_parquet(DATA / DATA_FILE).sample(20_000, random_state=1)
    return select(shift(columns_of(frame), 1.01, 0.99, 2.0))[0]


def quantities(columns, native=None):
    out = np.empty((len(DITAU), len(columns["PRI_met"])), dtype=np.float32)
    (native or NativeDitau())(columns, out)
    return out


def of_this_machine(name):
    try:
        return NativeDitau(instruction_set=name)
    except EngineError as error:
        pytest.skip(str(error))


def check_twins(found, columns):
    expected = ditau({name: np.asarray(column, dtype=np.float32) for name, column in columns.items()})
    for row, (name, column) in zip(found, expected.items(), strict=True):
        error = np.abs(row - column) / column.std()
        assert np.quantile(error, 0.995) < 1e-5, name
        # Where a visible mass all but equals a mass of the grid, its likelihood is in the last bits of both.
        assert error.max() < 2e-3, name


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_equal_to_numpy(columns, instruction_set):
    check_twins(quantities(columns, of_this_machine(instruction_set)), columns)


@pytest.mark.parametrize("frame", [odd_frame, mixed_frame, extreme_frame])
def test_finite_and_near_numpy_for_whatever_is_finite(frame):
    columns = {name: column.astype(np.float32) for name, column in columns_of(frame()).items()}
    found = quantities(columns)
    assert np.isfinite(found).all()
    for row, (name, column) in zip(found, ditau(columns).items(), strict=True):
        # Momenta of 100 TeV leave float32 fewer decimals.
        np.testing.assert_allclose(row, column, rtol=2e-3, atol=2e-3, err_msg=name)


def test_nan_stays_with_its_event(columns):
    few = {name: np.array(columns[name][:40], dtype=np.float32) for name in PRIMARIES}
    clean = quantities(few)
    few["PRI_met_phi"][7] = few["PRI_lep_pt"][21] = np.nan
    found = quantities(few)
    others = np.setdiff1d(np.arange(40), [7, 21])
    assert np.array_equal(found[:, others], clean[:, others])
    assert np.isnan(found[:, [7, 21]]).all()


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_place_order_and_cuts_do_not_change_a_bit(columns, instruction_set):
    native = of_this_machine(instruction_set)
    whole = quantities(columns, native)
    order = np.random.default_rng(1).permutation(whole.shape[1])
    assert np.array_equal(
        quantities({name: column[order] for name, column in columns.items()}, native), whole[:, order]
    )
    for n in (0, 1, 7, 8, 15, 16, 17, 1000):
        assert np.array_equal(
            quantities({name: c[3 : 3 + n] for name, c in columns.items()}, native), whole[:, 3 : 3 + n]
        )


def test_avx2_and_avx512_agree_to_the_bit(columns):
    wide = of_this_machine("avx512")
    assert np.array_equal(quantities(columns, of_this_machine("avx2")), quantities(columns, wide))


def test_memory_layout_does_not_matter(columns):
    expected = quantities(columns)
    n = expected.shape[1]
    strided = {name: np.repeat(np.asarray(columns[name], dtype=np.float64), 2)[::2] for name in COLUMNS}
    part = np.full((30, n + 5), 7.0, dtype=np.float32)
    NativeDitau()(strided, part[4:14, 2 : 2 + n])
    assert np.array_equal(part[4:14, 2 : 2 + n], expected)
    part[4:14, 2 : 2 + n] = 7.0
    assert (part == 7.0).all()


@pytest.mark.parametrize("damage", ["rows", "columns", "turned", "strided", "type", "backwards"])
def test_wrong_outputs_never_reach_the_library(columns, damage):
    out = {
        "rows": np.empty((9, 40), dtype=np.float32),
        "columns": np.empty((10, 39), dtype=np.float32),
        "turned": np.empty((40, 10), dtype=np.float32).T,
        "strided": np.empty((10, 80), dtype=np.float32)[:, ::2],
        "type": np.empty((10, 40), dtype=np.float64),
        "backwards": np.empty((10, 40), dtype=np.float32)[::-1],
    }[damage]
    with pytest.raises(ValueError, match=r"it must be \(10, 40\), float32, with contiguous rows"):
        NativeDitau()({name: column[:40] for name, column in columns.items()}, out)


def test_constants_of_another_length_are_refused(columns, monkeypatch):
    constants = module.constants()
    monkeypatch.setattr(module, "constants", lambda: constants[:-1])
    with pytest.raises(EngineError, match="status 1"):
        quantities(columns, NativeDitau())


def test_without_the_kernel_numpy_does_it(columns, monkeypatch):
    monkeypatch.setattr(module, "_native", lambda: None)
    monkeypatch.setattr(module, "NUMPY_BLOCK", 3000)
    few = {name: column[:7000] for name, column in columns.items()}
    out = np.empty((len(DITAU), 7000), dtype=np.float32)
    write_ditau(few, out)
    for row, column in zip(out, ditau(few).values(), strict=True):
        assert np.array_equal(row, column.astype(np.float32))


@pytest.mark.slow
def test_another_compiler_gives_the_same(columns, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    path = tmp_path / "library.so"
    sha256 = build.build(path, "g++")
    for name in INSTRUCTION_SETS[1:3]:
        of_this_machine(name)
        check_twins(quantities(columns, NativeDitau(path, sha256, name)), columns)
