"""Weights: fetched from a server of this test, resumed, checked; bad servers and no network."""

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from nsff.errors import InputError
from nsff.prep import downloads

SCRIPTS = Path(__file__).resolve().parents[2] / "nsff_scripts"
CONTENT = os.urandom(3 * downloads.CHUNK + 17)
BREAK = 2 * downloads.CHUNK  # bytes after which the server hangs up, where it is told to


class Server(http.server.BaseHTTPRequestHandler):
    """/whole sends all; /breaks hangs up in the middle of an answer to a request for all; /missing is not there."""

    def __init__(self, asked: list[str | None], *arguments):
        self.asked = asked
        super().__init__(*arguments)

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        if self.path == "/missing":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:] if wanted or self.path == "/whole" else CONTENT[:BREAK])

    def log_message(self, *_) -> None:
        """Not into the test's output."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[str | None]]]:
    """(address, the ranges that it was asked for)"""
    asked: list[str | None] = []
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, asked))
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http_server.server_port}", asked
    http_server.shutdown()
    http_server.server_close()


def item(url: str, digest: str | None = None) -> downloads.Download:
    return downloads.Download("x", "x.bin", url, digest or hashlib.sha256(CONTENT).hexdigest()[:8], 3.0, "test")


def test_a_file_arrives_once(server, tmp_path):
    address, asked = server
    for _ in range(2):
        downloads.download(item(f"{address}/whole"), tmp_path / "models")
    assert (tmp_path / "models" / "x.bin").read_bytes() == CONTENT
    assert asked == [None]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    address, asked = server
    with pytest.raises(InputError, match="cannot be fetched"):
        downloads.download(item(f"{address}/breaks"), tmp_path)
    assert not (tmp_path / "x.bin").exists()
    downloads.download(item(f"{address}/breaks"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert asked == [None, f"bytes={BREAK}-"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_all_of_it_was_there_already(server, tmp_path):
    (tmp_path / ".x.bin.partial").write_bytes(CONTENT)
    downloads.download(item(f"{server[0]}/whole"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_wrong_file_is_deleted_and_named(server, tmp_path):
    with pytest.raises(InputError, match=r"not x\.bin \(its SHA-256 differs\); it was deleted"):
        downloads.download(item(f"{server[0]}/whole", "00000000"), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_file_of_the_user_is_left_alone(server, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "x.bin").write_bytes(b"my own")
    downloads.download(item(f"{server[0]}/whole"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == b"my own"
    assert "not the published file; it is used as it is" in caplog.text
    assert server[1] == []


@pytest.mark.parametrize("url", ["{server}/missing", "http://127.0.0.1:9/x.bin"])
def test_without_network_one_line(url, server, tmp_path):
    with pytest.raises(InputError, match=r"cannot be fetched .* put the file at .*x\.bin by hand"):
        downloads.download(item(url.format(server=server[0])), tmp_path / "models")
    assert not any((tmp_path / "models").iterdir())


def test_the_list_names_all():
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "download_models.py", *arguments]
        return subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, timeout=100, check=False)

    out = run("--list")
    assert out.returncode == 0
    assert [line.split()[0] for line in out.stdout.splitlines()] == [
        "raft", "raft_small", "midas", "midas21", "maskrcnn", "lpips"
    ]  # fmt: skip
    assert run("--only", "nothing").returncode == 2
