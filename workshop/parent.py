"""Worker processes that end when their parent does."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Let this worker process end as soon as its parent is gone, however that ended.

    A worker that waits for its next piece of work holds both ends of the queue open, so nothing else would tell it:
    after a ``kill -9`` of the parent it would wait for ever, with its memory.
    """
    threading.Thread(target=_wait, daemon=True, name="end-with-parent").start()


def _wait() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
