"""The events file: the same parts, weights and draws as the official loader, and what is refused."""

import errno
import logging
import os
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import test_set
from harness.columns import PROCESS_ORDER
from harness.mapped import DiskPool, attach
from harness.test_set import EventFile
from harness.workers import pickle_model
from tests import official
from workshop.errors import UsageError

EVENTS = pd.read_parquet(official.REAL_EVENTS)


@pytest.fixture(scope="module")
def events_folder(tmp_path_factory):
    return official.events_folder(tmp_path_factory.mktemp("events"))


class TestEventFile:
    def test_parts_and_order(self, events_folder):
        events = EventFile(events_folder)
        assert (events.total_rows, events.test_rows, events.train_rows) == (500, 150, 350)
        test_set = events.load_test_set()
        assert list(test_set) == ["ztautau", "diboson", "ttbar", "htautau"]
        head = EVENTS.iloc[:150]
        weights = (official.SUM_WEIGHTS * head["weights"]) / sum(head["weights"])
        for process, frame in test_set.items():
            rows = head["detailed_labels"] == process
            expected = head[rows].drop(columns=["detailed_labels", "labels"]).assign(weights=weights[rows])
            pd.testing.assert_frame_equal(frame, expected.reset_index(drop=True), check_exact=True)
        assert [len(frame) for frame in test_set.values()] == [97, 1, 0, 52]

    def test_row_groups_do_not_matter_and_only_needed_ones_are_read(self, tmp_path, events_folder, monkeypatch):
        official.events_folder(tmp_path)
        pq.write_table(pa.Table.from_pandas(EVENTS), tmp_path / test_set.FILE_NAME, row_group_size=64)
        monkeypatch.setattr(test_set, "BATCH_ROWS", 50)
        whole, grouped = EventFile(events_folder), EventFile(tmp_path)
        read = []
        plain = grouped._file

        class Watched:
            def __getattr__(self, name):
                return getattr(plain, name)

            def iter_batches(self, *arguments, row_groups, **options):
                read.append(row_groups)
                return plain.iter_batches(*arguments, row_groups=row_groups, **options)

        grouped._file = Watched()
        for process, frame in grouped.load_test_set().items():
            pd.testing.assert_frame_equal(frame, whole.load_test_set()[process], check_exact=True)
        assert read == [[0, 1, 2]] * 2
        read.clear()
        chosen = [300, 7, 299, 7]
        ours, theirs = (events.load_train_set(selected_indices=chosen) for events in (grouped, whole))
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
        assert read == [[2, 3, 4, 5, 6, 7]]

    def test_train_set(self, events_folder):
        events = EventFile(events_folder)
        frame = events.load_train_set()
        assert list(frame.columns) == list(EVENTS.columns)
        assert frame["weights"].sum() == pytest.approx(official.SUM_WEIGHTS, rel=1e-5)
        rest = EVENTS.iloc[150:].reset_index(drop=True).drop(columns="weights")
        pd.testing.assert_frame_equal(frame.drop(columns="weights"), rest, check_exact=True)
        assert len(events.load_train_set(train_size=1000)) == 350
        assert len(events.load_train_set(train_size=0.5)) == 175
        assert len(events.load_train_set(train_size=0)) == 0
        np.random.seed(1)
        first = events.load_train_set(train_size=30)
        assert not first.equals(events.load_train_set(train_size=30))
        np.random.seed(1)
        assert first.equals(events.load_train_set(train_size=30))
        # Both official rules: indices win over a size, and may be a list or an array.
        picked = events.load_train_set(train_size=5, selected_indices=np.array([3, 1]))
        assert picked["PRI_met"].tolist() == EVENTS["PRI_met"].iloc[[151, 153]].tolist()

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"train_size": 1.5}, "1.5"),
            ({"train_size": "all"}, "'all'"),
            ({"train_size": -1}, "-1"),
            ({"selected_indices": (1, 2)}, "tuple"),
            ({"selected_indices": [350]}, "0 to 349"),
            ({"selected_indices": [-1]}, "0 to 349"),
            ({"selected_indices": [0.5]}, "0 to 349"),
        ],
    )
    def test_impossible_selections(self, events_folder, arguments, named):
        with pytest.raises(UsageError, match=named):
            EventFile(events_folder).load_train_set(**arguments)

    def test_test_size_and_metadata(self, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("sage"), "propagate", True)
        folder = official.events_folder(tmp_path)
        assert EventFile(folder, 20).test_rows == 20
        assert EventFile(folder, 1000).test_rows == 500
        assert EventFile(folder, 0.5).test_rows == 250
        caplog.clear()
        (folder / "FAIR_Universe_HiggsML_data_metadata.json").unlink()
        events = EventFile(folder / test_set.FILE_NAME)
        assert "sum_weights" in caplog.text
        weights = np.concatenate([frame["weights"] for frame in events.load_test_set().values()])
        assert weights.sum() == pytest.approx(EVENTS["weights"].iloc[:150].sum(), rel=1e-5)

    def test_few_heavy_events_are_announced(self, tmp_path, caplog):
        """Of the 500 real events, with the expected million and with as many as there are."""
        background = EVENTS.iloc[:150].query("detailed_labels != 'htautau'")["weights"].to_numpy(np.float64)
        scale = 1e6 / EVENTS["weights"].iloc[:150].to_numpy(np.float64).sum()
        EventFile(official.events_folder(tmp_path / "heavy", sum_weights=1e6)).load_test_set()
        assert f"counts {scale * (background**2).sum() / background.sum():.1f} times" in caplog.text
        caplog.clear()
        EventFile(official.events_folder(tmp_path / "light", sum_weights=10.0)).load_test_set()
        assert caplog.text == ""

    def test_fingerprint(self, tmp_path, events_folder, monkeypatch):
        same = EventFile(events_folder).fingerprint()
        assert EventFile(official.events_folder(tmp_path / "copy")).fingerprint() == same
        others = {
            EventFile(events_folder, 0.2).fingerprint(),
            EventFile(official.events_folder(tmp_path / "sum", sum_weights=1.0)).fingerprint(),
        }
        changed = EVENTS.copy()
        changed.loc[499, "PRI_met"] += 1
        changed.to_parquet(official.events_folder(tmp_path / "changed") / test_set.FILE_NAME)
        others.add(EventFile(tmp_path / "changed").fingerprint())
        monkeypatch.setattr(test_set, "HASH_ALL_BELOW", 0)
        others.add(EventFile(tmp_path / "changed").fingerprint())
        others.add(EventFile(events_folder).fingerprint())
        assert len(others - {same}) == 5

    def test_pool_on_disk_equals_memory(self, tmp_path, events_folder):
        events = EventFile(events_folder)
        pool = DiskPool(tmp_path)
        events.load_test_set(pool.allocate)
        mapped = attach(pickle.loads(pickle.dumps(pool.columns)))
        assert list(mapped) == list(PROCESS_ORDER)
        for process, frame in events.load_test_set().items():
            pd.testing.assert_frame_equal(mapped[process], frame, check_exact=True)

    def test_disk_without_room_is_an_error(self, tmp_path, events_folder, monkeypatch):
        def refuse(number):
            def reserve(*_):
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr(os, "posix_fallocate", reserve)

        events = EventFile(events_folder)
        for number, named in ((errno.ENOSPC, "No space left"), (errno.EFBIG, "too large"), (errno.EDQUOT, "quota")):
            refuse(number)
            with pytest.raises(UsageError, match=f"no room.*{named}.*--workers 1"):
                events.load_test_set(DiskPool(tmp_path).allocate)
        refuse(errno.EOPNOTSUPP)
        events.load_test_set(DiskPool(tmp_path).allocate)

    def test_space_is_taken_before_it_is_written_to(self, tmp_path):
        DiskPool(tmp_path).allocate("ztautau", "PRI_met", 300_000, np.dtype(np.float32))
        assert (tmp_path / "0.npy").stat().st_blocks * 512 >= 1_200_000

    def test_cannot_be_pickled_like_the_official_one(self, events_folder):
        with pytest.raises(UsageError, match="cannot be pickled"):
            pickle_model(EventFile(events_folder).load_train_set)


