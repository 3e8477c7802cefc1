"""Your own footage: a folder of videos and of folders of pictures, with prompts."""

from __future__ import annotations

import contextlib
import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from datasets.footage import FPS, Footage, Taken
from datasets.hashing import files_sha256
from datasets.interface import Clip, ClipInfo, LeftOut, Listing, Prompt
from datasets.media import images, video
from datasets.media.frame_files import FrameFiles, frame_files, junk
from datasets.tables import Row, clip_name, find_file, read_table

COLUMNS = ("clip", "prompt")
MORE = ("caption", "kind", "stride", "fps")
KINDS = ("caption", "subject", "scene", "target")
MASK = "_mask.png"


class Source(NamedTuple):
    """Where a clip lies; ``pictures``: those of a frame folder, None for a video."""

    path: Path
    pictures: FrameFiles | None = None

    def available(self, taken: Taken) -> int:
        """Frames at the rate wanted. Raises InputError where they cannot be counted."""
        if self.pictures is None:
            return video.count_frames(self.path, taken.fps)
        return taken.available(len(self.pictures.frames), FPS)

    def used(self, count: int, taken: Taken) -> list[Path]:
        """The files that hold ``count`` frames."""
        if self.pictures is None:
            return [self.path]
        frames = self.pictures.frames
        return [frames[place] for place in taken.places(count, FPS) if place < len(frames)]


@dataclass(config={"extra": "forbid"})
class Folder(Footage, kind="folder"):
    """Videos (``datasets.media.video.VIDEO_SUFFIXES``) and sub-folders of pictures in ``root``.

    A clip's name is its file's without the suffix, or its sub-folder's. Pictures follow each other as
    ``datasets.media.frame_files`` says, at 24 frames a second. Prompts stand in ``root/prompts.csv`` with the
    header ``clip,prompt`` and, optionally, ``caption`` (what the clip shows), ``kind`` (caption, subject,
    scene or target), ``stride`` and ``fps`` (this clip's, before the dataset's). A clip may have several
    rows.
    ``prompt`` gives one prompt for all clips and takes the place of those in ``prompts.csv``.
    ``<clip>_mask.png`` marks the object in the first frame used (any pixel above
    0), so that the other frames' masks are empty; one that shows nothing after cropping counts as none.
    Other fields as in ``Footage``.
    """

    name: str = "folder"
    prompt: str | None = None

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = (*Footage.outside_id, "prompt")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and not self.prompt.strip():
            raise InputError("dataset.prompt: is empty; write what the videos shall show")

    def listing(self) -> Listing:
        """The clips to run, in the order of their names; those without a prompt or too short are left out.

        A video that cannot even be counted stays in the listing and fails when it
        is decoded, unless it is the only one or was asked for by name. InputError:
        no such folder, nothing in it, no prompts at all, or none remains.
        """
        root = self._root()
        sources, left_out = self._sources(root)
        table = self._table(root, sources)
        clips: list[ClipInfo] = []
        for name in dict.fromkeys(self.names if self.names is not None else [*sources, *table]):
            reason = self._unusable(root, name, sources, table)
            if reason is None:
                clips.append(self._info(root, name, sources[name], table.get(name, [])))
            else:
                left_out.append(LeftOut(name, reason))
        remedy = "Set a smaller frames (or frames=auto), or name a folder with longer clips"
        return self.settle(clips, left_out, f"dataset.root={root}", remedy)

    def load(self, name: str) -> Clip:
        """Decode one clip; InputError naming the file that cannot be read or is too short."""
        root = self._root()
        sources, _ = self._sources(root)
        source, rows = sources[name], self._table(root, sources).get(name, [])
        taken = self._taken(rows)
        info = self._info(root, name, source, rows)
        count = self.frames if self.frames != "auto" else self.count(source.available(taken), taken)
        times = None
        if source.pictures is not None:
            frames = images.read_images(source.used(count, taken))
        else:
            frames, times, fps = video.read_timed(source.path, taken.start, count, taken.stride, taken.fps)
            info = replace(info, fps=fps)
        if len(frames) < count:
            raise InputError(f"{source.path}: only {len(frames)} of {count} frames can be decoded")
        masks = self.resized_masks(_masks(root, name), frames)
        return Clip(info, self.resized(frames), masks, times=times)

    def _root(self) -> Path:
        if not self.root:
            raise InputError("dataset.root: not set; name a folder of videos (mp4, gif) or of frame folders")
        return Path(self.root).expanduser()

    def _sources(self, root: Path) -> tuple[dict[str, Source], list[LeftOut]]:
        """Videos and frame folders by clip name, and the folders that are none."""
        if not root.is_dir():
            raise InputError(f"dataset.root={root}: no such folder; name a folder of videos")
        found: dict[str, Source] = {}
        left_out = []
        for path in sorted(root.iterdir()):
            if path.is_dir() and not junk(path):
                source = Source(path, frame_files(path))
            elif path.suffix.lower() in video.VIDEO_SUFFIXES and not junk(path):
                source = Source(path)
            else:
                continue
            name = _name_of(path)
            reason = source.pictures.reason if source.pictures else None
            if reason is not None:
                if self.names is None or name in self.names:
                    left_out.append(LeftOut(name, reason))
            elif name in found:
                raise InputError(f"{path}: another clip of the folder has this name; rename one")
            else:
                found[name] = source
        if not found:
            reasons = "".join(f"; {out.clip} {out.reason}" for out in left_out[:3])
            raise InputError(
                f"dataset.root={root}: no clip there; put videos ({', '.join(video.VIDEO_SUFFIXES)}) or "
                f"folders of pictures into it{reasons}"
            )
        return found, left_out

    def _table(self, root: Path, sources: Iterable[str]) -> dict[str, list[Row]]:
        """Rows of prompts.csv by clip, checked; those of a name that differs only in case are its clip's."""
        path = root / "prompts.csv"
        if not path.is_file():
            if self.prompt is None:
                raise InputError(
                    f"{path}: missing; write the header {','.join(COLUMNS)} (and, if wanted, "
                    f"{','.join(MORE)}) and a row for each clip, or set dataset.prompt"
                )
            return {}
        own = {name.casefold(): name for name in sources}
        table: dict[str, list[Row]] = {}
        for row in read_table(path, COLUMNS, MORE):
            if not row["clip"] or not row["prompt"]:
                raise InputError(f"{path}, line {row.line}: no {'prompt' if row['clip'] else 'clip'}")
            if row["kind"] and row["kind"] not in KINDS:
                raise InputError(f"{path}, line {row.line}: kind {row['kind']} is none of {', '.join(KINDS)}")
            name = clip_name(row["clip"])
            rows = table.setdefault(name if name in sources else own.get(name.casefold(), name), [])
            rows.append(row)
            for column in ("stride", "fps"):
                _number(row, column, path)
                if row[column] != rows[0][column]:
                    raise InputError(
                        f"{path}, line {row.line}: {column} differs from line {rows[0].line}'s, the same "
                        "clip; write one"
                    )
        return table

    def _taken(self, rows: Sequence[Row]) -> Taken:
        first = rows[0] if rows else Row(0, {})
        stride, fps = (_number(first, column) for column in ("stride", "fps"))
        return self.taken(None if stride is None else int(stride), fps)

    def _unusable(
        self, root: Path, name: str, sources: Mapping[str, Source], table: Mapping[str, Sequence[Row]]
    ) -> str | None:
        if name not in sources:
            return _absent(root, name, sources)
        if self.prompt is None and name not in table:
            rows = [row for row in table if row not in sources]
            near = difflib.get_close_matches(name, rows, n=1)
            hint = f"; {table[near[0]][0]} is near it" if near else ""
            return f"has no prompt: add a row to {root / 'prompts.csv'}, or set dataset.prompt{hint}"
        taken = self._taken(table.get(name, []))
        try:
            available = sources[name].available(taken)
        except InputError:
            return None
        return None if self.count(available, taken) else self.shortfall(available, taken)

    def _info(self, root: Path, name: str, source: Source, rows: Sequence[Row]) -> ClipInfo:
        taken = self._taken(rows)
        count: int | None = None if self.frames == "auto" else self.frames
        looks: tuple[str, ...] = ()
        remarks: tuple[str, ...] = ()
        # What cannot be read fails where it is read.
        with contextlib.suppress(InputError):
            if count is None:
                count = self.count(source.available(taken), taken)
            if source.pictures is None:
                looks, remarks = video.looks(source.path), video.remarks(source.path)
            elif used := source.used(count, taken):
                looks = images.looks(used[0])
                remarks = source.pictures.remarks + looks
        used = source.used(count or 0, taken)
        prompts = tuple(Prompt(row["prompt"], row["kind"] or "target") for row in rows)
        return ClipInfo(
            name=name,
            content=self.content(files_sha256(used), taken, looks),
            prompts=prompts if self.prompt is None else (Prompt(self.prompt),),
            caption=next((row["caption"] for row in rows if row["caption"]), None),
            fps=taken.rate(FPS),
            masks=self.masks_sha256(_masks(root, name)),
            frames=count if self.frames == "auto" else None,
            remarks=remarks,
        )


