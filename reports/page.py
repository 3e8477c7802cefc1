"""One page to show others: tables, plots and a gallery in a folder that needs no server and no network.

``index.html`` holds everything but the videos, the records and the plots' print files, which lie
beside it under ``media`` (hard links to the results where the disk allows, else copies). Names and
prompts are data: they reach the page only through jinja2's escaping, and a content security policy
lets the page run its own script and load its own files, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from datasets.files import sweep, temporary_path, write_whole
from harness.records import store
from harness.records.printable import printable
from reports.columns import Column
from reports.formats import entries, headers, render
from reports.output import writing
from reports.plots.figures import NotDrawn, plots, write_plots
from reports.plots.files import inline_svg, save, slug
from reports.published import Block
from reports.rows import Group, Row, groups
from reports.tables import Table

if TYPE_CHECKING:
    from jinja2 import Environment

    from harness.records.record import Plan, PlannedCell, Record

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = "vmtbench reports"
MEDIA = "media"

ENDED = {
    "failed": "Failed",
    "oom": "Out of memory",
    "timeout": "Ran out of time",
    "killed": "Killed",
    "cancelled": "Cancelled",
    "invalid": "Invalid",
    "planned": "Not run yet",
    "unreadable": "Record cannot be read",
    "absent": "Not in this row's plan",
    "lost": "Video cannot be read",
}
"""What the page says in the place of a video."""


@dataclass(frozen=True)
class Value:
    """A measured number of one video, and how it is written."""

    key: str
    label: str
    text: str
    number: float


@dataclass(frozen=True)
class Shot:
    """What one row made of one take.

    ``status``: ``ok`` or a key of ``ENDED``. ``video`` and ``record`` are relative to the page.
    """

    label: str
    status: str
    video: str | None = None
    record: str | None = None
    message: str = ""
    values: tuple[Value, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> str:
        """Metric -> number, as JSON, for the page's script."""
        return json.dumps({value.key: value.number for value in self.values})


@dataclass(frozen=True)
class Take:
    """A clip, prompt and seed: the reference and, in the rows' order, what each row made of it.

    ``fps``, ``width`` and ``height`` are the reference video's (the first video's there is, if the
    reference is lost); ``seconds`` is the longest video's length. ``crisp``: drawn with hard pixels,
    since the frames are tiny.
    """

    group: str
    clip: str
    prompt: str
    kind: str
    seed: int
    reference: str | None
    shots: tuple[Shot, ...]
    fps: float = 24.0
    seconds: float = 1.0
    width: int = 1
    height: int = 1
    crisp: bool = False


@dataclass(frozen=True)
class Probe:
    """Frames a second, length in seconds and size in pixels of a video file."""

    fps: float
    seconds: float
    width: int
    height: int


@dataclass
class _Media:
    """Brings files into the page's folder under readable names, each once."""

    out: Path
    taken: dict[str, Path] = field(default_factory=dict)

    def add(self, source: Path, *words: str) -> str:
        """Link or copy a file; its name, made of the words, relative to the page."""
        stem = "-".join(slug(word)[:60] for word in words)
        name = f"{stem}{source.suffix}"
        while self.taken.get(name, source) != source:
            stem += "_"
            name = f"{stem}{source.suffix}"
        if name not in self.taken:
            self.taken[name] = source
            link(source, self.out / MEDIA / name)
        return f"{MEDIA}/{name}"


def publish(
    results: Path,
    plans: Sequence[Plan],
    made: Sequence[Table],
    page: Path | None,
    figures: Path | None,
    everything: bool = False,
    blocks: Sequence[Block] = (),
) -> list[str]:
    """Write the page, the figures, or both; lines that say where they are and what was not drawn.

    InputError when a folder cannot be written.
    """
    said = []
    if figures is not None:
        written, missing = write_plots(results, plans, figures, everything)
        said += [str(path) for path in written] + [f"not drawn: {one.name}: {one.reason}" for one in missing]
    if page is not None:
        said.append(str(write_page(results, plans, made, page, blocks)))
    return said


