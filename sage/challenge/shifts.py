"""Step 1: move events to a nuisance point and apply the selection that follows.

Energy scales and soft missing energy act on the 16 primary quantities of an event, then the thresholds are applied
again (arXiv:2410.02867, section 3). The challenge's ``systematics`` function is the definition: rounding, dtypes and
the order of operations are those of that function, so that on float32 columns every primary quantity is equal to its
output bit for bit. Columns are held as a mapping from name to array ("structure of arrays"); numpy arrays and torch
tensors both work, and scales broadcast: columns of shape (n,) with scales of shape (k, 1) give (k, n).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Columns = dict[str, Any]
"""Column name -> one-dimensional numpy array or torch tensor; momenta in GeV, angles in radians."""

PRIMARIES = (
    "PRI_lep_pt",
    "PRI_lep_eta",
    "PRI_lep_phi",
    "PRI_had_pt",
    "PRI_had_eta",
    "PRI_had_phi",
    "PRI_jet_leading_pt",
    "PRI_jet_leading_eta",
    "PRI_jet_leading_phi",
    "PRI_jet_subleading_pt",
    "PRI_jet_subleading_eta",
    "PRI_jet_subleading_phi",
    "PRI_n_jets",
    "PRI_jet_all_pt",
    "PRI_met",
    "PRI_met_phi",
)

UNDEFINED = -25.0
"""What the data files hold where a jet does not exist."""

HAD_PT_MIN = 26.0
JET_PT_MIN = 26.0
LEP_PT_MIN = 20.0
DECIMALS = 3
NOISE_SEED = 31415
"""Seed of the challenge's soft-MET noise; every pseudo-experiment uses it."""


