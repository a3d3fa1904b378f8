"""Stands in for this package where a program is started as a file, and leads to it: `python scripts/score.py`."""

from __future__ import annotations

import sys
from pathlib import Path

# Python has put the folder of the programs there, in which it found this file.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
del sys.modules["scripts"]
import scripts  # noqa: E402, F401  the package takes this module's place