def write_page(
    results: Path, plans: Sequence[Plan], made: Sequence[Table], out: Path, blocks: Sequence[Block] = ()
) -> Path:
    """Write the page of these plans into the folder ``out``; the path of its ``index.html``.

    ``made``: the plans' tables (``reports.tables.tables``), shown as they are; ``blocks`` stand below
    them. A page that is there already is replaced, and the media it no longer needs are removed.
    InputError when ``out`` holds anything else, or cannot be written.
    """
    check_ours(out)
    media = _Media(out)
    of_group = {(table.backbone, table.dataset): table for table in made}
    sections: list[dict[str, Any]] = []
    takes: list[Take] = []
    with writing(out):
        index = out / "index.html"
        for folder in (out, out / MEDIA):
            sweep(folder, former=True)
        # A page that is cut short must still be known as ours, so that it can be written again.
        write_whole(index, f'<meta name="generator" content="{GENERATOR}">This page was cut short.'.encode())
        (out / MEDIA).mkdir(exist_ok=True)
        for group in groups(results, plans):
            table = of_group[(group.backbone, group.dataset)]
            drawn, missing = [], []
            for plot in plots(results, group, table):
                if isinstance(plot, NotDrawn):
                    missing.append(plot)
                    continue
                files = [path.name for path in save(plot, out / MEDIA)]
                media.taken.update((name, out / MEDIA / name) for name in files)
                drawn.append({"svg": inline_svg(plot), "caption": plot.caption, "files": files})
            sections.append({"table": grid(table), "plots": drawn, "missing": missing})
            takes += takes_of(results, group, table, media)
        for form, suffix in (("md", "md"), ("latex", "tex"), ("csv", "csv")):
            name = f"tables.{suffix}"
            write_whole(out / MEDIA / name, render(made, form).encode(errors="backslashreplace"))
            media.taken[name] = out / MEDIA / name
        write_whole(index, _html(plans, sections, takes, made, blocks).encode(errors="backslashreplace"))
        for path in (out / MEDIA).iterdir():
            if path.is_file() and path.name not in media.taken:
                path.unlink()
    return index


def takes_of(results: Path, group: Group, table: Table, media: _Media) -> list[Take]:
    """Every (clip, prompt, seed) that any of the group's rows plans, in the order of the plans."""
    keys: dict[tuple[str, str, int], None] = {}
    cells: list[dict[tuple[str, str, int], PlannedCell]] = []
    for row in group.rows:
        cells.append({(cell.clip, cell.prompt, cell.seed): cell for cell in row.cells.values()})
        keys |= dict.fromkeys(cells[-1])
    return [
        _take(
            results,
            group,
            table,
            [(row, of_row.get(key)) for row, of_row in zip(group.rows, cells, strict=True)],
            media,
        )
        for key in keys
    ]


def _take(
    results: Path,
    group: Group,
    table: Table,
    of_rows: list[tuple[Row, PlannedCell | None]],
    media: _Media,
) -> Take:
    any_cell = next(cell for _, cell in of_rows if cell is not None)
    shots, probes, reference = [], [], None
    for row, cell in of_rows:
        shot, probe = _shot(results, row, cell, table.columns, media)
        shots.append(shot)
        probes += [probe] if probe else []
        path = results / cell.path / store.REFERENCE if cell else None
        if reference is None and path is not None and (found := probe_video(path)) is not None:
            reference = media.add(path, "reference", any_cell.clip, any_cell.id)
            probes.insert(0, found)
    known = probes[0] if probes else Probe(24.0, 1.0, 1, 1)
    record = next((record for row, _ in of_rows for record in row.records.values()), None)
    sides: list[Any] = [record.backbone.config.get(side) for side in ("width", "height")] if record else []
    if record and record.reference:
        sides = [record.reference.width, record.reference.height]
    return Take(
        group=table.title,
        clip=any_cell.clip,
        prompt=any_cell.prompt,
        kind=any_cell.prompt_kind,
        seed=any_cell.seed,
        reference=reference,
        shots=tuple(shots),
        fps=known.fps,
        seconds=max((probe.seconds for probe in probes), default=known.seconds),
        width=known.width,
        height=known.height,
        crisp=bool(sides) and all(isinstance(side, int) and side <= 128 for side in sides),
    )


