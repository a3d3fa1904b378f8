"""Refined surrogates: what a command adds to a folder, and what the likelihood expects with it.

A folder holds ``refined.npz``, the arrays of the weights' surrogates with those that were added, and ``refined.json``,
which says what was added, by whom it is told from other weights, and with which settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from sage.binned.statistic import with_counts
from sage.fit.objective import MU
from sage.network.classifier import NetworkClassifier
from sage.surrogates import Observed
from sage.unbinned.likelihood import SumLikelihood, UnbinnedLikelihood
from studies.likelihoods import open_weights, weights_hash
from training.events import DATA_FILE, EventsFile
from training.refined import AddedNuisance, AddedProcess, Refined, Refinements
from training.refined_rates import Sources
from training.refining import add_nuisance, add_process
from training.surrogate_calibration import observe_tables
from training.surrogates import SurrogateConfig
from workshop.claims import claimed
from workshop.errors import UsageError
from workshop.files import read_arrays, sha256, write_arrays, write_json

ARRAYS_FILE, REPORT_FILE = "refined.npz", "refined.json"
PIECES = "pieces"
"""Sub-folder of what has been trained."""


def read_refined(weights: Path, folder: Path | None) -> tuple[Refined, dict[str, np.ndarray]]:
    """Read what was added to weights, and all arrays; nothing was if there is no folder.

    Raises:
        UsageError: If the folder holds nothing of the kind, or belongs to other weights.
    """
    bundle = open_weights(weights)
    if folder is None:
        return Refined(bundle, Refinements(), {}), dict(bundle.surrogates)
    path = folder / REPORT_FILE
    if not path.is_file() or not (folder / ARRAYS_FILE).is_file():
        msg = f"{folder}: no {REPORT_FILE} or {ARRAYS_FILE}; take a folder that refine_surrogates has finished"
        raise UsageError(msg)
    report = json.loads(path.read_text(encoding="utf-8"))
    if report["weights"] != weights_hash(weights) or report["sha256"] != sha256(folder / ARRAYS_FILE):
        msg = f"{folder}: {ARRAYS_FILE} is damaged or was made for other weights than {weights}; refine these again"
        raise UsageError(msg)
    nuisances = [AddedNuisance(each["name"], each["width"], tuple(each["ends"])) for each in report["nuisances"]]
    processes = [AddedProcess(**each) for each in report["processes"]]
    arrays = read_arrays(folder / ARRAYS_FILE)
    return Refined(bundle, Refinements(tuple(nuisances), tuple(processes)), arrays), arrays


def refine(
    kind: str,
    name: str,
    weights: Path,
    before: Path | None,
    data: Path,
    events: Mapping[str, Path],
    output: Path,
    *,
    table_fraction: float,
    rate_width: float,
    training: Mapping[str, Any],
    overwrite: bool = False,
) -> Refined:
    """Add a nuisance or a process and write the folder.

    Args:
        kind: ``nuisance`` or ``process``.
        name: Its name.
        weights: Weights folder of an unbinned method.
        before: Folder of what was added before.
        data: Folder of the events of all processes that were there at first.
        events: Folders of the events of added processes, by name.
        output: The folder.
        table_fraction: Fraction of the rows, the first ones, for rates and norms; the others train.
        rate_width: Standard deviation of the rate of an added process.
        training: Settings of ``SurrogateConfig``.
        overwrite: Throw away what the folder holds of an earlier command.

    Raises:
        UsageError, InputError, SettingsError, WeightsError: If an argument does not fit the others.
    """
    refined, arrays = read_refined(weights, before)
    if kind == "process" and name not in events:
        msg = f"no events of {name}; give them with --events {name}=FOLDER"
        raise UsageError(msg)
    config = SurrogateConfig(**training)
    identity = {
        **{"kind": kind, "name": name, "rate_width": rate_width, "weights": weights_hash(weights)},
        **{"before": None if before is None else sha256(before / ARRAYS_FILE), "data": sha256(data / DATA_FILE)},
        "events": {key: sha256(folder / DATA_FILE) for key, folder in events.items()},
        **{"table_fraction": table_fraction, "training": asdict(config)},
    }
    with claimed(output, identity, results=(PIECES, ARRAYS_FILE, REPORT_FILE), overwrite=overwrite):

        def keep(piece: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
            path = output / PIECES / f"{piece}.npz"
            if not path.exists():
                write_arrays(path, make())
            return read_arrays(path)

        sources = Sources(data, table_fraction, events)
        classifier = NetworkClassifier(refined.bundle.network, refined.bundle.normalisation, threads=1)
        given = (refined.bundle, refined.added, arrays)
        if kind == "nuisance":
            added, made = add_nuisance(*given, name, sources, config, classifier, keep)
        else:
            added, made = add_process(*given, AddedProcess(name, rate_width), sources, config, classifier, keep)
        write_arrays(output / ARRAYS_FILE, made)
        report = {**identity, **asdict(added), "sha256": sha256(output / ARRAYS_FILE)}
        write_json(output / REPORT_FILE, report)
    return Refined(refined.bundle, added, made)


def expected_errors(refined: Refined, observed: Observed, mu: float = 1.0) -> dict[str, float]:
    """Return the errors of mu that the information of the Asimov data set gives, with what was added and held at it.

    Args:
        refined: The surrogates.
        observed: Simulated nominal events.
        mu: True signal strength; nuisances are at their centres.
    """
    truth = np.array([mu, *np.zeros(len(refined.nuisances))])
    of = refined.likelihood(observed).parts[0]
    assert isinstance(of, UnbinnedLikelihood)
    pairs = zip(observed.weights, of.densities(truth), strict=True)
    weights = tuple(own * R[: len(own)] for own, R in pairs)
    unbinned = refined.likelihood(replace(observed, weights=weights)).parts[0]
    binned = refined.binned(observed.counts)
    counted = with_counts(binned, binned.expected(truth))
    fisher = SumLikelihood((unbinned, counted)).evaluate(truth).fisher
    kept = len(truth) - n_added(refined)
    errors = {"with what was added": fisher, "its nuisances held": fisher[:kept, :kept]}
    return {name: float(np.sqrt(np.linalg.inv(each)[MU, MU])) for name, each in errors.items()}


def observe(refined: Refined, data: Path, table_fraction: float) -> Observed:
    """Return the nominal events of the table part of a file."""
    classifier = NetworkClassifier(refined.bundle.network, refined.bundle.normalisation, threads=1)
    file = EventsFile(data, table_fraction)
    return observe_tables(file, lambda columns, w: refined.look(columns, classifier, w))


def n_added(refined: Refined) -> int:
    """Return the number of nuisance parameters that were added."""
    return len(refined.added.nuisances) + sum(len(process.nuisances) for process in refined.added.processes)
