"""Rebuilds the yield tables from the organisers' training events, where there are enough of them.

The network stays as it is. What it makes of events may differ between the simulation that the bundled tables come
from and the events that the pseudo-experiments are drawn from; tables rebuilt from the latter leave no such bias. They
are only worth their statistics, so few, heavy training events do not replace the bundled tables.

The organisers' loader appends every row group of its file to a growing frame: a call's time and memory are not known
before, and a look at the clock does not interrupt it. So events are loaded and counted in a process of their own, which
is ended at its budget of time or memory and hands back counts, not events (``sage.child``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from sage.binned.counting import NOMINAL, Noise, Sample, choose_points, count_points
from sage.binned.response import Point, Response, fill_grid, fit_counts
from sage.binned.tables import YieldTables, default_axes
from sage.challenge.nuisances import BACKGROUNDS, PROCESSES
from sage.challenge.shifts import PRIMARIES
from sage.child import Arrays, Report, can_fork, run_in_child
from sage.errors import InputError, SageError
from sage.files.bundle import Bundle
from sage.files.settings import Rebuilding
from sage.network.classifier import Classifier

logger = logging.getLogger(__name__)

SEED = 31415
"""Seed of the loader's draw of rows, of the nodes and of the soft-MET noise."""
NODES = 64
NOISE = Noise(SEED, draws=2, common=False)
PILOT_ROWS = 65536
"""Rows on which the speed is measured."""
SHARE_OF_TIME = 0.8
"""Part of the time left that the counting is planned to take."""
LARGEST_RATIO = 2.0
"""Expected events of a process may differ by this factor from the bundled ones; more means unscaled weights."""

Refit = Callable[[Bundle, Sample, Classifier, float], Arrays]
"""Makes other surrogates of a bundle from its simulated events until a value of ``time.monotonic``."""

OF_SURROGATES = "surrogates/"
"""Begins the names of arrays that are none of counts."""

_BACKGROUND_ROWS = [PROCESSES.index(name) for name in BACKGROUNDS]


def rebuild(
    bundle: Bundle,
    how: Rebuilding,
    get_train_set: Callable[..., Any] | None,
    classifier: Classifier,
    refit: Refit | None = None,
) -> tuple[Bundle, dict[str, Any]]:
    """Rebuild the tables if that is possible and worth it. Never raises.

    Args:
        bundle: The bundled tables and the network they belong to.
        how: The settings.
        get_train_set: The challenge's loader of training events.
        classifier: Gives the class probabilities that the bundle's regions are made for.
        refit: Makes the surrogates of an unbinned method anew, from the events that the tables are counted from.

    Returns:
        The bundle to measure with, and a report of plain values: ``mode``, whether the rebuilt tables were ``adopted``
        with the ``reason``, ``seconds`` in all, and as far as it got ``call_seconds`` of the loader, its ``rows``,
        ``rows_used``, the ``effective_weight`` of background events and the ``peak_memory`` of it in MB.
    """
    began = time.monotonic()
    report: dict[str, Any] = {"mode": how.mode, "adopted": False}
    try:
        bundle = _rebuilt(bundle, how, get_train_set, classifier, began + how.time_budget, report, refit)
        report |= {"adopted": True, "reason": "tables rebuilt from the training events"}
    except (SageError, TimeoutError) as error:
        report["reason"] = str(error)
    except Exception as error:
        # An exception here would end the whole submission, and the bundled tables are at hand.
        logger.debug("rebuilding failed", exc_info=True)
        report["reason"] = f"{type(error).__name__}: {error}"
    report["seconds"] = round(time.monotonic() - began, 3)
    return bundle, report


