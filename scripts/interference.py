"""Likelihood ratios with interference: simulate, train, check, fit and make a belt, beside the exact answer.

The problem four_leptons is g g -> (H*) -> Z Z -> 4 leptons with its continuum, gaussian one of Gaussian amplitudes;
both have an exact likelihood ratio, so it shows what the learned one lacks. Writes interference.json, interference.html
and pictures; events, networks and toys are kept, and the same command goes on. --small takes a few minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scripts import checks
from scripts.common import parser, run_program
from scripts.options import add_output, add_seed, add_workers

EXAMPLE = "--problem four_leptons --small --output results/interference"
SIZES: dict[str, tuple[int, int, str]] = {
    "events": (4_000_000, 140_000, "simulated events for the training"),
    "members": (5, 1, "networks of the ensemble"),
    "steps": (4000, 500, "gradient steps of each network"),
    "width": (128, 32, "nodes of a hidden layer"),
    "constants": (8_000_000, 400_000, "further events, to which a factor of each process is fitted"),
    "oracle": (400_000, 60_000, "events of the checks against the exact ratio"),
    "belt": (20, 4, "signal strengths of the belt besides those whose coverage is checked"),
    "toys": (5000, 100, "pseudo-experiments at each signal strength"),
}
"""What decides how long a study takes: in full, with --small, and what it is."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    from examples.interference import PROBLEM_NAMES
    from nsbi import KINDS

    options = parser("interference", __doc__, EXAMPLE)
    add = options.add_argument
    add("--problem", choices=PROBLEM_NAMES, default="four_leptons", help="which problem (default: %(default)s)")
    add_output(options)
    add("--kind", choices=KINDS, default="joint", help="one network, or one per process (default: %(default)s)")
    add("--small", action="store_true", help="few events, steps and toys: shows that all runs, not how well")
    for name, (full, small, text) in SIZES.items():
        least = 1000 if name in ("events", "constants", "oracle") else 1
        add(f"--{name}", type=checks.whole(least), help=f"{text} (default: {full}, small {small})")
    add_seed(options, "seed of every random draw")
    add_workers(options)
    return options.parse_args(argv)


def work(given: argparse.Namespace) -> None:
    """Study, print and write."""
    import torch

    from examples.interference import belts, plots, study
    from examples.interference.clock import Clock
    from nsbi.networks import PROCESSES
    from nsbi.train import TrainingSettings
    from sage import __version__
    from workshop.files import write_json, write_text
    from workshop.plots import save

    torch.set_num_threads(1)
    size: dict[str, int] = {
        name: getattr(given, name) or (small if given.small else full) for name, (full, small, _) in SIZES.items()
    }
    training = TrainingSettings(given.kind, width=size["width"], steps=size["steps"], seed=given.seed)
    settings = study.StudySettings(
        given.problem,
        size["events"],
        size["members"],
        size["constants"],
        size["oracle"],
        size["belt"],
        size["toys"],
        given.seed,
        training,
        given.workers,
    )
    clock = Clock(given.output / "seconds")
    learned, constants = study.learn(settings, given.output, clock)
    with clock("checks"):
        found, closures, curve = study.check(learned, constants, given.seed)
    with clock("fits"):
        table = study.expected_curves(learned, study.MUS)
        curves = study.expected_curves(learned, study.SCAN.tolist())
        impacts, errors = study.systematics(learned)
    belt, covered = belts.belt_and_coverage(learned, settings, given.output, clock)
    content: dict[str, Any] = {
        "problem": given.problem,
        "kind": given.kind,
        "size": size,
        "seed": given.seed,
        "seconds": {part: asdict(spent) for part, spent in clock.by_part().items()},
        "seconds_by_step": {step: asdict(spent) for step, spent in clock.by_step().items()},
        "constants": {**constants.to_dict(), "factors": dict(zip(PROCESSES, constants.factors.tolist(), strict=True))},
        "diagnostics": found,
        "expected_t": {"mu": list(study.MUS), **table},
        "error_of_s": errors,
        "impacts": [asdict(impact) for impact in impacts],
        "belt": belt.to_dict(),
        "coverage": {f"{mu:g}": {"value": value, "error": error} for mu, (value, error) in covered.items()},
    }
    write_json(given.output / "interference.json", finite(content))
    figures = {"ratios": plots.draw_ratios(learned), "calibration": plots.draw_calibration(curve)}
    for name, closure in closures.items():
        figures[f"reweighting_{name.replace(' ', '_')}"] = plots.draw_closures(closure, learned.problem.features, name)
    figures["likelihood"] = plots.draw_likelihood(study.SCAN, curves)
    figures["belt"] = plots.draw_belt(belt)
    figures["impacts"] = plots.draw_impacts(impacts, errors["exact_statistical"])
    for name, figure in figures.items():
        save(figure, given.output / name, ("svg",))
    write_text(given.output / "interference.html", page(content, figures, __version__))
    print(as_text(content))
    print(f"\nwritten to {given.output}: interference.json, interference.html, {', '.join(figures)} (.svg)")


