"""The inputs of the kernel against their numpy definition, their independence of place, and what needs no numpy."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pandas as pd
import pytest

from native import build
from sage.binned.counting import quantities_of
from sage.challenge import features
from sage.challenge.ditau import DITAU
from sage.challenge.features import Derived, derived
from sage.challenge.position import TURNED
from sage.challenge.shifts import PRIMARIES, select, shift
from sage.errors import EngineError
from sage.files.bundle import read_bundle
from sage.network import ditau as ditau_module
from sage.network import inputs as module
from sage.network import library
from sage.network.classifier import NetworkClassifier
from sage.network.graph import LOG, PUBLISHED, WITH_DITAU, Normalisation, jets_present, normalise, raw_inputs
from sage.network.inputs import NativeInputs, network_inputs
from sage.network.native import INSTRUCTION_SETS
from tests.events import DATA, DATA_FILE, FIVE_WEIGHTS, columns_of, mixed_frame, odd_frame, real_frame
from tests.test_native import random_parameters

WIDTH = len(WITH_DITAU.columns)
UNIT = Normalisation(np.full(WIDTH, 0.1234567, np.float32), np.ones(WIDTH, np.float32), WITH_DITAU)
"""Feature constants with which hardly a defined input becomes 0."""


def single(columns):
    return {name: column.astype(np.float32) for name, column in columns.items()}


@pytest.fixture(scope="module")
def columns():
    """Selected embedded events of all processes, moved, in random order."""
    frame = pd.read_parquet(DATA / DATA_FILE).sample(20_000, random_state=1)
    return single(select(shift(columns_of(frame), 1.01, 0.99, 2.0))[0])


@pytest.fixture(scope="module")
def constants(columns):
    """Feature constants of the moved events."""
    values, defined = raw_inputs(columns, derived(columns), WITH_DITAU)
    clean = np.ma.array(values, mask=~defined)
    return Normalisation(*(np.asarray(part(axis=0), np.float32) for part in (clean.mean, clean.std)), WITH_DITAU)


@pytest.fixture
def no_kernel(monkeypatch):
    """The di-tau quantities in numpy."""
    monkeypatch.setattr(ditau_module, "_native", lambda: None)


def of_this_machine(name):
    try:
        return NativeInputs(instruction_set=name)
    except EngineError as error:
        pytest.skip(str(error))


def defined_by_numpy(events):
    """The definition, computed in float64, and where it is defined."""
    wide = {name: column.astype(np.float64) for name, column in events.items()}
    return raw_inputs(wide, derived(wide), WITH_DITAU)


def check_twins(found, events, constants):
    raw, defined = defined_by_numpy(events)
    error = np.abs(found - normalise(raw, defined, constants))
    assert np.array_equal(found != 0.0, defined)
    for i, name in enumerate(WITH_DITAU.columns):
        column = error[:, i]
        if name.startswith(TURNED) and name.endswith("_phi"):
            # What lies exactly behind the bisector is at pi or at -pi; ``test_turned_directions`` looks closer.
            column = np.minimum(column, np.abs(2 * math.pi / constants.std[i] - column))
        if name.removeprefix(LOG) in DITAU:
            # Single events of the likelihood; see ``tests.test_native_ditau``.
            assert column.max() < 2e-3, name
            column = np.quantile(column, 0.995)
        assert np.max(column) < 1e-5, name


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_equal_to_the_definition(columns, constants, instruction_set, no_kernel):
    check_twins(of_this_machine(instruction_set)(columns, constants)[0], columns, constants)


@pytest.mark.parametrize("frame", [real_frame, odd_frame])
def test_equal_on_real_and_odd_events(frame, constants, no_kernel):
    events = single(columns_of(frame()))
    check_twins(NativeInputs()(events, constants)[0], events, constants)


def test_as_good_as_numpy_in_float32(columns, constants, no_kernel):
    """Where the definition cancels in float32 the kernel does not: it is the closer of the two to float64."""
    raw, defined = defined_by_numpy(columns)
    exact = normalise(raw, defined, constants)
    twin = normalise(*raw_inputs(columns, derived(columns), WITH_DITAU), constants)
    found = NativeInputs()(columns, constants)[0]
    assert np.quantile(np.abs(found - twin), 0.99, axis=0).max() < 3e-4
    for name in ("mass_transverse_met_lep", "mass_vis", "mass_jet_jet"):
        i = WITH_DITAU.columns.index(f"{LOG}DER_{name}")
        assert np.abs(found - exact)[:, i].max() < 0.1 * np.abs(twin - exact)[:, i].max()


def test_turned_directions_are_those_of_numpy_bit_by_bit(columns):
    """Else what lies behind the bisector would be on the other side, which is another value."""
    places = [i for i, name in enumerate(WITH_DITAU.columns) if name.startswith(TURNED)]
    twin = normalise(*raw_inputs(columns, derived(columns), WITH_DITAU), UNIT)
    assert len(places) == 9
    assert np.array_equal(NativeInputs()(columns, UNIT)[0][:, places], twin[:, places])


def test_derived_columns(columns):
    given = NativeInputs()(columns, UNIT)[1]
    expected = derived({name: column.astype(np.float64) for name, column in columns.items()})
    for name, column in given.items():
        np.testing.assert_allclose(column, expected[name], rtol=2e-6, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30, -25.0])
@pytest.mark.parametrize("name", PRIMARIES)
def test_absurd_values_define_what_they_do_in_numpy(name, bad):
    events = single(select(shift(columns_of(mixed_frame(200))))[0])
    # Two jets counted as one have no mass, but numpy computes with the absurd one before it says so.
    usual = (events["PRI_n_jets"] >= 2) | ~jets_present(events).all(axis=1)
    events = {key: column[usual] for key, column in events.items()}
    events[name][::2] = bad
    found = NativeInputs()(events, UNIT)[0]
    expected = normalise(*raw_inputs(events, derived(events), WITH_DITAU), UNIT)
    assert np.isfinite(found).all()
    decided = np.ones(len(WITH_DITAU.columns), dtype=bool)
    if bad == -25.0 and name in ("PRI_lep_eta", "PRI_had_eta"):
        # Momenta 1e10 times as large as the mass: what rounding leaves of it is below 0 on some processors.
        decided[WITH_DITAU.columns.index("log_DER_mass_vis")] = False
    assert np.array_equal((found != 0.0)[:, decided], (expected != 0.0)[:, decided])
    np.testing.assert_allclose(found[1::2], expected[1::2], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_place_order_and_cuts_do_not_change_a_bit(columns, instruction_set):
    native = of_this_machine(instruction_set)
    whole, given = native(columns, UNIT)
    order = np.random.default_rng(1).permutation(len(whole))
    found, turned = native({name: column[order] for name, column in columns.items()}, UNIT)
    assert np.array_equal(found, whole[order])
    assert all(np.array_equal(turned[name], column[order]) for name, column in given.items())
    for n in (0, 1, 7, 8, 15, 16, 17, 1000):
        found, part = native({name: column[3 : 3 + n] for name, column in columns.items()}, UNIT)
        assert np.array_equal(found, whole[3 : 3 + n])
        assert all(np.array_equal(part[name], column[3 : 3 + n]) for name, column in given.items())


def test_avx2_and_avx512_agree_to_the_bit(columns):
    wide = of_this_machine("avx512")
    assert np.array_equal(of_this_machine("avx2")(columns, UNIT)[0], wide(columns, UNIT)[0])


@pytest.mark.slow
def test_another_compiler_gives_the_same(columns, constants, tmp_path, no_kernel):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    path = tmp_path / "library.so"
    sha256 = build.build(path, "g++")
    for name in INSTRUCTION_SETS[1:3]:
        of_this_machine(name)
        check_twins(NativeInputs(path, sha256, name)(columns, constants)[0], columns, constants)


def test_without_the_kernel_numpy_does_it(columns, constants, monkeypatch):
    monkeypatch.setattr(module, "_native", lambda: None)
    values, jets = network_inputs(columns, Derived(columns), constants)
    expected = normalise(*raw_inputs(columns, derived(columns), WITH_DITAU), constants)
    assert np.array_equal(values, expected)
    assert np.array_equal(jets, jets_present(columns))


def test_published_inputs_are_those_of_numpy(columns, monkeypatch):
    monkeypatch.setattr(module, "_native", lambda: pytest.fail("the kernel has no published inputs"))
    shipped = read_bundle(FIVE_WEIGHTS).normalisation
    expected = normalise(*raw_inputs(columns, derived(columns), PUBLISHED), shipped)
    assert np.array_equal(network_inputs(columns, Derived(columns), shipped)[0], expected)


def test_regions_need_no_numpy(columns, constants, monkeypatch):
    classifier = NetworkClassifier(random_parameters(1, WITH_DITAU), constants, threads=1)
    expected = quantities_of(columns, classifier)
    with monkeypatch.context() as patch:
        patch.setattr(features, "derived", lambda events: pytest.fail("derived columns computed in numpy"))
        found = quantities_of(columns, classifier)
    assert all(np.array_equal(found[name], column) for name, column in expected.items())
    monkeypatch.setattr(module, "_native", lambda: None)
    by_numpy = quantities_of(columns, classifier)
    assert list(by_numpy) == list(found)
    for name, column in by_numpy.items():
        np.testing.assert_allclose(found[name], column, rtol=1e-3, atol=0.1 if name == "mt" else 2e-3, err_msg=name)


def test_derived_columns_are_computed_once_and_those_given_stay(columns, monkeypatch):
    calls = []
    monkeypatch.setattr(features, "derived", lambda events: calls.append(events) or derived(events))
    lazy = Derived(columns)
    lazy.give({"DER_pt_h": np.ones(3)})
    assert list(lazy["DER_pt_h"]) == [1.0, 1.0, 1.0]
    assert not calls
    expected = derived(columns)
    assert tuple(lazy) == tuple(expected)
    assert len(lazy) == len(expected)
    assert {**lazy}.keys() == expected.keys()
    assert np.array_equal(lazy["DER_sum_pt"], expected["DER_sum_pt"])
    assert list(lazy["DER_pt_h"]) == [1.0, 1.0, 1.0]
    assert len(calls) == 1
    with pytest.raises(KeyError):
        lazy["DER_nothing"]


def test_wrong_arguments_are_refused(columns, constants, monkeypatch):
    short = Normalisation(constants.mean[:-1], constants.std[:-1], WITH_DITAU)
    with pytest.raises(EngineError, match="status 1"):
        NativeInputs()(columns, short)
    wrong = module.constants()[:-1]
    monkeypatch.setattr(module, "constants", lambda: wrong)
    with pytest.raises(EngineError, match="status 1"):
        NativeInputs()(columns, constants)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(library, "INPUTS_VERSION", library.INPUTS_VERSION + 1)
    with pytest.raises(EngineError, match=r"speaks interface version \d+, expected \d+; run make kernel"):
        NativeInputs()
