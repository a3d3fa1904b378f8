"""Tables against events that did not make them: errors, faults, what is refused, program and report."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from report.studies import check_section
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from sage.files.bundle import read_bundle
from scripts import check_tables as program
from scripts import make_weights
from studies import table_check
from studies.table_check import CHECK_FILE, check_tables, compare_mu, compare_yields, normalised, summary
from tests.ending import exit_code
from tests.events import DATA, DATA_FILE, FIVE_WEIGHTS, ROOT, production_folder
from training.config import read_config
from training.count_events import count_events
from training.counting import Counter
from training.make_weights import add_weights
from training.make_weights import make_weights as make_tables
from training.simulation.parts import parse_parts
from training.sums import read_plan
from workshop.errors import UsageError

WEIGHTS = FIVE_WEIGHTS
POINTS = ((1.0, 1.0, 0.0), (0.99, 1.0, 0.0), (1.0, 1.02, 0.0))
Z = PROCESSES.index("ztautau")


def piece_of(folder):
    return parse_parts([str(folder)], 0.5)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Events that make tables, and others."""
    base = tmp_path_factory.mktemp("events")
    frame = pq.ParquetFile(DATA / DATA_FILE).read().to_pandas().drop_duplicates(list(PRIMARIES))
    halves = frame[:30_000], frame[30_000:60_000]
    return [production_folder(base / name, half, seed) for name, half, seed in zip("ab", halves, (1, 2), strict=True)]


@pytest.fixture(scope="module")
def weights(folders, tmp_path_factory):
    base = tmp_path_factory.mktemp("weights")
    count_events(replace(read_plan(WEIGHTS), points=POINTS), piece_of(folders[0]), base / "counts")
    config = read_config(ROOT / "training" / "configs" / "default.yaml")
    add_weights(config, [base / "counts"], WEIGHTS, base / "build", base / "weights")
    return base / "weights"


@pytest.fixture(scope="module")
def sample(folders):
    bundle = read_bundle(WEIGHTS)
    counter = Counter(folders[1], 0.5, "all", bundle.network, bundle.normalisation)
    return normalised(counter.by_parents(bundle.regions))


def test_halves_agree_and_errors_are_those_of_whole_showers(weights, folders):
    found = check_tables(weights, piece_of(folders[1]))
    pulls = [entry["pull"] for name in ("yields", "mu") for entry in found[name]]
    assert len(pulls) > 20
    assert np.abs(pulls).max() < 4.5
    assert 0.5 < np.std(pulls) < 1.6
    assert found["tables_errors"] == "by showered events"
    # Errors, row by row: events of a shower together, for a known total.
    file = piece_of(folders[1]).file
    events = file.read(file.rows("all"))
    scale = events.weights / np.bincount(events.classes, events.weights)[events.classes]
    two = (events.columns["PRI_jet_leading_pt"] > 50) & (events.columns["PRI_jet_subleading_pt"] > 30)
    selected = (events.columns["PRI_had_pt"] >= 26) & (events.columns["PRI_lep_pt"] >= 20)
    entries = [entry for entry in found["yields"] if entry["process"] == "ttbar"]
    both = {entry["place"]: entry for entry in entries if entry["place"] in ("lowMT_VBF", "highMT_VBF")}
    inside = (two & selected).astype(float)
    here = events.classes == PROCESSES.index("ttbar")
    share = (scale * inside)[here].sum()
    assert sum(entry["sample"] for entry in both.values()) == pytest.approx(44_190.0 * share, rel=1e-4)
    whole = next(entry for entry in entries if entry["place"] == "all")
    share = (scale * selected)[here].sum()
    moves = np.bincount(np.unique(events.keys[here], return_inverse=True)[1], (scale * (selected - share))[here])
    assert whole["sample_error"] == pytest.approx(44_190.0 * np.sqrt((moves**2).sum()), rel=1e-4)
    assert whole["published"] == 41283.4
    assert whole["published_pull"] == pytest.approx((whole["tables"] - 41283.4) / whole["tables_error"])


def test_a_fault_of_the_tables_is_seen(sample):
    """Z of the most signal-like region is low, as it once was."""
    bundle = read_bundle(WEIGHTS)
    place = bundle.regions.slices["lowMT_VBF"]
    nominal = sample.yields.copy()
    right = replace(bundle, response=replace(bundle.response, nominal=nominal))
    assert all(abs(entry["pull"]) < 1e-9 for entry in compare_yields(right, sample))
    assert all(abs(entry["shift"]) < 1e-9 for entry in compare_mu(right, sample))
    nominal = nominal.copy()
    nominal[Z, place] *= 0.5
    wrong = replace(bundle, response=replace(bundle.response, nominal=nominal))
    yields = {(entry["place"], entry["process"]): entry for entry in compare_yields(wrong, sample)}
    assert yields["lowMT_VBF", "ztautau"]["pull"] < -3
    assert yields["lowMT_VBF", "ztautau"]["published_pull"] < -3
    assert yields["lowMT_noVBF_lowPtH", "ztautau"]["pull"] == pytest.approx(0.0, abs=1e-9)
    shifts = {entry["process"]: entry["shift"] for entry in compare_mu(wrong, sample)}
    assert shifts["ztautau"] > 0.5
    assert shifts["all"] == pytest.approx(shifts["ztautau"])
    texts = table_check.beyond(yields["lowMT_VBF", "ztautau"])
    assert [text.partition(":")[0] for text in texts] == [
        "ztautau in lowMT_VBF against the sample",
        "ztautau in lowMT_VBF against the published yield",
    ]


def test_events_that_made_the_tables_are_refused(weights, folders, tmp_path):
    with pytest.raises(InputError, match="give every event once"):
        check_tables(weights, piece_of(folders[0]))
    config = replace(read_config(ROOT / "training" / "configs" / "default.yaml", nodes=20), table_fraction=1.0)
    make_tables(config, folders[1], tmp_path / "build", tmp_path / "weights", network=WEIGHTS)
    with pytest.raises(UsageError, match="were made from this file"):
        check_tables(tmp_path / "weights", piece_of(folders[1]))


def test_programs_and_report(weights, folders, tmp_path, capsys):
    given = ["--data", str(folders[1]), "--weights", str(weights), "--output", str(tmp_path / "check")]
    assert exit_code(program.main, given) == 0
    found = json.loads((tmp_path / "check" / CHECK_FILE).read_text())
    captured = capsys.readouterr()
    assert summary(found) in captured.out
    for text in found["beyond"]:
        assert text in captured.err
    section = check_section(tmp_path / "check")
    assert [len(block.rows) for block in section.blocks] == [len(found[name]) for name in ("mu", "yields", "chi2")]
    assert f"of {found['comparisons']} comparisons" in section.text
    counts = weights.parent / "counts"
    made = ["--add", str(counts), "--network", str(WEIGHTS), "--build", str(tmp_path / "build")]
    made += ["--output", str(tmp_path / "weights"), "--check", str(folders[1])]
    assert exit_code(make_weights.main, made) == 0
    again = json.loads((tmp_path / "build" / CHECK_FILE).read_text())
    assert again == found
    assert exit_code(program.main, [*given[:1], str(tmp_path / "none"), *given[2:]]) == 2
    (tmp_path / "check" / CHECK_FILE).write_text("{}")
    with pytest.raises(UsageError, match=CHECK_FILE):
        check_section(tmp_path / "check")
