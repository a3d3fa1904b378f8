"""What stands behind ``get_train_set``."""

from __future__ import annotations

from typing import Any

DEFAULT_INGESTION_SEED = 31415
started: list[Ingestion] = []
"""The one that the submission was started by."""


class Ingestion:
    """Owner of the events; a submission gets its bound method ``load_train_set`` as ``get_train_set``.

    The official parallel program deletes ``data`` before it pickles the model. So a model may keep ``get_train_set``,
    but can no longer call it in a worker process.

    Args:
        data: Loads the events.
    """

    def __init__(self, data: Any = None) -> None:
        self.start_time = None
        self.end_time = None
        self.model = None
        self.data = data

    def load_train_set(self, **kwargs: Any) -> Any:
        """Return the training set; arguments, by name only, are those of the loader of events."""
        return self.data.load_train_set(**kwargs)


def begin(data: Any) -> Ingestion:
    """Return the owner of the events and remember it, so that its data can be deleted."""
    started[:] = [Ingestion(data)]
    return started[0]
