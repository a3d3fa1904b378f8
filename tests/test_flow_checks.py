"""How well flows describe events: against Gaussians whose separation is known, and the program."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from sage.errors import SettingsError
from scripts import check_flows
from studies import flow_checks
from studies.flow_checks import CHECKS_FILE, CONTROL, Weighted, sampled, separation
from tests.events import small_data
from training.flow_features import LOSSES, PUBLISHED_FLOWS
from training.flows import PUBLISHED, CouplingFlow, FlowSettings


def gaussian(n, shift, seed, copies=1):
    """Events of three columns, the first of which is shifted; each shower has so many equal rows."""
    values = np.random.default_rng(seed).normal((shift, 0.0, 0.0), 1.0, (n, 3))
    return Weighted(np.repeat(values, copies, axis=0), np.ones(n * copies), np.repeat(np.arange(n), copies))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_gaussians_are_separated_as_far_as_they_are(shift):
    """The best area is the probability that the difference of two shifts is positive; trees get nearly there."""
    found = separation(gaussian(6000, shift, 1), gaussian(6000, 0.0, 2), seed=3)
    exact = norm.cdf(shift / math.sqrt(2.0))
    assert exact - 0.02 - 4 * found["error"] < found["value"] < exact + 4 * found["error"]
    # Hanley and McNeil, Radiology 143 (1982) 29.
    positive = exact / (2.0 - exact) - exact**2 + 2.0 * exact**2 / (1.0 + exact) - exact**2
    assert found["error"] == pytest.approx(math.sqrt(positive / 6000), rel=0.4)


def test_weights_count_as_events_do():
    """Events of two kinds, the weights of which undo that one of them is drawn three times as often."""
    rng = np.random.default_rng(1)
    second = rng.random(8000) < 0.75
    values = rng.normal(size=(8000, 2)) + np.where(second, 2.0, 0.0)[:, None]
    even = rng.normal(size=(8000, 2)) + np.where(rng.random(8000) < 0.5, 2.0, 0.0)[:, None]
    numbers = np.arange(8000)
    reference = Weighted(even, np.ones(8000), numbers)
    plain = separation(Weighted(values, np.ones(8000), numbers), reference, seed=1)
    weighted = separation(Weighted(values, np.where(second, 1.0 / 3.0, 1.0), numbers), reference, seed=1)
    assert plain["value"] > 0.58
    assert weighted["value"] == pytest.approx(0.5, abs=4 * weighted["error"])


def test_rows_of_one_shower_are_not_independent():
    single = separation(gaussian(500, 1.0, 1), gaussian(500, 0.0, 2), seed=3)
    copied = separation(gaussian(500, 1.0, 1, 8), gaussian(500, 0.0, 2, 8), seed=3)
    alone = separation(gaussian(4000, 1.0, 1), gaussian(4000, 0.0, 2), seed=3)
    assert copied["error"] == pytest.approx(single["error"], rel=0.5)
    assert copied["error"] > 2.0 * alone["error"]
    assert copied["value"] < 0.76 + 4 * copied["error"]  # copies in both halves would be learnt by heart
    with pytest.raises(SettingsError, match="49 independent"):
        separation(gaussian(49, 1.0, 1, 100), gaussian(500, 0.0, 2), seed=3)


def test_samples_are_those_of_the_flow():
    torch.manual_seed(1)
    flow = CouplingFlow(4, FlowSettings("affine", 3, (8,)))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter *= 3.0
    found = sampled(flow.layers(), 20_000, seed=2)
    with torch.no_grad():
        z, slopes = flow(torch.from_numpy(found.values))
    assert float(slopes.abs().max()) > 0.3
    np.testing.assert_allclose(z.mean(dim=0), 0.0, atol=4 / math.sqrt(20_000))
    np.testing.assert_allclose(np.cov(z.numpy().T), np.eye(4), atol=6 / math.sqrt(20_000))
    with pytest.raises(SettingsError, match="quadratic"):
        sampled(CouplingFlow(4, PUBLISHED).layers(), 10, seed=1)


def test_the_program_compares_all_flows_with_events_they_have_not_seen(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(flow_checks, "TREES", 5)
    monkeypatch.setattr(flow_checks, "BINS", 8)
    (tmp_path / "events").mkdir()
    events = str(small_data(tmp_path / "events", 20_000))
    given = ["--data", events, "--test", events, "--output", str(tmp_path / "out"), "--most", "500"]
    given += ["--flow-rows", "200", "--flow-epochs", "1"]
    assert check_flows.main(given) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / CHECKS_FILE).read_text())
    found = {(one["category"], one["flow"]): one for one in content["separations"]}
    for category, flows in PUBLISHED_FLOWS.items():
        for name in (*(f"{LOSSES[0]} {flow}" for flow in flows), "likelihood signal", "likelihood background"):
            assert 0.4 < found[category, name]["auc"]["value"] <= 1.0
            assert found[category, name]["class"] in name
            assert name in printed
        control = [one for one in content["separations"] if (one["category"], one["flow"]) == (category, CONTROL)]
        assert [one["class"] for one in control] == ["signal", "background"]
        assert all(0 < one["events"] <= 500 for one in control)
