"""Bin edges and yield tables of a trained network.

Counts the events of the table part, which the network has not seen, at some tens of nuisance points, fits a smooth
response per bin and process (see ``sage.binned.response``) and fills the grid of ``sage.binned.tables``. The counts
are jobs, each of which writes one file (see ``training.counting``), so an interrupted run goes on where it stopped.
With 0 ``nodes`` the events are counted at every node of the grid instead. ``held_out`` counts at further points, drawn
from the priors, and
compares (see ``training.validation``).

``add_tables`` takes counts that were made earlier, of productions whose events may be gone.

Writes ``tables.npz``, ``response.npz``, ``regions.json`` (cuts and edges), ``report.json`` and ``cost.json``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sage.binned.counting import NOMINAL, Noise, choose_points, draw_points
from sage.binned.regions import RegionSet, region_set
from sage.binned.response import Point, Response, fill_grid, fit_counts
from sage.binned.tables import AXES, GRID, YieldTables, default_axes, grid_points
from sage.challenge.nuisances import PROCESSES, variant
from sage.errors import InputError
from sage.files.bundle import VARIANCE_FACTORS
from sage.files.manifest import describe_regions
from sage.network.classifier import Classifier, NetworkClassifier
from sage.rates import Rates
from training.adding import Added
from training.binning import BinningRule, choose_edges
from training.config import Config
from training.correlations import variance_factors, yield_errors
from training.counting import ByParents, Counter, CountingJob, count_nodes
from training.efficient import choose_score, starting_edges
from training.events import DATA_FILE
from training.networks import NETWORK_FILE, read_network, read_shares
from training.validation import validate
from workshop.claims import claimed
from workshop.files import sha256, write_arrays, write_json

TABLES_FILE = "tables.npz"
RESPONSE_FILE = "response.npz"
REGIONS_FILE = "regions.json"
REPORT = "report.json"
COST = "cost.json"
NODES = "nodes"

log = logging.getLogger("sage.training.build_tables")


def build_tables(
    config: Config,
    data: Path,
    training: Path,
    output: Path,
    *,
    bare: RegionSet | None = None,
    make_classifier: Callable[..., Classifier] = NetworkClassifier,
    scheduler: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make bin edges and tables; goes on from the counts in ``output`` if there are some.

    Args:
        config: The settings.
        data: Folder of the events file.
        training: Folder that ``training.train`` wrote, or a weights folder, whose network is taken.
        output: Folder that receives the results; counts go to its sub-folder ``nodes``.
        bare: Regions with the range of their observables as only bin; the configured set if absent.
        make_classifier: Makes what classifies of parameters and feature constants.
        scheduler: Address of a dask scheduler that counts; this machine's processes if absent.
        overwrite: Throw away what ``output`` holds of earlier tables.

    Returns:
        The content of ``report.json``.

    Raises:
        UsageError: If the folder holds other tables, something else, or is in use.
    """
    settings = config.tables
    noise = Noise(config.seed, settings.noise_draws, settings.common_noise)
    counter = Counter(data, config.table_fraction, "tables", *read_network(training), noise, make_classifier)
    bare = bare or region_set(settings.region_set).for_network(read_shares(training))
    identity = {
        "data": sha256(data / DATA_FILE),
        "network": sha256(training / NETWORK_FILE),
        "seed": config.seed,
        "table_fraction": config.table_fraction,
        **{name: value for name, value in asdict(settings).items() if name != "held_out" and value != {}},
    }
    with claimed(output, identity, results=(f"{NODES}/*.npz", REPORT), overwrite=overwrite):
        return _build(config, counter, bare, output, scheduler, identity["data"])


