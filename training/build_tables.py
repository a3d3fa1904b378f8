"""Bin edges and yield tables of a trained network.

    python -m training.build_tables --data data --training build/training --output build/tables

Counts the events of the test part, which the network has not seen, at some tens of nuisance points, fits a smooth
response per bin and process (see ``response``) and fills the grid of ``sage.tables``. Each point's counts go to a file
of their own, named after everything that decides them, so an interrupted run goes on where it stopped.

Writes ``tables.npz``, ``response.npz``, ``regions.json`` (cuts and edges) and ``report.json`` (residuals, sizes).
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sage.bundle import describe_regions
from sage.graph import Normalisation
from sage.nuisances import PROCESSES
from sage.regions import REGION_SETS, RegionSet
from sage.response import Response, fit_response
from sage.tables import AXES, GRID, default_axes
from training.binning import BinningRule, merge
from training.config import Config, chosen_config, command_line
from training.dataset import DATA_FILE
from training.files import read_arrays, sha256, write_arrays, write_json
from training.nodes import NOMINAL, Counter, Point, choose_points
from training.train import NETWORK_FILE, REPORT_FILE

TABLES_FILE = "tables.npz"
RESPONSE_FILE = "response.npz"
REGIONS_FILE = "regions.json"

log = logging.getLogger(__name__)


def read_network(folder: Path) -> tuple[dict[str, np.ndarray], Normalisation]:
    """Read what ``training.train`` wrote."""
    constants = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))["normalisation"]
    mean, std = (np.array(constants[key], dtype=np.float32) for key in ("mean", "std"))
    return read_arrays(folder / NETWORK_FILE), Normalisation(mean, std)


def choose_edges(counter: Counter, config: Config) -> RegionSet:
    """Find the bin edges of every region from the nominal counts in uniform bins.

    Raises:
        ValueError: If there is no region set of the configured name.
    """
    settings = config.tables
    if settings.region_set not in REGION_SETS:
        msg = f"no region set {settings.region_set!r}; choose one of {', '.join(REGION_SETS)}"
        raise ValueError(msg)
    bare = REGION_SETS[settings.region_set]
    uniform = np.linspace(0.0, 1.0, settings.uniform_bins + 1)
    fine = bare.with_edges({region.name: tuple(uniform.tolist()) for region in bare.regions})
    nominal = counter.count(NOMINAL, fine)
    rule = BinningRule(settings.min_count, settings.min_effective)
    return bare.with_edges(
        {
            name: merge(uniform, nominal["counts"][:, place], nominal["squares"][:, place], rule)
            for name, place in fine.slices.items()
        }
    )


def count_nodes(
    counter: Counter, points: list[Point], regions: RegionSet, folder: Path, workers: int
) -> dict[str, np.ndarray]:
    """Count at all points, reusing what ``folder`` holds already.

    Returns:
        What ``Counter.count`` returns, stacked along a first axis of points.
    """
    files = {point: folder / f"{_key(counter, point, regions)}.npz" for point in points}
    missing = [point for point in points if not files[point].exists()]
    progress = tqdm(total=len(missing), desc="nodes", disable=None)
    if workers > 1 and missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = {pool.submit(counter.count, point, regions): point for point in missing}
            for job in as_completed(jobs):
                write_arrays(files[jobs[job]], job.result())
                progress.update()
    else:
        for point in missing:
            write_arrays(files[point], counter.count(point, regions))
            progress.update()
    progress.close()
    results = [read_arrays(files[point]) for point in points]
    return {name: np.stack([result[name] for result in results]) for name in results[0]}


def fill_grid(response: Response) -> np.ndarray:
    """Evaluate a response of yields (4, n_bins) at the nodes of the tables, shape (17, 17, 41, 4, n_bins), float32."""
    grid = np.stack(np.meshgrid(*default_axes(), indexing="ij"), axis=-1).reshape(-1, len(AXES))
    # Axes made by linspace miss 1 by a rounding error.
    yields = response(np.round(grid, 9)).astype(np.float32)
    return yields.reshape(*GRID, *response.nominal.shape)


def residuals(response: Response, points: list[Point], counts: dict[str, np.ndarray]) -> dict[str, float]:
    """Compare the response with direct counts at points that the fit has not seen.

    Returns:
        Root mean square and largest absolute deviation per bin, processes summed in units of the statistical error of
        one data set (square root of the expected total), and per process in units of the Monte Carlo error.
    """
    fitted = response(np.array(points))
    difference = fitted - counts["counts"]
    total = np.maximum(counts["counts"].sum(axis=1), 1.0)
    data = difference.sum(axis=1) / np.sqrt(total)
    known = counts["moved"] > 0
    simulated = difference[known] / np.sqrt(counts["moved"][known])
    relative = difference.sum(axis=1) / total
    return {
        "rms_statistical_error": _rms(data),
        "largest_statistical_error": float(np.abs(data).max()),
        "rms_monte_carlo_error": _rms(simulated),
        "largest_monte_carlo_error": float(np.abs(simulated).max()),
        "rms_relative": _rms(relative),
        "largest_relative": float(np.abs(relative).max()),
    }


def build_tables(config: Config, data: Path, training: Path, output: Path) -> dict[str, Any]:
    """Make bin edges and tables.

    Args:
        config: The settings.
        data: Folder of the events file.
        training: Folder that ``training.train`` wrote.
        output: Folder that receives the results; counts at single points go to its sub-folder ``nodes``.

    Returns:
        The content of ``report.json``.
    """
    settings = config.tables
    parameters, normalisation = read_network(training)
    counter = Counter(data, config.test_size, "test", parameters, normalisation, config.seed, settings.noise_draws)
    regions = choose_edges(counter, config)
    points, held_out = choose_points(settings.nodes, settings.held_out, config.seed)
    counts = count_nodes(counter, [*points, *held_out], regions, output / "nodes", config.workers)
    fit = {name: value[: len(points)] for name, value in counts.items()}
    nominal = fit["counts"][0]

    flat = {name: value.reshape(len(points), -1) for name, value in fit.items()}
    flat_response = fit_response(np.array(points), flat["counts"], flat["moved"], nominal.ravel())
    response = Response(nominal, flat_response.coefficients.reshape(*nominal.shape, -1))
    yields = fill_grid(response)
    arrays = {name: axis.astype(np.float32) for name, axis in zip(AXES, default_axes(), strict=True)}
    arrays |= {f"yields_{name}": yields[..., place] for name, place in regions.slices.items()}
    write_arrays(output / TABLES_FILE, arrays)
    smooth = {}
    for name, place in regions.slices.items():
        smooth[f"nominal_{name}"] = response.nominal[:, place]
        smooth[f"response_{name}"] = response.coefficients[:, place]
        smooth[f"variance_{name}"] = fit["squares"][0][:, place]
    write_arrays(output / RESPONSE_FILE, smooth)
    write_json(output / REGIONS_FILE, describe_regions(regions))

    report = {
        "config": asdict(config),
        "bins": {region.name: region.n_bins for region in regions.regions},
        "yields": {
            name: dict(zip(PROCESSES, nominal[:, place].sum(axis=1).round(2).tolist(), strict=True))
            for name, place in regions.slices.items()
        },
        "residuals_nodes": residuals(response, points[1:], {name: value[1:] for name, value in fit.items()}),
        "bytes": (output / TABLES_FILE).stat().st_size,
    }
    if held_out:
        unseen = {name: value[len(points) :] for name, value in counts.items()}
        report["residuals_held_out"] = residuals(response, held_out, unseen)
    write_json(output / "report.json", report)
    return report


def _key(counter: Counter, point: Point, regions: RegionSet) -> str:
    """Return a name that changes with everything that decides the counts at a point."""
    digest = hashlib.sha256()
    for name, value in sorted(counter.parameters.items()):
        digest.update(name.encode() + value.tobytes())
    digest.update(counter.normalisation.mean.tobytes() + counter.normalisation.std.tobytes())
    settings = (counter.test_size, counter.part, counter.seed, counter.noise_draws, point, describe_regions(regions))
    digest.update(json.dumps(settings).encode())
    digest.update(sha256(counter.data / DATA_FILE).encode())
    return digest.hexdigest()[:20]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def main() -> None:
    """Run from the command line."""
    parser = command_line(__doc__, Path("build/tables"), "region_set", "workers")
    parser.add_argument("--training", type=Path, default=Path("build/training"), help="folder of the trained network")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = build_tables(chosen_config(arguments), arguments.data, arguments.training, arguments.output)
    log.info("%s", json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
