"""Scoring videos: one cell when it is made, or again from its frames; levels over all cells."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datasets.files import unwritable
from harness.cells.locks import in_turn
from harness.cells.tracks import KeptTracks
from harness.records import store
from harness.records.identity import WEIGHTS, configuration, same_version
from harness.records.record import CUT, Compared, Failure, MetricValue, Plan, Record
from metrics import features, flow_grid
from metrics.interface import WAITS, Metric, MetricUnavailable, Sample, Score, Tracker

if TYPE_CHECKING:
    from datasets.interface import Clip, ClipInfo
    from harness.cells.job import Job
    from harness.cells.plan import Cell

Note = Callable[[str], None]
UNTRAINED = "weights=random: the backbone is untrained"
REQUIRED = "MetricUnavailable"


@dataclass
class Outcome:
    """What became of a plan's cells. ``records`` are in the plan's order.

    ``computed`` cells were generated (or failed trying), ``rescored`` ones only
    scored again from their frames, ``reused`` ones left as they were. ``fault``: an external scorer did not
    give what it should.
    """

    records: list[Record]
    computed: int = 0
    reused: int = 0
    rescored: int = 0
    fault: bool = False

    @property
    def failed(self) -> list[Record]:
        """The records that are not ``ok``."""
        return [record for record in self.records if record.status != "ok"]

    @property
    def ok(self) -> bool:
        """True when no cell failed."""
        return not self.failed


def _code_version(plugin: Metric | Tracker) -> str:
    """Version and configuration of a plug-in, less its name and the fields in ``outside_id``; its weights."""
    options = configuration(plugin, {})
    words = [f"{key}={_plain(value)}" for key, value in options.items() if key != "name"]
    weights = plugin.weights_id()
    return " ".join([plugin.version, *words]) + (f"{WEIGHTS}{weights}" if weights else "")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def tracker_version(tracker: Tracker) -> str:
    """Name, version and configuration of a tracker: what its tracks depend on."""
    return f"{tracker.name} {_code_version(tracker)}"


def metric_version(metric: Metric, tracker: Tracker) -> str:
    """What a value depends on besides the videos: code version, options, weights, tracker.

    Weights stand last in it and only while they are at hand.
    """
    version = _code_version(metric)
    return f"{version}; {tracker_version(tracker)}" if metric.uses_tracks else version


def masks_of(job: Job, clip: ClipInfo) -> str:
    """Digest of the masks that the clip's motion is read within; empty for the whole frame."""
    return clip.masks if job.mask == "auto" else ""


def _alone(job: Job) -> dict[str, Metric]:
    """The metrics that score one video at a time."""
    return {name: metric for name, metric in job.metrics.items() if not metric.together}


def _reads_masks(metric: Metric) -> bool:
    return metric.uses_tracks or metric.uses_masks


def frames_sha256(frames: NDArray[np.uint8]) -> str:
    from datasets.media import video

    return video.frames_sha256(frames)


def sample_of(
    job: Job, cell: Cell, clip: Clip, generated: NDArray[np.uint8], compared: Compared | None = None
) -> Sample:
    """A generated video beside the reference's frames it is compared with.

    Without ``compared`` (older records) both are cut to the shorter.
    """
    length = min(len(generated), len(clip.frames))
    places = compared.reference if compared is not None and compared.reference is not None else range(length)
    beside = clip.at(places)
    return Sample(
        clip=cell.clip.name,
        generated=generated[:length],
        reference=beside.frames,
        prompt=cell.prompt.text,
        tracker=job.tracker,
        caption=clip.info.caption,
        masks=beside.masks if job.mask == "auto" else None,
        truth=beside.truth,
        fps=_rate(beside),
    )


def _rate(clip: Clip) -> float:
    """Frames of a clip a second, by their times where these are known."""
    if clip.times is None or len(clip.times) < 2 or clip.times[-1] <= clip.times[0]:
        return clip.info.fps
    return float((len(clip.times) - 1) / (clip.times[-1] - clip.times[0]))


