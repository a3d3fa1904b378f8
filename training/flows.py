"""Coupling flows in torch: densities that are trained here and read, as plain arrays, by ``sage.flows.density``.

The layers of ``FlowSettings()`` are one to one and come from zuko: affine ones, or monotone rational-quadratic splines
(arXiv:1906.04032) that end in the identity at 6. ``PUBLISHED`` are those of contrastive flows (arXiv:2505.08709, as in
their program): gated affine layers and a quadratic one at the end, whose density is not normalised.
``training.flow_losses`` has what they are trained with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sage.errors import SettingsError
from sage.flows.density import LARGEST_CURVATURE, LARGEST_SLOPE, LOG_TWO_PI, OUTPUTS, Layer, moved

SPLINE_BINS = 8
SPLINE_BOUND = 6.0
"""Range of a spline layer in standard deviations."""
TRAINED_OUTPUTS = OUTPUTS | {"spline": 3 * SPLINE_BINS - 1}
"""Kinds of layers and the numbers that their perceptrons give for each moved column."""
SMALL = 0.1
"""Factor on a new perceptron's last matrix, so that a new flow is near the identity."""


@dataclass(frozen=True)
class FlowSettings:
    """What a flow is made of.

    Args:
        kind: Kind of its layers, key of ``TRAINED_OUTPUTS``.
        layers: Their number.
        hidden: Nodes of each hidden layer of the perceptrons.
        last: Kind of the last layer; as the others if absent.

    Raises:
        SettingsError: If a kind is unknown or a number is not positive.
    """

    kind: str = "affine"
    layers: int = 10
    hidden: tuple[int, ...] = (64, 64)
    last: str | None = None

    def __post_init__(self) -> None:
        for kind in (self.kind, self.last or self.kind):
            if kind not in TRAINED_OUTPUTS:
                msg = f"no layer {kind!r}; choose one of {', '.join(TRAINED_OUTPUTS)}"
                raise SettingsError(msg)
        if self.layers < 1 or not self.hidden or min(self.hidden) < 1:
            msg = f"{self.layers} layers with hidden nodes {self.hidden}; give at least one of each"
            raise SettingsError(msg)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kind of each layer."""
        return (*[self.kind] * (self.layers - 1), self.last or self.kind)


LIGHT = FlowSettings(layers=6, hidden=(32, 32))
"""Trained in seconds and read within the time of a submission."""
PUBLISHED = FlowSettings("gated", layers=30, hidden=(64, 64, 64, 64), last="quadratic")


class CouplingFlow(nn.Module):
    """A density by coupling layers; see ``sage.flows.density`` for what they compute.

    Args:
        features: Number of columns d, at least 2.
        settings: What it is made of.

    Raises:
        SettingsError: If there are fewer than two columns.
    """

    def __init__(self, features: int, settings: FlowSettings | None = None) -> None:
        super().__init__()
        if features < 2:
            msg = f"{features} columns; a coupling flow moves one half by the other, so give at least 2"
            raise SettingsError(msg)
        self.features = features
        self.settings = settings or FlowSettings()
        self.perceptrons = nn.ModuleList()
        for number, kind in enumerate(self.settings.kinds):
            n_moved = len(range(features)[moved(number)])
            self.perceptrons.append(_perceptron(kind, features - n_moved, n_moved, self.settings.hidden))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, shape (n, d), and ln |det dz/dx|, shape (n,), of events (n, d)."""
        total = x.new_zeros(len(x))
        for number, kind, given in self._layers():
            columns = moved(number)
            transform = _transform(kind, given(x[:, moved(number + 1)]), len(range(self.features)[columns]))
            y, slopes = transform.call_and_ladj(x[:, columns])
            x = _replaced(x, columns, y)
            total = total + slopes.sum(dim=1)
        return x, total

    def log_density(self, x: Tensor) -> Tensor:
        """Return ln q, shape (n,), of events (n, d)."""
        z, slopes = self(x)
        out: Tensor = slopes - 0.5 * (z**2).sum(dim=1) - 0.5 * self.features * LOG_TWO_PI
        return out

    def inverse(self, z: Tensor) -> Tensor:
        """Return the events that map to z, both of shape (n, d).

        Raises:
            SettingsError: If a layer is quadratic, as that maps two events to one point.
        """
        if "quadratic" in self.settings.kinds:
            msg = "a flow with a quadratic layer folds and has no inverse; choose affine, spline or gated layers"
            raise SettingsError(msg)
        for number, kind, given in reversed(list(self._layers())):
            columns = moved(number)
            transform = _transform(kind, given(z[:, moved(number + 1)]), len(range(self.features)[columns]))
            z = _replaced(z, columns, transform.inv(z[:, columns]))
        return z

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers as plain arrays.

        Raises:
            SettingsError: If one is a spline, which ``sage.flows.density`` does not have.
        """
        if "spline" in self.settings.kinds:
            msg = f"spline layers cannot be written; choose one of {', '.join(OUTPUTS)} for a submission"
            raise SettingsError(msg)
        out = []
        for _, kind, perceptron in self._layers():
            linear = [part for part in perceptron.modules() if isinstance(part, nn.Linear)]
            matrices = [torch.cat([part.weight.T, part.bias[None]]).detach().float().numpy() for part in linear]
            out.append(Layer(kind, tuple(matrices)))
        return tuple(out)

    @classmethod
    def of_layers(cls, layers: Sequence[Layer]) -> CouplingFlow:
        """Return the flow of plain layers, of one kind but for the last one."""
        first, last = layers[0], layers[-1]
        moved_columns = first.matrices[-1].shape[1] // OUTPUTS[first.kind]
        hidden = tuple(matrix.shape[1] for matrix in first.matrices[:-1])
        flow = cls(len(first.matrices[0]) - 1 + moved_columns, FlowSettings(first.kind, len(layers), hidden, last.kind))
        with torch.no_grad():
            for layer, perceptron in zip(layers, flow.perceptrons, strict=True):
                linear = [part for part in perceptron.modules() if isinstance(part, nn.Linear)]
                for part, matrix in zip(linear, layer.matrices, strict=True):
                    part.weight.copy_(torch.from_numpy(matrix[:-1].T))
                    part.bias.copy_(torch.from_numpy(matrix[-1]))
        return flow

    def _layers(self) -> list[tuple[int, str, nn.Module]]:
        return [(i, *both) for i, both in enumerate(zip(self.settings.kinds, self.perceptrons, strict=True))]


def _perceptron(kind: str, inputs: int, n_moved: int, hidden: tuple[int, ...]) -> nn.Sequential:
    published = kind in ("gated", "quadratic")
    sizes = (inputs, *hidden, n_moved * TRAINED_OUTPUTS[kind])
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after), nn.GELU(approximate="tanh") if published else nn.ReLU()]
    parts[-1] = nn.Tanh() if published else nn.Identity()
    with torch.no_grad():
        for parameter in parts[-2].parameters():
            parameter.mul_(SMALL)
    return nn.Sequential(*parts)


def _transform(kind: str, given: Tensor, n_moved: int) -> Any:
    """Return the transform of each moved column; one of zuko's, or with the same ``call_and_ladj`` and ``inv``.

    Args:
        kind: Key of ``TRAINED_OUTPUTS``.
        given: What the perceptron gives, shape (n, outputs * n_moved).
        n_moved: Number of columns.
    """
    # Imported here: it is needed by no other program than those that train flows.
    from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

    if kind == "spline":
        by_column = given.reshape(len(given), n_moved, -1)
        widths, heights, slopes = torch.tensor_split(by_column, (SPLINE_BINS, 2 * SPLINE_BINS), dim=2)
        return MonotonicRQSTransform(widths, heights, slopes, bound=SPLINE_BOUND)
    parts = torch.split(given, n_moved, dim=1)
    if kind == "affine":
        return MonotonicAffineTransform(parts[1], parts[0], slope=math.exp(-LARGEST_SLOPE))
    return {"gated": Gated, "quadratic": Quadratic}[kind](*parts)


@dataclass(frozen=True)
class Gated:
    """A gated affine layer, y = (1 - g) x + g (x e^s + t) with g = sigmoid(u); all of shape (n, k)."""

    s: Tensor
    t: Tensor
    u: Tensor

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and the logarithms of the slopes."""
        gate, slope = torch.sigmoid(self.u), self.s.exp()
        return (1 - gate) * x + gate * (x * slope + self.t), torch.log((1 - gate) + gate * slope)

    def inv(self, y: Tensor) -> Tensor:
        """Return x."""
        gate = torch.sigmoid(self.u)
        return (y - gate * self.t) / ((1 - gate) + gate * self.s.exp())


@dataclass(frozen=True)
class Quadratic:
    """The published last layer, y = x + s' x^2 + t with s' = 0.1 tanh(s); all of shape (n, k), u is not used."""

    s: Tensor
    t: Tensor
    u: Tensor

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and the logarithms of the slopes' moduli."""
        curvature = LARGEST_CURVATURE * torch.tanh(self.s)
        return x + curvature * x**2 + self.t, torch.log(torch.abs(1 + 2 * curvature * x).clamp_min(1e-30))


def _replaced(x: Tensor, columns: slice, values: Tensor) -> Tensor:
    """Return x with other values in every second column."""
    first, second = (values, x[:, 1::2]) if columns.start == 0 else (x[:, ::2], values)
    wider = first.shape[1] - second.shape[1]
    mixed = torch.stack([first, functional.pad(second, (0, wider))], dim=2).flatten(1)
    return mixed[:, : x.shape[1]]
