"""A program in an interpreter of its own: found, known by its files, run to the end, and ended with all it
started. What methods and metrics of kind ``external`` share.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.errors import InputError
from datasets.hashing import file_sha256

SCRIPTS = (".py", ".sh")
GRACE = 5.0  # seconds a program has to end when it is asked to

# They speak of our interpreter; a program has one of its own.
OURS = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV")


class ProgramFailed(RuntimeError):
    """The program ended without what it was asked for."""


class ProgramTimeout(TimeoutError):
    """The program took longer than ``timeout`` and was ended."""


@dataclass(frozen=True)
class Program:
    """``name``: as messages call it; ``key``: where its keys stand in the configuration; ``home``: the
    folder, in words, that its logs' ``PARENT/ATTEMPT`` lie in.

    ``command``: the program and its arguments. A program without a slash is looked up in PATH; relative
    paths count from ``folder``, where it runs (None: where the harness does). ``environment`` stands beside
    our variables; ``timeout`` in seconds.
    """

    name: str
    key: str
    home: str
    command: Sequence[str] | None
    folder: str | None
    environment: Mapping[str, str]
    timeout: float | None

    def identity(self) -> dict[str, str]:
        """sha256 of each local file that the command names, by its word.

        A program looked up in PATH is not among them. Raises InputError as ``arguments`` does.
        """
        self.arguments()
        folder, (program, *arguments) = self._folder(), self.command or [""]
        words = arguments if os.sep not in program else [program, *arguments]
        files = {word: folder / Path(word).expanduser() for word in words}
        return {word: file_sha256(path) for word, path in files.items() if _is_file(path)}

    def arguments(self) -> list[str]:
        """The command with its program's path written out.

        Raises InputError when the program, the folder, or a script among the arguments does not exist.
        """
        if not self.command:
            raise InputError(
                f"{self.key}.command is not set; give a program and its arguments as a list, "
                f"such as {self.key}.command=[python,PROGRAM.py]"
            )
        folder, (program, *arguments) = self._folder(), self.command
        named = str(folder / Path(program).expanduser()) if os.sep in program else program
        found = shutil.which(named)
        if found is None:
            raise InputError(
                f"{self.key}.command: {program} does not exist or cannot be run; "
                "name a program in PATH, or give its path"
            )
        for word in arguments:
            if word.endswith(SCRIPTS) and not _is_file(folder / Path(word).expanduser()):
                raise InputError(
                    f"{self.key}.command: {word} does not exist in {folder}; "
                    f"give its path, or set {self.key}.folder"
                )
        # Not resolved: a virtual environment's interpreter is known by its own path.
        return [str(Path(found).absolute()), *arguments]

    def run(self, job: Path, log: Path) -> float:
        """Run it on a job's file to the end and return the seconds. Nothing that it started outlives it.

        ``log`` gets its standard output and error. Raises InputError as ``arguments`` does, ProgramTimeout,
        and ProgramFailed for an exit status other than 0.
        """
        command = [*self.arguments(), str(job)]
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
                    f"{self.name} took longer than {self.key}.timeout={self.timeout:g} seconds; "
                    f"{self.see(log)}"
                ) from None
            finally:
                _end(process)
        if status:
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            raise ProgramFailed(f"{self.name} ended with {how}; {self.see(log)}")
        return seconds

    def see(self, log: Path) -> str:
        """Where the program's output is, and its last line."""
        lines = log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        where = f"{log.parent.parent.name}/{log.parent.name}/{log.name}"
        return f"{where} in {self.home} has its output, which ends with: {last[:300]}"

    def _folder(self) -> Path:
        folder = Path(self.folder or ".").expanduser().absolute()
        if not folder.is_dir():
            raise InputError(f"{self.key}.folder: {folder} is no folder; name the one the program runs in")
        return folder


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


def _is_file(path: Path) -> bool:
    # An argument may be too long for a path.
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


__all__ = ["Program", "ProgramFailed", "ProgramTimeout"]
