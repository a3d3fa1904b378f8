"""The simulation as a whole: bookkeeping of weights, shards and workers, interrupted runs, the final file, errors."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.ending import exit_code
from tests.events import FIVE_WEIGHTS

pytest.importorskip("pythia8mc", reason="the simulation needs requirements-simulation.txt")
pytest.importorskip("awkward", reason="the simulation needs requirements-simulation.txt")
pytest.importorskip("numba", reason="the simulation needs requirements-simulation.txt")

import awkward as ak
import pythia8mc

from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from scripts.simulate import _shard_events, main
from training import count_events
from training.adding import FINISHED_FILE, add
from training.events import DATA_FILE, METADATA_FILE, PARENTS_FILE, EventsFile
from training.simulation import buckets, origin, promise, shards
from training.simulation.decisions import Effort
from training.simulation.generator import Generator
from training.simulation.heavy_flavour import TAU_FRACTIONS, TauBias
from training.simulation.origin import code_hash, library_path
from training.simulation.parts import parse_parts
from training.simulation.processes import TABLE
from training.simulation.production import MODES, Production, Shard, Simulation
from training.simulation.tau_decays import load_library
from training.simulation.underlying import LIBRARY_FILE as UNDERLYING_FILE
from training.simulation.underlying import load_underlying
from training.sums import read_plan
from workshop.files import write_arrays

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--shard-events", "15", "--seed", "5", "--events", "15"]


@pytest.fixture(scope="module")
def made(libraries, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "events"
    assert main(["--output", str(folder), "--cache", str(libraries), *SMALL]) == 0
    return folder


def content(folder: Path) -> dict[str, bytes]:
    names = (DATA_FILE, METADATA_FILE, PARENTS_FILE)
    return {name: (folder / name).read_bytes() for name in names}


def test_the_file_is_what_the_reader_expects(made):
    events = EventsFile(made, table_fraction=0.3)
    table = pq.read_table(made / DATA_FILE).to_pandas()
    assert [str(kind) for kind in table.dtypes[:17]] == ["float32"] * 17
    assert list(table.columns) == [*PRIMARIES, "weights", "detailed_labels", "labels"]
    for name in PROCESSES:
        here = table["detailed_labels"] == name
        assert here.sum() >= 15
        assert (table["labels"][here] == (name == "htautau")).all()
        assert table["weights"][here].astype(float).sum() == pytest.approx(TABLE[name].expected, rel=1e-5)
    assert table["weights"].astype(float).sum() == pytest.approx(events.sum_weights, rel=1e-6)
    assert (table["PRI_had_pt"] >= 20).all()
    assert (table["PRI_lep_pt"] >= 20).all()


def test_rows_of_a_showered_event_stay_on_one_side_of_both_borders(made):
    parents = pq.read_table(made / PARENTS_FILE)["parent"].to_numpy()
    assert len(np.unique(parents)) < len(parents)
    for border in buckets.BORDERS:
        place = int(border * len(parents))
        assert not set(parents[:place]) & set(parents[place:])


def test_unnormalised_weights_are_cross_section_over_tried_events(made):
    metadata = json.loads((made / METADATA_FILE).read_text())
    for name, summary in metadata["simulation"]["processes"].items():
        process = TABLE[name]
        tried = {int(code): count for code, count in summary["tried"].items()}
        total = 0.0
        for shard in shards.iterate(made, name, summary["shards"]):
            for code, weight in zip(shard.codes.tolist(), shard.weights, strict=True):
                total += weight * process.cross_sections[code] * 10 / tried[code]
        assert summary["prediction"] == pytest.approx(total)
        assert summary["factor"] == pytest.approx(process.expected / total)
        assert 0.3 < summary["factor"] < 3.0


def test_two_workers_and_an_interrupted_run_give_the_same_bytes(made, libraries, tmp_path):
    folder = tmp_path / "events"
    command = [sys.executable, "-m", "scripts.simulate", "--output", str(folder), "--cache", str(libraries), *SMALL]
    command += ["--workers", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(folder.glob("shards/*/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (folder / METADATA_FILE).exists()
    assert subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert content(folder) == content(made)


def test_mode_full_and_more_events_add_shards(libraries, tmp_path):
    command = ["--output", str(tmp_path / "full"), "--cache", str(libraries), "--process", "ztautau", "--mode", "full"]
    command += ["--seed", "1", "--shard-events", "25"]
    assert main([*command, "--events", "3"]) == 0
    first = {path: path.read_bytes() for path in (tmp_path / "full").glob("shards/*/*.npz")}
    assert main([*command, "--events", "12"]) == 0
    later = {path: path.read_bytes() for path in (tmp_path / "full").glob("shards/*/*.npz")}
    assert len(later) > len(first)
    assert all(later[path] == data for path, data in first.items())


def test_few_events_make_small_shards_and_a_larger_run_keeps_them(libraries, tmp_path):
    output = tmp_path / "few"
    command = ["--output", str(output), "--cache", str(libraries), "--process", "htautau", "--seed", "1"]
    assert main([*command, "--events", "2"]) == 0
    made = pq.ParquetFile(output / DATA_FILE).metadata.num_rows
    assert 2 <= made < 200
    first = {path: path.read_bytes() for path in output.glob("shards/*/*.npz")}
    assert main([*command, "--events", str(made + 1)]) == 0
    assert json.loads((output / shards.SETTINGS_FILE).read_text())["shard_events"] == 100
    assert len(list(output.glob("shards/*/*.npz"))) > len(first)
    assert all(path.read_bytes() == data for path, data in first.items())


@pytest.mark.parametrize(("rows", "expected"), [(1, 100), (100, 400), (1500, 6000), (100_000, 6000)])
def test_shards_of_usual_runs_are_the_modes(tmp_path, rows, expected):
    given = argparse.Namespace(mode="fast", output=tmp_path, count=None)
    assert _shard_events(given, rows) == expected


def test_shards_that_are_only_counted_are_larger(tmp_path):
    given = argparse.Namespace(mode="fast", output=tmp_path, count=FIVE_WEIGHTS)
    assert _shard_events(given, 100) == 400
    assert _shard_events(given, 1_000_000) == 60_000
    (tmp_path / "counts.json").write_text('{"production": {"simulation": {"shard_events": 77}}}')
    assert _shard_events(given, 1_000_000) == 77


def test_a_shard_does_not_depend_on_the_ones_before(libraries):
    production = Production("fast", 5, 15)
    one, other = Simulation(production, libraries), Simulation(production, libraries)
    one.shard("ttbar", 0)
    first, second = one.shard("ztautau", 1), other.shard("ztautau", 1)
    assert first.tried == second.tried
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("values", "weights", "parents"))


def test_importance_sampling_keeps_the_expectation(libraries):
    process = TABLE["ztautau"]
    library = load_library(libraries)
    sums = {}
    for quiet in (1.0, 0.25):
        effort = Effort(sets=8, passes=1, boost=2.0, quiet=quiet)
        made = Generator(process, effort, library, np.random.SeedSequence(2), ("PartonLevel:MPI = off",))
        weights = np.concatenate([part.weights for part in made.batches(400)])
        tried = sum(made.tried.values())
        sums[quiet] = weights.sum() / tried, np.sqrt((weights**2).sum()) / tried
    difference = sums[1.0][0] - sums[0.25][0]
    assert abs(difference) < 4 * np.hypot(sums[1.0][1], sums[0.25][1])


def test_spin_correlation_of_z_and_higgs(libraries):
    library = load_library(libraries)
    equal = {}
    for name in ("htautau", "ztautau"):
        effort = Effort(sets=4, passes=1, boost=4.0)
        made = Generator(TABLE[name], effort, library, np.random.SeedSequence(4), ("PartonLevel:MPI = off",))
        record = made._pythia.nextBatch(40)
        pairs = [made._decisions.kept[key].helicities for key in record.info.x1.to_list()]
        equal[name] = [pair[0] == pair[1] for pair in pairs if len(pair) == 2]
    assert all(equal["htautau"])
    assert not any(equal["ztautau"])


def test_taus_from_heavy_hadrons_are_weighted_back():
    pythia = pythia8mc.Pythia("", False)
    for line in ("Print:quiet = on", "ProcessLevel:all = off", "15:mayDecay = off", "Random:seed = 3"):
        pythia.readString(line)
    pythia.readString("Random:setSeed = on")
    pythia.init()
    bias = TauBias(pythia.particleData, 6.0)
    codes, first, last = [], [], []
    n = 6000
    for i in range(n):
        code = list(TAU_FRACTIONS)[i % 5]
        mass = pythia.particleData.m0(code)
        pythia.event.reset()
        pythia.event.append(code, 1, 0, 0, 0.0, 0.0, 50.0, float(np.hypot(50.0, mass)), mass)
        assert pythia.next()
        event = [pythia.event[k] for k in range(pythia.event.size())]
        codes.append([p.id() for p in event])
        first.append([p.daughter1() for p in event])
        last.append([p.daughter2() for p in event])
    record = ak.Array({"prt": ak.zip({"id": codes, "daughter1": first, "daughter2": last})})
    weights = bias.weights(record)
    assert abs(weights.mean() - 1.0) < 4 * weights.std() / np.sqrt(n)
    assert weights.std() > 0.1


def test_assignment_fills_quotas_with_whole_parents():
    rng = np.random.default_rng(1)
    parents = np.repeat(np.arange(500), rng.integers(1, 5, 500))
    stretch = buckets.assign(parents, (300, 200), rng)
    assert [(stretch == k).sum() for k in (0, 1)] == [300, 200]
    assert all(len(np.unique(stretch[parents == parent])) == 1 for parent in range(500))
    limits = buckets.quotas({"a": 101, "b": 33})
    assert sum(row[0] for row in limits.values()) == int(0.3 * 134)
    assert sum(row[1] for row in limits.values()) == int(0.5 * 134)


def test_hard_promise_prefers_central_pairs():
    keep = TABLE["ztautau"].keep
    central, forward = [(45.0, 0.5), (45.0, 1.0)], [(45.0, 0.5), (45.0, 4.5)]
    assert promise.hard_promise(keep, [], central) == 1.0
    assert 0.0 < promise.hard_promise(keep, [], forward) <= 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process", "wjets"], "no process 'wjets'; choose all or one of"),
        (["--events", "0"], "--events is 0; it must be at least 1"),
        (["--events", "ztautau=5,7"], "--events is ztautau=5,7; it must be"),
        (["--events", "zz=5"], "no process 'zz'"),
        (["--mode", "slow"], "no mode 'slow'; choose one of full, fast"),
        (["--workers", "0"], "--workers: '0'"),
        (["--z-quiet", "0"], "--z-quiet: '0'"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, capsys):
    command = ["--output", str(tmp_path / "x"), "--seed", "1", "--events", "5", *arguments]
    assert exit_code(main, command) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_an_output_of_another_run_is_refused(made, tmp_path, capsys):
    small = [argument if argument != "5" else "4" for argument in SMALL]
    assert main(["--output", str(made), *small]) == 2
    assert "choose another --output" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["--output", str(tmp_path), *SMALL]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_damaged_shard_is_named(tmp_path):
    path = shards.shard_path(tmp_path, "ztautau", 0)
    shard = Shard(np.zeros((1, 16), np.float32), np.ones(1), np.zeros(1, np.int16), np.zeros(1, np.int32), {221: 1})
    shards.write_shard(path, shard)
    assert shards.read_shard(path).tried == {221: 1}
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Exception, match="damaged"):
        shards.read_shard(path)


def test_full_disk_is_one_line(libraries, tmp_path, capsys, monkeypatch):
    def full(path, shard):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(shards, "write_shard", full)
    command = ["--output", str(tmp_path / "x"), "--cache", str(libraries), "--process", "ztautau", *SMALL]
    assert main(command) == 2
    assert "no space left" in capsys.readouterr().err
    assert not (tmp_path / "x" / DATA_FILE).exists()


def test_modes_differ_in_what_they_say():
    assert MODES["full"].effort.passes == 1
    assert not MODES["full"].overlaid
    assert MODES["fast"].overlaid


def test_counting_shards_equals_counting_their_events(made, libraries, tmp_path, monkeypatch):
    """Where there is no noise, which depends on a row's place; the sums alone stay, whoever makes them."""
    monkeypatch.setattr("training.sums.choose_points", lambda *_: [(1.0, 1.0, 0.0), (0.99, 1.02, 0.0)])
    given = ["--cache", str(libraries), "--count", str(FIVE_WEIGHTS)]
    assert main([*given, *SMALL, "--output", str(tmp_path / "sums")]) == 0
    count_events.count_events(read_plan(FIVE_WEIGHTS), *parse_parts([str(made)], 0.5), tmp_path / "file")
    shards_of, file = add([tmp_path / "sums"]), add([tmp_path / "file"])
    np.testing.assert_array_equal(shards_of.sums.rows, file.sums.rows)
    assert file.sums.rows.sum() == EventsFile(made, 0.5).total_rows
    for found, expected in (
        (shards_of.counts, file.counts),
        (shards_of.moved, file.moved),
        (shards_of.sums.covariances, file.sums.covariances),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * expected.max())
    metadata = json.loads((made / METADATA_FILE).read_text())["simulation"]["processes"]
    finished = json.loads((tmp_path / "sums" / FINISHED_FILE).read_text())["processes"]
    for name in PROCESSES:
        assert finished[name]["expected"] == pytest.approx(metadata[name]["prediction"])
    with pytest.raises(InputError, match="seed 5"):
        add([tmp_path / "sums", tmp_path / "file"])
    # Fewer events, then as many as before: the same sums, and nothing else in the folder.
    few = [*given, *SMALL[:-1], "4", "--output", str(tmp_path / "again")]
    assert main(few) == 0
    assert main([*few, "--events", "15", "--workers", "2"]) == 0
    every = {path.relative_to(tmp_path / "sums") for path in (tmp_path / "sums").rglob("*") if path.is_file()}
    assert {path.parts[0] for path in every} == {"sums", "counts.json", "finished.json"}
    for path in every:
        assert (tmp_path / "again" / path).read_bytes() == (tmp_path / "sums" / path).read_bytes()
    assert main([*few, "--seed", "4"]) == 2


