"""Ordinary classifiers on the challenge's 28 features, to judge the network by.

Both see nominal events with the weights of the network's training and are stopped by the same held-out events.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from sage.challenge.features import DERIVED, derived
from sage.challenge.nuisances import PROCESSES
from sage.challenge.shifts import PRIMARIES, UNDEFINED
from training.metrics import log_loss

FEATURES = (*PRIMARIES, *DERIVED)
BOOSTING_SETTINGS = (
    {"learning_rate": 0.1, "max_leaf_nodes": 31},
    {"learning_rate": 0.1, "max_leaf_nodes": 63, "l2_regularization": 10.0},
    {"learning_rate": 0.05, "max_leaf_nodes": 31, "l2_regularization": 10.0},
)
"""What is tried; the best on the held-out events is taken."""

MAX_TREES = 400
PATIENCE = 15
HIDDEN = 128
EPOCHS = 30
BATCH = 1024
LEARNING_RATE = 3e-3
CHUNK = 65536
"""Events per pass of the perceptron when it predicts."""

Classify = Callable[[Mapping[str, Any]], np.ndarray]
"""Takes the primary columns of selected events, returns class probabilities (n, 4)."""

log = logging.getLogger("sage.training.reference_classifiers")


@dataclass(frozen=True)
class TrainingSample:
    """Selected nominal events.

    Args:
        columns: Primary columns, shape (n,), float32.
        classes: Shape (n,).
        weights: Equal in total for each class, 1 on average, shape (n,).
    """

    columns: Mapping[str, Any]
    classes: np.ndarray
    weights: np.ndarray


def features(columns: Mapping[str, Any]) -> np.ndarray:
    """Return the 28 features, shape (n, 28), float32; NaN where a jet that does not exist would define them."""
    everything = {**columns, **derived(columns)}
    values = np.stack([np.asarray(everything[name], dtype=np.float32) for name in FEATURES], axis=1)
    values[values == UNDEFINED] = np.nan
    return values


def fit_boosting(
    train: TrainingSample, held_out: TrainingSample, seed: int, threads: int
) -> tuple[Classify, dict[str, Any]]:
    """Fit scikit-learn's HistGradientBoostingClassifier.

    Returns:
        The classifier, and what was tried with its held-out loss.
    """
    # Imported here: the programs that need only the perceptron run without it.
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    x, x_held = features(train.columns), features(held_out.columns)
    tried: list[dict[str, Any]] = []
    best: Any = None
    with threadpool_limits(threads):
        for settings in BOOSTING_SETTINGS:
            model = HistGradientBoostingClassifier(
                **settings, max_iter=MAX_TREES, early_stopping=True, n_iter_no_change=PATIENCE, random_state=seed
            )
            model.fit(
                x,
                train.classes,
                train.weights,
                X_val=x_held,
                y_val=held_out.classes,
                sample_weight_val=held_out.weights,
            )
            loss = log_loss(model.predict_proba(x_held), held_out.classes, held_out.weights)
            log.info("boosting %s: %d rounds, held out %.5f", settings, model.n_iter_, loss)
            if all(loss < earlier["held_out"] for earlier in tried):
                best = model
            tried.append({**settings, "rounds": int(model.n_iter_), "held_out": loss})

    def classify(columns: Mapping[str, Any]) -> np.ndarray:
        with threadpool_limits(threads):
            out: np.ndarray = best.predict_proba(features(columns))
        return out

    return classify, {"tried": tried, "train_rows": len(x)}


def fit_perceptron(train: TrainingSample, held_out: TrainingSample, seed: int) -> tuple[Classify, dict[str, Any]]:
    """Fit a 28-128-128-4 network with the schedule of ``training.train``: warm-up, cosine, best held-out epoch.

    Returns:
        The classifier, and its held-out losses.
    """
    raw = features(train.columns)
    mean, std = np.nanmean(raw, axis=0), np.nanstd(raw, axis=0)

    def inputs(columns: Mapping[str, Any]) -> torch.Tensor:
        return torch.from_numpy(np.nan_to_num((features(columns) - mean) / std, nan=0.0))

    x, y, w = inputs(train.columns), torch.from_numpy(train.classes), torch.from_numpy(train.weights).float()
    held = inputs(held_out.columns)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(len(FEATURES), HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, len(PROCESSES)),
        )
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    rng = np.random.default_rng(seed)
    losses: list[float] = []
    best = model.state_dict()

    def predict(values: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([torch.softmax(model(part), dim=1) for part in torch.split(values, CHUNK)]).numpy()

    for _ in tqdm(range(EPOCHS), "perceptron", disable=None):
        for rows in torch.split(torch.from_numpy(rng.permutation(len(x))), BATCH):
            optimiser.zero_grad()
            loss = (cross_entropy(model(x[rows]), y[rows], reduction="none") * w[rows]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        losses.append(log_loss(predict(held), held_out.classes, held_out.weights))
        if losses[-1] == min(losses):
            best = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best)
    return lambda columns: predict(inputs(columns)), {"held_out": losses, "train_rows": len(x)}
