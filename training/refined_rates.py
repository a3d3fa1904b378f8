r"""Rates and norms of what is added to surrogates, from the table part of the events; see ``training.refined``.

Counts at values of an added nuisance give its factor on the expected events of every process and bin. Norms are fitted
as those of the surrogates are (``sage.unbinned.norms``): polynomials of degree 7 in all shape nuisances up to this one,
in the logarithm of how the sums over nominal events change with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sage.binned.counting import BLOCK, KINDS, NOMINAL, choose_points, draw_points, find_bins, tally
from sage.binned.regions import RegionSet
from sage.binned.response import fit_counts
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import Columns
from sage.errors import InputError
from sage.files.bundle import Bundle
from sage.network.classifier import Classifier
from sage.surrogates import Observed
from sage.unbinned.calibration import DRAWN_PRECISION, NORM_DRAWS, norm_sample
from sage.unbinned.norms import fit_norms, in_norm_basis, norm_sums
from sage.unbinned.ratios import UNBINNED
from sage.unbinned.response import Basis
from training.counting import Counter
from training.events import Events, EventsFile
from training.refined import Refinements, array_name, mixed_powers
from training.surrogates import candidates

RATE_POINTS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
"""Where rates are counted, in widths of the constraint."""
EXPECTED_SIZES = (0.1, 0.01)
"""Typical change of the logarithm of a rate by the first and second power of a nuisance, in widths."""
NODES = 48
"""Points at which the rates of an added process are counted."""
POINTS_PER_TERM = 2
"""Points for each monomial of a norm."""

Shift = Callable[[Columns, np.ndarray], Columns]
"""Moves primary columns, shape (n,), to alpha, shape (n,); the selection follows."""


@dataclass(frozen=True)
class Sources:
    """Where events come from.

    Args:
        data: Folder of the events of all processes that were there at first.
        table_fraction: Fraction of the rows of each file, the first ones, for rates and norms; the others train.
        added: Folders of the events of added processes, by name; their labels are not looked at.
    """

    data: Path
    table_fraction: float
    added: Mapping[str, Path]

    def file(self, process: str) -> EventsFile:
        """Return the file that holds a process.

        Raises:
            InputError: If it is one that was added and there is no folder of it.
        """
        if process not in PROCESSES and process not in self.added:
            msg = f"no events of {process}, which was added before; give them with --events {process}=FOLDER"
            raise InputError(msg)
        return EventsFile(self.added.get(process, self.data), self.table_fraction)

    def training(self, process: str) -> Events:
        """Return the events of a process that train its networks.

        Raises:
            InputError: If there are none.
        """
        file = self.file(process)

        def near(events: Events) -> np.ndarray:
            own: np.ndarray = candidates(events.columns)
            return own if process in self.added else own & (events.classes == PROCESSES.index(process))

        events = file.read(file.rows("training"), keep=near)
        if not len(events):
            msg = f"{file.path}: no {process} comes into the regions {', '.join(UNBINNED)}; give more events"
            raise InputError(msg)
        return events


def moved_counts(
    file: EventsFile, regions: RegionSet, classifier: Classifier, move: Shift, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Count the table events of a file at the nominal value of an added nuisance and at ``RATE_POINTS``.

    Returns:
        Sums of weights, and sums of squared weights of the events that are in a bin either here or at the nominal
        value but not in both; both of shape (1 + len(RATE_POINTS), 4, n_bins).
    """
    alphas = [1.0, *(1.0 + width * nu for nu in RATE_POINTS)]
    cells = len(PROCESSES), regions.n_bins
    out = np.zeros((len(alphas), len(KINDS), math.prod(cells)))
    for part in file.stream(file.rows("tables")):
        for start in range(0, len(part), BLOCK):
            events = part.take(np.arange(start, min(start + BLOCK, len(part))))
            moved = (move(events.columns, np.full(len(events), alpha)) for alpha in alphas)
            found = [find_bins(columns, NOMINAL, None, regions, classifier) for columns in moved]
            for sums, bins in zip(out, found, strict=True):
                sums += tally(found[0], bins, events.classes * regions.n_bins, events.weights, out.shape[2])
    by_kind = dict(zip(KINDS, out.reshape(*out.shape[:2], *cells).swapaxes(0, 1), strict=True))
    return by_kind["counts"], by_kind["moved"]


