"""Weights that are damaged, swapped, absurd or made to do harm: one clear error at construction, at once."""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import json
import os
import shutil
import time
import tracemalloc
import zipfile
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from hypothesis import strategies as st

from model import Model
from sage.binned.regions import QUANTITIES
from sage.binned.score import EFFICIENT_SCORE, SHAPE_SCORES
from sage.errors import WeightsError
from sage.files.bundle import read_bundle
from sage.files.manifest import MANIFEST, REMEDY, signed
from tests.drawing import few_and_many
from tests.events import FIVE_WEIGHTS

FILES = sorted(path.name for path in FIVE_WEIGHTS.glob("*.npz"))
PLACES = 32
TIMES = 5
"""Bound on the time of a refusal, in that of reading the undamaged files."""
BYTES = 100 << 20


@pytest.fixture
def folder(tmp_path):
    """The shipped weights with settings that read all files."""
    target = tmp_path / "weights"
    shutil.copytree(FIVE_WEIGHTS, target)
    edit(target, lambda manifest: manifest["settings"].update(templates="grid"))
    return target


def sign(folder, name):
    """Let the manifest state the hash of what is there, so that the content itself has to be refused."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    write_signed(folder, manifest)


def write_signed(folder, manifest):
    (folder / MANIFEST).write_text(json.dumps(signed(manifest)))


def edit(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    write_signed(folder, manifest)


@contextmanager
def measured():
    """Give a list that gets the time of this process, in s, and the largest memory, in bytes, of what is done."""
    found = []
    began = time.process_time()
    tracemalloc.start()
    try:
        yield found
        found[:] = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@functools.cache
def undamaged():
    """Return how long this machine takes to read all files as they are shipped, in s."""
    times = []
    for _ in range(3):
        with measured() as found:
            read_bundle(FIVE_WEIGHTS, {"templates": "grid"})
        times.append(found[0])
    return min(times)


@contextmanager
def bounded():
    """Bound what is done before the answer is known, also on a slow machine: time of this process, and memory."""
    longest = TIMES * undamaged()
    with measured() as found:
        yield
    assert found[0] < longest
    assert found[1] < BYTES


def refused(folder, match=None):
    """Construct the model; it must refuse, say what to do, and do neither much nor for long before."""
    with bounded(), pytest.raises(WeightsError, match=match) as caught:
        Model(weights=folder)
    text = str(caught.value)
    assert (
        REMEDY in text
        or "one release" in text
        or "convert" in text
        or "rebuild" in text
        or "choose" in text
        or "use one of" in text
    )
    assert "\n" not in text
    assert len(text) < 2000


def test_tables_that_are_not_read_do_no_harm(folder):
    edit(folder, lambda manifest: manifest["settings"].update(templates="smooth"))
    (folder / "tables.npz").write_bytes(b"damaged")
    assert Model(weights=folder).bundle.tables is None


def places(size):
    return np.unique(np.linspace(0, size - 1, PLACES).astype(int)).tolist()


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_truncated_anywhere(folder, name):
    content = (folder / name).read_bytes().rstrip()
    for end in places(len(content)):
        (folder / name).write_bytes(content[:end])
        refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere_under_a_hash_that_agrees(folder, name):
    content = (folder / name).read_bytes()
    for end in places(len(content)):
        (folder / name).write_bytes(content[:end])
        sign(folder, name)
        refused(folder, "archive of plain arrays")


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere(folder, name):
    content = (folder / name).read_bytes()
    for number, place in enumerate(places(len(content))):
        damaged = bytearray(content)
        damaged[place] ^= 1 << number % 8
        (folder / name).write_bytes(damaged)
        refused(folder, "sha256")


def test_one_flipped_bit_anywhere_in_the_manifest(folder):
    """Some last digit of a number and the case of its exponent mean the same; everything else is noticed."""
    content = (folder / MANIFEST).read_bytes()
    same = 0
    for number, place in enumerate(places(len(content.rstrip()))):
        damaged = bytearray(content)
        damaged[place] ^= 1 << number % 8
        (folder / MANIFEST).write_bytes(damaged)
        if parsed(damaged) == ORIGINAL:
            same += 1
            continue
        refused(folder)
    assert same < PLACES / 10


def parsed(content):
    """What JSON says, None if it is none."""
    try:
        return json.loads(content.decode())
    except ValueError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_an_array_is_seen_by_the_archive_itself(folder, name):
    """Compressed data and checksums of the archive; only its time stamps may be wrong without notice."""
    content = (folder / name).read_bytes()
    with zipfile.ZipFile(folder / name) as archive:
        largest = max(archive.infolist(), key=lambda member: member.compress_size)
    for part in (0.1, 0.5, 0.9):
        damaged = bytearray(content)
        damaged[largest.header_offset + 100 + int(part * (largest.compress_size - 100))] ^= 4
        (folder / name).write_bytes(damaged)
        sign(folder, name)
        refused(folder, "archive of plain arrays")


@pytest.mark.parametrize("signed", [False, True])
def test_swapped_files(folder, signed):
    for first, second in zip(FILES, FILES[1:] + FILES[:1], strict=True):
        one, other = (FIVE_WEIGHTS / first).read_bytes(), (FIVE_WEIGHTS / second).read_bytes()
        (folder / first).write_bytes(other)
        (folder / second).write_bytes(one)
        if signed:
            sign(folder, first)
            sign(folder, second)
        refused(folder, "differ from the manifest" if signed else "sha256")
        (folder / first).write_bytes(one)
        (folder / second).write_bytes(other)
        sign(folder, first)
        sign(folder, second)
    Model(weights=folder)


@pytest.mark.parametrize("version", [0, 1, 2, 3, 5, 10**30, "4", None, True, [4]])
def test_other_versions(folder, version):
    edit(folder, lambda m: m.update(format=version))
    refused(folder, "format version")


def shape_of(name, array, shape):
    return lambda m: m["files"][name]["shapes"].update({array: shape})


@pytest.mark.parametrize(
    "shape", [[10**12], [2**63, 2**63], [-1], [], "32", [[32]], None, [3.5], ["x"], [10**30], [0], {"a": 1}]
)
def test_absurd_shapes_in_the_manifest(folder, shape):
    edit(folder, shape_of("network.npz", "deterministic.mixing", shape))
    refused(folder)


def write_npz(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def header(shape, dtype="<f4"):
    """The beginning of an array file that states a shape, whatever follows."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def members(name):
    with zipfile.ZipFile(FIVE_WEIGHTS / name) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


