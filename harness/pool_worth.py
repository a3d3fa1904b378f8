"""What the events that pseudo-experiments are drawn from are worth, said to the user.

All pseudo-experiments repeat the events of the test part. What these fluctuate shifts mu_hat alike in all of them, by
about sqrt(w) statistical standard deviations, unless the tables were made from the same events; w is the variance of
mu_hat from the events over that from the data's statistics.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger("sage.harness.pool_worth")

HEAVY = 0.5
"""Effective weight from which on a pool is too small to judge a submission: 0.02 in the public data set."""


def distilled_worth(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return w of all events of a file of ``scripts.distill`` and the largest row weight in signal-like bins.

    Args:
        metadata: What stands beside the events; None is returned if it does not say.
    """
    found: Any = metadata
    for key in ("distill", "kept", "processes"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not found:
        return None
    try:
        w = sum(float(worth["w"]) for worth in found.values())
        largest = max(float(worth["largest"]) for worth in found.values())
    except (KeyError, TypeError, ValueError):
        return None
    return (w, largest) if math.isfinite(w) and math.isfinite(largest) and w >= 0.0 else None


def say_what_a_pool_is_worth(
    path: Path, metadata: Mapping[str, Any], fraction: float, background: np.ndarray[Any, Any]
) -> None:
    """Log how far the events themselves move mu_hat, as a warning where it is much.

    Args:
        path: The events file.
        metadata: What stands beside it.
        fraction: Share of the file that the pool is.
        background: Weights of the pool's background events, shape (n,).
    """
    worth = distilled_worth(metadata)
    if worth:
        w = worth[0] / fraction
        logger.log(
            logging.WARNING if w > HEAVY else logging.INFO,
            "%s: distilled events, largest weight in signal-like bins %.2g in the whole file; those of the test part "
            "move mu_hat by about %.2f statistical standard deviations, in all pseudo-experiments alike",
            *(path, worth[1], w**0.5),
        )
        return
    heavy = float((background**2).sum() / max(background.sum(), 1e-300))
    if heavy > HEAVY:
        logger.warning(
            "%s: a background event of the test part counts %.1f times in every pseudo-experiment; that alone "
            "moves mu_hat by about %.1f statistical standard deviations, in all of them alike, so this rehearses "
            "a run but does not judge a submission (but for tables made from the same events); use more events",
            *(path, heavy, heavy**0.5),
        )