def _shot(
    results: Path, row: Row, cell: PlannedCell | None, columns: Sequence[Column], media: _Media
) -> tuple[Shot, Probe | None]:
    if cell is None:
        return Shot(row.label, "absent"), None
    folder = results / cell.path
    record = row.records.get(cell.id)
    if record is None:
        status = "unreadable" if str(folder / store.RECORD) in row.unreadable else "planned"
        return Shot(row.label, status), None
    linked = media.add(folder / store.RECORD, row.label, cell.clip, cell.id)
    if record.status != "ok":
        error = record.error
        message = f"{error.kind}: {error.message}" if error else ""
        return Shot(row.label, record.status, None, linked, message, notes=tuple(record.notes)), None
    values = tuple(_values(record, columns))
    probe = probe_video(folder / store.VIDEO)
    if probe is None:
        return Shot(row.label, "lost", None, linked, store.VIDEO, values, tuple(record.notes)), None
    video = media.add(folder / store.VIDEO, row.label, cell.clip, cell.id)
    return Shot(row.label, "ok", video, linked, "", values, tuple(record.notes)), probe


def probe_video(path: Path) -> Probe | None:
    """Length and size of a video, from its header; None when it is not there or not a video."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 24)
            frames = stream.frames or round(float(container.duration or 0) / av.time_base * fps)
            return Probe(fps, max(1, frames) / fps, max(1, stream.width), max(1, stream.height))
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return None


def _values(record: Record, columns: Sequence[Column]) -> Iterator[Value]:
    """The record's numbers under the table's columns, its secondary metrics left to the record."""
    for column in columns:
        number = column.number(record)
        if number is not None and column.of_video:
            digits = 3 if abs(number) < 10 and not column.unit else 2
            text = f"{number:.{digits}f}{f' {column.unit}' if column.unit else ''}"
            yield Value(column.key, column.label, text, number)


def grid(table: Table) -> dict[str, Any]:
    """A table for the template: headings, and rows of entries."""
    return {
        "title": table.title,
        "headers": headers(table),
        "rows": [
            {"label": label, "cells": list(of_row.values())} for label, of_row in entries(table).items()
        ],
        "notes": table.notes,
    }


def _html(
    plans: Sequence[Plan],
    sections: list[dict[str, Any]],
    takes: list[Take],
    made: Sequence[Table],
    blocks: Sequence[Block],
) -> str:
    style, clock, script = ((TEMPLATES / name).read_text() for name in ("page.css", "clock.js", "page.js"))
    script = clock + script
    metrics = {value.key: value.label for take in takes for shot in take.shots for value in shot.values}
    lower = {column.key for table in made for column in table.columns if column.higher_is_better is False}
    template = environment().get_template("page.html")
    return template.render(
        generator=GENERATOR,
        style=style,
        script=script,
        script_hash=script_hash(script),
        plans=plans,
        sections=sections,
        takes=takes,
        blocks=blocks,
        media=MEDIA,
        ended=ENDED,
        labels=list(dict.fromkeys(shot.label for take in takes for shot in take.shots)),
        groups=list(dict.fromkeys(take.group for take in takes)),
        clips=list(dict.fromkeys(take.clip for take in takes)),
        prompts=list(dict.fromkeys(take.prompt for take in takes)),
        failed=sum(shot.status not in ("ok", "absent", "planned") for take in takes for shot in take.shots),
        metrics=[{"key": key, "label": label, "lower": key in lower} for key, label in metrics.items()],
    )


def environment() -> Environment:
    """jinja2's, for the templates: all that is put in is escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names may hold control characters. Markup, a kind of str, is ours and stays.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )


def script_hash(script: str) -> str:
    """By which a content security policy knows a page's own script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def check_ours(out: Path) -> None:
    """InputError unless ``out`` is free, empty or a page of ours: nobody's files are removed or replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder for the page")
    index = out / "index.html"
    ours = index.is_file() and f'content="{GENERATOR}"' in index.read_text(errors="replace")[:2000]
    if not ours and any(out.iterdir()):
        raise InputError(f"--out {out}: holds other files; name an empty or new folder for the page")


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where there can be none; replaces what is there."""
    temporary = temporary_path(target)
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        # Two links to one file: rename leaves both names.
        temporary.unlink(missing_ok=True)
