"""Fetching DAVIS from a server on loopback: resumed, checked, unpacked whole or not at all."""

import io
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

import datasets.davis as davis_module
from datasets import davis_download
from datasets.davis import Davis
from datasets.errors import InputError

FRAMES = {"lucia": 6, "bmx-trees": 5}


def archive(frames=FRAMES, extra=()):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, count in frames.items():
            for index in range(count):
                picture = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(picture, "JPEG")
                bundle.writestr(f"DAVIS/JPEGImages/480p/{name}/{index:05d}.jpg", picture.getvalue())
        for name in extra:
            bundle.writestr(name, b"x")
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``content``; cuts the connection after ``cut`` bytes while ``cuts`` are left."""

    daemon_threads = True

    def __init__(self, content, ranges=True, cut=0, cuts=0):
        self.content, self.ranges, self.cut, self.cuts = content, ranges, cut, cuts
        self.starts = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/DAVIS-tiny.zip"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        stated = self.headers.get("Range") if server.ranges else None
        start = int(stated.removeprefix("bytes=").rstrip("-")) if stated else 0
        server.starts.append(start)
        size = len(server.content)
        if stated and start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if stated else 200)
        if stated:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            body = body[: server.cut]
        self.wfile.write(body)


@contextmanager
def serving(*args, **keys):
    server = Server(*args, **keys)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_the_archive_is_fetched_checked_and_unpacked(tmp_path):
    with serving(archive()) as server:
        davis_download.fetch(tmp_path / "data/DAVIS", server.url, FRAMES)
    assert visible(tmp_path / "data") == ["DAVIS"]
    assert len(list((tmp_path / "data/DAVIS/JPEGImages/480p/lucia").iterdir())) == 6


def test_a_cut_connection_goes_on_where_it_was_cut(tmp_path):
    content = archive()
    cut = len(content) // 3
    with serving(content, cut=cut, cuts=2) as server:
        davis_download.download(server.url, tmp_path / "a.zip")
        assert server.starts == [0, cut, 2 * cut]
    assert (tmp_path / "a.zip").read_bytes() == content


def test_a_command_started_again_goes_on_from_what_came(tmp_path):
    content = archive()
    with serving(content, cut=0, cuts=99) as server:
        with pytest.raises(InputError, match=r"cannot be fetched.*run the command again") as error:
            davis_download.download(server.url, tmp_path / "a.zip")
        assert "\n" not in str(error.value)
        assert len(server.starts) == 3
    (tmp_path / "a.zip.part").write_bytes(content[:1000])
    with serving(content) as server:
        davis_download.download(server.url, tmp_path / "a.zip")
        assert server.starts == [1000]
    assert (tmp_path / "a.zip").read_bytes() == content


def test_a_server_without_ranges_starts_anew(tmp_path):
    content = archive()
    (tmp_path / "a.zip.part").write_bytes(content[:1000])
    with serving(content, ranges=False) as server:
        davis_download.download(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == content


@pytest.mark.parametrize("surplus", [b"", b"too much"])
def test_a_complete_part_is_taken_and_a_too_long_one_fetched_anew(tmp_path, surplus):
    content = archive()
    (tmp_path / "a.zip.part").write_bytes(content + surplus)
    with serving(content) as server:
        davis_download.download(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == content


def test_an_unreachable_server_is_bad_input(tmp_path):
    with serving(archive()) as server:
        url = server.url
    with pytest.raises(InputError, match=r"dataset\.download.*cannot be fetched"):
        davis_download.fetch(tmp_path / "DAVIS", url, FRAMES)
    with pytest.raises(InputError, match=r"dataset\.download_url=davis\.zip"):
        davis_download.fetch(tmp_path / "DAVIS", "davis.zip", FRAMES)
    assert not (tmp_path / "DAVIS").exists()


def corrupt(content):
    at = content.index(b"\xff\xd8") + 200
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


@pytest.mark.parametrize(
    "content,message",
    [
        (corrupt(archive()), r"CRC of DAVIS/JPEGImages/480p/lucia/00000\.jpg"),
        (archive()[:-40], r"not a whole zip archive"),
        (b"<html>moved</html>", r"not a whole zip archive"),
        (archive({"lucia": 6, "bmx-trees": 4}), r"bmx-trees has 4 frames, not 5"),
        (archive({"lucia": 6}), r"bmx-trees has 0 frames, not 5"),
        (archive(extra=["../outside.txt"]), r"outside its folder"),
        (archive(extra=["/outside.txt"]), r"outside its folder"),
    ],
)
def test_a_wrong_archive_leaves_nothing_behind(tmp_path, content, message):
    with serving(content) as server, pytest.raises(InputError, match=message):
        davis_download.fetch(tmp_path / "data/DAVIS", server.url, FRAMES)
    assert visible(tmp_path / "data") == []
    assert visible(tmp_path) == ["data"]


def bomb():
    """An archive that says that one of its files has a terabyte."""
    buffer = io.BytesIO(archive())
    with zipfile.ZipFile(buffer, "a") as bundle:
        bundle.writestr("DAVIS/big", b"")
        bundle.getinfo("DAVIS/big").file_size = 1 << 40
    return buffer.getvalue()


def test_an_archive_that_would_fill_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda bundle: pytest.fail("it was unpacked"))
    with serving(bomb()) as server, pytest.raises(InputError, match=r"would unpack to 1024 GiB.*removed"):
        davis_download.fetch(tmp_path / "data/DAVIS", server.url, FRAMES)
    assert visible(tmp_path / "data") == []


def test_a_failure_while_unpacking_leaves_no_folder(tmp_path, monkeypatch):
    def fails(*args, **keys):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", fails)
    with serving(archive()) as server, pytest.raises(InputError, match=r"dataset\.root.*No space left"):
        davis_download.fetch(tmp_path / "DAVIS", server.url, FRAMES)
    assert visible(tmp_path) == ["DAVIS-tiny.zip"]


def test_a_full_disk_is_seen_before_the_download(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(davis_download.shutil, "disk_usage", lambda path: usage)
    with serving(archive()) as server, pytest.raises(InputError, match="no room"):
        davis_download.fetch(tmp_path / "DAVIS", server.url, FRAMES)


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="something other than DAVIS"):
        davis_download.fetch(tmp_path, "http://127.0.0.1:9/a.zip", FRAMES)
    assert visible(tmp_path) == ["thesis.txt"]


def test_the_listing_downloads_a_missing_folder_once(tmp_path, monkeypatch):
    monkeypatch.setattr(davis_module, "frame_counts", lambda: FRAMES)
    with serving(archive()) as server:
        dataset = Davis(
            root=str(tmp_path / "DAVIS"),
            download=True,
            download_url=server.url,
            frames=5,
            height=24,
            width=32,
        )
        assert [clip.name for clip in dataset.listing().clips] == ["bmx-trees", "lucia"]
        assert [clip.name for clip in dataset.listing().clips] == ["bmx-trees", "lucia"]
        assert server.starts == [0]
    assert dataset.load("lucia").frames.shape == (5, 24, 32, 3)
