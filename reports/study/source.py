"""What a study shows: the methods and takes of a results folder that all have a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.errors import InputError, nearest
from datasets.media.images import Frames
from datasets.media.video import read_video
from harness.records import store
from harness.records.record import PlannedCell
from reports.page.videos import probe_video
from reports.table.rows import Group, Row, find_plans, groups
from reports.table.statistics import Pair

LONGEST_SIDE = 832
"""Pixels: a study is watched on phones too."""
STILL = 2.0
"""Mean difference of two clips, in grey levels, below which nobody can be asked to see it."""


@dataclass(frozen=True)
class Take:
    """A clip, prompt and seed of which every method has a video.

    ``videos`` and ``ids``: label -> its file and its cell's id. ``seconds``: the shortest of them and the
    reference, to which all are cut; ``size``: height and width in which all are shown. ``broken``: what makes
    the reference's motion plainly wrong, of ``reversed`` and ``frozen``.
    """

    clip: str
    prompt: str
    kind: str
    seed: int
    reference: Path
    reference_id: str
    videos: dict[str, Path]
    ids: dict[str, str]
    seconds: float
    size: tuple[int, int]
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """The takes of one backbone and dataset; ``methods`` are labels of rows in the tables' order.

    ``left_out``: a line for each take that cannot be shown.
    """

    dataset: str
    backbone: str
    baseline: str
    methods: tuple[str, ...]
    takes: tuple[Take, ...]
    left_out: tuple[str, ...]


def find_source(
    results: Path,
    plans: Sequence[str] = (),
    experiments: Sequence[str] = (),
    rows: Sequence[str] = (),
    limit: int | None = None,
) -> Source:
    """The rows (all, or those named) and the first ``limit`` clips of which each of them has a video.

    InputError for fewer than two rows, an unknown one, no common clip, and for several backbones or datasets.
    """
    found = groups(results, find_plans(results, plans, experiments))
    known = {row.label for group in found for row in group.rows}
    for label in rows:
        if label not in known:
            raise InputError(f"--rows {label}: no such row; {nearest(label, known)}")
    chosen = []
    for group in found:
        kept = [row for row in group.rows if row.finished and (not rows or row.label in rows)]
        if len(kept) > 1:
            chosen.append((group, kept))
    if not chosen:
        asked = f" among {', '.join(rows)}" if rows else ""
        raise InputError(
            f"{results}: fewer than two methods{asked} have a video; a study compares at least two"
        )
    if len(chosen) > 1:
        names = ", ".join(f"{group.dataset} on {group.backbone}" for group, _ in chosen)
        raise InputError(f"{results}: a study is of one backbone and dataset, not of {names}; name --plan")
    return _source(results, *chosen[0], limit)


def _source(results: Path, group: Group, rows: Sequence[Row], limit: int | None) -> Source:
    labels = tuple(row.label for row in rows)
    finished = [
        {(cell.clip, cell.prompt, cell.seed): cell for cell in row.cells.values() if _is_ok(row, cell)}
        for row in rows
    ]
    takes: dict[Pair, Take] = {}
    clips: set[str] = set()
    left_out: list[str] = []
    for pair in dict.fromkeys(pair for of_row in finished for pair in of_row):
        if len(clips | {pair[0]}) > (limit or len(finished[0])):
            continue
        clip, prompt, seed = pair
        lacking = [label for label, of_row in zip(labels, finished, strict=True) if pair not in of_row]
        if lacking:
            left_out.append(f'{clip}, "{prompt}", seed {seed}: no video by {", ".join(lacking)}')
            continue
        cells = {label: of_row[pair] for label, of_row in zip(labels, finished, strict=True)}
        take = _take(results, cells)
        if take is None:
            left_out.append(f'{clip}, "{prompt}", seed {seed}: one of its videos cannot be read')
            continue
        takes[pair] = take
        clips.add(clip)
    if not takes:
        raise InputError(
            f"{results}: no clip, prompt and seed has a video by each of {', '.join(labels)}; "
            "name fewer methods by --rows"
        )
    base = group.base.label if group.base is not None else labels[0]
    baseline = base if base in labels else labels[0]
    return Source(group.dataset, group.backbone, baseline, labels, tuple(takes.values()), tuple(left_out))


def _is_ok(row: Row, cell: PlannedCell) -> bool:
    return cell.id in row.records and row.records[cell.id].status == "ok"


def _take(results: Path, cells: dict[str, PlannedCell]) -> Take | None:
    """The take, None where one of its videos cannot be read."""
    any_cell = next(iter(cells.values()))
    references = [results / cell.path / store.REFERENCE for cell in cells.values()]
    reference = next((path for path in references if probe_video(path) is not None), None)
    videos = {label: results / cell.path / store.VIDEO for label, cell in cells.items()}
    probes = [probe_video(path) for path in videos.values()]
    seen = probe_video(reference) if reference is not None else None
    if reference is None or seen is None or None in probes:
        return None
    shrink = min(1.0, LONGEST_SIDE / max(seen.height, seen.width))
    seconds = min(probe.seconds for probe in (seen, *probes) if probe is not None)
    return Take(
        clip=any_cell.clip,
        prompt=any_cell.prompt,
        kind=any_cell.prompt_kind,
        seed=any_cell.seed,
        reference=reference,
        reference_id=any_cell.id,
        videos=videos,
        ids={label: cell.id for label, cell in cells.items()},
        seconds=round(seconds, 3),
        size=(round(seen.height * shrink), round(seen.width * shrink)),
        broken=_broken(reference, seconds),
    )


def _broken(reference: Path, seconds: float) -> tuple[str, ...]:
    """What a look tells from the reference: a clip that hardly moves looks the same frozen or reversed."""
    frames = cut(*read_video(reference), seconds).astype(np.float32)
    found = {
        "reversed": float(np.abs(frames - frames[::-1]).mean()),
        "frozen": float(np.abs(frames - frames[len(frames) // 2]).mean()),
    }
    return tuple(name for name, difference in found.items() if difference >= STILL)


def cut(frames: Frames, fps: float, seconds: float) -> Frames:
    """The frames of the first seconds, one at least."""
    return frames[: max(1, round(seconds * fps))]
