"""One pseudo-experiment: draw, predict, check the answer."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import traceback
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from harness.fast_pseudo_data import PseudoData
from harness.pseudo_experiments import draw_nuisances
from harness.settings import Job
from harness.surroundings import inside
from workshop.errors import SubmissionError

ANSWER_KEYS = ("mu_hat", "delta_mu_hat", "p16", "p84")


@dataclasses.dataclass(frozen=True)
class Record:
    """What is kept of one pseudo-experiment; one line of ``experiments.jsonl``.

    Attributes:
        set: Number of the set.
        index: Number within the set.
        seed: Its seed.
        mu: True signal strength.
        nuisances: Drawn physical values; None for a rate that is switched off.
        events: Number of events in the pseudo-data.
        answer: The four numbers of ``predict``.
        generation_seconds: Time to make the pseudo-data.
        predict_seconds: Time of ``predict``.
        result: What ``model.last_result`` has to tell, if the model has it.
    """

    set: int
    index: int
    seed: int
    mu: float
    nuisances: dict[str, float | None]
    events: int
    answer: dict[str, float]
    generation_seconds: float
    predict_seconds: float
    result: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class PseudoExperiment:
    """A pseudo-experiment before anybody has measured it.

    Attributes:
        job: Which one.
        nuisances: Drawn physical values; None for a rate that is switched off.
        data: What ``predict`` gets.
        seconds: Time to make it.
    """

    job: Job
    nuisances: dict[str, float | None]
    data: dict[str, Any]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a submission says about one: the four numbers, the time of ``predict``, and ``last_result``."""

    values: dict[str, float]
    seconds: float
    result: dict[str, Any] | None


def run_experiment(model: Any, pool: PseudoData, job: Job, systematics: Collection[str]) -> Record:
    """Run one pseudo-experiment.

    Args:
        model: The fitted model.
        pool: Makes the data.
        job: Which pseudo-experiment.
        systematics: Names of the uncertainties that are switched on.

    Raises:
        SubmissionError: If ``predict`` raises (``details`` holds the traceback) or its answer breaks the contract.
    """
    made = make_experiment(pool, job, systematics)
    return record_of(made, ask(model, made.data, name_of(job)))


def make_experiment(pool: PseudoData, job: Job, systematics: Collection[str]) -> PseudoExperiment:
    """Draw a pseudo-experiment and make its data; arguments as for ``run_experiment``."""
    began = time.perf_counter()
    nuisances = draw_nuisances(job.seed, systematics)
    data = pool.make(job.mu, nuisances, job.seed)
    plain = {name: None if value is None else float(value) for name, value in nuisances.items()}
    return PseudoExperiment(job, plain, data, time.perf_counter() - began)


def ask(model: Any, data: Mapping[str, Any], name: str) -> Answer:
    """Return what a model says about data.

    Args:
        model: The fitted model.
        data: What ``predict`` gets.
        name: What the data are, for messages.

    Raises:
        SubmissionError: As for ``run_experiment``.
    """
    began = time.perf_counter()
    try:
        with inside(logging.DEBUG):
            answer = model.predict(data)
            seconds = time.perf_counter() - began
            result = describe(getattr(model, "last_result", None))
    except (Exception, SystemExit) as error:
        msg = f"predict failed in {name}: {type(error).__name__}: {error}"
        raise SubmissionError(msg, traceback.format_exc()) from error
    return Answer(check_answer(answer, name), seconds, result)


def record_of(made: PseudoExperiment, answer: Answer) -> Record:
    """Return what is kept of a pseudo-experiment and an answer to it."""
    job = made.job
    events, times = len(made.data["data"]), (made.seconds, answer.seconds)
    return Record(job.set, job.index, job.seed, job.mu, made.nuisances, events, answer.values, *times, answer.result)


def check_answer(answer: Any, name: str) -> dict[str, float]:
    """Return a copy of the four numbers of an answer.

    Accepted is what the official program can write: Python numbers and ``np.float64``, which is one. A ``np.float32``
    or a tensor makes its JSON writer fail after all pseudo-experiments are done; NaN spoils the mean score.

    Raises:
        SubmissionError: If the answer is no dict, a key is missing, or a value is not a finite plain number.
    """
    if not isinstance(answer, dict):
        msg = f"predict returned {type(answer).__name__} in {name}, but must return a dict with the keys "
        msg += ", ".join(ANSWER_KEYS)
        raise SubmissionError(msg)
    for key in ANSWER_KEYS:
        if key not in answer:
            msg = f"predict's answer has no {key!r} in {name}; it must have the keys {', '.join(ANSWER_KEYS)}"
            raise SubmissionError(msg)
        value = answer[key]
        if isinstance(value, bool) or not isinstance(value, (float, int)):
            msg = f"predict's answer has {key!r} = {value!r} of type {type(value).__name__} in {name}"
            msg += ", which the official program cannot write; return float(...)"
            raise SubmissionError(msg)
        if not math.isfinite(value):
            msg = f"predict's answer has {key!r} = {value!r} in {name}, but it must be finite; fall back to a "
            msg += "wide interval instead"
            raise SubmissionError(msg)
    return {key: answer[key] for key in ANSWER_KEYS}


def describe(result: Any) -> dict[str, Any] | None:
    """Return ``model.last_result`` as plain values: its ``to_dict()``, or the fields of a dataclass, or a dict."""
    if hasattr(result, "to_dict"):
        result = result.to_dict()
    plain = _plain(result)
    return plain if isinstance(plain, dict) else None


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it; numbers that are not finite become None, anything unknown its ``repr``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else repr(value)


def name_of(job: Job) -> str:
    """Return what a pseudo-experiment is called in messages."""
    return f"set {job.set}, pseudo-experiment {job.index} (seed {job.seed})"
