"""Weights as a plug-in names them: what they are called, how large they are, and under which licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from datasets.files import size_text


@dataclass(frozen=True)
class Weight:
    """Weights that a plug-in reads.

    ``id``: what their source calls them, a hub repository or a file's name. ``size`` in bytes, ``licence`` as
    their source says; 0 and empty where unknown. ``path``: where they lie, None while they are not at hand.
    ``fetch`` gets them, with a bar; None where they must be given by hand.
    """

    id: str
    size: int
    licence: str
    path: Path | None = None
    fetch: Callable[[], object] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.id} ({self.known})"

    @property
    def known(self) -> str:
        """Size and licence in words."""
        size = size_text(self.size) if self.size else "size unknown"
        return f"{size}, {self.licence or 'licence unknown'}"


__all__ = ["Weight"]
