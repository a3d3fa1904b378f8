"""Judge several trained networks on the same events, which trained none of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.evaluate import information_ratios, judge, network_classifier, score
from training.events import EventsFile
from training.networks import NETWORK_FILE
from workshop.files import sha256

NETWORKS_FILE = "networks.json"


def compare(data: Path, networks: Mapping[str, Path], seed: int, rows: int = 0, threads: int = 1) -> dict[str, Any]:
    """Judge the networks.

    Args:
        data: Folder of the events file; all its rows are used.
        networks: Folder of each network by name.
        seed: Seed of halves and resamplings of the showered events.
        rows: First rows that are scored; 0 for all.
        threads: Threads of the CPU.

    Returns:
        ``networks``, what ``training.evaluate.judge`` finds for each at the nominal point, ``information``, their
        ratios to the first, and what they were made from.
    """
    file = EventsFile(data, 1.0)
    found = {
        name: judge(score(file, network_classifier(folder, threads), ["nominal"], seed, rows), seed)
        for name, folder in networks.items()
    }
    return {
        "made_from": {
            "data": sha256(file.path),
            "networks": {name: sha256(folder / NETWORK_FILE) for name, folder in networks.items()},
            "seed": seed,
            "rows": rows,
        },
        "information": information_ratios(found),
        "networks": found,
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the text table of a result of ``compare``."""
    networks, ratios = result["networks"], result["information"]
    regions = list(next(iter(networks.values()))["information"])
    width = max(len(name) for name in networks)
    titles = ["loss", *regions, "to the first", "by regions"]
    lines = [" " * width + "".join(f"{title:>21}" for title in titles)]
    for name, one in networks.items():
        cells = [f"{one['cross_entropy']:.4f}"]
        cells += [f"{told['value']:.2f} +- {told['error']:.2f}" for told in one["information"].values()]
        cells += [f"{ratios[which][name]['ratio']:.3f} +- {ratios[which][name]['error']:.3f}" for which in ratios]
        lines.append(f"{name:{width}}" + "".join(f"{cell:>21}" for cell in cells))
    return "\n".join(lines)
