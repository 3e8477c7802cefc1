"""The one exception that means "the user gave us something we cannot use"."""

import difflib
import re
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, found before any model is loaded.

    The message is one line that names the key or file and the remedy. The
    harness prints it and ends with exit code 2.
    """


# C0 and C1 less tab and newline, and the marks that turn the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text without the control characters that a terminal or a page would obey; its lines stay."""
    return _CONTROL.sub("", text)


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """``did you mean X?`` if some name is close, else the list of names."""
    known = sorted(str(known) for known in names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"there are: {', '.join(known)}" if known else "there are none"
