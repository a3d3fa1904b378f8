"""The comparison of classifiers with and without flows, and coverage in toys of events."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from methods.mass_histogram.model import NoClassifier
from sage.binned.regions import Region, RegionSet
from sage.errors import FitError, SettingsError
from sage.fit.interval import Interval
from scripts import ablate_flows
from studies.event_coverage import event_coverage, summary
from tests.conftest import EVENTS
from tests.events import small_data
from training.events import EventsFile
from training.flow_ablation import ABLATION_FILE, AblationSettings, compared, table


def run(seed, entropy, information, noise):
    rng = np.random.default_rng(seed)
    resampled = information * (1.0 + noise * rng.normal(size=40))
    return {
        "seed": seed,
        "cross_entropy": entropy,
        "information": information,
        "resampled": resampled.tolist(),
        "sigma_mu": information**-0.5,
    }


def results(entropy, factor):
    """Two kinds of classifiers, the second with another cross entropy and so many times the information."""
    without = [run(seed, 0.5 + 0.01 * seed, 16.0, 0.05) for seed in range(5)]
    flows = [run(seed, 0.5 + 0.01 * seed + entropy + 0.001 * (-1) ** seed, 16.0 * factor, 0.05) for seed in range(5)]
    return {"columns, none": without, "columns, contrastive": flows}


def test_differences_are_those_of_equal_seeds():
    found = compared(results(-0.01, 1.1))["columns, contrastive"]
    change = found["change_of_cross_entropy"]
    assert change["value"] == pytest.approx(-0.01 + 0.001 / 5)
    assert change["error"] == pytest.approx(np.std([1, -1, 1, -1, 1], ddof=1) * 0.001 / math.sqrt(5))
    assert change["error"] < found["cross_entropy"]["error"] / 5
    ratio = found["ratio_of_sigma_mu"]
    assert ratio["value"] == pytest.approx(1.1**-0.5)
    assert ratio["error"] == pytest.approx(0.0, abs=1e-9)  # both have the same resampled showers
    assert found["sigma_mu"]["value"] == pytest.approx((16 * 1.1) ** -0.5)


@pytest.mark.parametrize(
    ("entropy", "factor", "pays"), [(-0.01, 1.1, True), (-0.01, 1.01, False), (-0.0005, 1.1, False), (0.01, 1.1, False)]
)
def test_flows_pay_by_both_or_not_at_all(entropy, factor, pays):
    content = {"compared": compared(results(entropy, factor))}
    assert content["compared"]["columns, contrastive"]["pays"] is pays
    assert ("yes" in table(content)) is pays


def test_one_seed_is_refused():
    with pytest.raises(SettingsError, match="1 seeds"):
        AblationSettings(seeds=1)


@pytest.mark.slow
def test_the_program_goes_on_where_it_stopped(tmp_path, capsys):
    (tmp_path / "events").mkdir()
    events = str(small_data(tmp_path / "events", 3000))
    given = ["--data", events, "--rows", "2500", "--test", events, "--output", str(tmp_path / "out")]
    given += ["--flow-rows", "100", "--flow-epochs", "1", "--epochs", "1", "--seeds", "2"]
    assert ablate_flows.main(given) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / ABLATION_FILE).read_text())
    names = [f"{base}, {flows}" for base in ("columns", "network") for flows in ("none", "contrastive", "two_flows")]
    assert list(content["classifiers"]) == names
    assert all(name in printed for name in names)
    assert (tmp_path / "out" / "ablation.png").read_bytes().startswith(b"\x89PNG")
    for runs in content["classifiers"].values():
        assert [one["seed"] for one in runs] == [31415, 31416]
        assert all(0.1 < one["cross_entropy"] < 1.0 for one in runs)
    removed = tmp_path / "out" / "classifiers" / "network_none_31415.json"
    others = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_*.*") if path != removed}
    assert len(others) == 11 + 2 * 2 * 2
    removed.unlink()
    assert ablate_flows.main(given) == 0
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert json.loads((tmp_path / "out" / ABLATION_FILE).read_text()) == content
    assert ablate_flows.main([*given, "--test", str(tmp_path / "none")]) == 2


def counting(counts, bundle, deadline):
    """An estimator that knows the expected events: the deviation of the total in units of its error."""
    del deadline
    total, n = bundle.expected, counts.sum()
    if n > bundle.largest:
        msg = "too many"
        raise FitError(msg)
    mu = 1.0 + (n - total) / math.sqrt(total)
    return Interval(SimpleNamespace(mu=mu), mu - 1.0, mu + 1.0)


def test_event_toys_cover_where_the_error_is_right():
    """The rates of the backgrounds vary, so that intervals of Poisson width cover too little, and shifts move all."""
    file = EventsFile(EVENTS, 0.0)
    events = file.read(range(3000))
    regions = RegionSet("mass", (Region("all", (), "m_vis", edges=(0.0, 60.0, 300.0)),), exclusive=True)
    weights = events.weights * (2000.0 / events.weights.sum())
    events = type(events)(events.columns, weights, events.classes, events.keys)
    selected = (events.columns["PRI_had_pt"] >= 26) & (events.columns["PRI_lep_pt"] >= 20)
    bundle = SimpleNamespace(regions=regions, expected=float(weights[selected].sum()), largest=math.inf)
    seen = []
    found = event_coverage(events, bundle, NoClassifier(), {"one": counting}, [1.0], 6, 30, 1, seen.append)
    assert len(seen) == 1
    assert seen[-1] == found
    (entry,) = found["one"]["mus"]
    assert entry["failed"] == 0
    assert 0.3 < entry["coverage"]["value"] <= 0.75
    assert entry["width"]["value"] == pytest.approx(2.0)
    assert entry["spread"]["value"] > 0.8
    again = event_coverage(events, bundle, NoClassifier(), {"one": counting}, [1.0], 6, 30, 1)
    assert again == found
    bundle.largest = bundle.expected
    assert (
        event_coverage(events, bundle, NoClassifier(), {"one": counting}, [1.0], 6, 30, 1)["one"]["mus"][0]["failed"]
        > 30
    )
    bundle.largest = math.inf
    bundle.templates = SimpleNamespace(terms=lambda point: np.full((1, 4, 2), 0.125 * bundle.expected))
    (smooth,) = event_coverage(None, bundle, NoClassifier(), {"one": counting}, [1.0], 20, 100, 1)["one"]["mus"]
    assert abs(smooth["bias"]["value"]) < 4 * smooth["bias"]["error"]
    assert smooth["spread"]["value"] > 1.0  # Poisson and the rates
    with pytest.raises(SettingsError, match="1 points"):
        event_coverage(events, bundle, NoClassifier(), {"one": counting}, [1.0], 1, 30, 1)


def test_a_summary_of_gaussian_toys():
    rng = np.random.default_rng(1)
    mu_hat = rng.normal(1.0, 0.2, (1, 200, 50))
    found = summary([1.0], np.stack([mu_hat, mu_hat - 0.2, mu_hat + 0.2], axis=3))["mus"][0]
    assert abs(found["coverage"]["value"] - 0.6827) < 4 * found["coverage"]["error"]
    assert found["coverage"]["error"] == pytest.approx(math.sqrt(0.6827 * 0.3173 / 10_000), rel=0.2)
    assert found["spread"]["value"] == pytest.approx(0.2, abs=4 * found["spread"]["error"])
    assert found["ratio"]["value"] == pytest.approx(1.0, abs=0.03)
    assert found["met"]
