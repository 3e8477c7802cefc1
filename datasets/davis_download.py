"""Fetches the official DAVIS-2017 trainval archive: resumable, checked, unpacked whole or not at all.

The address is the one of ``davisvideochallenge/davis-2017:data/get_davis.sh``.
The clips carry their authors' Creative Commons licences.
"""

from __future__ import annotations

import http.client
import shutil
import ssl
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.errors import InputError

URL = "https://data.vision.ee.ethz.ch/jpont/davis/DAVIS-2017-trainval-480p.zip"

_CHUNK = 1 << 20
_TIMEOUT = 60.0
_UNPACKED = 8 << 30  # bytes; the official archive holds about one
# A connection that brought bytes before it broke is tried again at once; this many in a row brought none.
_FRUITLESS = 3
_BROKEN = (
    urllib.error.URLError,
    http.client.HTTPException,
    ssl.SSLError,
    ConnectionError,
    TimeoutError,
)


def fetch(root: Path, url: str, frames: Mapping[str, int]) -> None:
    """Download ``url``, check it and unpack its ``DAVIS`` folder as ``root``.

    ``frames`` maps each sequence the archive must hold to its number of frames.
    The archive lies beside ``root`` while it comes in, as ``<name>.part``; the next
    call resumes. A second process waits for the first.
    InputError: ``root`` is in the way, the server cannot be reached, the disk is
    full, or the archive is not what it should be (it is then removed).
    """
    from filelock import FileLock

    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise InputError(
            f"dataset.root={root}: holds something other than DAVIS (no JPEGImages/480p); "
            "name a new folder for dataset.download=true"
        )
    archive = root.parent / PurePosixPath(url).name
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(archive.with_name(f".{archive.name}.lock")):
            if (root / "JPEGImages/480p").is_dir():
                return
            if not archive.is_file():
                download(url, archive)
            try:
                check(archive, frames)
            except InputError:
                archive.unlink()
                raise
            unpack(archive, root)
            archive.unlink()
    except OSError as error:
        raise InputError(
            f"dataset.root={root}: DAVIS cannot be stored there ({error}); name another folder"
        ) from error


def download(url: str, target: Path) -> None:
    """Bring ``url`` to ``target``, going on from ``<target>.part`` when there is one.

    A cut connection is taken up again with an HTTP Range request; a server that
    ignores ranges sends the file from its beginning. InputError when nothing
    comes any more; what came is kept for the next call.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    if not url.startswith(("http://", "https://")):
        raise InputError(f"dataset.download_url={url}: not an address; give http:// or https://")
    part = target.with_name(f"{target.name}.part")
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(target.name, total=None)
        fruitless = 0
        while fruitless < _FRUITLESS:
            before = part.stat().st_size if part.exists() else 0
            problem: Exception | str
            try:
                if _take(url, part, progress, task):
                    part.replace(target)
                    return
                problem = "the connection was cut"
            except _BROKEN as error:
                problem = error
            gained = part.exists() and part.stat().st_size > before
            fruitless = 0 if gained else fruitless + 1
    raise InputError(
        f"dataset.download: {url} cannot be fetched ({problem}); run the command again to go on from "
        f"{part}, or unpack the archive yourself and set dataset.root"
    )


def _take(url: str, part: Path, progress: Any, task: Any) -> bool:
    """Append what one connection brings to ``part``; True when the file is complete."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "vmtbench"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        complete = error.headers.get("Content-Range") == f"bytes */{have}"
        if not complete:
            part.unlink()
        return complete
    with response:
        length = response.headers.get("Content-Length")
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        if not resumed:
            have = 0
        total = have + int(length) if length else None
        # The archive and its unpacked files lie side by side for a moment.
        needed = 2 * total - have if total else 0
        if shutil.disk_usage(part.parent).free < needed:
            raise InputError(f"dataset.root: {part.parent.resolve()} has no room, {needed} bytes needed")
        progress.update(task, total=total, completed=have)
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress.update(task, completed=have)
    return total is None or have == total


def check(archive: Path, frames: Mapping[str, int]) -> None:
    """InputError unless size and CRCs are right and every sequence has its number of frames."""
    remedy = "it was removed, run the command again to fetch it anew"
    try:
        with zipfile.ZipFile(archive) as bundle:
            names = [PurePosixPath(name) for name in bundle.namelist()]
            size = sum(file.file_size for file in bundle.infolist())
            if size > _UNPACKED:
                raise InputError(
                    f"{archive}: would unpack to {size >> 30} GiB, at most {_UNPACKED >> 30} are taken; "
                    f"{remedy}"
                )
            outside = [name for name in names if name.is_absolute() or ".." in name.parts]
            broken = bundle.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{archive}: not a whole zip archive ({error}); {remedy}") from error
    if outside:
        raise InputError(f"{archive}: would write outside its folder ({outside[0]}); {remedy}")
    if broken:
        raise InputError(f"{archive}: damaged, CRC of {broken} is wrong; {remedy}")
    pictures = [
        name.parts[3]
        for name in names
        if name.parts[:3] == ("DAVIS", "JPEGImages", "480p")
        and len(name.parts) == 5
        and name.suffix == ".jpg"
    ]
    found = Counter(pictures)
    wrong = [
        f"{name} has {found[name]} frames, not {count}"
        for name, count in frames.items()
        if found[name] != count
    ]
    if wrong:
        raise InputError(f"{archive}: not the DAVIS archive expected ({'; '.join(wrong[:3])}); {remedy}")


def unpack(archive: Path, root: Path) -> None:
    """Unpack the archive's ``DAVIS`` folder as ``root``, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as folder:
        with zipfile.ZipFile(archive) as bundle:
            bundle.extractall(folder)
        Path(folder, "DAVIS").replace(root)
