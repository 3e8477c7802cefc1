"""DAVIS as it lies on disks: where its frames, annotations and lists of sequences are below a root.

The layouts are those of the archives of DAVIS-2016 and DAVIS-2017 and of codebases that nest them
(``hkchengrex/XMem:docs/GETTING_STARTED.md``: ``DAVIS/2017/trainval``, ``DAVIS/2017/test-dev``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datasets.errors import InputError
from datasets.media import images
from datasets.media.frame_files import NUMBER, FrameFiles, frame_files, junk

RESOLUTION = re.compile(r"\d{3,4}p|full[-_ ]?res(olution)?", re.IGNORECASE)
ANNOTATIONS = ("Annotations", "Annotations_unsupervised")


@dataclass(frozen=True)
class DavisFolder:
    """``base`` holds ``Annotations`` and ``ImageSets``; ``frames`` holds a folder for each sequence.

    ``remarks``: what is unlike ``JPEGImages/480p`` below the root, one line each.
    """

    base: Path
    frames: Path
    remarks: tuple[str, ...] = ()

    def sequences(self) -> list[str]:
        """Names of the sequences there are, in order."""
        return [folder.name for folder in _folders(self.frames)]

    def pictures(self, name: str) -> FrameFiles:
        """The frames of a sequence; none, with the reason, where they cannot be told."""
        folder = self.frames / name
        return frame_files(folder) if name and folder.is_dir() else FrameFiles(reason="is missing")

    def stated(self, splits: Sequence[str]) -> list[str] | None:
        """Sequences of the lists of splits in ``ImageSets``, in order of name; None without a list.

        A line is a sequence's name, or DAVIS-2016's paths of a frame and its mask.
        """
        sets = _entry(self.base, "ImageSets")
        if sets is None:
            return None
        # Of several years, 2017's lists hold the most.
        years = ("2017", "2016", self.frames.name, *(folder.name for folder in _folders(sets)))
        for folder in (*filter(None, (_entry(sets, year) for year in dict.fromkeys(years))), sets):
            lists = [_entry(folder, f"{split}.txt") for split in splits]
            if len(splits) > 1 and not any(lists):
                lists = [_entry(folder, "trainval.txt")]
            names = {name for path in lists if path is not None for name in _listed(path)}
            if names:
                return sorted(names)
        return None

    def annotations(self, frames: Sequence[Path]) -> tuple[dict[int, Path], tuple[str, ...]]:
        """The masks of a sequence's frames by their place, and remarks on them."""
        if not frames:
            return {}, ()
        beside: list[str] = []
        for place, folder in enumerate(self._annotation_folders(frames[0].parent.name)):
            masks = _masks(folder)
            found = {t: masks[_key(frame)] for t, frame in enumerate(frames) if _key(frame) in masks}
            if found:
                source = folder.parent.relative_to(self.base)
                remarks = (f"its masks are those of {source}",) if place else ()
                return found, remarks + _partial(found, len(frames))
            beside += sorted(path.name for path in masks.values())
        return {}, (f"none of its masks ({beside[0]}, ...) is of a frame used",) if beside else ()

    def _annotation_folders(self, name: str) -> Iterator[Path]:
        """Where a sequence's masks may be, the usual place first."""
        tops = [_entry(self.base, top) or self.base / top for top in ANNOTATIONS]
        yield tops[0] / self.frames.name / name
        for top in tops:
            yield top / self.frames.name / name
            yield top / name
            for folder in _folders(top):
                if RESOLUTION.fullmatch(folder.name):
                    yield folder / name


def find(root: Path, test: bool, known: Collection[str]) -> DavisFolder | None:
    """DAVIS at ``root`` or up to two folders below it; ``root`` may be ``JPEGImages`` or its ``480p`` too.

    Of several, the one whose path speaks of test is meant if ``test``, else one that does not.
    A folder that holds sequences of the ``known`` names is taken without its annotations.
    None where nothing is like DAVIS, or ``root`` holds annotations. InputError where
    several folders are, or several resolutions without 480p.
    """
    whole = root.absolute()
    if not whole.is_dir():
        return None
    if whole.parent.name.lower() == "jpegimages" and _folders(whole):
        return DavisFolder(whole.parent.parent, root)
    if whole.name.lower() == "jpegimages":
        return _at_resolution(whole.parent)
    base = _base(root, test)
    if base is not None:
        below = base.relative_to(root).as_posix()
        return _at_resolution(base, () if base == root else (f"read from {below} in dataset.root",))
    if _annotated(whole) is None and any(
        name in known for name in (folder.name for folder in _folders(root))
    ):
        return DavisFolder(root, root, ("read from a folder of sequences without JPEGImages",))
    return None


