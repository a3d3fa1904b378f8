"""Bounds the time of one measurement: a worker that is far too slow still answers before it is cut off.

A clock makes an answer depend on the machine, so this guard is far from what any measurement takes, chooses nothing
but the last two fall-backs (``sage.fit.ladder``, ``sage.measurement``), and shows as the flag ``time_guard``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from sage.errors import TimeLimitError
from sage.fit.objective import Evaluation, Wrapped

clock = time.monotonic

SHARE = 0.9
"""Part of the limit after which work is given up; the rest is for what is going on then, and for the answer."""


class Deadline:
    """The moment at which the work of a measurement that begins now is given up.

    Args:
        limit: Seconds within which the answer has to be there; None for no limit.
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = limit
        self._end = math.inf if limit is None else clock() + SHARE * limit

    def check(self) -> None:
        """Go on only while there is time.

        Raises:
            TimeLimitError: If there is none left.
        """
        if self._limit is not None and clock() > self._end:
            msg = f"time_limit is {self._limit:g} s, nearly all of it used; allow more, or None for no limit"
            raise TimeLimitError(msg)


NEVER = Deadline()


@dataclass(frozen=True)
class Timed(Wrapped):
    """An objective that checks a deadline at every evaluation, so that every loop of every fit is bounded.

    Args:
        objective: What to minimise.
        deadline: When to give up.
    """

    deadline: Deadline

    def value(self, parameters: np.ndarray) -> float:
        """Return the negative log-likelihood at (mu, nu...).

        Raises:
            TimeLimitError: If the deadline has passed.
        """
        self.deadline.check()
        return self.objective.value(parameters)

    def evaluate(self, parameters: np.ndarray) -> Evaluation:
        """Return value and derivatives at (mu, nu...).

        Raises:
            TimeLimitError: If the deadline has passed.
        """
        self.deadline.check()
        return self.objective.evaluate(parameters)
