"""Convert a weights folder of the format before to the one of this release; the arrays stay as they are.

Writes a folder of its own. Everything is checked first, as it is when a submission reads it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.common import parser, run_program
from workshop.files import write_bytes, write_json

EXAMPLE = "--weights build/old/weights --output build/new/weights"
RENAMED = {"seed": "published"}
"""Names of region sets, nuisance variants and profiles that have changed."""


def converted(manifest: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return a manifest of the format before as one of this format, signed."""
    from sage.files.manifest import FORMAT, signed

    settings = {"rebuilding" if key == "calibration" else key: value for key, value in manifest["settings"].items()}
    origin, regions = manifest["origin"], manifest["region_set"]
    config = {
        **origin["config"],
        "tables": _renamed(origin["config"]["tables"], "region_set"),
        "measurement": _renamed(origin["config"]["measurement"], "nuisances"),
    }
    changes = {
        "format": FORMAT,
        "method": method,
        "settings": _renamed(settings, "nuisances", "profile"),
        "region_set": _renamed(regions, "name"),
        "origin": {**origin, "config": config},
    }
    return signed({**manifest, **changes})


def _renamed(entry: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: RENAMED.get(value, value) if key in keys else value for key, value in entry.items()}


def convert(weights: Path, output: Path, method: str) -> None:
    """Read, check and write.

    Raises:
        SettingsError: If there are weights in ``output`` already.
        WeightsError: If those in ``weights`` are not in order, or of another format.
    """
    from sage.errors import SettingsError, WeightsError
    from sage.files.arrays import REMEDY
    from sage.files.bundle import FILES, assemble
    from sage.files.manifest import BEFORE, MANIFEST, read_manifest

    if (output / MANIFEST).exists():
        msg = f"{output} holds a {MANIFEST} already; choose a folder without one"
        raise SettingsError(msg)
    manifest = read_manifest(weights, BEFORE)
    try:
        new = converted(manifest, method)
        assemble(weights, new, {"templates": "grid"})  # checks the tables as well
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        msg = f"{weights / MANIFEST}: an entry is missing or cannot be used ({error!r}); {REMEDY}"
        raise WeightsError(msg) from error
    for name in FILES:
        write_bytes(output / name, (weights / name).read_bytes())
    # Last, so that an interruption leaves a folder that is refused and can be written again.
    write_json(output / MANIFEST, new)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    from methods import summaries
    from sage.files.manifest import BEFORE, FORMAT

    options = parser("convert_weights", __doc__, EXAMPLE)
    options.add_argument("--weights", type=Path, required=True, help=f"weights folder of format {BEFORE}")
    options.add_argument("--output", type=Path, required=True, help=f"folder for those of format {FORMAT}")
    text = "method that the weights belong to, which the old format does not say (default: %(default)s)"
    options.add_argument("--method", choices=["sage", *summaries()], default="sage", help=text)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Convert and say where the result is."""
    convert(given.weights, given.output, given.method)
    print(f"written {given.output}; use it with --weights {given.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
