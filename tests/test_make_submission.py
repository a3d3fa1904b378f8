"""The zip file: complete, reproducible, and nothing else in it."""

import hashlib
import json
import os
import stat
import sys
import zipfile
from pathlib import PurePosixPath

import pytest

from harness.fingerprint import fingerprint
from harness.submission import opened
from sage.files.bundle import read_bundle
from sage.files.manifest import MANIFEST, signed
from scripts import make_submission
from tests.conftest import ROOT
from tests.test_house import OFFICIAL_MODULES
from workshop.errors import UsageError


@pytest.fixture
def checkout(tmp_path):
    """A small project with everything that belongs into the zip, and much that does not."""
    root = tmp_path / "checkout"
    weights = {"network.npz": b"weights" * 50, "tables/yields.npz": b"tables"}
    files = {
        "model.py": b"from sage import x\nclass Model: pass\n",
        "sage/__init__.py": b"x = 1\n",
        "sage/network/graph.py": b"",
        "sage/kernel.so": b"\x7fELF",
        "weights/unlisted.npz": b"old",
        "sage/__pycache__/graph.pyc": b"",
        "sage/notes.txt": b"",
        "tests/test_x.py": b"",
        ".git/config": b"",
        "sage/sub/more.py": b"",
    }
    files |= {f"weights/{name}": content for name, content in weights.items()}
    manifest = {"files": {name: {"sha256": hashlib.sha256(data).hexdigest()} for name, data in weights.items()}}
    files["weights/manifest.json"] = json.dumps(manifest).encode()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def make(checkout, output, capsys):
    assert make_submission.main(["--root", str(checkout), "--output", str(output)]) == 0
    return capsys.readouterr().out


def test_contents(checkout, tmp_path, capsys):
    output = tmp_path / "build" / "s.zip"
    printed = make(checkout, output, capsys)
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "model.py",
            "sage/__init__.py",
            "sage/kernel.so",
            "sage/network/graph.py",
            "sage/sub/more.py",
            "weights/manifest.json",
            "weights/network.npz",
            "weights/tables/yields.npz",
        ]
        for entry in archive.infolist():
            assert archive.read(entry) == (checkout / entry.filename).read_bytes()
            assert entry.external_attr >> 16 == stat.S_IFREG | 0o644
    data = output.read_bytes()
    assert f"size    {len(data)} bytes" in printed
    assert f"sha256  {hashlib.sha256(data).hexdigest()}" in printed
    assert "files   8" in printed


def test_twice_the_same(checkout, tmp_path, capsys):
    make(checkout, tmp_path / "1.zip", capsys)
    for path in checkout.rglob("*"):  # as after a fresh clone by somebody else
        os.utime(path, (1.5e9, 1.5e9))
        if path.is_file():
            path.chmod(0o600)
    make(checkout, tmp_path / "2.zip", capsys)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_too_large(checkout, tmp_path, capsys, monkeypatch):
    size = len(make_submission.build(checkout)[0])
    monkeypatch.setattr(make_submission, "LARGEST", size)
    make(checkout, tmp_path / "s.zip", capsys)
    monkeypatch.setattr(make_submission, "LARGEST", size - 1)
    assert make_submission.main(["--root", str(checkout), "--output", str(tmp_path / "more.zip")]) == 2
    error = capsys.readouterr().err
    assert f"has {size} bytes, more than the {size - 1}" in error
    assert "weights/network.npz (350 bytes)" in error
    assert not (tmp_path / "more.zip").exists()


def test_the_submission_itself(tmp_path, capsys):
    """What is uploaded: small, the same each time, ordinary files only, and no module hides another."""
    assert make_submission.LARGEST == 100e6
    make(ROOT, tmp_path / "1.zip", capsys)
    make(ROOT, tmp_path / "2.zip", capsys)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert (tmp_path / "1.zip").stat().st_size < 100e6
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        entries = archive.infolist()
    paths = [PurePosixPath(entry.filename) for entry in entries]
    assert PurePosixPath("model.py") in paths
    assert len(set(paths)) == len(paths)
    assert all(stat.S_ISREG(entry.external_attr >> 16) and not entry.is_dir() for entry in entries)
    assert not any(path.is_absolute() or ".." in path.parts or "\\" in str(path) for path in paths)
    # Codabench puts the root and each of its folders on the search path, behind its own programs.
    modules = {path.name.partition(".")[0] for path in paths if path.suffix in (".py", ".so") and len(path.parts) < 3}
    modules |= {path.parts[0] for path in paths if len(path.parts) > 1}
    assert {"model", "sage", "weights", "likelihood"} <= modules
    assert not (modules - {"__init__"}) & (OFFICIAL_MODULES | set(sys.stdlib_module_names))


