"""Records and plans: what a run leaves behind, and all that reports read.

Where they lie is ``harness/records/store.py``'s.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 2
"""Of records and plans; ``harness/records/migrate.py`` reads older ones."""

Masks = Literal["masked", "whole frame"]
Status = Literal["ok", "unscored", "failed", "oom", "timeout", "killed", "cancelled", "invalid"]


class Strict(BaseModel):
    """Unknown keys are errors; NaN and infinity survive the JSON round trip."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


class MetricValue(Strict):
    """One metric of one cell; ``value`` is None only with a ``reason``.

    ``label`` to ``truth`` are those of ``metrics.interface.Column``. ``applies`` is False where
    the metric has no meaning for the clip. ``masks``: digest of the masks it was scored within, empty for
    the whole frame, None where masks do not matter (and in older records).
    """

    value: float | None
    version: str
    unit: str = ""
    label: str = ""
    higher_is_better: bool = True
    digits: int = 4
    primary: bool = True
    sees_motion: bool = False
    beside_motion: bool = False
    truth: bool = False
    reason: str | None = None
    per_frame: list[float] | None = None
    details: dict[str, float | int | str] = Field(default_factory=dict)
    applies: bool = True
    masks: str | None = None


RECOMPUTED = "blocks were recomputed in the backward pass: memory was short"
"""A cell's note where ``backbone.checkpoint=auto`` did so: it counts as ``true``."""

COMPILED = "the transformer's blocks were compiled, save where an adapter was in place"
"""A cell's note where ``backbone.compile`` did so; with a warm-up, before its time began."""


CUT = "prompt cut: "
"""How a cell's note begins where a text encoder did not read the whole prompt."""


class Timing(Strict):
    """Seconds. ``stages`` are medians over repeats; ``values`` keeps every repeat's stages.

    ``total`` runs from reference frames in RAM to uint8 frames in RAM; ``load``
    (weights) stands apart, and so does ``amortised``, by stage: what was computed once for
    all cells of a clip (``measure.amortise``). A program's video has only ``total``, a precomputed one
    that or nothing.
    """

    stages: dict[str, float] = Field(default_factory=dict)
    total: float | None = None
    load: float | None = None
    warmup_steps: int = 0
    repeats: int = 1
    values: list[dict[str, float]] = Field(default_factory=list)
    amortised: dict[str, float] = Field(default_factory=dict)

    @property
    def first_video(self) -> float | None:
        """Seconds to a clip's first video: everything, also what its other cells share."""
        return None if self.total is None else self.total + sum(self.amortised.values())

    @property
    def further_video(self) -> float | None:
        """Seconds to one more video of the same clip: without training, and without what was shared."""
        return None if self.total is None else self.total - self.stages.get("train", 0.0)

    @property
    def once(self) -> bool:
        """Whether part of the time is spent only once a clip."""
        return bool(self.amortised) or "train" in self.stages


class Memory(Strict):
    """Peak bytes of a stage; None where it cannot be had."""

    allocated: int | None = None
    reserved: int | None = None
    process: int | None = None


class Flops(Strict):
    """Floating-point operations of one cell. ``forward_equivalents``: DiT FLOPs over one forward's."""

    model_flops: float | None = None
    executed_flops: float | None = None
    forward_equivalents: float | None = None
    reason: str | None = None


