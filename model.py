"""The submission: Codabench imports ``Model``, calls ``fit`` once and ``predict`` for every pseudo-experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage.challenge.nuisances import variant
from sage.files.bundle import read_bundle
from sage.files.settings import check_mu_range, read_rebuilding
from sage.measurement import Measurement, measure
from sage.network.classifier import NetworkClassifier
from sage.network.engine import check_choice
from sage.network.parameters import check_parameters
from sage.rebuilding import rebuild

WEIGHTS = Path(__file__).resolve().parent / "weights"


class Model:
    """Measures the Higgs boson's signal strength in one pseudo-experiment at a time.

    Arguments:
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
        sage.errors.WeightsError: If a file of the weights folder is missing, damaged or of another version.
    """

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
        self.get_train_set = get_train_set
        self.systematics = systematics
        bundle = read_bundle(Path(weights))
        settings = dict(bundle.settings)
        if nuisances is not None:
            variant(nuisances)
            settings["nuisances"] = nuisances
        if mu_range is not None:
            check_mu_range(mu_range)
            settings["mu_range"] = list(mu_range)
        self.bundle = replace(bundle, settings=settings)
        self.rebuilding = read_rebuilding(settings, rebuilding)
        self.fit_report: dict[str, Any] | None = None
        self.last_result: Measurement | None = None
        check_parameters(bundle.network)
        check_choice(engine, threads)
        self.engine = engine
        self.threads = threads
        self._engine: NetworkClassifier | None = None

    def fit(self) -> None:
        """Rebuild the yield tables from the training events if there are enough of them; see ``fit_report``.

        The network is trained before submission. Whatever goes wrong leaves the bundled tables in use.
        """
        self.bundle, self.fit_report = rebuild(self.bundle, self.rebuilding, self.get_train_set, self._ready())

    def predict(self, test_set: Mapping[str, Any]) -> dict[str, float]:
        """Measure mu in ``{"data": DataFrame, "weights": array}``; return mu_hat, delta_mu_hat, p16 and p84."""
        engine = self._ready()
        # Kept at hand, because another thread may replace the attribute before it is read.
        result = measure(test_set, self.bundle, engine)
        self.last_result = result
        return result.answer()

    def _ready(self) -> NetworkClassifier:
        # Built here and not in the constructor: threads and GPU are those of the worker that predicts.
        if self._engine is None:
            self._engine = NetworkClassifier(self.bundle.network, self.bundle.normalisation, self.engine, self.threads)
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what cannot travel to a worker (the harness's functions), and what it builds or never reads."""
        left = {"get_train_set": None, "systematics": None, "_engine": None}
        return self.__dict__ | left
