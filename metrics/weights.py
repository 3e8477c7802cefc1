"""Weights of a metric or tracker: which they are (part of its version), and where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from datasets.hashing import file_sha256
from datasets.weights import Weight
from metrics.interface import MetricUnavailable


def files_id(paths: Sequence[Path]) -> str:
    """``sha256:`` and 16 hex digits over the files' bytes, in order; empty when one is missing.

    Several files give the digest of their hex digests.
    """
    if not paths or not all(path.is_file() for path in paths):
        return ""
    digests = [file_sha256(path) for path in paths]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return f"sha256:{whole[:16]}"


def unavailable(weight: Weight, why: str, remedy: str) -> MetricUnavailable:
    """The one line of weights that are not to be had: id, size, licence, why, and the remedy."""
    return MetricUnavailable(f"weights {weight}: {why}; {remedy}")


@lru_cache(maxsize=8)
def reachable(address: str) -> bool:
    """One request without retries: the hub client itself retries for half a minute, once per file."""
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=3)
    except Exception:
        return False
    return True
