"""Download of the public data set, against a server on this machine that can break off and resume."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import threading
import zipfile

import pytest

from harness.download import ARCHIVE_NAME, CHUNK, RemoteFile, download, extract, find_archive
from harness.test_set import FILE_NAME, METADATA_NAME
from scripts.get_data import main
from workshop.errors import UsageError


def make_archive(names=(FILE_NAME, METADATA_NAME), content=b"x" * 300_000) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves one archive and its record; ``break_after`` bytes it closes the connection once."""

    def __init__(
        self, content: bytes, break_after: int | None = None, resumes: bool = True, host: str = "127.0.0.1"
    ) -> None:
        super().__init__((host, 0), Handler)
        self.redirect = ""
        self.content, self.break_after, self.resumes = content, break_after, resumes
        self.ranges: list[str | None] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def root(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        if self.path == "/record":
            entry = {
                "key": ARCHIVE_NAME,
                "size": len(server.content),
                "checksum": f"md5:{hashlib.md5(server.content).hexdigest()}",
                "links": {"self": f"{server.root}/archive"},
            }
            self.answer(200, json.dumps({"files": [entry]}).encode())
            return
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        server.ranges.append(self.headers.get("Range"))
        begin = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and server.resumes else 0
        body = server.content[begin:]
        if begin >= len(server.content):
            self.answer(416, b"")
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.break_after is not None:
            body, server.break_after = body[: server.break_after], None
        self.wfile.write(body)
        self.close_connection = True

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def serve():
    servers = []

    def start(*args, **kwargs) -> Server:
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_whole_way(serve, tmp_path, monkeypatch):
    server = serve(make_archive())
    monkeypatch.setattr("harness.download.find_archive", lambda: find_archive(f"{server.root}/record"))
    assert main(["--output", str(tmp_path)]) == 0
    assert (tmp_path / FILE_NAME).read_bytes() == b"x" * 300_000
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([FILE_NAME, METADATA_NAME])
    assert main(["--output", str(tmp_path)]) == 0
    assert len(server.ranges) == 1


@pytest.mark.parametrize("resumes", [True, False])
def test_interrupted_download_goes_on(serve, tmp_path, resumes):
    server = serve(make_archive(), break_after=100_000, resumes=resumes)
    remote = find_archive(f"{server.root}/record")
    target = tmp_path / ARCHIVE_NAME
    with pytest.raises(UsageError, match="same command continues"):
        download(remote, target)
    assert not target.exists()
    download(remote, target)
    assert target.read_bytes() == server.content
    assert server.ranges == [None, f"bytes={CHUNK}-"]


@pytest.mark.parametrize("right", [True, False])
def test_complete_download_of_unknown_size(serve, tmp_path, right):
    """A run that was killed between the last byte and the comparison of hashes asks for what lies behind the end."""
    server = serve(make_archive())
    target = tmp_path / ARCHIVE_NAME
    partial = target.with_name(f"{target.name}.part")
    partial.write_bytes(server.content if right else server.content[:-1] + b"?")
    remote = RemoteFile(f"{server.root}/archive", None, "sha256", hashlib.sha256(server.content).hexdigest())
    if not right:
        with pytest.raises(UsageError, match="it was removed, try again"):
            download(remote, target)
        assert not partial.exists()
    download(remote, target)
    assert target.read_bytes() == server.content
    assert server.ranges[0] == f"bytes={len(server.content)}-"


def test_wrong_hash_is_removed(serve, tmp_path):
    server = serve(make_archive())
    with pytest.raises(UsageError, match="expected 00; it was removed"):
        download(RemoteFile(f"{server.root}/archive", None, "sha256", "00"), tmp_path / ARCHIVE_NAME)
    assert not list(tmp_path.iterdir())


def test_archive_without_the_data_leaves_nothing(tmp_path):
    archive = tmp_path / ARCHIVE_NAME
    archive.write_bytes(make_archive(names=(METADATA_NAME,)))
    with pytest.raises(UsageError, match="holds no"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out" / FILE_NAME).exists()


def test_archive_that_leaves_the_folder_is_refused(tmp_path):
    archive = tmp_path / ARCHIVE_NAME
    archive.write_bytes(make_archive(names=("../evil",)))
    with pytest.raises(UsageError, match="out of the folder"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_no_network_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("harness.download.find_archive", lambda: find_archive("http://127.0.0.1:9/record"))
    assert main(["--output", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.count("without internet access") == 1
    assert "scripts.simulate" in message


def test_plain_http_to_elsewhere_is_refused(tmp_path):
    with pytest.raises(UsageError, match="must be encrypted"):
        download(RemoteFile("http://example.org/a", None, "md5", "0"), tmp_path / "a")


@pytest.mark.parametrize("way", ["there", "there and back"])
def test_redirect_to_plain_http_is_refused(serve, tmp_path, way):
    """The second server is on this machine too, but under an address that counts as elsewhere."""
    server, other = serve(make_archive()), serve(make_archive(), host="127.0.0.2")
    other.redirect = f"{server.root}/archive"
    server.redirect = f"{other.root}/archive" if way == "there" else f"{other.root}/elsewhere"
    digest = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(UsageError, match=f"redirects to {other.root}/.*must be encrypted"):
        download(RemoteFile(f"{server.root}/elsewhere", None, "sha256", digest), tmp_path / "a")
    assert not list(tmp_path.iterdir())
    server.redirect = f"{server.root}/archive"
    download(RemoteFile(f"{server.root}/elsewhere", None, "sha256", digest), tmp_path / "a")


def test_archive_brought_by_hand(tmp_path, capsys):
    content = make_archive()
    (tmp_path / ARCHIVE_NAME).write_bytes(content)
    assert main(["--output", str(tmp_path), "--checksum", "md5:0"]) == 2
    assert "differs" in capsys.readouterr().err
    digest = hashlib.sha256(content).hexdigest()
    assert main(["--output", str(tmp_path), "--checksum", f"sha256:{digest}", "--keep-archive"]) == 0
    assert (tmp_path / FILE_NAME).exists()
    assert (tmp_path / ARCHIVE_NAME).exists()
