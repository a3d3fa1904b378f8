"""Options that several programs share, so that a name means the same everywhere."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.settings import DEFAULT_SEED, MU_RANGE, Settings, make_settings
from sage.challenge.nuisances import NAMES
from sage.errors import SettingsError
from scripts import checks
from scripts.common import ROOT
from training.config import DEFAULT_CONFIG, Config, read_config

if TYPE_CHECKING:
    from harness.runner import RunOptions

DEFAULT_SETS, DEFAULT_EXPERIMENTS = 10, 10
TEST_SIZE = 0.3
PART = "FOLDER[:tables|training|all]"
_DEFAULT = " (default: %(default)s)"

SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "seed": (checks.seed, "seed of every random draw"),
    "table_fraction": (
        checks.fraction,
        "fraction of the rows, from the first on, for the tables; the network trains on the others",
    ),
    "device": (str, "torch device of the training"),
    "threads": (checks.whole(1, 1024), "threads of the training"),
    "workers": (checks.whole(1, 1024), "processes that fill the tables; results do not depend on it"),
    "checkpoint_minutes": (checks.real(0.0, 1e6), "time between checkpoints"),
    "region_set": (str, "regions of the measurement"),
    "nodes": (
        checks.nuisance_points,
        "nuisance points; all is the whole grid and takes hours",
    ),
    "held_out": (checks.whole(), "further points at which the tables are checked"),
}
"""Settings of the configuration that the command line can replace: how they are read, and what they mean."""

Options = Any
"""A parser or one of its groups; argparse has no public type for both."""


def add_data(options: Options, *, required: bool = True) -> None:
    """Add ``--data``, as the harness takes it."""
    text = "events: a Parquet file, or the folder of the data set"
    options.add_argument("--data", type=Path, required=required, help=text)


def add_data_folder(options: Options, *, required: bool = True) -> None:
    """Add ``--data``, as training takes it."""
    text = "folder of the events file and its metadata"
    options.add_argument("--data", type=Path, required=required, help=text)


def add_part(options: Options, name: str = "--data", text: str = "folder of the events file and its metadata") -> None:
    """Add an option that takes events, or a part of them (``training.simulation.parts``)."""
    options.add_argument(name, required=True, metavar=PART, help=f"{text}, and which part of it (default: all)")


def add_weights(options: Options) -> None:
    """Add ``--weights``."""
    options.add_argument(
        "--weights", type=Path, default=ROOT / "weights", help="weights folder of SAGE (default: this checkout's)"
    )


def add_output(options: Options) -> None:
    """Add ``--output``."""
    text = "folder for the results; made if it is not there"
    options.add_argument("--output", type=Path, required=True, help=text)


def add_overwrite(options: Options) -> None:
    """Add ``--overwrite``."""
    options.add_argument("--overwrite", action="store_true", help="throw away earlier results in the output folder")


def add_resume(options: Options) -> None:
    """Add ``--resume``."""
    options.add_argument("--resume", action="store_true", help="go on from what an earlier run of this has left")


def add_seed(options: Options, what: str = "initial seed") -> None:
    """Add ``--seed``; ``what`` it decides."""
    options.add_argument("--seed", type=checks.seed, default=DEFAULT_SEED, help=what + _DEFAULT)


def add_workers(options: Options) -> None:
    """Add ``--workers``."""
    text = "processes; results do not depend on it" + _DEFAULT
    options.add_argument("--workers", type=checks.whole(1, 1024), default=1, help=text)


def add_systematics(options: Options) -> None:
    """Add ``--systematics``."""
    options.add_argument(
        "--systematics",
        type=systematics,
        default=NAMES,
        metavar="all|none|NAME,NAME...",
        help=f"uncertainties that are drawn, of {','.join(NAMES)}; the others are nominal (default: all)",
    )


def add_sets(options: Options) -> None:
    """Add ``--sets``."""
    text = f"sets, each with its own true mu (default: {DEFAULT_SETS}, or one per given mu)"
    options.add_argument("--sets", type=checks.whole(1), help=text)


def add_test_size(options: Options) -> None:
    """Add ``--test-size`` as rows or fraction, as the harness takes it."""
    text = "rows, or fraction of the rows, pseudo-experiments are drawn from" + _DEFAULT
    options.add_argument("--test-size", type=test_size, default=TEST_SIZE, help=text)


def add_table_fraction(options: Options, what: str, default: float) -> None:
    """Add ``--table-fraction``; ``what`` the first rows are for."""
    text = f"fraction of the rows, from the first on, {what}" + _DEFAULT
    options.add_argument("--table-fraction", type=checks.fraction, default=default, help=text)


def add_run(options: Options) -> None:
    """Add everything that says which pseudo-experiments are run and how."""
    add_data(options)
    add_output(options)
    add_sets(options)
    text = "pseudo-experiments per set" + _DEFAULT
    options.add_argument("--experiments", type=checks.whole(1), default=DEFAULT_EXPERIMENTS, help=text)
    add_workers(options)
    add_seed(options)
    add_systematics(options)
    low, high = MU_RANGE
    options.add_argument(
        "--ground-truth-mus",
        type=checks.mu,
        nargs="+",
        metavar="MU",
        help=f"true mu of each set (default: drawn uniformly from {low} to {high} with the seed)",
    )
    add_test_size(options)
    add_overwrite(options)


def add_config(options: Options, *names: str) -> None:
    """Add ``--config`` and options that replace its settings of these names."""
    text = "YAML file of settings (default: those of the shipped weights)"
    options.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=text)
    for name in names:
        kind, meaning = SETTINGS[name]
        flag = f"--{name.replace('_', '-')}"
        options.add_argument(flag, type=kind, help=f"{meaning} (default: the configuration's)")


def add_scheduler(options: Options) -> None:
    """Add ``--scheduler``."""
    text = "dask scheduler that counts, e.g. tcp://10.0.0.1:8786 (default: --workers processes here)"
    options.add_argument("--scheduler", type=checks.scheduler, metavar="ADDRESS", help=text)


def chosen_config(given: argparse.Namespace) -> Config:
    """Read the settings that the command line names, with what it replaces.

    Raises:
        SettingsError: If the file or a value is not one.
    """
    config = read_config(given.config, **{name: getattr(given, name, None) for name in SETTINGS})
    if hasattr(given, "device") and config.training.device != "cpu":
        _check_device(config.training.device)
    return config


def _check_device(name: str) -> None:
    import torch

    kind, _, number = name.partition(":")
    there = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(number or 0) >= there:
        msg = f"device is {name!r}, but this machine has {there} of that kind; choose another, or cpu"
        raise SettingsError(msg)


def run_settings(given: argparse.Namespace) -> Settings:
    """Return the settings of a run from the options of ``add_run``.

    Raises:
        UsageError: If they do not go together.
    """
    mus = given.ground_truth_mus
    return make_settings(number_of_sets(given.sets, mus), given.experiments, given.seed, given.systematics, mus)


def run_options(given: argparse.Namespace, settings: Settings, submission: Path, output: Path) -> RunOptions:
    """Return what the harness runs, with a progress bar."""
    from harness.runner import RunOptions

    return RunOptions(
        data=given.data,
        submission=submission,
        output=output,
        settings=settings,
        workers=given.workers,
        test_size=given.test_size,
        overwrite=given.overwrite,
        progress=True,
    )


def number_of_sets(sets: int | None, mus: list[float] | None) -> int:
    """Return the number of sets: as given, else one for each given mu, else the default."""
    if sets is not None:
        return sets
    return len(mus) if mus else DEFAULT_SETS


def systematics(text: str) -> tuple[str, ...]:
    """Read all, none or names of uncertainties from the command line."""
    if text in ("all", "none"):
        return NAMES if text == "all" else ()
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        msg = f"no systematic uncertainty is called {unknown[0]!r}; choose all, none or some of {','.join(NAMES)}"
        raise argparse.ArgumentTypeError(msg)
    return names


def nuisance_value(text: str) -> tuple[str, float]:
    """Read NAME=VALUE, a nuisance and its physical value, from the command line."""
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        msg = f"{text!r} is not NAME=VALUE with a finite number, as in tes=1.01"
        raise argparse.ArgumentTypeError(msg)
    return name.strip(), number


def test_size(text: str) -> float:
    """Read a number of rows or a fraction from the command line."""
    try:
        value: float = int(text) if text.strip().lstrip("+").isdecimal() else float(text)
    except ValueError:
        value = math.nan
    if not (value >= 1 if isinstance(value, int) else 0.0 < value <= 1.0):
        msg = f"{text!r} is neither a number of rows (100000) nor a fraction from 0.0 to 1.0 (0.3)"
        raise argparse.ArgumentTypeError(msg)
    return value


def add_flows(options: argparse.ArgumentParser) -> None:
    """Add what programs that train flows ask for: rows of --data, rows and epochs of a flow, and threads."""
    add = options.add_argument
    add("--rows", type=checks.whole(0, 10**10), default=0, help="first rows of --data that are used (default: 0, all)")
    add("--flow-rows", type=checks.whole(10), default=20_000, help="of a class for a flow (default: %(default)s)")
    add("--flow-epochs", type=checks.whole(1), default=6, help="of each flow at most (default: %(default)s)")
    add("--threads", type=checks.whole(1, 1024), default=1, help="of the CPU (default: %(default)s)")