def test_zip_and_checkout_have_the_same_fingerprint(checkout, tmp_path, capsys):
    make(checkout, tmp_path / "s.zip", capsys)
    with opened(tmp_path / "s.zip") as folder:
        assert fingerprint(folder) == fingerprint(checkout)
    (checkout / "sage" / "graph.py").write_text("y = 2\n")
    with opened(tmp_path / "s.zip") as folder:
        assert fingerprint(folder) != fingerprint(checkout)


BAD_MANIFESTS = {
    "{": "not a manifest",
    "[]": "not a manifest",
    '{"files": {"network.npz": {}}}': "not a manifest",
    '{"files": {}}': "lists no files",
    '{"files": {"../model.py": {"sha256": "0"}}}': "leads out of the folder",
    '{"files": {"gone.npz": {"sha256": "0"}}}': "gone.npz is missing",
    '{"files": {"network.npz": {"sha256": "0"}}}': "has sha256",
    '{"files": {"network.npz": {"sha256": "0"}}, "sha256": "0"}': "differs from the sha256 that it states",
}


@pytest.mark.parametrize("text", BAD_MANIFESTS)
def test_bad_manifests(checkout, tmp_path, capsys, text):
    (checkout / "weights" / "manifest.json").write_text(text)
    assert make_submission.main(["--root", str(checkout), "--output", str(tmp_path / "s.zip")]) == 2
    assert BAD_MANIFESTS[text] in capsys.readouterr().err
    assert not (tmp_path / "s.zip").exists()


@pytest.mark.parametrize("name", ["model.py", "weights/manifest.json", "weights/network.npz", "sage/__init__.py"])
def test_missing_files(checkout, tmp_path, capsys, name):
    (checkout / name).unlink()
    assert make_submission.main(["--root", str(checkout), "--output", str(tmp_path / "s.zip")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    with pytest.raises(UsageError):
        make_submission.build(checkout)


def packed_manifest(output):
    with zipfile.ZipFile(output) as archive:
        return json.loads(archive.read(f"weights/{MANIFEST}"))


def test_settings_go_into_the_zip_signed_and_nowhere_else(tmp_path, capsys):
    before = (ROOT / "weights" / MANIFEST).read_bytes()
    output = tmp_path / "s.zip"
    given = ["--set", "simulation_uncertainty=false", "--set", 'templates="grid"', "--set", "mu_range=[0.1, 3]"]
    assert make_submission.main([*given, "--output", str(output)]) == 0
    assert (ROOT / "weights" / MANIFEST).read_bytes() == before
    original, found = json.loads(before), packed_manifest(output)
    expected = original["settings"] | {"simulation_uncertainty": False, "templates": "grid", "mu_range": [0.1, 3]}
    assert found == signed(original | {"settings": expected})
    with opened(output) as folder:
        bundle = read_bundle(folder / "weights")
        assert bundle.settings.items() >= expected.items()
        assert bundle.templates is bundle.tables
        assert fingerprint(folder) != fingerprint(ROOT)


BAD_SETTINGS = {
    "simulation_uncertainty": "not NAME=VALUE",
    "templates=grid": "not NAME=VALUE",
    'template="grid"': "unknown setting 'template'; choose one of",
    'templates="cubic"': "unknown templates 'cubic'; choose one of",
    "mu_range=[3, 0.1]": "give two increasing numbers",
    "thresholds=3": "cannot be used",
    'thresholds={"mu": [1]}': "cannot be used: KeyError('delta_nll')",
    "time_limit=0": "choose a positive number of seconds",
    "time_limit=NaN": "choose a positive number of seconds",
    'rebuilding={"mod": 1}': "'mod'",
}


@pytest.mark.parametrize("text", BAD_SETTINGS)
def test_settings_that_are_none(tmp_path, capsys, text):
    given = ["--set", text, "--output", str(tmp_path / "s.zip")]
    try:
        code = make_submission.main(given)
    except SystemExit as error:  # what the parser refuses
        code = error.code
    assert code == 2
    assert BAD_SETTINGS[text] in capsys.readouterr().err
    assert not (tmp_path / "s.zip").exists()


def test_settings_of_weights_that_are_damaged(checkout, tmp_path, capsys):
    """They are read and checked as a whole, which weights without settings do not pass."""
    given = ["--root", str(checkout), "--set", "simulation_uncertainty=false", "--output", str(tmp_path / "s.zip")]
    assert make_submission.main(given) == 2
    assert "format version None" in capsys.readouterr().err
