"""Numbers as text: as many digits as the error allows."""

from __future__ import annotations

import math
import re

NUMBER = re.compile(r"(?<![A-Za-z_0-9.])[-+]?\d[\d.]*(?:e[-+]?\d+)?")


def decimals(error: float) -> int:
    """Return the decimal places that an error justifies, by the rule of the Particle Data Group.

    If the three highest digits of the error are 100 to 354 two are kept, else one; 950 to 999 round up to 10
    (Review of Particle Physics, section "Rounding").

    Args:
        error: Positive and finite.
    """
    exponent = math.floor(math.log10(error))
    leading = round(error / 10.0 ** (exponent - 2))
    return (1 if leading < 355 else 0) - exponent


def with_error(value: float, error: float, *, sign: bool = False, plus_minus: str = "+-") -> str:
    """Return a value with its error, both to the digits that the error justifies.

    Args:
        value: The value.
        error: Its error; where it is 0 or not finite, the value stands alone.
        sign: Write a plus before positive values.
        plus_minus: What stands between them.
    """
    if not math.isfinite(value):
        return str(value)
    if not (math.isfinite(error) and error > 0):
        return f"{value:{'+' if sign else ''}.4g}"
    places = decimals(error)
    shown = [round(number, places) for number in (value, error)]
    places = max(places, 0)
    return f"{shown[0]:{'+' if sign else ''}.{places}f} {plus_minus} {shown[1]:.{places}f}"


def without_numbers(text: str) -> str:
    """Return a text with an ellipsis for each number, so that texts of one kind are equal; ``int64`` is no number."""
    return NUMBER.sub("…", text)
