"""The fast way to pseudo-data gives what the official functions give, to the last bit."""

import numpy as np
import pandas as pd
import pytest

from harness.fast_pseudo_data import BLOCK, PseudoData
from harness.pseudo_experiments import draw_nuisances, make_pseudo_data
from harness.test_set import EventFile
from sage.challenge.features import DERIVED
from sage.challenge.nuisances import NAMES
from tests import official


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    folder = official.events_folder(tmp_path_factory.mktemp("events"), sum_weights=45_000.0)
    return EventFile(folder).load_test_set()


def assert_same(found, expected):
    """Compare values, types, order of columns, index and weights."""
    assert list(found) == list(expected)
    pd.testing.assert_frame_equal(found["data"], expected["data"], check_exact=True, check_index_type="exact")
    pd.testing.assert_series_equal(found["weights"], expected["weights"], check_exact=True, check_index_type="exact")


@pytest.mark.parametrize("switches", [NAMES, (), ("tes",), ("jes", "bkg_scale"), ("soft_met", "ttbar_scale")], ids=str)
@pytest.mark.parametrize("mu", [0.0, 0.1, 2.7, np.float64(2.7)])
def test_equal_to_the_official_functions(test_set, switches, mu):
    maker = PseudoData(test_set)
    for seed in (3, 4):
        nuisances = draw_nuisances(seed, switches)
        found = maker.make(mu, nuisances, seed)
        assert_same(found, make_pseudo_data(test_set, mu, nuisances, seed))
        assert len(found["data"]) > BLOCK


@pytest.mark.parametrize("point", [(0.9, 0.9, 5.0), (1.1, 1.1, 0.0), (1.0, 0.9, 1e-3)])
def test_equal_at_the_ends_of_the_nuisances(test_set, point):
    nuisances = draw_nuisances(1, NAMES) | dict(zip(NAMES, map(np.float64, point), strict=False))
    assert_same(PseudoData(test_set).make(1.0, nuisances, 8), make_pseudo_data(test_set, 1.0, nuisances, 8))


def test_other_columns_travel_along(test_set):
    """Columns that the file holds besides: derived ones are computed anew in their place, others are kept."""
    changed = {}
    for number, (process, frame) in enumerate(test_set.items()):
        changed[process] = frame.assign(
            extra=np.arange(len(frame)) + 0.1, DER_pt_h=np.float32(number), PRI_n_jets=frame["PRI_n_jets"].astype("i4")
        )
    nuisances = draw_nuisances(2, NAMES)
    found = PseudoData(changed).make(1.0, nuisances, 2)
    assert_same(found, make_pseudo_data(changed, 1.0, nuisances, 2))
    assert list(found["data"])[-len(DERIVED) :] != list(DERIVED)


def test_float64_events(test_set):
    wide = {process: frame.astype(np.float64) for process, frame in test_set.items()}
    nuisances = draw_nuisances(2, NAMES)
    assert_same(PseudoData(wide).make(1.0, nuisances, 2), make_pseudo_data(wide, 1.0, nuisances, 2))


def test_a_process_without_events_and_soft_leptons(test_set):
    only_z = {process: frame if process == "ztautau" else frame.iloc[:0] for process, frame in test_set.items()}
    only_z["ztautau"] = only_z["ztautau"].assign(PRI_lep_pt=test_set["ztautau"]["PRI_lep_pt"] - np.float32(3.0))
    nuisances = draw_nuisances(5, NAMES)
    found = PseudoData(only_z).make(1.0, nuisances, 5)
    assert_same(found, make_pseudo_data(only_z, 1.0, nuisances, 5))
    assert not isinstance(found["data"].index, pd.RangeIndex)


def test_nothing_is_kept_from_one_to_the_next(test_set):
    """Whatever was made before, and however many events it had, the data are the same; the pool is not changed."""
    before = {process: frame.copy(deep=True) for process, frame in test_set.items()}
    maker, nuisances = PseudoData(test_set), draw_nuisances(6, NAMES)
    first = maker.make(0.5, nuisances, 6)
    maker.make(3.0, draw_nuisances(7, NAMES), 7)
    again = maker.make(0.5, nuisances, 6)
    assert_same(again, first)
    again["data"].iloc[:] = 0.0
    assert_same(maker.make(0.5, nuisances, 6), first)
    for process, frame in test_set.items():
        pd.testing.assert_frame_equal(frame, before[process])
