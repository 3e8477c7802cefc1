"""The one exception that means "the user gave us something we cannot use"."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, found before any model is loaded.

    The message is one line that names the key or file and the remedy. The
    harness prints it and ends with exit code 2.
    """


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """``did you mean X?`` if some name is close, else the list of names."""
    known = sorted(str(known) for known in names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"there are: {', '.join(known)}" if known else "there are none"
