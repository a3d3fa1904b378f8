"""The shifts against the challenge's own program, and on torch tensors against numpy."""

import numpy as np
import pytest
import torch

from sage.challenge.shifts import PRIMARIES, UNDEFINED, select, shift, soft_met_noise, thresholds
from tests.events import JETS, columns_of, mixed_frame, official

POINTS = [
    (1.0, 1.0, 0.0),
    (0.97, 1.0, 0.0),
    (1.0, 1.03, 0.0),
    (1.0, 1.0, 1.3),
    (0.9, 0.9, 5.0),
    (1.1, 1.1, 5.0),
    (0.9, 1.1, 0.001),
    (1.012, 0.987, 2.5),
    tuple(np.array([1.0123, 0.9876, 0.7])),
    tuple(np.array([1.0, 1.0, 0.0])),
    tuple(np.array([0.9, 1.1, 5.0])),
]


@pytest.fixture(scope="module")
def frame():
    return mixed_frame()


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_primaries_are_those_of_the_challenge_bit_for_bit(frame, point):
    expected, expected_rows = official(frame, *point)
    found, rows = select(shift(columns_of(frame), *point))
    np.testing.assert_array_equal(rows, expected_rows)
    for name in PRIMARIES:
        np.testing.assert_array_equal(
            found[name].astype(np.float32), expected[name].to_numpy().astype(np.float32), err_msg=name
        )


def test_input_is_not_changed(frame):
    columns = columns_of(frame)
    before = {name: column.copy() for name, column in columns.items()}
    select(shift(columns, 0.97, 1.02, 1.0))
    for name in PRIMARIES:
        np.testing.assert_array_equal(columns[name], before[name], err_msg=name)


def test_noise_is_that_of_the_challenge():
    x, y = soft_met_noise(5)
    state = np.random.RandomState(31415)
    np.testing.assert_array_equal(x * 2.0, state.normal(0, 2.0, 5))
    np.testing.assert_array_equal(y * 2.0, state.normal(0, 2.0, 5))


def test_given_noise_is_used(frame):
    columns = columns_of(frame)
    zero = np.zeros(len(frame))
    with_zero = shift(columns, soft_met=3.0, noise=(zero, zero))
    without = shift(columns)
    np.testing.assert_allclose(with_zero["PRI_met"], without["PRI_met"], atol=1.1e-3)


def test_selection_of_written_out_events():
    """Loop over events with the thresholds spelled out; the summed pt follows the removed jets."""
    frame = mixed_frame(200)
    shifted = shift(columns_of(frame), 0.99, 0.96)
    found, keep = thresholds(shifted)
    for i in range(len(frame)):
        event = {name: float(shifted[name][i]) for name in PRIMARIES}
        for jet in ("subleading", "leading"):
            if 0.0 <= event[f"PRI_jet_{jet}_pt"] <= 26.0:
                event["PRI_jet_all_pt"] -= event[f"PRI_jet_{jet}_pt"]
                event["PRI_n_jets"] -= 1
                for part in ("pt", "eta", "phi"):
                    event[f"PRI_jet_{jet}_{part}"] = UNDEFINED
        assert bool(keep[i]) == (event["PRI_had_pt"] >= 26.0 and event["PRI_lep_pt"] >= 20.0)
        for name in PRIMARIES:
            assert float(found[name][i]) == pytest.approx(event[name], rel=1e-6, abs=2e-5), (i, name)


def test_tensors_and_broadcast_points_agree_with_numpy(frame):
    columns = columns_of(frame)
    points = [(0.97, 1.02, 0.5), (1.01, 0.96, 4.0), (1.0, 1.0, 0.0)]
    noise = tuple(part.astype(np.float32) for part in soft_met_noise(len(frame)))
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    tes, jes, soft_met = (
        torch.tensor(values, dtype=torch.float32).unsqueeze(1) for values in zip(*points, strict=True)
    )
    moved = shift(tensors, tes, jes, soft_met, noise=tuple(torch.from_numpy(part) for part in noise))
    found, keep = thresholds(moved)
    assert keep.shape == (3, len(frame))
    for k, point in enumerate(points):
        expected, expected_keep = thresholds(shift(columns, *point, noise=noise))
        # A pt within a rounding step of a threshold may fall on either side of it.
        near = np.abs(expected["PRI_had_pt"] - 26.0) < 2e-3
        for jet in JETS:
            near |= np.abs(shift(columns, *point)[f"PRI_jet_{jet}_pt"] - 26.0) < 2e-3
        assert near.mean() < 0.02
        np.testing.assert_array_equal(keep[k].numpy()[~near], expected_keep[~near])
        for name in PRIMARIES:
            value = found[name].expand(3, -1)[k].numpy()
            difference = value - expected[name]
            if name == "PRI_met_phi":
                # The direction of a vanishing vector is decided by rounding, and pi and -pi are one.
                turned = np.remainder(difference + np.pi, 2 * np.pi) - np.pi
                difference = turned * np.minimum(expected["PRI_met"], 1.0)
            assert np.abs(difference[~near]).max() < 2.1e-3, name
