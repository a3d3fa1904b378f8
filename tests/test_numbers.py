"""Numbers as text, by the examples of the Particle Data Group and against rounding by hand."""

from __future__ import annotations

import math

import pytest

from workshop.numbers import decimals, with_error, without_numbers


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.827, 0.119, "0.83 +- 0.12"),  # these three are the examples of the Review of Particle Physics
        (0.827, 0.367, "0.8 +- 0.4"),
        (14.674, 0.964, "14.7 +- 1.0"),
        (-0.2846, 1.2312, "-0.3 +- 1.2"),
        (1.0, 0.25, "1.00 +- 0.25"),
        (123456.0, 3560.0, "123000 +- 4000"),
        (5e-7, 1.5e-8, "0.000000500 +- 0.000000015"),
        (0.0, 9.96, "0 +- 10"),
        (1.25, 0.0, "1.25"),
        (1.25, math.nan, "1.25"),
        (1.25, math.inf, "1.25"),
        (math.nan, 0.1, "nan"),
        (-math.inf, 0.1, "-inf"),
        (1e308, 1e307, None),
    ],
)
def test_the_error_decides_the_digits(value, error, text):
    found = with_error(value, error)
    assert found == text if text is not None else float(found.split()[0]) == pytest.approx(value)


def test_sign_and_what_stands_between():
    assert with_error(0.5, 0.1, sign=True, plus_minus="±") == "+0.50 ± 0.10"
    assert with_error(-0.5, 0.1, sign=True) == "-0.50 +- 0.10"


@pytest.mark.parametrize("exponent", range(-12, 13))
def test_one_or_two_digits_of_any_error_are_left(exponent):
    for leading in (1.0, 1.23, 3.54, 3.55, 5.0, 9.49, 9.51, 9.99):
        error = leading * 10.0**exponent
        kept = round(error, decimals(error)) / 10.0 ** math.floor(math.log10(error))
        assert abs(kept - leading) <= (0.05 if leading < 3.55 else 0.5) + 1e-9


def test_texts_of_one_kind_become_the_same():
    first = "poor_fit: 2 nll = 6.95e+03 with 226 degrees of freedom, interval widened 5.5 times"
    second = "poor_fit: 2 nll = 381 with 226 degrees of freedom, interval widened 1.1 times"
    assert without_numbers(first) == without_numbers(second) != first
    assert without_numbers("converted: PRI_met from int64") == "converted: PRI_met from int64"
    assert without_numbers("a -1.5 b +2 c") == "a … b … c"
