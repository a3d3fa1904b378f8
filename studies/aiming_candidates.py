"""Fit of the importance of candidates that aimed simulation goes by, to simulated events of all processes.

    python -m studies.aiming_candidates --data build/pool

A candidate's y squared is the mean of (d mu_hat / d n - its mean over the process)^2 over the candidate as it is and
copies of it whose missing momentum is moved by the detector's resolution, all looked up in the bins of some weights.
Writes training/simulation/candidates.npz.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES
from studies.aiming import FOLDS, fit
from studies.likelihoods import open_weights
from studies.worth import Sensitivity
from training.events import Events, EventsFile
from training.simulation.candidates import TABLE_FILE, row_features
from workshop.files import write_arrays

COPIES = 4
RESOLUTION = 12.0
"""Of either component of the missing momentum, GeV."""
HIDDEN, STEPS = 32, 8000


def read_y2(events: Events, sensitivity: Sensitivity, rng: np.random.Generator) -> np.ndarray:
    """Return y squared of each event, shape (n,)."""
    columns = events.columns
    px, py = (columns["PRI_met"] * turn(columns["PRI_met_phi"]) for turn in (np.cos, np.sin))
    gains = [sensitivity.at(sensitivity.bins(events))]
    for _ in range(COPIES):
        x, y = (p + rng.normal(0.0, RESOLUTION, len(px)).astype(np.float32) for p in (px, py))
        moved = replace(events, columns={**columns, "PRI_met": np.hypot(x, y), "PRI_met_phi": np.arctan2(y, x)})
        gains.append(sensitivity.at(sensitivity.bins(moved)))
    y2 = np.zeros(len(px))
    for number in range(len(PROCESSES)):
        here = events.classes == number
        if here.any():
            mean = np.average(gains[0][here], weights=events.weights[here])
            y2[here] = np.mean([(gain[here] - mean) ** 2 for gain in gains], axis=0)
    return y2


def main() -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("--data", type=Path, required=True, help="folder with events of all processes")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--weights", type=Path, default=Path("weights"), help="what judges the rows")
    arguments = options.parse_args()
    file = EventsFile(arguments.data, 1.0)
    events = file.read(file.rows("tables"))
    rng = np.random.default_rng(arguments.seed)
    y2 = read_y2(events, Sensitivity(open_weights(arguments.weights)), rng)
    features = row_features(np.stack([events.columns[name].astype(np.float64) for name in PRIMARIES], axis=1))
    held = np.arange(len(y2)) % FOLDS == 0
    table, told = fit(features, y2, events.weights, held, arguments.seed, hidden=HIDDEN, steps=STEPS)
    write_arrays(TABLE_FILE, table)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.info("%d events; %s", len(y2), told)


if __name__ == "__main__":
    main()
