"""What flows are trained with: likelihood, contrast to another class, or both classes at once; and the training itself.

``contrastive`` is the loss of arXiv:2505.08709,

    L = -c E_o[ln q] + E_a[max(ln q, floor)],

o the flow's own class and a the other. Without the floor its minimum is (c p_o - p_a)_+ / integral, and it has no
lower bound where p_a > c p_o: the floor makes it finite there. ``two_flows`` needs none. With r = ln q_o - ln q_a of
two flows it is the cross entropy of the classes,

    L = E_o[softplus(-r)] + E_a[softplus(r)],

whose minimum is r = ln p_o - ln p_a.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from sage.errors import SettingsError
from training.flows import CouplingFlow

FLOOR = -50.0
"""The published one."""
LARGEST_LOG_DENSITY = 200.0
"""A mean of ln q above it on held-out events means that a flow collapses."""

log = logging.getLogger("sage.training.flow_losses")


def contrastive(
    own: Tensor,
    other: Tensor,
    c: float,
    floor: float = FLOOR,
    own_weights: Tensor | None = None,
    other_weights: Tensor | None = None,
) -> Tensor:
    """Return the contrastive loss; with large c it is that of maximum likelihood.

    Args:
        own: ln q of events of the own class, shape (n,).
        other: ln q of events of the other class, shape (m,).
        c: Weight of the own class.
        floor: Below which ln q of the other class counts no further.
        own_weights: Shape (n,), with the sum 1; all equal if absent.
        other_weights: Shape (m,), likewise.

    Raises:
        SettingsError: If c is not positive, or the floor not negative.
    """
    if not (0.0 < c < math.inf and -math.inf < floor < 0.0):
        msg = f"c is {c} and the floor {floor}; c must be positive, the floor negative and both finite"
        raise SettingsError(msg)
    return _mean(other.clamp_min(floor), other_weights) - c * _mean(own, own_weights)


def two_flows(
    own: Tensor, other: Tensor, own_weights: Tensor | None = None, other_weights: Tensor | None = None
) -> Tensor:
    """Return the loss of two flows.

    Args:
        own: ln q_o - ln q_a of events of the first class, shape (n,).
        other: The same of events of the second class, shape (m,).
        own_weights: Shape (n,), with the sum 1; all equal if absent.
        other_weights: Shape (m,), likewise.
    """
    return _mean(functional.softplus(-own), own_weights) + _mean(functional.softplus(other), other_weights)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (values * weights).sum()


@dataclass(frozen=True)
class FitSettings:
    """How flows are trained.

    Args:
        epochs: At most.
        patience: Epochs without a better held-out loss after which it ends.
        batch: Events of each class in a step.
        rate: Learning rate of Adam.
        held_out: Fraction of the events that judges epochs.
        seed: Of everything random.

    Raises:
        SettingsError: If a number is out of its range.
    """

    epochs: int = 6
    patience: int = 2
    batch: int = 500
    rate: float = 2e-3
    held_out: float = 0.2
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.epochs, self.patience, self.batch) < 1 or not self.rate > 0.0 or not 0.0 < self.held_out < 1.0:
            msg = f"{self}: epochs, patience and batch must be at least 1, rate positive, held_out between 0 and 1"
            raise SettingsError(msg)


PUBLISHED_FIT = FitSettings(epochs=500, patience=100, batch=1000, rate=1e-3)

Loss = Callable[[Sequence[CouplingFlow], Tensor, Tensor], Tensor]
"""Loss of flows on events of the own and of the other class, shapes (n, d) and (m, d)."""


@dataclass(frozen=True)
class FitReport:
    """How a training went.

    Args:
        losses: Held-out loss of each epoch.
        flags: What did not go the normal way.
    """

    losses: tuple[float, ...]
    flags: tuple[str, ...] = ()


def contrastive_loss(c: float, floor: float = FLOOR) -> Loss:
    """Return the contrastive loss of one flow; see ``contrastive``."""

    def loss(flows: Sequence[CouplingFlow], own: Tensor, other: Tensor) -> Tensor:
        (flow,) = flows
        return contrastive(flow.log_density(own), flow.log_density(other), c, floor)

    return loss


def likelihood_loss(flows: Sequence[CouplingFlow], own: Tensor, other: Tensor) -> Tensor:
    """Return minus the mean of ln q of the own class, of one flow."""
    del other
    (flow,) = flows
    return -flow.log_density(own).mean()


def two_flow_loss(flows: Sequence[CouplingFlow], own: Tensor, other: Tensor) -> Tensor:
    """Return the loss of two flows, that of the own class first; see ``two_flows``."""
    first, second = flows
    return two_flows(*(first.log_density(x) - second.log_density(x) for x in (own, other)))


def fit_flows(
    flows: Sequence[CouplingFlow], own: Tensor, other: Tensor, loss: Loss, settings: FitSettings, name: str = "flow"
) -> FitReport:
    """Train flows on equally many events of two classes, in place; the best epoch's parameters are kept.

    Args:
        flows: One, or two for the loss of two.
        own: Standardised events of the own class, shape (n, d).
        other: Of the other class, shape (m, d).
        loss: What is minimised.
        settings: How.
        name: For the progress bar.

    Raises:
        SettingsError: If a class has fewer than ten events.
    """
    if min(len(own), len(other)) < 10:
        msg = f"{len(own)} and {len(other)} events of the two classes; a flow needs at least 10 of each"
        raise SettingsError(msg)
    generator = torch.Generator().manual_seed(settings.seed)
    (held_own, own), (held_other, other) = (_split(x, settings.held_out, generator) for x in (own, other))
    model = nn.ModuleList(flows)
    optimiser = torch.optim.Adam(model.parameters(), settings.rate)
    n = min(len(own), len(other))
    losses: list[float] = []
    flags: list[str] = []
    best = copy.deepcopy(model.state_dict())
    for epoch in tqdm(range(settings.epochs), name, disable=None):
        orders = [torch.split(torch.randperm(len(x), generator=generator)[:n], settings.batch) for x in (own, other)]
        for rows, other_rows in zip(*orders, strict=True):
            optimiser.zero_grad()
            value = loss(flows, own[rows], other[other_rows])
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            losses.append(float(loss(flows, held_own, held_other)))
            highest = max(float(flow.log_density(held_own).mean()) for flow in flows)
        if not (math.isfinite(losses[-1]) and highest < LARGEST_LOG_DENSITY):
            flags.append(f"stopped in epoch {epoch}: held-out loss {losses[-1]:.4g}, mean ln q {highest:.4g}")
            losses.pop()
            break
        if losses[-1] == min(losses):
            best = copy.deepcopy(model.state_dict())
        elif len(losses) - 1 - losses.index(min(losses)) >= settings.patience:
            break
    if len(losses) > 1 and losses[0] == min(losses):
        flags.append("the held-out loss did not fall")
    model.load_state_dict(best)
    log.info("%s: held-out losses %s", name, " ".join(f"{value:.3f}" for value in losses))
    return FitReport(tuple(losses), tuple(flags))


def _split(x: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return held-out events and the others; at least one of either."""
    order = torch.randperm(len(x), generator=generator)
    size = min(max(int(fraction * len(x)), 1), len(x) - 1)
    return x[order[:size]], x[order[size:]]
