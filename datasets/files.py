"""Files written whole or not at all: a temporary file in the same folder, fsync, rename.

A temporary file is named ``.NAME.HOST.PID.unfinished``; ``sweep`` removes those whose writer is gone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Only writing ends so, wherever it is done."""

UNFINISHED = re.compile(r"\..+\.([0-9a-f]{8})\.(\d+)\.unfinished", re.DOTALL)
FORMER = re.compile(r"\..+\.(?:\d+|[0-9a-f]{8}\.(?:mp4|mkv|png))", re.DOTALL)
"""What earlier versions called them: ``.NAME.PID``, and ``.STEM.TOKEN.SUFFIX`` for videos and sheets."""

DAY = 86_400.0


class Unwritable(OSError):
    """A file could not be written; ``strerror`` says why, and on a full disk how much was to be written."""


def unwritable(error: BaseException | None) -> str | None:
    """One line where an error, or one that it came of, says that a file could not be written; else None."""
    while error is not None:
        if isinstance(error, OSError) and (isinstance(error, Unwritable) or error.errno in FULL):
            path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
            where = f"{path.parent}: cannot write {path.name}" if path else "a disk takes no more"
            remedy = "free space there" if error.errno in FULL else "make way for it"
            return (
                f"{where} ({error.strerror}); {remedy} or write elsewhere (results=DIR); "
                "the same command then resumes"
            )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def size_text(size: float) -> str:
    """Bytes in words: ``97.0 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


@lru_cache(maxsize=1)
def _host() -> str:
    """8 hex digits for this host and its process ids: a container may have ids of its own."""
    try:
        ids = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        ids = ""
    return hashlib.sha256(f"{socket.gethostname()} {ids}".encode()).hexdigest()[:8]


def temporary_path(path: Path) -> Path:
    """Where this process writes ``path`` before it takes that name."""
    end = f".{_host()}.{os.getpid()}.unfinished"
    # A component holds 255 bytes.
    name = os.fsdecode(os.fsencode(path.name)[: 254 - len(end)])
    return path.with_name(f".{name}{end}")


@contextlib.contextmanager
def whole(path: Path, size: int | None = None) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an error.

    ``size``: bytes that it takes at most, about. Raises Unwritable where the folder, the file or its name
    cannot be written.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        takes = f"; it takes up to {size_text(size)}" if size and error.errno in FULL else ""
        raise Unwritable(error.errno, f"{error.strerror or error}{takes}", str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises Unwritable."""
    with whole(path, len(data)) as temporary:
        # Not mkstemp, whose files only their owner may read: results are there to be shared.
        temporary.write_bytes(data)


def sweep(folder: Path, former: bool = False) -> None:
    """Remove the temporary files of a folder whose process is gone, or that no process can be writing still.

    A file of this host goes when its process has ended, or began after the file was written (its number is
    another's now); a file of another host, or without a process in its name, a day after it was written.
    ``former``: names that older versions gave, too.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            with contextlib.suppress(OSError):
                if entry.name.startswith(".") and _left_behind(entry, former):
                    Path(entry.path).unlink()


def _left_behind(entry: os.DirEntry[str], former: bool) -> bool:
    found = UNFINISHED.fullmatch(entry.name)
    if not (found or (former and FORMER.fullmatch(entry.name))):
        return False
    if not entry.is_file(follow_symlinks=False):
        return False
    written = entry.stat(follow_symlinks=False).st_mtime
    if written < time.time() - DAY:
        return True
    last = entry.name.rpartition(".")[2]
    if found and found[1] == _host():
        process = int(found[2])
    elif not found and last.isdigit():
        process = int(last)
    else:
        return False
    began = _began(process)
    # Clocks of disk and machine may differ a little.
    return began is None or written < began - 60


def _began(process: int) -> float | None:
    """When a process of this host began, in seconds since the epoch (0 where unknown); None without one."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass
    try:
        # proc(5): the state and the start, in clock ticks since boot, stand behind the name in parentheses.
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return 0.0
    if state == "Z":
        return None
    return int(boot[1]) + int(fields[18]) / os.sysconf("SC_CLK_TCK") if boot else 0.0


__all__ = ["Unwritable", "size_text", "sweep", "temporary_path", "unwritable", "whole", "write_whole"]
