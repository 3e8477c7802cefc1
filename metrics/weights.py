"""Which weights a metric or tracker uses: part of its version, so that a change makes old values stale."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from datasets.hashing import file_sha256


def files_id(paths: Sequence[Path]) -> str:
    """``sha256:`` and 16 hex digits over the files' bytes, in order; empty when one is missing.

    Several files give the digest of their hex digests.
    """
    if not paths or not all(path.is_file() for path in paths):
        return ""
    digests = [file_sha256(path) for path in paths]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return f"sha256:{whole[:16]}"