def test_the_hash_of_the_code_changes_with_what_decides_and_with_nothing_else(tmp_path, monkeypatch):
    for path in origin.HERE.glob("*.py"):
        shutil.copy(path, tmp_path / path.name)
    monkeypatch.setattr(origin, "HERE", tmp_path)

    def hashes():
        code_hash.cache_clear()
        return [code_hash(module) for module in ("production", "underlying", "tau_decays")]

    def edit(name, old, new):
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new, 1))

    before = hashes()
    assert len({*before}) == 3
    edit("underlying.py", '"""Library of', '"""A library of')
    edit("processes.py", "TABLE = {", "# All of them.\nTABLE = {  # one by one")
    edit("joining.py", "GROUPING = 3", "GROUPING = 4")
    assert hashes() == before
    edit("underlying.py", "ETA_MAX = 5.2", "ETA_MAX = 5.3")
    changed = hashes()
    assert changed[0] != before[0]
    assert changed[1] != before[1]
    assert changed[2] == before[2]
    edit("jets.py", "import", "import sys\nimport")
    assert hashes()[0] != changed[0]
    monkeypatch.setattr(origin, "version", lambda _: "0")
    assert not {*hashes()} & {*changed}
    monkeypatch.undo()
    code_hash.cache_clear()


def test_shards_and_libraries_of_other_code_are_not_used(made, libraries, tmp_path, monkeypatch, capsys, caplog):
    copy = shutil.copytree(made, tmp_path / "copy")
    settings = json.loads((copy / shards.SETTINGS_FILE).read_text())
    assert settings["code"] == code_hash("production")
    (copy / shards.SETTINGS_FILE).write_text(json.dumps(settings | {"code": "0" * 64}))
    assert main(["--output", str(copy), "--cache", str(libraries), *SMALL]) == 2
    assert "code (there '000" in capsys.readouterr().err
    old = tmp_path / "20_000000000000_underlying_events.npz"
    write_arrays(old, {})
    with caplog.at_level("WARNING", "sage.training.simulation.origin"):
        assert len(load_underlying(tmp_path, 20)) == 20
    assert f"{old.name} is of other code" in caplog.text
    assert library_path(tmp_path, 20, UNDERLYING_FILE, "underlying").exists()
