"""Builds the native kernel.

    python -m native.build

compiles ``native/network.cpp`` with the clang of the ``ziglang`` package against glibc 2.31, so that the library loads
on any Linux since 2020, puts it beside
``sage/network/native.py`` and states its sha256 in ``sage/network/library_hash.py``. The same
version of ziglang makes the same bytes. With ``--compiler g++`` the result runs on machines like this one only.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "native" / "network.cpp"
LIBRARY = ROOT / "sage" / "network" / "libsage_network.so"
HASH = ROOT / "sage" / "network" / "library_hash.py"

TARGET = "x86_64-linux-gnu.2.31"
COMPILERS: dict[str, tuple[str, ...]] = {
    "ziglang": (sys.executable, "-m", "ziglang", "c++", "-target", TARGET, "-nostdlib++", "-fno-sanitize=all", "-s"),
    "g++": ("g++", "-s"),
}
FLAGS = (
    *("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-exceptions", "-fno-rtti"),
    *("-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
)


def available(compiler: str) -> bool:
    """Tell whether a compiler of ``COMPILERS`` is installed."""
    if compiler == "ziglang":
        return importlib.util.find_spec(compiler) is not None
    return shutil.which(compiler) is not None


def build(output: Path, compiler: str = "ziglang", extra: Sequence[str] = ()) -> str:
    """Compile the kernel and return the sha256 of the library.

    Args:
        output: The library to write.
        compiler: One of ``COMPILERS``.
        extra: Further options, which win over the usual ones.
    """
    # Run in the source's folder: a path in the command could end up in the library.
    command = [*COMPILERS[compiler], *FLAGS, *extra, SOURCE.name, "-o", str(output.resolve())]
    subprocess.run(command, cwd=SOURCE.parent, check=True)
    return hashlib.sha256(output.read_bytes()).hexdigest()


def main() -> None:
    """Build the library that is shipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", choices=sorted(COMPILERS), default="ziglang")
    compiler = parser.parse_args().compiler
    if not available(compiler):
        parser.error(f"{compiler} is not installed; make kernel installs ziglang")
    sha256 = build(LIBRARY, compiler)
    HASH.write_text(
        f'"""Written by ``native/build.py``: the library that belongs to this source."""\n\nSHA256 = "{sha256}"\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
