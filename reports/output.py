"""Where reports go: printed, or written to the place that ``--out`` names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.errors import InputError
from datasets.files import sweep, write_whole


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Inside, what cannot be written is an InputError that names ``--out``."""
    try:
        yield
    except OSError as error:
        file = f"{error.filename}: " if error.filename and str(error.filename) != str(out) else ""
        raise InputError(f"--out {out}: cannot be written ({file}{error.strerror}); name another") from error


def write_out(data: bytes, out: Path) -> None:
    """Write one file, whole or not at all; InputError as ``writing``."""
    with writing(out):
        sweep(out.parent)
        write_whole(out, data)


def emit(text: str, out: Path | None) -> None:
    """Print a text, or write it."""
    if out is None:
        print(text, end="")
    else:
        write_out(text.encode(errors="backslashreplace"), out)


__all__ = ["emit", "write_out", "writing"]
