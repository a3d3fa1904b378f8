"""Keeping what a submission prints away from the terminal, where it would tear the progress bar.

The streams live as long as the process, because a submission may keep them: in a log handler, say, or by
``faulthandler.enable()``.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, ClassVar

logger = logging.getLogger("sage.harness.model")


class _Lines:
    """Logs each finished line of a text that comes in pieces."""

    level = logging.INFO
    _busy: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        self._line = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: str | bytes) -> None:
        """Take a piece; log the lines that are complete."""
        # A handler the submission installed may write log records back to a stream: that must end here.
        thread = threading.get_ident()
        if thread in self._busy:
            return
        self._busy.add(thread)
        try:
            text = piece if isinstance(piece, str) else self._decoder.decode(piece)
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                visible = line.rstrip().rpartition("\r")[2]  # of a progress bar only its last state
                if visible:
                    logger.log(self.level, "%s", visible)
        finally:
            self._busy.discard(thread)

    def finish(self) -> None:
        """Log what is left of an unfinished line."""
        if self._line:
            self.add("\n")


class _Pipe:
    """A pipe for code that writes to a file number; a thread logs what comes out of it."""

    def __init__(self) -> None:
        self.lines = _Lines()
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._lock = threading.Lock()
        threading.Thread(target=self._follow, daemon=True, name="captured-output").start()

    def _follow(self) -> None:
        waiting = select.poll()
        waiting.register(self._reader, select.POLLIN)
        while self.drain():
            waiting.poll()

    def drain(self) -> bool:
        """Log what has been written so far; return whether more may come."""
        with self._lock:
            while True:
                try:
                    piece = os.read(self._reader, 1 << 16)
                except BlockingIOError:
                    return True
                if not piece:
                    return False
                self.lines.add(piece)


class _Sink(io.RawIOBase):
    """Where the bytes of a stream go: into the log."""

    mode = "wb"

    def __init__(self, name: str, lines: _Lines) -> None:
        self.name = name
        self._lines = lines
        self.pipe: _Pipe | None = None

    def writable(self) -> bool:
        """Return True, as for any stream one prints to."""
        return True

    def write(self, data: Any) -> int:
        """Take bytes."""
        piece = bytes(data)
        self._lines.add(piece)
        return len(piece)

    def fileno(self) -> int:
        """Return the number of a file that leads into the log too."""
        if self.pipe is None:
            self.pipe = _Pipe()
        return self.pipe.writer


class _Stream(io.TextIOWrapper):
    """A text stream with all that ``sys.stdout`` has, which leads into the log."""

    mode = "w"

    def __init__(self, name: str) -> None:
        self.lines = _Lines()
        self.sink = _Sink(name, self.lines)
        super().__init__(io.BufferedWriter(self.sink), "utf-8", "backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        """Take text; past the buffer, which cannot be entered twice when a log handler writes back."""
        if not isinstance(text, str):
            msg = f"write() argument must be str, not {type(text).__name__}"
            raise TypeError(msg)
        if self.closed:
            msg = "I/O operation on closed file."
            raise ValueError(msg)
        self.lines.add(text)
        return len(text)

    def usable(self) -> bool:
        """Tell whether nobody has closed or detached the stream."""
        try:
            return not self.closed
        except ValueError:
            return False

    def finish(self) -> None:
        """Log what is left."""
        with suppress(ValueError):
            self.flush()
        if self.sink.pipe is not None:
            self.sink.pipe.drain()
            self.sink.pipe.lines.finish()
        self.lines.finish()


_streams: dict[str, _Stream] = {}


@contextmanager
def captured_output(level: int) -> Iterator[None]:
    """Send what Python code prints to stdout and stderr to the log at ``level``."""
    _Lines.level = level
    for name in ("<stdout>", "<stderr>"):
        if name not in _streams or not _streams[name].usable():
            _streams[name] = _Stream(name)
    stdout, stderr = _streams["<stdout>"], _streams["<stderr>"]
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            yield
        finally:
            stdout.finish()
            stderr.finish()
