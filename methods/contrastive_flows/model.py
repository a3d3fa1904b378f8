"""A submission after contrastive flows (arXiv:2505.08709): densities help to classify, toys make the interval.

Events with jets are classified with ln q of flows beside their columns. The fraction of signal is fitted to the
histogram of the score with tes and jes as nuisances, and toys turn it into an interval: by a belt, or with the setting
``toy_interval: published`` into a posterior with a flat prior on [0, 3].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sage.errors import SageError
from sage.files.bundle import Bundle
from sage.fit.deadline import Deadline
from sage.fit.interval import Interval
from sage.flows.classifier import FlowClassifier
from sage.flows.fraction import fraction_interval, read_tables, table_arrays, toy_tables
from sage.measurement import measure, of_counts
from sage.rebuilding import SEED, rebuild
from sage.submission import Submission

TOYS = 1000
"""At each signal strength, where ``fit`` has rebuilt the templates."""


def is_published(bundle: Bundle) -> bool:
    """Return whether the weights are for the published feature and fraction of signal."""
    return bool(bundle.network["published"][0])


def find_interval(observed: np.ndarray, bundle: Bundle, deadline: Deadline) -> Interval:
    """Return the interval of counts, shape (n_bins,)."""
    deadline.check()
    return fraction_interval(
        bundle.templates,
        observed,
        read_tables(bundle.network),
        interval=bundle.settings["toy_interval"],
        published=is_published(bundle),
    )


class Model(Submission):
    """Measures the signal strength with flows; for its arguments see ``sage.submission.Submission``."""

    _reads = ("contrastive_flows",)

    def fit(self) -> None:
        """Rebuild the templates from the training events if there are enough of them, and then the tables of toys."""
        rebuilt, self.fit_report = rebuild(self.bundle, self.rebuilding, self.get_train_set, self._ready())
        if not self.fit_report["adopted"]:
            return
        try:
            tables = toy_tables(rebuilt.templates, TOYS, SEED, published=is_published(self.bundle))
        except SageError as error:
            # The tables belong to the templates: without new ones the bundled ones of both stay.
            self.fit_report |= {"adopted": False, "reason": f"no tables of toys for the rebuilt templates: {error}"}
            return
        self.bundle = replace(rebuilt, network=rebuilt.network | table_arrays(tables))

    def predict(self, test_set: Mapping[str, Any]) -> dict[str, float]:
        """Measure mu in ``{"data": DataFrame, "weights": array}``."""
        return self._answer(measure(test_set, self.bundle, self._ready(), of_counts(find_interval)))

    def _make_classifier(self) -> FlowClassifier:
        return FlowClassifier(self.bundle.network)
