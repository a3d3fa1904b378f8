"""The smooth response against counts of the same events at nuisance points it was not fitted to.

The events are counted at the points of a weights folder and at others, drawn from the priors, with noise of their own.
The response is fitted anew to the former, so that the latter differ from its prediction by two things alone: what its
monomials cannot describe, and chance in the events that change bin between the points. Pulls are in units of that
chance; that rows of one showered event move together they do not know. The weights' own response, of which these events
may be a part, is compared as well, relative to the nominal yields. What a difference does to mu is told by a fit to the
counts whose constraints are centred on the point: as predicted, they would give 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sage.binned.counting import draw_points
from sage.binned.response import Point, Response, fit_counts
from sage.binned.statistic import BinnedLikelihood, binned_likelihood
from sage.challenge.nuisances import PROCESSES
from sage.fit.newton import fit_global
from sage.measurement import rates_of
from studies.likelihoods import open_weights
from training.correlations import sensitivities
from training.counting import Counter, count_nodes
from training.simulation.parts import Piece
from training.sums import read_plan
from training.validation import validate
from workshop.claims import claimed
from workshop.files import write_json

CHECK_FILE = "response.json"
NODES = "nodes"
MU_TRUE = 1.0


def check_response(
    weights: Path, piece: Piece, output: Path, held_out: int = 100, workers: int = 1, *, overwrite: bool = False
) -> dict[str, Any]:
    """Count, compare and write ``response.json``; goes on from the counts in ``output`` if there are some.

    Args:
        weights: The weights folder.
        piece: The events.
        output: Folder that receives the results; counts go to its sub-folder ``nodes``.
        held_out: Number of points that are not fitted.
        workers: Processes on this machine.
        overwrite: Throw away what ``output`` holds.

    Returns:
        JSON values: numbers of points, and for the response that is ``fitted`` here and for that of the ``weights``
        what ``compare`` returns.

    Raises:
        sage.errors.InputError: If the weights do not tell how their tables were counted.
        UsageError: If the weights cannot be read, or the folder holds other counts, something else, or is in use.
    """
    bundle, plan = open_weights(weights), read_plan(weights)
    counter = Counter(piece.folder, piece.table_fraction, piece.part, plan.parameters, plan.normalisation, plan.noise)
    # With noise of its own, so that a fluctuation which all points of the fit share is seen.
    other = replace(counter, noise=replace(plan.noise, seed=plan.noise.seed + 1, common=False))
    points = draw_points(held_out, plan.noise.seed)
    rows = [piece.rows.start, piece.rows.stop]
    identity = plan.identity() | {"events": piece.hash, "rows": rows, "held_out": held_out}
    with claimed(output, identity, results=(f"{NODES}/*.npz", CHECK_FILE), overwrite=overwrite):
        nodes = count_nodes(counter, plan.points, plan.regions, output / NODES, workers)
        unseen = count_nodes(other, points, plan.regions, output / NODES, workers)
        response = fit_counts(plan.points, nodes["counts"], nodes["moved"])
        own = Response(response.nominal, bundle.response.coefficients)
        compared = {}
        for name, each in {"fitted": response, "weights": own}.items():
            rates = replace(rates_of(bundle), templates=each)
            likelihood = binned_likelihood(rates, np.zeros(plan.regions.n_bins), bundle.variances)
            compared[name] = compare(each, likelihood, points, unseen["counts"], unseen["moved"])
        found = {
            "data": {"folder": piece.folder.name, "part": piece.part, "sha256": piece.hash},
            "points_of_the_fit": len(plan.points),
            "held_out": len(points),
            **compared,
        }
        write_json(output / CHECK_FILE, found)
    return found


def compare(
    response: Response, likelihood: BinnedLikelihood, points: Sequence[Point], counts: np.ndarray, moved: np.ndarray
) -> dict[str, Any]:
    """Compare a response with direct counts.

    Args:
        response: The prediction.
        likelihood: A likelihood with it for templates; its counts are not read.
        points: The k points.
        counts: Direct counts, shape (k, P, B).
        moved: Variance of their difference to the nominal counts, shape (k, P, B).

    Returns:
        JSON values: ``bins``, see ``training.validation.validate``; ``pulls`` of each process and of all together; and
        ``mu``, by how much mu_hat is off: its mean and spread over the points, the ``largest`` with its point and the
        error that the events which changed bin give it, and the ``pulls`` of all points in such errors.
    """
    difference = counts - response(np.array(points))
    pulls = {name: _pulls(difference[:, p], moved[:, p], points) for p, name in enumerate(PROCESSES)}
    pulls["all"] = _pulls(difference.sum(axis=1), moved.sum(axis=1), points)
    shifts = np.array([_shift(likelihood, point, n.sum(axis=0)) for point, n in zip(points, counts, strict=True)])
    errors = np.sqrt((sensitivities(likelihood) ** 2 * moved.sum(axis=1)).sum(axis=1))
    worst = int(np.abs(shifts).argmax())
    return {
        "bins": validate(response, points, counts, moved),
        "pulls": pulls,
        "mu": {
            "mean": float(shifts.mean()),
            "rms": float(np.sqrt(np.mean(shifts**2))),
            "largest": float(shifts[worst]),
            "largest_error": float(errors[worst]),
            "largest_point": list(points[worst]),
            "median_error": float(np.median(errors)),
            "pulls_rms": float(np.sqrt(np.mean((shifts / errors) ** 2))),
        },
    }


def _pulls(difference: np.ndarray, variance: np.ndarray, points: Sequence[Point]) -> dict[str, Any]:
    """Summarise the pulls of points and bins, shape (k, B), in which anything moved."""
    pulls = np.divide(difference, np.sqrt(variance), out=np.zeros_like(difference), where=variance > 0)
    used = pulls[variance > 0]
    point, where = np.unravel_index(int(np.abs(pulls).argmax()), pulls.shape)
    return {
        "number": int(used.size),
        "mean": float(used.mean()),
        "rms": float(np.sqrt(np.mean(used**2))),
        "beyond_three": float((np.abs(used) > 3.0).mean()),
        "largest": float(pulls[point, where]),
        "largest_bin": int(where),
        "largest_point": list(points[int(point)]),
    }


def _shift(likelihood: BinnedLikelihood, point: Point, counts: np.ndarray) -> float:
    """Return mu_hat - 1 of counts at a point with the constraints centred on it."""
    centres = np.zeros(len(likelihood.nuisances))
    centres[:3] = [nuisance.nu(alpha) for nuisance, alpha in zip(likelihood.nuisances, point, strict=False)]
    statistic = replace(likelihood.statistic, counts=counts)
    found = fit_global(replace(likelihood, statistic=statistic, centres=centres))
    return found.mu - MU_TRUE if found.converged else math.nan


def summary(found: dict[str, Any]) -> str:
    """Return the text of what ``check_response`` found."""
    lines = [f"{found['held_out']} points that were not fitted, {found['points_of_the_fit']} that were"]
    for name, title in (("fitted", "response fitted to these events"), ("weights", "response of the weights")):
        compared = found[name]
        bins, mu = compared["bins"], compared["mu"]
        lines.append(f"{title}:")
        for process, pulls in compared["pulls"].items():
            lines.append(
                f"  {process:<9} pulls: rms {pulls['rms']:.2f}, mean {pulls['mean']:+.2f}, largest "
                f"{pulls['largest']:+.1f}, {pulls['beyond_three']:.2%} beyond 3"
            )
        lines.append(
            f"  bins off by {bins['rms_statistical_errors']:.3f} statistical errors of the data (rms); "
            f"{bins['within']:.2%} within the tolerance"
        )
        lines.append(
            f"  mu_hat - 1: mean {mu['mean']:+.4f}, rms {mu['rms']:.4f}, largest {mu['largest']:+.4f} +- "
            f"{mu['largest_error']:.4f} at {tuple(mu['largest_point'])}"
        )
    return "\n".join(lines)
