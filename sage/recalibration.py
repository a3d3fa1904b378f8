"""Makes an unbinned method's surrogates from trained response networks and simulated events that trained nothing.

The events calibrate the shares of the processes and fit the norms (``sage.unbinned.calibration``). How far the
surrogates' errors move the parameters is found from replicas (``sage.unbinned.displacement``):

``training``     response networks that were trained on bootstrapped events
``calibration``  shares, norms and expected events of bootstrapped simulated events

and stands as ``displacements.SOURCE``, shape (T, K, 7), among the arrays. Retraining the network that gives the shares
would take days; their errors are those of the calibration that follows it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sage.binned.counting import BLOCK, Sample
from sage.binned.statistic import asimov
from sage.challenge.nuisances import PROCESSES, variant
from sage.errors import InputError
from sage.files.bundle import Bundle
from sage.network.classifier import Classifier
from sage.surrogates import DISPLACEMENTS, Surrogates, binned_part
from sage.unbinned.calibration import Calibrated, RegionEvents, calibrate_regions, collect
from sage.unbinned.displacement import displacements
from sage.unbinned.likelihood import UnbinnedLikelihood
from sage.unbinned.ratios import UNBINNED, ResponseNetworks, is_map
from sage.unbinned.statistic import pack

SEED = 27182
"""Seed of what ``fit`` draws."""
N_BOOTSTRAPS = 32
N_TRUTHS = 6
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
    sources = {"calibration": [likelihood(made, events) for made in bootstrapped], "training": []}
    for arrays in replicas:
        own = with_response(events, ResponseNetworks(arrays))
        sources["training"].append(likelihood(calibrate_regions(own, basis, seed, check=check)[0], own))
    base = likelihood(nominal, events)
    binned = binned_part(np.zeros(bundle.regions.n_bins), bundle)
    for source, replaced in sources.items():
        moves = []
        for truth in draw_truths(bundle, N_TRUTHS, seed):
            check()
            moves.append(displacements(base, [asimov(binned, truth)], replaced, truth))
        if len(replaced) > 1:
            out[DISPLACEMENTS + source] = np.array(moves)
    return out


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
        InputError: If the events leave a process out of a region.
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
    for name, own in zip(UNBINNED, events, strict=True):
        missing = [process for process, expected in zip(PROCESSES, own.yields, strict=True) if not expected > 0]
        if missing:
            msg = f"the training events have no {missing[0]} in {name}; the bundled calibration is used"
            raise InputError(msg)
    kept = {name: array for name, array in bundle.surrogates.items() if not is_map(name)}
    return make_surrogates(kept, events, bundle, SEED, check=check)
