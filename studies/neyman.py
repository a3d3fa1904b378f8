"""Belts: what an estimator or test statistic does in pseudo-experiments, and the intervals that cover.

For each signal strength of a grid the quantiles of a statistic t among pseudo-experiments made there; the interval of
data is where t(data) lies below (arXiv:physics/9711021). It covers by construction, where -2 ln L is no parabola, at
the end of the range, with two valleys. Pseudo-experiments are bootstrapped: simulated events are drawn with the chance
of their weight in the expected data, which is the same as a Poisson number of copies of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sage.errors import InputError, SettingsError
from workshop.files import read_object, write_json
from workshop.jobs import Clock, process_pool

LEVELS = (0.6827, 0.9545)

Statistic = Callable[[np.random.Generator, float], float]
"""Makes a pseudo-experiment at a signal strength and returns its t there; NaN where it failed."""


@dataclass(frozen=True)
class Resampler:
    """Draws pseudo-experiments from simulated events.

    Args:
        cumulated: Running sum of the events' weights in the expected data, shape (N,).
    """

    cumulated: np.ndarray

    @classmethod
    def of(cls, weights: np.ndarray) -> Resampler:
        """Return the one for weights.

        Raises:
            InputError: If one is negative: a number of copies cannot be. A positive sample, reweighted with the ratio,
                stands for it.
        """
        if not np.isfinite(weights).all() or not (weights >= 0).all() or not weights.sum() > 0:
            bad = np.flatnonzero(~(weights >= 0))
            what = (
                f"{len(bad)} of {len(weights)} weights are negative or NaN" if len(bad) else "no finite weight above 0"
            )
            msg = f"{what}; pseudo-experiments take a positive sample: reweight one with the density ratio"
            raise InputError(msg)
        return cls(np.cumsum(weights))

    @property
    def expected(self) -> float:
        """Expected number of events."""
        return float(self.cumulated[-1])

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the positions of a pseudo-experiment's events, with repetition."""
        n = rng.poisson(self.expected)
        return np.searchsorted(self.cumulated, rng.random(n) * self.expected, side="right").clip(
            0, len(self.cumulated) - 1
        )