def fit_rates(nus: np.ndarray, counts: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Fit the logarithms of yields, relative to the first, by a polynomial of second order without constant.

    Args:
        nus: The nuisance in units of its width, 0 first; shape (k,).
        counts: Yields there, shape (k, n).
        squares: Variances of the differences to the first, shape (k, n).

    Returns:
        Coefficients of nu and nu squared, held near 0 where few events decide, shape (n, 2).
    """
    filled = (counts > 0).all(axis=0)
    logs = np.log(counts[1:, filled] / counts[0, filled])
    variances = squares[1:, filled] / counts[0, filled] ** 2
    smallest = np.where(variances > 0, variances, np.inf).min(axis=0)
    precision = 1.0 / np.maximum(variances, np.where(np.isfinite(smallest), smallest, 1.0))
    terms = np.stack([nus[1:], nus[1:] ** 2], axis=1)
    matrix = np.einsum("kn,ki,kj->nij", precision, terms, terms) + np.diag(1.0 / np.square(EXPECTED_SIZES))
    out = np.zeros((counts.shape[1], 2))
    out[filled] = np.linalg.solve(matrix, np.einsum("kn,ki->ni", precision * logs, terms)[:, :, None])[:, :, 0]
    return out


def sums_at(observed: Observed, terms: np.ndarray, processes: Sequence[int]) -> np.ndarray:
    """Return the sums over events of w g_p exp(A_p . v) for monomials v, shape (n, C): shape (n, P, R)."""

    def of_region(shares: np.ndarray, responses: np.ndarray, weights: np.ndarray) -> np.ndarray:
        out: np.ndarray = norm_sums(lambda rows: (weights[rows, None] * shares[rows])[None], responses, terms)[0]
        return out

    own = list(processes)
    regions = zip(observed.shares, observed.responses, observed.weights, strict=True)
    sums = [of_region(shares[:, own], responses[:, own], weights) for shares, responses, weights in regions]
    return np.stack(sums, axis=2)


def spread_points(basis: Basis, n: int, seed: int) -> np.ndarray:
    """Return n points that lie denser towards the ends, as those of Chebyshev do; shape (n, K)."""
    rng = np.random.default_rng([seed, n])
    columns = []
    for coordinate in basis.coordinates:
        low, high = coordinate.of(np.array(coordinate.ends))
        x = 0.5 * (low + high) + 0.5 * (high - low) * np.cos(np.pi * rng.random(n))
        columns.append(np.expm1(x) if coordinate.logarithmic else coordinate.origin + coordinate.unit * x)
    return np.stack(columns, axis=1)


def factor_norms(
    added: Refinements, number: int, observed: Observed, processes: Sequence[int], seed: int
) -> np.ndarray:
    """Fit how an added nuisance changes the norms, together with all nuisances before it; shape (P, R, M).

    Args:
        added: What was added.
        number: Place of the nuisance among those that were added.
        observed: Nominal events with their coefficients.
        processes: Numbers of the P processes.
        seed: Seed of the points.
    """
    monomials = added.monomials(number)
    rng = np.random.default_rng(seed)
    n_wide = POINTS_PER_TERM * (monomials.stop - monomials.start)
    wide = spread_points(added.basis, n_wide, seed)
    near = np.array(draw_points(NORM_DRAWS, seed))
    for each in added.nuisances:
        drawn = np.clip(rng.normal(1.0, each.width, len(near)), *each.ends)
        near = np.column_stack([near, drawn])
    points = np.concatenate([wide, near])
    points[:, 4 + number :] = 1.0
    before = points.copy()
    before[:, 3 + number] = 1.0
    there, here = (sums_at(observed, added.response.terms(each), processes) for each in (points, before))
    logs = np.log(np.divide(there, here, out=np.ones(there.shape), where=here > 0)).reshape(len(points), -1)
    precision = np.where(np.arange(len(points)) < n_wide, 1.0, DRAWN_PRECISION)[:, None]
    terms = added.basis.terms(points)[:, monomials]
    found = np.linalg.lstsq(terms * precision, logs * precision, rcond=None)[0]
    return np.moveaxis(found.reshape(-1, *there.shape[1:]), 0, -1)


def factor_rates(added: Refinements, number: int, counts: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the rates of bins (..., B) as coefficients of the nuisance's monomials, shape (..., B, M).

    Args:
        added: What was added.
        number: Place of the nuisance among those that were added.
        counts: At 0 and ``RATE_POINTS``, shape (k, ..., B).
        squares: See ``fit_rates``.
    """
    fitted = fit_rates(np.array([0.0, *RATE_POINTS]), counts.reshape(len(counts), -1), squares.reshape(len(counts), -1))
    nuisance, powers = added.nuisances[number], mixed_powers(4 + number)
    unit = added.basis.coordinates[3 + number].unit / nuisance.width
    out = np.zeros((len(fitted), len(powers)))
    for order in (1, 2):
        out[:, powers.index((*(0,) * (3 + number), order))] = fitted[:, order - 1] * unit**order
    return out.reshape(*counts.shape[1:], -1)


def process_rates(sources: Sources, bundle: Bundle, name: str, seed: int) -> dict[str, np.ndarray]:
    """Count an added process at points of the first three shape nuisances and fit its expected events."""
    counter = Counter(sources.added[name], sources.table_fraction, "tables", bundle.network, bundle.normalisation)
    points = choose_points(NODES, seed)
    found = counter.count(points, bundle.regions)
    counts, moved = (found[kind].sum(axis=1, keepdims=True) for kind in ("counts", "moved"))
    response = fit_counts(points, counts, moved)
    return {
        array_name(name, "nominal"): response.nominal[0],
        array_name(name, "rate"): in_norm_basis(response.coefficients[0]),
    }


def process_norms(added: Refinements, observed: Observed, process: int, seed: int) -> dict[str, np.ndarray]:
    """Fit the norms of an added process at points of the first three shape nuisances."""
    three, precision = norm_sample(seed)
    points = np.column_stack([three, np.ones((len(three), len(added.nuisances)))])
    sums = sums_at(observed, added.response.terms(points), [process])
    name = added.names[process]
    return {array_name(name, "sums"): sums[0, 0], array_name(name, "norm"): fit_norms(three, sums, precision)[0]}
