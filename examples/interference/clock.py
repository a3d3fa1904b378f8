"""What each step of a study took, kept in a folder: a run that goes on finds most steps done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workshop.files import make_folder, read_object, write_json


@dataclass(frozen=True)
class Spent:
    """Seconds of a step: by the clock on the wall, and of processors, which a busy machine does not lengthen."""

    wall: float = 0.0
    processor: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        """Return what both took one after the other."""
        return Spent(round(self.wall + other.wall, 3), round(self.processor + other.processor, 3))


@dataclass(frozen=True)
class Clock:
    """Times steps, in any process: each has a file of its own.

    Args:
        folder: Of the files.
    """

    folder: Path

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time a step; one whose result was there already keeps its older, longer time."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        found = Spent(time.perf_counter() - wall, time.process_time() - processor)
        if found.wall > self.by_step().get(step, Spent()).wall:
            make_folder(self.folder)
            content = {"step": step, "wall": round(found.wall, 3), "processor": round(found.processor, 3)}
            write_json(self.folder / f"{step.replace(' ', '_')}.json", content)

    def by_step(self) -> dict[str, Spent]:
        """Return what each step took, in order of their names."""
        contents = [read_object(path, "remove it") for path in sorted(self.folder.glob("*.json"))]
        return {str(each["step"]): Spent(float(each["wall"]), float(each["processor"])) for each in contents}

    def by_part(self) -> dict[str, Spent]:
        """Return what all steps that begin with the same word took, added up."""
        found: dict[str, Spent] = {}
        for step, spent in self.by_step().items():
            part = step.partition(" ")[0]
            found[part] = found.get(part, Spent()) + spent
        return found