def _build(
    config: Config, counter: Counter, bare: RegionSet, output: Path, scheduler: str | None, data_hash: str
) -> dict[str, Any]:
    settings, noise = config.tables, counter.noise
    rule = BinningRule(settings.min_count, settings.min_effective, settings.min_count_each)
    mu, nus = settings.reference_point()
    bare, promised = choose_score(bare, counter.blocks, mu, nus, config.seed)
    starts = starting_edges(bare, counter.blocks, settings.uniform_bins)
    regions = choose_edges(bare, rule, settings.uniform_bins, lambda fine: counter.count([NOMINAL], fine), starts)
    variances = counter.variances(regions)
    sums = counter.by_parents(regions) if counter.has_parents else None

    def count(which: Counter, points: Sequence[Point]) -> dict[str, np.ndarray]:
        return count_nodes(which, points, regions, output / NODES, config.workers, scheduler)

    # The grid has the nominal point, but not in its first place, where the fit expects it.
    points = choose_points(settings.nodes, config.seed) if settings.nodes else [NOMINAL, *grid_points()]
    n_events = sum(len(rows) for rows, _ in counter.shards())
    print_cost(counter, points, n_events, regions, config.workers)
    began = time.perf_counter()
    counts = count(counter, points)
    elapsed = time.perf_counter() - began
    made = _tables(config, output, regions, points, counts, variances, sums, with_grid=settings.nodes == 0)
    report = made.report | {"data": {"file": DATA_FILE, "sha256": data_hash}}
    if promised:
        report["efficient_score"] = promised
    evaluations = n_events * noise.evaluations(points)
    cost = {
        "events": n_events,
        "points": len(points),
        "events_times_points": evaluations,
        "core_seconds": round(float(counts["seconds"]), 2),
        "events_times_points_per_core_second": round(evaluations / float(counts["seconds"])),
        "seconds_of_this_run": round(elapsed, 2),
    }
    if settings.held_out:
        # With noise of its own, so that a fluctuation which all nodes share is seen.
        other = replace(counter, noise=Noise(config.seed + 1, settings.noise_draws, common=False))
        held_out = draw_points(settings.held_out, config.seed)
        unseen = count(other, held_out)
        tables = YieldTables(default_axes(), made.yields)
        report["held_out"] = {
            "smooth": validate(made.response, held_out, unseen["counts"], unseen["moved"]),
            "grid": validate(tables, held_out, unseen["counts"], unseen["moved"]),
        }
        cost["core_seconds_held_out"] = round(float(unseen["seconds"]), 2)
    # In a file of its own: times differ from run to run, the report does not.
    write_json(output / COST, cost)
    write_json(output / REPORT, report)
    return report | {"cost": cost}


