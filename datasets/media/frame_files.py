"""Which pictures of a folder are the frames of a clip, and in what order."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from datasets.media import images

NUMBER = re.compile(r"[0-9]+")
DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Words in the name of a picture that goes with a frame and is none.
MASK_WORDS = frozenset(("mask", "masks", "matte", "mattes", "segmentation", "annotation", "annotations"))
THUMB_WORDS = frozenset(("thumb", "thumbs", "thumbnail", "thumbnails"))

# What operating systems and archives leave in folders, besides names that begin with a dot.
JUNK = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"))

# Kinds of picture that need to be converted, or a package beside Pillow.
UNREADABLE = {
    ".jxl": "install pillow-jxl-plugin",
    **dict.fromkeys((".heic", ".heif", ".exr", ".hdr", ".dpx", ".dng"), "convert them to png"),
}


@dataclass(frozen=True)
class FrameFiles:
    """The pictures of a folder that are its clip's frames, in order.

    ``remarks``: what a reader should know of how they were chosen, one line each.
    ``reason``: why there are none, to follow the folder's name; None where there are.
    """

    frames: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()
    reason: str | None = None


def junk(path: Path) -> bool:
    """Whether a file or folder is what systems leave behind: ``._*``, ``.DS_Store``, ``Thumbs.db``..."""
    return path.name.startswith(".") or path.name.lower() in JUNK


def frame_files(folder: Path) -> FrameFiles:
    """The frames of a folder of pictures.

    * A picture has one of ``images.picture_suffixes``, in upper or lower case. ``junk`` is passed over.
    * One with a word of ``MASK_WORDS`` or ``THUMB_WORDS`` in its name is never a frame: ``00000_mask.png``,
      ``Mask3.png``, ``thumb.jpg``. Nor is one in a folder called ``masks``, or ``a_masks`` beside ``a``.
    * Names that differ in their numbers only are a family: ``frame_0.png`` to ``frame_16.png``. So are, each
      on its own, kinds of file with the same numbers (``0.jpg``, ``0.png``) and sequences that another
      number tells apart (``cam0_0001``, ``cam1_0001``).
    * The largest family is the clip, in the order of its numbers; a remark names the other pictures. Of
      several as large, it is the one whose names the others add words to (``00000_depth``), or none.
    * Where more pictures belong to no family than to the largest, all are frames in the order of their names.

    The same number twice, and numbers that could be read in two orders, are a reason for none. Missing
    numbers are a remark. A folder that cannot be listed has the system's words as reason.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted((Path(entry.path), entry.is_dir()) for entry in entries)
    except OSError as error:
        return FrameFiles(reason=f"cannot be listed ({error.strerror})")
    files = [path for path, is_folder in found if not is_folder and not junk(path)]
    pictures = [path for path in files if path.suffix.lower() in images.picture_suffixes()]
    frames = [path for path in pictures if not _words(path.stem) & (MASK_WORDS | THUMB_WORDS)]
    unread = Counter(path.suffix.lower() for path in set(files).difference(pictures))
    unread = Counter({kind: count for kind, count in unread.items() if kind in UNREADABLE})
    if unread and unread.total() > len(frames):
        kind = max(unread, key=lambda suffix: unread[suffix])
        return FrameFiles(reason=f"its {unread[kind]} {kind} pictures cannot be read; {UNREADABLE[kind]}")
    if pictures and _of_masks(folder):
        return FrameFiles(reason="is a folder of masks by its name; rename it if they are frames")
    if pictures and not frames:
        named = _named(pictures)
        return FrameFiles(reason=f"holds only masks or thumbnails ({named}); rename them if they are frames")
    if not frames:
        folders = [path for path, is_folder in found if is_folder and not junk(path)]
        return FrameFiles(reason=_no_pictures(files, folders))
    if len(frames) == 1 and (count := images.pages(frames[0])) > 1:
        return FrameFiles(
            reason=f"holds one file of {count} pictures ({frames[0].name}); save each on its own"
        )
    return _sequence(frames, pictures)


def _of_masks(folder: Path) -> bool:
    """Whether a folder is called ``masks``, or ``bear_masks`` beside ``bear`` or ``bear.mp4``."""
    words = WORD.findall(folder.name)
    if not words or words[-1].lower() not in MASK_WORDS:
        return False
    of = folder.name[: folder.name.rindex(words[-1])].rstrip("_- .")
    return not of or any(of in (path.name, path.stem) for path in folder.absolute().parent.iterdir())


def _no_pictures(files: Sequence[Path], folders: Sequence[Path]) -> str:
    within = [folder.name for folder in folders if _has_picture(folder)]
    if within:
        more = f" and {len(within) - 3} more" if len(within) > 3 else ""
        return f"has its pictures in sub-folders: {', '.join(within[:3])}{more}"
    kinds = Counter(path.suffix.lower() or "without suffix" for path in files)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))
    return f"holds no pictures ({listed or 'it is empty'})"


def _has_picture(folder: Path) -> bool:
    try:
        inside = [path for path in folder.iterdir() if not junk(path)]
    except OSError:
        return False
    return any(path.suffix.lower() in images.picture_suffixes() for path in inside)


def _words(name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in WORD.findall(name))


def _numbers(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in NUMBER.findall(path.stem))


def _template(path: Path) -> str:
    return NUMBER.sub("#", path.stem).lower()


def _natural(path: Path) -> tuple[list[str | int], str]:
    texts = [*NUMBER.split(path.stem), ""]
    numbers = [*_numbers(path), -1]
    return [part for pair in zip(texts, numbers, strict=False) for part in pair], path.name


