"""The embedded events file and its streaming reader."""

import json
import warnings

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from tests.conftest import REAL_EVENTS, ROOT
from tests.events import DATA, DATA_FILE, METADATA_FILE, copy_data, root_logger_kept
from training.events import EventsFile


@pytest.fixture(scope="module")
def whole():
    return pd.read_parquet(DATA / DATA_FILE)


@pytest.mark.parametrize("folder", [DATA, ROOT / "data"])
def test_files_have_the_layout_of_the_challenge(folder):
    assert (folder / DATA_FILE).stat().st_size <= 15_000_000
    metadata = json.loads((folder / METADATA_FILE).read_text())
    file, whole = pq.ParquetFile(folder / DATA_FILE), pd.read_parquet(folder / DATA_FILE)
    assert file.num_row_groups > 2
    assert metadata["columns"] == list(whole.columns) == [*PRIMARIES, "weights", "detailed_labels", "labels"]
    assert metadata["total_rows"] == len(whole) == sum(metadata["detailed_labels"].values())
    assert metadata["sum_weights"] == pytest.approx(whole["weights"].to_numpy(np.float64).sum(), rel=1e-9)
    assert metadata["luminosity"] == 10
    assert "NOT the public data set" in metadata["description"]
    assert set(whole["detailed_labels"]) == set(PROCESSES)
    np.testing.assert_array_equal(whole["labels"], whole["detailed_labels"] == "htautau")
    for name in (*PRIMARIES, "weights", "labels"):
        assert whole[name].dtype == np.float32, name
    real = pq.read_schema(REAL_EVENTS)
    numbers = [name for name in whole.columns if name != "detailed_labels"]
    assert all(file.schema_arrow.field(name).type == real.field(name).type for name in numbers)


def test_every_stretch_holds_the_processes_in_proportion(whole):
    total = whole["detailed_labels"].value_counts(normalize=True)
    for part in np.array_split(np.arange(len(whole)), 4):
        counts = whole["detailed_labels"].iloc[part].value_counts()
        assert (counts - total * len(part)).abs().max() <= 3


@pytest.mark.parametrize("part", ["tables", "training", "all"])
def test_parts_are_those_of_the_challenge(whole, part):
    file = EventsFile(DATA, 0.3)
    split = int(0.3 * len(whole))
    expected = {"tables": whole[:split], "training": whole[split:], "all": whole}[part]
    pieces = list(file.stream(file.rows(part)))
    assert len(pieces) > 0
    events = file.read(file.rows(part))
    for name in PRIMARIES:
        np.testing.assert_array_equal(events.columns[name], expected[name].to_numpy())
        assert events.columns[name].dtype == np.float32
    weights = expected["weights"].to_numpy(dtype=np.float64)
    np.testing.assert_allclose(events.weights, weights * file.sum_weights / weights.sum(), rtol=1e-12)
    assert [PROCESSES[i] for i in events.classes] == expected["detailed_labels"].tolist()


@pytest.mark.parametrize("pool_rows", [10_000_000, 9000, 1])
def test_batches_hold_every_event_once_in_random_order(pool_rows):
    file = EventsFile(DATA, 0.5)
    rows = file.rows("training")
    batches = list(file.batches(rows, 1000, pool_rows, np.random.default_rng(1)))
    again = list(file.batches(rows, 1000, pool_rows, np.random.default_rng(1)))
    assert max(map(len, batches)) == 1000
    shuffled = np.concatenate([batch.columns["PRI_met"] for batch in batches])
    np.testing.assert_array_equal(shuffled, np.concatenate([batch.columns["PRI_met"] for batch in again]))
    ordered = file.read(rows).columns["PRI_met"]
    assert not np.array_equal(shuffled, ordered)
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(ordered))


def spoil(folder, **columns):
    frame = pd.read_parquet(folder / DATA_FILE).head(500)
    for name, value in columns.items():
        frame = frame.drop(columns=name) if value is None else frame.assign(**{name: value})
    frame.to_parquet(folder / DATA_FILE)
    write_metadata(folder, total_rows=500, sum_weights=1000.0)


def write_metadata(folder, **content):
    (folder / METADATA_FILE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"PRI_met": None}, "column 'PRI_met' is missing; use"),
        ({"PRI_met": np.nan}, "column 'PRI_met' holds null or infinite values; jets"),
        ({"weights": np.inf}, "column 'weights' holds null or infinite values"),
        ({"weights": 0.0}, "weights of rows 0 to 250 sum to 0.0; choose"),
        ({"detailed_labels": "wjets"}, "holds 'wjets'; it must be one of htautau, ztautau, ttbar, diboson"),
        ({"PRI_had_pt": "large"}, "column 'PRI_had_pt' is of type .*string; it must hold numbers"),
    ],
)
def test_spoilt_events_are_refused(tmp_path, columns, message):
    spoil(copy_data(tmp_path), **columns)
    with pytest.raises(InputError, match=message):
        list((file := EventsFile(tmp_path, 0.5)).stream(file.rows("tables")))


def test_missing_labels_are_refused(tmp_path):
    spoil(copy_data(tmp_path), detailed_labels=[None] + ["htautau"] * 499)
    with pytest.raises(InputError, match="'detailed_labels' holds None"):
        list((file := EventsFile(tmp_path, 0.5)).stream(file.rows("tables")))


def test_wrong_split_is_refused():
    with pytest.raises(InputError, match=r"table_fraction is 30; it is a fraction"):
        EventsFile(DATA, 30)


def test_empty_part_is_refused():
    file = EventsFile(DATA, 0.0)
    with pytest.raises(InputError, match="choose a part with events"):
        list(file.stream(file.rows("tables")))


def test_damaged_files_are_refused(tmp_path):
    copy_data(tmp_path)
    write_metadata(tmp_path, total_rows=7, sum_weights=1.0)
    with pytest.raises(InputError, match=r"holds \d+ rows, .* says 7"):
        EventsFile(tmp_path, 0.5)
    write_metadata(tmp_path, total_rows=7)
    with pytest.raises(InputError, match="'sum_weights' is missing"):
        EventsFile(tmp_path, 0.5)
    for wrong in (1e20, float("nan"), float("inf"), 0.0, -1.0, True, "many", [1.0]):
        write_metadata(tmp_path, total_rows=7, sum_weights=wrong)
        with pytest.raises(InputError, match="'sum_weights' is missing or no number above 0"):
            EventsFile(tmp_path, 0.5)
        write_metadata(tmp_path, total_rows=wrong, sum_weights=1.0)
        with pytest.raises(InputError, match="'total_rows' is missing or no number above 0"):
            EventsFile(tmp_path, 0.5)
    (tmp_path / METADATA_FILE).write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        EventsFile(tmp_path, 0.5)
    write_metadata(tmp_path, total_rows=7, sum_weights=1.0)
    (tmp_path / DATA_FILE).write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        EventsFile(tmp_path, 0.5)


def test_official_loader_reads_the_same_events():
    """HiggsML's loader, which holds the whole file, agrees in rows and rescaling."""
    with root_logger_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from HiggsML.datasets import Data

        official = Data(str(DATA), test_size=0.1)
        official.load_test_set()
    file = EventsFile(DATA, 0.1)
    events = file.read(file.rows("tables"))
    for k, process in enumerate(PROCESSES):
        expected = official.get_test_set()[process]
        mine = events.classes == k
        np.testing.assert_array_equal(events.columns["PRI_met"][mine], expected["PRI_met"])
        np.testing.assert_allclose(events.weights[mine], expected["weights"], rtol=1e-4)