def contents(root: Path) -> str:
    """What is at ``root``, in a few words."""
    whole = root.absolute()
    if not root.exists():
        return "nothing is there"
    if not root.is_dir():
        return "it is a file; unpack an archive"
    if (base := _annotated(whole)) is not None:
        return f"it holds annotations; set dataset.root={base}"
    if frame_files(root).frames:
        kind = "" if "JPEGImages" in whole.parts else "dataset=folder "
        return f"it is one clip's folder; set {kind}dataset.root={whole.parent} dataset.names={whole.name}"
    names = sorted(path.name for path in root.iterdir() if not junk(path))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"it holds {', '.join(names[:4])}{more}" if names else "it is empty"


def _annotated(whole: Path) -> Path | None:
    """The folder above ``Annotations``, where ``whole`` is one or lies in one."""
    return next((one.parent for one in (whole, *whole.parents[:2]) if one.name in ANNOTATIONS), None)


def _base(root: Path, test: bool) -> Path | None:
    if _entry(root, "JPEGImages"):
        return root
    below = _folders(root)
    below += [folder for child in below for folder in _folders(child)]
    found = [folder for folder in below if (folder / "JPEGImages").is_dir()]
    if len(found) > 1:
        found = [one for one in found if ("test" in str(one.relative_to(root)).lower()) == test] or found
    if len(found) > 1:
        named = ", ".join(str(folder.relative_to(root)) for folder in found)
        raise InputError(f"dataset.root={root}: holds several DAVIS folders ({named}); name one of them")
    return found[0] if found else None


def _at_resolution(base: Path, remarks: tuple[str, ...] = ()) -> DavisFolder:
    """The folder of frames at 480p, else at the only resolution there is, else ``JPEGImages`` itself."""
    top = _entry(base, "JPEGImages") or base
    kinds = [folder for folder in _folders(top) if RESOLUTION.fullmatch(folder.name)]
    filled = [folder for folder in kinds if _folders(folder)] or kinds
    chosen = [folder for folder in filled if folder.name.lower() == "480p"] or filled
    if len(chosen) > 1:
        named = ", ".join(folder.name for folder in chosen)
        raise InputError(f"{top}: holds {named} and no 480p; set dataset.root to one of these folders")
    if not chosen:
        return DavisFolder(base, top, (*remarks, "read from JPEGImages itself, which has no 480p"))
    if chosen[0].name.lower() != "480p":
        remarks += (f"read at {chosen[0].name}, as there is no 480p",)
    return DavisFolder(base, chosen[0], remarks)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not junk(path) and path.is_dir())
    except OSError:
        return []


def _entry(folder: Path, name: str) -> Path | None:
    """The entry of this name, in upper or lower case."""
    if (folder / name).exists():
        return folder / name
    try:
        return next((path for path in folder.iterdir() if path.name.lower() == name.lower()), None)
    except OSError:
        return None


def _listed(path: Path) -> list[str]:
    """The sequences that a list names, in any encoding that editors write."""
    try:
        raw = path.read_bytes()
        # UTF-16 without a byte order mark has a zero byte beside each Latin letter.
        wide = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}.get(raw[:2])
        wide = wide or ("utf-16-le" if raw[1:2] == b"\0" else "utf-16-be" if raw[:1] == b"\0" else None)
        text = raw.decode(wide or "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it as UTF-8 text") from error
    words = [word for line in text.splitlines() for word in line.split("#")[0].replace(",", " ").split()]
    paths = [PurePosixPath(word.replace("\\", "/")) for word in words]
    named = [path.parent if path.suffix.lower() in images.picture_suffixes() else path for path in paths]
    return [one.name for one in named if one.name and not junk(Path(one.name))]


def _masks(folder: Path) -> dict[str, Path]:
    """Pictures of a folder of annotations by ``_key``; of several, the png with the shortest name."""
    if not folder.is_dir():
        return {}
    pictures = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in images.picture_suffixes() and not junk(path)
    ]
    pictures.sort(key=lambda path: (path.suffix.lower() == ".png", -len(path.stem), path.name))
    return {_key(path): path for path in pictures}


def _key(path: Path) -> str:
    """What a frame and its mask have in common: the only number in the name, or else the name."""
    numbers = NUMBER.findall(path.stem)
    return str(int(numbers[0])) if len(numbers) == 1 else path.stem


def _partial(found: Mapping[int, Path], frames: int) -> tuple[str, ...]:
    if len(found) == frames:
        return ()
    return (f"masks for {len(found)} of its {frames} frames used, from {found[min(found)].name} on",)