def kept_tracks(job: Job, cell: Cell, sample: Sample, metrics: Iterable[Metric]) -> KeptTracks | None:
    """The sample, given the tracks that are kept, and where they are; None where no metric uses tracks."""
    if not any(metric.uses_tracks for metric in metrics):
        return None
    kept = KeptTracks(job.results, job.results / cell.path, sample, tracker_version(job.tracker))
    kept.recall()
    return kept


def value_of(metric: Metric, version: str, score: Score, masks: str) -> MetricValue:
    """A score as a record has it."""
    value, reason = score.value, score.reason
    if value is not None and not math.isfinite(value):
        value, reason = None, reason or f"the metric gave {score.value}"
    if value is None and not reason:
        reason = "the metric gave no value and no reason"
    return MetricValue(
        value=value,
        version=version,
        **asdict(metric.column),
        reason=reason,
        per_frame=None if score.per_frame is None else list(score.per_frame),
        details=dict(score.details),
        applies=score.applies,
        masks=masks if _reads_masks(metric) else None,
    )


def _score(metric: Metric, sample: Sample) -> Score:
    """A metric's score. A metric that breaks costs its own value only, never the video."""
    try:
        return metric.score(sample)
    except MetricUnavailable as error:
        return Score(None, reason=str(error))
    except Exception as error:
        if unwritable(error):
            # A full disk is no property of the video.
            raise
        return Score(
            None,
            reason=f"{type(error).__name__}: {error}",
            details={"traceback": traceback.format_exc()},
        )


def means_nothing(job: Job, metric: Metric) -> bool:
    """Quality of an untrained backbone's videos is not worth a number."""
    return job.method.uses_backbone and job.backbone.untrained and metric.quality


def _share(job: Job) -> None:
    """Flow and features of videos are computed once, whichever worker needs them first."""
    flow_grid.keep_in(job.results / store.FLOW)
    features.keep_in(job.results / store.FEATURES)


def score_cell(
    job: Job,
    cell: Cell,
    clip: Clip,
    generated: NDArray[np.uint8],
    names: Sequence[str] | None = None,
    compared: Compared | None = None,
) -> dict[str, MetricValue]:
    """Values of the job's metrics (or of those named), in the job's order.

    ``generated``: (T, H, W, 3) uint8 RGB, ``compared`` with the reference as ``sample_of`` has it. Tracks are
    kept (``harness/cells/tracks.py``). A metric that is unavailable or raises gives None with the
    reason; so does every quality metric of an untrained backbone.
    """
    metrics = {name: metric for name, metric in job.metrics.items() if names is None or name in names}
    _share(job)
    sample = sample_of(job, cell, clip, generated, compared)
    masks = masks_of(job, clip.info)
    kept = kept_tracks(job, cell, sample, metrics.values())
    values: dict[str, MetricValue] = {}
    for name, metric in metrics.items():
        score = Score(None, reason=UNTRAINED) if means_nothing(job, metric) else _score(metric, sample)
        values[name] = value_of(metric, metric_version(metric, job.tracker), score, masks)
    if kept is not None:
        kept.keep()
    return values


def score_record(
    job: Job,
    cell: Cell,
    clip: Clip,
    generated: NDArray[np.uint8],
    record: Record,
    names: Sequence[str] | None = None,
) -> None:
    """Put what ``score_cell`` gives into the record: when it was, and what motion was read within."""
    record.metrics.update(score_cell(job, cell, clip, generated, names, record.compared))
    for name, value in record.metrics.items():
        if "truncated_to" in value.details:
            read = f"{CUT}{value.details['tokens']} tokens, {name} reads {value.details['truncated_to']}"
            record.notes.extend([] if read in record.notes else [read])
    record.masks = "masked" if clip.masks is not None and job.mask == "auto" else "whole frame"
    record.scored = datetime.now(UTC).isoformat(timespec="microseconds")


def settle_required(job: Job, record: Record) -> None:
    """Make a cell fail whose required metrics are null, and let it be ok again when they no longer are."""
    missing = lacks_required(job, record)
    if missing and record.status == "ok":
        record.status = "failed"
        reasons = "; ".join(f"{name}: {_reason(record, name)}" for name in missing)
        record.error = Failure(
            kind=REQUIRED, message=f"metrics.required names a metric without a value: {reasons}", traceback=""
        )
    elif not missing and lacks_metric_only(record):
        record.status, record.error = "ok", None