def _number(row: Row, column: str, path: Path | None = None) -> float | None:
    """A stride or rate of a row, or None where it says none."""
    if not row[column]:
        return None
    with contextlib.suppress(ValueError):
        number = float(row[column])
        if 0 < number <= 1000 and (column == "fps" or number.is_integer()):
            return number
    kind = "a rate" if column == "fps" else "a whole number"
    raise InputError(f"{path}, line {row.line}: {column} {row[column]!r}; write {kind} from 1 to 1000")


def _absent(root: Path, name: str, sources: Iterable[str]) -> str:
    """Why there is no such clip."""
    there = [path for path in sorted(root.iterdir()) if clip_name(path.name) == name or path.stem == name]
    if there:
        kinds = ", ".join(video.VIDEO_SUFFIXES)
        return f"is no clip: {there[0]} is neither a video ({kinds}) nor a folder of pictures"
    near = difflib.get_close_matches(name, list(sources), n=1)
    return f"is not in {root}" + (f"; did you mean {near[0]}?" if near else "")


def _name_of(path: Path) -> str:
    return clip_name(path.name) if path.is_file() else unicodedata.normalize("NFC", path.name)


def _masks(root: Path, name: str) -> dict[int, Path]:
    """The mask of the first frame used, where there is one."""
    path = find_file(root, f"{name}{MASK}")
    return {0: path} if path.is_file() else {}
