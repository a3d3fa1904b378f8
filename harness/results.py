"""The files of a run.

``experiments.jsonl`` gets one line per finished pseudo-experiment, so a killed run loses what was being computed and
nothing else. ``run.json`` holds what the run is made of; a run continues only with the same;
``environment.json`` tells data file, versions and machine. The official files
(``test_settings.json``, ``result_N.json``, ``ingestion_duration.json``) can be given to the official scoring program.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.experiment import Record
from harness.fingerprint import SUBMISSION_FILE
from harness.mapped import POOL_FOLDER
from harness.settings import Settings
from workshop.claims import claimed
from workshop.errors import UsageError
from workshop.files import write_json, write_text

logger = logging.getLogger("sage.harness.results")

RUN_FILE = "run.json"
EXPERIMENTS_FILE = "experiments.jsonl"
ENVIRONMENT_FILE = "environment.json"
SETTINGS_FILE = "test_settings.json"
DURATION_FILE = "ingestion_duration.json"
OTHER_FILES = (
    *(SUBMISSION_FILE, ENVIRONMENT_FILE, SETTINGS_FILE, DURATION_FILE, "result_*.json"),
    *("pool.json", "scores.json", "intervals.png", "report.html", "report.json"),
)
"""What a run writes besides its identity and the pseudo-experiments."""
LARGEST = 1e300
"""Of numbers in files of a run; sums of such numbers are finite."""
RESULT_KEYS = {"mu_hats": "mu_hat", "delta_mu_hats": "delta_mu_hat", "p16": "p16", "p84": "p84"}
"""Keys of the official result files, and of the answer they are taken from."""


class RunFolder:
    """Output folder of a run; a context manager that holds ``experiments.jsonl`` open.

    Args:
        folder: The folder; made if it is not there.
        identity: What the run is made of, as JSON values by name.
        overwrite: Throw earlier results away.

    Raises:
        UsageError: If the folder holds something else than an earlier part of the same run.

    Attributes:
        finished: Records by (set, index) of what has been done before.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.folder = folder
        with ExitStack() as stack:
            claim = claimed(folder, identity, (EXPERIMENTS_FILE,), OTHER_FILES, RUN_FILE, overwrite=overwrite)
            stack.enter_context(claim)
            shutil.rmtree(folder / POOL_FOLDER, ignore_errors=True)  # a killed run's; it may have gigabytes
            records, size = read_records(folder / EXPERIMENTS_FILE)
            self.finished = {(record.set, record.index): record for record in records}
            self._stream = stack.enter_context((folder / EXPERIMENTS_FILE).open("ab"))
            self._stream.truncate(size)  # a line torn by a kill would swallow the next one
            self._stack = stack.pop_all()

    def __enter__(self) -> RunFolder:
        """Return the folder."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file of records and leave the folder to others."""
        self._stack.close()

    def append(self, record: Record) -> None:
        """Add a finished pseudo-experiment; it is on disk when this returns."""
        line = json.dumps(dataclasses.asdict(record), allow_nan=False) + "\n"
        self._stream.write(line.encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.finished[record.set, record.index] = record

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write ``environment.json``; a continued run writes it again."""
        write_json(self.folder / ENVIRONMENT_FILE, environment)

    def write_settings(self, settings: Settings) -> None:
        """Write the official ``test_settings.json``."""
        write_text(self.folder / SETTINGS_FILE, json.dumps(settings.as_official()))

    def write_results(self, settings: Settings, seconds: float) -> None:
        """Write the official result files of a complete run.

        Args:
            settings: Settings of the run.
            seconds: How long it took; the official file has full minutes.
        """
        for number in range(settings.sets):
            answers = [self.finished[number, index].answer for index in range(settings.experiments)]
            result = {key: [answer[name] for answer in answers] for key, name in RESULT_KEYS.items()}
            write_text(self.folder / f"result_{number}.json", json.dumps(result, indent=4))
        duration = {"ingestion_duration": int(seconds / 60)}
        write_text(self.folder / DURATION_FILE, json.dumps(duration, indent=4))


def read_records(path: Path) -> tuple[list[Record], int]:
    """Read the finished pseudo-experiments.

    Args:
        path: ``experiments.jsonl``; it may be missing.

    Returns:
        The records in the order they finished, and the number of bytes they take: what is behind them is a line torn
        by a kill, which is dropped.

    Raises:
        UsageError: If a line before the last is damaged.
    """
    if not path.is_file():
        return [], 0
    records, size = [], 0
    data = path.read_bytes()
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        try:
            if not line.endswith(b"\n"):
                break
            records.append(_checked(Record(**json.loads(line))))
        except (ValueError, TypeError) as error:
            if size + len(line) == len(data):
                break
            msg = f"{path}: line {number} is damaged ({error}); remove the line, or pass --overwrite"
            raise UsageError(msg) from error
        size += len(line)
    if size < len(data):
        logger.warning("%s: dropped a torn last line", path)
    return records, size


@dataclass(frozen=True)
class SetResult:
    """Results of one set, n pseudo-experiments with the same true signal strength ``mu``."""

    mu: float
    mu_hats: tuple[float, ...]
    delta_mu_hats: tuple[float, ...]
    p16: tuple[float, ...]
    p84: tuple[float, ...]


@dataclass(frozen=True)
class RunResults:
    """Results of a run.

    Attributes:
        sets: One entry per set.
        duration: Official duration in full minutes; None if unknown.
        statuses: How many answers carried which status; None if the model does not tell.
    """

    sets: tuple[SetResult, ...]
    duration: float | None
    statuses: dict[str, int] | None


def read_results(folder: Path) -> RunResults:
    """Read the results of a complete run of this harness or of the official program.

    Raises:
        UsageError: If files are missing or damaged, or values are not finite.
    """
    if not (folder / SETTINGS_FILE).is_file():
        msg = f"{folder}: no {SETTINGS_FILE}; give the output folder of run_ingestion"
        raise UsageError(msg)
    mus = _numbers(_read_json(folder / SETTINGS_FILE), "ground_truth_mus", folder / SETTINGS_FILE)
    records, _ = read_records(folder / EXPERIMENTS_FILE)
    sets = []
    for number, mu in enumerate(mus):
        path = folder / f"result_{number}.json"
        if not path.is_file():
            msg = f"{path} is missing; the run is not complete"
            msg += f" ({len(records)} pseudo-experiments are done): run the same run_ingestion command again"
            raise UsageError(msg)
        content = _read_json(path)
        columns = [_numbers(content, key, path) for key in RESULT_KEYS]
        if len({len(column) for column in columns}) != 1:
            msg = f"{path}: {', '.join(RESULT_KEYS)} have different lengths; run the ingestion again"
            raise UsageError(msg)
        sets.append(SetResult(mu, *columns))
    duration = None
    if (folder / DURATION_FILE).is_file():
        duration = _read_json(folder / DURATION_FILE).get("ingestion_duration")
        if not (duration is None or _is_number(duration)):
            msg = f"{folder / DURATION_FILE}: 'ingestion_duration' is {duration!r}, not a number; remove the file"
            raise UsageError(msg)
    return RunResults(tuple(sets), duration, _count_statuses(records))


def _checked(record: Record) -> Record:
    """Return a record whose values are of the right types; of ``result``, what is not as SAGE's is left out.

    Raises:
        ValueError: If a value is of another type, or not finite.
    """
    whole = {name: getattr(record, name) for name in ("set", "index", "seed", "events")}
    real = {name: getattr(record, name) for name in ("mu", "generation_seconds", "predict_seconds")}
    for name in ("answer", "nuisances"):
        values = getattr(record, name)
        if not isinstance(values, dict):
            msg = f"{name} is {values!r}, not an object"
            raise ValueError(msg)
    missing = [name for name in RESULT_KEYS.values() if name not in record.answer]
    if missing:
        msg = f"answer has no {missing[0]!r}"
        raise ValueError(msg)
    real |= record.answer | {name: value for name, value in record.nuisances.items() if value is not None}
    for name, value in (whole | real).items():
        if not (type(value) is int and abs(value) < 2**63 if name in whole else _is_number(value)):
            msg = f"{name} is {value!r}, not a finite number"
            raise ValueError(msg)
    result = record.result if isinstance(record.result, dict) else {}
    usual = {name: value for name, value in result.items() if USUAL.get(name, _anything)(value)}
    return dataclasses.replace(record, result=usual or None)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_table(value: object) -> bool:
    rows = list(value.values()) if isinstance(value, dict) else [None]
    cells = [row.get(name, "") if isinstance(row, dict) else "" for row in rows for name in ("nu", "sigma")]
    return all(cell is None or _is_number(cell) for cell in cells)


def _anything(_: object) -> bool:
    return True


USUAL: dict[str, Callable[[object], bool]] = {
    "status": lambda value: isinstance(value, str),
    "flags": lambda value: isinstance(value, list) and all(isinstance(flag, str) for flag in value),
    "nll": lambda value: value is None or _is_number(value),
    "nuisances": _is_table,
}
"""What tables and pictures read of a model's ``last_result``; another method may keep other things there."""


def _count_statuses(records: Sequence[Record]) -> dict[str, int] | None:
    found = [str(record.result["status"]) for record in records if record.result and "status" in record.result]
    return {status: found.count(status) for status in sorted(set(found))} if found else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path}: not JSON ({error}); run the ingestion again"
        raise UsageError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: holds a {type(content).__name__}, not an object; run the ingestion again"
        raise UsageError(msg)
    return content


def _numbers(content: Mapping[str, Any], key: str, path: Path) -> tuple[float, ...]:
    """Return a non-empty list of finite numbers from a file."""
    values = content.get(key)
    if not isinstance(values, list) or not values:
        msg = f"{path}: {key!r} must be a list of numbers; run the ingestion again"
        raise UsageError(msg)
    for position, value in enumerate(values):
        if not _is_number(value):
            msg = f"{path}: {key!r} holds {value!r} at position {position}, but scores need finite numbers"
            raise UsageError(msg)
    return tuple(values)