def finite(value: Any) -> Any:
    """Return JSON values with null for numbers that are not finite: a parabolic error at mu = 0 does not exist."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_text(content: dict[str, Any]) -> str:
    """Return the key numbers as text for people."""
    table = content["expected_t"]
    lines = ["t of the expected data", f"{'mu':>12}" + "".join(f"{mu:8.2f}" for mu in table["mu"])]
    lines += [f"{name:>12}" + "".join(f"{t:8.3f}" for t in row) for name, row in table.items() if name != "mu"]
    found, constants = content["diagnostics"], content["constants"]
    lines += ["", "factors: " + ", ".join(f"{name} {factor:.4f}" for name, factor in constants["factors"].items())]
    rows = zip(*(constants[name] for name in ("mus", "before", "after", "errors")), strict=True)
    lines += [f"bias of t at mu = {m:g}: {a:.3f} without them, {b:.3f} with, +- {e:.3f}" for m, a, b, e in rows]
    lines += [f"not to be trusted: {flag}" for flag in found["flags"]]
    lines += ["", "AUC after reweighting: " + ", ".join(f"{name} {auc:.4f}" for name, auc in found["auc"].items())]
    lines += [f"integral of {n}: {e['value']:.4f} +- {e['error']:.4f}" for n, e in found["normalisation"].items()]
    lines += [f"coverage at mu = {m}: {e['value']:.4f} +- {e['error']:.4f}" for m, e in content["coverage"].items()]
    lines += [
        f"seconds of {part}: {spent['wall']:.0f}, of the processor {spent['processor']:.0f}"
        for part, spent in content["seconds"].items()
    ]
    return "\n".join(lines)


def page(content: dict[str, Any], figures: dict[str, Any], version: str) -> str:
    """Return the HTML page."""
    from report.blocks import Picture, Section, Table, number
    from report.page import render_study
    from report.svg import inline, svg_of

    titles = {
        "ratios": (
            "Ratio against truth",
            "An event whose ratio is right lies on the line; below, mean and spread of the difference.",
        ),
        "calibration": (
            "Calibration",
            "How often new events are signal, among signal and reference in equal parts, where the ratio says so.",
        ),
        "likelihood": ("Likelihood", "Histograms lose what the exact ratio has; the learned one should not."),
        "belt": ("Belt", "Dotted: what a parabola far from any bound would give."),
        "impacts": (
            "Impacts",
            "What holding a nuisance parameter one error off does to mu; beside it pull and error after the fit.",
        ),
    }
    pictures = []
    for name, figure in figures.items():
        title, caption = titles.get(
            name,
            (
                f"Reweighting to {name[12:].replace('_', ' ')}",
                "Reweighted reference divided by the target, in bins where the target has equally many events.",
            ),
        )
        pictures.append(Picture(name, title, inline(svg_of(figure), name, title), caption, wide=True))
    table = content["expected_t"]
    rows = tuple((name, *(number(t, 3) for t in row)) for name, row in table.items() if name != "mu")
    header = ("analysis", *(f"μ = {mu:g}" for mu in table["mu"]))
    found = content["diagnostics"]
    checked = tuple(
        (name, number(auc), number(found["normalisation"][name]["value"])) for name, auc in found["auc"].items()
    )
    constants = content["constants"]
    columns = [constants[name] for name in ("mus", "before", "after", "errors")]
    biases = tuple((f"{mu:g}", *(number(t, 3) for t in each)) for mu, *each in zip(*columns, strict=True))
    factors = ", ".join(f"{name} {factor:.4f}" for name, factor in constants["factors"].items())
    title = "Bias of t by simulated events, without and with the constants of the processes"
    covered = tuple((mu, number(e["value"]), number(e["error"])) for mu, e in content["coverage"].items())
    blocks = (
        Table("expected", "t of the expected data at μ = 1", header, rows),
        Table("biases", title, ("μ", "without", "with", "error"), biases, f"Constants: {factors}."),
        Table("checked", "Reweighted reference", ("target", "AUC", "integral"), checked, "0.5 and 1 are right."),
        Table("coverage", "Coverage of the belt", ("μ", "coverage", "error"), covered, "Wanted: 0.6827."),
    )
    sections = (
        Section("numbers", "Numbers", " ".join(f"Not to be trusted: {flag}." for flag in found["flags"]), blocks),
        Section("pictures", "Pictures", "", tuple(pictures)),
    )
    learned, exact = table["learned"][0], table["exact"][0]
    numbers = (
        ("t(0), learned", number(learned, 2), "of the expected data"),
        ("t(0), exact", number(exact, 2), "of the same data"),
        ("least density", number(found["least_density"], 3), "at any event, μ from 0 to 6; must not be negative"),
    )
    size = ", ".join(f"{name} {value}" for name, value in content["size"].items())
    label = f"{content['kind']} networks; {size}"
    return render_study(f"Interference: {content['problem']}", "Likelihood ratios", label, numbers, sections, version)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(work, arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
