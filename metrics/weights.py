"""Which weights a metric or tracker uses: part of its version, so that a change makes old values stale."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path


def files_id(paths: Sequence[Path]) -> str:
    """``sha256:`` and 16 hex digits over the files' bytes, in order; empty when one is missing.

    Several files give the digest of their digests. A file is read again only when its size or time changes.
    """
    if not paths or not all(path.is_file() for path in paths):
        return ""
    digests = [file_sha256(path) for path in paths]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return f"sha256:{whole[:16]}"


def file_sha256(path: Path) -> str:
    """sha256 hex digest of a file, remembered while its size and time stay: weights are large."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