def add_tables(
    config: Config, added: Added, training: Path, output: Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Make tables from sums of counted productions; see ``training.adding``.

    Args:
        config: The settings, with those of ``decided_by``.
        added: The sums.
        training: Folder of the network, as in ``build_tables``.
        output: Folder that receives the results.
        overwrite: Throw away what ``output`` holds of earlier tables.

    Returns:
        The content of ``report.json``.

    Raises:
        sage.errors.InputError: If the sums do not belong to the network.
        UsageError: If the folder holds other tables, something else, or is in use.
    """
    network = sha256(training / NETWORK_FILE)
    if network != added.network:
        msg = f"the events were counted with another network than that of {training}; give that one as --network, or "
        msg += "count again"
        raise InputError(msg)
    with claimed(output, {"added": added.parts, "network": network}, results=(REPORT,), overwrite=overwrite):
        counts = {"counts": added.counts, "moved": added.moved}
        made = _tables(config, output, added.regions, added.points, counts, added.sums.variances, added.sums)
        report = made.report | {"data": {"rows": int(added.sums.rows.sum()), "added": added.parts}}
        write_json(output / REPORT, report)
        return report


def decided_by(config: Config, added: Added) -> Config:
    """Return the settings with those that the counts were made with."""
    seed, draws, common = added.noise
    tables = replace(
        config.tables,
        region_set=added.regions.name,
        nodes=len(added.points),
        held_out=0,
        noise_draws=draws,
        common_noise=common,
    )
    return replace(config, seed=seed, tables=tables)


@dataclass(frozen=True)
class _Tables:
    """Tables, and what ``report.json`` says about them."""

    response: Response
    yields: np.ndarray
    report: dict[str, Any]


def _tables(
    config: Config,
    output: Path,
    regions: RegionSet,
    points: Sequence[Point],
    counts: Mapping[str, np.ndarray],
    variances: np.ndarray,
    sums: ByParents | None,
    *,
    with_grid: bool = False,
) -> _Tables:
    """Fit the response to counts at points, the nominal one first, and write everything but the report.

    Without ``sums``, rows are independent. ``with_grid`` says that the other points are those of the grid.
    """
    response = fit_counts(points, counts["counts"], counts["moved"])
    if with_grid:
        yields = counts["counts"][1:].reshape(*GRID, *variances.shape).astype(np.float32)
    else:
        yields = fill_grid(response)
    factors = None
    if sums is not None:
        rates = Rates(response, variant(config.measurement.nuisances), regions.has_signal)
        factors = variance_factors(rates, variances, sums)
    _write(output, regions, response, yields, variances, factors)
    report = {
        "config": asdict(config),
        "bins": {region.name: region.n_bins for region in regions.regions},
        "yields": {
            name: dict(zip(PROCESSES, response.nominal[:, place].sum(axis=1).round(2).tolist(), strict=True))
            for name, place in regions.slices.items()
        },
        "effective_weight": {
            name: round(float(variances[p].sum() / max(response.nominal[p].sum(), 1e-9)), 4)
            for p, name in enumerate(PROCESSES)
        },
        "variance_factors": None if factors is None else dict(zip(PROCESSES, factors.round(4).tolist(), strict=True)),
        "errors": None if sums is None else yield_errors(regions, sums),
        "nodes": validate(response, points[1:], counts["counts"][1:], counts["moved"][1:]),
        "bytes": (output / TABLES_FILE).stat().st_size,
    }
    return _Tables(response, yields, report)


def print_cost(counter: Counter, points: Sequence[Point], n_events: int, regions: RegionSet, workers: int) -> None:
    """Say what counting will cost, judged by the nominal point of one shard."""
    rows, share = max(counter.shards(), key=lambda shard: len(shard[0]))
    began = time.perf_counter()
    CountingJob(counter, rows, share, (NOMINAL,), regions)()
    rate = len(rows) / (time.perf_counter() - began)
    evaluations = n_events * counter.noise.evaluations(points)
    log.info(
        "%d events at %d points, %.3g evaluations; here they take %.1f core minutes, %.1f minutes with %d workers",
        n_events,
        len(points),
        evaluations,
        evaluations / rate / 60,
        evaluations / rate / 60 / max(workers, 1),
        workers,
    )


def rounded(yields: np.ndarray) -> np.ndarray:
    """Round to 14 binary digits, 6e-5 of the value at most: the files shrink by half and nothing else notices."""
    mantissa, exponent = np.frexp(yields.astype(np.float32))
    return np.ldexp(np.round(mantissa * 16384.0) / 16384.0, exponent).astype(np.float32)


def _write(
    output: Path,
    regions: RegionSet,
    response: Response,
    yields: np.ndarray,
    variances: np.ndarray,
    factors: np.ndarray | None,
) -> None:
    arrays = {name: axis.astype(np.float32) for name, axis in zip(AXES, default_axes(), strict=True)}
    # Neighbours on the grid next to each other: they are alike, so the file compresses better.
    by_bin = np.moveaxis(rounded(yields), (-2, -1), (0, 1))
    arrays |= {f"yields_{name}": by_bin[:, place] for name, place in regions.slices.items()}
    write_arrays(output / TABLES_FILE, arrays)
    smooth = {} if factors is None else {VARIANCE_FACTORS: factors}
    for name, place in regions.slices.items():
        smooth[f"nominal_{name}"] = response.nominal[:, place]
        smooth[f"response_{name}"] = response.coefficients[:, place]
        smooth[f"variance_{name}"] = variances[:, place]
    write_arrays(output / RESPONSE_FILE, smooth)
    write_json(output / REGIONS_FILE, describe_regions(regions))


def summary(report: dict[str, Any]) -> str:
    """Return the text table of what ``build_tables`` has made."""
    width = max(map(len, (*report["yields"], "effective weight")))
    lines = [f"{'region':{width}} {'bins':>5}" + "".join(f"{name:>12}" for name in PROCESSES)]
    for region, events in report["yields"].items():
        cells = "".join(f"{events[name]:12.1f}" for name in PROCESSES)
        lines.append(f"{region:{width}} {report['bins'][region]:5d}{cells}")
    weights = "".join(f"{report['effective_weight'][name]:12.4f}" for name in PROCESSES)
    lines.append(f"{'effective weight':{width}} {'':5}{weights}")
    if report["variance_factors"] is not None:
        cells = "".join(f"{report['variance_factors'][name]:12.4f}" for name in PROCESSES)
        lines.append(f"{'variance factor':{width}} {'':5}{cells}")
    checked = {"points of the fit": report["nodes"], **report.get("held_out", {})}
    for name, found in checked.items():
        verdict = "passed" if found["passed"] else "not passed"
        share = f"{found['within']:.2%} of bins at {found['points']} points within tolerance"
        lines.append(f"{name}: {share}, {found['within_three_times']:.2%} within three times: {verdict}")
    if "cost" in report:
        cost = report["cost"]
        rate = cost["events_times_points_per_core_second"]
        lines.append(f"{cost['core_seconds']:.0f} core seconds, {rate:.3g} events x points per core second")
    return "\n".join(lines)
