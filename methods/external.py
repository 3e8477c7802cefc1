"""Any program, run in an interpreter of its own: it is handed a job file and writes a video.

docs/external.md has the contract, and what it takes to run some published systems by it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic
from pydantic import Field

from datasets.errors import InputError
from datasets.files import Unwritable, size_text, write_whole
from datasets.hashing import file_sha256
from methods.interface import VideoMethod, VideoRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = 1
SCRIPTS = (".py", ".sh")
GRACE = 5.0  # seconds a program has to end when it is asked to

# They speak of our interpreter; a program has one of its own.
OURS = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV")


class ProgramFailed(RuntimeError):
    """The program ended without the video it was asked for."""


class ProgramTimeout(TimeoutError):
    """The program took longer than ``timeout`` and was ended."""


@pydantic.dataclasses.dataclass(config={"extra": "forbid", "coerce_numbers_to_str": True})
class External(VideoMethod, kind="external"):
    """A program that makes one video a call.

    ``command``: the program and its arguments; the path of the job file is added as the last one.
    A program without a slash is looked up in PATH; relative paths count from ``folder``, where it
    runs (null: where the harness does). ``options`` go into the job file, ``environment`` to the
    program's variables. ``release`` names the version of the system and its weights, which nobody
    here can see: another one makes other cells. ``timeout``: seconds one video may take.
    """

    name: str
    command: list[str] | None = None
    folder: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    release: str | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    negative_prompt: str = ""

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ("folder", "environment", "timeout")
    uncounted = "a program of its own: its operations are not counted"

    def identity(self) -> dict[str, str]:
        """sha256 of each local file that the command names, by its word.

        A program looked up in PATH is not among them. Raises InputError when the program, the
        folder, or a script among the arguments does not exist.
        """
        self._arguments()
        folder, (program, *arguments) = self._folder(), self.command or [""]
        words = arguments if os.sep not in program else [program, *arguments]
        files = {word: folder / Path(word).expanduser() for word in words}
        return {word: file_sha256(path) for word, path in files.items() if _is_file(path)}

    def video(self, request: VideoRequest) -> tuple[NDArray[np.uint8], float]:
        """Frames (T, H, W, 3) uint8 RGB as the program wrote them, and the seconds it ran.

        ``request.folder`` is emptied first. It then holds a folder of this attempt alone, of a name that no
        other had: a program that outlived its harness cannot write into it. There lie ``job.json``,
        ``log.txt`` (standard output and error) and ``output.mkv``; the reference stays beside them only where
        the program failed.
        Raises ProgramTimeout, or ProgramFailed for an exit status other than 0, a missing or
        unreadable video, or one of another length than the reference; Unwritable where the disk is full.
        """
        from datasets.video import write_ffv1

        command = self._arguments()
        # What an orphan still writes there would be in the way of removing it.
        shutil.rmtree(request.folder, ignore_errors=True)
        folder = request.folder / secrets.token_hex(4)
        reference, output, log = (folder / name for name in ("reference.mkv", "output.mkv", "log.txt"))
        write_ffv1(reference, request.reference, request.fps)
        job = folder / "job.json"
        write_whole(job, json.dumps(self._job(request, reference, output), indent=1).encode() + b"\n")
        try:
            seconds = self._run([*command, str(job)], log)
            frames = self._frames(request, output, log)
        except ProgramFailed as error:
            if shutil.disk_usage(folder).free < request.reference.nbytes:
                takes = f"{os.strerror(errno.ENOSPC)}; it takes up to {size_text(request.reference.nbytes)}"
                raise Unwritable(errno.ENOSPC, takes, str(output)) from error
            raise
        reference.unlink()
        return frames, seconds

    def _frames(self, request: VideoRequest, output: Path, log: Path) -> NDArray[np.uint8]:
        from datasets.video import read_video

        if not output.is_file():
            raise ProgramFailed(f"{self.name} wrote no video to {output.name}; {_see(log)}")
        try:
            frames, _ = read_video(output)
        except InputError as error:
            raise ProgramFailed(f"{self.name}: {error}; {_see(log)}") from error
        wanted = len(request.reference)
        if len(frames) != wanted:
            raise ProgramFailed(
                f"{self.name} wrote {len(frames)} frames where {wanted} were asked for; {_see(log)}"
            )
        return frames

    def _job(self, request: VideoRequest, reference: Path, output: Path) -> dict[str, Any]:
        frames, height, width = request.reference.shape[:3]
        return {
            "schema": SCHEMA,
            "clip": request.clip,
            "reference": str(reference),
            "caption": request.caption,
            "prompt": request.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": request.seed,
            "frames": frames,
            "height": height,
            "width": width,
            "fps": request.fps,
            "device": request.device,
            "options": self.options,
            "output": str(output),
        }

    def _run(self, command: list[str], log: Path) -> float:
        """Run to the end and return the seconds. Nothing that the program started outlives it."""
        variables = {name: value for name, value in os.environ.items() if name not in OURS}
        with log.open("wb") as stream:
            started = time.perf_counter()
            try:
                # A session, hence a process group, of its own: all of it can be ended at once.
                process = subprocess.Popen(
                    command,
                    cwd=self._folder(),
                    env={**variables, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProgramFailed(f"{self.name} cannot be started: {error}") from error
            try:
                status = process.wait(self.timeout)
                seconds = time.perf_counter() - started
            except subprocess.TimeoutExpired:
                raise ProgramTimeout(
                    f"{self.name} took longer than method.timeout={self.timeout:g} seconds; {_see(log)}"
                ) from None
            finally:
                _end(process)
        if status:
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            raise ProgramFailed(f"{self.name} ended with {how}; {_see(log)}")
        return seconds

    def _folder(self) -> Path:
        folder = Path(self.folder or ".").expanduser().absolute()
        if not folder.is_dir():
            raise InputError(f"method.folder: {folder} is no folder; name the one the program runs in")
        return folder

    def _arguments(self) -> list[str]:
        """The command with its program's path written out; InputError when it cannot be run."""
        if not self.command:
            raise InputError(
                "method.command is not set; give a program and its arguments as a list, "
                "such as method.command=[python,PROGRAM.py]"
            )
        folder, (program, *arguments) = self._folder(), self.command
        named = str(folder / Path(program).expanduser()) if os.sep in program else program
        found = shutil.which(named)
        if found is None:
            raise InputError(
                f"method.command: {program} does not exist or cannot be run; "
                "name a program in PATH, or give its path"
            )
        for word in arguments:
            if word.endswith(SCRIPTS) and not _is_file(folder / Path(word).expanduser()):
                raise InputError(
                    f"method.command: {word} does not exist in {folder}; give its path, or set method.folder"
                )
        # Not resolved: a virtual environment's interpreter is known by its own path.
        return [str(Path(found).absolute()), *arguments]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the program's process group: asked first, by force ``GRACE`` seconds later."""
    try:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + GRACE
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.02)
    finally:
        # Also when a second interrupt ends the waiting.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _see(log: Path) -> str:
    """Where the program's output is, and its last line."""
    lines = log.read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    where = f"{log.parent.parent.name}/{log.parent.name}/{log.name}"
    return f"{where} in the cell's folder has its output, which ends with: {last[:300]}"


def _is_file(path: Path) -> bool:
    # An argument may be too long for a path.
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


__all__ = ["External", "ProgramFailed", "ProgramTimeout"]
