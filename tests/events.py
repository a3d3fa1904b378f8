"""Events for tests: real ones, embedded ones, states that hardly occur, and the challenge's program as their oracle."""

import json
import logging
import math
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sage.challenge.shifts import PRIMARIES

ROOT = Path(__file__).resolve().parents[1]
FIVE_WEIGHTS = ROOT / "tests" / "data" / "weights_five"
"""Weights of the graph alone, published inputs, five regions: as shipped before the efficient score."""
DATA = ROOT / "tests" / "data" / "events"
DATA_FILE = "FAIR_Universe_HiggsML_data.parquet"
METADATA_FILE = "FAIR_Universe_HiggsML_data_metadata.json"
PARENTS_FILE = "parents.parquet"
ABSENT = -25.0

JETS = ("leading", "subleading")

EXPECTED = 950_000.0
"""About the events of a pseudo-experiment."""

# The challenge's package uses pandas in ways newer versions deprecate, and divides by zero. No other warning passes.
OFFICIAL_WARNINGS = (
    {"message": "The inplace keyword in DataFrame.reset_index", "category": DeprecationWarning},
    {"message": "(divide by zero|invalid value) encountered", "category": RuntimeWarning},
)


def embedded_frame(n):
    """Return the first n embedded events."""
    group = pq.ParquetFile(DATA / DATA_FILE).read_row_group(0)
    return group.slice(0, n).to_pandas()


def copy_data(folder):
    """Copy the embedded events into a folder that a test may spoil."""
    for name in (DATA_FILE, METADATA_FILE):
        shutil.copy(DATA / name, folder / name)
    return folder


def drawn_frame(rows, seed):
    """Return selected embedded events, drawn with replacement in proportion to their weights: primary columns."""
    events = pd.read_parquet(DATA / DATA_FILE, columns=[*PRIMARIES, "weights"])
    events = events[(events.PRI_had_pt >= 26) & (events.PRI_lep_pt >= 20)]
    share = events.weights.to_numpy(np.float64)
    drawn = np.random.default_rng(seed).choice(len(events), rows, p=share / share.sum())
    return events.iloc[drawn][list(PRIMARIES)].reset_index(drop=True)


def full_weights(rows):
    """Return equal weights with which some rows count as a whole pseudo-experiment, so that the fit is as quick."""
    return np.full(rows, EXPECTED / max(rows, 1))


def small_data(folder, n=3000):
    """Write the first n embedded events as a file of their own, in several row groups."""
    frame = embedded_frame(n)
    frame.to_parquet(folder / DATA_FILE, row_group_size=800, index=False)
    (folder / METADATA_FILE).write_text(json.dumps({"total_rows": n, "sum_weights": 1_051_383.0}))
    return folder


def production_folder(folder, frame, seed, parents=True):
    """Write events with showered events of one to three rows of one process, whole on both sides of the borders."""
    rng = np.random.default_rng(seed)
    frame = frame.reset_index(drop=True)
    # Weights of very different size, so that the effective numbers differ from the numbers of rows.
    frame["weights"] = (frame["weights"] * rng.exponential(1.0, len(frame))).astype(np.float32)
    stretch = np.searchsorted([int(0.3 * len(frame)), int(0.5 * len(frame))], np.arange(len(frame)), side="right")
    keys = np.empty(len(frame), np.int64)
    used = 0
    for _, rows in frame.groupby(["detailed_labels", stretch]).indices.items():
        sizes = rng.integers(1, 4, len(rows))
        keys[rows] = used + np.repeat(np.arange(len(rows)), sizes)[: len(rows)]
        used = keys[rows].max() + 1
    folder.mkdir()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / DATA_FILE, row_group_size=700)
    labels = frame["detailed_labels"].value_counts().to_dict()
    metadata = {"total_rows": len(frame), "sum_weights": 1000.0 * seed}
    metadata["simulation"] = {"seed": seed, "processes": labels}
    (folder / METADATA_FILE).write_text(json.dumps(metadata))
    if parents:
        pq.write_table(pa.table({"parent": keys}), folder / PARENTS_FILE)
    return folder


