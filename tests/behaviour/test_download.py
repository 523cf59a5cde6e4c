"""Downloads from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.sources import download as module
from data.sources.download import Remote, download
from harness.api import DataError

CONTENT = bytes(range(256)) * 400
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    ranges = True
    cut_first = False
    seen: list[str | None] = []

    def do_GET(self):
        if self.path != "/file":
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.seen.append(asked)
        start = int(asked[6:-1]) if asked and self.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if type(self).cut_first:
            type(self).cut_first = False
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    Handler.ranges, Handler.cut_first, Handler.seen = True, False, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_file_is_fetched_once(server, tmp_path):
    remote = Remote(f"{server}/file", "sub/file", CHECKSUM)
    assert download(remote, tmp_path).read_bytes() == CONTENT
    download(remote, tmp_path)
    assert Handler.seen == [None]


def test_a_cut_off_download_goes_on_where_it_stopped(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert download(Remote(f"{server}/file", "file", CHECKSUM), tmp_path).read_bytes() == CONTENT
    assert Handler.seen == ["bytes=1000-"]


def test_a_connection_lost_halfway_is_resumed_within_the_call(server, tmp_path):
    Handler.cut_first = True
    assert download(Remote(f"{server}/file", "file", CHECKSUM), tmp_path).read_bytes() == CONTENT
    assert len(Handler.seen) == 2
    assert Handler.seen[1] is not None


def test_a_complete_part_is_taken(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download(Remote(f"{server}/file", "file", CHECKSUM), tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole(server, tmp_path):
    Handler.ranges = False
    (tmp_path / "file.part").write_bytes(b"old")
    assert download(Remote(f"{server}/file", "file", CHECKSUM), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_told_and_nothing_is_kept(server, tmp_path):
    with pytest.raises(DataError, match="sha256 is"):
        download(Remote(f"{server}/file", "file", "sha256:" + "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_names_the_address_and_the_way_out(server, tmp_path):
    with pytest.raises(DataError, match=r"/nothing answered 404.*save it as"):
        download(Remote(f"{server}/nothing", "file"), tmp_path)


def test_an_unreachable_host_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with pytest.raises(DataError, match="could not be fetched"):
        download(Remote("http://127.0.0.1:9/file", "file"), tmp_path)