def lacks_required(job: Job, record: Record) -> list[str]:
    """The required metrics that have no value, but for those whose turn comes when all videos are there."""
    return [name for name in job.required if _missing(record, name) and not waits(job, record, name)]


def waits(job: Job, record: Record, name: str) -> bool:
    """Whether a metric that scores all videos together has not had its turn."""
    asked = name in record.metrics and record.metrics[name].reason != WAITS
    return job.metrics[name].together and not asked


def save_if_settled(job: Job, cell: Cell, record: Record) -> None:
    """Apply ``metrics.required`` as it stands now to a record that is otherwise left alone."""
    before = record.status
    settle_required(job, record)
    if record.status != before:
        store.save_record(job.results / cell.path, job.hidden.record(record))


def _missing(record: Record, name: str) -> bool:
    return name not in record.metrics or record.metrics[name].value is None


def _reason(record: Record, name: str) -> str:
    return (record.metrics[name].reason if name in record.metrics else None) or "not scored"


def lacks_metric_only(record: Record) -> bool:
    """True for a cell that failed for a required metric alone: its video is there and good."""
    return record.status == "failed" and record.error is not None and record.error.kind == REQUIRED


def stale(job: Job, cell: Cell, record: Record) -> list[str]:
    """The job's metrics that a record lacks, has in another version or within other masks, or has null though
    required.

    Other null values wait for ``action=score``: a second run shall compute nothing. Metrics that score all
    videos together are ``harness/cells/batch.py``'s.
    """
    versions = {name: metric_version(metric, job.tracker) for name, metric in _alone(job).items()}
    masks = masks_of(job, cell.clip)
    return [
        name
        for name, version in versions.items()
        if name not in record.metrics
        or not same_version(record.metrics[name].version, version)
        or (_reads_masks(job.metrics[name]) and (record.metrics[name].masks or "") != masks)
        or (name in job.required and record.metrics[name].value is None)
    ]


def kept_frames(job: Job, cell: Cell, record: Record) -> NDArray[np.uint8] | None:
    """The cell's frames from ``frames.mkv``; None unless they are the very frames of the record."""
    from datasets.media import video

    path = job.results / cell.path / store.FRAMES
    if not path.exists():
        return None
    try:
        frames, _ = video.read_video(path)
    except (OSError, ValueError):
        return None
    return frames if video.frames_sha256(frames) == record.frames_sha256 else None


