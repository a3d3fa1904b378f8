"""What a submission makes of the whole pool of events in place of a draw from it.

Every event is there once, with its expected number of copies as its weight. A submission that counts weights then
answers without any fluctuation of the data: how far its mu_hat is from the truth comes from the pool's events and the
submission's templates alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.experiment import Answer
from sage.challenge.nuisances import CHALLENGE
from workshop.files import write_json

POOL_FILE = "pool.json"
"""Answers about the pool, in the folder of a run."""


@dataclass(frozen=True)
class PoolPoint:
    """True signal strength and shape nuisances; the rates are 1."""

    mu: float
    tes: float = 1.0
    jes: float = 1.0
    soft_met: float = 1.0

    def nuisances(self) -> dict[str, float | None]:
        """Return the physical value of each nuisance by name."""
        shapes: dict[str, float | None] = {"tes": self.tes, "jes": self.jes, "soft_met": self.soft_met}
        return shapes | {nuisance.name: 1.0 for nuisance in CHALLENGE if nuisance.kind != "shape"}


def write_answers(folder: Path, points: Sequence[PoolPoint], answers: Mapping[PoolPoint, Answer]) -> None:
    """Write what a submission answered at each point, and the counts behind it where its ``last_result`` has them."""
    counts = [{"counts": (answers[point].result or {}).get("counts")} for point in points]
    entries = [asdict(point) | answers[point].values for point in points]
    write_json(folder / POOL_FILE, [a | b for a, b in zip(entries, counts, strict=True)])


def read_answers(folder: Path, points: Sequence[PoolPoint]) -> list[dict[str, Any]] | None:
    """Return point and answer of each point; None if there is no file with just these points."""
    try:
        found = json.loads((folder / POOL_FILE).read_text(encoding="utf-8"))
        there = [PoolPoint(**{name: entry[name] for name in ("mu", "tes", "jes", "soft_met")}) for entry in found]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if there == list(points) else None