@pytest.mark.parametrize("shape", [(10**12,), (2**31, 2**31, 2**31), (3, 10**9), (-3,), (0, 10**18), (2,), (4,)])
def test_absurd_shapes_in_the_file(folder, shape):
    content = members("network.npz")
    content["deterministic.mixing.npy"] = header(shape) + bytes(12)
    write_npz(folder / "network.npz", content)
    sign(folder, "network.npz")
    refused(folder)
    edit(folder, shape_of("network.npz", "deterministic.mixing", list(shape)))
    refused(folder)


@pytest.mark.parametrize("dtype", ["|O", "<i4", "<f2", ">f4", "<f16", "<c8", "|V4", "<U1", "|b1"])
def test_other_types(folder, dtype):
    content = members("network.npz")
    content["deterministic.mixing.npy"] = header((3,), dtype) + bytes(3 * np.dtype(dtype).itemsize)
    write_npz(folder / "network.npz", content)
    sign(folder, "network.npz")
    refused(folder)


BOMB = 256 << 20


@pytest.mark.parametrize("stated", [False, True], ids=["foreign member", "stated member"])
def test_compressed_bombs_are_not_unpacked(folder, stated):
    content = members("network.npz")
    content["deterministic.mixing.npy" if stated else "more.npy"] = header((BOMB // 4,)) + bytes(BOMB)
    write_npz(folder / "network.npz", content)
    assert (folder / "network.npz").stat().st_size < 1 << 20
    sign(folder, "network.npz")
    refused(folder, "differ from the manifest")


def test_a_size_that_is_a_lie(folder):
    """The table of contents says 140 bytes, the compressed data give more."""
    content = members("network.npz")
    write_npz(folder / "network.npz", content | {"deterministic.mixing.npy": header((3,)) + bytes(10_000_000)})
    data = bytearray((folder / "network.npz").read_bytes())
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        start = 0
        while (start := data.find(signature, start)) >= 0:
            name = data[start + (46 if signature == b"PK\1\2" else 30) :][:24]
            if name == b"deterministic.mixing.npy":
                data[start + offset : start + offset + 4] = (140).to_bytes(4, "little")
            start += 4
    (folder / "network.npz").write_bytes(data)
    sign(folder, "network.npz")
    refused(folder)


@pytest.mark.parametrize("names", [("../../x.npy",), ("/x.npy",), ("deterministic.mixing",), ("x.npy.npy",)])
def test_members_by_other_names(folder, names):
    content = members("network.npz")
    write_npz(folder / "network.npz", content | dict.fromkeys(names, content["deterministic.mixing.npy"]))
    sign(folder, "network.npz")
    refused(folder, "differ from the manifest")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice(folder):
    with zipfile.ZipFile(folder / "network.npz", "a") as archive:
        archive.writestr("deterministic.mixing.npy", header((3,)) + bytes(12))
    sign(folder, "network.npz")
    refused(folder)


@pytest.mark.parametrize("flag", [0x1, 0x20, 0x40])
def test_encrypted_and_patched_members(folder, flag):
    data = bytearray((folder / "network.npz").read_bytes())
    data[6] |= flag
    data[data.index(b"PK\1\2") + 8] |= flag
    (folder / "network.npz").write_bytes(data)
    sign(folder, "network.npz")
    refused(folder)


@pytest.mark.parametrize("method", [1, 9, 12, 14, 99])
def test_other_compression(folder, method):
    data = bytearray((folder / "network.npz").read_bytes())
    data[8] = method
    data[data.index(b"PK\1\2") + 10] = method
    (folder / "network.npz").write_bytes(data)
    sign(folder, "network.npz")
    refused(folder)


@pytest.mark.parametrize("content", [b"", b"PK\5\6" + bytes(18), b"\x80\x04N.", b"\x93NUMPY", header((3,)) + bytes(12)])
def test_no_archive(folder, content):
    (folder / "network.npz").write_bytes(content)
    sign(folder, "network.npz")
    refused(folder)


@pytest.mark.parametrize("name", ["deterministic.mixing", "classes.bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e39])
def test_parameters_that_are_no_finite_float32(folder, name, value):
    content = members("network.npz")
    array = np.load(io.BytesIO(content[f"{name}.npy"])).astype(np.float64)
    array[0] = value
    stream = io.BytesIO()
    np.save(stream, array)
    write_npz(folder / "network.npz", content | {f"{name}.npy": stream.getvalue()})
    sign(folder, "network.npz")
    refused(folder, "finite")


class TestSpecialFiles:
    """Only ordinary files of a bounded size are opened, and only those the code knows."""

    @pytest.mark.parametrize("name", [MANIFEST, "network.npz"])
    def test_folder_pipe_device_and_dead_link(self, folder, name):
        path = folder / name
        path.unlink()
        path.mkdir()
        refused(folder, "cannot be read")
        path.rmdir()
        os.mkfifo(path)
        refused(folder, "cannot be read")
        path.unlink()
        path.symlink_to("/dev/zero")
        refused(folder, "cannot be read")
        path.unlink()
        path.symlink_to(folder / "nowhere")
        refused(folder, "cannot be read")

    @pytest.mark.parametrize("name", [MANIFEST, "network.npz"])
    def test_huge_file(self, folder, name):
        with (folder / name).open("r+b") as stream:
            stream.truncate(4 << 30)
        refused(folder, "bytes, more than")

    @pytest.mark.parametrize("name", ["/dev/zero", "../weights/network.npz", "/etc/passwd", "", "more.npz"])
    def test_other_files_are_not_opened(self, folder, name):
        edit(folder, lambda m: m["files"].update({name: m["files"]["network.npz"]}))
        refused(folder, "files")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format":' * 5000,
        '{"format": 3, "x": NaN}',
        '{"format": 3}',
        '{"format": 3, "files": ' + "9" * 5000 + "}",
        "\ufeff{}",
        "\0",
    ],
    ids=range(7),
)
def test_text_that_is_no_manifest(folder, text):
    (folder / MANIFEST).write_text(text)
    refused(folder)


def test_manifest_that_is_no_text(folder):
    (folder / MANIFEST).write_bytes(b'{"format": 3, "x": "\xff"}')
    refused(folder, "cannot be read as JSON")


def test_many_entries(folder):
    edit(folder, lambda m: m["files"]["network.npz"]["shapes"].update({f"p{i}": [1] for i in range(20_000)}))
    refused(folder, r"states 200\d\d arrays, more than 1000")


def test_a_long_manifest_is_not_read(folder):
    edit(folder, lambda m: m["origin"].update({f"p{i}": [1] for i in range(100_000)}))
    refused(folder, "bytes, more than")


def region(m):
    return m["region_set"]["regions"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["settings"].update(mu_range=["0", "3"]), "mu_range"),
        (lambda m: m["settings"].update(mu_range=[3.0, 0.1]), "mu_range"),
        (lambda m: m["settings"].update(mu_range=[0.1]), "mu_range"),
        (lambda m: m["settings"].update(mu_range=3.0), "mu_range"),
        (lambda m: m["settings"].update(flat_prior=[3.0, 0.1]), "flat_prior"),
        (lambda m: m["settings"].update(flat_prior="wide"), "flat_prior"),
        (lambda m: m["settings"].update(flat_prior=[0.1, 3.0], profile="published"), "flat_prior .*published"),
        (lambda m: m["settings"].update(mu_range=[0.1, 10**400]), "mu_range"),
        (lambda m: m["settings"].update(nuisances=["challenge"]), None),
        (lambda m: m["settings"].update(templates=None), "templates"),
        (lambda m: m.update(settings=None), None),
        (lambda m: m["normalisation"].update(mean=["x"] * 35), None),
        (lambda m: m["normalisation"].update(mean=[[0.0]] * 35), "normalisation"),
        (lambda m: m["normalisation"].update(mean=[1e300] * 35), "normalisation"),
        (lambda m: m["normalisation"].update(std=[1e-300] * 35), "normalisation"),
        (lambda m: m["normalisation"].update(std=[10**400] * 35), None),
        (lambda m: region(m).update(observable="p_tau"), "p_tau"),
        (lambda m: region(m)["cuts"].append(["mass", ">", 1.0]), "mass"),
        (lambda m: region(m)["cuts"].append(["mt", ">", "x"]), None),
        (lambda m: region(m)["cuts"].append(["mt", ">"]), None),
        (lambda m: region(m)["cuts"].append(["mt", ">", None]), None),
        (lambda m: region(m).update(edges=["a", "b"]), None),
        (lambda m: region(m).update(edges=[[0.0, 1.0]]), "increase"),
        (lambda m: region(m).update(edges=[0.5]), "increase"),
        (lambda m: region(m).update(name="CR2"), None),
        (lambda m: region(m).update(name=["CR1"]), None),
        (lambda m: m["region_set"].update(regions=[]), "region"),
        (lambda m: m["region_set"].update(regions={}), "region"),
        (lambda m: m["files"].update({"tables.npz": None}), None),
        (lambda m: m["files"]["tables.npz"].update(sha256=None), "sha256"),
        (lambda m: m["files"].pop("tables.npz"), "files"),
        (lambda m: m.update(files=[]), "files"),
        (lambda m: m.update(inputs=None), None),
        (lambda m: m.update(classes="htautau"), "classes"),
    ],
    ids=range(34),
)
def test_implausible_entries(folder, change, message):
    edit(folder, change)
    refused(folder, message)


