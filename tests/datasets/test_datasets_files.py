"""Files on disk: whole or not at all, a full disk in one line, and what killed writers left."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datasets.files import Unwritable, sweep, temporary_path, unwritable, whole, write_whole
from datasets.media import images, video

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file may grow over this many bytes: writing ends as on a full disk, by EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield 1000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_finds_no_room_leaves_the_old_file_and_says_the_folder_and_how_much(
    tmp_path: Path, small_files: int
) -> None:
    path = tmp_path / "plans" / "a.json"
    write_whole(path, b"before")
    with pytest.raises(Unwritable) as error:
        write_whole(path, bytes(2500))
    line = unwritable(error.value)
    assert line is not None and "\n" not in line
    assert line.startswith(f"{path.parent}: cannot write a.json") and "2.5 kB" in line
    assert path.read_bytes() == b"before" and names(path.parent) == ["a.json"]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png"])
def test_an_encoder_that_finds_no_room_ends_like_any_other_writer(
    tmp_path: Path, small_files: int, name: str
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    write = {"a.mp4": video.write_h264, "a.mkv": video.write_ffv1}.get(name)
    with pytest.raises(Unwritable, match="it takes up to"):
        if write is None:
            images.sheet(frames, frames, tmp_path / name)
        else:
            write(tmp_path / name, frames, 8)
    assert names(tmp_path) == []


def test_a_full_disk_is_seen_through_what_wraps_it_and_other_errors_are_not() -> None:
    def wrapped(inner: Exception) -> Exception:
        try:
            try:
                raise inner
            except type(inner) as error:
                raise RuntimeError("cannot save") from error
        except RuntimeError as outer:
            return outer

    assert "No space left" in str(unwritable(wrapped(OSError(28, "No space left on device", "/a/b"))))
    assert "a disk takes no more" in str(unwritable(OSError(28, "No space left on device")))
    assert unwritable(wrapped(FileNotFoundError(2, "No such file", "/a/b"))) is None
    assert unwritable(ValueError("No space left on device")) is None


def dead() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_files_of_ended_processes_are_swept_and_those_of_living_and_foreign_ones_stay(tmp_path: Path) -> None:
    mine = temporary_path(tmp_path / "a.json")
    host = mine.name.split(".")[-3]
    foreign = f"{int(host, 16) ^ 1:08x}"
    stay = [mine.name, f".b.{foreign}.{dead()}.unfinished", ".gitignore", "plan.json", ".c.unfinished"]
    go = [f".d.json.{host}.{dead()}.unfinished", f".a\nb.{host}.{2**70}.unfinished"]
    for name in [*stay, *go]:
        (tmp_path / name).write_text("")
    stay.append(f".folder.{host}.{dead()}.unfinished")
    (tmp_path / stay[-1]).mkdir()
    sweep(tmp_path)
    assert names(tmp_path) == sorted(stay)


def test_a_file_older_than_the_process_that_has_its_number_now_is_swept(tmp_path: Path) -> None:
    mine = temporary_path(tmp_path / "a.json")
    mine.write_text("")
    sweep(tmp_path)
    assert mine.exists()
    hour = time.time() - 3600
    os.utime(mine, (hour, hour))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    its = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{child.pid}."))
    mine.rename(its)
    sweep(tmp_path)
    assert not its.exists()
    child.communicate(b"\n")


def test_a_file_of_another_host_is_swept_a_day_later(tmp_path: Path) -> None:
    name = tmp_path / ".a.json.00000000.1.unfinished"
    name.write_text("")
    sweep(tmp_path)
    assert name.exists()
    long_ago = time.time() - 90_000
    os.utime(name, (long_ago, long_ago))
    sweep(tmp_path)
    assert not name.exists()


def test_names_of_earlier_versions_are_swept_only_in_folders_of_ours(tmp_path: Path) -> None:
    old = tmp_path / f".plan.json.{dead()}"
    old.write_text("")
    sweep(tmp_path)
    assert old.exists()
    sweep(tmp_path, former=True)
    assert not old.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from datasets.files import whole
with whole(Path({path!r})) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_killed_while_it_writes_leaves_one_file_which_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    subprocess.run([sys.executable, "-c", KILLED.format(root=str(ROOT), path=str(path))], check=False)
    assert len(names(tmp_path)) == 1 and not path.exists()
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_a_name_as_long_as_a_folder_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with whole(path) as temporary:
        temporary.write_text("all")
    assert path.read_text() == "all"