def _rebuilt(
    bundle: Bundle,
    how: Rebuilding,
    get_train_set: Callable[..., Any] | None,
    classifier: Classifier,
    deadline: float,
    report: dict[str, Any],
    refit: Refit | None,
) -> Bundle:
    """Return the bundle with rebuilt tables; raises whatever is in their way."""
    if how.mode == "bundled":
        msg = "the settings choose the bundled tables"
        raise InputError(msg)
    if get_train_set is None:
        msg = "there is no get_train_set, so no training events; the bundled tables are used"
        raise InputError(msg)
    points = choose_points(NODES, SEED)

    def count(report: Report) -> Arrays:
        return _counted(bundle, how, get_train_set, classifier, points, deadline, report, refit)

    # Where no process can be forked the loader runs here, and only what it leaves of the time can be bounded.
    counted = run_in_child(count, report, deadline - time.monotonic()) if can_fork() else count(report)
    response = fit_counts(points, counted["counts"], counted["moved"])
    _check_yields(response, bundle)
    tables = None if bundle.tables is None else YieldTables(default_axes(), fill_grid(response))
    surrogates = {
        name.removeprefix(OF_SURROGATES): array for name, array in counted.items() if name.startswith(OF_SURROGATES)
    }
    return replace(
        bundle,
        tables=tables,
        response=response,
        variances=counted["squares"][0],
        surrogates=surrogates or bundle.surrogates,
    )


def _counted(
    bundle: Bundle,
    how: Rebuilding,
    get_train_set: Callable[..., Any],
    classifier: Classifier,
    points: Sequence[Point],
    deadline: float,
    report: Report,
    refit: Refit | None,
) -> Arrays:
    """Load training events and count as many of them as there is time for; see ``count_points``.

    New surrogates have ``OF_SURROGATES`` before their names.
    """
    before = time.monotonic()
    with _seeded():
        frame = get_train_set(train_size=how.train_size)
    report["call_seconds"] = round(time.monotonic() - before, 3)
    sample = read_sample(frame)
    del frame
    report["rows"] = len(sample)
    _check_weight(sample, how, report)

    arguments = (bundle.regions, classifier)
    pilot = sample.take(np.random.default_rng(SEED).permutation(len(sample))[:PILOT_ROWS])
    before = time.monotonic()
    count_points(pilot, [NOMINAL], *arguments, NOISE, deadline)
    counted = time.monotonic()
    if refit is not None:
        # Only for its time: so few rows may leave a rare process out of a region.
        with suppress(InputError):
            refit(bundle, pilot, classifier, deadline)
    now = time.monotonic()
    seconds = (counted - before) * NOISE.evaluations(points) + now - counted
    affordable = int(SHARE_OF_TIME * (deadline - now) * len(pilot) / seconds)
    if affordable < len(sample):
        sample = thin(sample, affordable)
        _check_weight(sample, how, report)
    report["rows_used"] = len(sample)

    refitted = {} if refit is None else refit(bundle, sample, classifier, deadline)
    found = count_points(sample, points, *arguments, NOISE, deadline)
    return found | {OF_SURROGATES + name: array for name, array in refitted.items()}


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed numpy's global random state, from which the loader draws, and put it back."""
    state = np.random.get_state()
    np.random.seed(SEED)
    try:
        yield
    finally:
        np.random.set_state(state)


