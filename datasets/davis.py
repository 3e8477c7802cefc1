"""DAVIS-2017 at 480p: real footage with object masks, and prompts of our own.

The folder has the layout of DAVIS-2017: ``JPEGImages/480p/SEQ/00000.jpg``,
``Annotations/480p/SEQ/00000.png``, ``ImageSets/2017/*.txt``; what else
``datasets.davis_folder`` finds is read with a remark. The sequences, their
splits, which of them are DAVIS-2016's 50 and their frame counts
(``davis_sequences.csv``) are facts from
``davisvideochallenge/davis-2017:data/db_info.yaml``; the prompts
(``davis_prompts.csv``) are written for this project.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from datasets import davis_download, davis_folder
from datasets.davis_folder import DavisFolder
from datasets.errors import InputError, nearest
from datasets.footage import FPS, Footage
from datasets.hashing import files_sha256
from datasets.interface import Clip, ClipInfo, LeftOut, Listing, Prompt
from datasets.media import images
from datasets.media.frame_files import FrameFiles
from datasets.tables import read_table

Row = dict[str, str]

PROMPT_SETS = ("caption", "subject", "scene")
SOURCE = (
    "DAVIS 2017 (Pont-Tuset et al., arXiv:1704.00675), davischallenge.org; "
    "each clip is under a Creative Commons licence of its author's"
)


def _table(path: Path, columns: Sequence[str]) -> dict[str, Row]:
    """Rows of a CSV file by their ``sequence``; InputError when one lacks a cell."""
    rows = read_table(path, columns, ())
    for row in rows:
        for column in columns:
            if not row[column]:
                raise InputError(f"{path}, line {row.line}: no {column}; the header is {','.join(columns)}")
    return {row["sequence"]: row.cells for row in rows}


@cache
def sequences() -> dict[str, Row]:
    """The 90 train and val sequences by name: ``split``, ``year``, ``frames``, ``ci10``."""
    columns = ("sequence", "split", "year", "frames", "ci10")
    return _table(Path(__file__).with_name("davis_sequences.csv"), columns)


@cache
def our_prompts() -> dict[str, Row]:
    """Our prompts for the 90 sequences by name: ``caption``, ``subject``, ``scene``."""
    return _table(Path(__file__).with_name("davis_prompts.csv"), ("sequence", *PROMPT_SETS))


def frame_counts() -> dict[str, int]:
    """Frames of each of the 90 train and val sequences."""
    return {name: int(row["frames"]) for name, row in sequences().items()}


@dataclass(config={"extra": "forbid"})
class DavisFootage(Footage):
    """What datasets of DAVIS sequences share.

    A ``root`` of null is the environment's ``DAVIS_ROOT``, else ``data/DAVIS``; see
    ``davis_folder.find`` for what it may be. With ``download`` a missing
    folder is fetched from ``download_url`` (trainval only). ``prompt_set`` chooses the target prompts:
    ``caption`` (what the clip shows), ``subject`` (the default: who moves is changed, so that leaking
    appearance shows), ``scene`` (where it happens is changed) or ``all`` three. ``prompts`` names a file of
    them. Other fields as in ``Footage``.

    The masks are every annotated object (id above 0) of the frames used, or None without any annotation or
    when nothing of them is left after cropping. The stratum ``objects`` is the number of objects annotated
    in the first frame used, where the annotation's palette tells them apart.
    """

    prompt_set: Literal["caption", "subject", "scene", "all"] = "subject"
    prompts: str | None = None
    download: bool = False
    download_url: str = davis_download.URL

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = (
        *Footage.outside_id,
        "prompt_set",
        "prompts",
        "download",
        "download_url",
    )
    remedy: ClassVar[str]

    @abstractmethod
    def _halves(self) -> Sequence[bool]:
        """Which halves of DAVIS are read: False is trainval, True test-dev."""

    @abstractmethod
    def _chosen(self, folders: Sequence[DavisFolder]) -> list[str]:
        """The sequences to run where none are asked for by name."""

    @abstractmethod
    def _texts(self) -> Mapping[str, Row]:
        """Prompts by sequence."""

    @abstractmethod
    def _without(self, name: str) -> str:
        """Why a sequence has no prompts."""

    def _pictures(self, folder: DavisFolder, name: str) -> FrameFiles:
        return folder.pictures(name)

    def _rate(self, name: str) -> float:
        """Frames a second of a sequence's pictures."""
        return FPS

    def listing(self) -> Listing:
        """The sequences to run, in the order of their names.

        Sequences that are absent from the folder, too short or without prompts are
        left out with the reason. InputError: no such folder, none remains, or one
        asked for by ``names`` cannot be used.
        """
        texts = self._texts()
        folders = self._folders()
        chosen = self._chosen(folders) if self.names is None else list(dict.fromkeys(self.names))
        clips, left_out = [], []
        for name in chosen:
            folder = _holding(folders, name)
            frames = self._pictures(folder, name)
            reason = self._unusable(folder, name, frames, texts)
            if reason is None:
                clips.append(self._info(folder, name, frames, texts[name]))
            else:
                left_out.append((not (folder.frames / name).is_dir(), LeftOut(name, reason)))
        left_out.sort(key=lambda pair: pair[0])
        return self.settle(clips, [out for _, out in left_out], f"dataset.root={self._root()}", self.remedy)

    def load(self, name: str) -> Clip:
        """Decode one sequence; InputError naming the picture that cannot be read."""
        folder = _holding(self._folders(), name)
        files = self._pictures(folder, name)
        pictures = self._used(name, files)
        if not pictures:
            raise InputError(f"{folder.frames / name}: has too few frames; see action=plan")
        frames = images.read_images(pictures)
        masks = self.resized_masks(folder.annotations(pictures)[0], frames)
        info = self._info(folder, name, files, self._texts()[name])
        return Clip(info, self.resized(frames), masks, times=np.arange(len(pictures)) / info.fps)

    def _root(self) -> Path:
        return Path(self.root or os.environ.get("DAVIS_ROOT") or "data/DAVIS").expanduser()

    def _folders(self) -> list[DavisFolder]:
        root = self._root()
        found = [davis_folder.find(root, test, sequences()) for test in self._halves()]
        folders = list(dict.fromkeys(folder for folder in found if folder is not None))
        if not folders:
            if not self.download:
                raise InputError(
                    f"dataset.root={root}: no DAVIS folder there (JPEGImages/480p): "
                    f"{davis_folder.contents(root)}; set dataset.root or DAVIS_ROOT, or "
                    "dataset.download=true fetches it (0.8 GB)"
                )
            davis_download.fetch(root, self.download_url, frame_counts())
            folders = [DavisFolder(root, root / "JPEGImages/480p")]
        return folders

    def _unusable(
        self, folder: DavisFolder, name: str, files: FrameFiles, texts: Mapping[str, Row]
    ) -> str | None:
        if not (folder.frames / name).is_dir() or not name:
            there = [*sequences(), *folder.sequences()]
            hint = f"; {nearest(name, there)}" if name in self.asked_for() and name not in there else ""
            return f"is not in {folder.frames}{hint}"
        if files.reason is not None:
            return files.reason
        if name not in texts:
            return self._without(name)
        taken = self.taken()
        available = taken.available(len(files.frames), self._rate(name))
        return None if self.count(available, taken) else self.shortfall(available, taken)

    def _used(self, name: str, files: FrameFiles) -> list[Path]:
        taken, rate = self.taken(), self._rate(name)
        count = self.count(taken.available(len(files.frames), rate), taken)
        return [files.frames[place] for place in taken.places(count, rate)]

    def _info(self, folder: DavisFolder, name: str, files: FrameFiles, row: Row) -> ClipInfo:
        pictures = self._used(name, files)
        masks, remarks = folder.annotations(pictures)
        kinds = PROMPT_SETS if self.prompt_set == "all" else (self.prompt_set,)
        return ClipInfo(
            name=name,
            content=self.content(files_sha256(pictures), self.taken()),
            prompts=tuple(Prompt(row[kind], kind) for kind in kinds),
            caption=row["caption"],
            fps=self.taken().rate(self._rate(name)),
            frames=len(pictures) if self.frames == "auto" else None,
            masks=self.masks_sha256(masks),
            remarks=folder.remarks + files.remarks + remarks,
            strata=_strata(masks),
        )


