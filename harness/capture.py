"""Keeping what a submission prints away from the terminal, where it would tear the progress bar."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

logger = logging.getLogger("sage.harness.model")


class LineLogger(io.TextIOBase):
    """Writes each finished line to the log."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._line = ""
        self._busy = False

    def writable(self) -> bool:
        """Return True, as for any stream one prints to."""
        return True

    def write(self, text: str) -> int:
        """Take text; log the lines that are complete."""
        # A handler the submission installed may write log records back to this stream: that must end here.
        if not self._busy:
            self._busy = True
            try:
                *lines, self._line = (self._line + text).split("\n")
                for line in lines:
                    self._log(line)
            finally:
                self._busy = False
        return len(text)

    def finish(self) -> None:
        """Log what is left of an unfinished line."""
        if self._line:
            self.write("\n")

    def _log(self, line: str) -> None:
        visible = line.rstrip().rpartition("\r")[2]  # of a progress bar only its last state
        if visible:
            logger.log(self._level, "%s", visible)


@contextmanager
def captured_output(level: int) -> Iterator[None]:
    """Send what Python code prints to stdout and stderr to the log at ``level``."""
    stream = LineLogger(level)
    with redirect_stdout(stream), redirect_stderr(stream):
        try:
            yield
        finally:
            stream.finish()
