"""The section about the weights: regions, expected events, settings, origin, files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.fingerprint import fingerprint
from harness.packing import MANIFEST as SUBMISSION_MANIFEST
from report.blocks import Block, Section, Table, count, flat, number
from report.run import Run, read_json
from sage.challenge.nuisances import PROCESSES, Exponential, Nuisance
from sage.files.bundle import Bundle
from sage.files.manifest import MANIFEST
from studies.asimov import region_yields
from studies.likelihoods import nuisances_of, parameters_at
from workshop.errors import UsageError
from workshop.labels import process_name


def weights_section(folder: Path, bundle: Bundle, run: Run) -> Section:
    """Return the section about a weights folder.

    Args:
        folder: The folder.
        bundle: Its content.
        run: The run, to say whether it used these weights.
    """
    manifest = read_json(folder / MANIFEST)
    yields = region_yields(bundle, parameters_at(bundle, 1.0))
    header = ("region", "selection", "bins of", "bins", *map(process_name, PROCESSES), "all")
    rows = []
    for region in bundle.regions.regions:
        cuts = ", ".join(f"{name} {symbol} {value:g}" for name, symbol, value in region.cuts)
        events = yields[region.name]
        numbers = (*(_events(events[process]) for process in PROCESSES), _events(sum(events.values())))
        rows.append((region.name, cuts or "everything else", region.observable, str(region.n_bins), *numbers))
    total = [sum(events[process] for events in yields.values()) for process in PROCESSES]
    summed = (*map(_events, total), _events(sum(total)))
    rows.append(("all", "", "", str(bundle.regions.n_bins), *summed))
    caption = "Expected events at mu = 1 and 10 fb⁻¹, all nuisances at the median of their prior (soft_met 1 GeV)."
    blocks: list[Block] = [
        Table("regions", "Regions and expected events", header, tuple(rows), caption, texts=(0, 1, 2)),
        Table(
            "priors",
            "Nuisance parameters",
            ("name", "kind", "prior", "from", "to", "unit", "scales"),
            tuple(_prior(nuisance) for nuisance in nuisances_of(bundle)),
            "What the likelihood assumes; clipped to the given range.",
            texts=(0, 1, 2, 5, 6),
        ),
        Table(
            "weight-settings", "Settings of the measurement", ("setting", "value"), flat(bundle.settings), texts=(0, 1)
        ),
        Table("files", "Files", ("file", "bytes", "sha256"), _files(folder, manifest), texts=(0, 2)),
        Table("origin", "Origin of the weights", ("entry", "value"), flat(bundle.origin), texts=(0, 1), folded=True),
    ]
    return Section("weights", "Weights", _used(folder, run), tuple(blocks))


def _events(value: float) -> str:
    return count(value) if value >= 1000 else number(value, 1)


def _prior(nuisance: Nuisance) -> tuple[str, ...]:
    form = nuisance.to_alpha
    if isinstance(form, Exponential):
        prior = f"exp(N(0, {form.width:g})){f' {form.offset:+g}' if form.offset else ''}"
    else:
        prior = f"N({form.centre:g}, {form.width:g})"
    low, high = nuisance.clip
    return (
        nuisance.name, nuisance.kind, prior, f"{low:g}", f"{high:g}", nuisance.unit, ", ".join(nuisance.scales)
    )  # fmt: skip


def _files(folder: Path, manifest: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (str(name), count((folder / name).stat().st_size), str(entry["sha256"]))
        for name, entry in manifest["files"].items()
    )


def _used(folder: Path, run: Run) -> str:
    """Say whether the run used these weights; only a submission around the folder can tell."""
    root = folder.resolve().parent
    if (
        not run.identity
        or not (root / "model.py").is_file()
        or (root / SUBMISSION_MANIFEST) != folder.resolve() / MANIFEST
    ):
        return ""
    try:
        same = fingerprint(root) == run.identity.get("submission")
    except UsageError:
        return ""
    if same:
        return "The run used these very weights and this code: the fingerprints of the submission agree."
    return "The run used another submission: its fingerprint is not that of these weights and the code around them."
