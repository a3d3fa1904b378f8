"""What the processes are called in pictures and tables for people; files and settings have their plain names."""

from __future__ import annotations

PROCESS_LABELS = {
    "htautau": r"$H\to\tau\tau$",
    "ztautau": r"$Z\to\tau\tau$",
    "ttbar": r"$t\bar t$",
    "diboson": r"$VV$",
}
"""In pictures."""
PROCESS_NAMES = {"htautau": "H → ττ", "ztautau": "Z → ττ", "ttbar": "tt̄", "diboson": "VV"}
"""In tables."""


def process_name(name: str) -> str:
    """Return what a process is called in tables, or a name that is none, as of all of them, unchanged."""
    return PROCESS_NAMES.get(name, name)
