"""What the programs share: the log, the parser's looks, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from sage.errors import SageError
from scripts.checks import check_paths
from workshop.errors import disk_error

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

logger = logging.getLogger("sage")


class ProgressHandler(logging.Handler):
    """Prints log records on stderr above a running progress bar."""

    def __init__(self) -> None:
        super().__init__()
        # Kept from the start: while a submission runs, sys.stderr leads back into the log.
        self._stream = sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            tqdm.write(self.format(record), file=self._stream)
        except OSError:
            self.handleError(record)


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one line, as programs do; its help may be cut off by whoever reads it."""

    def print_help(self, file: Any = None) -> None:
        """Print the help."""
        super().print_help(file)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_output()

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        sys.exit(_fail(f"{message} (--help tells more)"))


def parser(name: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """Return a parser whose help ends with an example.

    Args:
        name: Name of the program's module.
        description: The program's docstring.
        example: Its options in a command line that works.
    """
    program = f"python -m scripts.{name}"
    result = Parser(
        prog=program,
        description=description,
        epilog=f"example:\n  {program} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("-v", "--verbose", action="store_true", help="log details, and what the submission prints")
    return result


@contextmanager
def shown_log(verbose: bool) -> Iterator[None]:
    """Show records of the project's loggers, and of nobody else, on stderr; afterwards the log is as before."""
    before = logger.handlers, logger.level, logger.propagate
    handler = ProgressHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


def run_program(work: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Run a program's work and turn what goes wrong into one line and an exit code.

    Args:
        work: Does the work.
        arguments: Parsed arguments; ``verbose`` is used here.

    Returns:
        0 on success, 2 if something the user gave is wrong or a submission failed, 130 after Ctrl-C. Anything
        unforeseen is a bug of ours and keeps its traceback.
    """
    done = False
    try:
        with shown_log(arguments.verbose):
            check_paths(arguments)
            work(arguments)
        done = True
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # whoever reads it has seen enough
        return 0 if done else 2
    except SageError as error:
        return _fail(str(error), getattr(error, "details", ""))
    except OSError as error:
        if done:
            _drop_output()
        place = "standard output" if done else error.filename or getattr(arguments, "output", None)
        return _fail(str(disk_error(error, place)))
    except KeyboardInterrupt:
        print("interrupted; finished work is kept, the same command continues it", file=sys.stderr)
        return 130
    return 0


def _drop_output() -> None:
    """Let what is still buffered for standard output not fail at the interpreter's end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, details: str = "") -> int:
    """Print why a program ends; its exit code."""
    with suppress(OSError):
        if details:
            print(details.rstrip(), file=sys.stderr)
        print(f"error: {_one_line(message)}", file=sys.stderr)
    return 2


def _one_line(text: str) -> str:
    return " ".join(text.split())
