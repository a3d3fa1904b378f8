"""The native kernel against the dense module and torch-geometric, its independence of order, and its build."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from harness.packing import bundle_files
from native import build
from sage.challenge.features import derived
from sage.challenge.shifts import PRIMARIES
from sage.errors import EngineError, WeightsError
from sage.files.bundle import read_bundle
from sage.network.dense import DualBranchNetwork, class_probabilities, from_arrays
from sage.network.graph import (
    INPUT_SETS,
    INPUTS,
    PUBLISHED,
    WITH_DITAU,
    InputSet,
    jets_present,
    normalise,
    raw_inputs,
    required_jets,
)
from sage.network.library_hash import SHA256
from sage.network.native import INSTRUCTION_SETS, LIBRARY, NativeNetwork, load
from sage.network.parameters import DEFAULT_SIZE, GraphSize, check_parameters, flatten, inputs_of, shapes, size_of
from tests.conftest import REAL_EVENTS, ROOT
from tests.events import FIVE_WEIGHTS

PATTERNS = ((False, False), (True, False), (False, True), (True, True))
LARGEST_LOGIT_DIFFERENCE = 1e-5


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(FIVE_WEIGHTS)


@pytest.fixture(scope="module")
def trained(bundle) -> NativeNetwork:
    return NativeNetwork(bundle.network)


CHOICES = pytest.mark.parametrize("inputs", INPUT_SETS.values(), ids=INPUT_SETS)


def random_events(
    n: int, seed: int = 0, pattern: tuple[bool, bool] | None = None, inputs: InputSet = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised inputs (n, number of inputs) and jet masks (n, 2): every pattern, realistic shares."""
    rng = np.random.default_rng(seed)
    shares = rng.choice(4, n, p=(0.5, 0.27, 0.03, 0.2))
    jets = np.array(PATTERNS)[shares] if pattern is None else np.tile(pattern, (n, 1))
    values = rng.standard_normal((n, len(inputs.columns))).astype(np.float32)
    values[(required_jets(inputs) & ~jets[:, None]).any(axis=-1)] = 0.0
    return values, jets


def random_parameters(seed: int, inputs: InputSet = PUBLISHED, size: GraphSize = DEFAULT_SIZE) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    state = DualBranchNetwork(inputs, size=size).state_dict()
    # Sums over more numbers of the same size would take the logits to where single precision ends.
    spread = 0.3 * (DEFAULT_SIZE.hidden / size.hidden) ** 0.5
    return {name: (value + spread * torch.randn_like(value)).numpy() for name, value in state.items()}


def dense_logits(network: torch.nn.Module, values: np.ndarray, jets: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(values), torch.from_numpy(jets.astype(np.float32))).numpy()


SIZES = pytest.mark.parametrize(
    "size",
    [DEFAULT_SIZE, GraphSize(16, 1), GraphSize(16, 4), GraphSize(32, 2), GraphSize(48, 3), GraphSize(64, 4)],
    ids=lambda size: f"{size.hidden}-{size.rounds}",
)


@SIZES
@CHOICES
def test_shapes_are_those_of_the_dense_module(inputs, size):
    state = DualBranchNetwork(inputs, size=size).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == shapes(inputs, size=size)
    assert list(state) == list(shapes(inputs, size=size))
    assert inputs_of(state) is inputs
    assert size_of(state) == size
    check_parameters(state, inputs)


@pytest.mark.parametrize("size", [GraphSize(24, 3), GraphSize(128, 3), GraphSize(32, 5)])
def test_sizes_without_a_kernel_are_refused(size):
    message = rf"hidden width {size.hidden} and {size.rounds} rounds; .* widths 16, 32, 48, 64 and 1 to 4"
    with pytest.raises(WeightsError, match=message):
        check_parameters(random_parameters(1, size=size))
    assert load(LIBRARY, SHA256).sage_network_parameters(len(INPUTS), size.hidden, size.rounds) == 0


