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
from harness.submission import pickle_model
from harness.test_set import EventFile
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
        assert "counts" not in caplog.text

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
    "text in the labels": (lambda frame: frame.assign(labels="signal"), "column 'labels' has type"),
    "no signal": (
        lambda frame: frame[frame.detailed_labels != "htautau"],
        r"the 0 htautau rows .*ztautau \d+, diboson \d+, ttbar \d+, htautau 0.*shuffle",
    ),
    "signal without weight": (
        lambda frame: frame.assign(weights=frame.weights.where(frame.detailed_labels != "htautau", np.float32(0))),
        "the 52 htautau rows .* weigh nothing",
    ),
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


LABELS = EVENTS["detailed_labels"]
SORTED = {
    "by process": (EVENTS.sort_values("detailed_labels", kind="stable"), "has no ztautau and no ttbar (ztautau 0"),
    "only Z": (EVENTS[LABELS == "ztautau"], "has no diboson and no ttbar and no htautau"),
    "signal last": (EVENTS.sort_values("labels", kind="stable"), "has no htautau"),
    "signal first": (EVENTS.sort_values("labels", ascending=False, kind="stable").iloc[:400], "has no ztautau"),
    "one rare process": (EVENTS[(LABELS != "ttbar") | (np.arange(500) > 250)], "has no ttbar"),
}


@pytest.mark.parametrize("case", SORTED)
def test_parts_without_a_process_are_announced(tmp_path, caplog, case):
    """A warning with the counts; where there is no signal nothing can be measured."""
    frame, named = SORTED[case]
    folder = official.events_folder(tmp_path, total_rows=None)
    frame.to_parquet(folder / test_set.FILE_NAME)
    events = EventFile(folder)
    counts = frame["detailed_labels"].iloc[: events.test_rows].value_counts().reindex(PROCESS_ORDER, fill_value=0)
    listed = ", ".join(f"{process} {count}" for process, count in counts.items())
    if counts["htautau"]:
        events.check_processes()
        events.load_test_set()
    else:
        with pytest.raises(UsageError, match=f"no htautau .*{listed}.*shuffle"):
            events.check_processes()
        with pytest.raises(UsageError, match=f"0 htautau rows .*{listed}.*shuffle"):
            events.load_test_set()
    assert named in caplog.text
    assert listed in caplog.text


def test_a_training_part_without_a_process_is_announced(tmp_path, caplog):
    folder = official.events_folder(tmp_path, total_rows=None)
    EVENTS.sort_values("labels", ascending=False, kind="stable").to_parquet(folder / test_set.FILE_NAME)
    EventFile(folder).load_train_set(train_size=5)
    assert "training part" not in caplog.text
    EventFile(folder, 0.5).load_train_set()
    assert "the training part has no htautau" in caplog.text


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"total_rows": 220_000_000, "sum_weights": 1.04e6}, "takes all 500 rows of the file and leaves none"),
        ({"sum_weights": 4e8}, "they are rescaled by 1.29e+03"),
        ({"sum_weights": 1.04e6, "total_rows": 5000}, "500 rows of the file and leaves none"),
        ({"sum_weights": 2e4}, "they are rescaled by 0.0644"),
    ],
)
def test_metadata_of_other_events_is_announced(tmp_path, caplog, metadata, named):
    EventFile(official.events_folder(tmp_path, **metadata)).load_test_set()
    assert named in caplog.text


def test_metadata_of_these_events_is_not_announced(tmp_path, caplog):
    EventFile(official.events_folder(tmp_path, sum_weights=float(EVENTS["weights"].sum()))).load_test_set()
    assert "sum_weights" not in caplog.text


@pytest.mark.parametrize(
    "text", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_labels_in_any_type_of_text(tmp_path, events_folder, text):
    folder = official.events_folder(tmp_path)
    table = pa.Table.from_pandas(EVENTS, preserve_index=False)
    place = table.column_names.index("detailed_labels")
    labels = table.column(place).cast(pa.string()).combine_chunks()
    labels = labels.dictionary_encode().cast(text) if pa.types.is_dictionary(text) else labels.cast(text)
    pq.write_table(table.set_column(place, "detailed_labels", labels), folder / test_set.FILE_NAME, row_group_size=64)
    events, plain = EventFile(folder), EventFile(events_folder)
    for process, frame in plain.load_test_set().items():
        pd.testing.assert_frame_equal(events.load_test_set()[process], frame, check_exact=True)
    for chosen in (None, [3, 200]):
        ours, theirs = (file.load_train_set(selected_indices=chosen) for file in (events, plain))
        assert ours["detailed_labels"].tolist() == theirs["detailed_labels"].tolist()
        pd.testing.assert_frame_equal(*(part.drop(columns="detailed_labels") for part in (ours, theirs)))


@pytest.mark.parametrize("values", ["run 3", True, pd.Timestamp("2026-01-01")], ids=["text", "bool", "time"])
def test_other_columns_that_are_not_numeric_are_ignored(tmp_path, events_folder, caplog, values):
    folder = official.events_folder(tmp_path)
    EVENTS.assign(remark=values).to_parquet(folder / test_set.FILE_NAME)
    events, plain = EventFile(folder), EventFile(events_folder)
    assert "column 'remark' has type" in caplog.text
    assert "ignored" in caplog.text
    pd.testing.assert_frame_equal(events.load_train_set(), plain.load_train_set(), check_exact=True)
    for process, frame in plain.load_test_set().items():
        pd.testing.assert_frame_equal(events.load_test_set()[process], frame, check_exact=True)


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
