"""Makes an unbinned method's surrogates from trained response networks and simulated events that trained nothing.

The events calibrate the shares of the processes and fit the norms (``sage.unbinned.calibration``). How far the
surrogates' errors move the parameters is found from replicas (``sage.unbinned.displacement``):

``training``     response networks that were trained on bootstrapped events
``calibration``  shares, norms and expected events of bootstrapped simulated events

and stands as ``displacements.SOURCE``, shape (T, K, 7), among the arrays. The network that gives the shares is too dear
to retrain; their errors are those of the calibration that follows it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sage.binned.counting import BLOCK, Sample
from sage.binned.statistic import asimov
from sage.challenge.nuisances import PROCESSES, variant
from sage.errors import InputError
from sage.files.bundle import Bundle
from sage.network.classifier import Classifier
from sage.surrogates import DISPLACEMENTS, Surrogates, binned_part
from sage.unbinned.calibration import Calibrated, RegionEvents, calibrate_published, calibrate_regions, collect
from sage.unbinned.displacement import asimov_data, displacements
from sage.unbinned.likelihood import UnbinnedLikelihood
from sage.unbinned.ratios import PUBLISHED_MARK, UNBINNED, ResponseNetworks, is_map
from sage.unbinned.statistic import pack

SEED = 27182
"""Seed of what ``fit`` draws."""
N_BOOTSTRAPS = 32
N_TRUTHS = {"calibration": 3, "training": 16}
"""Errors of the calibration move about as much everywhere, those of the responses in proportion to the nuisances."""
MU_RANGE = (0.1, 3.0)
"""Signal strengths of the truths; nuisances are drawn from their priors."""


def draw_truths(bundle: Bundle, n: int, seed: int) -> np.ndarray:
    """Return (mu, nu...) at which displacements are looked at, shape (n, 7): mu in even steps, nu from the priors."""
    nuisances = variant(bundle.settings["nuisances"])
    low, high = np.array([nuisance.nu_range for nuisance in nuisances]).T
    nus = np.clip(np.random.default_rng([seed, n]).standard_normal((n, len(nuisances))), low, high)
    return np.column_stack([np.linspace(*MU_RANGE, n), nus])


def make_surrogates(
    trained: Mapping[str, np.ndarray],
    events: Sequence[RegionEvents],
    bundle: Bundle,
    seed: int,
    replicas: Sequence[Mapping[str, np.ndarray]] = (),
    check: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Return the arrays of ``sage.surrogates``.

    Args:
        trained: Arrays of the response networks.
        events: Simulated nominal events of the unbinned regions, their response that of these networks.
        bundle: Tables, regions and settings that go with them.
        seed: Seed of the points and truths.
        replicas: Arrays of the replicas of the response networks.
        check: Called between steps; may raise if there is no more time.
    """
    if PUBLISHED_MARK in trained:  # the published method leaves errors of the surrogates out
        return {**trained, **calibrate_published(events, trained, check)}
    basis = ResponseNetworks(trained).basis
    weightings = [[own.weights for own in events]]
    weightings += [list(weights) for weights in zip(*(own.bootstraps for own in events), strict=True)]
    nominal, *bootstrapped = calibrate_regions(events, basis, seed, weightings, check)
    out = {**trained, **nominal.arrays()}

    def likelihood(made: Calibrated, own: Sequence[RegionEvents]) -> UnbinnedLikelihood:
        response = bundle.response
        yields = response.nominal.copy()
        yields[:, places] *= np.divide(
            made.yields, nominal.yields, out=np.ones(yields[:, places].shape), where=nominal.yields > 0
        )
        with_yields = replace(bundle, response=replace(response, nominal=yields), surrogates={**out, **made.arrays()})
        pairs = zip(made.calibrations, own, strict=True)
        packed = tuple(pack(calibration(each.ratios), each.response, each.weights) for calibration, each in pairs)
        return Surrogates(with_yields).unbinned(packed, with_yields)

    places = [bundle.regions.slices[name].start for name in UNBINNED]
    base = likelihood(nominal, events)
    binned = binned_part(np.zeros(bundle.regions.n_bins), bundle)

    def retrained(arrays: Mapping[str, np.ndarray]) -> UnbinnedLikelihood:
        own = with_response(events, ResponseNetworks(arrays))
        return likelihood(calibrate_regions(own, basis, seed, check=check)[0], own)

    # One after the other, because each holds coefficients of all events.
    sources: dict[str, tuple[int, Iterator[UnbinnedLikelihood]]] = {
        "calibration": (len(bootstrapped), (likelihood(made, events) for made in bootstrapped)),
        "training": (len(replicas), map(retrained, replicas)),
    }
    for source, (n, others) in sources.items():
        if n > 1:
            truths = draw_truths(bundle, N_TRUTHS[source], seed)
            data = [asimov_data(base, [asimov(binned, truth)], truth) for truth in truths]
            out[DISPLACEMENTS + source] = displacements(data, _checked(others, check))
    return out


def _checked(items: Iterable[UnbinnedLikelihood], check: Callable[[], None]) -> Iterator[UnbinnedLikelihood]:
    for item in items:
        check()
        yield item


def with_response(events: Sequence[RegionEvents], networks: ResponseNetworks) -> list[RegionEvents]:
    """Return the events of the unbinned regions with the response that other networks give."""
    return [replace(own, response=networks(own.inputs, name)) for name, own in zip(UNBINNED, events, strict=True)]


def recalibrated(
    bundle: Bundle, sample: Sample, classifier: Classifier, deadline: float = math.inf
) -> dict[str, np.ndarray]:
    """Return the arrays of a bundle's surrogates with calibration, norms and displacements from other events.

    Args:
        bundle: An unbinned method's weights.
        sample: Simulated nominal events; its rows are taken to be independent.
        classifier: Gives the class probabilities.
        deadline: Value of ``time.monotonic`` at which to give up.

    Raises:
        InputError: If a process is gone from a region.
        TimeoutError: If the deadline passes.
    """

    def check() -> None:
        if time.monotonic() > deadline:
            msg = "recalibrating the surrogates took longer than allowed; allow more"
            raise TimeoutError(msg)

    rng = np.random.default_rng(SEED)
    blocks = (sample.take(slice(start, start + BLOCK)) for start in range(0, len(sample), BLOCK))
    networks = Surrogates(bundle).networks
    events = collect(
        blocks, bundle.regions, classifier, networks, lambda ids: rng.poisson(1.0, (N_BOOTSTRAPS, len(ids))), check
    )
    kept = {name: array for name, array in bundle.surrogates.items() if not is_map(name)}
    made = make_surrogates(kept, events, bundle, SEED, check=check)
    gone = np.argwhere((made["yields"] <= 0) & (bundle.surrogates["yields"] > 0))
    if len(gone):
        process, region = PROCESSES[gone[0][0]], UNBINNED[gone[0][1]]
        msg = f"the training events have no {process} in {region}, where the bundled ones have some; these are used"
        raise InputError(msg)
    return made
