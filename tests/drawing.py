"""Properties that hold for anything drawn: few examples in every run of the tests, many in the slow ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings


def few_and_many(
    check: Callable[..., None], examples: tuple[int, int], *, phases: Any = None, **strategies: Any
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return two tests of a property.

    Args:
        check: Takes fixtures and what is drawn, by name.
        examples: How many the first test draws, and the second, which is slow.
        phases: Of hypothesis; None (the default) for all.
        strategies: What to draw, by name.
    """
    options: dict[str, Any] = {"deadline": None, "derandomize": True, "database": None}
    options |= {"suppress_health_check": list(HealthCheck)} | ({} if phases is None else {"phases": phases})
    few, many = (settings(max_examples=number, **options)(given(**strategies)(check)) for number in examples)
    return few, pytest.mark.slow(many)
