"""Any program, run in an interpreter of its own: it is handed a job file and writes a video.

docs/external.md has the contract, and what it takes to run some published systems by it.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic
from pydantic import Field

from datasets.errors import InputError
from datasets.files import Unwritable, size_text, write_whole
from datasets.program import Program, ProgramFailed
from methods.interface import VideoMethod, VideoRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = 1


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

    @property
    def _program(self) -> Program:
        return Program(
            self.name,
            "method",
            "the cell's folder",
            self.command,
            self.folder,
            self.environment,
            self.timeout,
        )

    def identity(self) -> dict[str, str]:
        """sha256 of each local file that the command names, by its word (``Program.identity``)."""
        return self._program.identity()

    def video(self, request: VideoRequest) -> tuple[NDArray[np.uint8], float]:
        """Frames (T, H, W, 3) uint8 RGB as the program wrote them, and the seconds it ran.

        ``request.folder`` is emptied first. It then holds a folder of this attempt alone, of a name that no
        other had: a program that outlived its harness cannot write into it. There lie ``job.json``,
        ``log.txt`` (standard output and error) and ``output.mkv``; the reference stays beside them only where
        the program failed.
        Raises ProgramTimeout, or ProgramFailed for an exit status other than 0, a missing or
        unreadable video, or one of another length than the reference; Unwritable where the disk is full.
        """
        from datasets.media.video import write_ffv1

        self._program.arguments()
        # What an orphan still writes there would be in the way of removing it.
        shutil.rmtree(request.folder, ignore_errors=True)
        folder = request.folder / secrets.token_hex(4)
        reference, output, log = (folder / name for name in ("reference.mkv", "output.mkv", "log.txt"))
        write_ffv1(reference, request.reference, request.fps)
        job = folder / "job.json"
        write_whole(job, json.dumps(self._job(request, reference, output), indent=1).encode() + b"\n")
        try:
            seconds = self._program.run(job, log)
            frames = self._frames(request, output, log)
        except ProgramFailed as error:
            if shutil.disk_usage(folder).free < request.reference.nbytes:
                takes = f"{os.strerror(errno.ENOSPC)}; it takes up to {size_text(request.reference.nbytes)}"
                raise Unwritable(errno.ENOSPC, takes, str(output)) from error
            raise
        reference.unlink()
        return frames, seconds

    def _frames(self, request: VideoRequest, output: Path, log: Path) -> NDArray[np.uint8]:
        from datasets.media.video import read_video

        if not output.is_file():
            raise ProgramFailed(f"{self.name} wrote no video to {output.name}; {self._program.see(log)}")
        try:
            frames, _ = read_video(output)
        except InputError as error:
            raise ProgramFailed(f"{self.name}: {error}; {self._program.see(log)}") from error
        wanted = len(request.reference)
        if len(frames) != wanted:
            raise ProgramFailed(
                f"{self.name} wrote {len(frames)} frames where {wanted} were asked for; "
                f"{self._program.see(log)}"
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


__all__ = ["External"]
