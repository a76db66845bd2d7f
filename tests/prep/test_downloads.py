"""Downloads of weights from a local server: checked, never partial; errors of servers and connections."""

import functools
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import download_models
import pytest
from nsff.errors import InputError, UsageError
from nsff.prep import downloads

CONTENT = os.urandom(300_017)


class Server(http.server.BaseHTTPRequestHandler):
    """/whole sends the file; /truncated closes the connection halfway; other paths are missing."""

    def __init__(self, requests: list[str], *arguments):
        self.requests = requests
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path not in ("/whole", "/truncated"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of the server, and the paths requested from it."""
    requests: list[str] = []
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, requests))
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http_server.server_port}", requests
    http_server.shutdown()
    http_server.server_close()


def item(url: str, digest: str | None = None) -> downloads.Download:
    return downloads.Download("x", "x.bin", url, digest or hashlib.sha256(CONTENT).hexdigest()[:8], 3.0, "test")


def test_download_existing_file_is_not_requested_again(server, tmp_path):
    address, requests = server
    for _ in range(2):
        downloads.download(item(f"{address}/whole"), tmp_path / "models")
    assert (tmp_path / "models" / "x.bin").read_bytes() == CONTENT
    assert requests == ["/whole"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["x.bin"]


@pytest.mark.parametrize(("path", "digest"), [("whole", "00000000"), ("truncated", None)])
def test_download_wrong_digest_is_refused_and_leaves_no_file(path, digest, server, tmp_path):
    with pytest.raises(InputError, match=r"/(whole|truncated) gave a file that is not x\.bin .*; run download_models"):
        downloads.download(item(f"{server[0]}/{path}", digest), tmp_path)
    assert not any(tmp_path.iterdir())


def test_download_truncated_then_repeated_gives_whole_file(server, tmp_path):
    with pytest.raises(InputError, match="connection broke off"):
        downloads.download(item(f"{server[0]}/truncated"), tmp_path)
    downloads.download(item(f"{server[0]}/whole"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_download_keeps_other_file_of_user_with_note(server, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "x.bin").write_bytes(b"my own")
    downloads.download(item(f"{server[0]}/whole"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == b"my own"
    assert "not the published file; used as it is" in caplog.text
    assert server[1] == []


@pytest.mark.parametrize("url", ["{server}/missing", "http://127.0.0.1:9/x.bin"])
def test_download_unreachable_file_is_one_clear_error(url, server, tmp_path):
    with pytest.raises(InputError, match=r"cannot be downloaded .* put the file at .*x\.bin") as error:
        downloads.download(item(url.format(server=server[0])), tmp_path / "models")
    assert "\n" not in str(error.value)
    assert not any((tmp_path / "models").iterdir())


def test_download_models_list_names_all_files(capsys):
    download_models.main(["--list"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["raft", "raft_small", "midas", "midas21", "maskrcnn", "lpips"]


def test_download_models_unknown_name_lists_names():
    with pytest.raises(UsageError, match=r"--only nothing is unknown; choose from raft, raft_small, midas"):
        download_models.main(["--only", "nothing"])


def test_download_models_default_folder_is_beside_scripts():
    scripts = Path(download_models.__file__).resolve().parent
    assert scripts / "models" == downloads.MODELS
    assert downloads.MODELS.is_dir()
