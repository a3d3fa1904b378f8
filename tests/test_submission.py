"""Submissions: unpacking without trust, importing as the official program does, keeping them quiet."""

import collections
import dataclasses
import io
import logging
import re
import shutil
import stat
import sys
import zipfile

import numpy as np
import pytest

from harness import archive
from harness.archive import unpack
from harness.capture import captured_output
from harness.fingerprint import fingerprint
from harness.mapped import POOL_FOLDER
from harness.submission import opened, start
from harness.surroundings import PROGRAM, PROJECT, inside, search_path, surroundings
from harness.test_set import EventFile
from tests import official
from tests.submissions.making import MINIMAL, pack, write
from workshop.errors import SubmissionError, UsageError

COUNTING = official.TESTS / "submissions" / "counting"


@pytest.fixture(scope="module")
def events_folder(tmp_path_factory):
    return official.events_folder(tmp_path_factory.mktemp("events"))


def mutated(content, random):
    """Change some bytes of a zip file, mostly in its table of contents and headers, or cut some out."""
    data = bytearray(content)
    table = content.index(b"PK\1\2")
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(table, len(data)) if random.random() < 0.5 else random.integers(len(data)))
        if random.random() < 0.1:
            del data[place : place + random.integers(1, 6)]
        else:
            data[place] = random.integers(256)
    return bytes(data)


