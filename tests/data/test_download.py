"""Fetching against a real local HTTP server: resume, damage, mirrors, and the offline message."""

import gzip
import hashlib
import struct
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import trustbound.data.load as load_module
from trustbound.data import load_data
from trustbound.data.download import cache_folder, fetch
from trustbound.data.registry import DATA
from trustbound.errors import InputError
from trustbound.registry import Registry

BODY = np.random.default_rng(0).integers(0, 256, 700_000, dtype=np.uint8).tobytes()
DIGEST = hashlib.sha256(BODY).hexdigest()


class _Server(ThreadingHTTPServer):
    """Serves `files`; `cut` ends each answer early that many bytes, `ranges` honours Range."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.asked = {}, []
        self.cut, self.ranges = [], True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, self.path.lstrip("/")
        wanted = self.headers.get("Range")
        server.asked.append((name, wanted))
        if name not in server.files:
            self.send_error(404)
            return
        body, start = server.files[name], 0
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        part = body[start:]
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[: server.cut.pop(0)] if server.cut else part)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    running = _Server()
    yield running
    running.shutdown()
    running.server_close()


def test_a_whole_file_arrives_in_place_and_progress_ends_at_the_total(server, tmp_path):
    server.files["a"] = BODY
    seen = []
    path = fetch([server.url + "a"], tmp_path / "deep" / "a", DIGEST, progress=lambda *s: seen.append(s))
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not (tmp_path / "deep" / "a.part").exists()
    fetch([server.url + "a"], path, DIGEST)
    assert len(server.asked) == 1, "a file in place is not fetched again"


def test_a_broken_transfer_resumes_where_it_stopped(server, tmp_path):
    server.files["a"] = BODY
    server.cut = [300_000, 100_000]
    assert fetch([server.url + "a"], tmp_path / "a", DIGEST).read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == [None, "bytes=300000-", "bytes=400000-"]


def test_a_later_call_resumes_the_part_of_an_earlier_one(server, tmp_path):
    server.files["a"] = BODY
    server.cut = [200_000, 0, 0]
    with pytest.raises(InputError, match="the connection ended"):
        fetch([server.url + "a"], tmp_path / "a", DIGEST)
    assert (tmp_path / "a.part").stat().st_size == 200_000
    assert not (tmp_path / "a").exists()
    fetch([server.url + "a"], tmp_path / "a", DIGEST)
    assert server.asked[-1] == ("a", "bytes=200000-")
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.files["a"], server.ranges = BODY, False
    (tmp_path / "a.part").write_bytes(BODY[:1000])
    assert fetch([server.url + "a"], tmp_path / "a", DIGEST).read_bytes() == BODY
    assert len(server.asked) == 1, "the part is replaced, not appended to and thrown away afterwards"


@pytest.mark.parametrize("part", [BODY, BODY + b"more", b"x" * 1000])
def test_a_part_that_is_complete_too_long_or_foreign_is_handled(server, tmp_path, part):
    server.files["a"] = BODY
    (tmp_path / "a.part").write_bytes(part)
    assert fetch([server.url + "a"], tmp_path / "a", DIGEST).read_bytes() == BODY


def test_wrong_content_is_thrown_away_and_the_next_mirror_is_asked(server, tmp_path):
    server.files["bad/a"], server.files["good/a"] = BODY[::-1], BODY
    urls = [server.url + "bad/a", server.url + "good/a"]
    assert fetch(urls, tmp_path / "a", DIGEST).read_bytes() == BODY
    with pytest.raises(InputError, match=r"wrong content.*HTTP 404"):
        fetch([urls[0], server.url + "none"], tmp_path / "b", DIGEST)
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "b.part").exists()


def test_two_callers_share_one_transfer(server, tmp_path):
    server.files["a"] = BODY
    threads = [threading.Thread(target=fetch, args=([server.url + "a"], tmp_path / "a", DIGEST)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A registry row like MNIST's, with four tiny files that the local server publishes."""
    random, files = np.random.default_rng(3), []
    for file in DATA.find("mnist").files:
        shape = (12, 28, 28) if file.role == "pictures" else (12,)
        array = random.integers(0, 10, shape, dtype=np.uint8)
        raw = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *shape) + array.tobytes()
        packed = gzip.compress(raw, mtime=0)
        server.files[file.name] = packed
        files.append(
            replace(
                file,
                sha256=hashlib.sha256(packed).hexdigest(),
                content=hashlib.md5(raw).hexdigest(),
            )
        )
    row = replace(DATA.find("mnist"), mirrors=(server.url,), files=tuple(files))
    monkeypatch.setattr(load_module, "DATA", Registry("a data set", row))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TRUSTBOUND_DATA", raising=False)
    return row


def test_named_data_is_fetched_once_and_found_in_the_documented_order(published, server, tmp_path, monkeypatch):
    first = load_data("mnist")
    assert len(server.asked) == 2, "the test split needs two of the four files"
    assert load_data("mnist").sha256 == first.sha256
    assert len(server.asked) == 2
    assert sorted(p.name for p in (cache_folder() / "mnist").glob("*.gz")) == sorted(
        file.name for file in published.files_of("test")
    )
    # $TRUSTBOUND_DATA/mnist comes before the cache; an uncompressed copy counts.
    (tmp_path / "env" / "mnist").mkdir(parents=True)
    for file in published.files_of("test"):
        raw = gzip.decompress(server.files[file.name])
        (tmp_path / "env" / "mnist" / file.name.removesuffix(".gz")).write_bytes(raw)
    for left in (cache_folder() / "mnist").iterdir():
        left.unlink()
    monkeypatch.setenv("TRUSTBOUND_DATA", str(tmp_path / "env"))
    assert load_data("mnist").sha256 == first.sha256
    assert len(server.asked) == 2
    # data_dir comes first: a wrong file there is an error, not silently passed over.
    (tmp_path / "mine").mkdir()
    name = published.files_of("test")[0].name
    (tmp_path / "mine" / name).write_bytes(server.files[published.files_of("train")[0].name])
    with pytest.raises(InputError, match="another data set under the same file name"):
        load_data("mnist", data_dir=tmp_path / "mine")


def test_offline_says_which_file_to_put_where(published, server, tmp_path, monkeypatch):
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError) as caught:
        load_data("mnist", data_dir=tmp_path)
    message = str(caught.value)
    assert "t10k-images-idx3-ubyte.gz" in message
    assert str(tmp_path / "mnist") in message
    assert str(cache_folder() / "mnist") in message
    assert "--data-dir" in message
    assert "refused" in message
