"""Any program, run in an interpreter of its own over all videos of a job at once: it is handed a job file and
writes scores.

docs/external.md has the contract, and what it takes to run some published metrics by it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from datasets.errors import InputError
from datasets.files import write_whole
from datasets.program import Program, ProgramFailed, ProgramTimeout
from metrics.interface import WAITS, Column, Metric, MetricUnavailable, Sample, Score, Stored

SCHEMA = 1
CODE = "1"


class _Answer(BaseModel):
    """What a program says of one video."""

    model_config = ConfigDict(extra="forbid", strict=True)

    value: FiniteFloat | None
    reason: str | None = None
    per_frame: list[FiniteFloat] | None = None
    details: dict[str, FiniteFloat | int | str] = {}


@pydantic.dataclasses.dataclass(config={"extra": "forbid", "coerce_numbers_to_str": True})
class ExternalScorer(Metric, kind="external"):
    """A program that scores all videos of a job in one call.

    ``command``, ``folder``, ``options``, ``environment`` and ``release`` as ``methods.external.External`` has
    them, ``timeout`` in seconds for the whole call. ``label`` (the name, if none) to ``beside_motion``: its
    column; changing those calls no program.
    """

    name: str
    command: list[str] | None = None
    folder: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    release: str | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    label: str | None = None
    unit: str = ""
    digits: Annotated[int, Field(ge=0, le=12)] = 4
    higher_is_better: bool = True
    sees_motion: bool = False
    beside_motion: bool = False

    # The version holds command and options as a digest: they may name folders and secrets.
    outside_id: ClassVar[Sequence[str]] = (
        *("command", "folder", "options", "environment", "timeout"),
        *("label", "unit", "digits", "higher_is_better", "sees_motion", "beside_motion"),
    )
    together: ClassVar[bool] = True

    @property
    def version(self) -> str:
        """That of this code, and a digest of command and options."""
        told = json.dumps([self.command, self.options], sort_keys=True)
        return f"{CODE} program={hashlib.sha256(told.encode()).hexdigest()[:16]}"

    @property
    def column(self) -> Column:
        """As the configuration has it."""
        return Column(
            self.label or self.name,
            self.unit,
            self.higher_is_better,
            self.digits,
            sees_motion=self.sees_motion,
            beside_motion=self.beside_motion,
        )

    @property
    def _program(self) -> Program:
        key, home = f"metrics.metrics.{self.name}", "the results' folder scorers"
        return Program(self.name, key, home, self.command, self.folder, self.environment, self.timeout)

    def ready(self) -> None:
        """Raises MetricUnavailable when the program, its folder or a script of its command does not exist."""
        try:
            self._program.arguments()
        except InputError as error:
            raise MetricUnavailable(str(error)) from error

    def weights_id(self) -> str:
        """Digest of the files that the command names; empty while it cannot be run."""
        try:
            files = self._program.identity()
        except InputError:
            return ""
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16] if files else ""

    def score(self, sample: Sample) -> Score:
        """None: a single video waits for ``score_all``."""
        return Score(None, reason=WAITS)

    def score_all(self, videos: Sequence[Stored], folder: Path, device: str) -> dict[str, Score]:
        """What the program says, by id, of whatever it names; details ``log``: where its output lies.

        A program that cannot be run, fails or takes too long gives each video None with the reason.
        ``folder`` then holds ``job.json``, ``log.txt`` and what it wrote to ``scores.json``.
        """
        job, output, log = (folder / name for name in ("job.json", "scores.json", "log.txt"))
        told = {
            "schema": SCHEMA,
            "metric": self.name,
            "videos": [dataclasses.asdict(video) for video in videos],
            "options": self.options,
            "device": device,
            "output": output,
        }
        write_whole(job, json.dumps(told, indent=1, default=str).encode() + b"\n")
        details: dict[str, float | int | str] = {"log": f"{folder.parent.name}/{folder.name}/{log.name}"}
        try:
            self._program.run(job, log)
            answers = self._answers(output, log)
        except (InputError, ProgramFailed, ProgramTimeout) as error:
            failed = Score(None, reason=str(error), details=details, fault=True)
            return {video.id: failed for video in videos}
        return {name: _score(answer, details) for name, answer in answers.items()}

    def _answers(self, output: Path, log: Path) -> dict[str, Any]:
        see = self._program.see(log)
        try:
            answers = json.loads(output.read_bytes())
        except FileNotFoundError:
            raise ProgramFailed(f"{self.name} wrote no scores to {output.name}; {see}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ProgramFailed(f"{self.name} wrote no JSON to {output.name} ({error}); {see}") from error
        if not isinstance(answers, dict):
            what = f"a {type(answers).__name__}, not an object of scores by id"
            raise ProgramFailed(f"{self.name} wrote {what}, to {output.name}; {see}")
        return answers


def _score(answer: Any, details: dict[str, float | int | str]) -> Score:
    given = answer if isinstance(answer, dict) else {"value": answer}
    try:
        read = _Answer.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"its program's answer cannot be used: {where}: {first['msg']} (it gave {answer!r:.80})"
        return Score(None, reason=reason, details=details, fault=True)
    if read.value is None:
        reason = " ".join((read.reason or "").split())
        told = reason or "its program gave no value and no reason"
        return Score(None, reason=told, details={**read.details, **details}, fault=not reason)
    per_frame = None if read.per_frame is None else tuple(read.per_frame)
    return Score(read.value, per_frame=per_frame, details={**read.details, **details})


__all__ = ["ExternalScorer"]
