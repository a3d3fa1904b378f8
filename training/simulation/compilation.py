"""Compilation to machine code, kept on disk so that each new process need not compile again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

HERE = Path(__file__).parent


Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function with numba when it is first called, or read it from disk.

    numba's own cache looks at the file of the function alone, and would go on using what was compiled from other
    files, or with their constants, before they changed. So the folder is named after all sources of this package.
    """
    settings: Any = numba.config  # made at run time
    chosen: str = settings.CACHE_DIR
    settings.CACHE_DIR = str(_folder(chosen))
    try:
        return cast(Function, numba.njit(cache=True)(function))
    finally:
        settings.CACHE_DIR = chosen


@cache
def _folder(chosen: str) -> Path:
    """Folder for compiled code: in the one the user chose (NUMBA_CACHE_DIR), else beside Python's own."""
    digest = hashlib.sha256()
    for path in sorted(HERE.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return (Path(chosen) if chosen else HERE / "__pycache__") / f"numba-{digest.hexdigest()[:16]}"