def test_every_quantity_may_be_named(folder):
    of_scores = {*SHAPE_SCORES, EFFICIENT_SCORE}
    names = [name for name in QUANTITIES if name not in of_scores]
    edit(folder, lambda m: region(m)["cuts"].extend([name, ">=", 0.0] for name in names))
    assert len(read_bundle(folder).regions.regions[0].cuts) == 2 + len(names)


@pytest.mark.parametrize("name", [*SHAPE_SCORES, EFFICIENT_SCORE])
def test_scores_that_are_not_there_may_not_be_named(folder, name):
    edit(folder, lambda m: region(m)["cuts"].append([name, ">=", 0.0]))
    refused(folder, "has no network of scores" if name in SHAPE_SCORES else "without saying what makes it")


ORIGINAL = json.loads((FIVE_WEIGHTS / MANIFEST).read_text())
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.floats(width=32), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def spots(value, path=()):
    """Every place in a JSON value, as a path of keys."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from spots(item, (*path, key))


SPOTS = [path for path in spots({key: value for key, value in ORIGINAL.items() if key != "origin"}) if path]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A weights folder whose tables are quick to unpack, and its manifest."""
    target = tmp_path_factory.mktemp("scratch") / "weights"
    shutil.copytree(FIVE_WEIGHTS, target)
    with np.load(FIVE_WEIGHTS / "tables.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez_compressed(
        target / "tables.npz", **{name: array if array.ndim == 1 else array * 0 for name, array in arrays.items()}
    )
    sign(target, "tables.npz")
    return target, json.loads((target / MANIFEST).read_text())