def test_parameters_of_two_sizes_are_refused():
    parameters, other = random_parameters(1), random_parameters(1, size=GraphSize(64, 3))
    for name in ("head_narrow.weight", "gate.weight", "deterministic.messages.2.bias", "uncertainty.node_score.weight"):
        with pytest.raises(WeightsError, match="does not fit this architecture"):
            check_parameters(parameters | {name: other[name]})
    fewer = {name: value for name, value in parameters.items() if ".messages.2." not in name}
    with pytest.raises(WeightsError, match="does not fit this architecture"):
        check_parameters(fewer)


def test_parameters_for_other_inputs_are_refused():
    for own, other in ((PUBLISHED, WITH_DITAU), (WITH_DITAU, PUBLISHED)):
        with pytest.raises(WeightsError, match=r"'uncertainty\.global_expander\.weight' does not fit"):
            check_parameters(random_parameters(1, own), other)


@pytest.mark.parametrize("damage", ["missing", "extra", "transposed"])
def test_parameters_of_another_architecture_are_refused(bundle, damage):
    arrays = dict(bundle.network)
    if damage == "missing":
        del arrays["gate.weight"]
    elif damage == "extra":
        arrays["gate.scale"] = np.zeros(1, dtype=np.float32)
    else:
        arrays["classes.weight"] = arrays["classes.weight"].T
    with pytest.raises(WeightsError, match="does not fit this architecture"):
        check_parameters(arrays)


@SIZES
@CHOICES
def test_flat_block_has_the_length_the_library_states(inputs, size):
    flat = flatten(random_parameters(1, inputs, size))
    assert flat.dtype == np.float32
    length = load(LIBRARY, SHA256).sage_network_parameters
    assert length(len(inputs.columns), size.hidden, size.rounds) == flat.size
    assert length(len(inputs.columns) - 1, size.hidden, size.rounds) == 0


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_equal_to_the_dense_module_for_every_graph(bundle, pattern, instruction_set):
    values, jets = random_events(3000, pattern=pattern)
    try:
        network = NativeNetwork(bundle.network, instruction_set=instruction_set)
    except EngineError as error:
        pytest.skip(str(error))
    expected = dense_logits(from_arrays(bundle.network), values, jets)
    # Single precision is relative: random inputs take the trained network to logits above 10.
    largest = LARGEST_LOGIT_DIFFERENCE * max(1.0, np.abs(expected).max() / 10)
    assert np.abs(network.logits(values, jets) - expected).max() < largest
    probabilities = network.probabilities(values, jets)
    softmax = torch.softmax(torch.from_numpy(expected), dim=1).numpy()
    # A probability moves by at most half of what the logits' differences move.
    assert np.abs(probabilities - softmax).max() < largest / 2
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(values)), abs=1e-6)


@CHOICES
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_dense_module_and_torch_geometric_for_any_parameters(seed, inputs):
    oracle = pytest.importorskip("training.graph_oracle")
    parameters = random_parameters(seed, inputs)
    values, jets = random_events(2000, seed, inputs=inputs)
    found = NativeNetwork(parameters).logits(values, jets)
    dense = from_arrays(parameters)
    graph = oracle.OracleNetwork(inputs)
    graph.load_state_dict(dense.state_dict())
    for network in (dense, graph.eval()):
        expected = dense_logits(network, values, jets)
        assert np.abs(found - expected).max() < LARGEST_LOGIT_DIFFERENCE * max(1.0, np.abs(expected).max() / 10)


@SIZES
@CHOICES
def test_every_size_equals_dense_module_and_torch_geometric(size, inputs):
    oracle = pytest.importorskip("training.graph_oracle")
    parameters = random_parameters(6, inputs, size)
    values, jets = random_events(500, 6, inputs=inputs)
    dense = from_arrays(parameters)
    graph = oracle.OracleNetwork(inputs, size)
    graph.load_state_dict(dense.state_dict())
    best = NativeNetwork(parameters).instruction_set
    for network in (dense, graph.eval()):
        expected = dense_logits(network, values, jets)
        largest = LARGEST_LOGIT_DIFFERENCE * max(1.0, np.abs(expected).max() / 10)
        for name in INSTRUCTION_SETS[1 : INSTRUCTION_SETS.index(best) + 1]:
            found = NativeNetwork(parameters, instruction_set=name).logits(values, jets)
            assert np.abs(found - expected).max() < largest


