"""Your own footage: a folder of videos and of folders of pictures, with prompts."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic.dataclasses import dataclass

from datasets import images, video
from datasets.errors import InputError
from datasets.footage import Footage
from datasets.hashing import files_sha256
from datasets.interface import Clip, ClipInfo, LeftOut, Listing, Prompt

HEADER = "clip,prompt,caption,kind"
KINDS = ("caption", "subject", "scene", "target")
MASK = "_mask.png"


@dataclass(config={"extra": "forbid"})
class Folder(Footage, kind="folder"):
    """Videos (mp4, gif, webm, mkv, mov, avi) and sub-folders of pictures (jpg, png) in ``root``.

    A clip's name is its file's without the suffix, or its sub-folder's. Pictures follow each other in the
    order of their names, at 24 frames a second. Prompts stand in ``root/prompts.csv`` with the header
    ``clip,prompt`` and, optionally, ``caption`` (what the clip shows) and ``kind`` (caption, subject, scene
    or target); a clip may have several rows. ``prompt`` gives one prompt for all clips and takes the place of
    those in ``prompts.csv``. ``<clip>_mask.png`` marks the object in the first frame used (any pixel above
    0), so that the other frames' masks are empty; one that shows nothing after cropping counts as none.
    Other fields as in ``Footage``.
    """

    name: str = "folder"
    prompt: str | None = None

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ("root", "names", "prompt", "clip_model", "default_frames")

    def listing(self) -> Listing:
        """The clips to run, in the order of their names; those too short are left out with the reason.

        A video that cannot even be counted stays in the listing and fails when it
        is decoded, unless it is the only one or was asked for by name. InputError:
        no such folder, nothing in it, no prompt for a clip, or none remains.
        """
        root = self._root()
        sources = self._sources(root)
        rows = self._rows(root)
        unknown = [name for name in dict.fromkeys(row["clip"] for row in rows) if name not in sources]
        clips: list[ClipInfo] = []
        left_out: list[LeftOut] = []
        for name in dict.fromkeys(self.names if self.names is not None else [*sources, *unknown]):
            if name not in sources:
                left_out.append(LeftOut(name, f"is not in {root}"))
            elif reason := self._short(sources[name]):
                left_out.append(LeftOut(name, reason))
            else:
                clips.append(self._info(root, name, sources[name], rows))
        remedy = "Set a smaller frames, or name a folder with longer clips"
        return self.settle(clips, left_out, f"dataset.root={root}", remedy)

    def load(self, name: str) -> Clip:
        """Decode one clip; InputError naming the file that cannot be read or is too short."""
        root = self._root()
        source = self._sources(root)[name]
        info = self._info(root, name, source, self._rows(root))
        times = None
        if source.is_dir():
            frames = images.read_images(_pictures(source)[self.used])
        else:
            frames, times, fps = video.read_timed(source, self.start, self.frames, self.stride)
            info = replace(info, fps=fps)
        if len(frames) < self.frames:
            raise InputError(f"{source}: only {len(frames)} of {self.frames} frames can be decoded")
        masks = self.resized_masks(_masks(root, name), frames)
        return Clip(info, self.resized(frames), masks, times=times)

    def _root(self) -> Path:
        if not self.root:
            raise InputError("dataset.root: not set; name a folder of videos (mp4, gif) or of frame folders")
        return Path(self.root).expanduser()

    def _sources(self, root: Path) -> dict[str, Path]:
        """Videos and frame folders by clip name."""
        if not root.is_dir():
            raise InputError(f"dataset.root={root}: no such folder; name a folder of videos")
        shown = [path for path in sorted(root.iterdir()) if not path.name.startswith(".")]
        found = [
            path
            for path in shown
            if (path.is_file() and path.suffix.lower() in video.VIDEO_SUFFIXES)
            or (path.is_dir() and _pictures(path))
        ]
        if not found:
            raise InputError(
                f"dataset.root={root}: no clip there; put videos ({', '.join(video.VIDEO_SUFFIXES)}) or "
                "folders of jpg or png into it"
            )
        names = Counter(_clip_name(path) for path in found)
        for path in found:
            if names[_clip_name(path)] > 1:
                raise InputError(f"{path}: another clip of the folder has this name; rename one")
        return {_clip_name(path): path for path in found}

    def _rows(self, root: Path) -> list[dict[str, str]]:
        """Rows of prompts.csv, checked, ``clip`` without suffix; none when there is no such file."""
        path = root / "prompts.csv"
        if not path.is_file():
            return []
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, skipinitialspace=True)
                columns = reader.fieldnames or []
                raw = [(reader.line_num, row) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read ({error}); write it as UTF-8 CSV") from error
        wrong = [column for column in columns if column not in HEADER.split(",")]
        if wrong or not {"clip", "prompt"} <= set(columns):
            raise InputError(
                f"{path}: its header is {','.join(map(str, columns))}; write {HEADER} (the last two optional)"
            )
        rows = []
        for line, cells in raw:
            if None in cells:
                raise InputError(f"{path}, line {line}: more cells than columns; quote texts with commas")
            row = {column: (cell or "").strip() for column, cell in cells.items()}
            if not row["clip"] or not row["prompt"]:
                raise InputError(f"{path}, line {line}: no {'prompt' if row['clip'] else 'clip'}")
            kind = row.get("kind") or "target"
            if kind not in KINDS:
                raise InputError(f"{path}, line {line}: kind {kind} is none of {', '.join(KINDS)}")
            rows.append(row | {"kind": kind, "clip": _clip_name(Path(row["clip"]))})
        return rows

    def _short(self, source: Path) -> str | None:
        try:
            available = len(_pictures(source)) if source.is_dir() else video.count_frames(source)
        except InputError:
            return None
        return self.shortfall(available)

    def _info(self, root: Path, name: str, source: Path, rows: Sequence[dict[str, str]]) -> ClipInfo:
        own = [row for row in rows if row["clip"] == name]
        prompts = tuple(Prompt(row["prompt"], row["kind"]) for row in own)
        if self.prompt is not None:
            prompts = (Prompt(self.prompt),)
        if not prompts:
            raise InputError(
                f"{root / 'prompts.csv'}: no prompt for {name}; write the header {HEADER} (the last two "
                "optional) and a row for each clip, or set dataset.prompt"
            )
        used = [source]
        if source.is_dir():
            used = _pictures(source)[self.used]
        return ClipInfo(
            name=name,
            content=files_sha256(used),
            prompts=prompts,
            caption=next((row["caption"] for row in own if row.get("caption")), None),
            fps=24.0 / self.stride,
            masks=self.masks_sha256(_masks(root, name)),
        )


def _clip_name(path: Path) -> str:
    return path.stem if path.suffix.lower() in video.VIDEO_SUFFIXES else path.name


def _masks(root: Path, name: str) -> dict[int, Path]:
    """The mask of the first frame used, where there is one."""
    path = root / f"{name}{MASK}"
    return {0: path} if path.is_file() else {}


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in images.IMAGE_SUFFIXES and not path.name.startswith(".")
    )