def read_sample(frame: Any) -> Sample:
    """Take primary columns, weights and processes out of a frame of training events, columns in any order.

    Rows that hold no finite number are dropped.

    Raises:
        InputError: If a column is missing or unusable, or a process is unknown or has no events.
    """
    missing = [name for name in (*PRIMARIES, "weights", "detailed_labels") if name not in frame]
    if missing:
        msg = f"column {missing[0]!r} missing from the training events, so tables cannot be rebuilt from them"
        raise InputError(msg)
    columns = {name: np.asarray(frame[name], dtype=np.float32) for name in PRIMARIES}
    doubled = [name for name, column in columns.items() if column.ndim != 1]
    if doubled:
        msg = f"column {doubled[0]!r} of the training events is there {columns[doubled[0]].shape[-1]} times"
        raise InputError(msg)
    weights = np.asarray(frame["weights"], dtype=np.float64)
    labels = np.asarray(frame["detailed_labels"], dtype=object)
    classes = np.full(len(weights), -1)
    for i, name in enumerate(PROCESSES):
        classes[labels == name] = i
    if (classes < 0).any():
        msg = f"detailed_labels holds {labels[classes < 0][0]!r}; it must be one of {', '.join(PROCESSES)}"
        raise InputError(msg)
    usable = np.isfinite(weights)
    for column in columns.values():
        usable &= np.isfinite(column)
    sample = Sample(columns, weights, classes, np.arange(len(weights)))
    if not usable.all():
        sample = sample.take(np.flatnonzero(usable))
    totals = np.bincount(sample.classes, sample.weights, minlength=len(PROCESSES))
    if (totals <= 0).any() or (sample.weights < 0).any():
        msg = f"weights must not be negative and each process have some, got totals {totals.tolist()} of {PROCESSES}"
        raise InputError(msg)
    return sample


def thin(sample: Sample, n_rows: int) -> Sample:
    """Choose about ``n_rows`` rows at random; each process keeps its total weight.

    A process gets rows in proportion to the square root of its total weight, or all it has: rare ones lose least.

    Raises:
        TimeoutError: If that leaves a process without rows.
    """
    totals = np.bincount(sample.classes, sample.weights, minlength=len(PROCESSES))
    available = np.bincount(sample.classes, minlength=len(PROCESSES))
    kept = np.zeros(len(PROCESSES), dtype=np.int64)
    # Processes that have fewer rows than their share come first; what they leave goes to the others.
    order = np.argsort(available / np.sqrt(totals))
    for place, p in enumerate(order):
        share = np.sqrt(totals[p]) / np.sqrt(totals[order[place:]]).sum()
        kept[p] = min(available[p], int(share * max(n_rows - kept.sum(), 0)))
    if (kept == 0).any():
        msg = f"there is time for {n_rows} rows only, too few for tables; allow more time"
        raise TimeoutError(msg)
    rng = np.random.default_rng(SEED)
    rows = [rng.choice(np.flatnonzero(sample.classes == p), kept[p], replace=False) for p in range(len(PROCESSES))]
    thinned = sample.take(np.sort(np.concatenate(rows)))
    left = np.bincount(thinned.classes, thinned.weights, minlength=len(PROCESSES))
    return replace(thinned, weights=thinned.weights * (totals / left)[thinned.classes])


def _check_weight(sample: Sample, how: Rebuilding, report: dict[str, Any]) -> None:
    weights = sample.weights[np.isin(sample.classes, _BACKGROUND_ROWS)]
    effective = float((weights**2).sum() / weights.sum())
    report["effective_weight"] = round(effective, 5)
    if how.mode == "auto" and effective > how.largest_weight:
        msg = f"a background event weighs {effective:.3g} effectively, more than {how.largest_weight:g}: too few "
        msg += (
            f"training events ({len(sample)}) for better tables than the bundled ones; ask for more, or for 'rebuild'"
        )
        raise InputError(msg)


def _check_yields(response: Response, bundle: Bundle) -> None:
    """Check what ``read_bundle`` checks of bundled tables, and that the weights mean what they should."""
    if not np.isfinite(response.coefficients).all() or (response.nominal < 0).any():
        msg = "the rebuilt tables are not finite or negative somewhere; the bundled ones are used"
        raise InputError(msg)
    ratio = response.nominal.sum(axis=1) / np.maximum(bundle.response.nominal.sum(axis=1), 1e-9)
    if (ratio > LARGEST_RATIO).any() or (ratio < 1 / LARGEST_RATIO).any():
        msg = f"the training events expect {ratio.round(3).tolist()} times the bundled events of {PROCESSES}, which "
        msg += "means that their weights are not scaled to 10 fb^-1; the bundled tables are used"
        raise InputError(msg)
