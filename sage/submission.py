"""What the ``Model`` of every method shares: its weights, settings, classifier, results, and the way to a worker.

A method's ``model.py`` says which weights it reads, what classifies events and, in ``fit`` and ``predict``, how it
rebuilds and measures; ``model.py`` of SAGE is the example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from sage.challenge.nuisances import variant
from sage.errors import WeightsError
from sage.files.bundle import Bundle, read_bundle
from sage.files.settings import check_mu_range, read_rebuilding
from sage.measurement import Measurement
from sage.network.classifier import Classifier

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
"""The weights folder beside ``model.py``."""


class Submission(ABC):
    """What Codabench constructs, pickles to its workers and asks.

    Args:
        get_train_set: The challenge's loader of training events, for ``fit``.
        systematics: The challenge's function that shifts events; ``sage.challenge.shifts`` does the same.
        weights: Weights folder.
        rebuilding: A mode of rebuilding, or single settings of it; None for the manifest's.
        settings: Further settings of the measurement; None stands for the manifest's.

    Attributes:
        bundle: Content of the weights folder, with the chosen settings.
        fit_report: What ``fit`` did and why, plain values; None before it.
        last_result: How the last answer came about; it does not influence the next one.

    Raises:
        ValueError: If a setting is out of its range.
        sage.errors.WeightsError: If the weights are missing, damaged, of another version or of another method.
    """

    _reads: ClassVar[tuple[str, ...]]
    """Methods whose weights it can use."""

    def __init__(
        self,
        get_train_set: Callable[..., Any] | None = None,
        systematics: Callable[..., Any] | None = None,
        *,
        weights: str | Path = WEIGHTS,
        rebuilding: str | Mapping[str, Any] | None = None,
        nuisances: str | None = None,
        mu_range: tuple[float, float] | None = None,
        **other: Any,
    ) -> None:
        del other
        self.get_train_set = get_train_set
        self.systematics = systematics
        self.bundle = self._read(Path(weights), nuisances, mu_range)
        self.rebuilding = read_rebuilding(self.bundle.settings, rebuilding)
        self.fit_report: dict[str, Any] | None = None
        self.last_result: Measurement | None = None
        self._classifier: Classifier | None = None

    @abstractmethod
    def fit(self) -> None:
        """Adapt to the training events if there are enough of them; see ``fit_report``. Never raises."""

    @abstractmethod
    def predict(self, test_set: Mapping[str, Any]) -> dict[str, float]:
        """Measure mu in ``{"data": DataFrame, "weights": array}``; return mu_hat, delta_mu_hat, p16 and p84."""

    @abstractmethod
    def _make_classifier(self) -> Classifier:
        """Return what classifies events."""

    def _read(self, folder: Path, nuisances: str | None, mu_range: tuple[float, float] | None) -> Bundle:
        bundle = read_bundle(folder)
        if bundle.method not in self._reads:
            msg = f"{folder}: these are weights of the method {bundle.method!r}, this Model reads those of "
            msg += f"{' or '.join(map(repr, self._reads))}; take model.py and weights from the same submission, "
            msg += "scripts.make_method builds one"
            raise WeightsError(msg)
        settings = dict(bundle.settings)
        if nuisances is not None:
            variant(nuisances)
            settings["nuisances"] = nuisances
        if mu_range is not None:
            check_mu_range(mu_range)
            settings["mu_range"] = list(mu_range)
        return replace(bundle, settings=settings)

    def _ready(self) -> Classifier:
        # Made here and not in the constructor: threads and GPU are those of the worker that predicts.
        if self._classifier is None:
            self._classifier = self._make_classifier()
        return self._classifier

    def _answer(self, result: Measurement) -> dict[str, float]:
        # From the argument, because another thread may replace the attribute before it is read.
        self.last_result = result
        return result.answer()

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what cannot travel to a worker (the harness's functions), and what is made there."""
        left = {"get_train_set": None, "systematics": None, "_classifier": None}
        return self.__dict__ | left