class TestArchive:
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("../model.py", "has '..' in its path, which leads out"),
            ("a/../../model.py", "has '..' in its path, which leads out"),
            ("./../model.py", "has '..' in its path, which leads out"),
            ("/model.py", "has an absolute path, which leads out"),
            ("//model.py", "has an absolute path, which leads out"),
            ("..\\model.py", "has a backslash in its name"),
            ("sage\\model.py", "has a backslash in its name"),
            ("C:/model.py", "has a colon in its name"),
            ("runs/12:30.txt", "has a colon in its name"),
            ("model.py:stream", "has a colon in its name"),
        ],
    )
    def test_names_are_refused_for_what_is_wrong_with_them(self, tmp_path, name, reason):
        path = pack(tmp_path / "s.zip", (name, "x"))
        with pytest.raises(UsageError, match=f"{re.escape(repr(name))} {reason}.*repack") as caught:
            unpack(path, tmp_path)
        assert ("leads out" in str(caught.value)) == ("leads out" in reason)
        assert [entry.name for entry in tmp_path.iterdir()] == ["s.zip"]

    def test_entries_for_the_folder_itself_are_nothing(self, tmp_path):
        path = pack(tmp_path / "s.zip", ("./", ""), ("./model.py", MINIMAL), ("./sub/", ""), ("./sub/tool.py", ""))
        with opened(path) as folder:
            assert (folder / "model.py").read_text() == MINIMAL
            assert (folder / "sub" / "tool.py").is_file()

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is a special file"), (stat.S_IFCHR, "is a special file")],
    )
    def test_links_and_special_files(self, tmp_path, kind, reason):
        member = zipfile.ZipInfo("model.py")
        member.external_attr = (kind | 0o777) << 16
        with pytest.raises(UsageError, match=reason):
            unpack(pack(tmp_path / "l.zip", (member, "/etc/passwd")), tmp_path)

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize(
        ("names", "reason"),
        [
            (("model.py", "model.py"), "'model.py' is there twice"),
            (("model.py", "./model.py"), "'./model.py' is there twice"),
            (("a/b.py", "a"), "'a' is there twice"),
            (("a", "a/b.py"), "'a/b.py' lies in a folder that is there as a file too"),
        ],
    )
    def test_names_that_are_there_twice(self, tmp_path, names, reason):
        with pytest.raises(UsageError, match=reason):
            unpack(pack(tmp_path / "t.zip", *((name, "a") for name in names)), tmp_path)

    @pytest.mark.parametrize("others", [(), ("__MACOSX/mine/._model.py", ".DS_Store"), ("mine/sub/model.py",)])
    def test_one_parent_folder_is_taken_for_the_root(self, tmp_path, caplog, others):
        text = (COUNTING / "model.py").read_text()
        path = pack(tmp_path / "s.zip", ("mine/model.py", text), *((name, "") for name in others))
        with opened(path) as folder:
            assert folder.name == "mine"
            assert (fingerprint(folder) == fingerprint(COUNTING)) == ("mine/sub/model.py" not in others)
        assert not folder.parent.exists()
        assert "mine/ is taken for the root" in caplog.text

    @pytest.mark.parametrize("others", ["README.md", "yours/model.py", "data/x.npy"])
    def test_more_than_a_parent_folder_is_refused(self, tmp_path, others):
        path = pack(tmp_path / "s.zip", ("mine/model.py", MINIMAL), (others, ""))
        with pytest.raises(UsageError, match=r"no model\.py at its root; it is in .*pack the content"), opened(path):
            pass

    def test_limits(self, tmp_path):
        path = pack(tmp_path / "s.zip", ("a", "x" * 600), ("b", "x" * 600))
        for name, value, named in (
            ("members", 1, "2 members, more than 1"),
            ("member_bytes", 500, "has 600 bytes, more than 500"),
            ("total_bytes", 1000, "unpacks to 1200 bytes"),
        ):
            with pytest.raises(UsageError, match=named):
                unpack(path, tmp_path, dataclasses.replace(archive.SUBMISSION, **{name: value}))
        with pytest.raises(UsageError, match="unpacks to more than the 599 bytes"):
            archive._copy(path, "a", io.BytesIO(b"x" * 600), io.BytesIO(), 599, archive.SUBMISSION)

    def test_damaged_and_encrypted(self, tmp_path):
        path = pack(tmp_path / "s.zip", ("model.py", "x" * 100))
        data = bytearray(path.read_bytes())
        data[50] ^= 1
        path.write_bytes(data)
        with pytest.raises(UsageError, match="cannot be unpacked"):
            unpack(path, tmp_path)
        path = pack(tmp_path / "e.zip", ("model.py", "x"))
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\1\2") + 8] |= 1
        path.write_bytes(data)
        with pytest.raises(UsageError, match="is encrypted"):
            unpack(path, tmp_path)

    def test_name_that_is_not_utf_8(self, tmp_path):
        path = pack(tmp_path / "s.zip", ("model.py", "x"), ("ü.py", "x"))
        path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xff\xff"))
        with pytest.raises(UsageError, match=r"cannot be unpacked .*'utf-8' codec.*repack"), opened(path):
            pass

    def test_mutated_zips_are_unpacked_or_refused(self, tmp_path):
        """Whatever is in the file: success or the one exception, and nothing outside of the folder."""
        names = ("model.py", "sage/a.py", "sage/b.py", "weights/ü.npz", "docs/")
        methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED)
        members = [zipfile.ZipInfo(name) for name in names]
        for member, method in zip(members, methods, strict=True):
            member.compress_type = method
        contents = ["" if member.is_dir() else "x = 1\n" * 90 for member in members]
        original = pack(tmp_path / "s.zip", *zip(members, contents, strict=True))
        content, random = original.read_bytes(), np.random.default_rng(4)
        outcomes = collections.Counter()
        for _ in range(300):
            folder = tmp_path / "place" / "folder"
            folder.mkdir(parents=True)
            original.write_bytes(mutated(content, random))
            try:
                unpack(original, folder)
                outcomes["unpacked"] += 1
            except UsageError as error:
                outcomes[type(error.__cause__).__name__] += 1
            assert [path.name for path in folder.parent.iterdir()] == ["folder"]
            shutil.rmtree(folder.parent)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["s.zip"]
        # All kinds of damage were there, and some that does not matter.
        assert {"unpacked", "BadZipFile", "UnicodeDecodeError", "LZMAError", "error", "NoneType"} <= set(outcomes)

    def test_good_zip_has_the_fingerprint_of_its_folder(self, tmp_path):
        path = pack(tmp_path / "s.zip", ("model.py", (COUNTING / "model.py").read_text()))
        with opened(path) as folder:
            assert fingerprint(folder) == fingerprint(COUNTING)
        assert not folder.exists()

    def test_fingerprint_leaves_out_what_runs_put_into_the_folder(self, tmp_path):
        folder = write(tmp_path / "s")
        before = fingerprint(folder)
        for name in (f"earlier/{POOL_FOLDER}/0.npy", "results/run.json"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).touch()
        assert fingerprint(folder, without=folder / "results") == before
        assert fingerprint(folder) != before

    def test_no_submission(self, tmp_path):
        with pytest.raises(UsageError, match="no such submission"), opened(tmp_path / "nothing"):
            pass
        with pytest.raises(UsageError, match=r"no model\.py at its root"), opened(tmp_path):
            pass
        (tmp_path / "text.zip").write_text("x")
        with pytest.raises(UsageError, match="neither a folder nor a zip file"), opened(tmp_path / "text.zip"):
            pass
        write(tmp_path / "folder" / "mine")
        with pytest.raises(UsageError, match="it is in mine/, so give that folder"), opened(tmp_path / "folder"):
            pass