@dataclass(config={"extra": "forbid"})
class Davis(DavisFootage, kind="davis"):
    """DAVIS sequences as reference clips, with prompts of ours.

    ``split`` and ``subset`` choose the sequences:
    ``davis2016`` are the 50 of DAVIS-2016, ``ci10`` ten of them, null all of the split; ``names`` asks for
    sequences by name instead. ``prompts`` names a CSV file (sequence,caption,subject,scene) whose
    rows come before ours. Other fields as in ``DavisFootage``.
    """

    name: str = "davis"
    split: Literal["train", "val", "trainval", "test-dev"] = "trainval"
    subset: Literal["davis2016", "ci10"] | None = "davis2016"

    outside_id: ClassVar[Sequence[str]] = (*DavisFootage.outside_id, "split", "subset")
    source: ClassVar[str] = SOURCE
    remedy: ClassVar[str] = "Set a smaller frames, or dataset.subset=null for every sequence of the folder"

    def _halves(self) -> Sequence[bool]:
        return (self.split == "test-dev",)

    def _chosen(self, folders: Sequence[DavisFolder]) -> list[str]:
        (folder,) = folders
        there = folder.sequences()
        chosen = self._of_subset(folder, there)
        if not set(chosen).intersection(there):
            raise InputError(self._nowhere(folder, there))
        return chosen

    def _of_subset(self, folder: DavisFolder, there: Sequence[str]) -> list[str]:
        splits = ("train", "val") if self.split == "trainval" else (self.split,)
        known = [name for name, row in sequences().items() if row["split"] in splits]
        if self.subset is not None:
            if self.split == "test-dev":
                raise InputError(
                    f"dataset.subset={self.subset}: holds no sequence of test-dev; set dataset.subset=null"
                )
            column, value = ("ci10", "yes") if self.subset == "ci10" else ("year", "2016")
            return [name for name in known if sequences()[name][column] == value]
        # Without a list, test-dev is what is neither train's nor val's.
        others = [name for name in there if name not in sequences()]
        return folder.stated(splits) or known or others

    def _nowhere(self, folder: DavisFolder, there: Sequence[str]) -> str:
        """Why none of the sequences chosen is in the folder, and what to set."""
        subset = "null" if self.subset is None else self.subset
        setting = f"dataset.split={self.split} dataset.subset={subset}"
        none = f"{folder.frames}: holds no sequence of {setting}"
        if not there:
            return f"{none}, nor any other; set dataset.root to a DAVIS folder"
        shown = f"{', '.join(there[:3])}{', ...' if len(there) > 3 else ''}"
        if set(there).intersection(sequences()):
            return f"{none} but {shown}; set dataset.split=trainval dataset.subset=null"
        return (
            f"{none} but test-dev's or others ({shown}); set dataset.split=test-dev dataset.subset=null, "
            "and dataset.prompts to a CSV file of their prompts"
        )

    def _texts(self) -> dict[str, Row]:
        own = _table(Path(self.prompts).expanduser(), ("sequence", *PROMPT_SETS)) if self.prompts else {}
        return our_prompts() | own

    def _without(self, name: str) -> str:
        return "has no prompts of ours; give them in a CSV file named by dataset.prompts"


def _holding(folders: Sequence[DavisFolder], name: str) -> DavisFolder:
    """The folder that holds a sequence; the first where none does."""
    return next((folder for folder in folders if name and (folder.frames / name).is_dir()), folders[0])


def _strata(masks: Mapping[int, Path]) -> dict[str, str]:
    ids = images.palette_ids(masks[0]) if 0 in masks else None
    return {} if ids is None else {"objects": str(len(ids))}