def check_entries(scratch, path, value, remove):
    folder, original = scratch
    manifest = copy.deepcopy(original)
    place = manifest
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    write_signed(folder, manifest)
    with suppress(WeightsError):
        Model(weights=folder)


test_any_entry_replaced_is_refused_or_harmless, test_more_entries = few_and_many(
    check_entries,
    (50, 300),
    path=st.sampled_from(SPOTS),
    value=LEAVES,
    remove=st.booleans(),
)


EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4
)
"""Where, how many bytes, and what stands there instead."""


def replaced(content, edits):
    content = bytearray(content)
    for part, length, instead in edits:
        start = int(part * len(content))
        content[start : start + length] = instead
    return bytes(content)


MUTATED = ["network.npz", "response.npz"]


def check_bytes_under_a_hash(scratch, name, edits):
    folder, original = scratch
    write_signed(folder, original)
    try:
        (folder / name).write_bytes(replaced((FIVE_WEIGHTS / name).read_bytes(), edits))
        sign(folder, name)
        with bounded(), suppress(WeightsError):
            Model(weights=folder)
    finally:
        shutil.copy(FIVE_WEIGHTS / name, folder)


test_any_bytes_replaced_under_a_hash_are_refused_or_harmless, test_more_bytes_under_a_hash = few_and_many(
    check_bytes_under_a_hash,
    (60, 400),
    name=st.sampled_from(MUTATED),
    edits=EDITS,
)


def check_bytes(scratch, name, edits):
    folder, original = scratch
    write_signed(folder, original)
    whole = (folder / name).read_bytes()
    content = replaced(whole, edits)
    try:
        (folder / name).write_bytes(content)
        if content == whole or (name == MANIFEST and parsed(content) == parsed(whole)):
            return
        refused(folder)
    finally:
        (folder / name).write_bytes(whole)


test_any_bytes_replaced_are_refused, test_more_bytes = few_and_many(
    check_bytes,
    (50, 300),
    name=st.sampled_from([MANIFEST, *MUTATED]),
    edits=EDITS,
)