def change(name, value, row=3):
    def apply(frame):
        frame[name] = frame[name].astype(object)
        frame.loc[row, name] = value
        return frame if isinstance(value, str) else frame.astype({name: "float32"})

    return apply


BAD_FILES = {
    "missing column": (lambda frame: frame.drop(columns="PRI_met"), "column 'PRI_met' is missing"),
    "NaN": (change("PRI_had_pt", np.nan), "column 'PRI_had_pt' holds nan in row 3"),
    "infinite": (change("DER_pt_h", np.inf), "column 'DER_pt_h' holds inf in row 3"),
    "text": (lambda frame: frame.assign(PRI_met="high"), "column 'PRI_met' has type"),
    "half precision": (lambda frame: frame.assign(weights=frame.weights.astype(np.float16)), "'weights' has type half"),
    "half a column": (lambda frame: frame.assign(PRI_met=frame.PRI_met.astype(np.float16)), "'PRI_met' has type half"),
    "number as label": (lambda frame: frame.assign(detailed_labels=1), "column 'detailed_labels' has type"),
    "unknown process": (change("detailed_labels", "wjets"), "column 'detailed_labels' holds 'wjets' in row 3"),
    "no process": (
        lambda frame: frame.assign(detailed_labels=[None] * 500).astype({"detailed_labels": "str"}),
        "holds None in row 0",
    ),
    "negative weight": (change("weights", -1.0), "column 'weights' holds -1.0 in row 3"),
    "no weight": (lambda frame: frame.assign(weights=np.float32(0)), "add up to 0"),
    "empty": (lambda frame: frame.iloc[:0], "test part is empty"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_events_are_refused(tmp_path, case):
    spoil, named = BAD_FILES[case]
    folder = official.events_folder(tmp_path, total_rows=None)
    spoil(EVENTS.copy()).to_parquet(folder / test_set.FILE_NAME)
    with pytest.raises(UsageError, match=named) as caught:
        EventFile(folder).load_test_set()
    assert test_set.FILE_NAME in str(caught.value)


def test_bad_events_in_the_training_part_are_refused(tmp_path):
    folder = official.events_folder(tmp_path)
    change("PRI_met", np.nan, row=400)(EVENTS.copy()).to_parquet(folder / test_set.FILE_NAME)
    EventFile(folder).load_test_set()
    with pytest.raises(UsageError, match="'PRI_met' holds nan"):
        EventFile(folder).load_train_set()


@pytest.mark.parametrize("keep", [0, 100, 40_000, 72_000])
def test_truncated_file_is_refused(tmp_path, keep):
    folder = official.events_folder(tmp_path)
    data = official.REAL_EVENTS.read_bytes()
    (folder / test_set.FILE_NAME).write_bytes(data[:keep])
    with pytest.raises(UsageError, match="not a readable Parquet file"):
        EventFile(folder)


def test_damaged_pages_are_refused(tmp_path):
    folder = official.events_folder(tmp_path)
    data = bytearray(official.REAL_EVENTS.read_bytes())
    data[4:20_000] = bytes(19_996)
    (folder / test_set.FILE_NAME).write_bytes(data)
    with pytest.raises(UsageError, match="damaged"):
        EventFile(folder).load_test_set()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not readable as JSON"),
        ("[]", "holds a list"),
        ('{"sum_weights": "many"}', "'sum_weights' is 'many'"),
        ('{"sum_weights": 1e20}', "'sum_weights' is 1e\\+20, but must be a number from 0 to 1e\\+09"),
        ('{"sum_weights": NaN}', "'sum_weights' is nan"),
        ('{"sum_weights": true}', "'sum_weights' is True"),
        ('{"total_rows": 1e400}', "'total_rows' is inf"),
        ('{"total_rows": 100000000000000000000}', "'total_rows' is 1"),
    ],
)
def test_bad_metadata_is_refused(tmp_path, text, named):
    folder = official.events_folder(tmp_path)
    (folder / "FAIR_Universe_HiggsML_data_metadata.json").write_text(text)
    with pytest.raises(UsageError, match=named):
        EventFile(folder)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such events file"):
        EventFile(tmp_path)
