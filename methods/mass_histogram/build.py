"""One histogram of the visible mass of the lepton and the hadronic tau, no machine learning."""

from __future__ import annotations

from methods.building import Build, write_binned, write_network
from methods.mass_histogram.model import NoClassifier
from sage.binned.regions import Region, RegionSet
from sage.files.bundle import Bundle

MASS_RANGE = (20.0, 220.0)
"""Visible masses in GeV that are binned; masses outside enter the first or last bin."""
MASS = RegionSet("mass", (Region("all", (), observable="m_vis", edges=MASS_RANGE),), exclusive=True)


def build(this: Build) -> Bundle:
    """Make the weights: tables of the visible mass."""
    return write_binned("mass_histogram", this, write_network(this, {}), make_classifier=NoClassifier, regions=MASS)
