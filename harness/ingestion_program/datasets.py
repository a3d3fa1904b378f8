"""The challenge's own loader of events."""

from __future__ import annotations

from typing import Any

from HiggsML import datasets as _higgsml

ZENODO_URL = _higgsml.ZENODO_URL


class Data(_higgsml.Data):  # type: ignore[misc]
    """Training and test part of the events in a folder; HiggsML's class lacks ``get_syst_train_set``."""

    def get_syst_train_set(self, *shifts: Any, dopostprocess: bool = False, **named_shifts: Any) -> Any:
        """Return the training set that was loaded last, or all of it, with shifts; arguments of ``systematics``."""
        from systematics import systematics  # type: ignore[import-not-found]

        if self.get_train_set() is None:
            self.load_train_set()
        return systematics(self.get_train_set(), *shifts, dopostprocess=dopostprocess, **named_shifts)


def Neurips2024_public_dataset() -> Any:  # noqa: N802 (the official name)
    """Download the public data set."""
    return _higgsml.download_dataset("neurips2024_data")
