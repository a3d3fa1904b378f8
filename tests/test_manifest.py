"""The reader of the weights folder refuses whatever is not what the manifest says."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil

import numpy as np
import pytest

from sage.binned.tables import GRID
from sage.errors import WeightsError
from sage.files.bundle import read_bundle
from sage.files.manifest import FORMAT, MANIFEST, describe_regions, signed
from sage.files.settings import DEFAULT_SETTINGS
from sage.measurement import likelihood_of
from scripts import convert_weights
from tests.events import FIVE_WEIGHTS


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "weights"
    shutil.copytree(FIVE_WEIGHTS, target)
    return target


def read_whole(folder):
    """Read a folder with the tables, which the shipped settings do not choose."""
    return read_bundle(folder, {"templates": "grid"})


def edit_manifest(folder, change):
    """Change a manifest and let it state its new checksum, so that only the content is wrong."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(signed(manifest)))


def edit_arrays(folder, name, change):
    """Change arrays and let the manifest agree, so that only the content is wrong."""
    with np.load(folder / name) as archive:
        arrays = {key: archive[key] for key in archive.files}
    change(arrays)
    np.savez(folder / name, **arrays)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    shapes = {key: list(array.shape) for key, array in arrays.items()}
    edit_manifest(folder, lambda m: m["files"].update({name: {"sha256": digest, "shapes": shapes}}))


def test_the_shipped_bundle_is_accepted_and_consistent():
    bundle = read_whole(FIVE_WEIGHTS)
    assert bundle.tables.yields.shape == (*GRID, 4, bundle.regions.n_bins)
    manifest = json.loads((FIVE_WEIGHTS / MANIFEST).read_text())
    assert describe_regions(bundle.regions) == manifest["region_set"]
    total = bundle.tables.terms((1.0, 1.0, 0.0))[0].sum(axis=1)
    # Yields after the selection, arXiv:2410.02867 and the published analysis of the public data set.
    np.testing.assert_allclose(total, [966.0, 901137.5, 41283.4, 3433.5], rtol=0.05)


def test_missing_folder_and_missing_file(folder):
    with pytest.raises(WeightsError, match=r"manifest\.json: cannot be read"):
        read_whole(folder / "nowhere")
    (folder / "tables.npz").unlink()
    with pytest.raises(WeightsError, match=r"tables\.npz: cannot be read"):
        read_whole(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"'])
def test_manifest_that_is_no_manifest(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(WeightsError, match="manifest"):
        read_bundle(folder)


@pytest.mark.parametrize("version", [2, 99])
def test_unknown_version(folder, version):
    edit_manifest(folder, lambda m: m.update(format=version))
    expected = f"format version {version}, this code reads version {FORMAT}; use weights and code of one release"
    with pytest.raises(WeightsError, match=expected):
        read_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["normalisation"]["mean"].__setitem__(0, m["normalisation"]["mean"][0] + 1e-9),
        lambda m: m["settings"].update(simulation_uncertainty=False),
        lambda m: m["region_set"]["class_weights"].reverse(),
        lambda m: m["origin"].update(seed=0),
        lambda m: m.update(more=1),
        lambda m: m.update(sha256="0" * 64),
        lambda m: m.pop("sha256"),
    ],
)
def test_a_manifest_that_was_changed_is_refused_with_a_way_to_choose_settings(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match=r"sha256 of its content is [0-9a-f]{64}, .*scripts.make_submission --set"):
        read_bundle(folder)


def test_the_checksum_is_of_the_content_whatever_the_layout(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(dict(sorted(manifest.items())), indent=7))
    read_bundle(folder)
    content = {"b": [1, 0.5, "\u00b5"], "a": None}
    expected = hashlib.sha256(b'{"a":null,"b":[1,0.5,"\\u00b5"]}').hexdigest()
    assert signed(content) == content | {"sha256": expected}
    assert signed(signed(content)) == signed(content)
    assert "sha256" not in content


@pytest.mark.parametrize("key", ["inputs", "classes", "settings", "normalisation", "region_set", "origin", "files"])
def test_missing_entry(folder, key):
    edit_manifest(folder, lambda m: m.pop(key))
    with pytest.raises(WeightsError, match=key):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["network.npz", "tables.npz"])
