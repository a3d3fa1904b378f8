"""Settings of training and tables: frozen dataclasses filled from strict YAML.

A key the code does not know is refused, as is a value of the wrong type: a misspelt setting that silently does nothing
costs a training run. Command line options replace single values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from sage.binned.regions import region_set as find_region_set
from sage.challenge.nuisances import CHALLENGE, NAMES, PROCESSES
from sage.errors import SettingsError
from sage.network.graph import INPUT_SETS
from sage.network.parameters import DEFAULT_SIZE, HIDDEN_WIDTHS, MOST_ROUNDS, GraphSize
from sage.network.perceptron import MOST_LAYERS, WIDTHS

DISTRIBUTIONS = ("prior", "uniform", "nominal")
"""Of the nuisance points that training draws; see ``TrainingConfig``."""

LARGEST = 1e9
"""Of any number among the settings."""
SHARE_TOLERANCE = 1e-6
"""Of the sum of shares from 1."""
FARTHEST = 5.0
"""Distance of the copies from which scores are learnt: soft_met ends at 5 GeV."""
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "default.yaml"

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained.

    Args:
        inputs: ``published``, the 35 inputs of arXiv:2509.00672, or ``ditau``, with ten di-tau quantities and
            logarithms of momenta and masses; see ``sage.network.graph.INPUT_SETS``.
        hidden: Numbers of a node of the graph, one of ``sage.network.parameters.HIDDEN_WIDTHS``.
        rounds: Rounds of message passing in each branch of the graph.
        width: Width of the hidden layers of the perceptron beside the graph, a multiple of 8; 0 for no perceptron.
        depth: Number of those layers.
        dropout: Share of their numbers that a step drops.
        device: Torch device; with several processes ``cuda`` means one GPU for each.
        bf16: Compute the network in bfloat16 where torch's autocast does so; meant for GPUs.
        networks: Networks to train. More than one are trained on bootstrapped events, and their logits averaged.
        epochs: Passes over the training events.
        patience: Epochs without a better held-out loss after which training stops.
        batch_size: Events per optimiser step, all processes together.
        points_per_batch: Nuisance points each batch is seen at; 1 is enough for ``nominal`` points.
        points: Distribution of the points, drawn afresh for each batch: ``prior``, that of the pseudo-experiments (tes
            and jes normal around 1 with width 0.01, soft_met log-normal (0, 1) cut at 5 GeV); ``uniform``, in the
            range of the yield tables; ``nominal``, no shifts.
        rows_per_pass: Events times points that are computed at once; gradients of more are added up.
        learning_rate: Highest learning rate of the schedule.
        warmup: Fraction of all steps over which the learning rate rises; then it falls along a cosine to 0.
        weight_decay: AdamW's.
        validation_fraction: Fraction of the training events, whole showered events where those are known, held out
            to choose the best epoch.
        validation_points: Fixed nuisance points at which the held-out loss is taken.
        pool_rows: Rows shuffled together in memory.
        max_rows: Rows of each class seen in an epoch, about; each epoch takes others, and their weights grow so that
            the class keeps its total. 0 takes all. As classes weigh the same, rows of a class that has many more than
            the others cost time and teach little.
        checkpoint_minutes: Time between checkpoints; there is one after each epoch as well.
        share_htautau, share_ztautau, share_ttbar, share_diboson: Shares of the classes in the training's total weight,
            1 together. The network's probabilities refer to these proportions, and regions bring them to those they
            suppose (``RegionSet.for_network``); what a class has little of is learnt with little care.
    """

    inputs: str = "published"
    hidden: int = DEFAULT_SIZE.hidden
    rounds: int = DEFAULT_SIZE.rounds
    width: int = 0
    depth: int = 2
    dropout: float = 0.0
    device: str = "cpu"
    bf16: bool = False
    networks: int = 1
    epochs: int = 12
    patience: int = 4
    batch_size: int = 128
    points_per_batch: int = 4
    points: str = "prior"
    rows_per_pass: int = 65536
    learning_rate: float = 1e-2
    warmup: float = 0.1
    weight_decay: float = 1e-4
    validation_fraction: float = 0.1
    validation_points: int = 8
    pool_rows: int = 2_000_000
    max_rows: int = 0
    checkpoint_minutes: float = 5.0
    share_htautau: float = 0.25
    share_ztautau: float = 0.25
    share_ttbar: float = 0.25
    share_diboson: float = 0.25

    def __post_init__(self) -> None:
        """Check what no type tells.

        Raises:
            SettingsError: If a number is out of its range or the distribution has no such name.
        """
        if self.inputs not in INPUT_SETS:
            msg = f"training: inputs is {self.inputs!r}; choose one of {', '.join(INPUT_SETS)}"
            raise SettingsError(msg)
        if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", self.device):
            msg = f"training: device is {self.device!r}; choose cpu, cuda, cuda:NUMBER or mps"
            raise SettingsError(msg)
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not 0.0 <= value <= LARGEST:
                msg = f"training: {item.name} is {value}; it must be a number from 0 to {LARGEST:g}"
                raise SettingsError(msg)
        if self.points not in DISTRIBUTIONS:
            msg = f"training: points is {self.points!r}; choose one of {', '.join(DISTRIBUTIONS)}"
            raise SettingsError(msg)
        at_least = dict.fromkeys(("networks", "epochs", "patience", "batch_size", "points_per_batch"), 1)
        at_least |= dict.fromkeys(("rows_per_pass", "validation_points", "pool_rows"), 1) | {"max_rows": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                msg = f"training: {name} is {getattr(self, name)}; it must be at least {least}"
                raise SettingsError(msg)
        if not self.size().supported:
            msg = f"training: hidden is {self.hidden} and rounds is {self.rounds}; hidden is one of "
            msg += f"{', '.join(map(str, HIDDEN_WIDTHS))}, rounds is from 1 to {MOST_ROUNDS}"
            raise SettingsError(msg)
        check_layers("training", self.width, self.depth)
        if not self.dropout < 1.0:
            msg = f"training: dropout is {self.dropout}; it is a share below 1"
            raise SettingsError(msg)
        if not min(self.shares()) > 0.0 or abs(sum(self.shares()) - 1.0) > SHARE_TOLERANCE:
            msg = f"training: the shares of the classes are {self.shares()}; each is positive, and together they are 1"
            raise SettingsError(msg)
        if not 0.0 < self.validation_fraction < 1.0:
            msg = f"training: validation_fraction is {self.validation_fraction}; it lies between 0 and 1"
            raise SettingsError(msg)

    def size(self) -> GraphSize:
        """Return the size of the graph."""
        return GraphSize(self.hidden, self.rounds)

    def widths(self) -> tuple[int, ...] | None:
        """Return the widths of the hidden layers of the perceptron beside the graph, None if there is none."""
        return (self.width,) * self.depth if self.width else None

    def shares(self) -> tuple[float, ...]:
        """Return the class proportions in the order of ``PROCESSES``."""
        return tuple(getattr(self, f"share_{process}") for process in PROCESSES)


def check_layers(section: str, width: int, depth: int) -> None:
    """Check the size of a perceptron.

    Raises:
        SettingsError: If the kernel has no such layers.
    """
    if width and width not in WIDTHS:
        msg = f"{section}: width is {width}; it is a multiple of {WIDTHS.step}, at most {WIDTHS[-1]}"
        raise SettingsError(msg)
    if not 1 <= depth < MOST_LAYERS:
        msg = f"{section}: depth is {depth}; it must be from 1 to {MOST_LAYERS - 1}"
        raise SettingsError(msg)


@dataclass(frozen=True)
class ScoresConfig:
    """How the perceptron of scores is trained, after the network of classes; what is not said here is as there.

    Args:
        networks: Perceptrons to train; 0 for none. More than one are trained on bootstrapped events and averaged.
        width: Width of the hidden layers, a multiple of 8.
        depth: Number of hidden layers.
        epochs: Passes over the training events.
        patience: Epochs without a better held-out loss after which training stops.
        batch_size: Events per optimiser step, each seen at two copies for each shape nuisance.
        learning_rate: Highest learning rate of the schedule.
        max_rows: Rows of each class seen in an epoch, about; 0 takes all. Weights are natural, so Z matters most.
        distance: Distance of the copies from nominal: in prior widths for energy scales, in GeV for soft_met, whose
            copies are 0 and this.
    """

    networks: int = 0
    width: int = 64
    depth: int = 1
    epochs: int = 4
    patience: int = 4
    batch_size: int = 512
    learning_rate: float = 3e-3
    max_rows: int = 0
    distance: float = 3.0

    def __post_init__(self) -> None:
        """Check what no type tells.

        Raises:
            SettingsError: If a number is out of its range.
        """
        for name, least in {"networks": 0, "epochs": 1, "patience": 1, "batch_size": 1, "max_rows": 0}.items():
            if getattr(self, name) < least:
                msg = f"scores: {name} is {getattr(self, name)}; it must be at least {least}"
                raise SettingsError(msg)
        if self.width == 0:
            msg = f"scores: width is 0; it is a multiple of {WIDTHS.step}"
            raise SettingsError(msg)
        check_layers("scores", self.width, self.depth)
        for name, most in {"learning_rate": LARGEST, "distance": FARTHEST}.items():
            if not 0.0 < getattr(self, name) <= most:
                msg = f"scores: {name} is {getattr(self, name)}; it must be above 0, at most {most:g}"
                raise SettingsError(msg)


@dataclass(frozen=True)
class TablesConfig:
    """How bins and yield tables are made.

    Args:
        region_set: Name in ``sage.binned.regions.REGION_SETS``.
        uniform_bins: Bins of the observable from which merging starts: of one width, or of the efficient score those
            that lose least information.
        min_count: Expected background events a bin must have.
        min_count_each: Whether tt, VV and Z must have that many each, or together.
        min_effective: Effective simulated entries of all backgrounds together a bin must have.
        nodes: Nuisance points at which events are counted and the response is fitted; 0 for all nodes of the grid,
            whose counts then fill the table directly.
        held_out: Points drawn from the priors, used only to judge the response; 0 for no such test.
        noise_draws: Soft-MET noise vectors averaged over.
        common_noise: Whether an event has the same soft-MET noise at all points; see ``sage.binned.counting.Noise``.
        reference: Reference point of the efficient score: ``mu``, 1 if not named, and nuisance parameters by name in
            units of their prior's width, 0 if not named.
    """

    region_set: str = "disjoint"
    uniform_bins: int = 100
    min_count: float = 10.0
    min_count_each: bool = True
    min_effective: float = 0.0
    nodes: int = 64
    held_out: int = 0
    noise_draws: int = 4
    common_noise: bool = False
    reference: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what no type tells.

        Raises:
            SettingsError: If a number is out of its range or the region set has no such name.
        """
        find_region_set(self.region_set)
        for name, least in {"uniform_bins": 1, "nodes": 0, "held_out": 0, "noise_draws": 1}.items():
            if getattr(self, name) < least:
                msg = f"tables: {name} is {getattr(self, name)}; it must be at least {least}"
                raise SettingsError(msg)
        for name in ("min_count", "min_effective"):
            if not 0.0 <= getattr(self, name) <= LARGEST:
                msg = f"tables: {name} is {getattr(self, name)}; it must be a number from 0 to {LARGEST:g}"
                raise SettingsError(msg)
        ranges = {"mu": (0.0, LARGEST), **{nuisance.name: nuisance.nu_range for nuisance in CHALLENGE}}
        for name, value in self.reference.items():
            if name not in ranges:
                msg = f"tables: reference names {name!r}; known are {', '.join(ranges)}"
                raise SettingsError(msg)
            low, high = ranges[name]
            if not low <= value <= high:
                msg = f"tables: {name} of the reference point is {value}; it must be a number from {low:g} to {high:g}"
                raise SettingsError(msg)

    def reference_point(self) -> tuple[float, tuple[float, ...]]:
        """Return mu and the nuisance parameters, shape (6,), of the reference point."""
        return self.reference.get("mu", 1.0), tuple(self.reference.get(name, 0.0) for name in NAMES)


@dataclass(frozen=True)
class MeasurementConfig:
    """What the weights say about how they are used; see ``sage.files.settings``.

    Args:
        nuisances: Variant of the nuisance table.
        templates: ``smooth`` or ``grid``.
        simulation_uncertainty: Whether the fit knows that the tables come from finite simulation.
    """

    nuisances: str = "challenge"
    templates: str = "smooth"
    simulation_uncertainty: bool = True


@dataclass(frozen=True)
class Config:
    """All settings of a weights folder.

    Args:
        seed: Seed of every random draw.
        table_fraction: Fraction of the rows, the first ones, that fill the tables; the network trains on the others.
        workers: Processes, each with one thread, that fill the tables.
        threads: Threads of the training.
        training: Settings of the training.
        scores: Settings of the training of the perceptron of scores.
        tables: Settings of the tables.
        measurement: Settings of the measurement.
    """

    seed: int = 1
    table_fraction: float = 0.5
    workers: int = 1
    threads: int = 1
    training: TrainingConfig = field(default_factory=TrainingConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    tables: TablesConfig = field(default_factory=TablesConfig)
    measurement: MeasurementConfig = field(default_factory=MeasurementConfig)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SettingsError: If a number is out of its range.
        """
        for name, least in (("seed", 0), ("workers", 1), ("threads", 1)):
            if getattr(self, name) < least:
                msg = f"{name} is {getattr(self, name)}; it must be at least {least}"
                raise SettingsError(msg)
        if not 0.0 <= self.table_fraction <= 1.0:
            msg = f"table_fraction is {self.table_fraction}; it is a fraction of the rows, from 0 to 1"
            raise SettingsError(msg)


def read_config(path: Path, **overrides: Any) -> Config:
    """Read settings from YAML.

    Args:
        path: The file.
        overrides: Values that replace those of the file, named as the fields of any section; None leaves the value.

    Raises:
        SettingsError: If the file is not YAML, a key is unknown or a value of the wrong type; the message names both.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path}: not YAML ({error}); see {DEFAULT_CONFIG.name} for what settings look like"
        raise SettingsError(msg) from error
    config = _build(Config, content, str(path))
    given = {name: value for name, value in overrides.items() if value is not None}
    return replace(
        config,
        training=replace(config.training, **_of(TrainingConfig, given)),
        tables=replace(config.tables, **_of(TablesConfig, given)),
        measurement=replace(config.measurement, **_of(MeasurementConfig, given)),
        **_of(Config, given),
    )


def _of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {item.name: values[item.name] for item in fields(kind) if item.name in values}


def _build(kind: type[T], content: Any, where: str) -> T:
    """Fill a dataclass from a mapping, section by section."""
    if not isinstance(content, Mapping):
        msg = f"{where}: got {content!r}; a section is a mapping of setting to value"
        raise SettingsError(msg)
    known = get_type_hints(kind)
    values = {}
    for key, value in content.items():
        if key not in known:
            msg = f"{where}: unknown setting {key!r}; known are {', '.join(known)}"
            raise SettingsError(msg)
        expected = known[key]
        if is_dataclass(expected):
            value = _build(expected, value, f"{where}: {key}")  # type: ignore[arg-type]
        elif expected == dict[str, float]:
            value = _numbers(value, f"{where}: setting {key!r}")
        elif expected is float and type(value) is int:
            value = float(value)
        elif type(value) is not expected:
            msg = f"{where}: setting {key!r} is {value!r}; it must be of type {expected.__name__}"
            raise SettingsError(msg)
        values[key] = value
    return kind(**values)


def _numbers(content: Any, where: str) -> dict[str, float]:
    """Return a mapping of name to number."""
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and type(value) in (int, float) for name, value in content.items()
    ):
        msg = f"{where} is {content!r}; it must be a mapping of name to number"
        raise SettingsError(msg)
    return {name: float(value) for name, value in content.items()}