def test_equal_on_real_events(bundle, trained):
    frame = pd.read_parquet(REAL_EVENTS)
    columns = {name: frame[name].to_numpy(np.float32) for name in PRIMARIES}
    values, defined = raw_inputs(columns, derived(columns))
    values, jets = normalise(values, defined, bundle.normalisation), jets_present(columns)
    expected = dense_logits(from_arrays(bundle.network), values, jets)
    assert np.abs(trained.logits(values, jets) - expected).max() < LARGEST_LOGIT_DIFFERENCE


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_instruction_set_knows_the_ditau_inputs(seed, pattern):
    parameters = random_parameters(seed, WITH_DITAU)
    values, jets = random_events(1003, seed, pattern, WITH_DITAU)
    expected = dense_logits(from_arrays(parameters), values, jets)
    for name in INSTRUCTION_SETS[1 : INSTRUCTION_SETS.index(NativeNetwork(parameters).instruction_set) + 1]:
        found = NativeNetwork(parameters, instruction_set=name).logits(values, jets)
        assert np.abs(found - expected).max() < LARGEST_LOGIT_DIFFERENCE * max(1.0, np.abs(expected).max() / 10)
    spoilt = values.copy()
    spoilt[np.arange(45), np.arange(45)] = np.nan
    assert np.isnan(NativeNetwork(parameters).logits(spoilt, jets)[:45]).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-40])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_odd_values_are_finite_or_not_as_in_the_dense_module(bundle, trained, odd, pattern):
    """One odd value in each input in turn, absent jets' inputs included."""
    values, jets = random_events(len(INPUTS) * 20, pattern=pattern)
    values[np.arange(len(values)), np.arange(len(values)) % len(INPUTS)] = odd
    expected = class_probabilities(from_arrays(bundle.network), values, jets)
    found = trained.probabilities(values, jets)
    assert np.array_equal(np.isfinite(found), np.isfinite(expected))
    assert np.isfinite(odd) or not np.isfinite(found).any()
    finite = np.isfinite(expected)
    # Logits of 1e30 leave no room between classes but rounding: all that can be asked is the same winner.
    assert np.abs(found - expected)[finite].max(initial=0.0) < 1e-5


def test_a_poisoned_event_leaves_its_neighbours_alone(trained):
    values, jets = random_events(64, pattern=(True, True))
    clean = trained.probabilities(values, jets)
    values[5, 3], values[20, 30] = np.nan, np.inf
    found = trained.probabilities(values, jets)
    others = np.setdiff1d(np.arange(64), [5, 20])
    assert np.array_equal(found[others], clean[others])
    assert np.isnan(found[[5, 20]]).all()


@pytest.mark.parametrize("n", [0, 1, 7, 8, 15, 16, 17, 1000, 1023, 1024, 1025])
def test_tails(trained, n):
    values, jets = random_events(1100)
    whole = trained.probabilities(values, jets)
    part = trained.probabilities(values[:n], jets[:n])
    assert part.shape == (n, 4)
    assert np.array_equal(part, whole[:n])


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_order_and_chunks_do_not_change_a_bit(bundle, instruction_set):
    try:
        network = NativeNetwork(bundle.network, instruction_set=instruction_set)
    except EngineError as error:
        pytest.skip(str(error))
    values, jets = random_events(5000)
    whole = network.logits(values, jets)
    order = np.random.default_rng(1).permutation(len(values))
    assert np.array_equal(network.logits(values[order], jets[order]), whole[order])
    for chunk in (1, 13, 256, 1024, 3000):
        starts = range(0, 600 if chunk == 1 else len(values), chunk)
        parts = np.concatenate([network.logits(values[i : i + chunk], jets[i : i + chunk]) for i in starts])
        assert np.array_equal(parts, whole[: len(parts)])


