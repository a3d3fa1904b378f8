"""Counts that are added: shards to productions, productions to tables; what does not belong together is refused."""

import dataclasses
import json
import shutil
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest

from sage.binned.counting import NOMINAL
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.errors import InputError
from sage.files.bundle import read_bundle
from scripts import count_events as program
from scripts import make_weights
from studies.worth import gain_of
from tests.ending import exit_code
from tests.events import DATA, DATA_FILE, FIVE_WEIGHTS, ROOT, production_folder
from training import count_events as counting_files
from training.adding import FINISHED_FILE, add, counting, finish, keep, read_counts
from training.build_tables import RESPONSE_FILE
from training.count_events import count_events
from training.counting import Counter, sum_by_parents
from training.simulation import buckets, joining
from training.simulation.joining import join_parts
from training.simulation.parts import parse_parts
from training.simulation.processes import TABLE
from training.sums import count_shard, read_plan, read_sums, sum_shards, sums_path
from workshop.errors import UsageError
from workshop.files import read_arrays, write_arrays

WEIGHTS = FIVE_WEIGHTS
PLAIN = (NOMINAL, (0.99, 1.0, 0.0), (1.0, 1.02, 0.0))
"""Points without noise, which depends on the place of a row in its file."""
ALL_EVENTS = pq.ParquetFile(DATA / DATA_FILE).read_row_group(0).to_pandas().drop_duplicates(list(PRIMARIES))


@dataclass(frozen=True)
class Shard:
    """What ``training.simulation.production.Shard`` holds, without Pythia."""

    values: np.ndarray
    weights: np.ndarray
    codes: np.ndarray
    parents: np.ndarray
    tried: dict[int, int]

    def __len__(self):
        return len(self.weights)


