r"""Adds a nuisance or a process to trained surrogates; what was trained before stays as it is (arXiv:2505.05544).

    R(x) = sum_p c_p g_p(x) exp(A_p(x) . v(nu)) exp(a_p(x) n + b_p(x) n^2)  +  c_q g_q(x) exp(A_q(x) . v) ...

A nuisance n gets a network of two outputs for each process and region, a process q one for its density over that of all
processes that were there at first, and one for its response to each group of nuisances. Their rates are fitted to
counts, and factors are normalised by sums over nominal events, as those of the surrogates are (``training.refined``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from sage.binned.tables import SCALE_RANGE
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import Columns
from sage.errors import SettingsError
from sage.files.bundle import Bundle
from sage.network.classifier import Classifier
from sage.network.graph import Normalisation
from sage.surrogates import Surrogates
from sage.unbinned.ratios import UNBINNED
from sage.unbinned.response import EXACT
from training.events import Events
from training.refined import (
    AddedNuisance,
    AddedProcess,
    Refined,
    Refinements,
    array_name,
    response_name,
    share_name,
)
from training.refined_rates import (
    Shift,
    Sources,
    factor_norms,
    factor_rates,
    moved_counts,
    process_norms,
    process_rates,
)
from training.surrogate_calibration import observe_tables
from training.surrogates import Networks, ResponseTraining, SurrogateConfig, candidates, named
from training.variations import Copies, Move, Variation, copies_of, draw_scales, exact, moved_columns

ADDED_SEED = 1000
"""Times the seed: the seeds of the networks of what is added."""


def scale_lepton(columns: Columns, alphas: np.ndarray) -> Columns:
    """Multiply the lepton's pt; MET takes the recoil, as with the other scales (``sage.challenge.shifts``)."""
    pt, phi = columns["PRI_lep_pt"], columns["PRI_lep_phi"]
    x = columns["PRI_met"] * np.cos(columns["PRI_met_phi"]) + (1.0 - alphas) * pt * np.cos(phi)
    y = columns["PRI_met"] * np.sin(columns["PRI_met_phi"]) + (1.0 - alphas) * pt * np.sin(phi)
    moved = {"PRI_lep_pt": alphas * pt, "PRI_met": np.hypot(x, y), "PRI_met_phi": np.arctan2(y, x)}
    return dict(columns) | {name: column.astype(np.float32) for name, column in moved.items()}


NUISANCES: Mapping[str, tuple[AddedNuisance, Shift]] = {
    "lepton_scale": (AddedNuisance("lepton_scale", 0.01, SCALE_RANGE), scale_lepton),
}
"""Nuisances that can be added, each with what it does to an event."""


Arrays = dict[str, np.ndarray]
Keep = Callable[[str, Callable[[], Arrays]], Arrays]
"""Makes the arrays of a name, or returns those made before an interruption."""


def train_factor(
    events: Events, constants: Normalisation, config: SurrogateConfig, process: int, variation: Variation
) -> Networks:
    """Train the networks of one process in all regions."""
    torch.manual_seed(config.seed * ADDED_SEED + process)
    return ResponseTraining(events, constants, config, process, variation).networks()[0]


