"""What is said of the events that pseudo-experiments are drawn from."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from harness.pool_worth import distilled_worth, say_what_a_pool_is_worth

PATH = Path("events.parquet")


def metadata(*worths):
    return {"distill": {"kept": {"processes": {f"p{i}": {"w": w, "largest": h} for i, (w, h) in enumerate(worths)}}}}


def said(caplog, *arguments):
    caplog.clear()
    with caplog.at_level(logging.INFO, "sage.harness"):
        say_what_a_pool_is_worth(PATH, *arguments)
    return [(record.levelno, record.getMessage()) for record in caplog.records]


def test_distilled_events_say_their_own_worth(caplog):
    assert distilled_worth(metadata((0.2, 0.5), (0.05, 0.8))) == pytest.approx((0.25, 0.8))
    heavy = np.full(10, 50.0)
    ((level, text),) = said(caplog, metadata((0.08, 0.5)), 0.5, heavy)
    assert level == logging.INFO
    assert "0.40 statistical" in text
    assert "signal-like bins 0.5" in text
    ((level, text),) = said(caplog, metadata((0.5, 0.5)), 0.5, heavy)
    assert level == logging.WARNING
    assert "1.00 statistical" in text


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"distill": 1},
        {"distill": {"kept": {"processes": {}}}},
        {"distill": {"kept": {"processes": {"a": {"w": 1}}}}},
        metadata((float("nan"), 1.0)),
        metadata((-1.0, 1.0)),
        metadata(("x", 1.0)),
    ],
)
def test_without_it_the_weights_speak(caplog, told):
    assert distilled_worth(told) is None
    ((level, text),) = said(caplog, told, 0.5, np.full(10, 9.0))
    assert level == logging.WARNING
    assert "counts 9.0 times" in text
    assert "about 3.0 statistical" in text
    assert said(caplog, told, 0.5, np.full(10, 0.4)) == []
