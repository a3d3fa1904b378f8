"""Standard position: unchanged by the symmetries, and a symmetry itself."""

import math

import numpy as np
import pytest
import torch

from sage.challenge.ditau import ditau
from sage.challenge.features import angular_distances, derived
from sage.challenge.position import TURNED, standard_position
from sage.challenge.shifts import select, shift
from sage.network.graph import WITH_DITAU, raw_inputs
from tests.events import columns_of, embedded_frame, moved
from training.inputs import draw_points, inputs_at_points

SYMMETRIES = ("rotation", "mirror in phi", "mirror in eta")


@pytest.fixture(scope="module")
def columns():
    """Primary columns, without events that lie on the edge of a mirror."""
    found = {
        name: column.astype(np.float64) for name, column in select(shift(columns_of(embedded_frame(4000))))[0].items()
    }
    between = np.abs(found["PRI_lep_phi"] - found["PRI_had_phi"])
    open_angle = (np.abs(between - math.pi) > 1e-3) & (np.abs(np.sin(between)) > 1e-3)
    keep = open_angle & (np.abs(found["PRI_lep_eta"] + found["PRI_had_eta"]) > 1e-6)
    return {name: column[keep] for name, column in found.items()}


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_symmetries_change_no_input(columns, symmetry):
    (before, defined), (after, again) = (
        raw_inputs(events, derived(events), WITH_DITAU) for events in (columns, moved(columns, symmetry))
    )
    np.testing.assert_array_equal(defined, again)
    for i, name in enumerate(WITH_DITAU.columns):
        off = np.abs(np.where(defined[:, i], after[:, i] - before[:, i], 0.0))
        if name.endswith("_phi"):
            # What lies exactly behind the bisector is at pi or at -pi.
            off = np.minimum(off, np.abs(2 * math.pi - off))
        scale = np.std(before[defined[:, i], i])
        # Single events of the di-tau likelihood in float32.
        assert np.quantile(off, 0.999) < 2e-4 * scale, name
        assert off.max() < 0.02 * scale, name


def test_the_published_inputs_are_not_turned(columns):
    before, after = (raw_inputs(events, derived(events))[0] for events in (columns, moved(columns, "rotation")))
    assert np.abs(after - before).max() > 1.0


def test_turning_is_a_symmetry(columns):
    """Energies and distances of turned events are those of the events; what turned events turn to is themselves."""
    turned = columns | {name.removeprefix(TURNED): column for name, column in standard_position(columns).items()}
    for function in (derived, angular_distances, ditau):
        expected, found = function(columns), function(turned)
        jets = columns["PRI_n_jets"] >= 2
        for name, column in expected.items():
            rows = jets if "jet" in name else slice(None)
            np.testing.assert_allclose(found[name][rows], column[rows], rtol=1e-6, atol=1e-5, err_msg=name)
    for name, column in standard_position(turned).items():
        np.testing.assert_allclose(column, turned[name.removeprefix(TURNED)], atol=1e-9, err_msg=name)


def test_position_is_what_it_says(columns):
    found = standard_position(columns)
    lep, had = (found[f"{TURNED}PRI_{body}_phi"] for body in ("lep", "had"))
    assert (lep >= 0).all()
    np.testing.assert_array_equal(had, -lep)
    assert (found[f"{TURNED}PRI_lep_eta"] + found[f"{TURNED}PRI_had_eta"] >= 0).all()
    assert all(np.abs(column).max() <= math.pi + 1e-12 for name, column in found.items() if name.endswith("_phi"))


def test_tensors_at_many_points_agree_with_numpy(columns):
    events = {name: column.astype(np.float32) for name, column in columns.items()}
    n, width = len(events["PRI_met"]), len(WITH_DITAU.columns)
    points = draw_points(np.random.default_rng(1), 2, n, torch.device("cpu"), "nominal")
    tensors = {name: torch.from_numpy(column) for name, column in events.items()}
    found = inputs_at_points(tensors, points, torch.zeros(width), torch.ones(width), WITH_DITAU)[0]
    values, defined = raw_inputs(events, derived(events), WITH_DITAU)
    places = [i for i, name in enumerate(WITH_DITAU.columns) if name.startswith(TURNED)]
    assert len(places) == 9
    expected = np.where(defined, values, 0.0)[:, places]
    for point in found.numpy():
        np.testing.assert_allclose(point[:, places], expected, atol=2e-6)
