"""What a file's bytes are: sha256 digests, remembered while a file stays as it is.

They enter the ids of cells and the versions of metrics: how several files make one digest must not change.
Every function raises InputError, naming the file, when one cannot be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from datasets.errors import InputError


def file_sha256(path: Path) -> str:
    """sha256 hex digest of a file, read again only when its size or modification time changes."""
    try:
        stat = path.stat()
        return _digest(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); replace or remove it") from error


@lru_cache(maxsize=8192)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """sha256 hex digest over the digests of files, in order, whatever they are called."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def named_files_sha256(files: Mapping[str, Path]) -> str:
    """sha256 hex digest over the names, sizes and digests of files, in order."""
    digest = hashlib.sha256()
    for name, path in files.items():
        contents = bytes.fromhex(file_sha256(path))
        digest.update(f"{name}\0{path.stat().st_size}\0".encode(errors="surrogateescape") + contents)
    return digest.hexdigest()
