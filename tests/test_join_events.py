"""Joining events files: totals, weights of smallest variance, showered events, order, nothing lost, errors."""

import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize

from harness.test_set import EventFile
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from scripts.__main__ import verbs
from scripts.join_events import main
from tests.ending import exit_code
from tests.events import DATA, DATA_FILE, METADATA_FILE, production_folder
from training.events import PARENTS_FILE, EventsFile
from training.simulation import buckets, joining
from training.simulation.joining import find_shares
from training.simulation.parts import Sums
from training.simulation.processes import TABLE

ROOT = Path(__file__).resolve().parents[1]
TEST_SIZE = 0.5
ALL_EVENTS = pq.ParquetFile(DATA / DATA_FILE).read_row_group(0).to_pandas().drop_duplicates(list(PRIMARIES))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A production of all processes, one of Z alone and one of two processes without showered events."""
    base = tmp_path_factory.mktemp("productions")
    first, second, third = ALL_EVENTS[:6000], ALL_EVENTS[6000:12000], ALL_EVENTS[12000:20000]
    rare = third[third["detailed_labels"].isin(["ttbar", "diboson"])]
    return SimpleNamespace(
        all=production_folder(base / "all", first, 1),
        z=production_folder(base / "z", second[second["detailed_labels"] == "ztautau"], 2),
        rare=production_folder(base / "rare", rare, 3, parents=False),
    )


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    """Several groups and buckets although there are few events."""
    monkeypatch.setattr(joining, "BUCKET_ROWS", 900)
    monkeypatch.setattr(buckets, "BUCKET_ROWS", 900)


def join(output, *parts, seed=4, table_fraction=TEST_SIZE):
    given = ["--parts", *parts, "--seed", seed, "--table-fraction", table_fraction, "--output", output]
    return exit_code(main, [str(value) for value in given])


def row_names(frame):
    return [row.tobytes() for row in frame[list(PRIMARIES)].to_numpy()]


def read(folder):
    """Return the rows of a folder with their showered events, by the bytes of the primaries."""
    frame = pd.read_parquet(folder / DATA_FILE)
    there = (folder / PARENTS_FILE).exists()
    frame["parent"] = pq.read_table(folder / PARENTS_FILE)["parent"].to_numpy() if there else np.arange(len(frame))
    frame["weights"] = frame["weights"].astype(np.float64)
    frame.index = pd.Index(row_names(frame))
    return frame


def effective_events(frame):
    """Effective number of showered events of each process, row by row in pandas."""
    by_process = frame.groupby("detailed_labels")["weights"].sum()
    parents = frame.groupby(["detailed_labels", "parent"])["weights"].sum()
    return by_process**2 / (parents**2).groupby("detailed_labels").sum()


@pytest.fixture(scope="module")
def joined(folders, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "BUCKET_ROWS", 900)
        patch.setattr(buckets, "BUCKET_ROWS", 900)
        output = tmp_path_factory.mktemp("joined") / "events"
        assert join(output, f"{folders.all}:tables", f"{folders.z}:all", folders.rare) == 0
    first, second, third = (read(folder) for folder in (folders.all, folders.z, folders.rare))
    parts = {"all": first[: len(first) // 2], "z": second, "rare": third}
    return SimpleNamespace(folder=output, frame=read(output), parts=parts)


def test_processes_keep_their_expected_totals(joined):
    totals = joined.frame.groupby("detailed_labels")["weights"].sum()
    assert totals.to_dict() == {name: pytest.approx(TABLE[name].expected, rel=1e-5) for name in PROCESSES}
    metadata = json.loads((joined.folder / METADATA_FILE).read_text())
    assert metadata["sum_weights"] == pytest.approx(totals.sum(), rel=1e-9)
    assert metadata["detailed_labels"] == joined.frame["detailed_labels"].value_counts().to_dict()


def test_no_row_is_lost_doubled_or_changed(joined):
    source = pd.concat(joined.parts.values())
    assert sorted(joined.frame.index) == sorted(source.index)
    pd.testing.assert_frame_equal(
        joined.frame.loc[source.index, [*PRIMARIES, "detailed_labels", "labels"]],
        source[[*PRIMARIES, "detailed_labels", "labels"]],
    )


def test_weights_are_the_expected_totals_shared_by_effective_events(joined):
    numbers = {name: effective_events(frame) for name, frame in joined.parts.items()}
    for name, frame in joined.parts.items():
        for process, rows in frame.groupby("detailed_labels"):
            share = numbers[name][process] / sum(other.get(process, 0.0) for other in numbers.values())
            expected = rows["weights"] * share * TABLE[process].expected / rows["weights"].sum()
            found = joined.frame.loc[rows.index, "weights"]
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_variance_is_the_smallest_there_is(joined):
    """Minimised numerically over the shares of the three parts."""
    variances = (joined.frame.groupby(["detailed_labels", "parent"])["weights"].sum() ** 2).groupby(level=0).sum()
    for process in ("ztautau", "ttbar", "diboson"):
        scaled = []
        for frame in joined.parts.values():
            rows = frame[frame["detailed_labels"] == process]
            if len(rows):
                unit = rows["weights"] / rows["weights"].sum()
                scaled.append(float((unit.groupby(rows["parent"]).sum() ** 2).sum()))
        assert len(scaled) == 2
        best = minimize(lambda a, v=scaled: a[0] ** 2 * v[0] + (1 - a[0]) ** 2 * v[1], [0.5], tol=1e-12)
        assert variances[process] == pytest.approx(best.fun * TABLE[process].expected ** 2, rel=1e-5)


def test_shares_of_an_example_by_hand():
    one, other = Sums(), Sums()
    one.add(np.array([1.0, 1.0, 2.0]), np.array([0, 0, 1]))
    other.add(np.full(4, 5.0), np.arange(4))
    assert (one.effective_events, other.effective_events) == (2.0, 4.0)
    shares = find_shares([SimpleNamespace(sums={"ttbar": one}), SimpleNamespace(sums={"ttbar": other, "diboson": one})])
    assert shares == [{"ttbar": pytest.approx(1 / 3)}, {"ttbar": pytest.approx(2 / 3), "diboson": 1.0}]


def test_showered_events_stay_together_and_those_of_different_parts_apart(joined):
    overlap = set(joined.parts["all"]["parent"]) & set(joined.parts["z"]["parent"])
    assert len(overlap) > 100
    before = pd.concat([frame.assign(part=name) for name, frame in joined.parts.items()]).loc[joined.frame.index]
    old = before.groupby(["part", "parent"]).ngroup().to_numpy()
    pairs = set(zip(old.tolist(), joined.frame["parent"].tolist(), strict=True))
    assert len(pairs) == len(set(old.tolist())) == joined.frame["parent"].nunique()
    assert len(pairs) < len(joined.frame) - 1000


def test_borders_keep_showered_events_whole(joined):
    parents = joined.frame["parent"].to_numpy()
    for border in (0.3, 0.5):
        place = int(border * len(parents))
        assert not set(parents[:place]) & set(parents[place:])


def test_every_first_fraction_is_representative(joined):
    part = pd.concat([pd.Series(name, frame.index) for name, frame in joined.parts.items()]).loc[joined.frame.index]
    kinds = (part + " " + joined.frame["detailed_labels"]).to_numpy()
    assert pq.ParquetFile(joined.folder / DATA_FILE).num_row_groups > 3
    for kind in np.unique(kinds):
        total = (kinds == kind).sum()
        for fraction in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9):
            here = (kinds[: int(fraction * len(kinds))] == kind).sum()
            # Four standard deviations of a draw without replacement.
            assert abs(here - fraction * total) <= 4 * np.sqrt(total * fraction * (1 - fraction)) + 1


def test_the_readers_take_the_file(joined):
    events = EventsFile(joined.folder, TEST_SIZE)
    everything = events.read(events.rows("all"))
    assert everything.weights.sum() == pytest.approx(events.sum_weights)
    np.testing.assert_array_equal(everything.keys, joined.frame["parent"])
    np.testing.assert_array_equal(everything.columns["PRI_met"], joined.frame["PRI_met"])
    harness = EventFile(joined.folder, TEST_SIZE)
    test, train = harness.load_test_set(), harness.load_train_set()
    assert sum(map(len, test.values())) + len(train) == len(joined.frame)
    assert sum(frame["weights"].sum() for frame in test.values()) == pytest.approx(events.sum_weights, rel=1e-5)
    np.testing.assert_array_equal(train["PRI_met"], joined.frame["PRI_met"][len(joined.frame) // 2 :])


def test_metadata_tell_the_parts(joined, folders):
    metadata = json.loads((joined.folder / METADATA_FILE).read_text())
    assert metadata["description"].startswith("Simulation")
    assert metadata["join"]["seed"] == 4
    for told, (name, frame) in zip(metadata["join"]["parts"], joined.parts.items(), strict=True):
        assert told["folder"] == name
        assert told["part"] == ("tables" if name == "all" else "all")
        assert told["rows"] == [0, len(frame)]
        assert told["has_parents"] == (name != "rare")
        assert told["sha256"] == hashlib.sha256((getattr(folders, name) / DATA_FILE).read_bytes()).hexdigest()
        for process, numbers in effective_events(frame).items():
            sums = told["processes"][process]
            assert sums["rows"] == (frame["detailed_labels"] == process).sum()
            assert sums["effective_events"] == pytest.approx(numbers, rel=1e-5)
            assert sums["effective_rows"] / sums["inflation"] == pytest.approx(numbers, rel=1e-5)


def test_seed_and_command_decide_the_bytes(folders, tmp_path, monkeypatch):
    names = (DATA_FILE, METADATA_FILE, PARENTS_FILE)
    first, second = tmp_path / "first", tmp_path / "second"
    assert join(first, f"{folders.all}:tables", folders.z) == 0

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(joining, "write", stop)
        assert join(second, f"{folders.all}:tables", folders.z) == 130
    assert [path.name for path in second.iterdir()] == ["join.json"]
    assert join(second, f"{folders.all}:tables", folders.z) == 0
    assert join(second, f"{folders.all}:tables", folders.z, seed=5) == 2
    assert {path.name for path in second.iterdir()} == {*names, "join.json"}
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]
    assert join(tmp_path / "third", f"{folders.all}:tables", folders.z, seed=5) == 0
    assert (tmp_path / "third" / DATA_FILE).read_bytes() != (first / DATA_FILE).read_bytes()


@pytest.mark.parametrize("failing", ["deal", "_shuffled", "json_bytes"])
def test_a_full_disk_leaves_what_was_there(folders, tmp_path, monkeypatch, failing):
    output = tmp_path / "events"
    assert join(output, f"{folders.all}:tables", folders.z) == 0
    before = {path: path.read_bytes() for path in output.iterdir()}

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(buckets.Buckets if failing == "deal" else buckets, failing, fail)
        assert join(output, f"{folders.all}:tables", folders.z) == 2
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    assert join(output, f"{folders.all}:tables", folders.z) == 0
    assert {path: path.read_bytes() for path in output.iterdir()} == before


def test_both_parts_of_one_file_can_be_joined(folders, tmp_path):
    assert join(tmp_path / "events", f"{folders.all}:tables", f"{folders.all}:training") == 0
    assert sorted(read(tmp_path / "events").index) == sorted(read(folders.all).index)


def error_of(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_errors(folders, joined, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folders.all.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    more = production_folder(tmp_path / "more", ALL_EVENTS[20000:21000], 1)
    bare = production_folder(tmp_path / "bare", ALL_EVENTS[20000:21000], 9)
    (bare / METADATA_FILE).unlink()
    frame = ALL_EVENTS[20000:21000].copy()
    frame.loc[frame["detailed_labels"] == "ttbar", "weights"] = 0.0
    weightless = production_folder(tmp_path / "weightless", frame, 8)
    new = tmp_path / "new"
    for parts, options, *named in (
        ([tmp_path / "nowhere"], {}, "nowhere", "holds no", "scripts.simulate"),
        ([bare], {}, METADATA_FILE, "cannot be read"),
        ([f"{folders.all}:test"], {}, "'test'", ":training"),
        ([f"{folders.all}:tables"], {"table_fraction": 0.0}, "no rows at table fraction 0.0", "choose another part"),
        ([f"{folders.all}:tables"], {"table_fraction": 1.5}, "1.5", "from 0 to 1"),
        ([f"{folders.all}:tables"], {"table_fraction": 0.4}, "cuts", "use 0.3 or 0.5"),
        ([folders.all, f"{folders.all}:tables"], {}, "same file and overlap", "once"),
        ([f"{copy}:tables", folders.z, f"{folders.all}:all"], {}, "same file and overlap", "once"),
        ([joined.folder, folders.z], {}, "both hold rows of the file"),
        ([folders.all, more], {}, "simulated with seed 1", "different seeds"),
        ([joined.folder, more], {}, "simulated with seed 1", "different seeds"),
        ([weightless], {}, "ttbar events add up to 0.0"),
        ([folders.all], {"seed": -1}, "--seed: '-1'"),
    ):
        assert join(new, *parts, **options) == 2
        error = error_of(capsys)
        for text in named:
            assert text in error
    assert not (new / METADATA_FILE).exists()
    for output, text in ((folders.all, "holds no run to continue"), (joined.folder, "other settings: parts")):
        before = {path: path.read_bytes() for path in output.iterdir()}
        assert join(output, folders.z) == 2
        error = error_of(capsys)
        assert text in error
        assert "choose another --output" in error
        assert {path: path.read_bytes() for path in output.iterdir()} == before


def test_rows_of_a_file_without_showered_events_are_announced(folders, tmp_path, capsys):
    assert join(tmp_path / "events", folders.rare) == 0
    assert "its rows count as showered events" in capsys.readouterr().err


def test_the_program_is_listed_and_needs_no_package_of_the_simulation(capsys):
    assert "join_events" in verbs()
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python -m scripts.join_events --parts" in capsys.readouterr().out
    check = (
        "import sys, scripts.join_events; sys.exit(bool({'pythia8mc', 'numba', 'awkward', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
