"""Distillation: the same expectation with few rows, whatever the seed; bounded weights; the program."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from sage.challenge.nuisances import PROCESSES
from sage.errors import InputError
from scripts.distill import main
from studies.likelihoods import open_weights
from studies.worth import Sensitivity
from tests.ending import exit_code
from tests.events import small_data
from training.events import DATA_FILE, METADATA_FILE, PARENTS_FILE, Events, EventsFile
from training.simulation.distilling import Distilling, Judged, choose, draw_rows, keep_probabilities, rounded


def toy(n=20_000, seed=1):
    """Events in 30 places, of which the last of each process matters most and is rare."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(PROCESSES), n)
    place = np.minimum(rng.geometric(0.15, n) - 1, 29)
    weights = rng.uniform(0.5, 2.0, n) * (1.0 + classes)
    importance = np.exp(0.2 * place) * rng.uniform(0.8, 1.2, n)
    return Events({}, weights, classes, np.arange(n) // 2), Judged(importance, place)


def test_probabilities_are_the_best_ones():
    rng = np.random.default_rng(2)
    weights, importance = rng.uniform(0.1, 1.0, 5000), np.exp(rng.normal(0, 2, 5000))
    for rows in (10, 500, 4000):
        p = keep_probabilities(weights, importance, rows)
        assert p.sum() == pytest.approx(rows)
        below = p < 1.0
        ratio = p[below] / (weights * importance)[below]
        assert ratio.std() < 1e-9 * ratio.mean()
        # Certain rows deserve it.
        assert (ratio.mean() * (weights * importance)[~below] >= 1.0 - 1e-9).all()
    assert (keep_probabilities(weights, importance, 5000) == 1.0).all()


def test_drawn_rows_follow_the_probabilities_in_every_stretch():
    rng = np.random.default_rng(3)
    p = rng.uniform(0, 0.3, 3000)
    order = rng.permutation(3000)
    times = np.zeros(3000)
    for seed in range(400):
        rows = draw_rows(p, order, np.random.default_rng(seed))
        taken = np.isin(order[500:900], rows).sum()
        assert abs(taken - p[order[500:900]].sum()) <= 1.0
        times[rows] += 1
    pull = (times / 400 - p) / np.sqrt(p * (1 - p) / 400 + 1e-6)
    assert abs(pull.mean()) < 0.1
    assert pull.std() < 1.2


def test_expectation_of_each_process_is_kept():
    events, judged = toy()
    before = np.bincount(events.classes, events.weights)
    for seed in range(20):
        kept = choose(events, judged, Distilling(1500, seed, 0.2))
        assert len(kept) == pytest.approx(1500, abs=2)
        np.testing.assert_allclose(np.bincount(kept.classes, kept.weights), before)


def test_yields_of_places_are_unbiased_and_hardly_scatter():
    events, judged = toy()
    # The place can be told from the row kept, because the columns come along.
    marked = Events({"place": judged.place}, events.weights, events.classes, events.keys)
    before = np.bincount(events.classes * 30 + judged.place, events.weights, minlength=120)
    after = []
    for seed in range(100):
        kept = choose(marked, judged, Distilling(1500, seed, 0.2))
        after.append(np.bincount(kept.classes * 30 + kept.columns["place"], kept.weights, minlength=120))
    mean, spread = np.mean(after, axis=0), np.std(after, axis=0)
    filled = before > 0
    assert (np.abs(mean - before)[filled] < 5 * spread[filled] / 10 + 1e-3 * before[filled]).all()


def test_weights_are_bounded_and_the_rare_rows_that_matter_are_light():
    events, judged = toy()
    kept = choose(
        Events({"place": judged.place}, events.weights, events.classes, events.keys), judged, Distilling(1500, 1, 0.2)
    )
    matter = kept.columns["place"] == 29
    assert kept.weights[matter].max() < 0.2 * kept.weights.max()
    assert kept.weights.max() < 5.5 * np.average(kept.weights, weights=kept.weights)


def test_program(demo_weights, tmp_path, capsys):
    n = 12_000
    data = small_data(tmp_path, n)
    parents = np.arange(n) // 2
    pd.DataFrame({"parent": parents}).to_parquet(data / PARENTS_FILE)
    given = ["--data", str(data), "--weights", str(demo_weights), "--rows", "3000"]
    assert main([*given, "--output", str(tmp_path / "one")]) == 0
    assert main([*given, "--output", str(tmp_path / "two")]) == 0
    for name in (DATA_FILE, METADATA_FILE, PARENTS_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert main([*given, "--seed", "2", "--output", str(tmp_path / "three")]) == 0
    assert (tmp_path / "one" / DATA_FILE).read_bytes() != (tmp_path / "three" / DATA_FILE).read_bytes()

    large, small = EventsFile(data, 1.0), EventsFile(tmp_path / "one", 1.0)
    before, after = large.read(large.rows("all")), small.read(small.rows("all"))
    assert len(after) == pytest.approx(3000, abs=5)
    assert set(after.keys) <= set(parents)
    sensitivity = Sensitivity(open_weights(demo_weights))
    sums = []
    for events in (before, after):
        cell = (events.classes, sensitivity.bins(events) + 1)
        sums.append(np.zeros((4, len(sensitivity.gain) + 1)))
        np.add.at(sums[-1], cell, events.weights)
    np.testing.assert_allclose(sums[0].sum(axis=1), sums[1].sum(axis=1), rtol=1e-5)
    told = json.loads((tmp_path / "one" / METADATA_FILE).read_text())["distill"]
    assert told["kept"]["processes"]["ztautau"]["w"] == pytest.approx(sensitivity.measure(after)["ztautau"].w, rel=1e-3)
    assert told["of_rows"] == n
    assert main([*given, "--bits", "13", "--output", str(tmp_path / "coarse")]) == 0
    coarse = EventsFile(tmp_path / "coarse", 1.0).read(range(len(after)))
    for name, column in after.columns.items():
        np.testing.assert_allclose(coarse.columns[name], column, rtol=2.0**-14)
    assert (tmp_path / "coarse" / DATA_FILE).stat().st_size < 0.75 * (tmp_path / "one" / DATA_FILE).stat().st_size
    capsys.readouterr()

    assert main([*given, "--seed", "9", "--output", str(tmp_path / "one")]) == 2
    assert "choose another --output" in capsys.readouterr().err
    for change, message in (
        (["--rows", "20000"], "20000 rows cannot be kept of 12000"),
        (["--rows", "5"], "'5' is not a whole number from 100"),
        (["--floor", "0"], "'0' is not a number above 0"),
    ):
        assert exit_code(main, [*given, *change, "--output", str(tmp_path / "bad")]) == 2
        assert message in capsys.readouterr().err
    (data / PARENTS_FILE).unlink()
    assert main([*given, "--output", str(tmp_path / "bad")]) == 2
    assert "parents.parquet is missing" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [8, 13, 22])
def test_rounding_keeps_so_many_bits(bits):
    rng = np.random.default_rng(4)
    values = (rng.standard_normal(5000) * 10.0 ** rng.uniform(-6, 6, 5000)).astype(np.float32)
    found = rounded(values, bits)
    assert found.dtype == np.float32
    assert (np.abs(found - values) <= np.abs(values) * 2.0 ** -(bits + 1) * (1 + 1e-6)).all()
    assert (np.abs(found - values) > np.abs(values) * 2.0 ** -(bits + 3)).mean() > 0.2
    mantissa, _ = np.frexp(found.astype(np.float64))
    assert (mantissa * 2.0 ** (bits + 1) % 1.0 == 0.0).all()
    exact = np.array([0.0, -25.0, 20.0, 1.0, 3.0, -0.5], np.float32)
    np.testing.assert_array_equal(rounded(exact, bits), exact)
    assert rounded(np.array([1.99999], np.float32), 8)[0] == 2.0
    np.testing.assert_array_equal(rounded(values, 23), values)


def test_a_process_without_any_row_is_an_error():
    events, judged = toy(400)
    weights = np.where(events.classes == 3, 1e-12, events.weights)
    with pytest.raises(InputError, match="none is of diboson; keep more"):
        choose(Events({}, weights, events.classes, events.keys), judged, Distilling(100, 1, 0.2))