@pytest.fixture(scope="module")
def plan():
    return dataclasses.replace(read_plan(WEIGHTS), points=PLAIN)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    monkeypatch.setattr(joining, "BUCKET_ROWS", 900)
    monkeypatch.setattr(buckets, "BUCKET_ROWS", 900)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two productions, one of all processes, one without H."""
    base = tmp_path_factory.mktemp("productions")
    first, second = ALL_EVENTS[:4000], ALL_EVENTS[4000:7000]
    return (
        production_folder(base / "all", first, 1),
        production_folder(base / "rest", second[second["detailed_labels"] != "htautau"], 2),
    )


@pytest.fixture(scope="module")
def counted(folders, plan, tmp_path_factory):
    """Counts of the two."""
    base = tmp_path_factory.mktemp("counts")
    out = [base / folder.name for folder in folders]
    for folder, output in zip(folders, out, strict=True):
        count_events(plan, *parse_parts([str(folder)], 0.5), output)
    return out


def vector_boson_shards():
    """Three shards of diboson events of three codes, and the same events as one shard."""
    frame = ALL_EVENTS[ALL_EVENTS["detailed_labels"] == "diboson"][:900]
    rng = np.random.default_rng(5)
    # A showered event has one code and lies in one shard.
    parents = np.sort(rng.integers(0, 400, len(frame)))
    code_of = rng.choice([231, 232, 233], 400, p=[0.1, 0.3, 0.6]).astype(np.int16)
    values, weights = frame[list(PRIMARIES)].to_numpy(np.float32), rng.exponential(1.0, len(frame))
    tried = [{231: 50, 232: 170, 233: 400}, {231: 66, 232: 150}, {231: 51, 232: 160, 233: 411}]
    code_of[(code_of == 233) & (np.arange(400) >= 133) & (np.arange(400) < 267)] = 232
    shards = []
    for i, numbers in enumerate(tried):
        rows = np.flatnonzero((parents * 3) // 400 == i)
        own = parents[rows] - parents[rows].min()
        shards.append(Shard(values[rows], weights[rows], code_of[parents[rows]], own, numbers))
    everything = {code: sum(numbers.get(code, 0) for numbers in tried) for code in (231, 232, 233)}
    return shards, Shard(values, weights, code_of[parents], parents, everything)


def agree(one, other, rtol=1e-11):
    for name in ("counts", "moved", "covariance"):
        here, there = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose(here, there, rtol=rtol, atol=rtol * np.abs(there).max(), err_msg=name)
    assert one.rows == other.rows


def test_shards_add_up_to_their_production(plan, tmp_path):
    shards, whole = vector_boson_shards()
    for i, shard in enumerate(shards):
        write_arrays(sums_path(tmp_path, "diboson", i), count_shard(plan, shard, "diboson", i, 7))
    write_arrays(sums_path(tmp_path / "whole", "diboson", 0), count_shard(plan, whole, "diboson", 0, 7))
    process = TABLE["diboson"]
    parts = sum_shards(process, [sums_path(tmp_path, "diboson", i) for i in range(3)])
    once = sum_shards(process, [sums_path(tmp_path / "whole", "diboson", 0)])
    agree(parts, once)
    # Independently: every row with its final weight.
    factors = {code: process.cross_sections[code] * 10 / tried for code, tried in whole.tried.items()}
    weights = whole.weights * np.array([factors[code] for code in whole.codes.tolist()])
    assert parts.total == pytest.approx(weights.sum())
    by_parent = np.bincount(whole.parents, weights)
    assert parts.effective_events == pytest.approx(weights.sum() ** 2 / (by_parent**2).sum())
    # What only one shard would give is another thing: its tried events are not those of the production.
    assert abs(sum_shards(process, [sums_path(tmp_path, "diboson", 0)]).total / parts.total - 1) > 1e-3


def test_noise_differs_from_event_to_event_and_seed_to_seed(plan, tmp_path):
    noisy = dataclasses.replace(plan, points=(NOMINAL, (1.0, 1.0, 3.0)))
    shard = vector_boson_shards()[1]
    found = [
        count_shard(noisy, shard, "diboson", index, seed)["counts"] for index, seed in ((0, 7), (0, 7), (1, 7), (0, 8))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    for other in found[2:]:
        np.testing.assert_array_equal(other[0], found[0][0])
        assert (other[1] != found[0][1]).any()


def test_covariances_add_up_rows_of_one_parent():
    rng = np.random.default_rng(3)
    n, n_classes, n_bins = 300, 2, 5
    parents, weights = rng.integers(0, 90, n), rng.exponential(1.0, n)
    classes = parents % n_classes
    bins = rng.integers(-1, n_bins, (2, n))  # of two regions that overlap
    found = sum_by_parents(parents, classes, bins, weights, n_classes, n_bins)
    expected = np.zeros_like(found.covariances)
    for parent in range(90):
        sums = np.zeros(n_bins + 1)
        for row in np.flatnonzero(parents == parent):
            sums[-1] += weights[row]
            for region in bins[:, row]:
                if region >= 0:
                    sums[region] += weights[row]
        expected[parent % n_classes] += np.outer(sums, sums)
    np.testing.assert_allclose(found.covariances, expected)
    np.testing.assert_array_equal(found.rows, [(classes == 0).sum(), (classes == 1).sum()])
    np.testing.assert_allclose(found.totals, [weights[classes == 0].sum(), weights[classes == 1].sum()])


def test_adding_equals_counting_all_events_at_once(folders, counted, plan, tmp_path):
    joined = tmp_path / "joined"
    join_parts(parse_parts([str(folder) for folder in folders], 0.5), joined, seed=4)
    counter = Counter(joined, 1.0, "all", plan.parameters, plan.normalisation, plan.noise)
    once = counter.count(PLAIN, plan.regions)
    added = add(counted)
    for name, found in (("counts", added.counts), ("moved", added.moved)):
        # The joined file holds weights in single precision.
        np.testing.assert_allclose(found, once[name], rtol=1e-5, atol=1e-6 * once[name].max(), err_msg=name)
    covariances = counter.by_parents(plan.regions).covariances
    np.testing.assert_allclose(added.sums.covariances, covariances, rtol=1e-5, atol=1e-6 * covariances.max())
    np.testing.assert_allclose(added.sums.variances, counter.variances(plan.regions), rtol=1e-5, atol=1e-6)
    assert added.regions == plan.regions
    # The order of the productions does not matter, and shares add up.
    other_way = add(counted[::-1])
    np.testing.assert_allclose(other_way.counts, added.counts, rtol=1e-12)
    for name in PROCESSES:
        assert sum(part["processes"].get(name, {"share": 0})["share"] for part in added.parts) == pytest.approx(1.0)


def test_shares_by_worth_make_the_error_of_mu_smallest(counted, plan):
    gain = gain_of(WEIGHTS)
    folders = [read_counts(folder) for folder in counted]
    by_showers, by_worth = add(counted), add(counted, gain)

    def variance(added, name):
        """Of mu_hat, from the parts and their shares."""
        parts = [part["processes"][name]["share"] if name in part["processes"] else 0.0 for part in added.parts]
        each = [folder.sums[name].variance_along(gain) if name in folder.sums else 0.0 for folder in folders]
        return float(np.array(parts) ** 2 @ np.array(each)), sum(parts)

    for name in PROCESSES:
        (best, total), (other, _) = variance(by_worth, name), variance(by_showers, name)
        inverse = sum(1.0 / folder.sums[name].variance_along(gain) for folder in folders if name in folder.sums)
        assert total == pytest.approx(1.0)
        assert best == pytest.approx(1.0 / inverse)
        assert best <= other * (1 + 1e-12)
        # The added sums hold the same variance: their total is that of the process.
        expected = TABLE[name].expected
        row = list(PROCESSES).index(name)
        along = np.append(gain, -gain @ by_worth.counts[0, row] / expected)
        found = along @ by_worth.sums.covariances[row] @ along / expected**2
        assert found == pytest.approx(best, rel=0.05)
    with pytest.raises(InputError, match=f"{len(gain) - 1} bins, the counts {plan.regions.n_bins}"):
        add(counted, gain[1:])


def test_kept_sums_take_the_place_of_what_they_were_added_from(counted, plan, tmp_path):
    events = production_folder(tmp_path / "more", ALL_EVENTS[7000:10000], 3)
    third = tmp_path / "third"
    count_events(plan, *parse_parts([str(events)], 0.5), third)
    gain, kept = gain_of(WEIGHTS), tmp_path / "kept"
    keep(add(counted, gain), kept)
    direct, in_steps = (add(folders, gain).by_process for folders in ([*counted, third], [third, kept]))
    for name in PROCESSES:
        # Shares differ a little, as the mean effect of an event is taken from each folder; what they are for does not.
        assert in_steps[name].variance_along(gain) == pytest.approx(direct[name].variance_along(gain), rel=2e-3)
    keep(add(counted), kept, overwrite=True)
    once, later = add([*counted, third]), add([third, kept])
    for name in PROCESSES:
        agree(once.by_process[name], later.by_process[name])
    np.testing.assert_allclose(later.counts, once.counts, rtol=1e-11)
    assert {source["sha256"] for source in once.sources} == {source["sha256"] for source in later.sources}
    with pytest.raises(InputError, match=r"give every event once|simulated with seed 1"):
        add([kept, counted[0]])
    with pytest.raises(UsageError, match="production"):
        keep(once, kept)
    keep(once, kept, overwrite=True)
    np.testing.assert_allclose(add([kept]).counts, once.counts, rtol=1e-12)


def test_interrupted_counting_goes_on(folders, plan, counted, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(counting_files, "write_arrays", interrupted)
    piece = parse_parts([str(folders[0])], 0.5)[0]
    with pytest.raises(KeyboardInterrupt):
        count_events(plan, piece, tmp_path / "counts")
    with pytest.raises(InputError, match="finished"):
        read_counts(tmp_path / "counts")
    monkeypatch.undo()
    monkeypatch.setattr("training.counting.CountingJob.__call__", interrupted)
    count_events(plan, piece, tmp_path / "counts")
    for name in PROCESSES:
        once = read_sums(sums_path(counted[0], name, 0))
        for key, array in read_sums(sums_path(tmp_path / "counts", name, 0)).items():
            np.testing.assert_array_equal(array, once[key])


def changed(folder, output, name, change):
    """Copy counts and change an entry of their description."""
    shutil.copytree(folder, output)
    content = json.loads((output / "counts.json").read_text())
    content[name] = change(content[name])
    (output / "counts.json").write_text(json.dumps(content))
    return output


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("network", lambda value: value[::-1], "another network"),
        ("regions", lambda value: value | {"name": "three"}, "other bins"),
        ("points", lambda value: value[:-1], "other nuisance points"),
        ("noise", lambda value: [value[0] + 1, *value[1:]], "other soft-MET noise"),
        ("production", lambda value: value | {"simulation": {"version": 2}}, "of different version"),
        ("production", lambda value: value | {"simulation": {"version": 1, "mode": "full"}}, "of different mode"),
    ],
)
def test_what_does_not_belong_together_is_refused(counted, tmp_path, name, change, message):
    version = {"version": 1}
    first = changed(counted[0], tmp_path / "a", "production", lambda value: value | {"simulation": version})
    second = changed(counted[1], tmp_path / "b", "production", lambda value: value | {"simulation": version})
    np.testing.assert_array_equal(add([first, second]).sums.rows, add(counted).sums.rows)
    with pytest.raises(InputError, match=message):
        add([first, changed(second, tmp_path / "c", name, change)])


def test_productions_of_different_aims_are_added(counted, tmp_path):
    aims = [{"version": 1, "aim": {"name": name}} for name in ("one", "other")]
    folders = [
        changed(counted[i], tmp_path / str(i), "production", lambda value, aim=aim: value | {"simulation": aim})
        for i, aim in enumerate(aims)
    ]
    np.testing.assert_array_equal(add(folders).counts, add(counted).counts)


def test_the_same_events_are_refused(folders, counted, plan, tmp_path):
    with pytest.raises(InputError, match="give every event once"):
        add([counted[0], counted[0]])
    count_events(plan, *parse_parts([f"{folders[0]}:training"], 0.5), tmp_path / "half")
    with pytest.raises(InputError, match="give every event once"):
        add([tmp_path / "half", counted[0]])
    count_events(plan, *parse_parts([f"{folders[0]}:tables"], 0.5), tmp_path / "other_half")
    add([tmp_path / "half", tmp_path / "other_half"])
    # Another file of the same seed.
    shards = {"seed": 1}
    with counting(tmp_path / "shards", plan.identity(), {"simulation": shards, "events": None}):
        shard = vector_boson_shards()[1]
        write_arrays(sums_path(tmp_path / "shards", "diboson", 0), count_shard(plan, shard, "diboson", 0, 1))
        finish(tmp_path / "shards", {"diboson": 1})
    with pytest.raises(InputError, match="diboson simulated with seed 1"):
        add([counted[0], tmp_path / "shards"])


def test_damaged_and_incomplete_counts_are_refused(counted, tmp_path):
    with pytest.raises(InputError, match="holds counts of htautau"):
        add([counted[1]])
    copy = shutil.copytree(counted[0], tmp_path / "copy")
    path = sums_path(copy, "ttbar", 0)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="missing or damaged"):
        add([copy])
    path.unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        add([copy])
    (copy / FINISHED_FILE).write_text("[]")
    with pytest.raises(InputError, match="not an object"):
        add([copy])
    (copy / FINISHED_FILE).write_text("{}")
    with pytest.raises(InputError, match="do not fit together"):
        add([copy])


def test_sums_beyond_those_asked_for_wait_and_other_counts_are_not_mixed(plan, tmp_path):
    production = {"simulation": {"seed": 1}, "events": None}
    shards = vector_boson_shards()[0]
    with counting(tmp_path, plan.identity(), production):
        for i, shard in enumerate(shards):
            write_arrays(sums_path(tmp_path, "diboson", i), count_shard(plan, shard, "diboson", i, 1))
        made = finish(tmp_path, {"diboson": 2})
    assert made["diboson"]["rows"] == len(shards[0]) + len(shards[1])
    assert sums_path(tmp_path, "diboson", 2).exists()
    assert read_counts(tmp_path).sums["diboson"].rows == len(shards[0]) + len(shards[1])
    other = production | {"events": {}}
    with pytest.raises(UsageError, match="production"), counting(tmp_path, plan.identity(), other):
        pass
    with counting(tmp_path, plan.identity(), production):
        assert not (tmp_path / FINISHED_FILE).exists()


def test_programs_make_weights_of_counts(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.sums.choose_points", lambda *_: [*PLAIN, (1.0, 1.0, 1.0)])
    outputs = [str(tmp_path / "counts" / folder.name) for folder in folders]
    for folder, output in zip(folders, outputs, strict=True):
        assert exit_code(program.main, ["--data", str(folder), "--weights", str(WEIGHTS), "--output", output]) == 0
    given = ["--add", *outputs, "--network", str(WEIGHTS), "--output", str(tmp_path / "weights")]
    assert exit_code(make_weights.main, given) == 0
    bundle = read_bundle(tmp_path / "weights")
    added = add([*map(type(tmp_path), outputs)], gain_of(WEIGHTS))
    np.testing.assert_allclose(bundle.response.nominal, added.counts[0], rtol=1e-12)
    for name, array in read_bundle(WEIGHTS).network.items():
        np.testing.assert_array_equal(bundle.network[name], array)
    assert [part["folder"] for part in bundle.origin["tables"]["data"]["added"]] == ["all", "rest"]
    assert bundle.origin["config"]["tables"]["nodes"] == 4
    first = (tmp_path / "weights" / RESPONSE_FILE).read_bytes()
    again = [*given[:-1], str(tmp_path / "again"), "--sums", str(tmp_path / "sums")]
    assert exit_code(make_weights.main, again) == 0
    np.testing.assert_allclose(add([tmp_path / "sums"]).counts, added.counts, rtol=1e-12)
    from_sums = ["--add", str(tmp_path / "sums"), "--network", str(WEIGHTS), "--output", str(tmp_path / "from_sums")]
    assert exit_code(make_weights.main, from_sums) == 0
    of_sums = read_bundle(tmp_path / "from_sums")
    np.testing.assert_allclose(of_sums.response.nominal, bundle.response.nominal, rtol=1e-11)
    unasked = ["--data", str(folders[0]), "--sums", str(tmp_path / "none"), "--output", str(tmp_path / "none_made")]
    assert exit_code(make_weights.main, unasked) == 2
    assert "--sums has no meaning without --add" in capsys.readouterr().err
    assert (tmp_path / "again" / RESPONSE_FILE).read_bytes() == first
    capsys.readouterr()
    for more, message in (
        (["--nodes", "30"], "--nodes has no meaning with --add"),
        (["--data", str(folders[0])], "not allowed with"),
        (["--seed", "3"], "--seed has no meaning"),
    ):
        assert exit_code(make_weights.main, [*given, *more]) == 2
        assert message in capsys.readouterr().err
    assert exit_code(make_weights.main, [*given[:3], "--output", str(tmp_path / "none")]) == 2
    assert "--add needs --network" in capsys.readouterr().err
    other = shutil.copytree(WEIGHTS, tmp_path / "other")
    write_arrays(other / "network.npz", {name: array + 1 for name, array in read_arrays(other / "network.npz").items()})
    given[given.index("--network") + 1] = str(other)
    assert exit_code(make_weights.main, [*given[:-1], str(tmp_path / "x")]) == 2
    assert "network.npz: sha256" in capsys.readouterr().err
    (other / "manifest.json").unlink()
    assert exit_code(make_weights.main, [*given[:-1], str(tmp_path / "x")]) == 2
    assert "another network" in capsys.readouterr().err


def test_the_sums_behind_the_shipped_tables_give_them_again():
    """So that further productions can be added to what is shipped."""
    added, shipped = add([ROOT / "data" / "counts"]), read_bundle(ROOT / "weights")
    np.testing.assert_allclose(added.counts[0], shipped.response.nominal, rtol=1e-12)
    assert added.plan == read_plan(ROOT / "weights").identity()
