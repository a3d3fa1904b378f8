"""What a run was made with: the part that its results do not depend on, or that its fingerprints do not spell out."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.test_set import EventFile

PACKAGES = ("numpy", "pandas", "pyarrow", "torch", "HiggsML")
CPU_FILE = Path("/proc/cpuinfo")


def describe_environment(events: EventFile, workers: int) -> dict[str, Any]:
    """Return data file, versions and machine as JSON values.

    Args:
        events: The events file.
        workers: Number of processes.
    """
    return {
        "data": {
            "file": events.path.name,
            "rows": events.total_rows,
            "test_rows": events.test_rows,
            "sum_weights": events.sum_weights,
        },
        "workers": workers,
        "versions": versions(),
        "machine": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count()},
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name where the system tells it, else its architecture."""
    try:
        for line in CPU_FILE.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