@dataclass(frozen=True)
class Belt:
    """Quantiles of t.

    Args:
        mu: Signal strengths, increasing, shape (n,).
        levels: Coverage of each quantile, shape (L,).
        quantiles: Of t, shape (L, n).
        errors: Standard errors of the quantiles, from the number of toys, shape (L, n).
        toys: Toys at each signal strength.
        failed: Failed ones, shape (n,); each counts as an infinite t.
    """

    mu: np.ndarray
    levels: tuple[float, ...]
    quantiles: np.ndarray
    errors: np.ndarray
    toys: int
    failed: np.ndarray

    def at(self, mu: np.ndarray | float, level: int = 0) -> np.ndarray:
        """Return a quantile at any mu, linear in sqrt(mu) between the grid's, constant beyond."""
        root = np.sqrt(np.maximum(mu, 0.0))
        return np.asarray(np.interp(root, np.sqrt(np.maximum(self.mu, 0.0)), self.quantiles[level]))

    def intervals(self, mu: np.ndarray, t: np.ndarray, level: int = 0) -> list[tuple[float, float]]:
        """Return the pieces of the accepted region.

        Args:
            mu: Signal strengths, increasing and dense, shape (m,).
            t: Of the data there.
            level: Which of the levels.
        """
        above = t - self.at(mu, level)
        inside = above <= 0
        edges = np.flatnonzero(np.diff(inside.astype(int)))
        crossings = [float(mu[i] + (mu[i + 1] - mu[i]) * above[i] / (above[i] - above[i + 1])) for i in edges]
        ends = ([float(mu[0])] if inside[0] else []) + crossings + ([float(mu[-1])] if inside[-1] else [])
        return list(zip(ends[::2], ends[1::2], strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "mu": self.mu.tolist(),
            "levels": list(self.levels),
            "quantiles": self.quantiles.tolist(),
            "errors": self.errors.tolist(),
            "toys": self.toys,
            "failed": self.failed.tolist(),
        }


def quantile(ordered: np.ndarray, level: float, errors: int = 0) -> float:
    """Return a quantile of ordered values, or that ``errors`` binomial standard deviations of its rank away."""
    n = len(ordered)
    rank = level * n + errors * math.sqrt(n * level * (1 - level))
    return float(ordered[min(max(math.ceil(rank) - 1, 0), n - 1)])


def toys_at(statistic: Statistic, mu: float, toys: int, seed: int) -> np.ndarray:
    """Return t of toys at one signal strength, ordered, shape (toys,); a failed one is infinite."""
    # The seed knows mu by its bits, so that a grid with more points has the same toys at the old ones.
    rng = np.random.default_rng((seed, int(np.float64(mu).view(np.uint64))))
    t = np.array([statistic(rng, mu) for _ in range(toys)])
    return np.sort(np.where(np.isfinite(t), t, math.inf))


def make_belt(
    statistic: Statistic,
    mus: Sequence[float],
    toys: int,
    seed: int = 1,
    folder: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    workers: int = 1,
    clock: Clock = nullcontext,
    levels: tuple[float, ...] = LEVELS,
) -> Belt:
    """Make the belt of a statistic.

    Args:
        statistic: Its t in a new pseudo-experiment at mu.
        mus: Signal strengths, increasing.
        toys: Toys at each.
        seed: Decides the toys together with mu.
        folder: As for ``all_toys``, like what follows.
        identity: What else decides the toys.
        workers: Processes.
        clock: Of each signal strength, as ``belt mu``.
        levels: Wanted coverages.

    Raises:
        SettingsError: If the grid does not increase or there are no toys.
    """
    grid = np.asarray(mus, dtype=float)
    if toys < 1 or not len(grid) or not (np.diff(grid) > 0).all() or not np.isfinite(grid).all():
        msg = f"{toys} toys at mu {list(mus)}; give 1 or more, at finite signal strengths that increase"
        raise SettingsError(msg)
    rows = all_toys(statistic, grid.tolist(), toys, seed, folder, identity, workers, clock)
    found = [[quantile(row, level) for row in rows] for level in levels]
    spread = [[0.5 * (quantile(row, level, 1) - quantile(row, level, -1)) for row in rows] for level in levels]
    failed = np.array([int(np.isinf(row).sum()) for row in rows])
    return Belt(grid, tuple(levels), np.array(found), np.nan_to_num(spread, posinf=math.inf), toys, failed)


def all_toys(
    statistic: Statistic,
    mus: Sequence[float],
    toys: int,
    seed: int,
    folder: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    workers: int = 1,
    clock: Clock = nullcontext,
    what: str = "belt",
) -> list[np.ndarray]:
    """Return t of toys at each of several signal strengths, ordered, shape (toys,) each.

    Args:
        statistic: Its t in a new pseudo-experiment at mu.
        mus: Signal strengths.
        toys: Toys at each.
        seed: Decides the toys together with mu.
        folder: Keeps the toys of every mu, so that an interrupted belt goes on; they are made anew without one.
        identity: What else decides the toys, as JSON values; kept toys of another are made again.
        workers: Processes, one signal strength in each at a time; statistic and clock travel to them by pickle.
        clock: Of each signal strength.
        what: What it is told that the toys are for.
    """
    rows: dict[float, np.ndarray] = {}
    with (
        tqdm(total=len(mus), desc=what, unit="mu", leave=False, disable=None) as progress,
        process_pool(min(workers, max(1, len(mus)))) as pool,
    ):
        for mu in mus:
            pool.submit(mu, kept_toys, statistic, mu, toys, seed, folder, identity, clock, what)
        for mu, row in pool.finished():
            rows[mu] = row
            progress.update()
    return [rows[mu] for mu in mus]


def kept_toys(
    statistic: Statistic,
    mu: float,
    toys: int,
    seed: int,
    folder: Path | None,
    identity: Mapping[str, Any] | None,
    clock: Clock,
    what: str,
) -> np.ndarray:
    """Return t of toys at one signal strength as ``toys_at``, from the folder's file if it has these toys.

    Args:
        statistic: As for ``all_toys``, like all that follows.
        mu: Signal strength.
        toys: Their number.
        seed: Decides them together with mu.
        folder: Keeps them.
        identity: What else decides them.
        clock: Of the time.
        what: What they are for.
    """
    if folder is None:
        return toys_at(statistic, mu, toys, seed)
    path, wanted = folder / f"belt_{mu:.6g}.json", {"toys": toys, "seed": seed, **(identity or {})}
    if path.exists():
        content = read_object(path, "remove it to make its toys again")
        if {name: value for name, value in content.items() if name != "t"} == wanted:
            return np.array([math.inf if value is None else value for value in content["t"]])
    with clock(f"{what} {mu:g}"):
        found = toys_at(statistic, mu, toys, seed)
    write_json(path, {**wanted, "t": [value if math.isfinite(value) else None for value in found.tolist()]})
    return found


def coverage(belt: Belt, statistic: Statistic, mu: float, toys: int, seed: int, level: int = 0) -> float:
    """Return the fraction of new toys at mu whose interval holds mu."""
    return float((toys_at(statistic, mu, toys, seed) <= belt.at(mu, level)).mean())
