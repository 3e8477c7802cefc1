"""Text for people: on a terminal, in a log, on a page."""

from __future__ import annotations

import re

# C0 and C1 less tab and newline, and the marks that turn the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text without the control characters that a terminal or a page would obey; its lines stay."""
    return _CONTROL.sub("", text)


__all__ = ["printable"]