def factor_variation(nuisance: AddedNuisance, move: Shift) -> Variation:
    """Return how events are moved by an added nuisance, drawn twice as wide as its constraint."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return draw_scales(rng, (n, 1), 2 * nuisance.width, nuisance.ends)

    def copies(
        events: Events, points: np.ndarray | None, rng: np.random.Generator, constants: Normalisation | None
    ) -> Copies:
        columns = events.columns if points is None else move(events.columns, points[:, 0])
        return copies_of(moved_columns(columns, None, rng), constants)

    return Variation(nuisance.basis.terms, draw, copies)


def train_share(
    mixture: Events, added: Events, constants: Normalisation, config: SurrogateConfig, process: int, place: Move
) -> Networks:
    """Train the networks of the density of a process over that of the processes that were there at first.

    Args:
        mixture: Events of all these, with natural weights.
        added: Events of the process, with natural weights.
        constants: Feature constants.
        config: The settings.
        process: Its number.
        place: Finds regions and inputs of events where they are.

    Returns:
        Networks that give the logarithm of the ratio.
    """
    together = Events(
        {name: np.concatenate([column, added.columns[name]]) for name, column in mixture.columns.items()},
        np.concatenate([mixture.weights, added.weights]),
        np.repeat([0, 1], [len(mixture), len(added)]),
        np.concatenate([mixture.keys, added.keys + mixture.keys.max(initial=0) + 1]),
    )
    found = place(together, None, np.random.default_rng(config.seed), None).regions
    inside = found >= 0
    cells = 2 * found[inside] + together.classes[inside]
    totals = np.bincount(cells, together.weights[inside], minlength=2 * len(UNBINNED)).reshape(-1, 2)
    ratios = np.divide(totals[:, 1], totals[:, 0], out=np.ones(len(totals)), where=(totals > 0).all(axis=1))

    def copies(
        events: Events, points: np.ndarray | None, rng: np.random.Generator, constants: Normalisation | None
    ) -> Copies:
        """In the places of nominal and moved events: those of the mixture and those of the process."""
        made = place(events, None, rng, constants)
        regions = np.where(events.classes == (points is not None), made.regions, -1)
        # Equal sums in each region, so that the network learns shapes; the ratio of the rates is put back below.
        factors = np.where(events.classes == 1, 1.0 / ratios[np.maximum(regions, 0)], 1.0)
        return Copies(made.inputs, regions, factors=factors)

    networks = train_factor(
        together, constants, config, process, Variation(np.ones_like, lambda _, n: np.zeros((n, 1)), copies)
    )
    for region, ratio in zip(UNBINNED, ratios, strict=True):
        last = networks[region][f"{config.depth}.bias"]
        networks[region][f"{config.depth}.bias"] = (last + np.log(ratio)).astype(np.float32)
    return networks


def add_nuisance(
    bundle: Bundle,
    before: Refinements,
    arrays: Mapping[str, np.ndarray],
    name: str,
    sources: Sources,
    config: SurrogateConfig,
    classifier: Classifier,
    keep: Keep,
) -> tuple[Refinements, dict[str, np.ndarray]]:
    """Train the factors of a nuisance for all processes, with their rates and norms.

    Args:
        bundle: Weights of the unbinned method.
        before: What was added before.
        arrays: Its arrays, and others that stay.
        name: The nuisance, one of ``NUISANCES``.
        sources: Events.
        config: Settings of the training.
        classifier: Gives the class probabilities.
        keep: Called for every piece that is trained.

    Returns:
        What has been added now, and all arrays: those given, unchanged, and new ones.

    Raises:
        SettingsError: If there is no such nuisance or it has been added.
    """
    if name not in NUISANCES or name in [each.name for each in before.nuisances]:
        msg = f"nuisance {name!r} is unknown or was added before; choose one of {', '.join(NUISANCES)}, once"
        raise SettingsError(msg)
    nuisance, move = NUISANCES[name]
    added = replace(before, nuisances=(*before.nuisances, nuisance))
    number, variation = len(before.nuisances), factor_variation(nuisance, move)
    constants = Surrogates(bundle).networks.constants
    out = dict(arrays)
    for p, process in enumerate(added.names):
        own = response_name(process, name)
        out |= keep(
            own,
            lambda p=p, process=process, own=own: named(  # type: ignore[misc]
                own, train_factor(sources.training(process), constants, config, p, variation)
            ),
        )
    refined = Refined(bundle, added, out)
    observed = observe_tables(sources.file(PROCESSES[0]), lambda columns, w: refined.look(columns, classifier, w))
    norms = factor_norms(added, number, observed, range(len(added.names)), config.seed)
    counted = [moved_counts(sources.file(PROCESSES[0]), bundle.regions, classifier, move, nuisance.width)]
    for each in added.processes:
        found = moved_counts(sources.file(each.name), bundle.regions, classifier, move, nuisance.width)
        counted.append((found[0].sum(axis=1, keepdims=True), found[1].sum(axis=1, keepdims=True)))
    counts, squares = (np.concatenate(parts, axis=1) for parts in zip(*counted, strict=True))
    rates = factor_rates(added, number, counts, squares)
    for p, process in enumerate(added.names):
        own = response_name(process, name)
        out |= {array_name(own, "rate"): rates[p], array_name(own, "norm"): norms[p]}
    return added, out


def add_process(
    bundle: Bundle,
    before: Refinements,
    arrays: Mapping[str, np.ndarray],
    process: AddedProcess,
    sources: Sources,
    config: SurrogateConfig,
    classifier: Classifier,
    keep: Keep,
) -> tuple[Refinements, dict[str, np.ndarray]]:
    """Train the density and the response of a process, with its rates and norms; otherwise as ``add_nuisance``.

    Raises:
        SettingsError: If there is a process of that name.
    """
    if process.name in before.names or not process.name.isidentifier():
        msg = f"process {process.name!r} is there already or has no name for one; choose another than "
        msg += ", ".join(before.names)
        raise SettingsError(msg)
    added = replace(before, processes=(*before.processes, process))
    number, name, constants = len(before.names), process.name, Surrogates(bundle).networks.constants
    events = sources.training(name)
    file = sources.file(PROCESSES[0])
    place = exact(EXACT).move

    def share() -> dict[str, np.ndarray]:
        mixture = file.read(file.rows("training"), keep=lambda each: candidates(each.columns))
        own = share_name(name)
        return named(own, train_share(mixture, events, constants, config, number, place))

    out = dict(arrays)
    out |= keep(share_name(name), share)
    out |= keep(name, lambda: named(name, train_factor(events, constants, config, number, exact(EXACT))))
    for each in added.nuisances:
        own, variation = response_name(name, each.name), factor_variation(*NUISANCES[each.name])
        out |= keep(
            own,
            lambda own=own, variation=variation: named(  # type: ignore[misc]
                own, train_factor(events, constants, config, number, variation)
            ),
        )
    refined = Refined(bundle, added, out)
    observed = observe_tables(file, lambda columns, w: refined.look(columns, classifier, w))
    out |= process_rates(sources, bundle, name, config.seed)
    out |= process_norms(added, observed, number, config.seed)
    for k, each in enumerate(added.nuisances):
        own = response_name(name, each.name)
        found = moved_counts(sources.file(name), bundle.regions, classifier, NUISANCES[each.name][1], each.width)
        counts, squares = (part.sum(axis=1) for part in found)
        out[array_name(own, "rate")] = factor_rates(added, k, counts, squares)
        out[array_name(own, "norm")] = factor_norms(added, k, observed, [number], config.seed)[0]
    return added, out
