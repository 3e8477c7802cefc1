"""What a file's bytes say of it before it is decoded: whether it is a video at all, and whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from datasets.errors import InputError

AGAIN = "download or copy it again"

_NO_VIDEO = {
    b"version https://git-lfs": "a Git LFS pointer, not the video itself; fetch it with git lfs pull",
    b"<!doctype html": f"a web page, not a video; {AGAIN}, from the video's own address",
    b"<html": f"a web page, not a video; {AGAIN}, from the video's own address",
    b"{": f"a JSON text such as a server's error, not a video; {AGAIN}",
    b"pk\x03\x04": "a ZIP archive, not a video; unpack it",
    b"<?xml": f"an XML text such as a server's error, not a video; {AGAIN}",
}
_BOXES = {
    *(b"ftyp", b"styp", b"moov", b"moof", b"mfra", b"mdat", b"meta", b"udta"),
    *(b"free", b"skip", b"wide", b"pnot", b"sidx", b"uuid"),
}
_EBML = bytes.fromhex("1a45dfa3")
_SEGMENT = bytes.fromhex("18538067")
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_HEAD = 4096


def check_whole(path: Path) -> None:
    """InputError for an empty file, a text, and an incomplete one, as far as its container can tell.

    The lengths that ISO (mp4, mov, 3gp), Matroska, RIFF and ASF files state are held against the file's own;
    GIF, PNG, Ogg and FLV have an end to be known by. MPEG streams state nothing. OSError where the file
    cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        size = file.seek(0, os.SEEK_END)
        if not size:
            raise InputError(f"{path}: an empty file (0 bytes); {AGAIN}")
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        for start, what in _NO_VIDEO.items():
            if text.startswith(start):
                raise InputError(f"{path}: {what}")
        if not any(head):
            file.seek(0)
            if not any(any(block) for block in iter(lambda: file.read(1 << 20), b"")):
                raise InputError(f"{path}: incomplete file, nothing but zeros; {AGAIN}")
        lacks = _lacks(file, head, size)
    if lacks:
        raise InputError(f"{path}: incomplete file, {lacks}; {AGAIN}")


def _lacks(file: BinaryIO, head: bytes, size: int) -> str | None:
    """What is not there, in words."""
    if head[4:8] in _BOXES:
        boxes = list(_boxes(file, size))
        kinds, promised = {kind for kind, _ in boxes}, max((end for _, end in boxes), default=0)
        if promised > size:
            return f"{size:,} of at least {promised:,} bytes"
        if not kinds & {b"moov", b"moof", b"meta"}:
            return "its index (moov) is missing"
        if not kinds & {b"mdat", b"moof", b"meta"}:
            return "its index is all there is"
        # In fragments, each announced before it comes, any rest is the beginning of a next one.
        if b"moof" in kinds and (boxes[-1][0] == b"moof" or promised < size < promised + 8):
            return "its end is missing"
    elif (promised := _promised(head)) > size:
        return f"{size:,} of at least {promised:,} bytes"
    return None if _ended(file, head, size) else "its end is missing"


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """The outermost boxes of an ISO file (ISO/IEC 14496-12, 4.2) and where each should end."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        at = at + length if length else size
        # What stands behind the last box need not be one.
        if 0 < length < 8 or (at > size and kind not in _BOXES):
            return
        yield kind, at


def _promised(head: bytes) -> int:
    """Bytes that the file should have by its own header; 0 where that says nothing."""
    if head[:4] == _EBML:
        return _segment_end(head)
    if head[:4] == b"RIFF":
        # Some writers count the eight bytes before it, too.
        length = int.from_bytes(head[4:8], "little")
        return length if length < 0xFFFFFFF0 else 0
    if head[:16] == _ASF and _ASF_FILE in head:
        at = head.index(_ASF_FILE) + 40
        live = head[at + 48 : at + 49] == b"\x01"
        return 0 if live else int.from_bytes(head[at : at + 8], "little")
    return 0


def _segment_end(head: bytes) -> int:
    """Where a Matroska segment ends (RFC 8794, 4); 0 where its length is unknown, as in a live recording."""
    at = head.find(_SEGMENT)
    if at < 0 or at + 12 > len(head):
        return 0
    at += 4
    octets = 9 - head[at].bit_length()
    field = int.from_bytes(head[at : at + octets], "big")
    ones = (1 << 7 * octets) - 1
    return 0 if field & ones == ones else at + octets + (field & ones)


def _ended(file: BinaryIO, head: bytes, size: int) -> bool:
    """Whether the end mark is there, where the format has one."""
    file.seek(max(0, size - (1 << 16)))
    tail = file.read()
    if head[:4] == b"GIF8":
        return tail.rstrip(b"\0\r\n").endswith(b";")
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND" in tail[-1024:]
    if head[:4] == b"OggS":
        # The last page (RFC 3533, 6) reaches to the end.
        page = tail[max(0, tail.rfind(b"OggS")) :]
        return len(page) >= 27 and len(page) == 27 + page[26] + sum(page[27 : 27 + page[26]])
    if head[:3] == b"FLV":
        # Each tag is followed by its length: eleven bytes and the data's, which it states itself.
        length = int.from_bytes(tail[-4:], "big")
        file.seek(max(0, size - 4 - length))
        return length >= 11 and int.from_bytes(file.read(4)[1:], "big") + 11 == length
    # Of a Matroska file that ends before its segment begins, nothing else is known.
    return head[:4] != _EBML or len(head) == _HEAD or _SEGMENT in head[:-12]


__all__ = ["AGAIN", "check_whole"]