class TestSubmission:
    def test_own_sage_is_imported_and_ours_is_back_afterwards(self, tmp_path):
        import sage.challenge.nuisances as ours

        folder = write(tmp_path / "s", "import sage.nuisances, helper\nfrom tool import VALUE\n" + MINIMAL)
        (folder / "sage").mkdir()
        (folder / "sage" / "__init__.py").touch()
        (folder / "sage" / "nuisances.py").write_text("CHALLENGE = 'theirs'")
        (folder / "helper.py").touch()
        (folder / "tools").mkdir()
        (folder / "tools" / "tool.py").write_text("VALUE = 3")
        (folder / "__pycache__").mkdir()
        path, before = list(sys.path), {name: sys.modules.get(name) for name in ("model", "helper", "tool")}
        with surroundings(folder):
            model = start(folder, None)
            assert sys.path == path
            assert sys.modules["sage.challenge.nuisances"] is ours
            with inside(logging.INFO):
                assert type(model) is sys.modules["model"].Model
                assert sys.modules["model"].sage.nuisances.CHALLENGE == "theirs"
                assert sys.modules["model"].VALUE == 3
                assert sys.path[0] == str(PROGRAM)
                assert sys.path[-3:] == search_path(folder) == [str(folder / name) for name in ("", "sage", "tools")]
                assert str(PROJECT) not in sys.path
        assert sys.path == path
        assert sys.modules["sage.challenge.nuisances"] is ours
        assert {name: sys.modules.get(name) for name in before} == before

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("x = 1", "no class Model"),
            ("class Model: pass", r"no method Model\.fit"),
            ("import no_such_module", r"importing model\.py: ModuleNotFoundError"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            (MINIMAL.replace("get_train_set, systematics", "a"), r"calling Model\(get_train_set=.*TypeError"),
            (MINIMAL.replace("fit(self): pass", "fit(self): 1 / 0"), r"calling fit\(\): ZeroDivisionError"),
        ],
    )
    def test_failures_name_what_was_done(self, tmp_path, text, named):
        folder = write(tmp_path, text)
        with surroundings(folder), pytest.raises(UsageError, match=named) as caught:
            start(folder, None)
        assert isinstance(caught.value, SubmissionError)
        assert ("Traceback" in caught.value.details) == ("model.py has" not in str(caught.value))

    def test_systematics_and_train_set_are_given(self, tmp_path, events_folder):
        text = MINIMAL.replace("systematics): pass", "systematics): self.frame = systematics(get_train_set())")
        folder = write(tmp_path, text)
        with surroundings(folder):
            assert 300 < len(start(folder, EventFile(events_folder)).frame) <= 350

    def test_prints_go_to_the_log(self, caplog, monkeypatch, capfd):
        monkeypatch.setattr(logging.getLogger("sage"), "propagate", True)
        handler = logging.StreamHandler()
        with caplog.at_level(logging.INFO, "sage.harness.model"), captured_output(logging.INFO):
            handler.setStream(sys.stderr)  # as after logging.basicConfig in a submission
            logging.getLogger("sage").addHandler(handler)
            print("one\n", end="")
            print("10 %\rtwo 20 %\r", file=sys.stderr)
            print("left", end="")
        logging.getLogger("sage").removeHandler(handler)
        assert [record.getMessage() for record in caplog.records] == ["one", "two 20 %", "left"]
        assert capfd.readouterr() == ("", "")
