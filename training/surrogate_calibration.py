"""Calibrates surrogates on the table part of an events file; see ``sage.recalibration``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sage.binned.counting import Sample
from sage.binned.tables import AXES
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import Columns, select_single, shift
from sage.errors import InputError
from sage.files.bundle import Bundle
from sage.network.classifier import Classifier
from sage.recalibration import N_BOOTSTRAPS, make_surrogates
from sage.surrogates import CORNERS, MOST_OUTSIDE, Observed
from sage.unbinned.calibration import RegionEvents, collect
from sage.unbinned.ratios import PUBLISHED_MARK, UNBINNED, ResponseNetworks, network_name
from sage.unbinned.response import PUBLISHED
from sage.unbinned.statistic import LARGEST_EXPONENT
from training.config import Config
from training.events import EventsFile
from training.sampling import BOOTSTRAP, poisson
from training.surrogates import REPORT_FILE, SURROGATES_FILE
from training.variations import move_events
from workshop.errors import UsageError
from workshop.files import read_arrays

LEAST_REPLICAS = 2
PILOT = 262_144
"""Events at which a response is tried out before tables are made."""
MOST_CHANGE = 2.0
"""Factor by which a response of the shape may change the sum of its process."""

log = logging.getLogger("sage.training.surrogate_calibration")


def read_regions(
    file: EventsFile,
    rows: range,
    bundle: Bundle,
    classifier: Classifier,
    networks: ResponseNetworks,
    seed: int = 1,
    bootstraps: int = 0,
) -> list[RegionEvents]:
    """Return the nominal events of the unbinned regions.

    Args:
        file: The events.
        rows: Which of them; their weights are scaled to the full expectation.
        bundle: Regions among which are the unbinned ones.
        classifier: Gives the class probabilities.
        networks: Give the response.
        seed: Seed of the bootstraps.
        bootstraps: How many there are, by showered event.
    """

    def repeats(keys: np.ndarray) -> np.ndarray:
        drawn = [poisson(keys, seed, BOOTSTRAP, number) for number in range(1, bootstraps + 1)]
        return np.array(drawn, dtype=float).reshape(bootstraps, len(keys))

    samples = (Sample(part.columns, part.weights, part.classes, part.keys) for part in file.stream(rows))
    return collect(samples, bundle.regions, classifier, networks, repeats)


def observe_tables(file: EventsFile, look: Callable[[Columns, np.ndarray], Observed]) -> Observed:
    """Return what is kept of the nominal events of the table part, by the method ``look`` of some surrogates."""
    pieces = []
    for events in file.stream(file.rows("tables")):
        columns, kept = select_single(shift(events.columns))
        pieces.append(look(columns, events.weights[kept]))
    joined = {
        name: tuple(map(np.concatenate, zip(*(getattr(piece, name) for piece in pieces), strict=True)))
        for name in ("shares", "responses", "weights", "rows")
    }
    return Observed(np.sum([piece.counts for piece in pieces], axis=0), **joined)


def read_replicas(folder: Path, nominal: Path) -> list[dict[str, np.ndarray]]:
    """Return the arrays of all replicas in the sub-folders of a folder.

    Args:
        folder: Each sub-folder is what ``training.surrogates`` wrote for one replica.
        nominal: Folder of the response networks that they are replicas of.

    Raises:
        UsageError: If there are fewer than two, one is not whole, or they were not trained as the nominal ones were.
    """
    places = sorted(path.parent for path in folder.glob(f"*/{SURROGATES_FILE}"))
    if len(places) < LEAST_REPLICAS:
        msg = f"{folder}: {len(places)} sub-folders hold {SURROGATES_FILE}, and a covariance takes {LEAST_REPLICAS}; "
        msg += "train replicas with python -m scripts.train_surrogates --replica NUMBER --output FOLDER/NUMBER"
        raise UsageError(msg)
    expected, _ = _training(nominal)
    numbers: dict[int, Path] = {}
    for place in places:
        found, number = _training(place)
        differing = [key for key in expected if found.get(key) != expected[key]]
        if differing or number == 0 or number in numbers:
            reason = f"has another {differing[0]} than {nominal}" if differing else f"is replica {number}, "
            reason += "" if differing else "which is none" if number == 0 else f"as {numbers[number]} is"
            msg = f"{place}: {reason}; take replicas of different numbers that differ by nothing else"
            raise UsageError(msg)
        numbers[number] = place
    return [read_arrays(place / SURROGATES_FILE) for place in numbers.values()]


def _training(folder: Path) -> tuple[dict[str, Any], int]:
    """Return how response networks were trained, and the number of the replica."""
    path = folder / REPORT_FILE
    if not path.is_file():
        msg = f"{path} is missing; take folders as python -m scripts.train_surrogates leaves them"
        raise UsageError(msg)
    report = json.loads(path.read_text(encoding="utf-8"))
    settings = dict(report["config"])
    return {"data": report["data"], **settings, "replica": None}, settings["replica"]


def check_published_range(trained: Mapping[str, np.ndarray], file: EventsFile) -> None:
    """Check that networks of the published variant have a response at the ends of its grid of rates.

    The grid reaches to ten standard deviations of the energy scales, the points of the training to three. A spline
    through rates that a few events make explode at its ends is wrong in the middle as well.

    Args:
        trained: Arrays of the response networks.
        file: Events; the first ones of the table part are looked at.

    Raises:
        InputError: If too many events have a response out of range.
    """
    networks = ResponseNetworks(trained)
    events = file.read(file.rows("tables")[:PILOT])
    nominal = move_events(events, None, np.random.default_rng(0), networks.constants)
    ends = np.array(list(product(*(coordinate.ends for coordinate in networks.basis.coordinates))))
    terms = networks.basis.terms(ends)
    for region, process in product(UNBINNED, PROCESSES):
        inputs = nominal.inputs[nominal.regions == UNBINNED.index(region)]
        exponents = networks.of_inputs(inputs, region, process) @ terms.T
        beyond = (np.abs(exponents) > LARGEST_EXPONENT).sum(axis=0) / max(len(inputs), 1)
        worst = int(beyond.argmax())
        if beyond[worst] > MOST_OUTSIDE:
            point = ", ".join(f"{name} {value:g}" for name, value in zip(AXES, ends[worst], strict=True))
            msg = f"the response of {process} in {region} is out of range for {beyond[worst]:.2%} of the events at an "
            msg += f"end of the published grid of rates ({point}), so that no spline can follow the rate; train the "
            msg += "response networks on more events"
            raise InputError(msg)


def with_steady_shapes(
    trained: Mapping[str, np.ndarray], events: Sequence[RegionEvents]
) -> tuple[dict[str, np.ndarray], list[RegionEvents]]:
    """Leave out responses of the published variant that are no shapes, so that rates there are those of counts.

    A response of the shape alone keeps the sum over the events of its process, wherever the nuisances are. One that was
    learnt from too few events has tails: then a few other events make nearly all of a rate.

    Args:
        trained: Arrays of the response networks.
        events: Events of the regions, which trained nothing.

    Returns:
        Arrays and events with a response of 0 where the sum changes by more than ``MOST_CHANGE`` within two standard
        deviations.
    """
    terms = PUBLISHED.terms(np.array(CORNERS))
    out, kept = dict(trained), []
    for region, own in zip(UNBINNED, events, strict=True):
        response = own.response.copy()
        for p, process in enumerate(PROCESSES):
            mine = own.classes == p
            exponents = np.clip(response[mine, p] @ terms.T, -LARGEST_EXPONENT, LARGEST_EXPONENT)
            sums = own.weights[mine] @ np.exp(exponents) / own.weights[mine].sum() if mine.any() else np.ones(1)
            change = float(np.exp(np.abs(np.log(sums)).max()))
            if change > MOST_CHANGE:
                log.warning(
                    "the response of %s in %s changes the sum of weights %.3g times within two standard deviations, "
                    "where shapes keep it: left out, rates are those of counts; train on more events",
                    *(process, region, change),
                )
                response[:, p] = 0.0
                own_names = [name for name in out if name.startswith(network_name(region, process, ""))]
                out |= {name: np.zeros_like(out[name]) for name in own_names}
        kept.append(replace(own, response=response))
    return out, kept


def calibrated_surrogates(
    config: Config,
    data: Path,
    bundle: Bundle,
    classifier: Classifier,
    trained: Mapping[str, np.ndarray],
    replicas: Sequence[Mapping[str, np.ndarray]] = (),
) -> dict[str, np.ndarray]:
    """Return the arrays of ``sage.surrogates`` for a bundle's tables.

    Args:
        config: The settings.
        data: Folder of the events file.
        bundle: Tables and regions.
        classifier: Gives the class probabilities.
        trained: Arrays of the response networks.
        replicas: Arrays of their replicas.
    """
    file = EventsFile(data, config.table_fraction)
    networks = ResponseNetworks(trained)
    rows = file.rows("tables")
    events = read_regions(file, rows, bundle, classifier, networks, config.seed, N_BOOTSTRAPS)
    if PUBLISHED_MARK in trained:
        trained, events = with_steady_shapes(trained, events)
    return make_surrogates(trained, events, bundle, config.seed, replicas)
