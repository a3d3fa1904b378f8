"""Pictures of simulated events beside reference events: every feature has a label, odd samples do not stop them."""

from __future__ import annotations

import numpy as np

from sage.challenge.nuisances import PROCESSES
from tests.events import columns_of, embedded_frame
from training.simulation.comparison import FEATURES, Sample
from training.simulation.comparison_plots import LABELS, draw_features
from workshop.labels import PROCESS_LABELS, PROCESS_NAMES
from workshop.plots import image


def sample(rows):
    frame = embedded_frame(2000).iloc[rows]
    return Sample(columns_of(frame), frame["weights"].to_numpy(np.float64), np.arange(len(frame)))


def test_every_feature_is_drawn_with_its_label_and_a_ratio():
    parts = {"simulation": slice(0, 1000), "real events": slice(0, 300), "reference": slice(1000, 2000)}
    samples = {name: sample(rows) for name, rows in parts.items()}
    figure = draw_features(samples, "ztautau")
    labels = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert labels == [LABELS[name] for name in FEATURES]
    assert len(figure.axes) == 2 * len(FEATURES)
    assert image(figure, "png").startswith(b"\x89PNG")


def test_pictures_and_tables_have_names_for_every_process():
    assert set(PROCESSES) == set(PROCESS_LABELS) == set(PROCESS_NAMES)
    assert set(FEATURES) == set(LABELS)


def test_a_ratio_compares_equal_samples_to_one():
    same = sample(slice(0, 1200))
    figure = draw_features({"simulation": same, "reference": same}, "htautau")
    lower = next(axes for axes in figure.axes if axes.get_xlabel() == LABELS["PRI_had_pt"])
    steps = [patch.get_data() for patch in lower.patches]
    (ratio,) = (step.values for step in steps if np.ndim(step.baseline) == 0)
    np.testing.assert_allclose(ratio[np.isfinite(ratio)], 1.0)