def refresh(
    job: Job,
    cell: Cell,
    clip: Clip,
    record: Record,
    names: Sequence[str],
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Score the named metrics anew from the kept frames and write the record; False without frames.

    ``check`` is called before anything is written, and raises where the cell is another worker's by now.
    """
    frames = kept_frames(job, cell, record)
    if frames is None:
        return False
    score_record(job, cell, clip, frames, record, names)
    check()
    waited = record.status == "unscored"
    if waited:
        record.status, record.error = "ok", None
    settle_required(job, record)
    store.save_record(job.results / cell.path, job.hidden.record(record))
    if waited and not job.keep_frames:
        (job.results / cell.path / store.FRAMES).unlink(missing_ok=True)
    return True


def rescore(
    job: Job, plan: Plan, cells: Sequence[Cell], everything: bool = False, note: Note | None = None
) -> Outcome:
    """``action=score``: values from ``frames.mkv`` and the dataset's reference; nothing is generated.

    Computes the metrics that a record lacks, has in another version or has null;
    with ``everything`` all of them. Cells without a record, without a video or
    without kept frames stay as they are, with one line by ``note``. The plan's
    levels follow the new values.
    """
    say = note or (lambda _: None)
    load = lru_cache(maxsize=1)(job.dataset.load)
    outcome = Outcome([])
    for cell in in_turn(job.results, cells, say):
        reason = store.foreign(job.results / cell.path, cell.id)
        if reason is not None:
            say(f"{cell.path}: {reason}; left as it is")
            continue
        record = store.read_record(job.results / cell.path)
        if record is None:
            say(f"{cell.path}: has not run, so there is nothing to score (action=run runs it)")
            continue
        outcome.records.append(record)
        names = list(_alone(job)) if everything else _to_rescore(job, cell, record)
        if record.frames_sha256 is None or not (names or record.status == "unscored"):
            save_if_settled(job, cell, record)
            outcome.reused += 1
            continue
        try:
            clip = load(cell.clip.name)
        except Exception as error:
            outcome.reused += 1
            say(f"{cell.path}: not scored, its clip cannot be read: {error}")
            continue
        if refresh(job, cell, clip, record, names):
            outcome.rescored += 1
        else:
            outcome.reused += 1
            say(f"{cell.path}: frames.mkv is missing or not the record's (keep_frames=true keeps it)")
    store_levels(job, plan, cells, say)
    return outcome


def _to_rescore(job: Job, cell: Cell, record: Record) -> list[str]:
    null = {name for name, value in record.metrics.items() if value.value is None}
    null -= {
        name for name in null if record.metrics[name].reason == UNTRAINED or not record.metrics[name].applies
    }
    old = stale(job, cell, record)
    return [name for name in _alone(job) if name in null or name in old]


def store_levels(job: Job, plan: Plan, cells: Sequence[Cell], note: Note | None = None) -> None:
    """Put the cells' levels into the variant that consists of these cells, and write the plan."""
    ids = [cell.id for cell in cells]
    for variant in plan.variants:
        if [cell.id for cell in variant.cells] == ids:
            variant.levels = levels(job, cells, note)
    store.save_plan(job.results, plan)


def levels(job: Job, cells: Sequence[Cell], note: Note | None = None) -> dict[str, dict[str, float]]:
    """Each metric's ``chance``, ``true`` and ``pairs`` over the cells that have a value and kept frames.

    They are kept in ``results/levels/``, keyed by the metric's version and the
    cells' frames and captions, so that nothing is computed twice. One line by
    ``note`` for a metric that raises, which has no levels, and for cells without
    kept frames, which do not count.
    """
    say = note or (lambda _: None)
    scored, without = _scored(job, cells)
    if without and job.metrics:
        say(
            f"levels (chance, true clips) leave out {without} of {without + len(scored)} finished cells: "
            "no kept frames (keep_frames=true keeps them)"
        )
    found: dict[str, dict[str, float]] = {}
    for name, metric in job.metrics.items():
        usable = [(cell, record) for cell, record in scored if not _missing(record, name)]
        if not usable:
            continue
        version = metric_version(metric, job.tracker)
        of_cells = [
            [cell.id, record.frames_sha256, cell.clip.caption, *filter(None, [record.metrics[name].masks])]
            for cell, record in usable
        ]
        key = json.dumps([name, version, of_cells])
        path = job.results / store.LEVELS / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        known = _kept_levels(path)
        if known is None:
            try:
                known = metric.levels(_samples(job, usable, metric))
            except Exception as error:
                say(f"levels of {name}: {type(error).__name__}: {error}")
                continue
            store.write_json(path, dict(sorted(known.items())))
        if known:
            found[name] = known
    return found


def _scored(job: Job, cells: Sequence[Cell]) -> tuple[list[tuple[Cell, Record]], int]:
    """The ok cells whose frames were kept, with their records; how many were not kept."""
    found: list[tuple[Cell, Record]] = []
    without = 0
    for cell in cells:
        folder = job.results / cell.path
        record = store.read_record(folder)
        if record is None or record.status != "ok":
            continue
        if (folder / store.FRAMES).exists():
            found.append((cell, record))
        else:
            without += 1
    return found, without


def _samples(job: Job, scored: Sequence[tuple[Cell, Record]], metric: Metric) -> Iterator[Sample]:
    load = lru_cache(maxsize=1)(job.dataset.load)
    _share(job)
    for cell, record in scored:
        frames = kept_frames(job, cell, record)
        if frames is not None:
            sample = sample_of(job, cell, load(cell.clip.name), frames, record.compared)
            kept_tracks(job, cell, sample, [metric])
            yield sample


def _kept_levels(path: Path) -> dict[str, float] | None:
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None