def real_frame():
    """Return the 500 real events."""
    return pd.read_parquet(ROOT / "tests" / "data" / "real_500.parquet")


def odd_frame():
    """Return events at the edges of what the files can hold, each made from a real event with two jets."""
    real = real_frame()[list(PRIMARIES)]
    base = real[(real["PRI_n_jets"] == 2) & (real["PRI_jet_subleading_pt"] > 40)].iloc[0]
    leading, subleading = ({f"PRI_jet_{jet}_{part}": ABSENT for part in ("pt", "eta", "phi")} for jet in JETS)
    changes = [
        {},
        leading,
        subleading,
        {**leading, **subleading},
        {**leading, **subleading, "PRI_n_jets": 0.0, "PRI_jet_all_pt": 0.0},
        {**subleading, "PRI_n_jets": 1.0},
        {"PRI_n_jets": 3.0, "PRI_jet_all_pt": 160.0},
        {"PRI_n_jets": 1.0},
        {**leading, "PRI_n_jets": 1.0},
        {**leading, **subleading, "PRI_n_jets": 1.0},
        {"PRI_jet_leading_pt": 26.0, "PRI_jet_subleading_pt": 26.0},
        {"PRI_jet_subleading_pt": 26.001},
        {"PRI_jet_leading_pt": 25.9, "PRI_jet_subleading_pt": 25.5, "PRI_n_jets": 4.0},
        {"PRI_jet_subleading_pt": 0.0},
        {"PRI_had_pt": 26.0},
        {"PRI_had_pt": 25.999},
        {"PRI_lep_pt": 20.0},
        {"PRI_lep_pt": 19.999},
        {"PRI_met": 0.0},
        {"PRI_lep_phi": float(base["PRI_had_phi"])},
        {"PRI_lep_phi": float(base["PRI_had_phi"]), "PRI_met_phi": float(base["PRI_had_phi"])},
        {"PRI_jet_subleading_eta": float(base["PRI_jet_leading_eta"])},
        {"PRI_lep_phi": 3.142, "PRI_had_phi": -3.142},
        {"PRI_had_pt": 1500.0, "PRI_met": 1e-3},
    ]
    return pd.DataFrame([{**base.to_dict(), **change} for change in changes]).astype(np.float32)


def mixed_frame(n_embedded=1500):
    """Return real, embedded and odd events in one frame of primary columns, float32."""
    frames = [real_frame(), embedded_frame(n_embedded), odd_frame()]
    return pd.concat([frame[list(PRIMARIES)] for frame in frames], ignore_index=True)


def columns_of(frame):
    """Return the primary columns as numpy arrays."""
    return {name: frame[name].to_numpy(copy=True) for name in PRIMARIES}


def moved(columns, symmetry):
    """Return events that a symmetry of the detector maps these to."""
    out = dict(columns)
    for name, column in columns.items():
        if symmetry == "mirror in eta" and name.endswith("_eta"):
            out[name] = -column
        if symmetry != "mirror in eta" and name.endswith("_phi"):
            turned = -column if symmetry == "mirror in phi" else column + 1.234
            out[name] = (turned + math.pi) % (2 * math.pi) - math.pi
    return out


def official(frame, tes=1.0, jes=1.0, soft_met=0.0):
    """Run the challenge's own ``systematics``.

    Returns its frame and the rows of the input it kept.
    """
    systematics = _import_official()
    with warnings.catch_warnings():
        for rule in OFFICIAL_WARNINGS:
            warnings.filterwarnings("ignore", **rule)
        out = systematics(frame.assign(row=np.arange(len(frame))), tes=tes, jes=jes, soft_met=soft_met)
    return out, out["row"].to_numpy()


def _import_official():
    with root_logger_kept():
        from HiggsML import derived_quantities  # noqa: F401  (imports lazily what configures the root logger)
        from HiggsML.systematics import systematics
    return systematics


@contextmanager
def root_logger_kept():
    """Undo the ``logging.basicConfig`` that the challenge's package calls when it is imported."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
