"""Fit of the importance that aimed simulation goes by: a pilot production judged by a weights folder.

    python -m studies.aiming --events 8000 --seed 9001

makes sets of tau decays of Z, counts how far the rows of each would move mu_hat, y = |sum of tag probability times
(g - mean g)|, and fits a perceptron to the root mean square of y over what the simulation gives such sets already.
Writes training/simulation/aim.npz. Seeds of pilots must not be used for productions by which an aim is judged.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sage.challenge.nuisances import PROCESSES
from studies.likelihoods import open_weights
from studies.worth import Sensitivity
from training.events import Events
from training.simulation.aim import AIMS, TABLE_FILE
from training.simulation.decisions import Effort
from training.simulation.generator import Generator
from training.simulation.processes import TABLE
from training.simulation.production import Production, Simulation
from training.simulation.tau_decays import load_library
from training.simulation.underlying import NO_INTERACTIONS
from workshop.files import write_arrays

HIDDEN, STEPS = 16, 3000
DECAY = 1e-4
"""Decay of the weights."""
LARGEST = 3000.0
"""Largest y squared over its mean, so that none decides the fit alone."""
FOLDS = 5
"""One of so many showered events is left out of the fit and judges it."""


def make_pilot(n_events: int, seed: int, cache: Path, sensitivity: Sensitivity) -> dict[str, np.ndarray]:
    """Make sets of decays that are chosen without aim but for the recoil.

    Returns:
        Features, shape (n, f); y over the sets' promise; their weights; showered event of each.
    """
    process, number = TABLE["ztautau"], PROCESSES.index("ztautau")
    simulation = Simulation(Production("fast", seed, n_events), cache)
    aim = replace(AIMS["signal"], power=0.0)
    effort = Effort(sets=64, passes=3, boost=2.5, aim=aim)
    made = Generator(process, effort, load_library(cache), np.random.SeedSequence(seed), NO_INTERACTIONS)
    rng = np.random.default_rng([seed, FOLDS])
    pieces, rows, owners, n_sets = [], [], [], 0
    with tqdm(total=n_events, disable=None) as progress:
        for showered in made.batches(n_events):
            selected, of, repeats = simulation.measure(showered, rng)
            promise = showered.promises
            pieces.append((showered.features, promise, showered.weights, showered.parents + progress.n))
            chance = selected.probability / repeats
            rows.append(Events(selected.columns, chance, np.full(len(of), number), of + n_sets))
            owners.append(of + n_sets)
            n_sets += len(promise)
            progress.update(len(showered.codes))
    features, promise, weights, parents = (np.concatenate(column) for column in zip(*pieces, strict=True))
    columns = {name: np.concatenate([piece.columns[name] for piece in rows]) for name in rows[0].columns}
    chance, owner = np.concatenate([piece.weights for piece in rows]), np.concatenate(owners)
    gain = sensitivity.at(sensitivity.bins(Events(columns, chance, np.full(len(owner), number), owner)))
    mean = np.average(gain, weights=chance * weights[owner])
    moves = np.bincount(owner, chance * (gain - mean), minlength=n_sets)
    return {
        "features": features,
        "y": np.abs(moves) / promise,
        "weights": weights * np.bincount(owner, chance, minlength=n_sets),
        "parents": parents,
    }


def fit(
    features: np.ndarray, y2: np.ndarray, weights: np.ndarray, held: np.ndarray, seed: int, hidden: int, steps: int
) -> tuple[dict[str, np.ndarray], str]:
    """Fit a perceptron to the root mean square of y by the Poisson deviance of y squared.

    Args:
        features: Shape (n, f).
        y2: y squared, shape (n,).
        weights: Expected events, over which the importance averages to 1, shape (n,).
        held: What is left out of the fit and judges it, shape (n,).
        seed: Seed of everything.
        hidden: Hidden units.
        steps: Steps of the fit.

    Returns:
        Table of an ``Importance`` and how well it does.
    """
    torch.manual_seed(seed)
    centre, width = features.mean(axis=0), features.std(axis=0)
    x = torch.tensor((features - centre) / width, dtype=torch.float32)
    y = torch.tensor(np.minimum(y2 / y2.mean(), LARGEST), dtype=torch.float32)
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    train = torch.nonzero(torch.tensor(~held)).ravel()
    generator_ = torch.Generator().manual_seed(seed)

    def deviance(rows: torch.Tensor) -> torch.Tensor:
        log = net(x[rows]).ravel()
        mean: torch.Tensor = (torch.exp(log) - y[rows] * log).mean()
        return mean

    for _ in range(steps):
        rows = train[torch.randint(len(train), (4096,), generator=generator_)]
        optimiser.zero_grad()
        loss = deviance(rows)
        loss.backward()  # type: ignore[no-untyped-call]  # the library has no type here
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        judged = [float(deviance(torch.nonzero(torch.tensor(part)).ravel())) for part in (~held, held)]
        importance = torch.exp(0.5 * net(x).ravel()).numpy().astype(np.float64)
    level = np.average(importance, weights=weights)
    first, last = (layer for layer in net if isinstance(layer, torch.nn.Linear))
    w1 = first.weight.detach().numpy().astype(np.float64) / width
    table = {
        "w1": w1,
        "b1": first.bias.detach().numpy().astype(np.float64) - w1 @ centre,
        "w2": 0.5 * last.weight.detach().numpy().ravel().astype(np.float64),
        "b2": np.array(0.5 * float(last.bias.detach()) - np.log(level)),
    }
    spread = np.percentile(importance / level, [1, 10, 50, 90, 99, 99.9])
    return table, f"deviance {judged[0]:.4f}, held out {judged[1]:.4f}; importance at 1 to 99.9 %: {spread.round(3)}"


def main() -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("--events", type=int, default=8000, help="showered events")
    options.add_argument("--seed", type=int, default=9001)
    options.add_argument("--weights", type=Path, default=Path("weights"), help="what judges the rows")
    options.add_argument("--cache", type=Path, default=Path("build/simulation"), help="folder of the libraries")
    arguments = options.parse_args()
    sensitivity = Sensitivity(open_weights(arguments.weights))
    pilot = make_pilot(arguments.events, arguments.seed, arguments.cache, sensitivity)
    held = pilot["parents"] % FOLDS == 0
    y2 = pilot["y"] ** 2
    table, told = fit(pilot["features"], y2, pilot["weights"], held, arguments.seed, hidden=HIDDEN, steps=STEPS)
    write_arrays(TABLE_FILE, table)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.info("%d sets; %s", len(pilot["y"]), told)


if __name__ == "__main__":
    main()
