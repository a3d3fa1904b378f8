"""The submission: Codabench imports ``Model``, calls ``fit`` once and ``predict`` for every pseudo-experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sage.measurement import measure
from sage.network.classifier import NetworkClassifier
from sage.network.engine import check_choice
from sage.network.parameters import check_networks
from sage.rebuilding import rebuild
from sage.submission import WEIGHTS, Submission


class Model(Submission):
    """Measures the Higgs boson's signal strength in one pseudo-experiment at a time.

    Args:
        get_train_set: The challenge's loader of training events, from which ``fit`` may rebuild the tables.
        systematics: The challenge's function that shifts events. Not used: ``sage.challenge.shifts`` does the same.
        weights: Folder with the manifest, the network and the tables.
        nuisances: Variant of the nuisance table; None for the manifest's.
        mu_range: Bounds on mu; None (the default, unless the manifest says otherwise) for none.
        rebuilding: Whether ``fit`` rebuilds the tables: ``auto``, ``bundled``, ``rebuild``, or a mapping of settings
            (see ``sage.files.settings.Rebuilding``); None for the manifest's.
        engine: Where the network runs: ``native``, ``cuda`` or ``torch``; None (the default) for the first that works.
        threads: Threads on the CPU; None (the default) for this process's share of the cores.
        other: Further arguments of a harness are accepted and ignored.

    Attributes:
        fit_report: What ``fit`` did and why, plain values; None before it.
        last_result: How the last answer came about; it does not influence the next one.

    Raises:
        ValueError: If an argument is out of its range.
        sage.errors.WeightsError: If a file of the weights folder is missing, damaged, or of another version or method.
    """

    _reads = ("sage", "published")

    def __init__(
        self,
        get_train_set: Callable[..., Any] | None = None,
        systematics: Callable[..., Any] | None = None,
        *,
        weights: str | Path = WEIGHTS,
        nuisances: str | None = None,
        mu_range: tuple[float, float] | None = None,
        rebuilding: str | Mapping[str, Any] | None = None,
        engine: str | None = None,
        threads: int | None = None,
        **other: Any,
    ) -> None:
        settings: dict[str, Any] = {"nuisances": nuisances, "mu_range": mu_range, "rebuilding": rebuilding}
        super().__init__(get_train_set, systematics, weights=weights, **settings)
        check_networks(self.bundle.network, self.bundle.normalisation.inputs)
        check_choice(engine, threads)
        self.engine = engine
        self.threads = threads

    def fit(self) -> None:
        """Rebuild the yield tables from the training events if there are enough of them; see ``fit_report``.

        The network is trained before submission. Whatever goes wrong leaves the bundled tables in use.
        """
        self.bundle, self.fit_report = rebuild(self.bundle, self.rebuilding, self.get_train_set, self._ready())

    def predict(self, test_set: Mapping[str, Any]) -> dict[str, float]:
        """Measure mu in ``{"data": DataFrame, "weights": array}``; return mu_hat, delta_mu_hat, p16 and p84."""
        return self._answer(measure(test_set, self.bundle, self._ready()))

    def _make_classifier(self) -> NetworkClassifier:
        return NetworkClassifier(self.bundle.network, self.bundle.normalisation, self.engine, self.threads)