def test_one_flipped_bit_and_truncation(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(WeightsError, match="sha256"):
        read_whole(folder)
    (folder / name).write_bytes(content[:100])
    with pytest.raises(WeightsError, match="sha256"):
        read_whole(folder)


def test_right_hash_of_something_that_is_no_archive(folder):
    (folder / "network.npz").write_bytes(b"not an archive")
    digest = hashlib.sha256(b"not an archive").hexdigest()
    edit_manifest(folder, lambda m: m["files"]["network.npz"].update(sha256=digest))
    with pytest.raises(WeightsError, match="not an archive of plain arrays"):
        read_bundle(folder)


def test_pickled_objects_are_refused(folder):
    np.savez(folder / "network.npz", a=np.array([{"x": 1}], dtype=object))
    digest = hashlib.sha256((folder / "network.npz").read_bytes()).hexdigest()
    edit_manifest(folder, lambda m: m["files"].update({"network.npz": {"sha256": digest, "shapes": {"a": [1]}}}))
    with pytest.raises(WeightsError, match="plain arrays"):
        read_bundle(folder)


def test_shapes_that_differ_from_the_manifest(folder):
    edit_manifest(folder, lambda m: m["files"]["tables.npz"]["shapes"].update(tes=[18]))
    with pytest.raises(WeightsError, match="differ from the manifest"):
        read_whole(folder)


def region_key(arrays):
    return next(key for key in arrays if key.startswith("yields_"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[region_key(a)].__setitem__((0, 0, 0, 0, 0), np.nan), "finite"),
        (lambda a: a[region_key(a)].__setitem__((0, 0, 0, 0, 0), -1.0), "negative yields"),
        (lambda a: a.update(tes=a["tes"][::-1].copy()), "increasing"),
        (lambda a: a.update({region_key(a): a[region_key(a)][..., :0]}), "shape"),
        (lambda a: a.update({region_key(a): np.ones(a[region_key(a)].shape, dtype=np.int64)}), "floating point"),
        (lambda a: a.pop(region_key(a)), "missing"),
    ],
)
def test_implausible_tables(folder, change, message):
    edit_arrays(folder, "tables.npz", change)
    with pytest.raises(WeightsError, match=message):
        read_whole(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["region_set"]["regions"][0].update(edges=[0.0, 0.5, 0.5, 1.0]), "must increase"),
        (lambda m: m["region_set"].update(class_weights=[1.0, 1.0, 0.0, 1.0]), "class_weights must be 4 positive"),
        (lambda m: m["region_set"].update(class_weights=[1.0]), "class_weights must be 4 positive"),
        (lambda m: m["region_set"]["regions"][0].update(cuts=[["mt", "~", 1.0]]), "operator"),
        (lambda m: m["normalisation"].update(std=[0.0] * 35), "positive deviations"),
        (lambda m: m.update(inputs=m["inputs"][::-1]), "inputs"),
        (lambda m: m["settings"].update(nuisances="official"), "unknown nuisance variant"),
    ],
)
def test_implausible_manifest(folder, change, message):
    edit_manifest(folder, change)
    with pytest.raises(WeightsError, match=message):
        read_bundle(folder)


def test_every_message_ends_with_a_way_out(folder):
    (folder / "network.npz").unlink()
    with pytest.raises(WeightsError, match="build the weights again or take them from a release"):
        read_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"nuisances": "none"},
        {"templates": "cubic"},
        {"profile": "slow"},
        {"toy_interval": "posterior"},
        {"simulation_uncertainty": "no"},
        {"time_limit": 0},
        {"time_limit": -1.0},
        {"time_limit": True},
        {"time_limit": "18"},
        {"time_limit": float("nan")},
        {"time_limit": float("inf")},
        {"template": "grid"},
        {"mu_range": [3.0, 0.1]},
        {"thresholds": {"mu": [0.0, 1.0], "delta_nll": [0.5]}},
        {"thresholds": {"mu": [0.0, 1.0], "delta_nll": [0.5, -0.5]}},
        {"thresholds": {"mu": [1.0, 0.0], "delta_nll": [0.5, 0.5]}},
    ],
)
def test_settings_that_are_none(folder, change):
    edit_manifest(folder, lambda m: m["settings"].update(change))
    with pytest.raises(WeightsError, match=next(iter(change)).rstrip("s")):
        read_bundle(folder)


def test_a_manifest_may_leave_settings_out(folder):
    edit_manifest(folder, lambda m: m.update(settings={"nuisances": "challenge"}))
    assert read_bundle(folder).settings == DEFAULT_SETTINGS | {"nuisances": "challenge"}
    assert DEFAULT_SETTINGS["time_limit"] == 18.0


def test_tables_are_read_only_where_the_settings_choose_them(folder):
    whole = read_whole(folder)
    assert whole.templates is whole.tables
    (folder / "tables.npz").unlink()
    bundle = read_bundle(folder)
    assert bundle.tables is None
    assert bundle.templates is bundle.response
    edit_manifest(folder, lambda m: m["settings"].update(templates="grid"))
    with pytest.raises(WeightsError, match=r"tables\.npz: cannot be read"):
        read_bundle(folder)