def namespace(array: Any) -> Any:
    """Return the module (numpy or torch) whose functions apply to ``array``; torch is imported only if needed."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def soft_met_noise(n_events: int, seed: int = NOISE_SEED) -> tuple[np.ndarray, np.ndarray]:
    """Return unit normal noise for the x and y component of MET, each of shape (n_events,), float64.

    The challenge draws by row position from one seed; so does this function.
    """
    random_state = np.random.RandomState(seed)
    return random_state.normal(0.0, 1.0, n_events), random_state.normal(0.0, 1.0, n_events)


def shift(
    events: Mapping[str, Any],
    tes: Any = 1.0,
    jes: Any = 1.0,
    soft_met: Any = 0.0,
    noise: tuple[Any, Any] | None = None,
) -> Columns:
    """Apply tau and jet energy scales and soft MET to the primary quantities, then round them.

    Args:
        events: The 16 primary columns, shape (n,). Not changed.
        tes: Tau energy scale (factor on the hadronic tau's pt).
        jes: Jet energy scale (factor on the pt of all jets; MET follows the two leading ones).
        soft_met: Standard deviation in GeV of the noise added to each MET component.
        noise: Unit normal noise for the two components; drawn as the challenge draws it if absent.

    Returns:
        New columns. As in the reference, MET is float64 where noise was added and float32 elsewhere.
    """
    tes, jes, soft_met = _plain(tes), _plain(jes), _plain(soft_met)
    out: Columns = {name: events[name] for name in PRIMARIES}
    xp = namespace(out["PRI_met"])
    met_x = out["PRI_met"] * xp.cos(out["PRI_met_phi"])
    met_y = out["PRI_met"] * xp.sin(out["PRI_met_phi"])

    if not _is(tes, 1.0):
        out["PRI_had_pt"] = out["PRI_had_pt"] * tes
        # The pt is the shifted one, so the recoil of MET is (1 - s) / s of it.
        recoil = (1.0 - tes) / tes
        met_x = met_x + out["PRI_had_pt"] * xp.cos(out["PRI_had_phi"]) * recoil
        met_y = met_y + out["PRI_had_pt"] * xp.sin(out["PRI_had_phi"]) * recoil

    if not _is(jes, 1.0):
        recoil = (1.0 - jes) / jes
        out["PRI_jet_all_pt"] = out["PRI_jet_all_pt"] * jes
        for jet, rank in (("leading", 0), ("subleading", 1)):
            exists = out["PRI_n_jets"] > rank
            pt, phi = out[f"PRI_jet_{jet}_pt"], out[f"PRI_jet_{jet}_phi"]
            out[f"PRI_jet_{jet}_pt"] = xp.where(exists, pt * jes, pt)
            zero = xp.zeros_like(phi)
            moved = xp.where(exists, out[f"PRI_jet_{jet}_pt"], zero)
            direction = xp.where(exists, phi, zero)
            met_x = met_x + moved * xp.cos(direction) * recoil
            met_y = met_y + moved * xp.sin(direction) * recoil

    if not _is(soft_met, 0.0):
        noise_x, noise_y = soft_met_noise(len(met_x)) if noise is None else noise
        met_x = met_x + soft_met * noise_x
        met_y = met_y + soft_met * noise_y

    out["PRI_met"] = xp.sqrt(met_x**2 + met_y**2)
    out["PRI_met_phi"] = xp.arctan2(met_y, met_x)
    return {name: column if name == "PRI_n_jets" else _round(xp, column) for name, column in out.items()}


def thresholds(events: Mapping[str, Any]) -> tuple[Columns, Any]:
    """Remove jets below threshold and find the events that pass, without dropping any.

    Args:
        events: Shifted primary columns, any shape.

    Returns:
        New columns, in which a jet with pt in [0, 26] no longer exists, and the boolean mask of selected events.
    """
    out: Columns = dict(events)
    xp = namespace(out["PRI_met"])
    # The subleading jet goes first: that order decides the rounding of the summed pt.
    for jet in ("subleading", "leading"):
        pt = out[f"PRI_jet_{jet}_pt"]
        soft = (pt >= 0.0) & (pt <= JET_PT_MIN)
        out["PRI_jet_all_pt"] = xp.where(soft, out["PRI_jet_all_pt"] - pt, out["PRI_jet_all_pt"])
        out["PRI_n_jets"] = xp.where(soft, out["PRI_n_jets"] - 1, out["PRI_n_jets"])
        for part in ("pt", "eta", "phi"):
            column = out[f"PRI_jet_{jet}_{part}"]
            out[f"PRI_jet_{jet}_{part}"] = xp.where(soft, xp.full_like(column, UNDEFINED), column)
    keep = ~(out["PRI_had_pt"] < HAD_PT_MIN) & ~(out["PRI_lep_pt"] < LEP_PT_MIN)
    return out, keep


def select(events: Mapping[str, Any]) -> tuple[Columns, np.ndarray]:
    """Apply the thresholds and drop the events that fail.

    Args:
        events: Shifted primary columns (numpy), shape (n,).

    Returns:
        Columns of the m selected events and their row numbers in the input, shape (m,).
    """
    out, keep = thresholds(events)
    rows = np.flatnonzero(keep)
    return {name: column[rows] for name, column in out.items()}, rows


def select_single(events: Mapping[str, Any]) -> tuple[Columns, np.ndarray]:
    """Apply ``select`` and return float32 columns, as a test set holds, whatever the shifts computed in."""
    selected, rows = select(events)
    return {name: column.astype(np.float32, copy=False) for name, column in selected.items()}, rows


def _plain(scale: Any) -> Any:
    """Turn a numpy scalar into a Python number, as pandas does in the reference: it must not widen float32 columns."""
    return float(scale) if isinstance(scale, np.floating) else scale


def _is(scale: Any, value: float) -> bool:
    """Tell whether a scale is the plain number ``value``, which the reference skips."""
    return isinstance(scale, (int, float)) and float(scale) == value


def _round(xp: Any, column: Any) -> Any:
    return np.round(column, DECIMALS) if xp is np else xp.round(column, decimals=DECIMALS)
