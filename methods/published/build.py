"""The published recipe's regions, tables and nuisance maps (arXiv:2509.00672) with SAGE's network and SAGE's Model.

Regions FR and CR1-3 overlap, and CR1-3 hold no signal; tables are interpolated linearly on their grid.
"""

from __future__ import annotations

from dataclasses import replace

from methods.building import Build, write_binned
from sage.files.bundle import Bundle

SETTINGS = {"nuisances": "published", "templates": "grid", "simulation_uncertainty": False}


def build(this: Build) -> Bundle:
    """Make the weights: SAGE's network, tables in the published regions."""
    tables = replace(this.config.tables, region_set="published")
    this = replace(this, config=replace(this.config, tables=tables))
    return write_binned("published", this, this.weights, settings=SETTINGS)
