"""A submission whose likelihood is unbinned in three regions, from learned ratios of densities (arXiv:2505.05544)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.files.bundle import Bundle
from sage.measurement import measure
from sage.network.classifier import NetworkClassifier
from sage.rebuilding import rebuild
from sage.recalibration import recalibrated
from sage.submission import Submission
from sage.surrogates import Surrogates


class Model(Submission):
    """Measures the signal strength event by event; for its arguments see ``sage.submission.Submission``."""

    _reads = ("gollum",)

    def fit(self) -> None:
        """Rebuild tables and surrogates from the training events if there are enough of them, as SAGE rebuilds tables.

        Those of the unbinned regions are expected events; the same events calibrate the shares and give the norms.
        The networks stay.
        """
        classifier = self._ready()
        self.bundle, self.fit_report = rebuild(
            self.bundle, self.rebuilding, self.get_train_set, classifier, recalibrated
        )

    def predict(self, test_set: Mapping[str, Any]) -> dict[str, float]:
        """Measure mu in ``{"data": DataFrame, "weights": array}``."""
        return self._answer(measure(test_set, self.bundle, self._ready(), Surrogates(self.bundle).interval))

    def _read(self, folder: Path, nuisances: str | None, mu_range: tuple[float, float] | None) -> Bundle:
        bundle = super()._read(folder, nuisances, mu_range)
        Surrogates(bundle)  # refuses what does not fit before anything is measured
        return bundle

    def _make_classifier(self) -> NetworkClassifier:
        return NetworkClassifier(self.bundle.network, self.bundle.normalisation)
