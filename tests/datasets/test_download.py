"""Downloads from a server on this machine."""

from __future__ import annotations

import errno
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shalabench.api import DataError
from shalabench.datasets import cub, polymnist
from shalabench.datasets.sources import download as module
from shalabench.datasets.sources import mnist, svhn, turns
from shalabench.datasets.sources.download import NO_CHECKSUM, Remote, download
from shalabench.datasets.sources.turns import take_turn

CONTENT = bytes(range(256)) * 400
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
NOBODY = "http://127.0.0.1:9/file"


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
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
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
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_file_is_fetched_once(server, tmp_path):
    remote = Remote((f"{server}/file",), "sub/file", CHECKSUM)
    assert download(remote, tmp_path).read_bytes() == CONTENT
    download(remote, tmp_path)
    assert Handler.seen == [None]


def test_a_cut_off_download_goes_on_where_it_stopped(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert download(Remote((f"{server}/file",), "file", CHECKSUM), tmp_path).read_bytes() == CONTENT
    assert Handler.seen == ["bytes=1000-"]


def test_a_connection_lost_halfway_is_resumed_within_the_call(server, tmp_path):
    Handler.cut_first = True
    assert download(Remote((f"{server}/file",), "file", CHECKSUM), tmp_path).read_bytes() == CONTENT
    assert len(Handler.seen) == 2
    assert Handler.seen[1] is not None


def test_a_complete_part_is_taken(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download(Remote((f"{server}/file",), "file", CHECKSUM), tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole(server, tmp_path):
    Handler.ranges = False
    (tmp_path / "file.part").write_bytes(b"old")
    assert download(Remote((f"{server}/file",), "file", CHECKSUM), tmp_path).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_fetched_anew(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert (
        download(Remote((f"{server}/file",), "file", NO_CHECKSUM), tmp_path).read_bytes() == CONTENT
    )


def test_another_mirror_goes_on_where_the_first_fails(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    urls = (NOBODY, f"{server}/nothing", f"{server}/file")
    assert download(Remote(urls, "file", CHECKSUM), tmp_path).read_bytes() == CONTENT
    assert Handler.seen == ["bytes=1000-"]


@pytest.mark.parametrize("kind", ["md5", "sha256", "git"])
def test_a_wrong_checksum_is_reported_and_deletes_nothing_else(server, tmp_path, kind):
    (tmp_path / "other").write_bytes(b"mine")
    with pytest.raises(DataError, match=rf"file .*{kind} digest .* 000"):
        download(Remote((f"{server}/file",), "file", f"{kind}:000"), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["other"]


def test_gits_own_id_of_a_file_is_a_checksum(server, tmp_path):
    own = "git:" + hashlib.sha1(b"blob 102400\0" + CONTENT).hexdigest()
    assert download(Remote((f"{server}/file",), "file", own), tmp_path).read_bytes() == CONTENT


def test_a_missing_file_names_the_address_and_the_way_out(server, tmp_path):
    with pytest.raises(DataError, match=r"/nothing \(404 Not Found\)"):
        download(Remote((f"{server}/nothing",), "file", NO_CHECKSUM), tmp_path)


def test_an_unreachable_host_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with pytest.raises(DataError, match=NOBODY):
        download(Remote((NOBODY,), "file", NO_CHECKSUM), tmp_path)


def test_two_downloads_of_one_file_take_turns(server, tmp_path):
    remote = Remote((f"{server}/file",), "sub/file", CHECKSUM)
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda _: download(remote, tmp_path), range(8)))
    assert {file.read_bytes() for file in files} == {CONTENT}
    assert Handler.seen == [None]
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["file"]


def test_a_download_waits_for_the_one_before_and_goes_on_from_its_part(server, tmp_path):
    remote = Remote((f"{server}/file",), "file", CHECKSUM)
    with ThreadPoolExecutor(1) as pool:
        with take_turn(tmp_path / "file"):
            waiting = pool.submit(download, remote, tmp_path)
            with pytest.raises(TimeoutError):
                waiting.result(0.1)
            (tmp_path / "file.part").write_bytes(CONTENT[:1000])
        assert waiting.result(5).read_bytes() == CONTENT
    assert Handler.seen == ["bytes=1000-"]


def test_without_locks_a_download_has_a_part_of_its_own(server, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(turns.fcntl, "flock", refuse)
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])  # another's
    remote = Remote((f"{server}/file",), "file", CHECKSUM)
    assert download(remote, tmp_path).read_bytes() == CONTENT
    assert Handler.seen == [None]
    assert {file.name for file in tmp_path.iterdir()} == {"file", "file.part"}


def test_a_file_without_a_published_checksum_says_so(server, tmp_path, capsys):
    download(Remote((f"{server}/file",), "file", NO_CHECKSUM), tmp_path)
    said = capsys.readouterr().err
    assert "no checksum is published" in said
    assert CHECKSUM.removeprefix("sha256:") in said


def test_every_published_file_has_a_checksum_but_one():
    assert cub._ARCHIVE.checksum
    assert all(sums.file and sums.content for sums in mnist.CHECKSUMS.values())
    assert svhn._CHECKSUMS.keys() == svhn.SIZES.keys()
    assert all(polymnist._PICTURES.values())
    assert polymnist._ARCHIVE.checksum is NO_CHECKSUM  # Zenodo's is not known here