def _by(key: Callable[[Path], Hashable], paths: Iterable[Path]) -> list[list[Path]]:
    groups: dict[Hashable, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return list(groups.values())


def _sequence(frames: list[Path], pictures: Sequence[Path]) -> FrameFiles:
    """The largest family of ``frames``; the other ``pictures`` are named."""
    alike = _by(_template, frames)
    numbered = [group for group in alike if len(group) > 1 and _numbers(group[0])]
    families = sorted((family for group in numbered for family in _families(group)), key=len, reverse=True)
    loose = len(frames) - sum(map(len, families))
    if not families or loose > len(families[0]):
        ordered = sorted(frames, key=_natural)
        remark = f"its pictures are not numbered: read in the order of their names, from {ordered[0].name}"
        return FrameFiles(tuple(ordered), _aside(ordered, pictures) + ((remark,) if len(ordered) > 1 else ()))
    largest = [family for family in families if len(family) == len(families[0])]
    chosen = largest[0] if len(largest) == 1 else _lengthened(largest)
    if chosen is None:
        firsts = " and ".join(min(family, key=_natural).name for family in largest[:3])
        several = f"{len(largest)} sequences of {len(families[0])} pictures ({firsts})"
        return FrameFiles(reason=f"holds {several}; keep one, or give each a folder of its own")
    ordered = sorted(chosen, key=lambda path: (_numbers(path), path.name))
    for one, other in pairwise(ordered):
        if _numbers(one) == _numbers(other):
            return FrameFiles(reason=f"holds {one.name} and {other.name}, the same number; keep one")
    return _numbered(ordered, _aside(ordered, pictures))


def _families(alike: list[Path]) -> list[list[Path]]:
    """Pictures whose names differ in numbers only, each sequence of them on its own."""
    numbers = {path: _numbers(path) for path in alike}
    kinds = _by(lambda path: path.suffix.lower(), alike)
    if len(set(numbers.values())) < len(alike) and len(kinds) > 1:
        return [family for kind in kinds for family in _families(kind)]
    columns = list(zip(*numbers.values(), strict=True))
    varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    if len(varying) > 1:
        # The frame number has the most values; it starts anew in each sequence.
        counter = max(varying, key=lambda place: (len(set(columns[place])), place))
        groups = _by(lambda path: numbers[path][:counter] + numbers[path][counter + 1 :], alike)
        dense = all(_dense([numbers[path][counter] for path in group]) for group in groups)
        # Sparse numbers behind it are fractions of a second.
        dense = dense and all(_dense(list(set(columns[place]))) for place in varying if place > counter)
        if dense and len(set(columns[counter])) < len(alike):
            return groups
    return [alike]


def _dense(values: Sequence[int]) -> bool:
    """Whether at least half of the numbers in a range are there."""
    return 2 * len(values) >= max(values) - min(values) + 1


def _lengthened(families: Sequence[list[Path]]) -> list[Path] | None:
    """The one family whose names all the others add words to, or None."""
    names = [Counter(re.findall(r"[^\W_]+|#", _template(family[0]))) for family in families]
    shortest = min(names, key=Counter.total)
    if all(name > shortest for name in names if name is not shortest):
        return families[names.index(shortest)]
    return None


def _numbered(ordered: list[Path], remarks: tuple[str, ...]) -> FrameFiles:
    """A sequence by its numbers, with what they say besides the order."""
    columns = list(zip(*map(_numbers, ordered), strict=True))
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) > 1:
        counts = [
            column for column in varying if max(column) - min(column) + 1 == len(set(column)) == len(column)
        ]
        # 0.25 and 0.5 are in the other order as decimals.
        others = [*counts, [[float(one) for one in DECIMAL.findall(path.stem)] for path in ordered]]
        if any(list(other) != sorted(other) for other in others):
            names = f"{ordered[0].name}, {ordered[1].name}"
            return FrameFiles(reason=f"has two orders in its names ({names}); keep one number in them")
        span = f"from {ordered[0].name} to {ordered[-1].name}"
        remarks += (f"several numbers in its pictures' names: read in their order, {span}",)
    for column in varying if len(varying) == 1 else ():
        gaps = [(after - before, before) for before, after in pairwise(column)]
        step = Counter(gap for gap, _ in gaps).most_common(1)[0][0]
        jumps = [(before, gap // step - 1) for gap, before in gaps if gap > step and gap % step == 0]
        if jumps:
            missing = sum(count for _, count in jumps)
            remarks += (
                f"{missing} frames are missing by its pictures' numbers, the first after {jumps[0][0]}",
            )
        elif step > 1 and all(gap == step for gap, _ in gaps):
            remarks += (f"its pictures are numbered in steps of {step}",)
    return FrameFiles(tuple(ordered), remarks)


def _aside(frames: Sequence[Path], pictures: Sequence[Path]) -> tuple[str, ...]:
    """A remark that names the pictures that are no frames; none where there are none."""
    used = set(frames)
    others = [path for path in pictures if path not in used]
    return (f"pictures beside its frames are not read: {_named(others)}",) if others else ()


def _named(pictures: Sequence[Path]) -> str:
    """The first of each kind of name, and how many are like it."""
    groups = _by(lambda path: (_template(path), path.suffix.lower()), pictures)
    texts = [f"{group[0].name}{f' and {len(group) - 1} like it' * (len(group) > 1)}" for group in groups]
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return ", ".join(texts[:3]) + more
