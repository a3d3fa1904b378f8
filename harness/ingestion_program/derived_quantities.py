"""Derived features."""

from HiggsML.derived_quantities import *  # noqa: F403