def test_the_likelihood_follows_the_settings(folder):
    for chosen in (False, True):
        edit_manifest(folder, lambda m, chosen=chosen: m["settings"].update(simulation_uncertainty=chosen))
        bundle = read_bundle(folder)
        used = likelihood_of(np.zeros(bundle.regions.n_bins), bundle).statistic.variance
        assert used.any() == chosen
        np.testing.assert_allclose(used, bundle.variances.sum(axis=0) if chosen else 0.0)


def before(folder):
    """Turn a weights folder into one of the format before, with the names it had: the conversion undone by hand."""

    def change(manifest):
        del manifest["method"]
        manifest["format"] = 3
        manifest["settings"]["calibration"] = manifest["settings"].pop("rebuilding")
        manifest["settings"] |= {"nuisances": "seed", "profile": "seed"}
        manifest["region_set"]["name"] = "seed"
        manifest["origin"]["config"]["tables"]["region_set"] = "seed"
        manifest["origin"]["config"]["measurement"]["nuisances"] = "seed"

    edit_manifest(folder, change)
    return folder


def convert(weights, output, *more):
    return convert_weights.main(["--weights", str(weights), "--output", str(output), *more])


def test_weights_of_the_format_before_name_the_command_that_converts_them(folder, tmp_path, capsys):
    shipped = json.loads((folder / MANIFEST).read_text())
    old, new = before(folder), tmp_path / "new"
    content = {path.name: path.read_bytes() for path in old.iterdir()}
    with pytest.raises(WeightsError) as caught:
        read_bundle(old)
    message = str(caught.value)
    assert "format version 3, this code reads version 4; convert it: " in message
    command = message.partition("convert it: ")[2]
    assert command == f"python -m scripts.convert_weights --weights {old} --output NEW"
    assert convert_weights.main(shlex.split(command.replace("NEW", str(new)))[3:]) == 0
    assert f"written {new}" in capsys.readouterr().out

    renamed = {"nuisances": "published", "profile": "published"}
    expected = {**shipped, "settings": shipped["settings"] | renamed}
    expected["region_set"]["name"] = expected["origin"]["config"]["tables"]["region_set"] = "published"
    expected["origin"]["config"]["measurement"]["nuisances"] = "published"
    assert json.loads((new / MANIFEST).read_text()) == signed(expected)
    assert read_whole(new).settings["rebuilding"] == shipped["settings"]["rebuilding"]
    for name in shipped["files"]:
        assert (new / name).read_bytes() == content[name]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == content


def test_a_conversion_undone_and_done_gives_the_shipped_manifest(folder, tmp_path):
    def change(manifest):
        del manifest["method"]
        manifest["format"] = 3
        manifest["settings"]["calibration"] = manifest["settings"].pop("rebuilding")

    edit_manifest(folder, change)
    assert convert(folder, tmp_path / "new") == 0
    assert json.loads((tmp_path / "new" / MANIFEST).read_text()) == json.loads((FIVE_WEIGHTS / MANIFEST).read_text())
    assert convert(folder, tmp_path / "trees", "--method", "boosted_trees") == 0
    assert read_bundle(tmp_path / "trees").method == "boosted_trees"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.copy(FIVE_WEIGHTS / MANIFEST, f / MANIFEST), "there is nothing to convert"),
        (lambda f: edit_manifest(f, lambda m: m.update(format=2)), "format version 2, this code reads version 3"),
        (lambda f: edit_manifest(f, lambda m: m["settings"].update(mode="x")), "unknown setting 'mode'"),
        (lambda f: edit_manifest(f, lambda m: m.update(settings=[])), "an entry is missing or cannot be used"),
        (lambda f: edit_manifest(f, lambda m: m["origin"].pop("config")), "an entry is missing or cannot be used"),
        (lambda f: (f / MANIFEST).write_text((f / MANIFEST).read_text().replace("seed", "sees")), "sha256"),
        (lambda f: flip(f / "tables.npz"), "tables.npz: sha256"),
        (lambda f: (f / "network.npz").unlink(), "network.npz: cannot be read"),
        (lambda f: shutil.rmtree(f), "no such folder"),
    ],
)
def test_weights_that_cannot_be_converted_leave_one_line_and_no_folder(folder, tmp_path, spoil, message, capsys):
    spoil(before(folder))
    assert convert(folder, tmp_path / "new") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "new").exists()


def test_weights_are_never_written_over(folder, tmp_path, capsys):
    old = before(folder)
    shutil.copytree(FIVE_WEIGHTS, tmp_path / "new")
    for output in (old, tmp_path / "new"):
        assert convert(old, output) == 2
        assert f"error: {output} holds a manifest.json already" in capsys.readouterr().err
    assert (tmp_path / "new" / MANIFEST).read_bytes() == (FIVE_WEIGHTS / MANIFEST).read_bytes()
