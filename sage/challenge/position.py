"""Step 2, continued: directions in a standard position.

Nothing in a collision at the centre of a symmetric detector tells phi from phi + a, phi from -phi or eta from -eta, so
events that differ by a rotation about the beam or by one of the two mirrors are the same to every measurement. A
network that sees all of them turned to one position need not learn that from its events. Here phi starts at the
bisector of lepton and tau, lepton on the positive side, and the sum of their pseudorapidities is not negative. Energies
do not enter, so no nuisance turns an event.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sage.challenge.shifts import Columns, namespace

TURNED = "turned_"
"""Begins the names of the columns."""
BODIES = ("lep", "had", "jet_leading", "jet_subleading")


def standard_position(events: Mapping[str, Any]) -> Columns:
    """Return the directions of an event in its standard position.

    Args:
        events: The primary columns (numpy or torch), any shape.

    Returns:
        Columns ``turned_PRI_NAME_eta`` and ``turned_PRI_NAME_phi``, the latter in [-pi, pi], of the same shape;
        meaningless where there is no such jet.
    """
    xp = namespace(events["PRI_met"])
    half = _wrap(xp, events["PRI_lep_phi"] - events["PRI_had_phi"]) / 2
    axis = events["PRI_had_phi"] + half
    mirror_phi = 1.0 - 2.0 * (half < 0)
    mirror_eta = 1.0 - 2.0 * (events["PRI_lep_eta"] + events["PRI_had_eta"] < 0)
    turned = {f"{body}_eta": events[f"PRI_{body}_eta"] * mirror_eta for body in BODIES}
    turned |= {"lep_phi": half * mirror_phi, "had_phi": -half * mirror_phi}
    for body in (*BODIES[2:], "met"):
        turned[f"{body}_phi"] = _wrap(xp, events[f"PRI_{body}_phi"] - axis) * mirror_phi
    return {f"{TURNED}PRI_{name}": column for name, column in turned.items()}


def _wrap(xp: Any, angle: Any) -> Any:
    """Bring an angle into [-pi, pi]; rounding is several times as fast as a remainder."""
    with np.errstate(invalid="ignore"):
        return angle - 2 * math.pi * xp.round(angle / (2 * math.pi))