def test_avx2_and_avx512_agree_to_the_bit(bundle):
    try:
        wide = NativeNetwork(bundle.network, instruction_set="avx512")
    except EngineError as error:
        pytest.skip(str(error))
    values, jets = random_events(5000)
    assert np.array_equal(
        NativeNetwork(bundle.network, instruction_set="avx2").logits(values, jets), wide.logits(values, jets)
    )


def test_memory_layout_does_not_matter(trained):
    values, jets = random_events(300)
    expected = trained.logits(values, jets)
    unaligned = np.frombuffer(b"x" + values.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(values.shape)
    wide = np.zeros((300, 70), dtype=np.float32)
    wide[:, ::2] = values
    records = np.zeros(300, dtype=[("tag", "i1"), ("values", np.float32, 35)])
    records["values"] = values
    layouts = {
        "by column": np.asfortranarray(values),
        "unaligned": unaligned,
        "strided": wide[:, ::2],
        "odd strides": records["values"],
        "reversed twice": values[::-1].copy()[::-1],
        "float64": values.astype(np.float64),
        "read-only": np.broadcast_to(values, values.shape),
    }
    for name, layout in layouts.items():
        assert np.array_equal(trained.logits(layout, jets), expected), name
    for mask in (np.asfortranarray(jets), jets.astype(np.uint8), jets.astype(np.float32)):
        assert np.array_equal(trained.logits(values, mask), expected)


def test_wrong_shapes_never_reach_the_library(trained):
    values, jets = random_events(10)
    for bad_values, bad_jets in (
        (values[:, :34], jets),
        (values, jets[:9]),
        (values.ravel(), jets),
        (values, jets[:, 0]),
    ):
        with pytest.raises(ValueError, match="expected"):
            trained.probabilities(bad_values, bad_jets)


def foreign(content: bytes) -> bytes:
    """The same library for another processor: e_machine of the ELF header says AArch64."""
    return content[:18] + (183).to_bytes(2, "little") + content[20:]


DAMAGE = {
    "empty": lambda content: b"",
    "text": lambda content: b"not a library",
    "truncated": lambda content: content[: len(content) // 2],
    "foreign": foreign,
    "one bit": lambda content: content[:90000] + bytes([content[90000] ^ 1]) + content[90001:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_libraries_are_refused_by_their_hash(bundle, tmp_path, kind):
    path = tmp_path / "library.so"
    path.write_bytes(DAMAGE[kind](LIBRARY.read_bytes()))
    with pytest.raises(EngineError, match="sha256"):
        NativeNetwork(bundle.network, path)


@pytest.mark.parametrize("kind", ["empty", "text", "foreign"])
def test_libraries_that_do_not_load_are_refused(bundle, tmp_path, kind):
    content = DAMAGE[kind](LIBRARY.read_bytes())
    path = tmp_path / "library.so"
    path.write_bytes(content)
    # The message becomes a flag of every answer, so it must not tell where the user's files are.
    with pytest.raises(EngineError, match=r"cannot be loaded \([^/]*\)"):
        NativeNetwork(bundle.network, path, hashlib.sha256(content).hexdigest())


def test_missing_library_is_refused(bundle, tmp_path):
    with pytest.raises(EngineError, match=r"cannot be loaded \([^/]*'library.so'\)"):
        NativeNetwork(bundle.network, tmp_path / "library.so")


def test_other_version_and_other_parameter_count_are_refused(bundle, monkeypatch):
    monkeypatch.setattr("sage.network.library.VERSION", 7)
    with pytest.raises(EngineError, match="version 4, expected 7"):
        NativeNetwork(bundle.network)
    monkeypatch.undo()
    monkeypatch.setattr("sage.network.native.flatten", lambda arrays: np.zeros(7, dtype=np.float32))
    with pytest.raises(EngineError, match=r"25916 parameters for 35 inputs and .* width 32 with 3 rounds, not 7"):
        NativeNetwork(bundle.network)


def test_committed_library_is_the_stated_one_and_small():
    content = LIBRARY.read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    assert len(content) < 2_000_000


def test_the_submission_carries_the_library():
    assert bundle_files(ROOT)["sage/network/libsage_network.so"] == LIBRARY


def test_needs_no_newer_glibc_than_2_31_and_nothing_else():
    content = LIBRARY.read_bytes()
    versions = {tuple(map(int, pair)) for pair in re.findall(rb"GLIBC_(\d+)\.(\d+)", content)}
    assert versions
    assert max(versions) <= (2, 31)
    needed = set(re.findall(rb"lib[\w+-]+\.so\.\d+", content))
    assert needed <= {b"libc.so.6", b"libm.so.6"}
    assert b"GLIBCXX" not in content
    assert b"pthread" not in content


COMPILERS = [pytest.param(name, marks=[pytest.mark.slow] * (name != "ziglang")) for name in build.COMPILERS]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_built_from_source_it_gives_the_same(bundle, trained, tmp_path, compiler):
    if not build.available(compiler):
        pytest.skip(f"{compiler} is not installed")
    path = tmp_path / "library.so"
    sha256 = build.build(path, compiler)
    values, jets = random_events(4000)
    built = NativeNetwork(bundle.network, path, sha256).logits(values, jets)
    assert np.abs(built - trained.logits(values, jets)).max() < LARGEST_LOGIT_DIFFERENCE
    if compiler == "ziglang" and version("ziglang") == "0.17.1":
        assert sha256 == SHA256, "the committed library was not built from this source; run make kernel"


SANITIZED = """
import sys
import numpy as np
from pathlib import Path
from sage.network.ditau import COLUMNS, NativeDitau
from sage.network.native import NativeNetwork
with np.load(sys.argv[2]) as file:
    arrays = dict(file)
values, jets = arrays.pop("values"), arrays.pop("jets")
out = {}
for name in sys.argv[4:]:
    network = NativeNetwork(arrays, Path(sys.argv[1]), sys.argv[3], name)
    for n in (0, 1, 7, 15, 16, 17, len(values)):
        # Copies, so that a read past the end of an array leaves its allocation.
        out[name] = network.logits(values[:n].copy(), jets[:n].copy())
        network.logits(np.asfortranarray(values[:n]), jets[:n].copy())
        columns = {column: 50 * values[:n, i].copy() for i, column in enumerate(COLUMNS)}
        NativeDitau(Path(sys.argv[1]), sys.argv[3], name)(columns, np.empty((10, n), dtype=np.float32))
np.savez(sys.argv[2], **out)
"""


SANITIZED_ROWS = 1100
"""A little more than the library takes at once."""


@pytest.mark.slow
def test_sanitizers_find_nothing(bundle, trained, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    if not all(Path(path).is_absolute() for path in runtimes):
        pytest.skip("g++ has no sanitizer run-time")
    path = tmp_path / "library.so"
    # Not optimised: compiling is then four times as fast, and no check can be optimised away.
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O0")
    sha256 = build.build(path, "g++", checks)
    values, jets = random_events(SANITIZED_ROWS)
    for row, odd in enumerate([np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38, 1e-40]):
        values[row * 35 : (row + 1) * 35][np.diag_indices(35)] = odd
    np.savez(tmp_path / "events.npz", values=values, jets=jets, **bundle.network)
    names = INSTRUCTION_SETS[1 : INSTRUCTION_SETS.index(trained.instruction_set) + 1]
    run = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(path), str(tmp_path / "events.npz"), sha256, *names],
        cwd=ROOT,
        env={"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "runtime error" not in run.stderr
    with np.load(tmp_path / "events.npz") as file:
        for name in names:
            ordinary = np.arange(SANITIZED_ROWS) >= 7 * 35
            difference = file[name][ordinary] - trained.logits(values, jets)[ordinary]
            assert np.abs(difference).max() < LARGEST_LOGIT_DIFFERENCE
