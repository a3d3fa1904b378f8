"""Choices keyed by showered event, and the parts of a file that must not share one."""

import dataclasses
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from sage.errors import InputError, SettingsError
from tests.events import small_data
from training import events as events_file
from training.config import Config, TrainingConfig
from training.events import PARENTS_FILE, EventsFile
from training.sampling import BOOTSTRAP, HeldOut, Thinning, poisson, uniform

N = 3000
SPLIT = 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Events whose showered events have one to five rows each, none on both sides of the border."""
    folder = small_data(tmp_path_factory.mktemp("events"), N)
    rng = np.random.default_rng(3)
    halves = [np.sort(rng.integers(0, N // 6, N // 2)) for _ in range(2)]
    parents = np.concatenate([rng.permutation(halves[0]), (5 << 56) + rng.permutation(halves[1])])
    pq.write_table(pa.table({"parent": parents}), folder / PARENTS_FILE)
    return folder


def test_uniform_numbers_are_uniform_and_independent_of_each_other():
    keys = np.arange(200_000)
    first, second = uniform(keys, 1, 2), uniform(keys, 1, 3)
    for numbers in (first, second, uniform(keys << 24, 1, 2)):
        assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.01
    np.testing.assert_array_equal(first, uniform(keys, 1, 2))


def test_bootstrap_counts_follow_poisson():
    counts = np.bincount(poisson(np.arange(200_000), BOOTSTRAP, 1, 0), minlength=20)
    expected = 200_000 * stats.poisson.pmf(np.arange(7), 1.0)
    assert stats.chisquare([*counts[:6], counts[6:].sum()], [*expected[:6], 200_000 - expected[:6].sum()]).pvalue > 1e-3


def test_keys_are_parents_or_rows(data, tmp_path):
    parents = pq.read_table(data / PARENTS_FILE)["parent"].to_numpy()
    file = EventsFile(data, SPLIT)
    np.testing.assert_array_equal(file.read(range(700, 2500)).keys, parents[700:2500])
    plain = EventsFile(small_data(tmp_path), SPLIT)
    np.testing.assert_array_equal(plain.read(range(700, 2500)).keys, np.arange(700, 2500))
    pq.write_table(pa.table({"parent": parents[1:]}), tmp_path / PARENTS_FILE)
    with pytest.raises(InputError, match="holds 2999 rows, the events file 3000; use files of one production"):
        EventsFile(tmp_path, SPLIT)


def test_no_event_is_in_two_parts(data):
    """Neither a row nor a showered event of the optimiser's events chooses the epoch, fills tables or is scored."""
    file, held_out = EventsFile(data, SPLIT), HeldOut(1, 0.1)
    rows = file.rows("training")
    trained = file.read(rows, held_out.others)
    chosen = file.read(rows, held_out)
    tables = file.read(file.rows("tables"))
    assert len(trained) + len(chosen) + len(tables) == N
    assert 0.05 < len(chosen) / len(rows) < 0.15
    parts = [set(part.keys.tolist()) for part in (trained, chosen, tables)]
    assert all(parts)
    for first, second in combinations(parts, 2):
        assert not first & second
    # Rows are told apart by their values here: no column of row numbers survives reading.
    rows_of = [set(map(tuple, np.stack(list(part.columns.values()), axis=1).tolist())) for part in (trained, tables)]
    assert not rows_of[0] & rows_of[1]


def test_epoch_holds_some_rows_of_large_classes_and_all_of_small_ones(data):
    file, held_out = EventsFile(data, SPLIT), HeldOut(1, 0.1)
    everything = file.read(file.rows("training"), held_out.others)
    fractions = np.array([1.0, 0.2, 1.0, 1.0])
    first, second = (file.read(file.rows("training"), Thinning(held_out, fractions, (1, epoch))) for epoch in range(2))
    for events in (first, second):
        counts = np.bincount(events.classes, minlength=4)
        whole = np.bincount(everything.classes, minlength=4)
        np.testing.assert_array_equal(counts[[0, 2, 3]], whole[[0, 2, 3]])
        assert counts[1] == pytest.approx(0.2 * whole[1], rel=0.3)
    assert set(first.keys[first.classes == 1].tolist()) != set(second.keys[second.classes == 1].tolist())


def test_memory_is_bounded_by_the_pool(data, monkeypatch):
    """However long the file, no more rows than the pool and one row group are held."""
    held = []
    whole = events_file.join
    monkeypatch.setattr(events_file, "join", lambda pieces: held.append(sum(map(len, pieces))) or whole(pieces))
    file = EventsFile(data, 0.0)
    batches = list(file.batches(file.rows("training"), 100, 1700, np.random.default_rng(1)))
    assert sum(map(len, batches)) == N
    assert max(held) <= 1700
    assert len(held) > 1


def test_settings_out_of_range_are_refused():
    for change, message in (
        ({"points": "anywhere"}, "points is 'anywhere'; choose one of prior, uniform, nominal"),
        ({"networks": 0}, "networks is 0; it must be at least 1"),
        ({"max_rows": -1}, "max_rows is -1; it must be at least 0"),
        ({"validation_fraction": 1.0}, r"validation_fraction is 1.0; it lies between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(TrainingConfig(), **change)
    for change, message in (
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"table_fraction": 1.5}, "table_fraction is 1.5; it is a fraction of the rows, from 0 to 1"),
    ):
        with pytest.raises(SettingsError, match=message):
            dataclasses.replace(Config(), **change)
    assert Config().training.shares() == (0.25,) * 4
