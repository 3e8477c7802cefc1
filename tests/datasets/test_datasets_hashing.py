"""Digests of files: what they are of, and when a file is read again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.hashing import file_sha256, files_sha256, named_files_sha256


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "b", tmp_path / "a"]
    for path, data in zip(paths, (b"first", b"second file"), strict=True):
        path.write_bytes(data)
    return paths


def test_one_file_has_the_digest_of_its_bytes(files):
    assert file_sha256(files[0]) == hashlib.sha256(b"first").hexdigest()


def test_several_files_have_the_digest_of_their_digests_in_order(files):
    parts = [hashlib.sha256(data).digest() for data in (b"first", b"second file")]
    assert files_sha256(files) == hashlib.sha256(parts[0] + parts[1]).hexdigest()
    assert files_sha256(files[::-1]) == hashlib.sha256(parts[1] + parts[0]).hexdigest()


def test_names_and_sizes_count_where_they_are_given(files):
    parts = [hashlib.sha256(data).digest() for data in (b"first", b"second file")]
    whole = b"x/one\x005\x00" + parts[0] + b"x/two\x0011\x00" + parts[1]
    named = dict(zip(("x/one", "x/two"), files, strict=True))
    assert named_files_sha256(named) == hashlib.sha256(whole).hexdigest()


def test_a_file_is_read_again_only_when_its_size_or_time_changes(files):
    before = file_sha256(files[0])
    time = files[0].stat().st_mtime_ns
    files[0].write_bytes(b"other")
    os.utime(files[0], ns=(time, time))
    assert file_sha256(files[0]) == before
    os.utime(files[0], ns=(time, time + 1))
    assert file_sha256(files[0]) == hashlib.sha256(b"other").hexdigest()


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for read in (
        file_sha256,
        lambda path: files_sha256([path]),
        lambda path: named_files_sha256({"a": path}),
    ):
        with pytest.raises(InputError, match=r"none: cannot be read \(No such file or directory\)"):
            read(tmp_path / "none")