class Failure(Strict):
    """Why a cell has no video."""

    kind: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What became of a cell that ended with this error."""
        try:
            message = str(error)
        except Exception as broken:
            message = f"no message: {type(broken).__name__} on asking for it"
        text = "".join(traceback.format_exception(error))
        return cls(kind=type(error).__name__, message=message, traceback=text)


class Source(Strict):
    """A named plug-in as it was used: its resolved configuration and code version."""

    name: str
    version: str
    config: dict[str, Any]


class Footage(Strict):
    """A video as it came: frames, frames a second (None where nothing says), size in pixels."""

    frames: int
    fps: float | None
    width: int
    height: int

    @property
    def seconds(self) -> float | None:
        """Its duration."""
        return None if self.fps is None else self.frames / self.fps


class Compared(Strict):
    """How a video and its reference were brought together: ``frames`` of each.

    ``by`` ``time``: frames nearest in time, where the two have other rates; ``reference`` are the places of
    the reference's. ``by`` ``frame``: as many of each from the first on.
    """

    frames: int
    by: Literal["frame", "time"] = "frame"
    reference: list[int] | None = None


class Record(Strict):
    """One cell, as it ended.

    ``former_id``: what an older schema called it, as its folder still does. ``reference`` and ``generated``:
    the videos as they came. ``masks``: what motion was read within, ``masked`` or ``whole frame``.
    ``sampler``: the backbone's. ``scored``: when it was scored last. ``run``: the id of the run
    that computed it, after ``tries`` in that run. Older records lack all these.
    ``notes`` are lines a reader should know (resized, cut, repeats that differ). ``dataset_source``: whose
    the dataset is and its licence, empty for ours and the user's own.
    """

    schema_: int = Field(SCHEMA, alias="schema")
    id: str
    former_id: str | None = None
    status: Status
    method: Source
    backbone: Source
    dataset: Source
    clip: str
    prompt: str
    prompt_kind: str = "target"
    seed: int
    metrics: dict[str, MetricValue] = Field(default_factory=dict)
    timing: Timing = Field(default_factory=Timing)
    calls: dict[str, int] = Field(default_factory=dict)
    flops: Flops = Field(default_factory=Flops)
    memory: dict[str, Memory] = Field(default_factory=dict)
    energy: float | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    identity: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    reference: Footage | None = None
    generated: Footage | None = None
    compared: Compared | None = None
    masks: Masks | None = None
    sampler: str | None = None
    frames_sha256: str | None = None
    error: Failure | None = None
    notes: list[str] = Field(default_factory=list)
    dataset_source: str = ""
    attempts: int = 1
    run: str = ""
    tries: int = 1
    started: str = ""
    finished: str = ""
    scored: str = ""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants", populate_by_name=True)


class PlannedCell(Strict):
    """A cell of a plan. ``path`` is its folder, relative to the results folder.

    ``content``: the clip's, as its id has it; ``masks``: what motion is read within; ``strata``: what kind of
    clip it is. Older plans lack these.
    """

    id: str
    path: str
    clip: str
    prompt: str
    prompt_kind: str = "target"
    seed: int
    content: str | None = None
    masks: Masks | None = None
    strata: dict[str, str] = Field(default_factory=dict)


class Variant(Strict):
    """A row of a table: one configuration over all clips, prompts and seeds.

    ``config_id`` hashes what its cells share; ``settings`` (empty in older plans) the same without versions,
    weights and program; ``dataset_id`` (likewise) what was asked of the dataset. ``levels`` maps a metric to
    its ``chance``, ``true`` and ``pairs``.
    """

    label: str
    method: str
    backbone: str
    dataset: str
    config_id: str
    settings: str = ""
    dataset_id: str = ""
    overrides: list[str] = Field(default_factory=list)
    cells: list[PlannedCell] = Field(default_factory=list)
    levels: dict[str, dict[str, float]] = Field(default_factory=dict)


class PlannedOut(Strict):
    """A clip left out, and why; or what a reader should know of how a clip was read."""

    clip: str
    reason: str


class VariantOut(Strict):
    """A variant of an experiment that is not run, and why."""

    label: str
    reason: str


class Plan(Strict):
    """Ordered variants and what was left out. ``baseline`` is a variant's label.

    ``ran``: when its command was last run or scored, empty where it was only planned. ``columns``: of its
    table, by key and in their order; none for those that are primary.
    """

    schema_: int = Field(SCHEMA, alias="schema")
    name: str
    columns: list[str] = Field(default_factory=list)
    command: list[str] = Field(default_factory=list)
    created: str = ""
    ran: str = ""
    baseline: str | None = None
    variants: list[Variant] = Field(default_factory=list)
    left_out: list[PlannedOut] = Field(default_factory=list)
    remarks: list[PlannedOut] = Field(default_factory=list)
    variants_out: list[VariantOut] = Field(default_factory=list)

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants", populate_by_name=True)


def left_out_lines(outs: Sequence[PlannedOut]) -> list[str]:
    """``clip: reason`` in their order; clips that share a reason with more than two others stand in one line.

    A partial copy of a dataset lacks dozens of clips for one reason.
    """
    clips: dict[str, list[str]] = {}
    for one in outs:
        clips.setdefault(one.reason, []).append(one.clip)
    lines = []
    for reason, names in clips.items():
        together = [", ".join(names)] if len(names) > 3 else names
        lines += [f"{clips_of_line}: {reason}" for clips_of_line in together]
    return lines
